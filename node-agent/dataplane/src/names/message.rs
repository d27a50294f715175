//! DNS messages in packets, as the kernel hands them over: from the header of IP on.

use super::Malformed;

const UDP: u8 = 17;
/// Bytes of the headers without options.
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const HEADER_UDP: usize = 8;

/// The DNS message in a packet of UDP.
///
/// # Errors
/// When it is no packet of UDP, or is cut off.
pub fn message(packet: &[u8]) -> Result<&[u8], Malformed> {
    let (protocol, segment) = segment(packet).ok_or(Malformed)?;
    let length = word(segment, 4).filter(|_| protocol == UDP).ok_or(Malformed)?;
    segment.get(HEADER_UDP..usize::from(length)).ok_or(Malformed)
}

/// What is in a packet of IP, and of which protocol. A fragment is not put together here: the kernel has done that.
fn segment(packet: &[u8]) -> Option<(u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let is_whole = word(packet, 6)? & 0x3fff == 0;
            let length = usize::from(word(packet, 2)?);
            let segment = packet.get(header..length).filter(|_| header >= HEADER_V4 && is_whole)?;
            Some((*packet.get(9)?, segment))
        }
        6 => {
            let length = usize::from(word(packet, 4)?);
            Some((*packet.get(6)?, packet.get(HEADER_V6..HEADER_V6 + length)?))
        }
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
