//! DNS messages in packets, as the kernel hands them over: from the header of IP on.

use super::Malformed;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of the headers without options.
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const HEADER_TCP: usize = 20;
const HEADER_UDP: usize = 8;
/// Who asks several questions at once over TCP may get so many answers in one segment.
const MOST_MESSAGES: usize = 16;

/// The DNS messages in a packet. Over TCP a message counts that lies in one segment, which those do that fit into one; of
/// others, and of segments without any, there are none.
///
/// # Errors
/// When it is no packet of UDP or TCP, or is cut off.
pub fn messages(packet: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let (protocol, segment) = segment(packet).ok_or(Malformed)?;
    match protocol {
        UDP => {
            let length = usize::from(word(segment, 4).ok_or(Malformed)?);
            Ok(vec![segment.get(HEADER_UDP..length).ok_or(Malformed)?])
        }
        TCP => {
            let offset = usize::from(*segment.get(12).ok_or(Malformed)? >> 4) * 4;
            let stream = segment.get(offset..).filter(|_| offset >= HEADER_TCP).ok_or(Malformed)?;
            Ok(framed(stream).take(MOST_MESSAGES).collect())
        }
        _ => Err(Malformed),
    }
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

/// The messages of a stream that are whole, each behind its length.
fn framed(mut stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let message = stream.get(2..)?.get(..usize::from(word(stream, 0)?))?;
        stream = &stream[2 + message.len()..];
        Some(message)
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
