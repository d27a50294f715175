//! Ways into a Service on which every node puts an address of its own in place of the client's: what the gates of other nodes
//! than a Pod's own have to know to judge for it, and what is not opened where a gate does not judge.

use std::collections::BTreeMap;

use ringfence_crds::AddressGroupSpec;
use ringfence_crds::address_group::{Exposed, ExposedPod, ExposedPods, TargetPort};
use ringfence_crds::common::{NamespacedName, NetworkAddress};
use ringfence_crds::names::{CLASS_GATES, exposed_class};
use ringfence_model::{Labels, PolicyState, Protocol, StringMap};

use super::addresses::{Owner, PodId};
use super::labels::NamespaceProfile;
use super::machines::NodeFacts;
use super::names;
use super::pods::PodFacts;
use super::service_facts::ServiceFacts;
use super::slices::{SliceMember, Slices};
use super::world::Facts;
use crate::cluster::{ClusterState, PodInfo, ServiceInfo};

/// Nodes that are named where several are meant.
const NAMED: usize = 3;

/// Whether there is a way into a Service on which the node translates the source. An ExternalName leads nobody anywhere.
pub fn is_exposed(service: &ServiceInfo) -> bool {
    let ways = service.ports.iter().any(|port| port.node_port.is_some())
        || !service.ingress_ips.is_empty()
        || !service.external_ips.is_empty();
    ways && !service.external_policy_local && !service.external_name
}

/// The same ways, as people are told of them.
fn ways_in(service: &ServiceInfo) -> String {
    let ports = service.ports.iter().filter_map(|port| port.node_port).map(|port| format!("nodePort {port}"));
    let ingress = service.ingress_ips.iter().map(|address| format!("load balancer {address}"));
    let external = service.external_ips.iter().map(|address| format!("externalIP {address}"));
    ports.chain(ingress).chain(external).collect::<Vec<_>>().join(", ")
}

/// Where a proxy, or another node than its own that does not judge first, puts an address in place of the client's, a Pod in Full
/// cannot know whom it would let in.
pub fn hidden_source(
    service: &ServiceInfo,
    service_facts: &ServiceFacts,
    profile: &NamespaceProfile,
    nodes: &BTreeMap<String, NodeFacts>,
) -> Option<String> {
    // The Pods behind a Service are of its own namespace.
    let full = profile.state == Some(PolicyState::Full) && !service_facts.behind.pods.is_empty();
    if !full {
        return None;
    }
    let by_node = service_facts.exposed.then(|| hidden_by_nodes(service, nodes)).flatten();
    let both: Vec<String> = hidden_by_proxy(service).into_iter().chain(by_node).collect();
    (!both.is_empty()).then(|| both.join("; "))
}

/// A load balancer that connects on its own says so; of others nobody knows.
fn hidden_by_proxy(service: &ServiceInfo) -> Option<String> {
    let proxies: Vec<String> = service.proxy_ips.iter().map(ToString::to_string).collect();
    let which = proxies.join(", ");
    (!proxies.is_empty()).then(|| {
        format!(
            "connections from outside through the load balancer {which} are its own (ipMode: Proxy), so that no rule can tell its clients \
             apart: they are let in only by a rule for the addresses that it connects from, which lets all of them in"
        )
    })
}

fn hidden_by_nodes(service: &ServiceInfo, nodes: &BTreeMap<String, NodeFacts>) -> Option<String> {
    let open: Vec<&str> = nodes.iter().filter(|(_, node)| !node.seals).map(|(name, _)| name.as_str()).collect();
    let (named, more) = open.split_at(open.len().min(NAMED));
    let (by, because) = match (named, more.len()) {
        ([], _) => return None,
        ([one], _) => (format!("node {one}"), "its gate does"),
        (several, 0) => (format!("nodes {}", several.join(", ")), "their gates do"),
        (several, more) => (format!("nodes {} and {more} more", several.join(", ")), "their gates do"),
    };
    Some(format!(
        "connections from outside ({}) that come in by {by} are not opened towards Pods in Full on other nodes, because \
         {because} not judge them: run the agent there, or set externalTrafficPolicy: Local",
        ways_in(service)
    ))
}

/// Name of the AddressGroup with the Pods that a Service exposes.
pub fn group_name(key: &NamespacedName) -> String {
    names::address_group(&exposed_class(&key.to_string()), 0)
}

/// The AddressGroup with the Pods that a Service exposes. In it is nothing that a policy state decides on.
pub fn group(key: &NamespacedName, service: &ServiceFacts, cluster: &ClusterState, facts: &Facts) -> AddressGroupSpec {
    let exposed = Exposed {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        selector: service.selector.clone(),
        target_pods: service.behind.target_pods.iter().cloned().collect(),
        pods: pods(service, cluster, facts),
    };
    AddressGroupSpec {
        class: exposed_class(&key.to_string()),
        class_text: format!("exposed {key}"),
        slices: Some(1),
        exposed: Some(Box::new(exposed)),
        ..AddressGroupSpec::default()
    }
}

/// What rules and Services know of a Pod, but for its name: policy labels, Kubernetes labels, named ports.
type Known<'f> = (&'f Labels, &'f StringMap, NamedPorts<'f>);
/// The numbers of container ports, by protocol and name.
type NamedPorts<'f> = BTreeMap<(Protocol, &'f str), u16>;

/// The Pods that a Service leads to, by what is known of them. One of the host network is its node, and not among them; one that
/// no port leads to is, since its own node goes by the Service's selector.
fn pods(service: &ServiceFacts, cluster: &ClusterState, facts: &Facts) -> Vec<ExposedPods> {
    let mut known: BTreeMap<Known<'_>, Vec<ExposedPod>> = BTreeMap::new();
    for &number in &service.behind.pods {
        let Some(pod) = facts.pods.at(number) else { continue };
        let (Some((_, class)), Some(info)) = (&pod.class, cluster.pods.get(&*pod.key)) else { continue };
        let alike = known.entry((&class.labels, &info.labels, named_ports(info))).or_default();
        alike.push(ExposedPod { name: pod.key.name.clone(), addresses: addresses(number, pod, facts) });
    }
    known.into_iter().map(|(known, pods)| written(known, pods)).collect()
}

fn written((labels, pod_labels, ports): Known<'_>, mut pods: Vec<ExposedPod>) -> ExposedPods {
    // They came by their numbers, which depend on what was before.
    pods.sort();
    let named_ports = ports.into_iter().map(|((protocol, name), port)| TargetPort {
        protocol: protocol.to_string(),
        port: Some(port.into()),
        name: Some(name.to_owned()),
    });
    ExposedPods {
        labels: labels.to_strings(),
        pod_labels: pod_labels.iter().map(|(label, value)| (label.clone(), value.clone())).collect(),
        named_ports: named_ports.collect(),
        pods,
    }
}

/// The addresses that are this Pod's and nobody else's.
fn addresses(number: PodId, pod: &PodFacts, facts: &Facts) -> Vec<NetworkAddress> {
    let own = pod.claimed.iter().filter(|address| facts.book.owner(**address) == Some(&Owner::Pod(number)));
    let networks = &facts.settings.networks;
    let written = |address| SliceMember { network: networks.of_pod(address), address }.written(networks);
    let mut addresses: Vec<NetworkAddress> = own.copied().map(written).collect();
    addresses.sort();
    addresses
}

/// Where containers of a Pod give two ports one name, it is the first one's.
fn named_ports(pod: &PodInfo) -> NamedPorts<'_> {
    let mut ports = NamedPorts::new();
    for port in &pod.container_ports {
        if let Some(name) = &port.name {
            ports.entry((port.protocol, name)).or_insert(port.port);
        }
    }
    ports
}

/// The AddressGroups with the addresses of nodes whose gate seals, by name.
pub fn gates(facts: &Facts) -> Vec<(String, AddressGroupSpec)> {
    let mut slices = Slices::default();
    let sealing = facts.nodes.values().filter(|node| node.seals);
    for address in sealing.flat_map(|node| node.addresses(&facts.book)) {
        slices.add(SliceMember { network: None, address });
    }
    let count = i32::try_from(slices.len()).unwrap_or(i32::MAX);
    let slice = |number: usize| AddressGroupSpec {
        class: CLASS_GATES.to_owned(),
        class_text: "nodes whose gate seals".to_owned(),
        slice: i32::try_from(number).unwrap_or(i32::MAX),
        slices: (number == 0).then_some(count),
        members: slices.get(number).iter().map(|member| member.written(&facts.settings.networks)).collect(),
        ..AddressGroupSpec::default()
    };
    (0..slices.len()).map(|number| (names::address_group(CLASS_GATES, number), slice(number))).collect()
}
