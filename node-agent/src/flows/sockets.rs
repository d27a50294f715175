//! Closes local TCP sockets of flows that were ended (SOCK_DESTROY of NETLINK_SOCK_DIAG), so that programs notice at
//! once instead of after minutes of silence. Where the kernel cannot do it (`CONFIG_INET_DIAG_DESTROY`), the flow is
//! ended all the same.

use std::io::Error;
use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use ringfence_dataplane::Packet;

/// From linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// See [`SOCK_DIAG_BY_FAMILY`].
const SOCK_DESTROY: u16 = 21;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLM_F_ACK`: success is answered too.
const ACK: u16 = 4;
/// `INET_DIAG_NOCOOKIE`: whichever socket has these ends.
const ANY_COOKIE: [u8; 8] = [0xff; 8];
/// Every TCP state.
const ALL_STATES: u32 = 0xffff_ffff;
/// From net/tcp_states.h.
const TCP_LISTEN: u8 = 10;
/// `struct nlmsghdr` has 16 bytes, `struct inet_diag_req_v2` 56.
const MESSAGE_LENGTH: u32 = 72;
/// Where the ports and the cookie are in a message with `inet_diag_req_v2`, and in one with `inet_diag_msg`.
const REQUEST_PORTS: std::ops::Range<usize> = 24..28;
const REQUEST_COOKIE: std::ops::Range<usize> = 64..72;
const ANSWER_STATE: usize = 17;
const ANSWER_PORTS: std::ops::Range<usize> = 20..24;
const ANSWER_COOKIE: std::ops::Range<usize> = 60..68;

/// Closes the sockets of these flows that are local to the calling thread's network namespace.
pub fn close(flows: impl Iterator<Item = Packet>) {
    let mut flows = flows.peekable();
    if flows.peek().is_none() {
        return;
    }
    let result = open().and_then(|socket| {
        for flow in flows {
            // One end is local; which one is not known for what the Pod forwards.
            for reversed in [false, true] {
                close_one(&socket, request(flow, reversed))?;
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        tracing::debug!(%error, "failed to close the sockets of ended flows");
    }
}

fn open() -> Result<Socket, Error> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Looks the socket up and closes exactly that one. Without a connected socket of these ends the kernel finds one that
/// listens on the port, and would close it: whoever is found is looked at first.
fn close_one(socket: &Socket, mut request: Vec<u8>) -> Result<(), Error> {
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let Some(cookie) = cookie_of_connected(&request, &answer) else { return Ok(()) };
    request[REQUEST_COOKIE].copy_from_slice(&cookie);
    request[4..6].copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
    request[6..8].copy_from_slice(&(REQUEST | ACK).to_ne_bytes());
    socket.send(&request, 0)?;
    // It may have ended by itself in the meantime.
    socket.recv_from_full().map(drop)
}

/// The cookie of the socket that was found, if it is the one that was looked for.
fn cookie_of_connected(request: &[u8], answer: &[u8]) -> Option<[u8; 8]> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let found = kind == SOCK_DIAG_BY_FAMILY
        && *answer.get(ANSWER_STATE)? != TCP_LISTEN
        && answer.get(ANSWER_PORTS)? == request.get(REQUEST_PORTS)?;
    found.then(|| answer.get(ANSWER_COOKIE)?.try_into().ok()).flatten()
}

/// A netlink message with an `inet_diag_req_v2`: the socket whose own end is the source of the flow, or, `reversed`, its
/// destination.
fn request(flow: Packet, reversed: bool) -> Vec<u8> {
    let (own, own_port, peer, peer_port) = if reversed {
        (flow.dst, flow.dport, flow.src, flow.sport)
    } else {
        (flow.src, flow.sport, flow.dst, flow.dport)
    };
    let family = match own {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    let mut body = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(ALL_STATES.to_ne_bytes());
    body.extend(own_port.to_be_bytes());
    body.extend(peer_port.to_be_bytes());
    for address in [own, peer] {
        match address {
            IpAddr::V4(address) => body.extend(address.octets().into_iter().chain([0; 12])),
            IpAddr::V6(address) => body.extend(address.octets()),
        }
    }
    body.extend([0; 4]);
    body.extend(ANY_COOKIE);
    let mut message = MESSAGE_LENGTH.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_model::{Direction, Protocol};

    #[test]
    fn the_request_has_the_form_of_the_kernel() {
        let flow = Packet {
            direction: Direction::Outbound,
            protocol: Protocol::TCP,
            src: "10.0.0.1".parse().expect("valid"),
            dst: "10.0.0.2".parse().expect("valid"),
            sport: 0x1234,
            dport: 80,
            icmp: None,
        };
        let message = request(flow, false);
        assert_eq!(message.len(), 72);
        assert_eq!(message[24..28], [0x12, 0x34, 0, 80]);
        assert_eq!(message[28..32], [10, 0, 0, 1]);
        assert_eq!(message[44..48], [10, 0, 0, 2]);
        let reversed = request(flow, true);
        assert_eq!(reversed[24..28], [0, 80, 0x12, 0x34]);
    }

    /// A client and a server on loopback, in a network namespace of their own.
    #[test]
    fn a_connection_is_closed_and_who_listens_is_not() {
        use std::io::Write as _;
        if !nix::unistd::geteuid().is_root() {
            let _ = writeln!(std::io::stderr(), "a_connection_is_closed_and_who_listens_is_not: not run: needs root");
            return;
        }
        let inside = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
            assert!(up.success());
            // The last one listens over both families: what it accepts over IPv4 is a flow of IPv4.
            for (listens, loopback) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")] {
                let [listens, loopback] = [listens, loopback].map(|text| text.parse().expect("valid"));
                closes_the_connection_alone(listens, loopback);
            }
        };
        std::thread::spawn(inside).join().expect("no panic");
    }

    fn closes_the_connection_alone(listens: IpAddr, loopback: IpAddr) {
        use std::io::Write as _;
        let listener = std::net::TcpListener::bind((listens, 8080)).expect("free");
        let connect = || std::net::TcpStream::connect((loopback, 8080)).expect("someone listens");
        let mut client = connect();
        let _server = listener.accept().expect("accepted");
        let packet = |sport, dport| Packet {
            direction: Direction::Outbound,
            protocol: Protocol::TCP,
            src: loopback,
            dst: loopback,
            sport,
            dport,
            icmp: None,
        };
        // Nobody has these ends: by port 8080 the kernel finds the listener.
        close([packet(45000, 8080), packet(8080, 45000)].into_iter());
        client.write_all(b"x").expect("the connection lives");
        drop(connect());
        drop(listener.accept().expect("it still listens"));
        close(std::iter::once(packet(client.local_addr().expect("bound").port(), 8080)));
        assert!(client.write_all(b"x").is_err(), "the connection is closed");
        drop(connect());
    }
}
