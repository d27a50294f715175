//! The node itself. Expected results are written by hand from the policy model.

use ringfence_crds::NodePolicySpec;
use ringfence_crds::common::PortSpec;
use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Peer, Subject, WorkloadPolicySpec};
use ringfence_model::Decision;

use super::*;
use crate::host::fingerprint;
use crate::input::ObjectStore;
use crate::judge::Packet;
use crate::render::render;

const OWN: &str = "172.30.0.11";

fn essential(reason: &str, direction: Direction, port: i32) -> HostEssential {
    let port = PortSpec { protocol: "TCP".to_owned(), port: Some(port), ..PortSpec::default() };
    let (reason, peers) = (reason.to_owned(), Vec::new());
    HostEssential { reason, direction, ports: vec![port], peers, peer_group: None, anyone: false }
}

fn store(state: PolicyState, essentials: Vec<HostEssential>) -> ObjectStore {
    let labels = [("role".to_owned(), "host".to_owned())].into();
    let host = HostPolicy { node: "n1".to_owned(), state, labels, essentials, witnesses: Vec::new() };
    let node = NodePolicySpec { pod_network: "uid/default".to_owned(), host: Some(host), ..NodePolicySpec::default() };
    ObjectStore { node_policy: Some(node), ..ObjectStore::default() }
}

fn add(store: &mut ObjectStore, action: Action, subject: Subject, from: &str, port: i32) {
    let rule = CompiledRule {
        name: format!("r{port}"),
        direction: Direction::Inbound,
        action,
        reject: true,
        subjects: vec![subject],
        peers: vec![Peer { addresses: Some(vec![from.to_owned()]), ..Peer::default() }],
        all_services: false,
        services: vec![PortSpec { protocol: "TCP".to_owned(), port: Some(port), ..PortSpec::default() }],
        virtual_service_ports: false,
    };
    let name = format!("w-{}", store.workload_policies.len());
    let policy = WorkloadPolicySpec { rule_set: "set".to_owned(), rules: vec![rule], ..WorkloadPolicySpec::default() };
    store.workload_policies.insert(name, policy);
}

fn by_role(role: &str) -> Subject {
    let is_in = [("role".into(), vec![role.into()])].into_iter().collect();
    Subject { labels: Some(LabelSelector { is_in, ..LabelSelector::default() }), ..Subject::default() }
}

fn host() -> Host {
    Host { addresses: vec![OWN.parse().expect("an address")], ..Host::default() }
}

fn policy(store: &ObjectStore, host: &Host, pods: &[LocalPod]) -> NetnsPolicy {
    match Resolver::new(store).resolve_host(host, pods.iter().cloned()) {
        Resolution::Enforce(policy) => policy,
        other => panic!("{other:?}"),
    }
}

fn decide(policy: &NetnsPolicy, direction: Direction, peer: &str, protocol: Protocol, port: u16) -> Decision {
    let (own, peer) = (OWN.parse().expect("an address"), peer.parse().expect("an address"));
    let (src, dst) = if direction == Direction::Inbound { (peer, own) } else { (own, peer) };
    policy.judge(&Packet { direction, protocol, src, dst, sport: 40000, dport: port, icmp: None }).decision
}

fn inbound(policy: &NetnsPolicy, peer: &str, port: u16) -> Decision {
    decide(policy, Direction::Inbound, peer, Protocol::TCP, port)
}

#[test]
fn a_node_without_a_state_has_no_rules() {
    let resolve = |store: &ObjectStore| Resolver::new(store).resolve_host(&host(), std::iter::empty());
    assert_eq!(resolve(&store(PolicyState::Idle, Vec::new())), Resolution::Idle);
    let mut none = store(PolicyState::Full, Vec::new());
    none.node_policy.as_mut().expect("it is there").host = None;
    assert_eq!(resolve(&none), Resolution::Unmanaged);
    let missing = Resolution::Incomplete { missing: vec![Missing::NodePolicy], closed: None };
    assert_eq!(resolve(&ObjectStore::default()), missing);
}

#[test]
fn rules_apply_by_label_by_name_and_to_all_nodes() {
    let mut store = store(PolicyState::Full, Vec::new());
    add(&mut store, Action::Allow, by_role("host"), "192.0.2.0/24", 1001);
    add(&mut store, Action::Allow, by_role("other"), "192.0.2.0/24", 1002);
    add(
        &mut store,
        Action::Allow,
        Subject { workload: Some("n1".to_owned()), ..Subject::default() },
        "192.0.2.0/24",
        1003,
    );
    add(
        &mut store,
        Action::Allow,
        Subject { workload: Some("n2".to_owned()), ..Subject::default() },
        "192.0.2.0/24",
        1004,
    );
    add(&mut store, Action::Allow, Subject { container_hosts: true, ..Subject::default() }, "192.0.2.0/24", 1005);
    let behind = Subject { virtual_service: Some("shop/web".to_owned()), ..Subject::default() };
    add(&mut store, Action::Allow, behind, "192.0.2.0/24", 1006);
    add(&mut store, Action::Deny, by_role("host"), "192.0.2.7/32", 1007);
    let policy = policy(&store, &host(), &[]);
    let allowed = [1001, 1003, 1005];
    for port in 1001..1007 {
        let expected = if allowed.contains(&port) { Decision::Allow } else { Decision::Default };
        assert_eq!(inbound(&policy, "192.0.2.7", port), expected, "{port}");
    }
    assert_eq!(inbound(&policy, "192.0.2.7", 1007), Decision::Deny);
    assert!(policy.inbound.deny.iter().all(|entry| !entry.reject), "a node drops");
    let text = render(&policy, 1).v4;
    assert!(text.contains(":RF-HOST-IN ") && !text.contains("MARK") && !text.contains("RF-IN"), "{text}");
    assert!(render(&policy, 1).sets.iter().all(|set| set.name.starts_with("RFH")));
}

#[test]
fn essentials_are_exact_and_outrank_an_override_deny() {
    let essentials = vec![
        HostEssential { anyone: true, ..essential("ssh", Direction::Inbound, 22) },
        HostEssential { peers: vec!["172.30.0.10/32".to_owned()], ..essential("kubelet", Direction::Inbound, 10250) },
        essential("nobody", Direction::Inbound, 1000),
    ];
    let mut store = store(PolicyState::Selective, essentials);
    store.node_policy.as_mut().expect("it is there").dns_servers = vec!["10.96.0.10".to_owned()];
    let everyone = Subject { container_hosts: true, ..Subject::default() };
    for port in [22, 10250, 1000] {
        add(&mut store, Action::OverrideDeny, everyone.clone(), "0.0.0.0/0", port);
    }
    let pod = LocalPod {
        ips: vec!["10.244.1.5".parse().expect("an address")],
        probe_ports: [(Protocol::TCP, 8080)].into(),
        ..LocalPod::default()
    };
    let own = Host {
        resolvers: vec!["192.0.2.53".parse().expect("an address")],
        apiserver: vec!["203.0.113.1:6443".parse().expect("an end")],
        ..host()
    };
    let policy = policy(&store, &own, std::slice::from_ref(&pod));
    assert_eq!(inbound(&policy, "192.0.2.1", 22), Decision::Essential);
    assert_eq!(inbound(&policy, "172.30.0.10", 10250), Decision::Essential);
    assert_eq!(inbound(&policy, "172.30.0.12", 10250), Decision::OverrideDeny);
    assert_eq!(inbound(&policy, "192.0.2.1", 1000), Decision::OverrideDeny, "without a peer it is nobody's");
    let out = |peer: &str, protocol, port| decide(&policy, Direction::Outbound, peer, protocol, port);
    assert_eq!(out("192.0.2.53", Protocol::UDP, 53), Decision::Essential);
    assert_eq!(out("10.96.0.10", Protocol::TCP, 53), Decision::Essential);
    assert_eq!(out("203.0.113.1", Protocol::TCP, 6443), Decision::Essential);
    assert_eq!(out("203.0.113.1", Protocol::TCP, 443), Decision::Default);
    assert_eq!(out("10.244.1.5", Protocol::TCP, 8080), Decision::Essential);
    assert_eq!(out("10.244.1.5", Protocol::TCP, 8081), Decision::Default);
}

#[test]
fn what_is_missing_is_no_policy_and_no_stopgap() {
    let nodes = HostEssential { peer_group: Some("p-1".to_owned()), ..essential("overlay", Direction::Inbound, 4789) };
    let store = store(PolicyState::Full, vec![nodes]);
    let expected = Resolution::Incomplete { missing: vec![Missing::PeerGroup("p-1".to_owned())], closed: None };
    let mut resolver = Resolver::new(&store);
    assert_eq!(resolver.resolve_host(&host(), std::iter::empty()), expected);
    assert!(resolver.into_interest().peer_groups.holds("p-1"), "so that it is read");
}

#[test]
fn members_make_no_other_policy_and_rules_do() {
    let mut store = store(PolicyState::Full, Vec::new());
    add(&mut store, Action::Allow, by_role("host"), "192.0.2.0/24", 1001);
    let pod = |ip: &str| LocalPod {
        ips: vec![ip.parse().expect("an address")],
        probe_ports: [(Protocol::TCP, 8080)].into(),
        ..LocalPod::default()
    };
    let one = policy(&store, &host(), &[pod("10.244.1.5")]);
    let other = policy(&store, &host(), &[pod("10.244.1.6")]);
    assert_ne!(one, other);
    assert_eq!(fingerprint(&one), fingerprint(&other));
    assert!(render(&one, 0).sets_of(&one, &other).is_some(), "a Pod that starts changes members alone");
    add(&mut store, Action::Allow, by_role("host"), "192.0.3.0/24", 1001);
    assert_ne!(fingerprint(&one), fingerprint(&policy(&store, &host(), &[pod("10.244.1.5")])));
    let laxer = NetnsPolicy { state: Enforcement::Selective, ..one.clone() };
    assert_ne!(fingerprint(&one), fingerprint(&laxer));
}
