//! Rules against the judge, and both against tables written by hand from the policy model.

mod life;
mod names;
mod random;
mod state;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ringfence_model::{Action, Decision, Direction, PortMatch, Ports, Protocol, Services};
use rstest::rstest;

use super::*;
use crate::judge::Packet;
use crate::policy::{End, Enforcement, Entry, HostSet, Match, NetnsPolicy, Nets, Origin};
use crate::sets;
use crate::trace::{Fate, Kernel, Probe};

const OWN: IpAddr = v4(100);
const PEER: IpAddr = v4(1);
const OTHER: IpAddr = v4(2);
const OWN_V6: IpAddr = v6(100);
const PEER_V6: IpAddr = v6(1);
const OTHER_V6: IpAddr = v6(2);

const fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

const fn v6(last: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last as u16))
}

fn listed(addresses: &[IpAddr]) -> HostSet {
    HostSet {
        origins: BTreeSet::from([Origin::PeerGroup("p-1".to_owned())]),
        nets: Arc::new(addresses.iter().copied().collect()),
    }
}

fn only(protocol: Protocol, port: u16) -> Services {
    Services::Only(PortMatch::single(protocol, port).into_iter().collect())
}

fn entry(peers: HostSet, services: Services, reject: bool) -> Entry {
    Entry { matching: Match::Hosts { peers, services }, reject, rule: "set/rule".to_owned() }
}

fn with(state: Enforcement, direction: Direction, entries: &[(Action, Entry)]) -> NetnsPolicy {
    let mut policy = NetnsPolicy::new(state);
    policy.own.extend([OWN, OWN_V6]);
    for (action, entry) in entries {
        let side = match direction {
            Direction::Inbound => &mut policy.inbound,
            Direction::Outbound => &mut policy.outbound,
        };
        side.of(*action).push(entry.clone());
    }
    policy
}

fn packet(direction: Direction, peer: IpAddr, protocol: Protocol, sport: u16, dport: u16) -> Packet {
    let own = if peer.is_ipv4() { OWN } else { OWN_V6 };
    let (src, dst) = match direction {
        Direction::Inbound => (peer, own),
        Direction::Outbound => (own, peer),
    };
    Packet { direction, protocol, src, dst, sport, dport, icmp: None }
}

fn fate(policy: &NetnsPolicy, probe: &Probe) -> Fate {
    Kernel::load(&render(policy, 7), Family::of(probe.packet.src)).fate(probe)
}

/// The table `side` of the policy model: which actions hit, and what becomes of it in VisibilityOnly, Selective, Full.
#[rstest]
#[case::nothing(&[], [Fate::WouldBlock, Fate::WouldBlock, Fate::Dropped])]
#[case::allow(&[Action::Allow], [Fate::Passed; 3])]
#[case::deny(&[Action::Deny], [Fate::WouldBlock, Fate::Dropped, Fate::Dropped])]
#[case::override_deny(&[Action::OverrideDeny], [Fate::WouldBlock, Fate::Dropped, Fate::Dropped])]
#[case::allow_and_deny(&[Action::Allow, Action::Deny], [Fate::Passed; 3])]
#[case::deny_and_allow(&[Action::Deny, Action::Allow], [Fate::Passed; 3])]
#[case::allow_and_override(
    &[Action::Allow, Action::OverrideDeny], [Fate::WouldBlock, Fate::Dropped, Fate::Dropped])]
#[case::all_three(
    &[Action::Deny, Action::Allow, Action::OverrideDeny], [Fate::WouldBlock, Fate::Dropped, Fate::Dropped])]
fn side_of_the_policy_model(
    #[case] actions: &[Action],
    #[case] expected: [Fate; 3],
    #[values(PEER, PEER_V6)] peer: IpAddr,
) {
    let states = [Enforcement::VisibilityOnly, Enforcement::Selective, Enforcement::Full];
    for direction in [Direction::Inbound, Direction::Outbound] {
        for (state, expected) in states.into_iter().zip(expected) {
            for reject in [false, true] {
                let entries: Vec<(Action, Entry)> = actions
                    .iter()
                    .map(|action| (*action, entry(listed(&[peer]), only(Protocol::TCP, 80), reject)))
                    .collect();
                let policy = with(state, direction, &entries);
                let hit = packet(direction, peer, Protocol::TCP, 40000, 80);
                // Only a rule that asks for it rejects; a default deny drops.
                let expected =
                    if expected == Fate::Dropped && reject && !actions.is_empty() { Fate::Rejected } else { expected };
                assert_eq!(fate(&policy, &Probe::new(hit)), expected, "{state:?} {direction:?} {reject}");
                let judged = policy.judge(&hit);
                assert_eq!(judged.blocks, matches!(expected, Fate::Dropped | Fate::Rejected));
                assert_eq!(judged.reject, expected == Fate::Rejected);
            }
        }
    }
}

#[rstest]
#[case::v4(PEER, OTHER)]
#[case::v6(PEER_V6, OTHER_V6)]
fn a_rule_hits_its_peers_and_ports_and_nothing_else(#[case] peer: IpAddr, #[case] other: IpAddr) {
    for direction in [Direction::Inbound, Direction::Outbound] {
        let policy = with(
            Enforcement::Full,
            direction,
            &[(Action::Allow, entry(listed(&[peer]), only(Protocol::TCP, 80), false))],
        );
        let passes = |packet: Packet| fate(&policy, &Probe::new(packet)) == Fate::Passed;
        assert!(passes(packet(direction, peer, Protocol::TCP, 1, 80)));
        assert!(!passes(packet(direction, other, Protocol::TCP, 1, 80)));
        assert!(!passes(packet(direction, peer, Protocol::TCP, 80, 81)));
        assert!(!passes(packet(direction, peer, Protocol::UDP, 1, 80)));
        let back = if direction == Direction::Inbound { Direction::Outbound } else { Direction::Inbound };
        assert!(!passes(packet(back, peer, Protocol::TCP, 1, 80)));
    }
}

/// No policy touches discovery, of which conntrack knows nothing; any other message is policy's.
#[test]
fn discovery_passes_whatever_the_policy() {
    let everything = entry(HostSet::anyone(), Services::All, true);
    for direction in [Direction::Inbound, Direction::Outbound] {
        for (state, echo) in [
            (Enforcement::VisibilityOnly, Fate::WouldBlock),
            (Enforcement::Selective, Fate::Dropped),
            (Enforcement::Full, Fate::Dropped),
        ] {
            let policy = with(state, direction, &[(Action::OverrideDeny, everything.clone())]);
            let kernel = Kernel::load(&render(&policy, 1), Family::V6);
            let messages =
                [(130, Fate::Passed), (135, Fate::Passed), (136, Fate::Passed), (143, Fate::Passed), (128, echo)];
            for (kind, expected) in messages {
                let icmp = Packet { icmp: Some((kind, 0)), ..packet(direction, PEER_V6, Protocol::ICMPV6, 0, 0) };
                // A packet without a connection is dropped where one with a connection is rejected.
                let probe = Probe { state: "UNTRACKED", ..Probe::new(icmp) };
                assert_eq!(kernel.fate(&probe), expected, "{state:?} {direction:?} {kind}");
                assert_eq!(policy.judge(&icmp).blocks, expected == Fate::Dropped, "{state:?} {direction:?} {kind}");
            }
        }
    }
}

/// An IP list of one family says nothing of the other, down to the list that is every address of its family.
#[rstest]
#[case::prefix("10.0.0.0/30", [true, false])]
#[case::every_v4("0.0.0.0/0", [true, false])]
#[case::prefix_v6("fd00::/126", [false, true])]
#[case::every_v6("::/0", [false, true])]
fn a_list_of_one_family_says_nothing_of_the_other(#[case] prefix: &str, #[case] opens: [bool; 2]) {
    let nets: Nets = std::iter::once(prefix.parse::<ipnet::IpNet>().expect("a prefix")).collect();
    let nets = Arc::new(nets);
    let list = HostSet { origins: [Origin::Prefixes(nets.clone())].into(), nets };
    let allow = (Action::Allow, entry(list, only(Protocol::TCP, 80), false));
    let policy = with(Enforcement::Full, Direction::Inbound, &[allow]);
    for (peer, opens) in [PEER, PEER_V6].into_iter().zip(opens) {
        let packet = packet(Direction::Inbound, peer, Protocol::TCP, 1, 80);
        assert_eq!(fate(&policy, &Probe::new(packet)) == Fate::Passed, opens, "{peer}");
        assert_eq!(!policy.judge(&packet).blocks, opens, "{peer}");
    }
    let rendered = render(&policy, 1);
    assert!(rendered.sets.len() <= 1, "of the other family there is nothing to write: {:?}", rendered.sets);
}

/// Both have a protocol of control messages, with types of its own.
#[test]
fn icmp_is_of_one_family_each() {
    let entry_of = |protocol, kind| Services::Only([PortMatch { protocol, ports: Ports::Icmp(kind, None) }].into());
    let policy = with(
        Enforcement::Full,
        Direction::Inbound,
        &[
            (Action::Allow, entry(HostSet::anyone(), entry_of(Protocol::ICMP, 8), false)),
            (Action::Allow, entry(HostSet::anyone(), entry_of(Protocol::ICMPV6, 128), false)),
        ],
    );
    let passes = |peer, protocol, kind| {
        let packet = Packet { icmp: Some((kind, 0)), ..packet(Direction::Inbound, peer, protocol, 0, 0) };
        fate(&policy, &Probe::new(packet)) == Fate::Passed
    };
    assert!(passes(PEER, Protocol::ICMP, 8) && passes(PEER_V6, Protocol::ICMPV6, 128));
    assert!(!passes(PEER, Protocol::ICMP, 128) && !passes(PEER_V6, Protocol::ICMPV6, 8));
}

#[test]
fn membership_alone_changes_no_rule() {
    let one = |members: &[IpAddr], port| {
        let allow = entry(listed(members), only(Protocol::TCP, port), false);
        with(Enforcement::Full, Direction::Inbound, &[(Action::Allow, allow)])
    };
    let old = render(&one(&[PEER], 80), 1);
    let change = |from: &[IpAddr], to: &[IpAddr]| {
        let rendered = render(&one(from, 80), 1);
        let sets = rendered.sets_of(&one(from, 80), &one(to, 80)).expect("members alone differ");
        assert_eq!(sets, render(&one(to, 80), 1).sets);
        sets::change_text(&sets::changes(&rendered.sets, &sets))
    };
    assert_eq!(change(&[PEER], &[PEER, OTHER]), "add RF4-1-0 10.0.0.2\n");
    assert_eq!(change(&[OTHER], &[PEER]), "add RF4-1-0 10.0.0.1\ndel RF4-1-0 10.0.0.2\n");
    assert_eq!(change(&[PEER], &[]), "del RF4-1-0 10.0.0.1\n", "an empty set matches nobody");
    // The first member of a family changes no rule either.
    assert_eq!(change(&[PEER], &[PEER, PEER_V6]), "add RF6-1-0 fd00::1\n");
    assert_eq!(old.sets_of(&one(&[PEER], 80), &one(&[PEER], 81)), None);
    let laxer = NetnsPolicy { state: Enforcement::Selective, ..one(&[PEER], 80) };
    assert_eq!(old.sets_of(&one(&[PEER], 80), &laxer), None);
    assert_eq!(
        old.create_sets(),
        "create RF4-1-0 hash:net family inet hashsize 64 maxelem 1048576\nflush RF4-1-0\nadd RF4-1-0 10.0.0.1\n\
         create RF6-1-0 hash:net family inet6 hashsize 64 maxelem 1048576\nflush RF6-1-0\n"
    );
    assert_eq!(old.destroy_sets(), "destroy RF4-1-0\ndestroy RF6-1-0\n");
}

#[test]
fn entries_of_one_origin_share_a_set_and_everything_fits() {
    let allow = |port| (Action::Allow, entry(listed(&[PEER]), only(Protocol::TCP, port), false));
    let policy = with(Enforcement::Full, Direction::Inbound, &[allow(80), allow(81)]);
    let rendered = render(&policy, u32::MAX);
    let names: Vec<&str> = rendered.sets.iter().map(|set| set.name.as_str()).collect();
    assert_eq!(names, ["RF4-4294967295-0", "RF6-4294967295-0"]);
}

#[test]
fn what_iptables_takes_for_any_is_never_written() {
    let odd = Services::Only(BTreeSet::from([
        PortMatch { protocol: Protocol(0), ports: Ports::All },
        PortMatch { protocol: Protocol::ICMP, ports: Ports::Icmp(255, None) },
        PortMatch { protocol: Protocol::ICMPV6, ports: Ports::Icmp(255, None) },
    ]));
    let policy = with(Enforcement::Full, Direction::Inbound, &[(Action::Allow, entry(HostSet::anyone(), odd, false))]);
    let rendered = render(&policy, 1);
    assert!(!rendered.v4.contains("set/rule") && !rendered.v6.contains("set/rule"));
}

#[test]
fn a_rules_name_cannot_leave_its_comment() {
    let mut allow = entry(HostSet::anyone(), Services::All, false);
    allow.rule = "a/\" -j ACCEPT\n-A RF-IN ".repeat(30);
    let text = render(&with(Enforcement::Full, Direction::Inbound, &[(Action::Allow, allow)]), 1).v4;
    assert!(!text.contains("ACCEPT\n") && !text.contains("j ACCEPT"), "{text}");
    assert!(text.lines().all(|line| line.len() < 255), "{text}");
}

/// A Pod of IPv4 alone: labels open nothing over IPv6 and need no rule there, and what is denied or listed by address counts.
#[test]
fn over_a_family_that_a_pod_does_not_have_labels_open_nothing() {
    let entry = |origin: Origin, port| {
        let nets: Arc<Nets> = Arc::new([v4(3), v6(3)].into_iter().collect());
        let origin = if let Origin::Prefixes(_) = origin { Origin::Prefixes(nets.clone()) } else { origin };
        let services = Services::Only(PortMatch::single(Protocol::TCP, port).into_iter().collect());
        let peers = HostSet { origins: BTreeSet::from([origin]), nets };
        Entry { matching: Match::Hosts { peers, services }, reject: false, rule: "r/r".to_owned() }
    };
    let group = || Origin::PeerGroup("p-1".to_owned());
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    policy.own = BTreeSet::from([OWN]);
    policy.inbound.allow = vec![entry(group(), 80), entry(Origin::Prefixes(Arc::default()), 81)].into();
    policy.inbound.deny = vec![entry(group(), 82)].into();
    let fate = |policy: &NetnsPolicy, peer, port| {
        let packet = packet(Direction::Inbound, peer, Protocol::TCP, 40000, port);
        Kernel::load(&render(policy, 1), Family::of(peer)).fate(&Probe::new(packet))
    };
    assert_eq!([80, 81].map(|port| fate(&policy, v4(3), port)), [Fate::Passed; 2]);
    assert_eq!([80, 81].map(|port| fate(&policy, v6(3), port)), [Fate::Dropped, Fate::Passed]);
    assert!(!render(&policy, 1).text(Family::V6).contains("--dport 80 "));
    let selective = NetnsPolicy { state: Enforcement::Selective, ..policy.clone() };
    assert_eq!(fate(&selective, v6(3), 82), Fate::Dropped);
    // Of a Pod whose addresses are not known, nothing is left out.
    let unknown = NetnsPolicy { own: BTreeSet::new(), ..policy };
    assert_eq!(fate(&unknown, v6(3), 80), Fate::Passed);
}

/// What comes from a node whose gate seals is let in with a seal and on no other port than that of a rule; what is older than the
/// rules needs none, and what is not sealed is not taken for the node's own.
#[test]
fn a_seal_lets_in_and_its_lack_does_not() {
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    let services = Services::Only(PortMatch::single(Protocol::TCP, 80).into_iter().collect());
    let nodes: Arc<Nets> = Arc::new([v4(3), v6(3)].into_iter().collect());
    let origins = BTreeSet::from([Origin::PeerGroup("p-nodes".to_owned())]);
    let matching = Match::Hosts { peers: HostSet { origins, nets: nodes.clone() }, services };
    policy.inbound.allow.push(Entry { matching, reject: false, rule: "r/nodes".to_owned() });
    let exposed = crate::gate::admit_sealed(policy.clone(), nodes);
    for (peer, family) in [(v4(3), Family::V4), (v6(3), Family::V6)] {
        let fate = |policy: &NetnsPolicy, port, sealed, syn| {
            let packet = packet(Direction::Inbound, peer, Protocol::TCP, 40000, port);
            Kernel::load(&render(policy, 1), family).fate(&Probe { sealed, syn, ..Probe::new(packet) })
        };
        assert_eq!(fate(&policy, 80, false, true), Fate::Passed, "not exposed: it is the node");
        assert_eq!(fate(&exposed, 80, true, true), Fate::Passed);
        assert_eq!(fate(&exposed, 80, false, true), Fate::Dropped, "it may be anybody");
        assert_eq!(fate(&exposed, 81, true, true), Fate::Dropped, "no rule opens it");
        assert_eq!(fate(&exposed, 80, false, false), Fate::Passed, "older than the rules");
    }
    // Selective lets everybody else in.
    let selective = NetnsPolicy { state: Enforcement::Selective, ..policy.clone() };
    let exposed = crate::gate::admit_sealed(selective, Arc::new([v4(3)].into_iter().collect()));
    let packet = packet(Direction::Inbound, v4(3), Protocol::TCP, 40000, 443);
    assert_eq!(Kernel::load(&render(&exposed, 1), Family::V4).fate(&Probe::new(packet)), Fate::WouldBlock);
}

#[test]
fn who_moves_between_sets_is_never_in_none() {
    let host = |text: &&str| sets::Member::Net(text.parse::<IpAddr>().expect("an address").into());
    let change = |set: &str, add: &[&str], del: &[&str]| sets::SetChange {
        set: set.to_owned(),
        kind: sets::SetKind::HashNet,
        add: add.iter().map(host).collect(),
        del: del.iter().map(host).collect(),
    };
    // From the first set to the second one; and the third set's member goes before the first one's.
    let moves = [change("RF4-1-0", &[], &["10.0.0.1"]), change("RF4-1-1", &["10.0.0.1"], &["10.0.0.2"])];
    assert_eq!(sets::change_text(&moves), "add RF4-1-1 10.0.0.1\ndel RF4-1-1 10.0.0.2\ndel RF4-1-0 10.0.0.1\n");
}
