//! Traffic that no policy touches, as far as the cluster decides on it: DNS, and the apiserver's calls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::node_policy::{InboundEssential, NamedPort};
use ringfence_crds::{ContainerClusterSpec, NodePolicySpec, PortSpec};
use ringfence_model::Protocol;

use super::hosts::Hosts;
use super::selects;
use super::world::Facts;
use crate::cluster::{APISERVER, ClusterState, KUBE_SYSTEM, PodInfo, ServiceInfo, TargetPortInfo};

/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// Essentials of all Pods of a cluster.
#[derive(Debug, Default)]
pub struct Essentials {
    /// Addresses of the cluster's DNS Service.
    pub dns_servers: BTreeSet<IpAddr>,
    /// Traffic towards certain Pods.
    pub inbound: Vec<Inbound>,
}

/// Traffic towards the Pods behind a Service.
#[derive(Debug)]
pub struct Inbound {
    /// `dns` or `webhook`.
    pub reason: &'static str,
    /// Namespace of the Pods.
    pub namespace: String,
    /// Kubernetes labels of the Pods.
    pub selector: BTreeMap<String, String>,
    /// Their ports.
    pub ports: BTreeSet<(Protocol, TargetPortInfo)>,
    /// From these addresses; from anywhere if there is no list.
    pub from: Option<BTreeSet<IpAddr>>,
}

impl Inbound {
    /// Whether a connection from an address of `sources` to a port of a Pod is of this kind.
    pub fn covers(
        &self,
        namespace: &str,
        pod: &PodInfo,
        sources: &BTreeSet<IpAddr>,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let source = self.from.as_ref().is_none_or(|from| from.iter().any(|address| sources.contains(address)));
        let target = |(own, target): &(Protocol, TargetPortInfo)| {
            let number = match target {
                TargetPortInfo::Number(number) => Some(*number),
                TargetPortInfo::Name(name) => pod.named_port(*own, name),
            };
            *own == protocol && number == Some(port)
        };
        source && self.namespace == namespace && selects(&self.selector, &pod.labels) && self.ports.iter().any(target)
    }
}

impl Essentials {
    /// Finds the cluster's DNS Service and the Services that the apiserver calls.
    pub fn find(cluster: &ClusterState, facts: &Facts) -> Self {
        let apiserver = apiserver(cluster, facts);
        let mut found = Self::default();
        for (key, service) in cluster.services.iter().filter(|(key, service)| is_dns(key, service)) {
            found.dns_servers.extend(&service.cluster_ips);
            let ports = targets(service, |port| port == DNS_PORT);
            found.add("dns", key, service, ports, None);
        }
        for (key, called) in &cluster.webhook_services {
            let Some(service) = cluster.services.get(key) else {
                continue;
            };
            let ports = targets(service, |port| called.contains(&i32::from(port)));
            found.add("webhook", key, service, ports, Some(apiserver.clone()));
        }
        found
    }

    fn add(
        &mut self,
        reason: &'static str,
        key: &NamespacedName,
        service: &ServiceInfo,
        ports: BTreeSet<(Protocol, TargetPortInfo)>,
        from: Option<BTreeSet<IpAddr>>,
    ) {
        if service.selector.is_empty() || ports.is_empty() {
            return;
        }
        self.inbound.push(Inbound {
            reason,
            namespace: key.namespace.clone(),
            selector: service.selector.clone(),
            ports,
            from,
        });
    }
}

/// Where the apiserver connects from. Its EndpointSlices have one family, and its node may have two; Pods on that node see it
/// at addresses that only the node's agent knows. Whose an address is, Kubernetes decides: no agent reports its node into this, and no
/// kubelet writes it into its Node where masters are labelled.
pub(super) fn apiserver(cluster: &ClusterState, facts: &Facts) -> BTreeSet<IpAddr> {
    let own = &cluster.apiserver_addresses;
    let labelled = cluster.has_masters();
    let hosts = cluster.nodes.iter().filter(|(_, node)| node.control_plane || !labelled);
    let hosts = hosts.filter(|(_, node)| !node.addresses.is_disjoint(own));
    let hosts = hosts.filter_map(|(name, _)| facts.nodes.get(name));
    hosts.flat_map(|node| node.addresses(&facts.book)).chain(own.iter().copied()).collect()
}

/// Whether what is essential depends on a Service.
pub fn depends_on(cluster: &ClusterState, key: &NamespacedName) -> bool {
    let apiserver = (key.namespace.as_str(), key.name.as_str()) == APISERVER;
    apiserver || key.namespace == KUBE_SYSTEM || cluster.webhook_services.contains_key(key)
}

/// Cluster DNS goes by the name kube-dns or carries it as a label, whatever serves it.
fn is_dns(key: &NamespacedName, service: &ServiceInfo) -> bool {
    key.namespace == KUBE_SYSTEM
        && (key.name == "kube-dns" || service.labels.get("k8s-app").is_some_and(|app| app == "kube-dns"))
}

fn targets(service: &ServiceInfo, wanted: impl Fn(u16) -> bool) -> BTreeSet<(Protocol, TargetPortInfo)> {
    let ports = service.ports.iter().filter(|port| wanted(port.port));
    ports.map(|port| (port.protocol, port.target_port.clone())).collect()
}

/// One NodePolicy for each node that an agent runs on. `networks`: by node, the id of the Pod network that its Pods are
/// on. `settings` of the ContainerCluster are for the nodes themselves.
pub fn node_policies(
    settings: &ContainerClusterSpec,
    cluster: &ClusterState,
    facts: &Facts,
    networks: &BTreeMap<String, String>,
) -> BTreeMap<String, NodePolicySpec> {
    let essentials = Essentials::find(cluster, facts);
    let common = NodePolicySpec {
        cluster_uid: cluster.uid.clone(),
        inbound_essentials: essentials.inbound.iter().map(written).collect(),
        dns_servers: essentials.dns_servers.iter().map(ToString::to_string).collect(),
        ..NodePolicySpec::default()
    };
    let hosts =
        facts.nodes.values().any(|node| node.enforced().is_some()).then(|| Hosts::new(settings, cluster, facts));
    let workloads = facts.nodes.iter().filter(|(_, node)| node.workload.is_some());
    workloads
        .map(|(name, node)| {
            let pod_network = networks.get(name).cloned().unwrap_or_default();
            let host = hosts.as_ref().and_then(|hosts| hosts.policy(name, node));
            (name.clone(), NodePolicySpec { pod_network, host, ..common.clone() })
        })
        .collect()
}

fn written(essential: &Inbound) -> InboundEssential {
    let mut ports = Vec::new();
    let mut named_ports = Vec::new();
    for (protocol, target) in &essential.ports {
        match target {
            TargetPortInfo::Number(port) => ports.push(PortSpec {
                protocol: protocol.to_string(),
                port: Some(i32::from(*port)),
                ..PortSpec::default()
            }),
            TargetPortInfo::Name(name) => {
                named_ports.push(NamedPort { protocol: protocol.to_string(), name: name.clone() });
            }
        }
    }
    InboundEssential {
        reason: essential.reason.to_owned(),
        namespace: essential.namespace.clone(),
        selector: essential.selector.clone(),
        ports,
        named_ports,
        from: essential.from.iter().flatten().map(|address| IpNet::from(*address).to_string()).collect(),
        any_source: essential.from.is_none(),
    }
}
