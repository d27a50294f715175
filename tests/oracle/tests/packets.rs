//! Packets at one Pod; what becomes of them written by hand from the policy model.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::{Action, Decision as D, Direction, PolicyState as S, PortMatch, Protocol};
use ringfence_oracle::world::{
    Actor, IpList, Key, LabelRule, Node, Pod, Profile, Rule, RuleServices, RuleSet, Service, ServicePort, ServiceRef,
    Slice, TargetPort, World,
};
use ringfence_oracle::{Ask, Does, Packet, Ruling, judge_packet};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

/// Pod `a/a` (app=a, 10.0.0.1 and fd00::1) on node `n` (172.30.0.1), in this state, and `b/b` (app=b, 10.0.0.2), unmanaged.
fn world(state: S) -> World {
    let mut world = World::default();
    for (name, state, addresses) in [("a", Some(state), &["10.0.0.1", "fd00::1"][..]), ("b", None, &["10.0.0.2"])] {
        let labels = BTreeMap::from([("app".parse().unwrap(), LabelRule::Fixed(name.parse().unwrap()))]);
        world.profiles.insert(name.to_owned(), Profile { state, labels });
        let addresses = addresses.iter().map(|text| ip(text)).collect();
        let labels = BTreeMap::from([("app".to_owned(), name.to_owned())]);
        world.pods.insert(key(name, name), Pod { node: "n".to_owned(), addresses, labels, ..Pod::default() });
    }
    world.nodes.insert("n".to_owned(), Node { addresses: BTreeSet::from([ip("172.30.0.1")]), ..Node::default() });
    world
}

/// Pods with app=a.
fn app_a() -> Actor {
    let is = BTreeMap::from([("app".parse().unwrap(), BTreeSet::from(["a".parse().unwrap()]))]);
    Actor::Labels { is, not: BTreeMap::new(), groups: BTreeSet::new() }
}

/// An IP list of one range.
fn list(world: &mut World, first: &str, last: &str) -> Actor {
    let name = format!("{first}-{last}");
    let list = IpList { ranges: vec![(ip(first), ip(last))], exclusions: Vec::new() };
    world.ip_lists.insert(name.clone(), list);
    Actor::IpList(name)
}

fn rule(action: Action, from: Actor, to: Actor, port: PortMatch) -> Rule {
    Rule {
        name: "x".to_owned(),
        enabled: true,
        action,
        reject: false,
        extra_scope: false,
        consumers: vec![from],
        providers: vec![to],
        services: RuleServices::Listed(vec![ServiceRef::Port(port)]),
    }
}

fn add(world: &mut World, rule: Rule) {
    let name = format!("r{}", world.rule_sets.len());
    world.rule_sets.insert(name, RuleSet { enabled: true, scopes: vec![BTreeMap::new()], rules: vec![rule] });
}

fn tcp(number: i32) -> PortMatch {
    PortMatch::parse("TCP", Some(number), None, None, None).unwrap()
}

/// From Pod a, or to it.
fn ruling(world: &World, direction: Direction, peer: &str, ask: Ask) -> Option<Ruling> {
    judge_packet(world, &key("a", "a"), &Packet { direction, peer: ip(peer), ask })
}

fn out(world: &World, peer: &str, port: u16) -> D {
    ruling(world, Direction::Outbound, peer, Ask::port(Protocol::TCP, port)).unwrap().side.decision
}

fn into(world: &World, peer: &str, port: u16) -> D {
    ruling(world, Direction::Inbound, peer, Ask::port(Protocol::TCP, port)).unwrap().side.decision
}

/// Service `a/s`: port 80 of 10.96.0.1 and fd96::1, of a load balancer at 198.51.100.1, and port 30000 of the nodes, lead to
/// port 8080 of these Pods.
fn add_service(world: &mut World, behind: &[&str]) {
    let endpoints = behind.iter().map(|address| (vec![ip(address)], None)).collect();
    let slice = Slice { endpoints, ports: vec![("web".to_owned(), Protocol::TCP, 8080)] };
    let port = ServicePort {
        name: "web".to_owned(),
        protocol: Protocol::TCP,
        port: 80,
        target: TargetPort::Number(8080),
        node_port: Some(30000),
    };
    let service = Service {
        selector: BTreeMap::from([("app".to_owned(), "a".to_owned())]),
        cluster_ips: vec![ip("10.96.0.1"), ip("fd96::1")],
        ingress_ips: BTreeSet::from([ip("198.51.100.1")]),
        external_ips: BTreeSet::from([ip("203.0.113.1"), ip("203.0.113.2")]),
        ports: vec![port],
        slices: BTreeMap::from([("e".to_owned(), slice)]),
        ..Service::default()
    };
    world.services.insert(key("a", "s"), service);
}

/// The kind and the code of an ICMP message count, and nothing else of the protocol does.
#[test]
fn an_icmp_rule_hits_its_type_and_code() {
    let mut world = world(S::Full);
    let anybody = list(&mut world, "0.0.0.0", "255.255.255.255");
    let icmp = |kind, code| PortMatch::parse("ICMP", None, None, Some(kind), code).unwrap();
    add(&mut world, rule(Action::Allow, anybody.clone(), app_a(), icmp(8, None)));
    add(&mut world, rule(Action::Allow, anybody, app_a(), icmp(3, Some(4))));
    let decide = |icmp| {
        let ask = Ask { protocol: Protocol::ICMP, port: 0, icmp };
        ruling(&world, Direction::Inbound, "192.0.2.1", ask).unwrap().side.decision
    };
    assert_eq!([(8, 0), (8, 9), (3, 4)].map(|icmp| decide(Some(icmp))), [D::Allow; 3]);
    assert_eq!([(0, 0), (3, 3), (4, 4)].map(|icmp| decide(Some(icmp))), [D::Default; 3]);
    assert_eq!(decide(None), D::Default, "nobody knows what it is");
}

#[test]
fn a_packet_has_one_address() {
    let mut world = world(S::Full);
    world.pods.get_mut(&key("b", "b")).unwrap().addresses.push(ip("10.0.0.3"));
    let listed = list(&mut world, "10.0.0.3", "10.0.0.3");
    add(&mut world, rule(Action::Allow, listed, app_a(), tcp(80)));
    assert_eq!(into(&world, "10.0.0.3", 80), D::Allow);
    assert_eq!(into(&world, "10.0.0.2", 80), D::Default, "the same Pod's other address is not listed");
}

#[test]
fn a_rule_that_asks_for_it_rejects_and_a_default_does_not() {
    let rejects = |state, action, reject| {
        let mut world = world(state);
        let listed = list(&mut world, "192.0.2.1", "192.0.2.1");
        add(&mut world, Rule { reject, ..rule(action, listed, app_a(), tcp(80)) });
        let ruling = ruling(&world, Direction::Inbound, "192.0.2.1", Ask::port(Protocol::TCP, 80)).unwrap();
        (ruling.does, ruling.rejects())
    };
    for action in [Action::Deny, Action::OverrideDeny] {
        assert_eq!(rejects(S::Full, action, true), (Does::Block, true));
        assert_eq!(rejects(S::Selective, action, true), (Does::Block, true));
        assert_eq!(rejects(S::Full, action, false), (Does::Block, false));
        assert_eq!(rejects(S::VisibilityOnly, action, true), (Does::WouldBlock, false));
    }
    assert_eq!(rejects(S::Full, Action::Allow, true), (Does::Pass, false));
    let nothing = ruling(&world(S::Full), Direction::Inbound, "192.0.2.1", Ask::port(Protocol::TCP, 80)).unwrap();
    assert_eq!((nothing.does, nothing.rejects()), (Does::Block, false));
}

#[test]
fn a_label_is_reached_at_every_front_end_before_it_on_its_port() {
    let mut world = world(S::Full);
    world.settings.external_ranges = vec![(ip("203.0.113.1"), ip("203.0.113.1"))];
    world.pods.insert(key("a", "other"), Pod { addresses: vec![ip("10.0.0.4")], ..world.pods[&key("a", "a")].clone() });
    add_service(&mut world, &["10.0.0.4"]);
    add(&mut world, rule(Action::Allow, app_a(), app_a(), tcp(8080)));
    for (peer, port) in [
        ("10.0.0.4", 8080),
        ("10.96.0.1", 80),
        ("fd96::1", 80),
        ("198.51.100.1", 80),
        ("203.0.113.1", 80),
        ("172.30.0.1", 30000),
    ] {
        assert_eq!(out(&world, peer, port), D::Allow, "{peer} {port}");
    }
    for (peer, port) in
        [("10.0.0.4", 80), ("10.96.0.1", 8080), ("10.96.0.1", 30000), ("203.0.113.2", 80), ("172.30.0.1", 80)]
    {
        assert_eq!(out(&world, peer, port), D::Default, "{peer} {port}");
    }
}

#[test]
fn which_of_two_services_at_one_address_is_meant_is_not_said() {
    let mut world = world(S::Full);
    add_service(&mut world, &["10.0.0.1"]);
    world.services.insert(key("b", "s"), world.services[&key("a", "s")].clone());
    assert_eq!(ruling(&world, Direction::Outbound, "10.96.0.1", Ask::port(Protocol::TCP, 80)), None);
    assert_eq!(out(&world, "10.96.0.1", 81), D::Default);
}

#[test]
fn essentials_of_a_pod() {
    let mut world = world(S::Full);
    let pod = world.pods.get_mut(&key("a", "a")).unwrap();
    (pod.probe_ports, pod.resolvers) = (BTreeSet::from([(Protocol::TCP, 8081)]), vec![ip("192.0.2.53")]);
    world.nodes.insert("m".to_owned(), Node { addresses: BTreeSet::from([ip("172.30.0.2")]), ..Node::default() });
    assert_eq!(into(&world, "172.30.0.1", 8081), D::Essential, "a probe of its own node");
    assert_eq!(into(&world, "172.30.0.2", 8081), D::Default, "another node");
    assert_eq!(into(&world, "172.30.0.1", 8080), D::Default, "no port of a probe");
    assert_eq!([out(&world, "192.0.2.53", 53), out(&world, "192.0.2.53", 54)], [D::Essential, D::Default]);
    for own in ["10.0.0.1", "fd00::1", "127.0.0.1"] {
        assert_eq!(out(&world, own, 80), D::Essential, "{own}");
    }
}

#[test]
fn what_it_sends_to_its_own_service_needs_a_rule() {
    for behind in [&["10.0.0.1"][..], &["10.0.0.1", "10.0.0.4"], &[]] {
        let mut world = world(S::Full);
        world.pods.insert(key("a", "b"), Pod { addresses: vec![ip("10.0.0.4")], ..world.pods[&key("a", "a")].clone() });
        add_service(&mut world, behind);
        let ruling = ruling(&world, Direction::Outbound, "10.96.0.1", Ask::port(Protocol::TCP, 80)).unwrap();
        assert_eq!(ruling.side.decision, D::Default, "{behind:?}");
    }
}
