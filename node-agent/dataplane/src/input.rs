//! What the data plane works on: the objects an agent has read, and what it knows about a Pod of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_crds::{
    AddressGroupSpec, ContainerClusterSpec, ContainerWorkloadProfileSpec, NodePolicySpec, PeerGroupSpec,
    WorkloadPolicySpec,
};
use ringfence_model::{PolicyState, Protocol, StringMap};
use serde::{Deserialize, Serialize};

/// Everything an agent has read, by name. It is also what the agent keeps on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectStore {
    /// The NodePolicy of this node.
    pub node_policy: Option<NodePolicySpec>,
    /// The ContainerCluster; `None` means its defaults.
    pub cluster: Option<ContainerClusterSpec>,
    /// The prefixes of the cluster's Pods and Services, as far as they are known: no name opens an address in them.
    pub networks: BTreeSet<IpNet>,
    /// Profiles, by namespace.
    pub profiles: BTreeMap<String, Profile>,
    /// WorkloadPolicies, the marker among them.
    pub workload_policies: BTreeMap<String, WorkloadPolicySpec>,
    /// PeerGroups.
    pub peer_groups: BTreeMap<String, PeerGroupSpec>,
    /// AddressGroups, `<class>-<slice>`.
    pub address_groups: BTreeMap<String, AddressGroupSpec>,
}

/// What counts of a ContainerWorkloadProfile: its spec, and the state that the controller released for enforcement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    /// The profile.
    pub spec: ContainerWorkloadProfileSpec,
    /// `status.enforcedState`.
    pub enforced_state: Option<PolicyState>,
}

/// A Pod of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalPod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Kubernetes labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// Whether it uses the node's network namespace; it is then no workload of its own.
    pub host_network: bool,
    /// Whether it is the mirror of a static Pod, which takes fixed labels only.
    pub mirror: bool,
    /// Ports that its probes and lifecycle hooks name.
    pub probe_ports: BTreeSet<(Protocol, u16)>,
    /// Ports of its containers, to resolve port names.
    pub container_ports: Vec<ContainerPort>,
    /// Resolvers of its resolv.conf.
    pub dns_servers: Vec<IpAddr>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Name, when it has one.
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}
