//! What a Pod with nothing in force gets while objects are missing: never more than it gets in the end.

use super::*;

/// The store of the fixture in another state.
fn store_in(state: PolicyState) -> ObjectStore {
    let mut store = store();
    store.profiles.values_mut().for_each(|profile| profile.enforced_state = Some(state));
    store
}

fn stopgap(store: &ObjectStore) -> Option<NetnsPolicy> {
    match resolve(store, &pod(), &[ip(NODE)]) {
        Resolution::Incomplete { closed, .. } => closed,
        other => panic!("complete: {other:?}"),
    }
}

/// The stopgap of a store with these rules, in a state that has one.
fn with(state: PolicyState, rules: Vec<CompiledRule>) -> NetnsPolicy {
    let mut store = store_in(state);
    rules.into_iter().for_each(|rule| add_rule(&mut store, rule));
    stopgap(&store).expect("a state that blocks")
}

fn on(number: i32, rule: CompiledRule) -> CompiledRule {
    CompiledRule { services: vec![port("TCP", number)], ..rule }
}

#[test]
fn a_quarantine_does_not_wait_for_an_unrelated_rule() {
    for state in [PolicyState::Selective, PolicyState::Full] {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let quarantine = rule(direction, Action::OverrideDeny, list(&["192.0.2.0/24"]));
            let unrelated = on(443, rule(direction, Action::Allow, group("missing")));
            let policy = with(state, vec![quarantine, unrelated]);
            let decide = |peer| decide(&policy, direction, peer, Protocol::TCP, 80);
            assert_eq!(decide("192.0.2.1"), Decision::OverrideDeny, "{state:?} {direction:?}");
            assert_eq!(decide("198.51.100.1"), Decision::Default, "{state:?} {direction:?}");
        }
    }
}

#[test]
fn an_allow_that_is_missing_opens_nothing() {
    let deny = || rule(Direction::Inbound, Action::Deny, list(&["192.0.2.0/24"]));
    let half = CompiledRule {
        peers: vec![list(&["192.0.2.1"]), group("missing")],
        ..rule(Direction::Inbound, Action::Allow, group("missing"))
    };
    for state in [PolicyState::Selective, PolicyState::Full] {
        let policy = with(state, vec![deny(), half.clone()]);
        assert_eq!(inbound(&policy, "192.0.2.1", 80), Decision::Allow, "it is known to be allowed");
        assert_eq!(inbound(&policy, "192.0.2.2", 80), Decision::Deny, "it may be allowed or not");
    }
}

#[test]
fn a_blocking_rule_that_is_missing_hits_whoever_it_may_hit() {
    for (action, decision) in [(Action::Deny, Decision::Deny), (Action::OverrideDeny, Decision::OverrideDeny)] {
        let unknown = CompiledRule { reject: true, ..rule(Direction::Inbound, action, group("missing")) };
        let policy = with(PolicyState::Selective, vec![unknown]);
        assert_eq!(inbound(&policy, "192.0.2.1", 80), decision);
        assert_eq!(inbound(&policy, "192.0.2.1", 81), Decision::Default, "its services are known");
        assert_eq!(outbound(&policy, "192.0.2.1", 80), Decision::Default, "its direction is known");
        assert_eq!(inbound(&policy, OWN, 80), Decision::Essential);
        let entries = policy.inbound.deny.iter().chain(&policy.inbound.override_deny);
        assert!(entries.into_iter().all(|entry| !entry.reject), "who is blocked in error must try again");

        // A consumer reaches it through Services too, whose ports nobody knows yet.
        let policy = with(PolicyState::Selective, vec![rule(Direction::Outbound, action, group("missing"))]);
        assert_eq!(outbound(&policy, "192.0.2.1", 9999), decision);
        assert_eq!(outbound(&policy, "10.96.0.10", 53), Decision::Essential, "names are resolved");
        assert_eq!(inbound(&policy, "192.0.2.1", 80), Decision::Default);
    }
}

#[test]
fn full_opens_what_is_known_unless_an_override_deny_is_not() {
    let allow = |number| on(number, rule(Direction::Inbound, Action::Allow, list(&["192.0.2.1"])));
    let unknown = rule(Direction::Inbound, Action::OverrideDeny, group("missing"));
    let policy = with(PolicyState::Full, vec![allow(80), allow(81), unknown]);
    assert_eq!(inbound(&policy, "192.0.2.1", 80), Decision::OverrideDeny);
    assert_eq!(inbound(&policy, "192.0.2.1", 81), Decision::Allow);
    assert_eq!(inbound(&policy, "192.0.2.2", 81), Decision::Default);
}

#[test]
fn without_its_node_policy_nobody_knows_whose_addresses_are_whose() {
    let mut store = store_in(PolicyState::Selective);
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &[]);
    add_rule(&mut store, on(80, rule(Direction::Inbound, Action::Deny, group("p-1"))));
    add_rule(&mut store, on(81, rule(Direction::Inbound, Action::Deny, list(&["10.244.1.5"]))));
    store.node_policy = None;
    let policy = stopgap(&store).expect("Selective");
    assert_eq!(inbound(&policy, "10.244.1.5", 80), Decision::Deny);
    assert_eq!(inbound(&policy, "10.244.1.6", 80), Decision::Deny, "it may be on another network");
    assert_eq!(inbound(&policy, "10.244.1.5", 81), Decision::Deny);
    assert_eq!(inbound(&policy, "10.244.1.6", 81), Decision::Default, "prefixes are known");
}

#[test]
fn a_deny_at_a_service_that_is_missing_hits_every_port_it_may_lead_to() {
    let behind = |services: Vec<PortSpec>, virtual_service_ports| CompiledRule {
        subjects: vec![Subject { virtual_service: Some("shop/front".to_owned()), ..Subject::default() }],
        services,
        virtual_service_ports,
        ..rule(Direction::Inbound, Action::Deny, list(&["192.0.2.0/24"]))
    };
    let own_ports = with(PolicyState::Selective, vec![behind(Vec::new(), true)]);
    assert_eq!(inbound(&own_ports, "192.0.2.1", 80), Decision::Deny);
    assert_eq!(inbound(&own_ports, "192.0.2.1", 8000), Decision::Deny);
    let one_port = with(PolicyState::Selective, vec![behind(vec![port("TCP", 80)], false)]);
    assert_eq!(inbound(&one_port, "192.0.2.1", 80), Decision::Deny);
    assert_eq!(inbound(&one_port, "192.0.2.1", 8000), Decision::Default);
}

#[test]
fn visibility_only_waits_for_all_of_it() {
    let mut store = store_in(PolicyState::VisibilityOnly);
    add_rule(&mut store, rule(Direction::Inbound, Action::Deny, group("missing")));
    assert_eq!(stopgap(&store), None, "there is nothing to block");
}

/// A store in which every kind of peer and subject occurs with every action.
fn full_store(state: PolicyState) -> ObjectStore {
    let mut store = store_in(state);
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &["s-1"]);
    add_slice(&mut store, "c-1", 0, Some(2), &["10.244.1.5"], NETWORK);
    add_slice(&mut store, "c-1", 1, None, &["10.244.1.6"], NETWORK);
    add_group(&mut store, "p-2", "c-2", &["10.244.2.5"], &[]);
    add_service(&mut store, "s-1", &["c-1"]);
    let front = || Subject { virtual_service: Some("shop/front".to_owned()), ..Subject::default() };
    for action in [Action::Allow, Action::Deny, Action::OverrideDeny] {
        let wide = match action {
            Action::OverrideDeny => group("p-2"),
            Action::Allow | Action::Deny => list(&["10.244.0.0/16", "10.96.0.0/16"]),
        };
        for direction in [Direction::Inbound, Direction::Outbound] {
            add_rule(&mut store, on(80, rule(direction, action, group("p-1"))));
            add_rule(&mut store, on(90, rule(direction, action, wide.clone())));
        }
        let served = CompiledRule { subjects: vec![front()], ..rule(Direction::Inbound, action, group("p-2")) };
        add_rule(&mut store, on(8000, served));
        add_rule(&mut store, on(91, rule(Direction::Outbound, action, service_peer("s-1"))));
    }
    store
}

/// Takes away what the bits of `choice` stand for.
fn without(mut store: ObjectStore, choice: u32) -> ObjectStore {
    let taken = |bit: u32| choice & (1 << bit) != 0;
    for (bit, name) in (0..).zip(["p-1", "p-2"]) {
        store.peer_groups.retain(|group, _| group != name || !taken(bit));
    }
    for (bit, name) in (2..).zip(["c-1-0", "c-1-1", "c-2-0", "s-1-0"]) {
        store.address_groups.retain(|group, _| group != name || !taken(bit));
    }
    store.node_policy = store.node_policy.filter(|_| !taken(6));
    store
}

#[test]
fn whatever_is_missing_nothing_passes_that_the_complete_policy_blocks() {
    let peers = ["10.244.1.5", "10.244.1.6", "10.244.2.5", "10.244.9.9", "10.96.0.80", "192.0.2.1"];
    let pairs = || peers.iter().flat_map(|peer| [79, 80, 90, 91, 8000, 8080, 9090].map(|port| (*peer, port)));
    let blocks = |policy: &NetnsPolicy, direction, peer: &str, dport| {
        let (src, dst) = if direction == Direction::Inbound { (peer, OWN) } else { (OWN, peer) };
        let (src, dst) = (ip(src), ip(dst));
        policy.judge(&Packet { direction, protocol: Protocol::TCP, src, dst, sport: 40000, dport, icmp: None }).blocks
    };
    for state in [PolicyState::Selective, PolicyState::Full] {
        let complete = policy(&full_store(state), &pod());
        for choice in 1..1 << 7 {
            let stopgap = stopgap(&without(full_store(state), choice)).expect("a state that blocks");
            for direction in [Direction::Inbound, Direction::Outbound] {
                for (peer, dport) in pairs() {
                    let passes = !blocks(&stopgap, direction, peer, dport);
                    let wider = passes && blocks(&complete, direction, peer, dport);
                    assert!(!wider, "{state:?} {choice:#b} {direction:?} {peer} {dport}");
                }
            }
        }
    }
}
