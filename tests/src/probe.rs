//! Real connections, opened from inside a network namespace.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// How long a connection may stay without any answer before it counts as dropped. On one machine an answer takes well
/// under a millisecond; a second covers a busy one and is still before the kernel's first repeat of a SYN is judged.
pub const PATIENCE: Duration = Duration::from_millis(900);

/// What became of one connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seen {
    /// Connected, and the listener answered a request.
    Open,
    /// A reset or an ICMP error came back.
    Refused,
    /// Nothing came back: a packet was dropped on the way.
    Dropped,
    /// Connected, and then the listener did not answer.
    TimedOut,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::TimedOut => "timed out",
        })
    }
}

/// Runs `work` on a thread of its own inside a network namespace.
///
/// # Errors
/// When the namespace cannot be entered, or `work` fails.
pub fn inside<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let path = netns.to_owned();
    let worker = thread::spawn(move || {
        let namespace = std::fs::File::open(&path)?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        work()
    });
    worker.join().map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

/// Opens a TCP connection and asks a question (HTTP) over it.
///
/// # Errors
/// When the attempt could not be made at all: no namespace, no route.
pub fn tcp(netns: &Path, target: SocketAddr) -> io::Result<Seen> {
    inside(netns, move || tcp_here(target, PATIENCE))
}

fn tcp_here(target: SocketAddr, patience: Duration) -> io::Result<Seen> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    match socket.connect_timeout(&SockAddr::from(target), patience) {
        Ok(()) => {}
        Err(error) => return classify(&error).ok_or(error),
    }
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
    let mut answer = [0_u8; 16];
    match stream.read(&mut answer) {
        Ok(count) if count > 0 => Ok(Seen::Open),
        Ok(_) => Ok(Seen::TimedOut),
        Err(error) if is_timeout(&error) => Ok(Seen::TimedOut),
        Err(error) => classify(&error).ok_or(error),
    }
}

/// Sends a datagram that an agnhost `netexec` answers. UDP cannot tell a lost answer from a dropped question.
///
/// # Errors
/// As [`tcp`].
pub fn udp(netns: &Path, target: SocketAddr) -> io::Result<Seen> {
    inside(netns, move || {
        let socket = UdpSocket::bind(any_address(target))?;
        socket.connect(target)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let sent = match socket.send(b"hostname") {
            // What the sender's own OUTPUT drops and what it rejects are told in the same way; only the latter makes an
            // ICMP error as well.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(0),
            sent => sent,
        };
        match sent.and_then(|_| socket.recv(&mut [0_u8; 64])) {
            Ok(_) => Ok(Seen::Open),
            Err(error) if is_timeout(&error) => Ok(Seen::Dropped),
            Err(error) => classify(&error).ok_or(error),
        }
    })
}

/// What a socket is bound to that sends there.
pub(crate) fn any_address(target: SocketAddr) -> &'static str {
    if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}

pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

pub(crate) fn classify(error: &io::Error) -> Option<Seen> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Some(Seen::Refused),
        _ if is_timeout(error) => Some(Seen::Dropped),
        // A drop in the sender's own OUTPUT chain is told to the sender.
        io::ErrorKind::PermissionDenied => Some(Seen::Dropped),
        _ => None,
    }
}

/// One connection attempt under way.
struct Attempt {
    socket: Socket,
    started: Instant,
}

/// Tries a connection every `period` until one attempt succeeds (`until_open`) or one stays without an answer, and
/// returns when that attempt was started; nothing if `limit` passes first. Attempts overlap, so that a dropped one
/// costs no resolution.
///
/// # Errors
/// When attempts cannot be made.
pub fn watch_flip(
    netns: &Path,
    target: SocketAddr,
    until_open: bool,
    period: Duration,
    limit: Duration,
) -> io::Result<Option<Instant>> {
    inside(netns, move || {
        let begin = Instant::now();
        let mut pending: Vec<Attempt> = Vec::new();
        while begin.elapsed() < limit + PATIENCE {
            let started = Instant::now();
            if started.duration_since(begin) < limit {
                pending.push(Attempt { socket: start(target)?, started });
            }
            if let Some(found) = sweep(&mut pending, until_open)? {
                return Ok(Some(found));
            }
            if pending.is_empty() && begin.elapsed() >= limit {
                break;
            }
            thread::sleep(period.saturating_sub(started.elapsed()));
        }
        Ok(None)
    })
}

fn start(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&SockAddr::from(target)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) if classify(&error).is_some() => {}
        Err(error) => return Err(error),
    }
    Ok(socket)
}

/// Looks at every attempt once; the start of the first (oldest) one that shows the awaited state.
fn sweep(pending: &mut Vec<Attempt>, until_open: bool) -> io::Result<Option<Instant>> {
    let mut keep = Vec::with_capacity(pending.len());
    let mut found: Option<Instant> = None;
    for attempt in pending.drain(..) {
        let connected = attempt.socket.peer_addr().is_ok();
        let failed = attempt.socket.take_error()?.is_some();
        // Long enough that a slow answer is not taken for none, short enough to see a later success as another attempt.
        let silent = attempt.started.elapsed() > Duration::from_millis(400);
        let hit = if until_open { connected } else { failed || (silent && !connected) };
        if hit {
            found = Some(found.map_or(attempt.started, |earlier| earlier.min(attempt.started)));
        } else if !connected && !failed && !silent {
            keep.push(attempt);
        }
    }
    *pending = keep;
    Ok(found)
}

/// A TCP connection that is kept open, to see whether policy ends it.
pub struct LongFlow {
    stream: std::net::TcpStream,
}

impl LongFlow {
    /// Opens a connection from inside a namespace and leaves it idle.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(netns: &Path, target: SocketAddr) -> io::Result<Self> {
        let stream = inside(netns, move || {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
            socket.connect_timeout(&SockAddr::from(target), PATIENCE)?;
            Ok(std::net::TcpStream::from(socket))
        })?;
        Ok(Self { stream })
    }

    /// Whether the other end answers a request over it; the connection stays open for the next one.
    pub fn speaks(&mut self) -> bool {
        self.exchange().is_ok()
    }

    fn exchange(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: long-flow\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut part = [0_u8; 512];
        while !is_whole(&answer) {
            match self.stream.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend_from_slice(&part[..count]),
            }
        }
        Ok(())
    }

    /// Whether the other end still answers a request over it. Uses the connection up when it does: the listener
    /// closes it after the answer.
    pub fn answers(mut self) -> bool {
        let asked = self
            .stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| self.stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n"));
        asked.is_ok() && matches!(self.stream.read(&mut [0_u8; 16]), Ok(count) if count > 0)
    }
}

/// A UDP flow that is kept, to see whether policy ends it.
pub struct LongDatagrams {
    socket: UdpSocket,
}

impl LongDatagrams {
    /// A socket inside a namespace, connected to an agnhost `netexec`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(netns: &Path, target: SocketAddr) -> io::Result<Self> {
        let socket = inside(netns, move || {
            let socket = UdpSocket::bind(any_address(target))?;
            socket.connect(target)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Whether a datagram is answered.
    pub fn speaks(&self) -> bool {
        self.socket.send(b"hostname").and_then(|_| self.socket.recv(&mut [0_u8; 64])).is_ok()
    }
}

/// A server that sends by itself, over TCP and UDP, to whoever has said something once.
pub struct PushServer {
    listener: TcpListener,
    socket: UdpSocket,
}

impl PushServer {
    /// Listens inside a namespace.
    ///
    /// # Errors
    /// When it cannot.
    pub fn listen(netns: &Path, port: u16) -> io::Result<Self> {
        inside(netns, move || {
            // For both families.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
            // For whom it accepts as well.
            SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(Self { listener, socket })
        })
    }

    /// A client inside a namespace that says one thing, over TCP and over UDP, and only listens from then on; `target`
    /// is where it finds this server.
    ///
    /// # Errors
    /// When the one thing does not arrive.
    pub fn serve(&self, client: &Path, target: SocketAddr) -> io::Result<Pushed> {
        let (mut stream, datagrams) =
            (LongFlow::open(client, target)?.stream, LongDatagrams::open(client, target)?.socket);
        let (mut to, _) = self.listener.accept()?;
        for end in [&stream, &to] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        stream.write_all(b"?")?;
        to.read_exact(&mut [0])?;
        datagrams.send(b"?")?;
        let (_, peer) = self.socket.recv_from(&mut [0])?;
        Ok(Pushed { to, stream, socket: self.socket.try_clone()?, peer, datagrams, sent: 0 })
    }
}

/// What a [`PushServer`] and one of its clients have between them.
pub struct Pushed {
    /// The server's end, and the client's.
    to: TcpStream,
    stream: TcpStream,
    /// The server's socket, where it sends to, and the client's.
    socket: UdpSocket,
    peer: SocketAddr,
    datagrams: UdpSocket,
    sent: u8,
}

impl Pushed {
    /// Whether what the server sends now arrives, over TCP and over UDP.
    pub fn arrives(&mut self) -> [bool; 2] {
        self.sent = self.sent.wrapping_add(1);
        let message = [self.sent];
        let (mut over_tcp, mut over_udp) = ([0], [0]);
        let tcp = self.to.write_all(&message).and_then(|()| self.stream.read_exact(&mut over_tcp));
        let udp = self.socket.send_to(&message, self.peer).and_then(|_| self.datagrams.recv(&mut over_udp));
        [tcp.is_ok() && over_tcp == message, udp.is_ok() && over_udp == message]
    }
}

/// Asks a DNS server over UDP for the address (A) of a name; whether any answer came.
///
/// # Errors
/// When the question could not be asked at all.
pub fn resolves(netns: &Path, server: SocketAddr, name: &str) -> io::Result<bool> {
    // Header: id 7, recursion desired, one question (RFC 1035, 4.1).
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).map_err(io::Error::other)?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    inside(netns, move || {
        let socket = UdpSocket::bind(any_address(server))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut answer = [0_u8; 512];
        match socket.send(&question).and_then(|_| socket.recv(&mut answer)) {
            // The same id, and at least one record in the answer.
            Ok(length) => Ok(length > 12 && answer[..2] == [0, 7] && answer[6..8] != [0, 0]),
            Err(error) if classify(&error).is_some() => Ok(false),
            Err(error) => Err(error),
        }
    })
}

/// Whether an HTTP answer has come with all of its body, so that none of it is taken for the next answer.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    length.is_some_and(|length| body.len() >= length)
}

/// A namespace and an address to try from it.
#[derive(Debug, Clone)]
pub struct Try {
    /// Network namespace of the client.
    pub netns: PathBuf,
    /// Where to.
    pub target: SocketAddr,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// Makes all attempts at the same time.
pub fn all(tries: &[Try]) -> Vec<io::Result<Seen>> {
    let workers: Vec<_> = tries
        .iter()
        .cloned()
        .map(|attempt| {
            thread::spawn(move || {
                if attempt.udp { udp(&attempt.netns, attempt.target) } else { tcp(&attempt.netns, attempt.target) }
            })
        })
        .collect();
    workers
        .into_iter()
        .map(|worker| worker.join().unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn own() -> PathBuf {
        PathBuf::from("/proc/self/ns/net")
    }

    #[test]
    fn a_live_listener_is_open_and_a_closed_port_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let open = listener.local_addr().expect("bound");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            assert!(stream.read(&mut [0_u8; 64]).expect("a question") > 0);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").expect("an answer");
        });
        assert_eq!(tcp_here(open, PATIENCE).expect("tried"), Seen::Open);
        let closed = {
            let gone = TcpListener::bind("127.0.0.1:0").expect("loopback");
            gone.local_addr().expect("bound")
        };
        assert_eq!(tcp_here(closed, PATIENCE).expect("tried"), Seen::Refused);
        assert!(own().exists());
    }

    #[test]
    fn an_answer_is_whole_with_its_body() {
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Le"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nweb"));
        assert!(is_whole(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nweb1"));
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nof unknown length"));
    }

    #[test]
    fn a_silent_listener_is_told_apart_from_a_drop() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        assert_eq!(tcp_here(address, Duration::from_millis(50)).expect("tried"), Seen::TimedOut);
    }
}
