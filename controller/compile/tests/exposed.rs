//! Pods that are reached by way of nodes other than their own, and the nodes whose gate seals. Written by hand from
//! docs/matching.md.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ringfence_compile::cluster::{ContainerPortInfo, EndpointInfo, NodeInfo};
use ringfence_compile::compile::{Compiler, Computed, Dirty, Input};
use ringfence_crds::AddressGroupSpec;
use ringfence_crds::address_group::{Exposed, ExposedPods};
use ringfence_crds::names::exposed_class;
use ringfence_model::{Protocol, Verdict as V};
use support::{Lab, key, pair, strings};

/// `b/b` on n2 behind nodePort 30080, at which nobody seals.
fn node_port() -> Lab {
    let mut lab = pair("Full", "Full");
    expose(&mut lab);
    lab
}

/// The Service `b/db`, with nodePort 30080, in front of the Pods that there are now.
fn expose(lab: &mut Lab) {
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ports[0].node_port = Some(30080);
}

fn seal(lab: &mut Lab, nodes: &[&str]) {
    lab.cluster.nodes.iter_mut().for_each(|(name, node)| node.seals = nodes.contains(&name.as_str()));
}

fn group(computed: &Computed) -> Option<&AddressGroupSpec> {
    computed.address_groups.get(&format!("{}-0", exposed_class("b/db")))
}

fn exposed(computed: &Computed) -> &Exposed {
    group(computed).unwrap().exposed.as_ref().unwrap()
}

/// Of each part of a list: `role` of the policy labels, and names and addresses of the Pods.
fn pods(computed: &Computed) -> Vec<String> {
    let line = |alike: &ExposedPods| {
        let pods = alike.pods.iter().map(|pod| {
            let addresses = pod.addresses.iter().map(|at| format!("{}@{}", at.address, at.network));
            format!("{} {}", pod.name, addresses.collect::<Vec<_>>().join(" "))
        });
        format!("{}: {}", alike.labels["role"], pods.collect::<Vec<_>>().join(", "))
    };
    exposed(computed).pods.iter().map(line).collect()
}

/// The slices of nodes that seal: name, number of slices, addresses.
fn gates(computed: &Computed) -> Vec<(String, Option<i32>, Vec<String>)> {
    let groups = computed.address_groups.iter().filter(|(_, group)| group.class == "gates");
    let addresses = |group: &AddressGroupSpec| group.members.iter().map(|member| member.address.to_string()).collect();
    groups.map(|(name, group)| (name.clone(), group.slices, addresses(group))).collect()
}

#[test]
fn pods_behind_a_node_port_are_exposed_with_all_that_rules_know_of_them() {
    let mut lab = pair("Full", "Full");
    lab.pod("b/two", "10.0.0.3", "db").pod("b/three", "10.0.0.4", "db").pod("b/host", "172.30.0.11", "db");
    lab.pod_mut("b/two").annotations = strings(&[("ringfence.dev/role", "api")]);
    lab.pod_mut("b/three").ips.push("fd00:10::4".parse().unwrap());
    lab.pod_mut("b/host").host_network = true;
    expose(&mut lab);
    let computed = lab.compile();
    let spec = group(&computed).unwrap();
    assert_eq!((spec.class.as_str(), spec.class_text.as_str()), (exposed_class("b/db").as_str(), "exposed b/db"));
    assert_eq!((spec.slice, spec.slices, spec.members.len()), (0, Some(1), 0));
    let list = exposed(&computed);
    assert_eq!((list.namespace.as_str(), list.name.as_str()), ("b", "db"));
    assert_eq!((list.selector.clone(), list.target_pods.len()), (strings(&[("app", "db")]), 0));
    assert_eq!(
        pods(&computed),
        [
            "api: two 10.0.0.3@uid/default",
            "db: b 10.0.0.2@uid/default, three 10.0.0.4@uid/default fd00:10::4@uid/default"
        ],
        "a Pod of the host network is its node"
    );
    let first = &list.pods[0];
    assert_eq!(first.labels, strings(&[("app", "b"), ("env", "prod"), ("role", "api")]));
    assert_eq!(first.pod_labels, strings(&[("app", "db")]));
    let ports: Vec<_> =
        first.named_ports.iter().map(|port| (&*port.protocol, port.port, port.name.as_deref())).collect();
    assert_eq!(ports, [("TCP", Some(8080), Some("http"))]);
}

#[test]
fn what_rules_tell_apart_is_listed_apart() {
    let mut lab = node_port();
    lab.pod("b/two", "10.0.0.3", "db").pod("b/three", "10.0.0.4", "db");
    lab.pod_mut("b/two").labels.insert("tier".to_owned(), "1".to_owned());
    let port =
        |name: Option<&str>, port| ContainerPortInfo { name: name.map(str::to_owned), protocol: Protocol::UDP, port };
    lab.pod_mut("b/three").container_ports = vec![port(Some("dns"), 5353), port(None, 9), port(Some("dns"), 53)];
    expose(&mut lab);
    let computed = lab.compile();
    let of = |name: &str| exposed(&computed).pods.iter().find(|alike| alike.pods[0].name == name).unwrap();
    assert_eq!(exposed(&computed).pods.len(), 3);
    assert_eq!(of("two").pod_labels, strings(&[("app", "db"), ("tier", "1")]));
    let ports: Vec<_> = of("three").named_ports.iter().map(|port| (&*port.protocol, port.port)).collect();
    assert_eq!(ports, [("UDP", Some(5353))], "the first of a name, as Kubernetes has it");
}

#[test]
fn every_way_on_which_nodes_hide_who_connects_exposes() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    assert!(group(&lab.compile()).is_none(), "only from inside");
    for (node_port, ingress, external) in
        [(Some(30080), None, None), (None, Some("203.0.113.7"), None), (None, None, Some("198.51.100.7"))]
    {
        let service = lab.cluster.services.get_mut(&key("b/db")).unwrap();
        service.ports[0].node_port = node_port;
        service.ingress_ips = ingress.iter().map(|text| text.parse().unwrap()).collect();
        service.external_ips = external.iter().map(|text| text.parse().unwrap()).collect();
        let mut local = lab.clone();
        local.cluster.services.get_mut(&key("b/db")).unwrap().external_policy_local = true;
        assert_eq!(pods(&lab.compile()), ["db: b 10.0.0.2@uid/default"]);
        assert!(group(&local.compile()).is_none(), "nobody hides who connects");
    }
    lab.cluster.services.get_mut(&key("b/db")).unwrap().external_name = true;
    assert!(group(&lab.compile()).is_none());
}

/// The agents of its Pods go by its selector, and demand of other nodes what these then have to know of.
#[test]
fn a_pod_that_no_port_leads_to_is_exposed_too() {
    let mut lab = node_port();
    lab.cluster.endpoint_slices.get_mut(&key("b/db")).unwrap().ports.clear();
    assert_eq!(pods(&lab.compile()), ["db: b 10.0.0.2@uid/default"]);
}

#[test]
fn a_policy_state_changes_nothing_of_it_and_an_unmanaged_namespace_has_none() {
    let mut lab = node_port();
    let full = lab.compile();
    for state in ["Idle", "VisibilityOnly", "Selective"] {
        lab.namespace("b", state, "b", "prod");
        assert_eq!(lab.compile().address_groups, full.address_groups, "{state}");
    }
    lab.policy.profiles.remove("b");
    let computed = lab.compile();
    assert!(group(&computed).is_none() && gates(&computed).is_empty());
}

#[test]
fn only_back_ends_that_are_believed_are_exposed() {
    let mut lab = node_port();
    lab.namespace("c", "Full", "c", "prod").pod("c/victim", "10.0.0.9", "web").pod("b/two", "10.0.0.3", "db");
    let slice = lab.cluster.endpoint_slices.get_mut(&key("b/db")).unwrap();
    for address in ["10.0.0.9", "10.0.0.3"] {
        let addresses = vec![address.parse().unwrap()];
        slice.endpoints.push(EndpointInfo { addresses, target_pod: None });
    }
    assert_eq!(pods(&lab.compile()), ["db: b 10.0.0.2@uid/default, two 10.0.0.3@uid/default"]);
    // Another Pod has the address of one too: it is exposed with what is its own.
    lab.pod_mut("b/two").ips.push("10.0.0.4".parse().unwrap());
    lab.pod("c/other", "10.0.0.4", "web");
    assert_eq!(pods(&lab.compile()), ["db: b 10.0.0.2@uid/default, two 10.0.0.3@uid/default"]);
}

/// Changes one input of a lab, and marks it alone.
fn follow(lab: &mut Lab, compiler: &mut Compiler, input: Input, change: impl Fn(&mut Lab)) -> bool {
    change(lab);
    let mut dirty = Dirty::default();
    dirty.mark(input);
    let changes = compiler.update(&lab.policy, &lab.cluster, dirty);
    assert!(*compiler.computed() == lab.compile(), "it is as if compiled anew");
    changes.address_groups.contains(&format!("{}-0", exposed_class("b/db")))
}

#[test]
fn a_pod_that_changes_is_written_and_no_other_event_writes() {
    let mut lab = node_port();
    lab.pod_mut("b/b").ips.push("fd00:10::2".parse().unwrap());
    let mut compiler = Compiler::new(&lab.policy, &lab.cluster);
    let mut pod = |name: &str, change: &dyn Fn(&mut Lab)| {
        let written = follow(&mut lab, &mut compiler, Input::Pod(key(name)), change);
        (written, pods(compiler.computed()))
    };
    let own = "db: b 10.0.0.2@uid/default fd00:10::2@uid/default".to_owned();
    let tier = |lab: &mut Lab| drop(lab.pod_mut("b/b").labels.insert("tier".to_owned(), "1".to_owned()));
    assert_eq!(pod("b/b", &tier), (true, vec![own.clone()]));
    let port = |lab: &mut Lab| lab.pod_mut("b/b").container_ports[0].port = 8081;
    assert_eq!(pod("b/b", &port), (true, vec![own.clone()]));
    let role = |lab: &mut Lab| lab.pod_mut("b/b").annotations = strings(&[("ringfence.dev/role", "api")]);
    assert_eq!(pod("b/b", &role), (true, vec![own.replace("db:", "api:")]));
    let node = |lab: &mut Lab| lab.pod_mut("b/b").node = Some("n1".to_owned());
    assert_eq!(pod("b/b", &node), (false, vec![own.replace("db:", "api:")]), "where it runs does not count");
    let thief = |lab: &mut Lab| _ = lab.pod("a/thief", "fd00:10::2", "web");
    assert_eq!(
        pod("a/thief", &thief),
        (true, vec!["api: b 10.0.0.2@uid/default".to_owned()]),
        "by no slice of the Service"
    );
    let gone = |lab: &mut Lab| drop(lab.cluster.pods.remove(&key("b/b")));
    assert_eq!(pod("b/b", &gone), (true, Vec::new()));
}

#[test]
fn it_goes_with_its_service_and_the_gates_with_the_last() {
    let mut lab = node_port();
    let mut compiler = Compiler::new(&lab.policy, &lab.cluster);
    let service = || Input::Service(key("b/db"));
    let local =
        |lab: &mut Lab, local| lab.cluster.services.get_mut(&key("b/db")).unwrap().external_policy_local = local;
    let there = |compiler: &Compiler| (group(compiler.computed()).is_some(), gates(compiler.computed()).len());
    assert_eq!(there(&compiler), (true, 1));
    assert!(follow(&mut lab, &mut compiler, service(), |lab| local(lab, true)));
    assert_eq!(there(&compiler), (false, 0));
    assert!(follow(&mut lab, &mut compiler, service(), |lab| local(lab, false)));
    assert_eq!(there(&compiler), (true, 1));
    assert!(follow(&mut lab, &mut compiler, Input::Profile("b".to_owned()), |lab| drop(
        lab.policy.profiles.remove("b")
    )));
    assert_eq!(there(&compiler), (false, 0));
    let managed = |lab: &mut Lab| _ = lab.namespace("b", "Idle", "b", "prod");
    assert!(follow(&mut lab, &mut compiler, Input::Profile("b".to_owned()), managed));
    assert!(follow(&mut lab, &mut compiler, service(), |lab| drop(lab.cluster.services.remove(&key("b/db")))));
    assert_eq!(there(&compiler), (false, 0));
}

#[test]
fn gates_are_the_believed_addresses_of_nodes_that_seal() {
    let mut lab = node_port();
    let one = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
        vec![("gates-0".to_owned(), Some(1), addresses)]
    };
    assert_eq!(gates(&lab.compile()), one(&[]), "there, and empty");
    let mut compiler = Compiler::new(&lab.policy, &lab.cluster);
    let node = || Input::Node("n1".to_owned());
    let sealed = |lab: &mut Lab| {
        lab.cluster.nodes.get_mut("n1").unwrap().reported =
            ["10.244.1.1", "127.0.0.1"].map(|text| text.parse().unwrap()).into();
        seal(lab, &["n1"]);
    };
    assert!(!follow(&mut lab, &mut compiler, node(), sealed), "nothing of the Service");
    assert_eq!(gates(compiler.computed()), one(&["10.244.1.1", "172.30.0.11"]));
    let spec = &compiler.computed().address_groups["gates-0"];
    assert!(spec.class_text == "nodes whose gate seals" && spec.members.iter().all(|member| member.network.is_empty()));
    follow(&mut lab, &mut compiler, Input::Pod(key("a/new")), |lab| _ = lab.pod("a/new", "10.244.1.1", "web"));
    assert_eq!(gates(compiler.computed()), one(&["172.30.0.11"]), "a Pod has it");
    follow(&mut lab, &mut compiler, node(), |lab| seal(lab, &[]));
    assert_eq!(gates(compiler.computed()), one(&[]));
}

#[test]
fn gates_come_in_slices() {
    let mut lab = node_port();
    let node = lab.cluster.nodes["n1"].clone();
    let mut compiler = Compiler::new(&lab.policy, &lab.cluster);
    let mut dirty = Dirty::default();
    for number in 0..200 {
        let address = format!("172.31.0.{number}").parse().unwrap();
        let node = NodeInfo { addresses: [address].into(), seals: true, ..node.clone() };
        lab.cluster.nodes.insert(format!("more{number}"), node);
        dirty.mark(Input::Node(format!("more{number}")));
    }
    compiler.update(&lab.policy, &lab.cluster, dirty);
    assert!(*compiler.computed() == lab.compile());
    let slices = gates(compiler.computed());
    assert_eq!(slices.iter().map(|(_, _, addresses)| addresses.len()).sum::<usize>(), 200);
    let count = i32::try_from(slices.len()).unwrap();
    assert!(count > 1 && slices.iter().all(|(_, _, addresses)| addresses.len() <= 100));
    assert_eq!(slices[0].1, Some(count));
    assert!(slices[1..].iter().all(|(_, count, _)| count.is_none()));
    follow(&mut lab, &mut compiler, Input::Service(key("b/db")), |lab| drop(lab.cluster.services.remove(&key("b/db"))));
    assert!(gates(compiler.computed()).is_empty(), "all slices of it");
}

#[test]
fn only_what_comes_by_a_node_that_does_not_seal_is_hidden() {
    let mut lab = node_port();
    let text = |by: &str, because: &str| {
        Some(format!(
            "connections from outside (nodePort 30080) that come in by {by} are not opened towards Pods in Full on other \
             nodes, because {because} not judge them: run the agent there, or set externalTrafficPolicy: Local"
        ))
    };
    let mut compiler = Compiler::new(&lab.policy, &lab.cluster);
    let mut hidden = |node: &str, change: &dyn Fn(&mut Lab)| {
        follow(&mut lab, &mut compiler, Input::Node(node.to_owned()), change);
        compiler.computed().hidden_sources.get(&key("b/db")).cloned()
    };
    assert_eq!(hidden("n1", &|_| {}), text("nodes cp, n1, n2", "their gates do"));
    let more = |lab: &mut Lab| drop(lab.cluster.nodes.insert("n3".to_owned(), Default::default()));
    assert_eq!(hidden("n3", &more), text("nodes cp, n1, n2 and 1 more", "their gates do"));
    let gone = |lab: &mut Lab| drop(lab.cluster.nodes.remove("n3"));
    hidden("n3", &gone);
    let one = |name: &'static str| move |lab: &mut Lab| lab.cluster.nodes.get_mut(name).unwrap().seals = true;
    hidden("cp", &one("cp"));
    assert_eq!(hidden("n2", &one("n2")), text("node n1", "its gate does"));
    assert_eq!(hidden("n1", &one("n1")), None, "every node seals");
}

/// A load balancer's address needs no node, and yet which nodes seal says what is hidden behind it.
#[test]
fn nodes_that_seal_matter_to_services_without_a_node_port() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ingress_ips = ["203.0.113.7".parse().unwrap()].into();
    seal(&mut lab, &["cp", "n1"]);
    let mut compiler = Compiler::new(&lab.policy, &lab.cluster);
    assert!(compiler.computed().hidden_sources[&key("b/db")].contains("by node n2 are not opened"));
    follow(&mut lab, &mut compiler, Input::Node("n2".to_owned()), |lab| seal(lab, &["cp", "n1", "n2"]));
    assert!(compiler.computed().hidden_sources.is_empty());
}

#[test]
fn a_load_balancer_that_is_a_proxy_hides_who_connects() {
    let mut lab = node_port();
    lab.cluster.nodes.values_mut().for_each(|node| node.seals = true);
    assert!(lab.compile().hidden_sources.is_empty());
    let service = lab.cluster.services.get_mut(&key("b/db")).unwrap();
    service.ingress_ips = ["203.0.113.7", "203.0.113.8"].map(|text| text.parse().unwrap()).into();
    service.proxy_ips = ["203.0.113.8".parse().unwrap()].into();
    for local in [false, true] {
        lab.cluster.services.get_mut(&key("b/db")).unwrap().external_policy_local = local;
        let hidden = lab.compile().hidden_sources[&key("b/db")].clone();
        assert!(hidden.contains("load balancer 203.0.113.8 are its own (ipMode: Proxy)"), "{hidden}");
        assert!(!hidden.contains("203.0.113.7"), "{hidden}");
    }
    lab.namespace("b", "Selective", "b", "prod");
    assert!(lab.compile().hidden_sources.is_empty(), "nobody in Full");
}

#[test]
fn what_comes_by_a_node_that_seals_is_judged_by_who_connects() {
    let mut lab = node_port();
    lab.ip_list("office", "{ranges: [203.0.113.0/24]}").ip_list("n1", "{ranges: [172.30.0.11]}");
    lab.rules("r", "[{name: x, consumers: [{ipList: office}], providers: [{labels: {app: [b]}}], allServices: true}]");
    let by_n1 = |lab: &Lab, from: &str| lab.verdict(from, "172.30.0.11", "30080/tcp");
    assert_eq!(by_n1(&lab, "203.0.113.7"), V::Blocked, "n1 hides who connects");
    seal(&mut lab, &["n1"]);
    assert_eq!((by_n1(&lab, "203.0.113.7"), by_n1(&lab, "198.51.100.7")), (V::Allowed, V::Blocked));
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.10", "30080/tcp"), V::Blocked, "cp does not seal");
    // By whichever node it comes: every one of them knows who connects.
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ingress_ips = ["198.51.100.9".parse().unwrap()].into();
    assert_eq!(lab.verdict("203.0.113.7", "198.51.100.9", "80/tcp"), V::Unknown, "by cp it is cp");
    seal(&mut lab, &["cp", "n1", "n2"]);
    assert_eq!(lab.verdict("203.0.113.7", "198.51.100.9", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("198.51.100.7", "198.51.100.9", "80/tcp"), V::Blocked);
    // What is open to the node is not open to who comes by it.
    lab.rules("r", "[{name: x, consumers: [{ipList: n1}], providers: [{labels: {app: [b]}}], allServices: true}]");
    assert_eq!((by_n1(&lab, "203.0.113.7"), by_n1(&lab, "172.30.0.11")), (V::Blocked, V::Allowed));
}
