//! How messages of netfilter are laid out: linux/netlink.h and linux/netfilter/nfnetlink.h.

/// A `struct nlmsghdr`, and what every message of netfilter has behind it, a `struct nfgenmsg`.
const HEADER: usize = 16;
const GENERAL: usize = 4;
/// What is listed has changed under way.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Kinds of messages below are netlink's own.
const NLMSG_MIN_TYPE: u16 = 16;
/// The two highest bits of an attribute's kind say how it is written.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Subsystem and command, or one of netlink's own.
    pub kind: u16,
    /// Whether it belongs to a list that changed while it was made.
    pub interrupted: bool,
}

/// A message with these attributes, of no family in particular.
pub fn request(subsystem: u8, command: u8, flags: u16, attributes: &[u8]) -> Vec<u8> {
    // Questions are a few bytes.
    let length = u32::try_from(HEADER + GENERAL + attributes.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(u16::from_be_bytes([subsystem, command]).to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8 + GENERAL]);
    message.extend(attributes);
    message
}

/// An attribute, with the padding behind it.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // As above.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The messages of a datagram. Of those of netfilter, what follows the headers is their attributes.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        let [kind, flags] = [4, 6].map(|at| rest.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes));
        let header = Header { kind: kind?, interrupted: flags? & NLM_F_DUMP_INTR != 0 };
        let skipped = if header.kind < NLMSG_MIN_TYPE { HEADER } else { HEADER + GENERAL };
        let body = rest.get(skipped..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

/// The attributes in a message, or in another attribute: what they are, and their values.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [length, kind] = [0, 2].map(|at| rest.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes));
        let length = usize::from(length?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind? & NLA_TYPE_MASK, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn what_comes_in_is_read_as_far_as_it_is_whole() {
        #[rustfmt::skip]
        let datagram = [
            // A chain, of a list that changed: of two attributes the second is cut off.
            32, 0, 0, 0, 3, 10, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
            5, 0, 3, 0x80, b'x', 0, 0, 0, 8, 0, 1, 0,
            // The end of a list, with a code.
            20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            // Half a header.
            20, 0, 0, 0, 3, 0,
        ];
        let read: Vec<_> = messages(&datagram).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].0, Header { kind: 0x0a03, interrupted: true });
        assert_eq!(attributes(read[0].1).collect::<Vec<_>>(), [(3, b"x".as_slice())]);
        assert_eq!(read[1], (Header { kind: 3, interrupted: false }, [0; 4].as_slice()));
    }

    /// An attribute that says it is shorter than its own header must not be read for ever.
    #[test]
    fn an_attribute_without_a_length_ends_the_reading() {
        assert_eq!(attributes(&[0; 8]).count(), 0);
        assert_eq!(messages(&[0; 32]).count(), 0);
    }
}
