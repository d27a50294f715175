//! Nodes as Pods see them: reported addresses, translated sources, Pod networks. Written by hand from the policy model.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeSet;

use ringfence_compile::cluster::ClusterState;
use ringfence_model::{Decision as D, Protocol, Verdict as V};
use support::{Lab, key, pair, yaml};

const NODES_TO_B: &str = "[{name: nodes, consumers: [{containerHosts: true}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 8080}]}]";

fn report(lab: &mut Lab, node: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    lab.cluster.nodes.get_mut(node).unwrap().reported = addresses;
}

/// The addresses that peers know a node by.
fn members(lab: &Lab, node: &str) -> BTreeSet<String> {
    let computed = lab.compile();
    let class = format!("|node {node}");
    let groups = computed.address_groups.values().filter(|group| group.class_text.ends_with(&class));
    groups.flat_map(|group| group.members.iter().map(|member| member.address.to_string())).collect()
}

fn set(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_node_is_known_by_what_its_own_pods_see() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", NODES_TO_B);
    assert_eq!(lab.verdict("10.244.2.1", "pod/b/b", "8080/tcp"), V::Blocked, "nobody has reported it");
    report(&mut lab, "n2", &["172.30.0.12", "10.244.2.1", "10.244.2.0"]);
    assert_eq!(members(&lab, "n2"), set(&["10.244.2.0", "10.244.2.1", "172.30.0.12"]));
    assert_eq!(lab.verdict("10.244.2.1", "pod/b/b", "8080/tcp"), V::Allowed);
    assert_eq!(lab.compile().workloads["n2"].addresses, ["10.244.2.0", "10.244.2.1", "172.30.0.12"]);
}

#[test]
fn implausible_claims_add_nothing() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    let service = lab.cluster.services.get_mut(&key("b/db")).unwrap();
    service.external_ips = ["198.51.100.1".parse().unwrap()].into();
    service.ingress_ips = ["203.0.113.1".parse().unwrap()].into();
    lab.cluster.service_ranges = vec!["10.96.0.0/16".parse().unwrap()];
    lab.cluster.apiserver_addresses.insert("172.30.0.99".parse().unwrap());
    lab.policy.workloads.insert("old".to_owned(), yaml("{addresses: [192.0.2.7]}"));
    let implausible = [
        "127.0.0.1",
        "0.0.0.0",
        "169.254.20.10",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "fe80::1",
        "ff02::1",
        "172.30.0.12", // another node's
        "10.0.0.2",    // a Pod's
        "10.96.0.5",   // a Service's
        "198.51.100.1",
        "203.0.113.1",
        "10.96.7.7",   // a Service's to be
        "172.30.0.99", // the apiserver's
        "192.0.2.7",   // a declared machine's
    ];
    report(&mut lab, "n1", &implausible);
    assert_eq!(members(&lab, "n1"), set(&["172.30.0.11"]));
    assert_eq!(members(&lab, "n2"), set(&["172.30.0.12"]));
    assert_eq!(lab.compile().container_workloads[&key("b/b")].problems, [""; 0], "a Pod loses nothing by a claim");
    assert_eq!(lab.compile().workloads["old"].addresses, ["192.0.2.7"]);
}

#[test]
fn what_two_nodes_claim_is_neither_ones() {
    let mut lab = pair("Full", "Full");
    report(&mut lab, "n1", &["172.17.0.1", "10.244.1.1"]);
    report(&mut lab, "n2", &["172.17.0.1", "10.244.2.1"]);
    assert_eq!(members(&lab, "n1"), set(&["10.244.1.1", "172.30.0.11"]));
    assert_eq!(members(&lab, "n2"), set(&["10.244.2.1", "172.30.0.12"]));
}

#[test]
fn a_pod_that_comes_later_takes_the_address_back() {
    let mut lab = pair("Full", "Full");
    report(&mut lab, "n1", &["10.0.0.77"]);
    assert!(members(&lab, "n1").contains("10.0.0.77"));
    lab.pod("b/new", "10.0.0.77", "db");
    assert_eq!(members(&lab, "n1"), set(&["172.30.0.11"]));
    assert!(lab.compile().container_workloads[&key("b/new")].problems.is_empty());
}

#[test]
fn webhooks_are_called_from_the_bridge_of_the_apiservers_node_too() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["443:8443/tcp"]);
    lab.cluster.webhook_services.entry(key("b/db")).or_default().insert(443);
    report(&mut lab, "cp", &["172.30.0.10", "10.244.0.1", "127.0.0.1"]);
    report(&mut lab, "n1", &["10.244.1.1"]);
    let from = &lab.compile().node_policies["n1"].inbound_essentials[0].from;
    assert_eq!(from.as_slice(), ["10.244.0.1/32", "172.30.0.10/32"]);
    assert_eq!(lab.decisions("10.244.0.1", "pod/b/b", "8443/tcp").1, D::Essential);
    assert_eq!(lab.decisions("10.244.1.1", "pod/b/b", "8443/tcp").1, D::Default);
}

/// EndpointSlices of the apiserver have one family, also where its node has both. No agent has to be there to report the other.
#[test]
fn webhooks_are_called_from_the_other_family_of_the_apiservers_node_too() {
    let mut lab = pair("Full", "Full");
    for (node, address) in [("cp", "fd00:30::10"), ("n1", "fd00:30::11")] {
        lab.cluster.nodes.get_mut(node).unwrap().addresses.insert(address.parse().unwrap());
    }
    lab.pod_mut("b/b").ips.push("fd00:10::2".parse().unwrap());
    lab.service("b/db", "10.96.0.5", "db", &["443:8443/tcp"]);
    lab.cluster.webhook_services.entry(key("b/db")).or_default().insert(443);
    let from = &lab.compile().node_policies["n1"].inbound_essentials[0].from;
    assert_eq!(from.as_slice(), ["172.30.0.10/32", "fd00:30::10/128"]);
    assert_eq!(lab.decisions("fd00:30::10", "fd00:10::2", "8443/tcp").1, D::Essential);
    assert_eq!(lab.decisions("fd00:30::11", "fd00:10::2", "8443/tcp").1, D::Default, "no apiserver is there");
    // The address that the EndpointSlices say is no node's: nobody knows another of it.
    lab.cluster.apiserver_addresses = ["172.30.0.99".parse().unwrap()].into();
    let from = &lab.compile().node_policies["n1"].inbound_essentials[0].from;
    assert_eq!(from.as_slice(), ["172.30.0.99/32"]);
}

/// A kubelet writes what it likes into the addresses of its Node, and never that it is a master.
#[test]
fn a_worker_that_says_it_has_the_apiservers_address_calls_no_webhook() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["443:8443/tcp"]);
    lab.cluster.webhook_services.entry(key("b/db")).or_default().insert(443);
    lab.cluster.nodes.get_mut("n1").unwrap().addresses.insert("172.30.0.10".parse().unwrap());
    lab.cluster.nodes.get_mut("cp").unwrap().addresses = ["172.30.0.13".parse().unwrap()].into();
    let callers = |lab: &Lab| lab.compile().node_policies["n1"].inbound_essentials[0].from.as_slice().to_vec();
    assert_eq!(
        callers(&lab),
        ["172.30.0.10/32"],
        "what the EndpointSlices say, and nothing that the worker has beside it"
    );
    // Where nobody is labelled, nothing else tells where the apiserver is.
    lab.cluster.nodes.get_mut("cp").unwrap().control_plane = false;
    assert_eq!(callers(&lab), ["172.30.0.10/32", "172.30.0.11/32"]);
}

/// `b/b` on n2 behind nodePort 30080, with a probe on 8080.
fn node_port() -> Lab {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ports[0].node_port = Some(30080);
    lab
}

/// The client outside may reach `b/b`.
const OFFICE_TO_B: &str =
    "[{name: x, consumers: [{ipList: office}], providers: [{labels: {app: [b]}}], allServices: true}]";

#[test]
fn what_the_pods_own_node_translates_is_judged_by_who_connects() {
    let mut lab = node_port();
    lab.pod_mut("b/b").probe_ports.insert((Protocol::TCP, 8080));
    assert_eq!(
        lab.decisions("203.0.113.7", "172.30.0.12", "30080/tcp"),
        (D::External, D::Default),
        "no probe of its node"
    );
    assert_eq!(lab.verdict("172.30.0.12", "172.30.0.12", "30080/tcp"), V::Allowed, "its node itself");
    lab.ip_list("office", "{ranges: [203.0.113.0/24]}");
    lab.rules("r", OFFICE_TO_B);
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.12", "30080/tcp"), V::Allowed);
    assert_eq!(lab.verdict("198.51.100.7", "172.30.0.12", "30080/tcp"), V::Blocked);
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.11", "30080/tcp"), V::Blocked, "n1 is not the Pod's node");
}

#[test]
fn what_another_node_translates_reaches_what_is_open_to_nodes() {
    let mut lab = node_port();
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.11", "30080/tcp"), V::Blocked);
    lab.rules("r", NODES_TO_B);
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.11", "30080/tcp"), V::Allowed);
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.12", "30080/tcp"), V::Blocked, "the Pod's node knows better");
}

#[test]
fn an_ip_list_with_one_address_of_a_node_leaves_it_open() {
    let mut lab = node_port();
    lab.ip_list("n1", "{ranges: [172.30.0.11]}").ip_list("any", "{ranges: [0.0.0.0/0]}");
    lab.rules("r", "[{name: x, consumers: [{ipList: n1}], providers: [{labels: {app: [b]}}], allServices: true}]");
    let answer = lab.explain("203.0.113.7", "172.30.0.11", "30080/tcp");
    assert_eq!(answer.verdict, V::Unknown, "n1 may take the address of its bridge instead");
    assert!(answer.reason.unwrap().contains("not known"));
    // Two addresses are known, and the list has one of them.
    report(&mut lab, "n1", &["172.30.0.11", "10.244.1.1"]);
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.11", "30080/tcp"), V::Unknown);
    lab.ip_list("n1", "{ranges: [172.30.0.11, 10.244.1.1]}");
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.11", "30080/tcp"), V::Allowed);
    // Whatever the address is, it is in the list of all.
    report(&mut lab, "n1", &[]);
    lab.rules("r", "[{name: x, consumers: [{ipList: any}], providers: [{labels: {app: [b]}}], allServices: true}]");
    let answer = lab.explain("203.0.113.7", "172.30.0.11", "30080/tcp");
    assert_eq!((answer.verdict, answer.reason), (V::Allowed, None));
}

/// Of IPv6 it is the list of all IPv6 addresses that holds whatever the node takes.
#[test]
fn over_ipv6_a_node_takes_an_address_of_ipv6() {
    let mut lab = pair("Full", "Full");
    lab.pod_mut("b/b").ips.push("fd00:10::2".parse().unwrap());
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ports[0].node_port = Some(30080);
    lab.cluster.nodes.get_mut("n1").unwrap().addresses.insert("fd00:30::11".parse().unwrap());
    lab.ip_list("v4", "{ranges: [0.0.0.0/0]}").ip_list("v6", "{ranges: ['::/0']}");
    let rule = |list: &str| {
        format!(
            "[{{name: x, consumers: [{{ipList: {list}}}], providers: [{{labels: {{app: [b]}}}}], allServices: true}}]"
        )
    };
    lab.rules("r", &rule("v4"));
    assert_eq!(lab.verdict("2001:db8::7", "fd00:30::11", "30080/tcp"), V::Blocked);
    lab.rules("r", &rule("v6"));
    assert_eq!(lab.verdict("2001:db8::7", "fd00:30::11", "30080/tcp"), V::Allowed);
}

#[test]
fn where_the_entry_node_is_not_known_the_answer_depends_on_it() {
    let mut lab = node_port();
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ingress_ips = ["198.51.100.9".parse().unwrap()].into();
    assert_eq!(lab.verdict("203.0.113.7", "198.51.100.9", "80/tcp"), V::Blocked, "by whichever node it comes");
    lab.ip_list("office", "{ranges: [203.0.113.0/24]}");
    lab.rules("r", OFFICE_TO_B);
    let answer = lab.explain("203.0.113.7", "198.51.100.9", "80/tcp");
    assert_eq!(answer.verdict, V::Unknown, "by n2 it is who it is");
    assert!(answer.reason.unwrap().contains("node/n1"));
    assert!(answer.backends.unwrap()[0].reason.is_some());
    lab.rules("nodes", NODES_TO_B);
    assert_eq!(lab.verdict("203.0.113.7", "198.51.100.9", "80/tcp"), V::Allowed, "by whichever node it comes");
    // A Pod that is blocked at its own end is blocked, whoever the other end would see.
    assert_eq!(lab.verdict("pod/a/a", "198.51.100.9", "80/tcp"), V::Blocked);
}

#[test]
fn a_cluster_ip_used_from_outside_may_keep_its_source() {
    let mut lab = node_port();
    lab.ip_list("office", "{ranges: [203.0.113.0/24]}");
    assert_eq!(lab.verdict("203.0.113.7", "10.96.0.5", "80/tcp"), V::Blocked);
    lab.rules("r", "[{name: x, consumers: [{ipList: office}], providers: [{labels: {app: [b]}}], allServices: true}]");
    assert_eq!(lab.verdict("203.0.113.7", "10.96.0.5", "80/tcp"), V::Unknown);
}

#[test]
fn a_pods_own_address_says_which_network_it_is_on() {
    let mut lab = pair("Full", "Full");
    lab.policy.cluster =
        yaml("{podNetworks: [{name: blue, cidrs: [10.0.0.0/24]}, {name: green, cidrs: [10.244.0.0/16]}]}");
    // The prefixes of both nodes lie in green; the Pods' addresses do not.
    for (node, cidr) in [("n1", "10.244.1.0/24"), ("n2", "10.244.2.0/24"), ("cp", "10.244.0.0/24")] {
        lab.cluster.nodes.get_mut(node).unwrap().pod_cidrs = vec![cidr.parse().unwrap()];
    }
    let computed = lab.compile();
    let network = |node: &str| computed.node_policies[node].pod_network.clone();
    assert_eq!((network("n1"), network("n2")), ("uid/blue".to_owned(), "uid/blue".to_owned()));
    assert_eq!(network("cp"), "uid/green", "it has no Pod: its prefix is all there is to go by");
    let members = computed.address_groups.values().flat_map(|group| &group.members);
    let networks: BTreeSet<_> = members.filter(|member| member.address.starts_with("10.0.0.")).collect();
    assert!(networks.iter().all(|member| member.network == "uid/blue") && networks.len() == 2);
    assert!(computed.cluster_warnings.is_empty());
    // A node with Pods on both networks follows most of them, and says so.
    lab.pod("a/other", "10.244.1.9", "web").pod("a/third", "10.0.0.3", "web");
    let computed = lab.compile();
    assert_eq!(computed.node_policies["n1"].pod_network, "uid/blue");
    assert_eq!(computed.cluster_warnings.len(), 1);
    assert!(computed.cluster_warnings[0].contains("node n1"), "{:?}", computed.cluster_warnings);
}

#[test]
fn the_file_of_a_cluster_may_hold_what_agents_report() {
    let text = "
items:
- {apiVersion: ringfence.dev/v1alpha1, kind: NodePolicy, metadata: {name: n1}, spec: {}, status: {nodeAddresses: [10.244.1.1, nonsense], bootID: b, seals: true}}
- {apiVersion: ringfence.dev/v1alpha1, kind: NodePolicy, metadata: {name: gone}, spec: {}, status: {nodeAddresses: [10.244.9.1]}}
- {apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 172.30.0.11}], nodeInfo: {machineID: m, architecture: a, bootID: b, containerRuntimeVersion: c, kernelVersion: k, kubeProxyVersion: p, kubeletVersion: v, operatingSystem: linux, osImage: o, systemUUID: u}}}
- {apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: [10.96.0.0/16]}}
";
    let cluster = ClusterState::from_list_yaml(text).unwrap();
    assert_eq!(cluster.nodes["n1"].reported, BTreeSet::from(["10.244.1.1".parse().unwrap()]));
    assert!(cluster.nodes["n1"].seals);
    assert_eq!(cluster.nodes.len(), 1);
    assert_eq!(cluster.service_ranges, ["10.96.0.0/16".parse().unwrap()]);
}

/// A node is its name: what two machines report as their machine-id changes nothing of what either gets.
#[test]
fn nodes_with_one_machine_id_have_each_their_own_policy() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", NODES_TO_B);
    report(&mut lab, "n1", &["10.244.1.1"]);
    report(&mut lab, "n2", &["10.244.2.1"]);
    let distinct = lab.compile();
    for node in ["n1", "n2"] {
        lab.cluster.nodes.get_mut(node).unwrap().machine_id = "one-image".to_owned();
    }
    let cloned = lab.compile();
    assert_eq!(cloned.node_policies.keys().collect::<Vec<_>>(), ["cp", "n1", "n2"]);
    assert_eq!(cloned.node_policies, distinct.node_policies);
    assert_eq!(cloned.address_groups, distinct.address_groups);
    assert_eq!(members(&lab, "n1"), set(&["10.244.1.1", "172.30.0.11"]));
    assert_eq!(members(&lab, "n2"), set(&["10.244.2.1", "172.30.0.12"]));
}
