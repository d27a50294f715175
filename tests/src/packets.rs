//! Packets that are no plain connection, sent from inside a network namespace: echo requests, fragments, extension
//! headers, a transfer that needs path MTU discovery, questions to a DNS server.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::probe::{PATIENCE, Seen, any_address, classify, inside, is_timeout};

/// More than three frames of an Ethernet.
const LARGE: usize = 4000;
/// Many full segments, and less than an HTTP server takes as a header.
const TRANSFER: usize = 30_000;

/// An extension header of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// Options that every router looks at.
    HopByHop,
    /// Options for the destination.
    Destination,
}

/// Sends an echo request; `Open` when its answer came.
///
/// # Errors
/// When it could not be tried at all.
pub fn echo(netns: &Path, target: IpAddr) -> io::Result<Seen> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    inside(netns, move || {
        // The kernel fills in the checksum of ICMPv6, and gives answers without the header of IPv6.
        let (domain, protocol, request, reply) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        let mut message = [request, 0, 0, 0, 0x52, 0x46, number[0], number[1]];
        if target.is_ipv4() {
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
        }
        let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.connect(&SockAddr::from(SocketAddr::new(target, 0)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let begin = Instant::now();
        let mut answer = [0_u8; 256];
        let mut outcome = socket.send(&message).map(|_| 0);
        while begin.elapsed() < PATIENCE {
            outcome = outcome.and_then(|_| socket.read(&mut answer));
            let Ok(length) = outcome else { break };
            let start = if target.is_ipv4() { usize::from(answer[0] & 15) * 4 } else { 0 };
            let part = answer.get(start..length).unwrap_or_default();
            if part.first() == Some(&reply) && part.get(4..8) == Some(&message[4..8]) {
                return Ok(Seen::Open);
            }
        }
        outcome.map_or_else(|error| classify(&error).ok_or(error), |_| Ok(Seen::Dropped))
    })
}

/// Sends a datagram that does not fit into one packet to an agnhost `netexec`, whose answer does not either.
///
/// # Errors
/// When it could not be tried at all.
pub fn large(netns: &Path, target: SocketAddr) -> io::Result<Seen> {
    let question = [b"echo ".to_vec(), vec![b'a'; LARGE - 5]].concat();
    inside(netns, move || {
        let socket = UdpSocket::bind(any_address(target))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        seen(socket.send(&question).and_then(|_| socket.recv(&mut [0_u8; LARGE])))
    })
}

/// Sends a datagram with an extension header to an agnhost `netexec`, in one packet that is made here; the answer has none.
///
/// # Errors
/// When it could not be tried at all.
pub fn extended(netns: &Path, target: SocketAddr, extension: Extension) -> io::Result<Seen> {
    inside(netns, move || {
        let socket = UdpSocket::bind(any_address(target))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (SocketAddr::V6(source), SocketAddr::V6(target)) = (socket.local_addr()?, target) else {
            return Err(io::Error::other("only IPv6 has extension headers"));
        };
        let packet = extended_packet(source, target, extension)?;
        let raw = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(255)))?;
        let to = SockAddr::from(SocketAddrV6::new(*target.ip(), 0, 0, 0));
        seen(raw.send_to(&packet, &to).and_then(|_| socket.recv(&mut [0_u8; 64])))
    })
}

fn extended_packet(source: SocketAddrV6, target: SocketAddrV6, extension: Extension) -> io::Result<Vec<u8>> {
    let datagram = datagram(source, target, b"hostname")?;
    // Eight bytes, of which the last six are an option that only pads (RFC 8200, 4.2).
    let header = [17, 0, 1, 4, 0, 0, 0, 0];
    let [high, low] = u16::try_from(header.len() + datagram.len()).map_err(io::Error::other)?.to_be_bytes();
    let kind = match extension {
        Extension::HopByHop => 0,
        Extension::Destination => 60,
    };
    let first = [0x60, 0, 0, 0, high, low, kind, 64];
    Ok([&first[..], &source.ip().octets(), &target.ip().octets(), &header, &datagram].concat())
}

/// A UDP datagram with its checksum.
fn datagram(source: SocketAddrV6, target: SocketAddrV6, text: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(8 + text.len()).map_err(io::Error::other)?;
    let ports = [source.port().to_be_bytes(), target.port().to_be_bytes()].concat();
    let mut bytes = [&ports[..], &length.to_be_bytes(), &[0, 0], text].concat();
    let pseudo = |address: &Ipv6Addr| address.octets();
    let summed = [&pseudo(source.ip())[..], &pseudo(target.ip()), &length.to_be_bytes(), &[0, 17], &bytes].concat();
    // No checksum at all is written as zero, so a checksum that comes to zero is written otherwise (RFC 768).
    let sum = match checksum(&summed) {
        0 => u16::MAX,
        sum => sum,
    };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok(bytes)
}

/// The checksum of the internet protocols (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

/// Sends a long question to an agnhost `netexec` that comes back as its answer: full segments in both directions.
///
/// # Errors
/// When it could not be tried at all.
pub fn transfer(netns: &Path, target: SocketAddr) -> io::Result<Seen> {
    let path = format!("/echo?msg={}", "a".repeat(TRANSFER));
    inside(netns, move || match get(target, &path) {
        Ok(answer) if answer.len() >= TRANSFER => Ok(Seen::Open),
        Ok(_) => Ok(Seen::TimedOut),
        Err(error) => classify(&error).ok_or(error),
    })
}

/// The address that an agnhost `netexec` sees its client at.
///
/// # Errors
/// When there is no answer.
pub fn seen_as(netns: &Path, target: SocketAddr) -> io::Result<IpAddr> {
    let answer = inside(netns, move || get(target, "/clientip"))?;
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    body.trim().parse::<SocketAddr>().map(|address| address.ip()).map_err(|_| io::Error::other(body.to_owned()))
}

/// The same over UDP.
///
/// # Errors
/// When there is no answer.
pub fn seen_as_by_udp(netns: &Path, target: SocketAddr) -> io::Result<IpAddr> {
    let answer = inside(netns, move || {
        let socket = UdpSocket::bind(any_address(target))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"clientip")?;
        let mut answer = [0; 128];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    })?;
    answer.trim().parse::<SocketAddr>().map(|address| address.ip()).map_err(|_| io::Error::other(answer))
}

fn get(target: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn seen(answered: io::Result<usize>) -> io::Result<Seen> {
    match answered {
        Ok(_) => Ok(Seen::Open),
        Err(error) if is_timeout(&error) => Ok(Seen::Dropped),
        Err(error) => classify(&error).ok_or(error),
    }
}

/// Asks a DNS server for the addresses of a name, of one family, over UDP or TCP.
///
/// # Errors
/// When no answer comes.
pub fn addresses_of(netns: &Path, server: SocketAddr, tcp: bool, name: &str, v6: bool) -> io::Result<Vec<IpAddr>> {
    let question = question(name, v6)?;
    let answer = inside(netns, move || {
        if tcp {
            let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let length = u16::try_from(question.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &question].concat())?;
            let mut length = [0_u8; 2];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0_u8; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer)?;
            return Ok(answer);
        }
        let socket = UdpSocket::bind(any_address(server))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut answer = vec![0_u8; 1232];
        let length = socket.send(&question).and_then(|_| socket.recv(&mut answer))?;
        answer.truncate(length);
        Ok(answer)
    })?;
    answered(&answer).ok_or_else(|| io::Error::other("the DNS server's answer cannot be read"))
}

/// Whether a DNS server answers with an address of a name.
///
/// # Errors
/// When it could not be tried at all.
pub fn resolves(netns: &Path, server: SocketAddr, tcp: bool, name: &str) -> io::Result<Seen> {
    match addresses_of(netns, server, tcp, name, false) {
        Ok(found) if found.is_empty() => Ok(Seen::TimedOut),
        Ok(_) => Ok(Seen::Open),
        Err(error) => classify(&error).ok_or(error),
    }
}

/// One question, with recursion desired (RFC 1035, 4.1).
///
/// # Errors
/// When a label is too long.
pub fn question(name: &str, v6: bool) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).map_err(io::Error::other)?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, if v6 { 28 } else { 1 }, 0, 1]);
    Ok(bytes)
}

/// The addresses in an answer; nothing if it is none.
fn answered(bytes: &[u8]) -> Option<Vec<IpAddr>> {
    let count = u16::from_be_bytes([*bytes.get(6)?, *bytes.get(7)?]);
    let mut at = after_name(bytes, 12)? + 4;
    let mut found = Vec::new();
    for _ in 0..count {
        at = after_name(bytes, at)?;
        let length = usize::from(u16::from_be_bytes([*bytes.get(at + 8)?, *bytes.get(at + 9)?]));
        let data = bytes.get(at + 10..at + 10 + length)?;
        match length {
            4 => found.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            16 if bytes.get(at + 1) == Some(&28) => found.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => {}
        }
        at += 10 + length;
    }
    Some(found)
}

/// Where a name ends: behind its root, or behind a reference to another name.
fn after_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_example_in_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn addresses_are_found_behind_an_alias() {
        let mut answer = vec![0, 7, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        // An alias of two bytes, and the address of what it means.
        answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 2, 0xc0, 12]);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        assert_eq!(answered(&answer), Some(vec![IpAddr::from([10, 0, 0, 1])]));
        assert_eq!(answered(&answer[..30]), None);
    }
}
