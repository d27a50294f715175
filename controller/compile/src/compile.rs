//! Policy and cluster in, computed objects out.
//!
//! ```text
//! Policy ──┐                   ┌─► emit, peers, classes   NodePolicy, WorkloadPolicy, PeerGroup, AddressGroup
//!          ├─► facts ─► rules ─┤
//! Cluster ─┘                   └─► evaluate               verdicts (crate::evaluate)
//! ```
//!
//! Facts say who is a workload with which labels and addresses, and what is behind each Service. [`resolve`] turns every
//! rule into the one form that both emission and the evaluator read, so that they cannot differ. [`Compiler`] keeps all
//! of it and looks again only at what changed.

pub(crate) mod actors;
pub(crate) mod addresses;
mod backends;
pub(crate) mod class;
pub(crate) mod classes;
mod compiler;
mod dirty;
mod emit;
pub(crate) mod essentials;
mod exposed;
mod hosts;
pub(crate) mod labels;
pub mod limits;
pub(crate) mod machines;
mod names;
mod namespaces;
mod networks;
mod parallel;
mod peers;
mod pods;
pub(crate) mod resolve;
pub(crate) mod rule;
mod rule_services;
mod rule_sets;
pub(crate) mod selector;
pub(crate) mod service_facts;
pub(crate) mod services;
mod settings;
mod slices;
pub(crate) mod unprogrammed;
mod widest;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;
use ringfence_crds::{AddressGroupSpec, NodePolicySpec, PeerGroupSpec, VirtualServiceStatus, WorkloadPolicySpec};
use ringfence_model::{DerivedLabels, PolicyState, StringMap};

use crate::cluster::ClusterState;
use crate::policy::Policy;
pub use compiler::{Changes, Compiler};
pub use dirty::{Dirty, Input};

/// Everything that follows from policy and cluster. It is a function of both and of nothing else: no history.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Computed {
    /// One per node that an agent runs on; revisions are 0, publishing sets them.
    pub node_policies: BTreeMap<String, NodePolicySpec>,
    /// One per RuleSet and scope, without the marker.
    pub workload_policies: BTreeMap<String, WorkloadPolicySpec>,
    /// One per distinct peer selector.
    pub peer_groups: BTreeMap<String, PeerGroupSpec>,
    /// One or more per label class, one per Service of a managed namespace, one more where its Pods are exposed on every node,
    /// and then those of the nodes whose gate seals.
    pub address_groups: BTreeMap<String, AddressGroupSpec>,
    /// What a RuleSet refers to and does not find, by RuleSet.
    pub warnings: BTreeMap<String, Vec<String>>,
    /// What of a Service is not opened and why, by Service.
    pub service_warnings: BTreeMap<NamespacedName, Vec<String>>,
    /// The Services whose outside is not opened, because a node hides who connects and does not judge first, with what helps.
    pub hidden_sources: BTreeMap<NamespacedName, String>,
    /// What concerns the cluster as a whole: addresses that two claim, label keys that a kubelet can set.
    pub cluster_warnings: Vec<String>,
    /// For every Service of a managed namespace, what its VirtualService shows (without conditions).
    pub virtual_services: BTreeMap<NamespacedName, VirtualServiceStatus>,
    /// Nodes and unmanaged machines, by name.
    pub workloads: BTreeMap<String, ComputedWorkload>,
    /// Every Pod that has not ended.
    pub container_workloads: BTreeMap<Arc<NamespacedName>, ComputedPod>,
}

/// A node or an unmanaged machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComputedWorkload {
    /// `master`, `worker` or `unmanaged`.
    pub role: String,
    /// Its addresses, sorted.
    pub addresses: Vec<String>,
    /// machine-id as Kubernetes reports it; nodes only.
    pub kubernetes_machine_id: Option<String>,
    /// Labels in force, as plain strings.
    pub labels: BTreeMap<String, String>,
    /// What of it has no effect and why.
    pub warnings: Vec<String>,
}

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComputedPod {
    /// Labels, where each came from, and what was refused; none in an unmanaged namespace.
    pub labels: Arc<DerivedLabels>,
    /// The state that its profile asks for; none in an unmanaged namespace and for a host-network Pod.
    pub state: Option<PolicyState>,
    /// The node it runs on.
    pub node: Option<String>,
    /// Whether it uses the network of its node, and so is its node.
    pub host_network: bool,
    /// Addresses as reported.
    pub addresses: Vec<IpAddr>,
    /// Its UID, for Events.
    pub uid: String,
    /// Why addresses of it are not told to its peers.
    pub problems: Vec<String>,
}

/// Computes everything from policy and cluster.
pub fn compile(policy: &Policy, cluster: &ClusterState) -> Computed {
    Compiler::new(policy, cluster).into_computed()
}

/// Whether a Kubernetes selector matches. One without terms selects nothing.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &StringMap) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
