//! Policy and cluster in, computed objects out.
//!
//! ```text
//! Policy ──┐                      ┌─► emit      NodePolicy, WorkloadPolicy, PeerGroup, AddressGroup
//!          ├─► world ─► resolve ──┤
//! Cluster ─┘                      └─► evaluate  verdicts (crate::evaluate)
//! ```
//!
//! [`world`] says who is a workload with which labels and addresses, and what is behind each Service. [`resolve`]
//! turns every rule into the one form that both emission and the evaluator read, so that they cannot differ.

mod actors;
mod addresses;
mod backends;
mod emit;
pub(crate) mod essentials;
mod groups;
pub(crate) mod labels;
mod names;
mod networks;
pub(crate) mod resolve;
pub(crate) mod services;
pub(crate) mod workloads;
pub(crate) mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_crds::common::NamespacedName;
use ringfence_crds::{AddressGroupSpec, NodePolicySpec, PeerGroupSpec, VirtualServiceStatus, WorkloadPolicySpec};
use ringfence_model::{DerivedLabels, PolicyState};

use crate::cluster::ClusterState;
use crate::policy::Policy;
use essentials::Essentials;
use world::World;

/// Everything that follows from policy and cluster. It is a function of both and of nothing else: no history.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Computed {
    /// One per node that an agent runs on; revisions are 0, publishing sets them.
    pub node_policies: BTreeMap<String, NodePolicySpec>,
    /// One per RuleSet and scope, without the marker.
    pub workload_policies: BTreeMap<String, WorkloadPolicySpec>,
    /// One per distinct peer selector.
    pub peer_groups: BTreeMap<String, PeerGroupSpec>,
    /// One or more per label class, one per Service of a managed namespace.
    pub address_groups: BTreeMap<String, AddressGroupSpec>,
    /// What a RuleSet refers to and does not find, by RuleSet.
    pub warnings: BTreeMap<String, Vec<String>>,
    /// What of a Service is not opened and why, by Service.
    pub service_warnings: BTreeMap<NamespacedName, Vec<String>>,
    /// The Services whose outside is not opened, because the node hides who connects, with what helps.
    pub hidden_sources: BTreeMap<NamespacedName, String>,
    /// What concerns the cluster as a whole: addresses that two claim, label keys that a kubelet can set.
    pub cluster_warnings: Vec<String>,
    /// For every Service of a managed namespace, what its VirtualService shows (without conditions).
    pub virtual_services: BTreeMap<NamespacedName, VirtualServiceStatus>,
    /// Nodes and unmanaged machines, by name.
    pub workloads: BTreeMap<String, ComputedWorkload>,
    /// Every Pod that has not ended.
    pub container_workloads: BTreeMap<NamespacedName, ComputedPod>,
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
    pub labels: DerivedLabels,
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
    let world = World::new(policy, cluster);
    let resolved = resolve::resolve(&world);
    let emitted = emit::emit(&world, &resolved);
    let machines = world.workloads.nodes.iter().chain(&world.workloads.unmanaged);
    let hidden = |(key, service): (&NamespacedName, &services::ServiceFacts)| {
        service.hidden_source.clone().map(|text| (key.clone(), text))
    };
    let warned = world.virtual_services().filter(|(_, service)| !service.warnings.is_empty());
    Computed {
        node_policies: essentials::node_policies(&world, &Essentials::find(&world)),
        workload_policies: emitted.workload_policies,
        peer_groups: emitted.peer_groups,
        address_groups: groups::address_groups(&world),
        service_warnings: warned.map(|(key, service)| (key.clone(), service.warnings.clone())).collect(),
        hidden_sources: world.virtual_services().filter_map(hidden).collect(),
        cluster_warnings: world.warnings.clone(),
        virtual_services: world.virtual_services().map(|(key, facts)| (key.clone(), facts.shown.clone())).collect(),
        workloads: machines.map(|(name, facts)| (name.clone(), facts.shown.clone())).collect(),
        container_workloads: world.workloads.pods.iter().map(|(key, pod)| (key.clone(), pod.shown.clone())).collect(),
        warnings: resolved.warnings,
    }
}
