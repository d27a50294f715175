//! The messages of ipset's netlink protocol, as linux/netfilter/ipset/ip_set.h has them and libipset sends them.

use std::net::IpAddr;

use netlink_packet_core::{NLA_F_NESTED, NLA_F_NET_BYTEORDER, NLM_F_ACK, NLM_F_REQUEST};
use ringfence_dataplane::sets::{Member, SetDef, SetKind};
use ringfence_dataplane::{End, Family};

/// The subsystem of netfilter that sets are.
const SUBSYSTEM: u16 = 6;
/// The oldest version that has everything used here, so that every kernel takes it.
pub(super) const PROTOCOL: u8 = 6;

const CREATE: u16 = 2;
const DESTROY: u16 = 3;
const FLUSH: u16 = 4;
const ADD: u16 = 9;
const DEL: u16 = 10;

/// Attributes of a command.
pub(super) const ATTR_PROTOCOL: u16 = 1;
pub(super) const ATTR_SETNAME: u16 = 2;
pub(super) const ATTR_TYPENAME: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
pub(super) const ATTR_DATA: u16 = 7;
pub(super) const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;
/// Attributes of a member.
pub(super) const ATTR_IP: u16 = 1;
pub(super) const ATTR_CIDR: u16 = 3;
pub(super) const ATTR_PORT: u16 = 4;
pub(super) const ATTR_PROTO: u16 = 7;
/// Attributes of an address.
pub(super) const ATTR_IPADDR_IPV4: u16 = 1;
pub(super) const ATTR_IPADDR_IPV6: u16 = 2;
/// Attributes of a set that is created.
const ATTR_HASHSIZE: u16 = 18;
const ATTR_MAXELEM: u16 = 19;

/// Where the members of one message end: an attribute is at most 64 KiB, and one member takes less than 60 bytes.
const LARGEST: usize = 0xf000;
/// Room for what the largest IP lists need; memory is taken by members only.
const MAX_MEMBERS: u32 = 1 << 20;
/// Of the hash of a small set. A larger one begins with room for its members: growing means to file all of them anew.
const LEAST_HASH: u32 = 64;

/// A message without its number. Whatever it asks for that is so already is no error: that is said by leaving out
/// `NLM_F_EXCL`.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(command: u16, set: &str) -> Self {
        let mut message = Self { bytes: Vec::with_capacity(128) };
        // The length and the number are filled in when it is finished.
        message.bytes.extend([0; 4]);
        message.bytes.extend((SUBSYSTEM << 8 | command).to_ne_bytes());
        message.bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.bytes.extend([0; 8]);
        message.bytes.extend([inet(Family::V4), 0, 0, 0]);
        message.attribute(ATTR_PROTOCOL, &[PROTOCOL]);
        message.text(ATTR_SETNAME, set);
        message
    }

    /// With its number, by which the answer is known.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        // A message is some 64 KiB at most.
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested_in(kind, |message| message.bytes.extend(value));
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.nested_in(kind, |message| {
            message.bytes.extend(text.as_bytes());
            message.bytes.push(0);
        });
    }

    fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        self.nested_in(kind | NLA_F_NESTED, inner);
    }

    /// An attribute that holds what `inner` writes, with the padding behind it.
    fn nested_in(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        inner(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn address(&mut self, address: IpAddr) {
        self.nested(ATTR_IP, |message| match address {
            IpAddr::V4(v4) => message.attribute(ATTR_IPADDR_IPV4 | NLA_F_NET_BYTEORDER, &v4.octets()),
            IpAddr::V6(v6) => message.attribute(ATTR_IPADDR_IPV6 | NLA_F_NET_BYTEORDER, &v6.octets()),
        });
    }

    fn member(&mut self, member: &Member) {
        self.nested(ATTR_DATA, |message| match member {
            Member::Net(net) => {
                message.address(net.addr());
                message.attribute(ATTR_CIDR, &[net.prefix_len()]);
            }
            Member::End(End { address, protocol, port }) => {
                message.address(*address);
                message.attribute(ATTR_PORT | NLA_F_NET_BYTEORDER, &port.to_be_bytes());
                message.attribute(ATTR_PROTO, &[protocol.0]);
            }
        });
    }
}

/// Creates a set, if there is none of this name that is just so.
pub fn create(set: &SetDef) -> Message {
    let mut message = Message::new(CREATE, &set.name);
    message.text(ATTR_TYPENAME, set.kind().as_str());
    message.attribute(ATTR_REVISION, &[revision(set.kind())]);
    message.attribute(ATTR_FAMILY, &[inet(set.family)]);
    message.nested(ATTR_DATA, |message| {
        message.attribute(ATTR_HASHSIZE | NLA_F_NET_BYTEORDER, &hash_size(set.len()).to_be_bytes());
        message.attribute(ATTR_MAXELEM | NLA_F_NET_BYTEORDER, &MAX_MEMBERS.to_be_bytes());
    });
    message
}

/// Empties a set.
pub fn flush(set: &str) -> Message {
    Message::new(FLUSH, set)
}

/// Destroys a set.
pub fn destroy(set: &str) -> Message {
    Message::new(DESTROY, set)
}

/// Adds members, as many to a message as it holds.
pub fn additions<'a>(set: &'a str, members: &'a [Member]) -> impl Iterator<Item = Message> {
    batches(ADD, set, members)
}

/// Deletes members, as many to a message as it holds.
pub fn deletions<'a>(set: &'a str, members: &'a [Member]) -> impl Iterator<Item = Message> {
    batches(DEL, set, members)
}

fn batches<'a>(command: u16, set: &'a str, mut rest: &'a [Member]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let mut message = match rest {
            [] => return None,
            _ => Message::new(command, set),
        };
        // Together with many members the kernel asks for a line; without one of their own, members are not told apart.
        message.attribute(ATTR_LINENO, &0u32.to_ne_bytes());
        message.nested(ATTR_ADT, |message| {
            while let [member, others @ ..] = rest
                && message.bytes.len() < LARGEST
            {
                message.member(member);
                rest = others;
            }
        });
        Some(message)
    })
}

/// The one with everything that our sets use, which kernels have had since 4.x: `hash:ip,port` knows SCTP.
fn revision(kind: SetKind) -> u8 {
    match kind {
        SetKind::HashNet => 6,
        SetKind::HashIpPort => 5,
    }
}

fn inet(family: Family) -> u8 {
    let number = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    // They are 2 and 10.
    u8::try_from(number).unwrap_or_default()
}

/// A bucket holds several members.
fn hash_size(members: usize) -> u32 {
    let members = u32::try_from(members).unwrap_or(MAX_MEMBERS).min(MAX_MEMBERS);
    (members / 4).next_power_of_two().max(LEAST_HASH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out from the headers, for a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn members_are_written_as_the_headers_have_them() {
        let net = Member::Net("10.1.0.0/16".parse().expect("a prefix"));
        let address = "fd00::1".parse().expect("an address");
        let end = Member::End(End { address, protocol: ringfence_model::Protocol::SCTP, port: 0x1234 });
        let of_one = |batches: Vec<Message>| batches.into_iter().map(|message| message.finish(7)).next();
        #[rustfmt::skip]
        let add = [
            // Length, command 9 of subsystem 6, request with answer, number 7, of nobody; IPv4.
            76, 0, 0, 0, 9, 6, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
            // The version, the name, the line.
            5, 0, 1, 0, 6, 0, 0, 0,
            12, 0, 2, 0, b'R', b'F', b'4', b'-', b'0', b'-', b'1', 0,
            8, 0, 9, 0, 0, 0, 0, 0,
            // Members, the first, its address, the length of the prefix.
            28, 0, 8, 0x80, 24, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0x40, 10, 1, 0, 0,
            5, 0, 3, 0, 16, 0, 0, 0,
        ];
        assert_eq!(of_one(additions("RF4-0-1", &[net]).collect()), Some(add.to_vec()));
        #[rustfmt::skip]
        let delete = [
            96, 0, 0, 0, 10, 6, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
            5, 0, 1, 0, 6, 0, 0, 0,
            12, 0, 2, 0, b'R', b'F', b'6', b'-', b'0', b'-', b'1', 0,
            8, 0, 9, 0, 0, 0, 0, 0,
            // The address, the port, the protocol.
            48, 0, 8, 0x80, 44, 0, 7, 0x80, 24, 0, 1, 0x80, 20, 0, 2, 0x40,
            0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            6, 0, 4, 0x40, 0x12, 0x34, 0, 0, 5, 0, 7, 0, 132, 0, 0, 0,
        ];
        assert_eq!(of_one(deletions("RF6-0-1", &[end]).collect()), Some(delete.to_vec()));
    }

    #[test]
    fn members_that_one_message_cannot_hold_take_several() {
        let nets: Vec<Member> = (0..5000u32)
            .map(|number| Member::Net(ipnet::IpNet::from(IpAddr::from(std::net::Ipv4Addr::from(number)))))
            .collect();
        // 24 bytes each, and 48 before them.
        let lengths: Vec<usize> = additions("RF4-0-1", &nets).map(|message| message.finish(1).len()).collect();
        assert_eq!(lengths.len(), 2);
        assert_eq!(lengths.iter().sum::<usize>(), 5000 * 24 + 2 * 52);
        assert!(lengths.iter().all(|length| *length < 0x1_0000), "{lengths:?}");
        assert_eq!(additions("RF4-0-1", &[]).count(), 0);
    }
}
