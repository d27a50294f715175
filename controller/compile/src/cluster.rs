//! What the Kubernetes cluster looks like, as far as policy depends on it.
//!
//! Every kind has a small `Info` type that holds only what acts, so that an update that changes nothing compares
//! equal and costs nothing.

mod control_plane;
mod load;
mod pod;
mod service;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::node_policy::NodePolicyStatus;

pub use control_plane::ControlPlanePorts;
pub use load::ClusterError;
pub use pod::{ContainerPortInfo, PodInfo};
pub use service::{EndpointInfo, EndpointSliceInfo, ServiceInfo, ServicePortInfo, SlicePortInfo, TargetPortInfo};
pub use webhook::{
    ServicePorts, services_of_api_service, services_of_conversion, services_of_mutating, services_of_validating,
};

/// The namespace that cluster DNS and the cluster's identity live in.
pub const KUBE_SYSTEM: &str = "kube-system";

/// Namespace and name of the Service before the apiserver.
pub const APISERVER: (&str, &str) = ("default", "kubernetes");

/// A Kubernetes cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterState {
    /// Identity of the cluster: the UID of its namespace kube-system.
    pub uid: String,
    /// Namespaces, by name.
    pub namespaces: BTreeMap<String, NamespaceInfo>,
    /// Nodes, by name.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Pods.
    pub pods: BTreeMap<NamespacedName, PodInfo>,
    /// Services.
    pub services: BTreeMap<NamespacedName, ServiceInfo>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<NamespacedName, EndpointSliceInfo>,
    /// Controllers of Pods that are listed behind VirtualServices, each with its own controller if it has one.
    pub owners: BTreeMap<OwnerKey, Option<OwnerKey>>,
    /// Addresses that the apiserver connects from: those of the EndpointSlices of default/kubernetes.
    pub apiserver_addresses: BTreeSet<IpAddr>,
    /// Ranges of ClusterIPs, as far as known; an address in one is no node's.
    pub service_ranges: Vec<IpNet>,
    /// Services that the apiserver calls, with the Service ports it calls them on.
    pub webhook_services: BTreeMap<NamespacedName, BTreeSet<i32>>,
}

impl ClusterState {
    /// Whether any node is labelled as one of the control plane. Then no other node has an apiserver: with the addresses of its Node
    /// a kubelet says what it likes, and such a label it may not give itself (admission plugin NodeRestriction).
    pub fn has_masters(&self) -> bool {
        self.nodes.values().any(|node| node.control_plane)
    }

    /// The addresses in the EndpointSlices of default/kubernetes.
    pub fn find_apiserver_addresses(&self) -> BTreeSet<IpAddr> {
        self.apiserver_slices().flat_map(EndpointSliceInfo::addresses).collect()
    }

    /// The same with the ports that the apiserver listens on there.
    pub fn find_apiserver_endpoints(&self) -> BTreeSet<(IpAddr, u16)> {
        let ports = |slice: &EndpointSliceInfo| slice.ports.iter().map(|port| port.port).collect::<Vec<_>>();
        let ends = |slice| ports(slice).into_iter().flat_map(move |port| slice.addresses().map(move |at| (at, port)));
        self.apiserver_slices().flat_map(ends).collect()
    }

    fn apiserver_slices(&self) -> impl Iterator<Item = &EndpointSliceInfo> {
        let slices = self.endpoint_slices.iter();
        let own =
            slices.filter(|(key, slice)| key.namespace == APISERVER.0 && slice.service.as_deref() == Some(APISERVER.1));
        own.map(|(_, slice)| slice)
    }
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its UID.
    pub uid: String,
    /// Whether it is on its way out.
    pub terminating: bool,
}

impl From<&Namespace> for NamespaceInfo {
    fn from(namespace: &Namespace) -> Self {
        Self {
            uid: namespace.metadata.uid.clone().unwrap_or_default(),
            terminating: namespace.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Kubernetes labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses of its status, whatever their type; names are left out.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses that its agent reports (NodePolicy.status.nodeAddresses), among them those that its own Pods see it at:
    /// bridges and tunnels. Empty until an agent reports. They are claims: the compiler believes the plausible ones.
    pub reported: BTreeSet<IpAddr>,
    /// Whether its agent reports that its gate judges what the node sends on to exposed Pods of other nodes, and seals what it
    /// lets pass (NodePolicy.status.seals), and has done so since the node was started.
    pub seals: bool,
    /// What its kernel calls the time since it was started, as the kubelet reports it.
    pub boot_id: String,
    /// Prefixes that Pods get their addresses from, when the cluster allots them to nodes.
    pub pod_cidrs: Vec<IpNet>,
    /// machine-id as the kubelet reports it.
    pub machine_id: String,
    /// Whether it carries a role label of the control plane.
    pub control_plane: bool,
    /// The port that its kubelet says it listens on.
    pub kubelet_port: Option<u16>,
    /// Whether Kubernetes calls it Ready: enforcement waits for no other node. No computed object depends on it.
    pub ready: bool,
}

impl From<&Node> for NodeInfo {
    fn from(node: &Node) -> Self {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_ref());
        let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let info = status.and_then(|status| status.node_info.as_ref());
        let spec = node.spec.as_ref();
        let cidrs = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        Self {
            control_plane: ["control-plane", "master"]
                .iter()
                .any(|role| labels.contains_key(&format!("node-role.kubernetes.io/{role}"))),
            addresses: addresses.into_iter().flatten().filter_map(|entry| entry.address.parse().ok()).collect(),
            reported: BTreeSet::new(),
            seals: false,
            boot_id: info.map(|info| info.boot_id.clone()).unwrap_or_default(),
            kubelet_port: status
                .and_then(|status| status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref())
                .and_then(|endpoint| u16::try_from(endpoint.port).ok())
                .filter(|port| *port > 0),
            ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            pod_cidrs: cidrs.iter().filter_map(|text| text.parse().ok()).collect(),
            machine_id: info.map(|info| info.machine_id.clone()).unwrap_or_default(),
            labels,
        }
    }
}

impl NodeInfo {
    /// Takes in what its agent reports, if it does, and says whether that is something else than before. What is no address is
    /// left out. What an agent has said of its gate before the node was started anew counts no more: rules do not outlive that.
    pub fn take_report(&mut self, status: Option<&NodePolicyStatus>) -> bool {
        let texts = status.into_iter().flat_map(|status| &status.node_addresses);
        let reported = texts.filter_map(|text| text.parse().ok()).collect();
        let same_boot = |status: &NodePolicyStatus| status.boot_id.as_deref().is_some_and(|boot| boot == self.boot_id);
        let seals = status.is_some_and(|status| status.seals && same_boot(status));
        let changed = (&self.reported, self.seals) != (&reported, seals);
        (self.reported, self.seals) = (reported, seals);
        changed
    }
}

/// What controls a Pod, or controls what controls it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerKey {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl OwnerKey {
    /// The kinds that a VirtualService lists.
    pub const LISTED: [&'static str; 4] = ["ReplicaSet", "DaemonSet", "StatefulSet", "ReplicationController"];

    /// The one controller among the owners of an object of `namespace`.
    pub fn controller_of(namespace: &str, owners: Option<&Vec<OwnerReference>>) -> Option<Self> {
        let controller = owners?.iter().find(|owner| owner.controller == Some(true))?;
        Some(Self { kind: controller.kind.clone(), namespace: namespace.to_owned(), name: controller.name.clone() })
    }
}
