//! The policy of nodes' own traffic: what is written for agents, and what `explain` answers. By hand from the policy model.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeSet;

use ringfence_compile::cluster::{EndpointInfo, EndpointSliceInfo, SlicePortInfo};
use ringfence_crds::node_policy::{HostEssential, HostPolicy};
use ringfence_model::{Decision as D, Direction, PolicyState, Protocol, Verdict as V};
use support::{Lab, key, pair, yaml};

/// The lab of two Pods, with a node's own traffic in Full.
fn with(nodes: &[&str]) -> Lab {
    let mut lab = pair("Idle", "Idle");
    for node in nodes {
        lab.policy.workloads.insert((*node).to_owned(), yaml("{labels: {role: host}, policyState: Full}"));
    }
    lab.service("default/kubernetes", "10.96.0.1", "", &["443:6443/tcp"]);
    let slice = EndpointSliceInfo {
        service: Some("kubernetes".to_owned()),
        endpoints: vec![EndpointInfo { addresses: vec!["172.30.0.10".parse().unwrap()], target_pod: None }],
        ports: vec![SlicePortInfo { name: "https".to_owned(), protocol: Protocol::TCP, port: 6443 }],
    };
    lab.cluster.endpoint_slices.insert(key("default/kubernetes"), slice);
    lab
}

fn host(lab: &Lab, node: &str) -> Option<HostPolicy> {
    lab.compile().node_policies[node].host.clone()
}

/// The essentials of one direction and reason, as `ports|peers`.
fn essentials(host: &HostPolicy, direction: Direction, reason: &str) -> BTreeSet<String> {
    let text = |essential: &HostEssential| {
        let port = |port: &ringfence_crds::PortSpec| {
            format!("{}{}", port.protocol, port.port.map(|n| format!("/{n}")).unwrap_or_default())
        };
        let ports: Vec<String> = essential.ports.iter().map(port).collect();
        let peers = match (&essential.peer_group, essential.anyone) {
            (Some(_), _) => "nodes".to_owned(),
            (None, true) => "anyone".to_owned(),
            (None, false) => essential.peers.join(","),
        };
        format!("{}|{peers}", ports.join(","))
    };
    let own = host.essentials.iter().filter(|own| own.direction == direction && own.reason == reason);
    own.map(text).collect()
}

fn set(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn only_a_node_that_has_a_state_has_a_policy() {
    let lab = with(&["n1"]);
    let own = host(&lab, "n1").unwrap();
    assert_eq!((own.node.as_str(), own.state, own.labels["role"].as_str()), ("n1", PolicyState::Full, "host"));
    assert_eq!(host(&lab, "n2"), None);
    let idle = with(&[]);
    assert_eq!(host(&idle, "n1"), None);
    assert!(!idle.compile().peer_groups.values().any(|group| group.selector == "container hosts"));
    assert!(
        lab.compile().peer_groups.values().any(|group| group.selector == "container hosts" && group.classes.len() == 3)
    );
}

#[test]
fn the_control_planes_ports_are_those_that_the_cluster_tells_of() {
    use Direction::{Inbound, Outbound};
    let mut lab = with(&["n1", "cp"]);
    let worker = host(&lab, "n1").unwrap();
    assert_eq!(essentials(&worker, Inbound, "kubelet"), set(&["TCP/10250|172.30.0.10/32"]));
    assert_eq!(essentials(&worker, Outbound, "apiserver"), set(&["TCP/443|10.96.0.1/32", "TCP/6443|172.30.0.10/32"]));
    assert_eq!(essentials(&worker, Inbound, "apiserver"), set(&[]));
    assert_eq!(essentials(&worker, Inbound, "etcd"), set(&[]));
    let master = host(&lab, "cp").unwrap();
    assert_eq!(essentials(&master, Inbound, "apiserver"), set(&["TCP/6443|anyone"]));
    assert_eq!(essentials(&master, Inbound, "etcd"), set(&["TCP/2379,TCP/2380|172.30.0.10/32"]));
    assert_eq!(essentials(&master, Outbound, "kubelet"), set(&["TCP/10250|nodes"]));

    lab.cluster.nodes.get_mut("n1").unwrap().kubelet_port = Some(11250);
    lab.pod("kube-system/etcd", "172.30.0.10", "");
    let said = ringfence_compile::cluster::ControlPlanePorts {
        etcd: [12379].into(),
        apiserver: [7443].into(),
        ..Default::default()
    };
    lab.pod_mut("kube-system/etcd").control_plane = Some(Box::new(said));
    let before = host(&lab, "cp").unwrap();
    assert_eq!(essentials(&before, Inbound, "etcd"), set(&["TCP/2379,TCP/2380|172.30.0.10/32"]), "a worker says it");
    assert_eq!(essentials(&before, Inbound, "apiserver"), set(&["TCP/6443|anyone"]), "a worker says it");
    lab.pod_mut("kube-system/etcd").node = Some("cp".to_owned());
    assert_eq!(essentials(&host(&lab, "n1").unwrap(), Inbound, "kubelet"), set(&["TCP/11250|172.30.0.10/32"]));
    let master = host(&lab, "cp").unwrap();
    assert_eq!(essentials(&master, Inbound, "etcd"), set(&["TCP/12379|172.30.0.10/32"]));
    assert_eq!(essentials(&master, Inbound, "apiserver"), set(&["TCP/6443,TCP/7443|anyone"]));
    assert_eq!(essentials(&master, Outbound, "kubelet"), set(&["TCP/10250,TCP/11250|nodes"]));
}

/// A kubelet writes the addresses of its Node as it likes.
#[test]
fn where_masters_are_labelled_no_worker_is_an_apiservers_node() {
    let mut lab = with(&["n1"]);
    let own = lab.cluster.nodes["n1"].addresses.clone();
    let slice = lab.cluster.endpoint_slices.get_mut(&key("default/kubernetes")).unwrap();
    slice.endpoints[0].addresses.extend(own);
    lab.cluster.apiserver_addresses = lab.cluster.find_apiserver_addresses();
    let opens = |lab: &Lab| essentials(&host(lab, "n1").unwrap(), Direction::Inbound, "apiserver");
    assert_eq!(opens(&lab), set(&[]));
    lab.cluster.nodes.get_mut("cp").unwrap().control_plane = false;
    assert_eq!(opens(&lab), set(&["TCP/6443|anyone"]), "nobody is labelled");
}

#[test]
fn failsafe_ports_and_destinations_are_beside_ssh() {
    use Direction::{Inbound, Outbound};
    let mut lab = with(&["n1"]);
    lab.policy.cluster = yaml(
        "{failsafePorts: [{protocol: TCP, port: 2222}], failsafeDestinations: [{ranges: [192.0.2.0/31, 198.51.100.7], ports: [{protocol: TCP, port: 5000}]}]}",
    );
    let own = host(&lab, "n1").unwrap();
    assert_eq!(essentials(&own, Inbound, "ssh"), set(&["TCP/22|anyone"]));
    assert_eq!(essentials(&own, Inbound, "failsafe"), set(&["TCP/2222|anyone"]));
    assert_eq!(essentials(&own, Outbound, "failsafe"), set(&["TCP/5000|192.0.2.0/31,198.51.100.7/32"]));
    assert_eq!(essentials(&own, Outbound, "ssh"), set(&[]));
    lab.service("a/web", "10.96.0.9", "web", &["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("a/web")).unwrap().health_check_port = Some(32000);
    assert_eq!(essentials(&host(&lab, "n1").unwrap(), Inbound, "health"), set(&["TCP/10256,TCP/32000|anyone"]));
}

#[test]
fn witnesses_are_believed_addresses_of_other_nodes_where_pods_have_theirs() {
    let mut lab = with(&["n1"]);
    for (node, cidr, reported) in [
        ("cp", "10.244.0.0/24", "10.244.0.1"),
        ("n1", "10.244.1.0/24", "10.244.1.1"),
        ("n2", "10.244.2.0/24", "10.244.2.1"),
    ] {
        let info = lab.cluster.nodes.get_mut(node).unwrap();
        info.pod_cidrs = vec![cidr.parse().unwrap()];
        info.reported = [reported.parse().unwrap(), "192.168.7.7".parse().unwrap()].into();
    }
    // Those that come after it by name, and then the others.
    assert_eq!(host(&lab, "n1").unwrap().witnesses, ["10.244.2.1", "10.244.0.1"]);
}

#[test]
fn a_rule_and_what_is_essential_open_a_node_in_full_and_nothing_else() {
    let mut lab = with(&["n1"]);
    assert_eq!(lab.verdict("192.0.2.1", "node/n1", "8080/tcp"), V::Blocked);
    assert_eq!(lab.decisions("192.0.2.1", "node/n1", "22/tcp").1, D::Essential);
    assert_eq!(lab.decisions("172.30.0.10", "node/n1", "10250/tcp").1, D::Essential);
    assert_eq!(lab.decisions("172.30.0.12", "node/n1", "10250/tcp").1, D::Default);
    assert_eq!(lab.decisions("172.30.0.12", "node/n1", "8472/udp").1, D::Essential);
    assert_eq!(lab.decisions("192.0.2.1", "node/n1", "8472/udp").1, D::Default);
    assert_eq!(lab.decisions("node/n1", "172.30.0.10", "6443/tcp").0, D::Essential);
    assert_eq!(lab.decisions("node/n1", "192.0.2.1", "443/tcp").0, D::Default);
    lab.pod_mut("a/a").probe_ports = [(Protocol::TCP, 8081)].into();
    assert_eq!(lab.decisions("node/n1", "pod/a/a", "8081/tcp").0, D::Essential);
    assert_eq!(lab.decisions("node/n1", "pod/a/a", "8080/tcp").0, D::Default);
    assert_eq!(lab.decisions("192.0.2.1", "node/n2", "8080/tcp").1, D::Idle);
    lab.ip_list("net", "{ranges: [192.0.2.0/24]}");
    lab.rules("r", "[{name: in, consumers: [{ipList: net}], providers: [{labels: {role: [host]}}], services: [{protocol: TCP, port: 8080}]}]");
    assert_eq!(lab.verdict("192.0.2.1", "node/n1", "8080/tcp"), V::Allowed);
    lab.rules("q", "[{name: no, action: OverrideDeny, consumers: [{ipList: net}], providers: [{containerHosts: true}], allServices: true}]");
    assert_eq!(lab.verdict("192.0.2.1", "node/n1", "8080/tcp"), V::Blocked);
    assert_eq!(lab.decisions("192.0.2.1", "node/n1", "22/tcp").1, D::Essential, "not even an OverrideDeny");
}

/// Whatever is marked, the compiler that looks at marks says what one that is made anew says.
#[test]
fn what_hosts_depend_on_is_looked_at_when_it_changes() {
    use ringfence_compile::compile::{Compiler, Dirty};
    let states: Vec<Lab> = {
        let none = with(&[]);
        let one = with(&["n1"]);
        let mut service = with(&["n1", "cp"]);
        service.service("a/web", "10.96.0.9", "web", &["80:8080/tcp"]);
        service.cluster.services.get_mut(&key("a/web")).unwrap().health_check_port = Some(32000);
        let mut said = with(&["n1", "cp"]);
        said.pod("kube-system/etcd", "172.30.0.10", "");
        let ports = ringfence_compile::cluster::ControlPlanePorts { etcd: [12379].into(), ..Default::default() };
        said.pod_mut("kube-system/etcd").node = Some("cp".to_owned());
        said.pod_mut("kube-system/etcd").control_plane = Some(Box::new(ports));
        let mut moved = with(&["n2"]);
        moved.cluster.endpoint_slices.get_mut(&key("default/kubernetes")).unwrap().ports[0].port = 7443;
        vec![none, one, service, said, moved]
    };
    for from in &states {
        for to in &states {
            let mut compiler = Compiler::new(&from.policy, &from.cluster);
            let dirty = Dirty::between((&from.policy, &from.cluster), (&to.policy, &to.cluster));
            compiler.update(&to.policy, &to.cluster, dirty);
            assert_eq!(compiler.computed(), &to.compile());
        }
    }
}
