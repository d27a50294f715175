//! Every form of match that rules can have, in a real kernel: it is taken, it comes back, and it hits what it says.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use ringfence_dataplane::{End, Enforcement, Entry, Family, Match, NetnsPolicy, Peers, Readback};
use ringfence_model::{Action, Direction, PortMatch, Ports, Protocol, Services};

use crate::lab::{At, Lab, not_run};
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

fn icmp(kind: u8, code: u8) -> Payload {
    Payload { protocol: Protocol::ICMP, bytes: vec![kind, code, 0, 0, 0, 1, 0, 1] }
}

fn plain(number: u8) -> Payload {
    Payload { protocol: Protocol(number), bytes: vec![0; 8] }
}

/// A form with what it hits and what it misses by one. No two forms hit the same packet.
type Form = (PortMatch, Vec<Payload>, Vec<Payload>);

fn forms(sctp: bool) -> Vec<Form> {
    let form = |protocol, ports, hits, misses| (PortMatch { protocol, ports }, hits, misses);
    let mut forms = vec![
        form(Protocol::ICMP, Ports::Icmp(8, None), vec![icmp(8, 0), icmp(8, 1)], vec![icmp(13, 0)]),
        form(Protocol::ICMP, Ports::Icmp(3, Some(1)), vec![icmp(3, 1)], vec![icmp(3, 2), icmp(4, 1)]),
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
fn send(lab: &Lab, direction: Direction, payloads: &[Payload]) {
    let (at, source, target) = match direction {
        Direction::Inbound => (At::A, Lab::A, Lab::POD_A),
        Direction::Outbound => (At::Pod, Lab::POD_B, Lab::B),
    };
    let [source, target] = [source, target].map(|text| text.parse::<Ipv4Addr>().expect("an address of the test"));
    let payloads = payloads.to_vec();
    lab.within(at, move || {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).expect("it is root");
        let [a, b, c, d] = target.octets();
        for Payload { protocol, bytes } in &payloads {
            // The kernel fills in lengths and the header's checksum.
            let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol.0, 0, 0];
            let packet = [&header[..], &source.octets(), &target.octets(), bytes].concat();
            sendto(raw.as_raw_fd(), &packet, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).expect("it is sent");
        }
    });
}

/// How many packets the rule of this name has hit in a chain.
fn counted(save: &str, chain: &str, name: &str) -> u64 {
    let rule = |line: &&str| line.contains(&format!("] -A {chain} ")) && line.contains(&format!("rf:{name}"));
    let line = save.lines().find(rule).unwrap_or_else(|| panic!("{chain} has no rule {name}:\n{save}"));
    let packets = line.trim_start_matches('[').split(':').next().and_then(|count| count.parse().ok());
    packets.unwrap_or_else(|| panic!("no counter: {line}"))
}

/// Waits for the last of what was sent before it counts: packets stay in order.
fn hits(lab: &Lab, chain: &str, names: &[String], expected: &[u64]) -> Vec<u64> {
    let count = || {
        let save = lab.exec(At::Pod, "iptables-nft-save", &["-c", "-t", "mangle"], "");
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
    let forms = forms(has_sctp(&lab, test));
    let names: Vec<String> = (0..forms.len()).map(name).collect();
    let expected: Vec<u64> = forms.iter().map(|(_, hits, _)| hits.len() as u64).collect();
    for (direction, chain) in [(Direction::Inbound, "RF-IN"), (Direction::Outbound, "RF-OUT")] {
        for peers in [Peers::Anyone, hosts(&[Lab::A, Lab::B])] {
            let mut policy = policy(Enforcement::Selective);
            for ((matching, ..), name) in forms.iter().zip(&names) {
                let services = Services::Only(BTreeSet::from([matching.clone()]));
                allow(&mut policy, direction, Match::Hosts { peers: peers.clone(), services }, name.clone());
            }
            let rendered = lab.enforce(&policy);
            assert_eq!(rendered.verify(Family::V4, &lab.installed(Family::V4)), Readback::Ok, "{direction:?}");
            forms.iter().for_each(|(_, _, misses)| send(&lab, direction, misses));
            forms.iter().for_each(|(_, hits, _)| send(&lab, direction, hits));
            assert_eq!(hits(&lab, chain, &names, &expected), expected, "{direction:?} {peers:?}");
        }
    }
}

#[test]
fn a_reply_of_an_older_flow_is_hit_by_the_port_it_comes_from() {
    let test = "a_reply_of_an_older_flow_is_hit_by_the_port_it_comes_from";
    let Some(mut lab) = Lab::new(test) else { return };
    let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
    for (rules, replies, chain) in [(inbound, outbound, "RF-OUT-OLD"), (outbound, inbound, "RF-IN-OLD")] {
        let mut policy = policy(Enforcement::Selective);
        let range = PortMatch { protocol: Protocol::TCP, ports: Ports::Range(1000, 1002) };
        let services = Services::Only(BTreeSet::from([range]));
        allow(&mut policy, rules, Match::Hosts { peers: hosts(&[Lab::A, Lab::B]), services }, name(0));
        lab.enforce(&policy);
        let reply = |sport, dport| segment(Protocol::TCP, sport, dport, true);
        send(&lab, replies, &[reply(999, 50000), reply(1003, 50000), reply(50000, 1001), reply(1002, 50000)]);
        assert_eq!(hits(&lab, chain, &[name(0)], &[1]), [1], "{chain}");
    }
}

#[test]
fn front_ends_of_every_protocol_are_taken_and_hit() {
    let Some(mut lab) = Lab::new("front_ends_of_every_protocol_are_taken_and_hit") else { return };
    let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
    let address: Ipv4Addr = Lab::B.parse().expect("an address of the test");
    let ends = protocols.into_iter().zip([80, 81, 82]).map(|(protocol, port)| End { address, protocol, port });
    let mut policy = policy(Enforcement::Selective);
    allow(&mut policy, Direction::Outbound, Match::Ends(ends.collect()), name(0));
    let rendered = lab.enforce(&policy);
    assert_eq!(rendered.verify(Family::V4, &lab.installed(Family::V4)), Readback::Ok);
    assert_eq!(lab.sets(), rendered.sets, "the set comes back as it was written");
    let every_pair: Vec<Payload> =
        protocols.into_iter().flat_map(|protocol| [80, 81, 82].map(|port| to(protocol, port))).collect();
    send(&lab, Direction::Outbound, &every_pair);
    assert_eq!(hits(&lab, "RF-OUT", &[name(0)], &[3]), [3], "three pairs of nine");
}

/// Names of protocols, and of ICMP types, are looked up by programs: none may be taken for another or refused.
#[test]
fn every_protocol_and_icmp_type_is_taken_and_comes_back() {
    let Some(mut lab) = Lab::new("every_protocol_and_icmp_type_is_taken_and_comes_back") else { return };
    let whole = (1..=255).map(|number| PortMatch { protocol: Protocol(number), ports: Ports::All });
    let kinds = (0..255).flat_map(|kind| [Ports::Icmp(kind, None), Ports::Icmp(kind, Some(255))]);
    let kinds = kinds.map(|ports| PortMatch { protocol: Protocol::ICMP, ports });
    for services in [Services::Only(whole.collect()), Services::Only(kinds.collect()), Services::All] {
        let mut policy = policy(Enforcement::Full);
        policy.inbound.essential.push(Entry { matching: Match::OwnOrigin, reject: false, rule: name(0) });
        for direction in [Direction::Inbound, Direction::Outbound] {
            let matching = Match::Hosts { peers: Peers::Anyone, services: services.clone() };
            allow(&mut policy, direction, matching, name(1));
        }
        let rendered = lab.enforce(&policy);
        assert_eq!(rendered.verify(Family::V4, &lab.installed(Family::V4)), Readback::Ok);
    }
}
