//! Whether the apiserver answers, and other nodes on the Pod network: always with new connections, since those that exist pass
//! whatever the rules. All of it is done in the network namespace that the calling thread is in.

use std::io::Error;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

/// For so long one try may take.
const TRY: Duration = Duration::from_millis(1000);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Where the agent finds the apiserver: a name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apiserver {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Apiserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl std::str::FromStr for Apiserver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("write HOST:PORT")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: port.parse().map_err(|error| format!("port '{port}': {error}"))? })
    }
}

impl Apiserver {
    /// Its addresses.
    pub fn ends(&self) -> Vec<SocketAddr> {
        (self.host.as_str(), self.port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        self.ends().iter().any(|end| TcpStream::connect_timeout(end, TRY).is_ok())
    }
}

/// Who answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The apiserver.
    pub apiserver: bool,
    /// Other nodes.
    pub witnesses: Vec<IpAddr>,
}

/// Asks everybody once.
pub fn probe(apiserver: Option<&Apiserver>, witnesses: &[IpAddr]) -> Answered {
    std::thread::scope(|scope| {
        let asked = apiserver.map(|apiserver| scope.spawn(|| apiserver.answers()));
        let witnesses = answering(witnesses);
        Answered { apiserver: asked.is_some_and(|asked| asked.join().unwrap_or_default()), witnesses }
    })
}

/// Whether everybody that answered answers again within this time; else who does not, for people.
pub fn still_answers(apiserver: Option<&Apiserver>, answered: &Answered, within: Duration) -> Result<(), String> {
    let until = Instant::now() + within;
    let mut left = answered.clone();
    loop {
        let now = probe(apiserver.filter(|_| left.apiserver), &left.witnesses);
        left.apiserver &= !now.apiserver && apiserver.is_some();
        left.witnesses.retain(|address| !now.witnesses.contains(address));
        if !left.apiserver && left.witnesses.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(lost(apiserver.filter(|_| left.apiserver), &left.witnesses));
        }
        std::thread::sleep(PAUSE);
    }
}

fn lost(apiserver: Option<&Apiserver>, witnesses: &[IpAddr]) -> String {
    let apiserver = apiserver.map(|apiserver| format!("the apiserver at {apiserver} did not answer any more"));
    let names = || witnesses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let nodes = (!witnesses.is_empty())
        .then(|| format!("other nodes did not answer any more on the Pod network ({})", names()));
    apiserver.into_iter().chain(nodes).collect::<Vec<_>>().join(" and ")
}

/// Those that answer a ping. (Threads are in the network namespace of the one that starts them.)
fn answering(addresses: &[IpAddr]) -> Vec<IpAddr> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = addresses.iter().map(|address| (address, scope.spawn(|| ping(*address)))).collect();
        let answered = asked.into_iter().filter_map(|(address, asked)| match asked.join() {
            Ok(Ok(true)) => Some(*address),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "no ping");
                None
            }
            _ => None,
        });
        answered.collect()
    })
}

/// Sends one echo request, under an identifier that conntrack has not seen lately, and waits for its reply.
fn ping(address: IpAddr) -> Result<bool, Error> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    let id = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(257));
    let (family, protocol, kind, reply) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let socket: OwnedFd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0)))?;
    send(socket.as_raw_fd(), &request(kind, id), MsgFlags::empty())?;
    let until = Instant::now() + TRY;
    let mut buffer = [0_u8; 256];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX).max(1);
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::microseconds(micros))?;
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if is_reply(address, &buffer[..length], reply, id) {
            return Ok(true);
        }
    }
}

/// An echo request. Of ICMPv6 the kernel makes the checksum.
fn request(kind: u8, id: u16) -> [u8; 16] {
    let mut packet = [0_u8; 16];
    packet[0] = kind;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[7] = 1;
    packet[8..].copy_from_slice(b"ringfenc");
    let words = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or_default();
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Whether what was received answers the request. Of IPv4 it comes with its header.
fn is_reply(address: IpAddr, received: &[u8], kind: u8, id: u16) -> bool {
    let header = match address {
        IpAddr::V4(_) => received.first().map_or(0, |first| usize::from(first & 0xf) * 4),
        IpAddr::V6(_) => 0,
    };
    let Some(message) = received.get(header..) else { return false };
    message.first() == Some(&kind) && message.get(4..6) == Some(&id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_makes_the_sum_of_all_words_all_ones() {
        let packet = request(8, 0xbeef);
        let sum: u32 = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn an_apiserver_is_a_host_and_a_port() {
        let end = |text: &str| text.parse::<Apiserver>().map(|end| (end.host, end.port));
        assert_eq!(end("10.96.0.1:443"), Ok(("10.96.0.1".to_owned(), 443)));
        assert_eq!(end("[fd00::1]:6443"), Ok(("fd00::1".to_owned(), 6443)));
        assert!(end("api").is_err() && end("api:x").is_err());
    }
}
