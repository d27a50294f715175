//! SCTP on a kernel that follows it in conntrack and has no sockets for it: both ends of an association over raw sockets, as
//! far as policy and translations see it (RFC 9260). A kernel that has SCTP tells either end that it knows no such
//! association (ABORT), and neither listens to that.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Shutdown, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crc::{CRC_32_ISCSI, Crc};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::probe::{PATIENCE, Seen, classify, inside};

/// Of the header of IP.
const NUMBER: i32 = 132;
/// CRC32c (RFC 9260, appendix A).
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Types of chunks (RFC 9260, section 3.2).
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
/// Flags of a [`DATA`] chunk with a whole message: the beginning and the end of one (section 3.3.1).
const WHOLE: u8 = 3;
/// Type of the parameter of an [`INIT_ACK`] that comes back in the [`COOKIE_ECHO`] (section 3.3.3.1).
const STATE_COOKIE: u16 = 7;
/// How much an end can take: no less than this (section 3.3.2).
const WINDOW: u32 = 1500;
/// What precedes the parameters of [`INIT`] and [`INIT_ACK`] (sections 3.3.2 and 3.3.3).
const FIXED: usize = 16;
/// The tag that every listener chooses. There is nobody whom it would have to be kept from.
const LISTENERS_TAG: u32 = 0x5246_0000;

/// A packet with one chunk (RFC 9260, section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    source: u16,
    destination: u16,
    /// Which its receiver has chosen; none in an [`INIT`].
    tag: u32,
    kind: u8,
    value: Vec<u8>,
}

impl Packet {
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let length = u16::try_from(4 + self.value.len()).map_err(io::Error::other)?;
        let flags = if self.kind == DATA { WHOLE } else { 0 };
        let ports = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        let head = [&ports[..], &self.tag.to_be_bytes(), &[0; 4]].concat();
        let mut bytes = [&head[..], &[self.kind, flags], &length.to_be_bytes(), &self.value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let sum = CHECKSUM.checksum(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&sum);
        Ok(bytes)
    }

    /// Nothing if it is damaged; of several chunks the first.
    fn read(bytes: &[u8]) -> Option<Self> {
        let sum = u32::from_le_bytes(at(bytes, 8)?);
        let summed = [bytes.get(..8)?, &[0; 4], bytes.get(12..)?].concat();
        let length = usize::from(u16::from_be_bytes(at(bytes, 14)?));
        let packet = Self {
            source: u16::from_be_bytes(at(bytes, 0)?),
            destination: u16::from_be_bytes(at(bytes, 2)?),
            tag: u32::from_be_bytes(at(bytes, 4)?),
            kind: *bytes.get(12)?,
            value: bytes.get(16..12 + length)?.to_vec(),
        };
        (CHECKSUM.checksum(&summed) == sum).then_some(packet)
    }
}

/// So many bytes from a place on.
fn at<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
    bytes.get(start..start + N)?.try_into().ok()
}

/// What [`INIT`] and [`INIT_ACK`] begin with: tag, window, a stream in each direction, and the number of the first
/// [`DATA`].
fn initiation(tag: u32) -> [u8; FIXED] {
    let mut value = [0; FIXED];
    value[..4].copy_from_slice(&tag.to_be_bytes());
    value[4..8].copy_from_slice(&WINDOW.to_be_bytes());
    value[8..12].copy_from_slice(&[0, 1, 0, 1]);
    value[12..].copy_from_slice(&tag.to_be_bytes());
    value
}

/// Tag and cookie of an [`INIT_ACK`], of which the cookie is the first parameter.
fn acknowledged(value: &[u8]) -> Option<(u32, Vec<u8>)> {
    let tag = u32::from_be_bytes(at(value, 0)?);
    let [parameter, length] = [at(value, FIXED)?, at(value, FIXED + 2)?].map(u16::from_be_bytes);
    let cookie = value.get(FIXED + 4..FIXED + usize::from(length))?.to_vec();
    (parameter == STATE_COOKIE).then_some((tag, cookie))
}

/// The standard library has no raw sockets, but a socket is a socket.
fn socket(v6: bool) -> io::Result<UdpSocket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Ok(Socket::new(domain, Type::RAW, Some(Protocol::from(NUMBER)))?.into())
}

/// The next packet of the network namespace, if it is one, and whose it is.
fn receive(socket: &UdpSocket) -> io::Result<(Option<Packet>, IpAddr)> {
    let mut bytes = [0; 2048];
    let (length, from) = socket.recv_from(&mut bytes)?;
    // The kernel gives the header of IPv4, and not that of IPv6.
    let start = if from.is_ipv4() { usize::from(bytes[0] & 15) * 4 } else { 0 };
    Ok((bytes.get(start..length).and_then(Packet::read), from.ip()))
}

/// Opens an association, and sends something over it that must be acknowledged.
///
/// # Errors
/// When it could not be tried at all.
pub fn associates(netns: &Path, target: SocketAddr) -> io::Result<Seen> {
    inside(netns, move || match Association::begin(target) {
        Ok(mut begun) => {
            let spoken = begun.establish().is_ok() && begun.speaks();
            Ok(if spoken { Seen::Open } else { Seen::TimedOut })
        }
        Err(error) => classify(&error).ok_or(error),
    })
}

/// The address that a [`Listener`] sees its client at.
///
/// # Errors
/// When there is no answer.
pub fn seen_as(netns: &Path, target: SocketAddr) -> io::Result<IpAddr> {
    let begun = inside(netns, move || Association::begin(target))?;
    let text = String::from_utf8_lossy(&begun.cookie).into_owned();
    text.parse().map_err(|_| io::Error::other(text))
}

/// A client's end of an association.
pub struct Association {
    socket: UdpSocket,
    /// Both ends' ports.
    ports: [u16; 2],
    /// What the other end has chosen.
    tag: u32,
    /// The number of the next [`DATA`].
    next: u32,
    /// What the other end has given to be shown to it.
    cookie: Vec<u8>,
}

impl Association {
    /// Opens one from inside a namespace, and leaves it idle.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(netns: &Path, target: SocketAddr) -> io::Result<Self> {
        inside(netns, move || {
            let mut begun = Self::begin(target)?;
            begun.establish()?;
            Ok(begun)
        })
    }

    /// The first half of the handshake, after which the other end keeps nothing yet (RFC 9260, section 5.1).
    fn begin(target: SocketAddr) -> io::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // A port for dynamic use (RFC 6335, section 6) that none of the associations before has had.
        let port = 0xc000 | NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = socket(target.is_ipv6())?;
        socket.connect(SocketAddr::new(target.ip(), 0))?;
        let own = u32::from(port);
        let mut begun = Self { socket, ports: [port, target.port()], tag: 0, next: own, cookie: Vec::new() };
        let answer = begun.ask(INIT, initiation(own).to_vec(), INIT_ACK)?;
        (begun.tag, begun.cookie) =
            acknowledged(&answer.value).ok_or_else(|| io::Error::other("an INIT ACK cannot be read"))?;
        Ok(begun)
    }

    /// The second half.
    fn establish(&mut self) -> io::Result<()> {
        self.ask(COOKIE_ECHO, self.cookie.clone(), COOKIE_ACK).map(drop)
    }

    /// Whether a message is acknowledged (RFC 9260, sections 3.3.1 and 3.3.4).
    pub fn speaks(&mut self) -> bool {
        let number = self.next.to_be_bytes();
        self.next = self.next.wrapping_add(1);
        // Its number, the first stream and the place in that, a protocol without a name, and a text.
        let value = [&number[..], &[0; 8], b"hostname"].concat();
        self.ask(DATA, value, SACK).is_ok_and(|answer| answer.value.starts_with(&number))
    }

    /// Whether the other end is there, as ends ask each other while nothing else is said (RFC 9260, sections 3.3.5 and 8.3).
    /// By it conntrack takes up an association that it has not seen begin.
    pub fn beats(&self) -> bool {
        // A parameter of whatever the sender likes to see again.
        let value = [0, 1, 0, 8, b'b', b'e', b'a', b't'];
        self.ask(HEARTBEAT, value.to_vec(), HEARTBEAT_ACK).is_ok_and(|answer| answer.value == value)
    }

    /// Sends a chunk and awaits the one that answers it.
    fn ask(&self, kind: u8, value: Vec<u8>, answer: u8) -> io::Result<Packet> {
        let [source, destination] = self.ports;
        self.socket.send(&Packet { source, destination, tag: self.tag, kind, value }.bytes()?)?;
        let begin = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            // Others of the namespace speak with the same machine.
            if let (Some(packet), _) = receive(&self.socket)?
                && (packet.source, packet.destination, packet.kind) == (destination, source, answer)
                && packet.tag == u32::from(source)
            {
                return Ok(packet);
            }
        }
    }
}

/// Listens on ports of a network namespace, over both families, until it is dropped.
pub struct Listener(Vec<(UdpSocket, JoinHandle<()>)>);

impl Listener {
    /// Listens inside a namespace.
    ///
    /// # Errors
    /// When it cannot.
    pub fn listen(netns: &Path, ports: &[u16]) -> io::Result<Self> {
        let mut listener = Self(Vec::new());
        for v6 in [false, true] {
            let socket = inside(netns, move || socket(v6))?;
            let (served, ports) = (socket.try_clone()?, ports.to_vec());
            listener.0.push((socket, thread::spawn(move || serve(&served, &ports))));
        }
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for (socket, worker) in self.0.drain(..) {
            // The kernel says that it is not connected, and wakes up who reads.
            let _ = SockRef::from(&socket).shutdown(Shutdown::Read);
            // It has nothing to say.
            let _ = worker.join();
        }
    }
}

/// Answers on these ports until nothing can be received any more.
fn serve(socket: &UdpSocket, ports: &[u16]) {
    // By address and port of the client, and the port that it has dialled: the tag that it has chosen.
    let mut clients = HashMap::new();
    while let Ok((packet, from)) = receive(socket) {
        let Some(packet) = packet.filter(|packet| ports.contains(&packet.destination)) else { continue };
        let client = (from, packet.source, packet.destination);
        if packet.kind == INIT
            && let Some(tag) = at(&packet.value, 0)
        {
            clients.insert(client, u32::from_be_bytes(tag));
        } else if packet.tag != LISTENERS_TAG {
            continue;
        }
        let Some(tag) = clients.get(&client).copied() else { continue };
        let Some((kind, value)) = answer(&packet, from) else { continue };
        let answer = Packet { source: packet.destination, destination: packet.source, tag, kind, value };
        // To lose an answer is what networks do, and what the client sees.
        let _ = answer.bytes().and_then(|bytes| socket.send_to(&bytes, SocketAddr::new(from, 0)));
    }
}

/// The chunk that answers another one; its client is told as whom it is seen by the cookie.
fn answer(packet: &Packet, from: IpAddr) -> Option<(u8, Vec<u8>)> {
    match packet.kind {
        INIT => {
            let cookie = from.to_string().into_bytes();
            let length = u16::try_from(4 + cookie.len()).ok()?;
            let head = [STATE_COOKIE.to_be_bytes(), length.to_be_bytes()].concat();
            Some((INIT_ACK, [&initiation(LISTENERS_TAG)[..], &head, &cookie].concat()))
        }
        COOKIE_ECHO => Some((COOKIE_ACK, Vec::new())),
        HEARTBEAT => Some((HEARTBEAT_ACK, packet.value.clone())),
        // The number of the last one that has come, and none that is missing or has come twice.
        DATA => Some((SACK, [packet.value.get(..4)?, &WINDOW.to_be_bytes(), &[0; 4]].concat())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_examples_in_rfc_3720() {
        // Appendix B.4.
        assert_eq!(CHECKSUM.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(CHECKSUM.checksum(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_packet_has_the_form_of_the_rfc_and_a_damaged_one_is_none() {
        let packet = Packet { source: 0xc001, destination: 8080, tag: 7, kind: COOKIE_ECHO, value: b"abc".to_vec() };
        let bytes = packet.bytes().expect("it is short");
        assert_eq!(bytes[..8], [0xc0, 0x01, 0x1f, 0x90, 0, 0, 0, 7]);
        // The length is without what fills up to four bytes.
        assert_eq!(bytes[12..], [10, 0, 0, 7, b'a', b'b', b'c', 0]);
        assert_eq!(Packet::read(&bytes), Some(packet));
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert_eq!(Packet::read(&damaged), None, "byte {index}");
        }
    }

    #[test]
    fn an_association_lasts_as_long_as_its_listener() {
        let own = Path::new("/proc/self/ns/net");
        if let Err(error) = socket(false) {
            println!("an_association_lasts_as_long_as_its_listener: not run: no raw socket: {error}");
            return;
        }
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().expect("valid");
            let listener = Listener::listen(own, &[8080]).expect("it may");
            let target = SocketAddr::new(address, 8080);
            assert_eq!(associates(own, target).expect("tried"), Seen::Open);
            assert_eq!(associates(own, SocketAddr::new(address, 8081)).expect("tried"), Seen::Dropped);
            assert_eq!(seen_as(own, target).expect("it answers"), address);
            let mut association = Association::open(own, target).expect("someone listens");
            assert!(association.speaks() && association.beats() && association.speaks());
            drop(listener);
            assert!(!association.speaks());
        }
    }
}
