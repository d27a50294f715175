//! What a packet costs: how many rules there are in the kernel, and how many a packet is held against. It depends on the
//! distinct pairs of action and service, and neither on how many peers nor on how many rules there are.

use ringfence_crds::WorkloadPolicySpec;

use super::*;
use crate::family::Family;
use crate::render::{Rendered, render};
use crate::trace::{Fate, Kernel, Probe};

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];
const ACTIONS: [Action; 3] = [Action::Allow, Action::Deny, Action::OverrideDeny];
/// Nobody's: no rule names it.
const STRANGER: &str = "203.0.113.9";

fn rendered(store: &ObjectStore) -> Rendered {
    render(&policy(store, &pod()), 1)
}

/// IPv4 rules in the kernel.
fn rules(store: &ObjectStore) -> usize {
    rendered(store).v4.lines().filter(|line| line.starts_with("-A ")).count()
}

/// How many rules a first packet from or to a stranger is held against: those that no rule hits are held against most.
fn looked_at(store: &ObjectStore, direction: Direction, protocol: Protocol, dport: u16) -> usize {
    let (src, dst) = match direction {
        Direction::Inbound => (ip(STRANGER), ip(OWN)),
        Direction::Outbound => (ip(OWN), ip(STRANGER)),
    };
    let packet = Packet { direction, protocol, src, dst, sport: 40000, dport, icmp: None };
    let trace = Kernel::load(&rendered(store), Family::V4).trace(&Probe::new(packet));
    assert_eq!((trace.fate, trace.rule), (Fate::Dropped, None));
    trace.looked_at
}

/// All that a policy costs.
fn cost(store: &ObjectStore) -> Vec<usize> {
    let packets = DIRECTIONS.iter().flat_map(|direction| {
        [Protocol::TCP, Protocol::UDP].map(|protocol| looked_at(store, *direction, protocol, 80))
    });
    [rules(store)].into_iter().chain(packets).collect()
}

fn address(number: usize) -> String {
    format!("10.245.{}.{}", number / 250, number % 250 + 1)
}

/// A rule of each action and direction, on one port, with so many peers.
fn with_peers(count: usize) -> ObjectStore {
    let mut store = store();
    let members: Vec<String> = (0..count).map(address).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    add_group(&mut store, "p-1", "c-1", &members, &[]);
    for direction in DIRECTIONS {
        for action in ACTIONS {
            add_rule(&mut store, rule(direction, action, group("p-1")));
            add_rule(&mut store, rule(direction, action, list(&members)));
        }
    }
    store
}

/// A rule of each action and direction in each of so many RuleSets, all on one port, each with a peer of its own; by label,
/// as IP list, and as virtual service.
fn with_rule_sets(count: usize) -> ObjectStore {
    let mut store = store();
    add_service(&mut store, "s-1", &["c-0"]);
    for number in 0..count {
        let (name, class, member) = (format!("p-{number}"), format!("c-{number}"), address(number));
        add_group(&mut store, &name, &class, &[&member], &[]);
        let prefix = format!("198.18.{}.{}", number / 250, number % 250 + 1);
        let mut rules = Vec::new();
        for direction in DIRECTIONS {
            for action in ACTIONS {
                for peer in [group(&name), list(&[&prefix]), service_peer("s-1")] {
                    rules.push(rule(direction, action, peer));
                }
            }
        }
        let rule_set = format!("set-{number}");
        store.workload_policies.insert(rule_set.clone(), WorkloadPolicySpec { rule_set, rules, ..Default::default() });
    }
    store
}

#[test]
fn peers_cost_nothing() {
    let one = cost(&with_peers(1));
    assert_eq!(cost(&with_peers(10)), one);
    assert_eq!(cost(&with_peers(1000)), one);
}

#[test]
fn rules_with_an_action_and_service_that_others_have_cost_nothing() {
    let one = cost(&with_rule_sets(1));
    assert_eq!(cost(&with_rule_sets(10)), one);
    assert_eq!(cost(&with_rule_sets(1000)), one);
}

/// Rules of one RuleSet each: their action and ports, all inbound from one group each.
fn on(rules: &[(Action, &[(&str, i32)])]) -> ObjectStore {
    let mut store = store();
    for (number, (action, ports)) in rules.iter().enumerate() {
        let (name, class) = (format!("p-{number}"), format!("c-{number}"));
        add_group(&mut store, &name, &class, &[&address(number)], &[]);
        let services = ports.iter().map(|(protocol, number)| port(protocol, *number)).collect();
        let rule = CompiledRule { services, ..rule(Direction::Inbound, *action, group(&name)) };
        let rule_set = format!("set-{number}");
        let policy = WorkloadPolicySpec { rule_set: rule_set.clone(), rules: vec![rule], ..Default::default() };
        store.workload_policies.insert(rule_set, policy);
    }
    store
}

/// A pair costs one rule in `RF-IN`; of TCP two more, for flows older than the rules: in `RF-IN-OLD` as it is, in
/// `RF-OUT-OLD` backwards.
#[test]
fn what_costs_is_a_new_pair_of_action_and_service() {
    use Action::{Allow, Deny, OverrideDeny};
    let none = rules(&on(&[]));
    for (rules_of_sets, tcp_pairs, other_pairs) in [
        (&[(Allow, &[("TCP", 80)][..])][..], 1, 0),
        (&[(Allow, &[("TCP", 80)]), (Allow, &[("TCP", 80)])], 1, 0),
        (&[(Allow, &[("TCP", 80)]), (Allow, &[("TCP", 81)])], 2, 0),
        (&[(Allow, &[("TCP", 80)]), (Allow, &[("UDP", 80)])], 1, 1),
        (&[(Allow, &[("TCP", 80)]), (Deny, &[("TCP", 80)]), (OverrideDeny, &[("TCP", 80)])], 3, 0),
        // Lists that overlap have the overlap once.
        (&[(Allow, &[("TCP", 80), ("TCP", 443)]), (Allow, &[("TCP", 80), ("TCP", 8443)])], 3, 0),
        (&[(Allow, &[("TCP", 80), ("UDP", 53)]), (Allow, &[("UDP", 53)]), (Deny, &[("UDP", 53)])], 1, 2),
    ] {
        assert_eq!(rules(&on(rules_of_sets)), none + 3 * tcp_pairs + other_pairs, "{rules_of_sets:?}");
    }
    let pairs = |count: i32| {
        let ports: Vec<(&str, i32)> = (0..count).map(|number| ("TCP", 1000 + number)).collect();
        let each: Vec<(Action, &[(&str, i32)])> = ports.chunks(1).map(|port| (Allow, port)).collect();
        let store = on(&each);
        (rules(&store), looked_at(&store, Direction::Inbound, Protocol::TCP, 80))
    };
    let (rules, looked) = pairs(1);
    assert_eq!(pairs(10), (rules + 3 * 9, looked + 9));
    assert_eq!(pairs(100), (rules + 3 * 99, looked + 99));
}

/// Two lists of ports that overlap: who is let in on a port of one list is not let in on a port of the other.
#[test]
fn what_is_merged_is_let_in_where_its_own_rule_says() {
    let ports: [&[(&str, i32)]; 2] = [&[("TCP", 80), ("TCP", 443)], &[("TCP", 80), ("TCP", 8443)]];
    let policy = policy(&on(&[(Action::Allow, ports[0]), (Action::Allow, ports[1])]), &pod());
    let (first, second) = (address(0), address(1));
    for (peer, port, decision) in [
        (&first, 80, Decision::Allow),
        (&first, 443, Decision::Allow),
        (&first, 8443, Decision::Default),
        (&second, 80, Decision::Allow),
        (&second, 443, Decision::Default),
        (&second, 8443, Decision::Allow),
    ] {
        assert_eq!(inbound(&policy, peer, port), decision, "{peer} {port}");
    }
}
