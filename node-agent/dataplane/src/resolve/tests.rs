//! What resolve makes of stores that are written out here, judged packet by packet as the policy model says.

mod cost;
mod exposed;
mod filed;
mod fixture;
mod interest;
mod link;
mod stopgap;

use ringfence_crds::ContainerClusterSpec;
use ringfence_crds::common::PortSpec;
use ringfence_crds::container_workload_profile::DimensionLabels;
use ringfence_crds::node_policy::{InboundEssential, NamedPort};
use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Peer, Subject};
use ringfence_model::{Action, Decision, Direction, PolicyState, Protocol};
use rstest::rstest;

use super::*;
use crate::input::ContainerPort;
use crate::judge::Packet;
use fixture::*;

fn policy(store: &ObjectStore, pod: &LocalPod) -> NetnsPolicy {
    match resolve(store, pod, &[ip(NODE)]) {
        Resolution::Enforce(policy) => policy,
        other => panic!("no policy: {other:?}"),
    }
}

fn decide(policy: &NetnsPolicy, direction: Direction, peer: &str, protocol: Protocol, dport: u16) -> Decision {
    let (src, dst) = match direction {
        Direction::Inbound => (ip(peer), ip(OWN)),
        Direction::Outbound => (ip(OWN), ip(peer)),
    };
    policy.judge(&Packet { direction, protocol, src, dst, sport: 40000, dport, icmp: None }).decision
}

fn inbound(policy: &NetnsPolicy, peer: &str, port: u16) -> Decision {
    decide(policy, Direction::Inbound, peer, Protocol::TCP, port)
}

fn outbound(policy: &NetnsPolicy, peer: &str, port: u16) -> Decision {
    decide(policy, Direction::Outbound, peer, Protocol::TCP, port)
}

#[rstest]
#[case::unmanaged(false, Some(PolicyState::Full), Resolution::Unmanaged)]
#[case::not_released(true, None, Resolution::Unmanaged)]
#[case::idle(true, Some(PolicyState::Idle), Resolution::Idle)]
fn states_without_rules(#[case] managed: bool, #[case] state: Option<PolicyState>, #[case] expected: Resolution) {
    let mut store = store();
    let profile = store.profiles.get_mut("shop").expect("it is there");
    profile.spec.managed = managed;
    profile.enforced_state = state;
    assert_eq!(resolve(&store, &pod(), &[]), expected);
}

#[test]
fn pods_without_a_profile_or_on_the_host_network_are_none_of_ours() {
    let elsewhere = LocalPod { namespace: "other".to_owned(), ..pod() };
    assert_eq!(resolve(&store(), &elsewhere, &[]), Resolution::Unmanaged);
    let host = LocalPod { host_network: true, ..pod() };
    assert_eq!(resolve(&store(), &host, &[]), Resolution::Unmanaged);
}

/// What is missing for a policy.
fn missing(store: &ObjectStore) -> Vec<String> {
    match resolve(store, &pod(), &[]) {
        Resolution::Incomplete { missing, .. } => missing.iter().map(ToString::to_string).collect(),
        other => panic!("complete: {other:?}"),
    }
}

#[test]
fn without_its_node_policy_an_agent_knows_nothing() {
    let store = ObjectStore { node_policy: None, ..store() };
    assert_eq!(missing(&store), ["the NodePolicy of this node"]);
}

#[test]
fn a_rule_applies_by_derived_labels() {
    let mut store = store();
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &[]);
    add_rule(&mut store, rule(Direction::Inbound, Action::Allow, group("p-1")));
    assert_eq!(inbound(&policy(&store, &pod()), "10.244.1.5", 80), Decision::Allow);
    assert_eq!(inbound(&policy(&store, &pod()), "10.244.1.5", 81), Decision::Default);
    assert_eq!(inbound(&policy(&store, &pod()), "10.244.1.6", 80), Decision::Default);
    let annotated = |pairs: &[(&str, &str)]| LocalPod { annotations: map(pairs), ..pod() };
    for other in
        [annotated(&[]), annotated(&[("ringfence.dev/role", "db")]), annotated(&[("ringfence.dev/role", "admin")])]
    {
        assert_eq!(inbound(&policy(&store, &other), "10.244.1.5", 80), Decision::Default, "{:?}", other.annotations);
    }
    let mirror = LocalPod { mirror: true, ..pod() };
    assert_eq!(inbound(&policy(&store, &mirror), "10.244.1.5", 80), Decision::Default, "fixed labels only");
    let second = annotated(&[("com.illumio.role", "web")]);
    assert_eq!(inbound(&policy(&store, &second), "10.244.1.5", 80), Decision::Default, "not a prefix of this cluster");
    store.cluster =
        Some(ContainerClusterSpec { annotation_prefixes: texts(&["com.illumio."]), ..ContainerClusterSpec::default() });
    assert_eq!(inbound(&policy(&store, &second), "10.244.1.5", 80), Decision::Allow);
}

#[test]
fn a_label_map_is_for_pods_if_it_says_so_and_never_widens() {
    let mut store = store();
    let by_map = DimensionLabels { from_label_map: true, ..DimensionLabels::default() };
    store.profiles.get_mut("shop").expect("it is there").spec.labels.insert("env".to_owned(), by_map);
    let labels = |store: &ObjectStore| {
        let labelled = LocalPod { labels: map(&[("stage", "live")]), ..pod() };
        pod_labels(store, &store.profiles["shop"], &labelled).to_string()
    };
    let mut with = |kind: LabelMapKind, values: &[(&str, &str)]| {
        let (from, to) = ("stage".to_owned(), "env".to_owned());
        let label_map = vec![LabelMapEntry { kind, from, to, values: map(values) }];
        store.cluster = Some(ContainerClusterSpec { label_map, ..ContainerClusterSpec::default() });
        labels(&store)
    };
    assert_eq!(with(LabelMapKind::Pod, &[("live", "prod")]), "app=shop,env=prod,role=web");
    assert_eq!(with(LabelMapKind::Pod, &[]), "app=shop,env=live,role=web");
    assert_eq!(with(LabelMapKind::Node, &[("live", "prod")]), "app=shop,role=web");
    assert_eq!(with(LabelMapKind::Pod, &[("live", "no value!")]), "app=shop,role=web");
}

#[test]
fn nothing_empty_or_malformed_selects_anything() {
    let nothing = |change: &dyn Fn(&mut CompiledRule)| {
        let mut store = store();
        let mut rule = rule(Direction::Inbound, Action::Allow, list(&["0.0.0.0/0"]));
        change(&mut rule);
        add_rule(&mut store, rule);
        inbound(&policy(&store, &pod()), "192.0.2.1", 80)
    };
    assert_eq!(nothing(&|_| {}), Decision::Allow, "as it stands the rule hits");
    assert_eq!(nothing(&|rule| rule.subjects.clear()), Decision::Default);
    assert_eq!(nothing(&|rule| rule.subjects = vec![Subject::default()]), Decision::Default);
    assert_eq!(nothing(&|rule| rule.peers.clear()), Decision::Default);
    assert_eq!(nothing(&|rule| rule.peers = vec![Peer::default()]), Decision::Default);
    assert_eq!(nothing(&|rule| rule.peers = vec![list(&[])]), Decision::Default);
    assert_eq!(nothing(&|rule| rule.peers = vec![list(&["::/0", "nonsense", "10.0.0.0/33"])]), Decision::Default);
    assert_eq!(nothing(&|rule| rule.services.clear()), Decision::Default);
    assert_eq!(nothing(&|rule| rule.services = vec![port("TCP", 0), port("XYZ", 80)]), Decision::Default);
    let zero = PortSpec { protocol: "0".to_owned(), ..PortSpec::default() };
    assert_eq!(nothing(&|rule| rule.services = vec![zero.clone()]), Decision::Default);
    assert_eq!(nothing(&|rule| (rule.services.clear(), rule.virtual_service_ports = true).0), Decision::Default);
    let node = Subject { container_hosts: true, ..Subject::default() };
    assert_eq!(nothing(&|rule| rule.subjects = vec![node.clone()]), Decision::Default, "a Pod is no node");
    let bad = LabelSelector {
        is_in: [("Role!".into(), vec!["web".into()])].into_iter().collect(),
        ..LabelSelector::default()
    };
    let bad = Subject { labels: Some(bad), ..Subject::default() };
    assert_eq!(nothing(&|rule| rule.subjects = vec![bad.clone()]), Decision::Default);
    let none = LabelSelector { is_in: [("role".into(), Vec::new())].into_iter().collect(), ..LabelSelector::default() };
    let none = Subject { labels: Some(none), ..Subject::default() };
    assert_eq!(nothing(&|rule| rule.subjects = vec![none.clone()]), Decision::Default);
}

#[test]
fn ip_lists_are_exact_and_an_empty_group_is_nobody() {
    let mut store = store();
    add_group(&mut store, "p-1", "c-1", &[], &[]);
    add_rule(&mut store, rule(Direction::Outbound, Action::Allow, group("p-1")));
    add_rule(&mut store, rule(Direction::Outbound, Action::Allow, list(&["198.51.100.0/25", "203.0.113.7"])));
    let policy = policy(&store, &pod());
    assert_eq!(outbound(&policy, "198.51.100.127", 80), Decision::Allow);
    assert_eq!(outbound(&policy, "198.51.100.128", 80), Decision::Default);
    assert_eq!(outbound(&policy, "203.0.113.7", 80), Decision::Allow);
    assert_eq!(policy.outbound.allow.len(), 1, "one entry for one action and one list of services");
}

#[test]
fn a_rule_with_unknown_peers_makes_the_policy_incomplete() {
    let mut store = store();
    add_rule(&mut store, rule(Direction::Inbound, Action::Allow, group("p-1")));
    assert_eq!(missing(&store), ["PeerGroup p-1"]);
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &[]);
    store.address_groups.clear();
    assert_eq!(missing(&store), ["AddressGroups of class c-1"]);
    add_slice(&mut store, "c-1", 1, None, &["10.244.1.6"], NETWORK);
    assert_eq!(missing(&store), ["AddressGroups of class c-1"], "how many slices there are is said in slice 0");
    add_slice(&mut store, "c-1", 0, Some(3), &["10.244.1.5"], NETWORK);
    assert_eq!(missing(&store), ["AddressGroups of class c-1"], "slice 2 is not there");
    add_slice(&mut store, "c-1", 2, None, &[], NETWORK);
    let policy = policy(&store, &pod());
    assert_eq!(inbound(&policy, "10.244.1.5", 80), Decision::Allow);
    assert_eq!(inbound(&policy, "10.244.1.6", 80), Decision::Allow);

    let mut other = rule(Direction::Inbound, Action::Allow, group("p-2"));
    other.subjects = vec![Subject { labels: Some(selector(&[("role", "db")])), ..Subject::default() }];
    add_rule(&mut store, other);
    assert!(matches!(resolve(&store, &pod(), &[]), Resolution::Enforce(_)), "that rule is not this Pod's");
}

#[test]
fn addresses_of_another_pod_network_are_not_those_of_this_one() {
    let mut store = store();
    add_group(&mut store, "p-1", "c-1", &[], &[]);
    add_slice(&mut store, "c-1", 0, Some(2), &["10.244.1.5"], "uid-2/default");
    add_slice(&mut store, "c-1", 1, None, &["192.0.2.9"], "");
    add_rule(&mut store, rule(Direction::Inbound, Action::Allow, group("p-1")));
    let policy = policy(&store, &pod());
    assert_eq!(inbound(&policy, "10.244.1.5", 80), Decision::Default);
    assert_eq!(inbound(&policy, "192.0.2.9", 80), Decision::Allow, "outside every Pod network");
}

#[test]
fn labels_are_reached_through_the_services_in_front() {
    let mut store = store();
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &["s-1"]);
    add_service(&mut store, "s-1", &["c-1", "c-2"]);
    add_rule(&mut store, rule(Direction::Outbound, Action::Allow, group("p-1")));
    let policy = policy(&store, &pod());
    assert_eq!(outbound(&policy, "10.244.1.5", 80), Decision::Allow);
    assert_eq!(outbound(&policy, "10.96.0.80", 8080), Decision::Allow, "leads to port 80");
    assert_eq!(outbound(&policy, "10.96.0.80", 80), Decision::Default, "not a port of the Service");
    assert_eq!(outbound(&policy, "10.96.0.80", 9090), Decision::Default, "leads to other ports");
    store.address_groups.remove("s-1-0");
    assert_eq!(missing(&store), ["AddressGroup of service s-1"]);
}

#[rstest]
#[case::all_ports_and_all_classes(&[90, 91], &["c-1"], Decision::Deny)]
#[case::one_port_of_two(&[90], &["c-1"], Decision::Default)]
#[case::one_class_of_two(&[90, 91], &["c-1", "c-2"], Decision::Default)]
#[case::nobody_behind(&[90, 91], &[], Decision::Default)]
fn a_deny_closes_a_front_end_only_if_it_denies_all_behind(
    #[case] ports: &[i32],
    #[case] back_end_classes: &[&str],
    #[case] expected: Decision,
) {
    let mut store = store();
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &["s-1"]);
    add_service(&mut store, "s-1", back_end_classes);
    let services = ports.iter().map(|number| port("TCP", *number)).collect();
    add_rule(&mut store, CompiledRule { services, ..rule(Direction::Outbound, Action::Deny, group("p-1")) });
    let policy = policy(&store, &pod());
    assert_eq!(outbound(&policy, "10.244.1.5", 90), Decision::Deny);
    assert_eq!(outbound(&policy, "10.96.0.80", 9090), expected);
}

#[test]
fn a_virtual_service_as_provider_opens_exact_pairs_at_the_consumer() {
    let mut store = store();
    add_service(&mut store, "s-1", &["c-1"]);
    let mut open = rule(Direction::Outbound, Action::Allow, service_peer("s-1"));
    (open.services, open.virtual_service_ports) = (Vec::new(), true);
    add_rule(&mut store, open.clone());
    let own_ports = policy(&store, &pod());
    let allowed = [("10.96.0.80", 8080), ("10.96.0.80", 9090), ("10.244.1.5", 80), ("10.244.1.5", 90)];
    for (peer, port) in allowed {
        assert_eq!(outbound(&own_ports, peer, port), Decision::Allow, "{peer} {port}");
    }
    for (peer, port) in [("10.96.0.80", 80), ("10.244.1.5", 8080), ("10.244.1.6", 80)] {
        assert_eq!(outbound(&own_ports, peer, port), Decision::Default, "{peer} {port}");
    }
    // With services, only those whose target port is among them.
    store.workload_policies.clear();
    add_rule(&mut store, CompiledRule { services: vec![port("TCP", 80)], virtual_service_ports: false, ..open });
    let some = policy(&store, &pod());
    assert_eq!(outbound(&some, "10.96.0.80", 8080), Decision::Allow);
    assert_eq!(outbound(&some, "10.244.1.5", 80), Decision::Allow);
    assert_eq!(outbound(&some, "10.96.0.80", 9090), Decision::Default);
    assert_eq!(outbound(&some, "10.244.1.5", 90), Decision::Default);
}

#[test]
fn a_virtual_service_as_provider_opens_its_target_ports_on_pods_of_its_namespace() {
    let mut store = store();
    add_service(&mut store, "s-1", &["c-1"]);
    let mut open = rule(Direction::Inbound, Action::Allow, list(&["192.0.2.0/24"]));
    open.subjects = vec![Subject { virtual_service: Some("shop/front".to_owned()), ..Subject::default() }];
    (open.services, open.virtual_service_ports) = (Vec::new(), true);
    add_rule(&mut store, open.clone());
    let served = policy(&store, &pod());
    assert_eq!(inbound(&served, "192.0.2.1", 80), Decision::Allow);
    assert_eq!(inbound(&served, "192.0.2.1", 8000), Decision::Allow, "the Pod's own port http");
    assert_eq!(inbound(&served, "192.0.2.1", 8080), Decision::Default, "the Service's port is none of the Pod's");
    let unnamed = LocalPod { container_ports: Vec::new(), ..pod() };
    assert_eq!(inbound(&policy(&store, &unnamed), "192.0.2.1", 8000), Decision::Default);
    let other = LocalPod { labels: map(&[("app", "db")]), ..pod() };
    assert_eq!(inbound(&policy(&store, &other), "192.0.2.1", 80), Decision::Default, "not behind the Service");

    // The same Pod of another namespace is not behind it, and does not wait for it.
    let profile = store.profiles["shop"].clone();
    store.profiles.insert("copy".to_owned(), profile);
    let foreign = LocalPod { namespace: "copy".to_owned(), ..pod() };
    assert_eq!(inbound(&policy(&store, &foreign), "192.0.2.1", 80), Decision::Default);

    store.workload_policies.clear();
    add_rule(&mut store, CompiledRule { services: vec![port("TCP", 80)], virtual_service_ports: false, ..open });
    let some = policy(&store, &pod());
    assert_eq!(inbound(&some, "192.0.2.1", 80), Decision::Allow);
    assert_eq!(inbound(&some, "192.0.2.1", 8000), Decision::Default, "not among the rule's services");
    store.address_groups.clear();
    assert_eq!(missing(&store), ["AddressGroup of service shop/front"]);
}

#[test]
fn a_service_without_a_selector_selects_the_pods_it_names_only() {
    let mut store = store();
    add_service(&mut store, "s-1", &["c-1"]);
    let ends = store.address_groups.get_mut("s-1-0").and_then(|group| group.service.as_mut()).expect("it is there");
    (ends.selector, ends.target_pods) = (std::collections::BTreeMap::new(), texts(&["web-1"]));
    let mut open = rule(Direction::Inbound, Action::Allow, list(&["192.0.2.0/24"]));
    open.subjects = vec![Subject { virtual_service: Some("shop/front".to_owned()), ..Subject::default() }];
    add_rule(&mut store, open);
    assert_eq!(inbound(&policy(&store, &pod()), "192.0.2.1", 80), Decision::Allow);
    let other = LocalPod { name: "web-2".to_owned(), ..pod() };
    assert_eq!(inbound(&policy(&store, &other), "192.0.2.1", 80), Decision::Default);
}

#[test]
fn essentials_are_exact() {
    let mut store = store();
    let essential = |reason: &str, selector: &[(&str, &str)], port_number: i32| InboundEssential {
        reason: reason.to_owned(),
        namespace: "shop".to_owned(),
        selector: map(selector),
        ports: vec![port("TCP", port_number)],
        ..InboundEssential::default()
    };
    let node = store.node_policy.as_mut().expect("it is there");
    node.dns_servers = texts(&["10.96.0.11"]);
    node.inbound_essentials = vec![
        InboundEssential { from: texts(&["172.18.0.2/32"]), ..essential("webhook", &[("app", "web")], 9443) },
        InboundEssential { any_source: true, ..essential("dns", &[("app", "web")], 53) },
        InboundEssential { any_source: true, ..essential("nobody", &[], 1001) },
        InboundEssential { any_source: true, ..essential("others", &[("app", "db")], 1002) },
        InboundEssential {
            any_source: true,
            namespace: "other".to_owned(),
            ..essential("away", &[("app", "web")], 1003)
        },
        essential("from nowhere", &[("app", "web")], 1004),
    ];
    // An OverrideDeny of everything touches none of them.
    for direction in [Direction::Inbound, Direction::Outbound] {
        let deny = rule(direction, Action::OverrideDeny, list(&["0.0.0.0/0"]));
        add_rule(&mut store, CompiledRule { all_services: true, services: Vec::new(), ..deny });
    }
    let policy = policy(&store, &pod());
    let cases = [
        (NODE, 8080, true),
        (NODE, 8000, false),
        ("192.0.2.1", 8080, false),
        (OWN, 80, true),
        ("172.18.0.2", 9443, true),
        ("172.18.0.3", 9443, false),
        ("192.0.2.1", 53, true),
        ("192.0.2.1", 1001, false),
        ("192.0.2.1", 1002, false),
        ("192.0.2.1", 1003, false),
        ("192.0.2.1", 1004, false),
    ];
    for (peer, port, essential) in cases {
        let expected = if essential { Decision::Essential } else { Decision::OverrideDeny };
        assert_eq!(inbound(&policy, peer, port), expected, "{peer} {port}");
    }
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let to = |server: &str, port| decide(&policy, Direction::Outbound, server, protocol, port);
        assert_eq!(to("10.96.0.10", 53), Decision::Essential, "in its resolv.conf");
        assert_eq!(to("10.96.0.11", 53), Decision::Essential, "of the cluster");
        assert_eq!(to("10.96.0.10", 54), Decision::OverrideDeny);
        assert_eq!(to("10.96.0.12", 53), Decision::OverrideDeny);
    }
}

/// A Pod has ports named dns of two protocols, and two of one of them. The cluster's resolver is asked by UDP.
#[test]
fn an_essential_port_by_name_is_the_first_of_its_protocol() {
    let mut store = store();
    store.node_policy.as_mut().expect("it is there").inbound_essentials = vec![InboundEssential {
        reason: "dns".to_owned(),
        namespace: "shop".to_owned(),
        selector: map(&[("app", "web")]),
        named_ports: vec![NamedPort { protocol: "UDP".to_owned(), name: "dns".to_owned() }],
        any_source: true,
        ..InboundEssential::default()
    }];
    let ports = [("dns", Protocol::TCP, 53), ("other", Protocol::UDP, 54), ("dns", Protocol::UDP, 55)];
    let ports = ports.into_iter().chain([("dns", Protocol::UDP, 56)]);
    let container_ports =
        ports.map(|(name, protocol, port)| ContainerPort { name: Some(name.to_owned()), protocol, port }).collect();
    let policy = policy(&store, &LocalPod { container_ports, ..pod() });
    for (protocol, port, decision) in [
        (Protocol::UDP, 55, Decision::Essential),
        (Protocol::TCP, 53, Decision::Default),
        (Protocol::UDP, 53, Decision::Default),
        (Protocol::UDP, 54, Decision::Default),
        (Protocol::TCP, 55, Decision::Default),
        (Protocol::UDP, 56, Decision::Default),
    ] {
        assert_eq!(decide(&policy, Direction::Inbound, "192.0.2.1", protocol, port), decision, "{protocol} {port}");
    }
}

#[test]
fn the_order_of_rules_and_objects_does_not_matter() {
    let rules = || {
        let mut rules = Vec::new();
        for (peer, action) in [("192.0.2.1", Action::Allow), ("192.0.2.2", Action::Allow), ("192.0.2.3", Action::Deny)]
        {
            for reject in [false, true] {
                rules.push(CompiledRule { reject, ..rule(Direction::Inbound, action, list(&[peer])) });
            }
        }
        rules
    };
    let mut forward = store();
    rules().into_iter().for_each(|rule| add_rule(&mut forward, rule));
    let mut backward = store();
    rules().into_iter().rev().for_each(|rule| add_rule(&mut backward, rule));
    let policy = policy(&forward, &pod());
    assert_eq!(policy, self::policy(&backward, &pod()));
    assert_eq!(policy.inbound.allow.len(), 1, "both peers in one set; an Allow rejects nothing");
    let rejects: Vec<bool> = policy.inbound.deny.iter().map(|entry| entry.reject).collect();
    assert_eq!(rejects, [true, false], "where one rule asks to reject and one does not, it is rejected");
}

#[test]
fn the_marker_of_peer_groups_is_no_group_whatever_it_says() {
    let mut store = store();
    add_rule(&mut store, rule(Direction::Inbound, Action::Allow, group(names::MARKER)));
    add_group(&mut store, names::MARKER, "c-1", &["10.244.1.5"], &[]);
    let Resolution::Incomplete { missing, closed: Some(policy) } = resolve(&store, &pod(), &[]) else {
        panic!("the marker was taken for a group");
    };
    assert_eq!(missing, [Missing::PeerGroup(names::MARKER.to_owned())]);
    assert_eq!(decide(&policy, Direction::Inbound, "10.244.1.5", Protocol::TCP, 80), Decision::Default);
}
