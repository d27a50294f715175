//! A connection table that is really full: what is established goes on, and nothing begins, whatever the rules say. Needs root.

use std::io::{Error, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as Transport, Status, Tuple,
};
use ringfence_dataplane::{Enforcement, Entry, HostSet, Match, NetnsPolicy};
use ringfence_model::{PortMatch, Protocol, Services};

use super::conntrack::Conntrack;
use super::usage;
use crate::apply::{Known, Terms, Wanted, apply};
use crate::lab::Netns;
use crate::tools::Backend;

const POD: &str = "10.9.1.1";
const PEER: &str = "10.9.1.2";
const OPEN: u16 = 80;
const CLOSED: u16 = 81;
/// Above that filling a table takes too long, and too much of the kernel's memory.
const MOST: u32 = 300_000;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Makes flows of datagrams that both sides have spoken in, until the kernel has no room: such flows make none.
fn fill(most: u32) -> u32 {
    let table = Conntrack::open().expect("the kernel has it");
    (0..most + 16).find(|number| table.create(flow(*number)).is_err()).expect("it is full at last")
}

fn flow(number: u32) -> ConntrackMessage {
    let [first, second] = [Ipv4Addr::from(0x0b00_0000 + number), Ipv4Addr::new(10, 9, 2, 1)].map(IpAddr::from);
    let tuple = |src, dst| {
        let addresses = vec![IPTuple::SourceAddress(src), IPTuple::DestinationAddress(dst)];
        let ports = [ProtoTuple::SourcePort(1000), ProtoTuple::DestinationPort(1000)];
        let transport = [ProtoTuple::Protocol(Transport::Udp)].into_iter().chain(ports).collect();
        vec![Tuple::Ip(addresses), Tuple::Proto(transport)]
    };
    ConntrackMessage::New(vec![
        ConntrackAttribute::CtaTupleOrig(tuple(first, second)),
        ConntrackAttribute::CtaTupleReply(tuple(second, first)),
        ConntrackAttribute::CtaTimeout(600),
        ConntrackAttribute::CtaStatus(Status::SeenReply | Status::Assured | Status::Confirmed),
    ])
}

/// Full; anyone may reach one port.
fn policy() -> NetnsPolicy {
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    let services = Services::Only(PortMatch::single(Protocol::TCP, OPEN).into_iter().collect());
    let matching = Match::Hosts { peers: HostSet::anyone(), services };
    policy.inbound.allow.push(Entry { matching, reject: false, rule: "shop/web".to_owned() });
    policy
}

#[test]
fn in_a_full_table_nothing_begins_and_what_is_established_goes_on() {
    let test = "in_a_full_table_nothing_begins_and_what_is_established_goes_on";
    let (Some(pod), Some(peer)) = (Netns::new(test), Netns::new(test)) else { return };
    let ip = |netns: &Netns, text: &str| netns.exec("ip", &text.split(' ').collect::<Vec<_>>(), "");
    ip(&pod, &format!("link add eth0 type veth peer name eth0 netns {}", peer.name()));
    for (netns, own) in [(&pod, POD), (&peer, PEER)] {
        ip(netns, &format!("address add {own}/24 dev eth0"));
        ip(netns, "link set eth0 up");
    }
    let listeners = pod.within(|_| [OPEN, CLOSED].map(|port| TcpListener::bind((POD, port)).expect("it is free")));
    let connect = |port| {
        let end = SocketAddr::new(address(POD), port);
        peer.within(|_| TcpStream::connect_timeout(&end, Duration::from_millis(500)))
    };
    assert!(connect(OPEN).is_ok() && connect(CLOSED).is_ok(), "nothing is enforced");
    let wanted = Wanted::Policy(Arc::new(policy()));
    pod.within(|_| apply(Backend::Nft, &wanted, Known::Unread, &Terms::default()).map(drop))
        .expect("the kernel takes it");
    let limit =
        pod.within(|_| std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")).expect("it is there");
    let limit: u32 = limit.trim().parse().expect("a number");
    if limit == 0 || limit > MOST {
        let _ = writeln!(std::io::stderr(), "{test}: not run: a table holds {limit} flows here");
        return;
    }

    let mut open = connect(OPEN).expect("a rule lets it pass");
    let mut speaks = move || -> Result<(), Error> {
        open.set_read_timeout(Some(Duration::from_secs(5)))?;
        open.write_all(b"?")?;
        let mut heard = [0];
        open.read_exact(&mut heard)
    };
    std::thread::spawn(move || {
        let [opened, _closed] = listeners;
        for stream in opened.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    speaks().expect("it is established");
    assert!(connect(CLOSED).is_err());

    let made = pod.within(|_| fill(limit));
    assert!(pod.within(|_| usage::is_full_here()), "{made} of {limit}");
    speaks().expect("what is established goes on");
    assert!(connect(OPEN).is_err(), "there is no room for it");
    assert!(connect(CLOSED).is_err(), "and none for what nothing allows");

    pod.within(|_| Conntrack::open().expect("the kernel has it").forget_all()).expect("the kernel forgets");
    assert!(connect(OPEN).is_ok());
    assert!(connect(CLOSED).is_err());
    speaks().expect("a flow that is older than what is known of it is judged as it was");
}
