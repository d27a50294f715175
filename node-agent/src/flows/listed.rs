//! The flows of a network namespace as `/proc/net/nf_conntrack` lists them.
//!
//! Less is said there than over netlink: not whether a flow was picked up under way, nor whether it is related to another one. But the
//! kernel walks the table without its locks, which is much faster. So it is asked first whether there is anything to do. A kernel may be built without it.

use std::net::{IpAddr, Ipv4Addr};

use ringfence_dataplane::{Family, Packet};
use ringfence_model::{Direction, Protocol};

use super::conntrack::Flow;
use crate::netfilter;

/// Of the thread's network namespace.
const LIST: &str = "/proc/thread-self/net/nf_conntrack";
/// Older kernels begin anew for every few dozen lines: with more flows than this netlink is faster.
const MOST: u32 = 1_000;

/// The flows of the calling thread's network namespace; `None` where they are not listed, or are too many, or a line is not understood.
/// Nor where fewer are listed than there are: where a list is read in parts, older kernels lose some when others go meanwhile.
pub fn flows() -> Option<Vec<Flow>> {
    let count = || netfilter::flows().ok();
    if count()? > MOST {
        return None;
    }
    let listed = std::fs::read_to_string(LIST).ok()?.lines().map(flow).collect::<Option<Vec<Flow>>>()?;
    (listed.len() >= usize::try_from(count()?).ok()?).then_some(listed)
}

/// A line, such as `ipv4 2 tcp 6 86 SYN_SENT src=… dst=… sport=… dport=… [UNREPLIED] src=… … mark=0 zone=0 use=2`: a packet
/// of each direction, first the one that began it.
fn flow(line: &str) -> Option<Flow> {
    let mut packet = Packet {
        direction: Direction::Inbound,
        protocol: Protocol(line.split_whitespace().nth(3)?.parse().ok()?),
        src: Ipv4Addr::UNSPECIFIED.into(),
        dst: Ipv4Addr::UNSPECIFIED.into(),
        sport: 0,
        dport: 0,
        icmp: None,
    };
    let (mut addresses, mut mark, mut icmp) = (0, None, [None; 2]);
    let address = |value: &str| value.parse::<IpAddr>().ok();
    for (key, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
        match key {
            "src" | "dst" => addresses += 1,
            "mark" => mark = Some(value.parse().ok()?),
            _ => {}
        }
        match key {
            // What answers it comes after both of its addresses.
            _ if addresses > 2 => {}
            "src" => packet.src = address(value)?,
            "dst" => packet.dst = address(value)?,
            "sport" => packet.sport = value.parse().ok()?,
            "dport" => packet.dport = value.parse().ok()?,
            "type" => icmp[0] = Some(value.parse().ok()?),
            "code" => icmp[1] = Some(value.parse().ok()?),
            _ => {}
        }
    }
    let is_icmp = packet.protocol == Family::of(packet.src).icmp();
    packet.icmp = match icmp {
        [Some(kind), Some(code)] if is_icmp => Some((kind, code)),
        _ if is_icmp => return None,
        _ => None,
    };
    // Without a mark nobody knows whether it was ended.
    (addresses == 4).then_some(())?;
    Some(Flow::of(packet).marked(mark?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Netns;

    fn packet(line: &str) -> Option<(u8, String, String, u16, u16, Option<(u8, u8)>, bool)> {
        let flow = flow(line)?;
        let Packet { protocol, src, dst, sport, dport, icmp, .. } = flow.packet;
        Some((protocol.0, src.to_string(), dst.to_string(), sport, dport, icmp, flow.is_ended()))
    }

    #[test]
    fn the_packet_that_began_a_flow_is_told_from_what_answers_it() {
        let tcp = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=80 packets=3 bytes=180 \
                   src=10.0.0.9 dst=10.0.0.1 sport=8080 dport=40000 packets=2 bytes=120 [ASSURED] mark=1073741824 zone=0 use=2";
        let began = ("10.0.0.1".to_owned(), "10.0.0.2".to_owned());
        assert_eq!(packet(tcp), Some((6, began.0.clone(), began.1.clone(), 40000, 80, None, true)));
        let icmp = "ipv6     10 icmpv6   58 29 src=fd00::1 dst=fd00::2 type=128 code=0 id=7 src=fd00::2 dst=fd00::1 type=129 \
                    code=0 id=7 mark=0 zone=0 use=2";
        assert_eq!(packet(icmp), Some((58, "fd00::1".into(), "fd00::2".into(), 0, 0, Some((128, 0)), false)));
        let other =
            "ipv4     2 unknown  47 599 src=10.0.0.1 dst=10.0.0.2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 mark=0 use=2";
        assert_eq!(packet(other), Some((47, began.0, began.1, 0, 0, None, false)));
    }

    #[test]
    fn what_is_not_understood_is_nothing_that_counts() {
        for line in [
            "",
            "ipv4 2 tcp",
            "ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 use=2",
            "ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 mark=0",
            "ipv4 2 udp 17 29 src=10.0.0.x dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 mark=0",
            "ipv4 2 icmp 1 29 src=10.0.0.1 dst=10.0.0.2 type=8 src=10.0.0.2 dst=10.0.0.1 mark=0",
        ] {
            assert_eq!(packet(line), None, "{line}");
        }
    }

    /// The same flows as over netlink, in the kernel that this runs on.
    #[test]
    fn the_list_says_what_netlink_says() {
        let Some(netns) = Netns::new("the_list_says_what_netlink_says") else { return };
        for program in ["iptables-nft", "ip6tables-nft"] {
            netns.exec(program, &["-t", "mangle", "-A", "PREROUTING", "-m", "conntrack", "--ctstate", "NEW"], "");
            netns.exec(program, &["-t", "mangle", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW"], "");
        }
        netns.within(|_| {
            let mut open = Vec::new();
            for address in ["127.0.0.1", "::1"] {
                let address: IpAddr = address.parse().expect("valid");
                let listener = std::net::TcpListener::bind((address, 8080)).expect("it is free");
                let client = std::net::TcpStream::connect((address, 8080)).expect("someone listens");
                let datagrams = std::net::UdpSocket::bind((address, 0)).expect("there is a port");
                datagrams.send_to(b"?", (address, 9)).expect("it is sent");
                open.push((listener, client, datagrams));
            }
            let told = |flows: Vec<Flow>| {
                let mut packets: Vec<Packet> = flows.into_iter().map(|flow| flow.packet).collect();
                packets.sort_unstable();
                packets
            };
            let mut known = Vec::new();
            let mut table = super::super::Conntrack::open().expect("the kernel has it");
            table.each(|flow| known.push(flow)).expect("they can be read");
            let known = told(known);
            assert!(known.len() >= 4, "{known:?}");
            match flows() {
                Some(listed) => assert_eq!(told(listed), known),
                None => println!("not run: this kernel lists no flows"),
            }
        });
    }
}
