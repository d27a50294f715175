//! The rendered text in a real kernel: real connections between network namespaces. Needs root.

mod forms;
mod lab;
mod rejection;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use lab::{Addresses, At, Flow, Lab, Reach};
use ringfence_dataplane::policy::Origin;
use ringfence_dataplane::{
    End, Enforcement, Entry, Family, HostSet, Match, NetnsPolicy, Readback, SetDef, render, sets,
};
use ringfence_model::{Action, Direction, PortMatch, Protocol, Services};

fn hosts(addresses: &[&str]) -> HostSet {
    HostSet {
        origins: BTreeSet::from([Origin::PeerGroup(format!("p-{}", addresses.first().unwrap_or(&"none")))]),
        nets: Arc::new(addresses.iter().map(|text| text.parse::<IpAddr>().expect("an address")).collect()),
    }
}

/// A at both of its addresses.
fn everywhere_a() -> HostSet {
    hosts(&Addresses::BOTH.map(|of| of.a))
}

fn ports(protocol: Protocol, list: &[u16]) -> Services {
    Services::Only(list.iter().filter_map(|port| PortMatch::single(protocol, *port)).collect())
}

fn rule(
    policy: &mut NetnsPolicy,
    direction: Direction,
    action: Action,
    peers: HostSet,
    services: Services,
    reject: bool,
) {
    let side = match direction {
        Direction::Inbound => &mut policy.inbound,
        Direction::Outbound => &mut policy.outbound,
    };
    let entry = Entry { matching: Match::Hosts { peers, services }, reject, rule: "lab/rule".to_owned() };
    side.of(action).push(entry);
}

fn policy(state: Enforcement) -> NetnsPolicy {
    let mut policy = NetnsPolicy::new(state);
    policy.own = Addresses::BOTH
        .iter()
        .flat_map(|of| [of.pod_a, of.pod_b])
        .map(|text| text.parse().expect("an address"))
        .collect();
    policy
}

/// Allow, Deny and OverrideDeny from or to A on ports of their own.
fn three_actions(state: Enforcement, direction: Direction, reject: bool) -> NetnsPolicy {
    let mut policy = policy(state);
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let services = |list: &[u16]| ports(protocol, list);
        rule(&mut policy, direction, Action::Allow, everywhere_a(), services(&[80, 82, 83]), false);
        rule(&mut policy, direction, Action::Deny, everywhere_a(), services(&[81, 82]), reject);
        rule(&mut policy, direction, Action::OverrideDeny, everywhere_a(), services(&[83]), reject);
    }
    policy
}

/// From the table `side` of the policy model: port 80 is allowed, 81 denied, 82 allowed and denied, 83 allowed and
/// override-denied, 84 hit by nothing.
fn expected(state: Enforcement, port: u16, reject: bool) -> Reach {
    let blocked = if reject { Reach::Refused } else { Reach::Dropped };
    match (state, port) {
        (Enforcement::VisibilityOnly, _) | (_, 80 | 82) => Reach::Open,
        (_, 81 | 83) => blocked,
        (Enforcement::Selective, _) => Reach::Open,
        (Enforcement::Full, _) => Reach::Dropped,
    }
}

const STATES: [Enforcement; 3] = [Enforcement::VisibilityOnly, Enforcement::Selective, Enforcement::Full];

#[test]
fn every_state_direction_and_action_on_real_connections() {
    let Some(mut lab) = Lab::new("every_state_direction_and_action_on_real_connections") else { return };
    for state in STATES {
        for direction in [Direction::Inbound, Direction::Outbound] {
            for reject in [false, true] {
                let rendered = lab.enforce(&three_actions(state, direction, reject));
                assert_eq!(rendered.verify(Family::V4, &lab.installed(Family::V4)), Readback::Ok);
                assert_eq!(rendered.verify(Family::V6, &lab.installed(Family::V6)), Readback::Ok);
                for (port, of) in (80..=84).flat_map(|port| Addresses::BOTH.map(|of| (port, of))) {
                    let want = expected(state, port, reject);
                    let (from, to) = match direction {
                        Direction::Inbound => (At::A, (At::Pod, of.pod_a, port)),
                        Direction::Outbound => (At::Pod, (At::A, of.a, port)),
                    };
                    assert_eq!(lab.tcp(from, to), want, "{state:?} {direction:?} tcp {to:?} reject {reject}");
                    assert_eq!(lab.udp(from, to), want, "{state:?} {direction:?} udp {to:?} reject {reject}");
                }
            }
        }
    }
}

#[test]
fn others_and_the_other_direction_get_nothing_from_a_rule() {
    let Some(mut lab) = Lab::new("others_and_the_other_direction_get_nothing_from_a_rule") else { return };
    lab.enforce(&three_actions(Enforcement::Full, Direction::Inbound, false));
    for Addresses { pod_a, pod_b, a, .. } in Addresses::BOTH {
        assert_eq!(lab.tcp(At::A, (At::Pod, pod_a, 80)), Reach::Open);
        assert_eq!(lab.tcp(At::B, (At::Pod, pod_b, 80)), Reach::Dropped, "B is no peer");
        assert_eq!(lab.tcp(At::Pod, (At::A, a, 80)), Reach::Dropped, "outbound has no rule");
        assert_eq!(lab.tcp(At::Pod, (At::Pod, pod_a, 8080)), Reach::Open, "its own address");
    }
    assert_eq!(lab.tcp(At::Pod, (At::Pod, "127.0.0.1", 8080)), Reach::Open, "loopback");
}

#[test]
fn front_ends_are_exact_pairs() {
    let Some(mut lab) = Lab::new("front_ends_are_exact_pairs") else { return };
    let mut policy = policy(Enforcement::Full);
    let end = |address: &str, protocol, port| End { address: address.parse().expect("an address"), protocol, port };
    let ends = Addresses::BOTH.iter().flat_map(|of| [end(of.a, Protocol::TCP, 80), end(of.b, Protocol::UDP, 90)]);
    let ends: BTreeSet<End> = ends.collect();
    policy.outbound.allow.push(Entry {
        matching: Match::Ends(Arc::new(ends)),
        reject: false,
        rule: "lab/ends".to_owned(),
    });
    lab.enforce(&policy);
    for Addresses { a, b, .. } in Addresses::BOTH {
        assert_eq!(lab.tcp(At::Pod, (At::A, a, 80)), Reach::Open);
        assert_eq!(lab.udp(At::Pod, (At::B, b, 90)), Reach::Open);
        assert_eq!(lab.udp(At::Pod, (At::A, a, 80)), Reach::Dropped);
        assert_eq!(lab.tcp(At::Pod, (At::A, a, 90)), Reach::Dropped);
        assert_eq!(lab.tcp(At::Pod, (At::B, b, 80)), Reach::Dropped);
        assert_eq!(lab.tcp(At::Pod, (At::B, b, 90)), Reach::Dropped);
    }
}

#[test]
fn members_come_and_go_without_a_change_of_rules() {
    let Some(mut lab) = Lab::new("members_come_and_go_without_a_change_of_rules") else { return };
    let with = |peers: &[&str]| {
        let mut policy = policy(Enforcement::Full);
        let set = HostSet { nets: hosts(peers).nets, ..hosts(&[]) };
        rule(&mut policy, Direction::Inbound, Action::Allow, set, ports(Protocol::TCP, &[80]), false);
        policy
    };
    for of in Addresses::BOTH {
        let reach = |lab: &Lab| (lab.tcp(At::A, (At::Pod, of.pod_a, 80)), lab.tcp(At::B, (At::Pod, of.pod_b, 80)));
        let empty = lab.enforce(&with(&[]));
        assert_eq!(reach(&lab), (Reach::Dropped, Reach::Dropped), "an empty set is nobody");
        let digests = |lab: &Lab| Family::ALL.map(|family| lab.installed(family).digest());
        let before = digests(&lab);

        let go = |from: &[SetDef], to: &[&str]| {
            let sets = empty.sets_of(&with(&[]), &with(to)).expect("members alone differ");
            lab.ipset_restore(&sets::change_text(&sets::changes(from, &sets)));
            sets
        };
        let both = go(&empty.sets, &[of.a, of.b]);
        assert_eq!(reach(&lab), (Reach::Open, Reach::Open));

        let one = go(&both, &[of.b]);
        assert_eq!(reach(&lab), (Reach::Dropped, Reach::Open));
        assert_eq!(lab.sets(), one, "what ipset prints is what we think it holds");
        assert_eq!(render(&with(&[of.b]), empty.generation).delta_from(&lab.sets()), Some(Vec::new()));
        assert_eq!(digests(&lab), before, "no rule was touched");
    }
}

/// ipset has its own way of writing some IPv6 addresses: what it prints must not look like another member.
#[test]
fn however_ipset_writes_an_address_it_is_the_same_member() {
    let Some(mut lab) = Lab::new("however_ipset_writes_an_address_it_is_the_same_member") else { return };
    let odd = ["::102:304", "::ffff:1.2.3.4", "fd00:0:0:1::", "fd00:0:1::1", "fd00::0:0:0:1", "2001:db8::"];
    let mut policy = policy(Enforcement::Full);
    rule(&mut policy, Direction::Inbound, Action::Allow, hosts(&odd), Services::All, false);
    let end = |address: &&str| End { address: address.parse().expect("an address"), protocol: Protocol::TCP, port: 80 };
    let matching = Match::Ends(Arc::new(odd.iter().map(end).collect()));
    policy.outbound.allow.push(Entry { matching, reject: false, rule: "lab/ends".to_owned() });
    let rendered = lab.enforce(&policy);
    assert_eq!(rendered.delta_from(&lab.sets()), Some(Vec::new()));
}

#[test]
fn established_flows_survive_an_update_and_an_ended_one_does_not() {
    let Some(mut lab) = Lab::new("established_flows_survive_an_update_and_an_ended_one_does_not") else { return };
    for (of, family) in Addresses::BOTH.into_iter().zip(["ipv4", "ipv6"]) {
        lab.enforce(&three_actions(Enforcement::Full, Direction::Inbound, false));
        let mut flow = lab.tcp_flow(At::A, (At::Pod, of.pod_a, 80));
        assert!(flow.lives());
        lab.enforce(&policy(Enforcement::Full));
        assert!(flow.lives(), "new rules alone end nothing that is established");
        lab.exec(
            At::Pod,
            "conntrack",
            &["-U", "-f", family, "-p", "tcp", "--dport", "80", "--mark", "0x40000000/0x40000000"],
            "",
        );
        assert!(!flow.lives() && !flow.answers(), "the mark ends it in both directions");
    }
}

/// From Idle to Full. What comes first after the rules may be said by either end.
#[test]
fn flows_older_than_the_rules_are_judged_in_both_orientations() {
    let firsts: [fn(&mut Flow) -> bool; 2] = [Flow::answers, Flow::asks];
    for (of, first) in Addresses::BOTH.into_iter().flat_map(|of| firsts.map(|first| (of, first))) {
        let Some(mut lab) = Lab::new("flows_older_than_the_rules_are_judged_in_both_orientations") else { return };
        // Before there is a rule, nothing tracks connections in the Pod.
        let mut served = lab.tcp_flow(At::A, (At::Pod, of.pod_a, 80));
        let mut opened = lab.tcp_flow(At::Pod, (At::B, of.b, 5432));
        let mut denied_in = lab.tcp_flow(At::B, (At::Pod, of.pod_b, 80));
        let mut denied_out = lab.tcp_flow(At::Pod, (At::A, of.a, 5432));
        let mut full = three_actions(Enforcement::Full, Direction::Inbound, false);
        rule(&mut full, Direction::Outbound, Action::Allow, hosts(&[of.b]), ports(Protocol::TCP, &[5432]), false);
        lab.enforce(&full);
        assert!(first(&mut served), "to and from port 80 of the Pod: it is the inbound rule's");
        assert!(first(&mut opened), "to and from port 5432 of B: it is the outbound rule's");
        assert!(served.lives() && opened.lives());
        for denied in [&mut denied_in, &mut denied_out] {
            assert!(!first(denied) && !denied.answers() && !denied.asks(), "hit by nothing in either orientation");
        }
    }
}

#[test]
fn an_older_flow_that_a_deny_hits_in_either_orientation_is_blocked() {
    let Some(mut lab) = Lab::new("an_older_flow_that_a_deny_hits_in_either_orientation_is_blocked") else { return };
    let mut served = lab.tcp_flow(At::A, (At::Pod, Lab::POD_A, 81));
    let mut other = lab.tcp_flow(At::A, (At::Pod, Lab::POD_A, 84));
    lab.enforce(&three_actions(Enforcement::Selective, Direction::Inbound, false));
    assert!(!served.answers(), "the Deny on 81 is inbound, the packet is outbound");
    assert!(other.answers() && other.lives(), "Selective lets pass what nothing hits");
}

#[test]
fn what_others_do_to_our_rules_is_seen_and_put_right() {
    let Some(mut lab) = Lab::new("what_others_do_to_our_rules_is_seen_and_put_right") else { return };
    let rendered = lab.enforce(&three_actions(Enforcement::Full, Direction::Inbound, true));
    let digests = Family::ALL.map(|family| lab.installed(family).digest());
    let damages: [&[&str]; 8] = [
        &["-t", "mangle", "-F", "PREROUTING"],
        &["-t", "mangle", "-I", "PREROUTING", "1", "-j", "ACCEPT"],
        &["-t", "mangle", "-A", "OUTPUT", "-j", "RF-OUT"],
        &["-t", "mangle", "-D", "RF-IN", "1"],
        &["-t", "filter", "-F", "INPUT"],
        &["-t", "filter", "-F", "RF-REJECT"],
        &["-t", "filter", "-D", "RF-REFUSE", "2"],
        &["-t", "mangle", "-N", "RF-STRAY"],
    ];
    for ((family, digest), command) in Family::ALL.into_iter().zip(digests).zip(["iptables-nft", "ip6tables-nft"]) {
        for damage in damages {
            lab.exec(At::Pod, command, damage, "");
            let installed = lab.installed(family);
            assert_eq!(rendered.verify(family, &installed), Readback::Changed, "{damage:?}");
            lab.restore(family, &rendered.restore_text(family, &installed));
            assert_eq!(rendered.verify(family, &lab.installed(family)), Readback::Ok, "{damage:?}");
            assert_eq!(lab.installed(family).digest(), digest, "{damage:?}");
        }
        let accept = lab.exec(At::Pod, command, &["-t", "mangle", "-S", "PREROUTING"], "");
        assert!(accept.contains("-A PREROUTING -j ACCEPT"), "rules of others stay: {accept}");
    }
}

#[test]
fn removal_leaves_nothing_of_ours_and_everything_of_others() {
    let Some(mut lab) = Lab::new("removal_leaves_nothing_of_ours_and_everything_of_others") else { return };
    let others = [("iptables-nft", "192.0.2.1"), ("ip6tables-nft", "2001:db8::1")];
    for (command, source) in others {
        lab.exec(At::Pod, command, &["-t", "mangle", "-A", "PREROUTING", "-s", source, "-j", "ACCEPT"], "");
        lab.exec(At::Pod, command, &["-A", "INPUT", "-s", source, "-j", "ACCEPT"], "");
    }
    let rendered = lab.enforce(&three_actions(Enforcement::Full, Direction::Inbound, true));
    assert_eq!(lab.tcp(At::A, (At::Pod, Lab::POD_A, 84)), Reach::Dropped);
    for family in Family::ALL {
        assert_eq!(lab.installed(family).generation(), Some(rendered.generation));
    }
    lab.remove();
    for family in [Family::V4, Family::V6] {
        assert!(lab.installed(family).is_empty());
        assert_eq!(rendered.verify(family, &lab.installed(family)), Readback::Missing);
    }
    for (command, source) in others {
        let save = lab.exec(At::Pod, &format!("{command}-save"), &[], "");
        assert!(!save.contains("RF-"), "{save}");
        assert_eq!(save.matches(source).count(), 2, "{save}");
    }
    assert!(lab.sets().is_empty());
    assert_eq!(lab.tcp(At::A, (At::Pod, Lab::POD_A, 84)), Reach::Open);
}

/// Without discovery nobody finds anybody: the neighbours forget each other before each try.
#[test]
fn no_rule_touches_neighbour_discovery() {
    let Some(mut lab) = Lab::new("no_rule_touches_neighbour_discovery") else { return };
    let Addresses { pod_a, .. } = Addresses::V6;
    let forget = |lab: &Lab| {
        for at in [At::Pod, At::A] {
            lab.exec(at, "ip", &["-6", "neigh", "flush", "all"], "");
        }
    };
    for direction in [Direction::Inbound, Direction::Outbound] {
        let mut closed = policy(Enforcement::Full);
        rule(&mut closed, direction, Action::OverrideDeny, HostSet::anyone(), Services::All, true);
        lab.enforce(&closed);
        forget(&lab);
        assert_ne!(lab.tcp(At::A, (At::Pod, pod_a, 80)), Reach::Open);
        let neighbour = lab.exec(At::A, "ip", &["-6", "neigh", "show", pod_a], "");
        assert!(neighbour.contains("lladdr"), "{direction:?}: the Pod answered the solicitation: {neighbour}");
        assert_eq!(lab.tcp(At::Pod, (At::Pod, "::1", 80)), Reach::Open, "loopback");
    }
    lab.enforce(&three_actions(Enforcement::Full, Direction::Inbound, false));
    forget(&lab);
    assert_eq!(lab.tcp(At::A, (At::Pod, pod_a, 80)), Reach::Open);
}

#[test]
fn a_set_left_behind_lends_its_members_to_nobody() {
    let Some(mut lab) = Lab::new("a_set_left_behind_lends_its_members_to_nobody") else { return };
    lab.ipset_restore("create RF4-1-0 hash:net family inet hashsize 64 maxelem 1048576\nadd RF4-1-0 10.99.0.0/16\n");
    let mut policy = policy(Enforcement::Full);
    rule(&mut policy, Direction::Inbound, Action::Allow, hosts(&[Lab::B]), ports(Protocol::TCP, &[80]), false);
    let rendered = lab.enforce(&policy);
    assert_eq!(lab.sets(), rendered.sets);
    assert_eq!(lab.tcp(At::A, (At::Pod, Lab::POD_A, 80)), Reach::Dropped);
    assert_eq!(lab.tcp(At::B, (At::Pod, Lab::POD_B, 80)), Reach::Open);
}
