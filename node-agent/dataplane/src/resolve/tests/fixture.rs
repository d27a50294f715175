//! Stores to resolve, written out piece by piece.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_crds::PeerGroupSpec;
use ringfence_crds::address_group::{AddressGroupSpec, BackEnd, FrontEnd, ServiceEnds, TargetPort};
use ringfence_crds::common::{NetworkAddress, PortSpec};
use ringfence_crds::container_workload_profile::{ContainerWorkloadProfileSpec, DimensionLabels};
use ringfence_crds::node_policy::NodePolicySpec;
use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Peer, Subject, WorkloadPolicySpec};
use ringfence_model::{Action, Direction, PolicyState, Protocol};

use crate::input::{ContainerPort, LocalPod, ObjectStore, Profile};

pub const NETWORK: &str = "uid-1/default";
pub const NODE: &str = "10.244.0.1";
pub const OWN: &str = "10.244.0.10";

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of the test")
}

pub fn map<M: FromIterator<(String, String)>>(pairs: &[(&str, &str)]) -> M {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// A Pod of namespace shop, labelled role=web by annotation.
pub fn pod() -> LocalPod {
    LocalPod {
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        labels: map(&[("app", "web")]),
        annotations: map(&[("ringfence.dev/role", "web")]),
        ips: vec![ip(OWN)],
        probe_ports: BTreeSet::from([(Protocol::TCP, 8080)]),
        container_ports: vec![ContainerPort { name: Some("http".to_owned()), protocol: Protocol::TCP, port: 8000 }],
        dns_servers: vec![ip("10.96.0.10")],
        ..LocalPod::default()
    }
}

/// Namespace shop in Full: app=shop fixed, role web or db. No rule.
pub fn store() -> ObjectStore {
    let fixed = DimensionLabels { value: Some("shop".to_owned()), ..DimensionLabels::default() };
    let choice = DimensionLabels { allowed: texts(&["web", "db"]), ..DimensionLabels::default() };
    let spec = ContainerWorkloadProfileSpec {
        managed: true,
        policy_state: Some(PolicyState::Full),
        labels: [("app".to_owned(), fixed), ("role".to_owned(), choice)].into(),
        ..ContainerWorkloadProfileSpec::default()
    };
    let profile = Profile { spec, enforced_state: Some(PolicyState::Full) };
    ObjectStore {
        node_policy: Some(NodePolicySpec { pod_network: NETWORK.to_owned(), ..NodePolicySpec::default() }),
        profiles: [("shop".to_owned(), profile)].into(),
        ..ObjectStore::default()
    }
}

pub fn rule(direction: Direction, action: Action, peer: Peer) -> CompiledRule {
    CompiledRule {
        name: "rule".to_owned(),
        direction,
        action,
        reject: false,
        subjects: vec![Subject { labels: Some(selector(&[("role", "web")])), ..Subject::default() }],
        peers: vec![peer],
        all_services: false,
        services: vec![port("TCP", 80)],
        virtual_service_ports: false,
    }
}

pub fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
    let is_in = pairs.iter().map(|(dimension, value)| ((*dimension).into(), vec![(*value).into()])).collect();
    LabelSelector { is_in, ..LabelSelector::default() }
}

pub fn port(protocol: &str, port: i32) -> PortSpec {
    PortSpec { protocol: protocol.to_owned(), port: Some(port), ..PortSpec::default() }
}

pub fn group(name: &str) -> Peer {
    Peer { peer_group: Some(name.to_owned()), ..Peer::default() }
}

pub fn list(prefixes: &[&str]) -> Peer {
    Peer { addresses: Some(texts(prefixes)), ..Peer::default() }
}

pub fn service_peer(class: &str) -> Peer {
    Peer { virtual_service: Some(class.to_owned()), ..Peer::default() }
}

pub fn add_rule(store: &mut ObjectStore, rule: CompiledRule) {
    let policy = store.workload_policies.entry("set-1".to_owned()).or_default();
    *policy = WorkloadPolicySpec { rule_set: "set".to_owned(), ..policy.clone() };
    policy.rules.push(rule);
}

/// A PeerGroup of one class, whose members lie on this node's Pod network.
pub fn add_group(store: &mut ObjectStore, name: &str, class: &str, members: &[&str], services: &[&str]) {
    let classes = texts(&[class]);
    let spec = PeerGroupSpec { classes, services: texts(services), ..PeerGroupSpec::default() };
    store.peer_groups.insert(name.to_owned(), spec);
    add_slice(store, class, 0, Some(1), members, NETWORK);
}

pub fn add_slice(
    store: &mut ObjectStore,
    class: &str,
    slice: i32,
    slices: Option<i32>,
    members: &[&str],
    network: &str,
) {
    let member = |address: &&str| NetworkAddress { network: network.into(), address: (*address).into() };
    let spec = AddressGroupSpec {
        class: class.to_owned(),
        slice,
        slices,
        members: members.iter().map(member).collect(),
        ..AddressGroupSpec::default()
    };
    store.address_groups.insert(format!("{class}-{slice}"), spec);
}

/// Service shop/front: 10.96.0.80:8080 leads to port 80, :9090 to 90 and 91; its Pods are app=web, ports 80 and http.
pub fn add_service(store: &mut ObjectStore, class: &str, back_end_classes: &[&str]) {
    let front = |port: i32, targets: &[i32]| FrontEnd {
        address: "10.96.0.80".to_owned(),
        protocol: "TCP".to_owned(),
        port,
        target_ports: targets.to_vec(),
    };
    let back = |network: &str, address: &str, port: i32| BackEnd {
        network: network.to_owned(),
        address: address.to_owned(),
        protocol: "TCP".to_owned(),
        port,
    };
    let target = |port: Option<i32>, name: Option<&str>| TargetPort {
        protocol: "TCP".to_owned(),
        port,
        name: name.map(str::to_owned),
    };
    let ends = ServiceEnds {
        namespace: "shop".to_owned(),
        name: "front".to_owned(),
        selector: map(&[("app", "web")]),
        target_pods: Vec::new(),
        target_ports: vec![target(Some(80), None), target(None, Some("http"))],
        front_ends: vec![front(8080, &[80]), front(9090, &[90, 91])],
        back_ends: vec![
            back(NETWORK, "10.244.1.5", 80),
            back(NETWORK, "10.244.1.5", 90),
            back("other/net", "10.244.1.6", 80),
        ],
        back_end_classes: texts(back_end_classes),
    };
    let spec = AddressGroupSpec {
        class: class.to_owned(),
        slices: Some(1),
        service: Some(Box::new(ends)),
        ..AddressGroupSpec::default()
    };
    store.address_groups.insert(format!("{class}-0"), spec);
}
