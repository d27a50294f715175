//! Closes local TCP sockets of flows that were ended (SOCK_DESTROY of NETLINK_SOCK_DIAG), so that programs notice at
//! once instead of after minutes of silence. Where the kernel cannot do it (`CONFIG_INET_DIAG_DESTROY`), the flow is
//! ended all the same.

use std::io::Error;
use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use ringfence_dataplane::Packet;

/// From linux/sock_diag.h.
const SOCK_DESTROY: u16 = 21;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `INET_DIAG_NOCOOKIE`: whichever socket has these ends.
const ANY_COOKIE: [u8; 8] = [0xff; 8];
/// Every TCP state.
const ALL_STATES: u32 = 0xffff_ffff;

/// Closes the sockets of these flows that are local to the calling thread's network namespace.
pub fn close(flows: impl Iterator<Item = Packet>) {
    let mut flows = flows.peekable();
    if flows.peek().is_none() {
        return;
    }
    let result = open().and_then(|socket| {
        for flow in flows {
            // One end is local, which one is not known for what the Pod forwards: the other one finds nothing.
            for request in [request(flow, false), request(flow, true)].into_iter().flatten() {
                socket.send(&request, 0)?;
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
    // Refusals ("no such socket") are expected and never read: they must not block what is sent.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// A netlink message with an `inet_diag_req_v2`: the socket whose own end is the source of the flow, or, `reversed`, its
/// destination. `None` for IPv6, of which no flow is ended one by one.
fn request(flow: Packet, reversed: bool) -> Option<Vec<u8>> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (flow.src, flow.dst) else { return None };
    let (own, own_port, peer, peer_port) =
        if reversed { (dst, flow.dport, src, flow.sport) } else { (src, flow.sport, dst, flow.dport) };
    let mut body = vec![libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(ALL_STATES.to_ne_bytes());
    body.extend(own_port.to_be_bytes());
    body.extend(peer_port.to_be_bytes());
    for address in [own, peer] {
        body.extend(address.octets());
        body.extend([0; 12]);
    }
    body.extend([0; 4]);
    body.extend(ANY_COOKIE);
    let length = u32::try_from(16 + body.len()).ok()?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DESTROY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    Some(message)
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
        let message = request(flow, false).expect("IPv4");
        // struct nlmsghdr is 16 bytes, struct inet_diag_req_v2 56.
        assert_eq!(message.len(), 72);
        assert_eq!(message[24..28], [0x12, 0x34, 0, 80]);
        assert_eq!(message[28..32], [10, 0, 0, 1]);
        assert_eq!(message[44..48], [10, 0, 0, 2]);
        let reversed = request(flow, true).expect("IPv4");
        assert_eq!(reversed[24..28], [0, 80, 0x12, 0x34]);
    }
}
