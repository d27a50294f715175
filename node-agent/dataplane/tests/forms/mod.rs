//! Every form of match that rules can have, in a real kernel: it is taken, it comes back, and it hits what it says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use ringfence_dataplane::{End, Enforcement, Entry, Family, HostSet, Match, NetnsPolicy, Readback};
use ringfence_model::{Action, Direction, PortMatch, Ports, Protocol, Services};

use crate::lab::{Addresses, At, Lab, not_run, save_command};
use crate::{hosts, policy};

/// What follows the header of an IP packet. Checksums are wrong: what is in Selective is judged all the same.
#[derive(Debug, Clone)]
struct Payload {
    protocol: Protocol,
    bytes: Vec<u8>,
}

/// The beginning of a TCP, UDP or SCTP packet; of TCP, one that opens a connection or (`reply`) one that does not.
fn segment(protocol: Protocol, sport: u16, dport: u16, reply: bool) -> Payload {
    let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    bytes.extend(match protocol {
        Protocol::TCP => [0, 0, 0, 1, 0, 0, 0, 0, 0x50, if reply { 0x10 } else { 0x02 }, 0x20, 0, 0, 0, 0, 0].to_vec(),
        Protocol::UDP => vec![0, 8, 0, 0],
        _ => vec![0; 8],
    });
    Payload { protocol, bytes }
}

fn to(protocol: Protocol, dport: u16) -> Payload {
    segment(protocol, 40000, dport, false)
}

fn icmp(family: Family, kind: u8, code: u8) -> Payload {
    Payload { protocol: family.icmp(), bytes: vec![kind, code, 0, 0, 0, 1, 0, 1] }
}

fn plain(number: u8) -> Payload {
    Payload { protocol: Protocol(number), bytes: vec![0; 8] }
}

/// A form with what it hits and what it misses by one. No two forms hit the same packet.
type Form = (PortMatch, Vec<Payload>, Vec<Payload>);

fn forms(family: Family, sctp: bool) -> Vec<Form> {
    let (control, icmp) = (family.icmp(), |kind, code| icmp(family, kind, code));
    // An echo and an error, with messages next to them.
    let [echo, after_echo, error] = match family {
        Family::V4 => [8, 13, 3],
        Family::V6 => [128, 129, 1],
    };
    let form = |protocol, ports, hits, misses| (PortMatch { protocol, ports }, hits, misses);
    let mut forms = vec![
        form(control, Ports::Icmp(echo, None), vec![icmp(echo, 0), icmp(echo, 1)], vec![icmp(after_echo, 0)]),
        form(control, Ports::Icmp(error, Some(1)), vec![icmp(error, 1)], vec![icmp(error, 2), icmp(error + 1, 1)]),
        form(Protocol(47), Ports::All, vec![plain(47)], vec![plain(46)]),
        form(Protocol(253), Ports::All, vec![plain(253)], vec![plain(254)]),
    ];
    let with_ports = [(Protocol::TCP, true), (Protocol::UDP, true), (Protocol::SCTP, sctp)];
    for protocol in with_ports.into_iter().filter(|(_, known)| *known).map(|(protocol, _)| protocol) {
        let packets = |list: [u16; 2]| list.map(|port| to(protocol, port)).to_vec();
        forms.push(form(protocol, Ports::Range(80, 80), vec![to(protocol, 80)], packets([79, 81])));
        forms.push(form(protocol, Ports::Range(1000, 1002), packets([1000, 1002]), packets([999, 1003])));
        forms.push(form(protocol, Ports::Range(65534, 65535), packets([65534, 65535]), vec![to(protocol, 65533)]));
    }
    forms
}

/// Whether the kernel has the match for SCTP's ports.
fn has_sctp(lab: &Lab, test: &str) -> bool {
    let rule = "*mangle\n:PROBE - [0:0]\n-A PROBE -p sctp -m sctp --dport 1 -j RETURN\n-F PROBE\n-X PROBE\nCOMMIT\n";
    let tried = lab.try_exec(At::Pod, "iptables-nft-restore", &["--noflush"], rule);
    if let Err(error) = &tried {
        not_run(&format!("{test}, SCTP"), error.trim());
    }
    tried.is_ok()
}

fn name(index: usize) -> String {
    format!("lab/form-{index:02}")
}

fn allow(policy: &mut NetnsPolicy, direction: Direction, matching: Match, rule: String) {
    let side = match direction {
        Direction::Inbound => &mut policy.inbound,
        Direction::Outbound => &mut policy.outbound,
    };
    side.of(Action::Allow).push(Entry { matching, reject: false, rule });
}

/// Sends packets from A to the Pod, or from the Pod to B: of a protocol without ports, what goes to whom has come from
/// would be an answer.
fn send(lab: &Lab, of: Addresses, direction: Direction, payloads: &[Payload]) {
    let (at, source, target) = match direction {
        Direction::Inbound => (At::A, of.a, of.pod_a),
        Direction::Outbound => (At::Pod, of.pod_b, of.b),
    };
    let ends = [source, target].map(|text| text.parse::<IpAddr>().expect("an address of the test"));
    let payloads = payloads.to_vec();
    lab.within(at, move || payloads.iter().for_each(|payload| send_raw(ends, payload)));
}

/// The kernel fills in the header's checksum.
fn send_raw(ends: [IpAddr; 2], Payload { protocol, bytes }: &Payload) {
    let family = if ends[0].is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).expect("it is root");
    let sent = match ends {
        [IpAddr::V4(source), IpAddr::V4(target)] => {
            let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol.0, 0, 0];
            let packet = [&header[..], &source.octets(), &target.octets(), bytes].concat();
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(target, 0));
            sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty())
        }
        [IpAddr::V6(source), IpAddr::V6(target)] => {
            let length = u8::try_from(bytes.len()).expect("it is short");
            let header = [0x60, 0, 0, 0, 0, length, protocol.0, 64];
            let packet = [&header[..], &source.octets(), &target.octets(), bytes].concat();
            let to = SockaddrIn6::from(std::net::SocketAddrV6::new(target, 0, 0, 0));
            sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty())
        }
        mixed => panic!("{mixed:?} are of two families"),
    };
    sent.expect("it is sent");
}

/// How many packets the rules of this name have hit in a chain.
fn counted(save: &str, chain: &str, name: &str) -> u64 {
    let rule = |line: &&str| line.contains(&format!("] -A {chain} ")) && line.contains(&format!("rf:{name}"));
    let rules: Vec<&str> = save.lines().filter(rule).collect();
    assert!(!rules.is_empty(), "{chain} has no rule {name}:\n{save}");
    let packets = |line: &&str| -> u64 {
        let packets = line.trim_start_matches('[').split(':').next().and_then(|count| count.parse().ok());
        packets.unwrap_or_else(|| panic!("no counter: {line}"))
    };
    rules.iter().map(packets).sum()
}

/// Waits for the last of what was sent before it counts: packets stay in order.
fn hits(lab: &Lab, family: Family, chain: &str, names: &[String], expected: &[u64]) -> Vec<u64> {
    let count = || {
        let save = lab.exec(At::Pod, save_command(family), &["-c", "-t", "mangle"], "");
        names.iter().map(|name| counted(&save, chain, name)).collect::<Vec<_>>()
    };
    for _ in 0..100 {
        if count() == expected {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    count()
}

#[test]
fn every_form_is_taken_comes_back_and_hits_what_it_says() {
    let test = "every_form_is_taken_comes_back_and_hits_what_it_says";
    let Some(mut lab) = Lab::new(test) else { return };
    let sctp = has_sctp(&lab, test);
    for (family, of) in Family::ALL.into_iter().zip(Addresses::BOTH) {
        let forms = forms(family, sctp);
        for (direction, chain) in [(Direction::Inbound, "RF-IN"), (Direction::Outbound, "RF-OUT")] {
            for peers in [HostSet::anyone(), hosts(&[of.a, of.b])] {
                every_form(&mut lab, &forms, (family, of), (direction, chain), &peers);
            }
        }
    }
}

fn every_form(
    lab: &mut Lab,
    forms: &[Form],
    (family, of): (Family, Addresses),
    (direction, chain): (Direction, &str),
    peers: &HostSet,
) {
    let names: Vec<String> = (0..forms.len()).map(name).collect();
    let expected: Vec<u64> = forms.iter().map(|(_, hits, _)| hits.len() as u64).collect();
    let mut policy = policy(Enforcement::Selective);
    for ((matching, ..), name) in forms.iter().zip(&names) {
        let services = Services::Only(BTreeSet::from([matching.clone()]));
        allow(&mut policy, direction, Match::Hosts { peers: peers.clone(), services }, name.clone());
    }
    let rendered = lab.enforce(&policy);
    assert_eq!(rendered.verify(family, &lab.installed(family)), Readback::Ok, "{family:?} {direction:?}");
    forms.iter().for_each(|(_, _, misses)| send(lab, of, direction, misses));
    forms.iter().for_each(|(_, hits, _)| send(lab, of, direction, hits));
    assert_eq!(hits(lab, family, chain, &names, &expected), expected, "{family:?} {direction:?} {peers:?}");
}

/// More ports than one match holds, with a range at its end, which takes the room of two.
#[test]
fn many_ports_of_one_rule_are_taken_together_come_back_and_hit() {
    let test = "many_ports_of_one_rule_are_taken_together_come_back_and_hit";
    let Some(mut lab) = Lab::new(test) else { return };
    let protocols = [(Protocol::TCP, true), (Protocol::UDP, true), (Protocol::SCTP, has_sctp(&lab, test))];
    let protocols: Vec<Protocol> =
        protocols.into_iter().filter(|(_, known)| *known).map(|(protocol, _)| protocol).collect();
    let singles = (0..14).map(|number| 100 + 2 * number);
    let ranges = singles.clone().map(|port| (port, port)).chain([(200, 203), (300, 300), (400, 401)]);
    let one = |protocol| ranges.clone().map(move |(from, to)| PortMatch { protocol, ports: Ports::Range(from, to) });
    let services = Services::Only(protocols.iter().flat_map(|protocol| one(*protocol)).collect());
    let hit: Vec<u16> = singles.chain([200, 201, 202, 203, 300, 400, 401]).collect();
    let missed = [99, 101, 127, 199, 204, 299, 301, 399, 402];
    for (family, of) in Family::ALL.into_iter().zip(Addresses::BOTH) {
        for (direction, chain) in [(Direction::Inbound, "RF-IN"), (Direction::Outbound, "RF-OUT")] {
            let mut policy = policy(Enforcement::Selective);
            let matching = Match::Hosts { peers: hosts(&[of.a, of.b]), services: services.clone() };
            allow(&mut policy, direction, matching, name(0));
            let rendered = lab.enforce(&policy);
            // Two a protocol, and those of TCP once more for flows older than the rules.
            let rules = rendered.text(family).matches("-m multiport --dports").count();
            assert_eq!(rules, 2 * protocols.len() + 2);
            assert_eq!(rendered.verify(family, &lab.installed(family)), Readback::Ok, "{family:?} {direction:?}");
            let packets = |ports: &[u16]| -> Vec<Payload> {
                protocols.iter().flat_map(|protocol| ports.iter().map(|port| to(*protocol, *port))).collect()
            };
            send(&lab, of, direction, &packets(&missed));
            send(&lab, of, direction, &packets(&hit));
            let expected = (hit.len() * protocols.len()) as u64;
            assert_eq!(hits(&lab, family, chain, &[name(0)], &[expected]), [expected], "{family:?} {direction:?}");
        }
    }
}

#[test]
fn a_reply_of_an_older_flow_is_hit_by_the_port_it_comes_from() {
    let test = "a_reply_of_an_older_flow_is_hit_by_the_port_it_comes_from";
    let Some(mut lab) = Lab::new(test) else { return };
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    let ways = [(inbound, outbound, "RF-OUT-OLD"), (outbound, inbound, "RF-IN-OLD")];
    let families = Family::ALL.into_iter().zip(Addresses::BOTH);
    for ((family, of), (rules, replies, chain)) in families.flat_map(|family| ways.map(|way| (family, way))) {
        let mut policy = policy(Enforcement::Selective);
        let range = |from, to| PortMatch { protocol: Protocol::TCP, ports: Ports::Range(from, to) };
        for (number, ports) in [vec![range(1000, 1002)], vec![range(80, 80), range(2000, 2002)]].into_iter().enumerate()
        {
            let services = Services::Only(BTreeSet::from_iter(ports));
            allow(&mut policy, rules, Match::Hosts { peers: hosts(&[of.a, of.b]), services }, name(number));
        }
        lab.enforce(&policy);
        let reply = |sport, dport| segment(Protocol::TCP, sport, dport, true);
        let one = [reply(999, 50000), reply(1003, 50000), reply(50000, 1001), reply(1002, 50000)];
        let other = [reply(81, 50000), reply(2003, 50000), reply(50000, 80), reply(80, 50000), reply(2001, 50000)];
        send(&lab, of, replies, &[&one[..], &other[..]].concat());
        let names = [name(0), name(1)];
        assert_eq!(hits(&lab, family, chain, &names, &[1, 2]), [1, 2], "{family:?} {chain}");
    }
}

#[test]
fn front_ends_of_every_protocol_are_taken_and_hit() {
    let Some(mut lab) = Lab::new("front_ends_of_every_protocol_are_taken_and_hit") else { return };
    let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
    let ends = |address: &str| {
        let address: IpAddr = address.parse().expect("an address of the test");
        protocols.into_iter().zip([80, 81, 82]).map(move |(protocol, port)| End { address, protocol, port })
    };
    let every_pair: Vec<Payload> =
        protocols.into_iter().flat_map(|protocol| [80, 81, 82].map(|port| to(protocol, port))).collect();
    for (family, of) in Family::ALL.into_iter().zip(Addresses::BOTH) {
        let mut policy = policy(Enforcement::Selective);
        allow(&mut policy, Direction::Outbound, Match::Ends(Arc::new(ends(of.b).collect())), name(0));
        let rendered = lab.enforce(&policy);
        assert_eq!(rendered.verify(family, &lab.installed(family)), Readback::Ok);
        assert_eq!(lab.sets(), rendered.sets, "the set comes back as it was written");
        send(&lab, of, Direction::Outbound, &every_pair);
        assert_eq!(hits(&lab, family, "RF-OUT", &[name(0)], &[3]), [3], "{family:?}: three pairs of nine");
    }
}

/// Names of protocols, and of ICMP types, are looked up by programs: none may be taken for another or refused.
#[test]
fn every_protocol_and_icmp_type_is_taken_and_comes_back() {
    let Some(mut lab) = Lab::new("every_protocol_and_icmp_type_is_taken_and_comes_back") else { return };
    let whole = (1..=255).map(|number| PortMatch { protocol: Protocol(number), ports: Ports::All });
    let kinds = (0..255).flat_map(|kind| [Ports::Icmp(kind, None), Ports::Icmp(kind, Some(255))]);
    let kinds = |protocol| Services::Only(kinds.clone().map(|ports| PortMatch { protocol, ports }).collect());
    let [icmp, icmp_v6] = [Protocol::ICMP, Protocol::ICMPV6].map(kinds);
    for services in [Services::Only(whole.collect()), icmp, icmp_v6, Services::All] {
        let mut policy = policy(Enforcement::Full);
        policy.inbound.essential.push(Entry { matching: Match::OwnOrigin, reject: false, rule: name(0) });
        for direction in [Direction::Inbound, Direction::Outbound] {
            let matching = Match::Hosts { peers: HostSet::anyone(), services: services.clone() };
            allow(&mut policy, direction, matching, name(1));
        }
        let rendered = lab.enforce(&policy);
        for family in Family::ALL {
            assert_eq!(rendered.verify(family, &lab.installed(family)), Readback::Ok, "{family:?}");
        }
    }
}
