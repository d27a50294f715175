//! Nodes become Workloads, and belong to the cluster while their machine-ids agree.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use ringfence_compile::compile::{Computed, ComputedWorkload};
use ringfence_crds::{NodePolicyStatus, Workload, WorkloadSpec, WorkloadStatus};
use serde_json::json;

use super::owner;
use crate::engine::chores::due::seen;
use crate::engine::world::{World, cluster_wide};
use crate::status::Ready;
use crate::write::{Operation, Target, Write};

/// Role of a Workload that is no node.
const UNMANAGED: &str = "unmanaged";

/// Whether the agent of a node and Kubernetes speak of the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// They do.
    Yes,
    /// They do not.
    No,
    /// One of them has not reported.
    Unknown,
}

impl Matched {
    fn of(kubernetes: Option<&str>, agent: Option<&str>) -> Self {
        // An empty machine-id says nothing: two of them are no agreement.
        match (kubernetes.filter(|id| !id.is_empty()), agent.filter(|id| !id.is_empty())) {
            (Some(kubernetes), Some(agent)) if normal(kubernetes) == normal(agent) => Self::Yes,
            (Some(_), Some(_)) => Self::No,
            _ => Self::Unknown,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Yes => "True",
            Self::No => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The kubelet may report the same id as a UUID with dashes.
fn normal(id: &str) -> String {
    id.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase()
}

/// Whether a node's machine-ids agree.
pub fn matched(world: &World, node: &str) -> Matched {
    let kubernetes = world.cluster.nodes.get(node).map(|info| info.machine_id.as_str());
    Matched::of(kubernetes, report(world, node).and_then(|report| report.machine_id.as_deref()))
}

fn report<'a>(world: &'a World, node: &str) -> Option<&'a NodePolicyStatus> {
    world.node_policies.get(&cluster_wide(node))?.status.as_ref()
}

/// Workloads to make, to report on, and to delete with their node. Looked at are these, or all.
pub fn plan(world: &World, computed: &Computed, look: Option<&BTreeSet<String>>, now: &Time) -> Vec<Write> {
    let write =
        |name: &str, operation: Operation| Write { target: Target::Workload, key: cluster_wide(name), operation };
    let nodes = seen(&computed.workloads, look).filter(|(_, found)| found.role != UNMANAGED);
    let missing = nodes.filter(|(name, _)| !world.workloads.contains_key(&cluster_wide(name.as_str())));
    let create = owner::create(json!(WorkloadSpec::default()));
    let mut writes: Vec<Write> = missing.map(|(name, _)| write(name, create.clone())).collect();
    let keys = look.map(|names| names.iter().map(cluster_wide).collect::<BTreeSet<_>>());
    for (key, workload) in seen(&world.workloads, keys.as_ref()) {
        let found = computed.workloads.get(&key.name).filter(|found| found.role != UNMANAGED);
        if found.is_none() && owner::is_kubelinks(workload) {
            writes.push(write(&key.name, owner::delete(workload)));
            continue;
        }
        let status = match found {
            Some(found) => node_status(world, workload, found, now),
            None => unmanaged_status(workload, computed.workloads.get(&key.name), now),
        };
        if workload.status.as_ref() != Some(&status) {
            writes.push(write(&key.name, Operation::Status(json!(status))));
        }
    }
    writes
}

fn node_status(world: &World, workload: &Workload, found: &ComputedWorkload, now: &Time) -> WorkloadStatus {
    let node = workload.name_any();
    let matched = matched(world, &node);
    let report = report(world, &node);
    let ready = match matched {
        Matched::Yes if found.warnings.is_empty() => {
            Ready::yes("Matched", "the agent runs on the machine that Kubernetes means")
        }
        Matched::Yes => Ready::yes("Matched", found.warnings.join("; ")),
        Matched::No => Ready::no("OtherMachine", "the agent and Kubernetes report different machine-ids"),
        Matched::Unknown => Ready::no("WaitingForAgent", "agent and Kubernetes have not both reported a machine-id"),
    };
    let cluster = world.first_cluster().map(ResourceExt::name_any);
    WorkloadStatus {
        cluster: cluster.filter(|_| matched == Matched::Yes),
        role: Some(found.role.clone()),
        matched: Some(matched.text().to_owned()),
        kubernetes_machine_id: found.kubernetes_machine_id.clone(),
        agent_machine_id: report.and_then(|report| report.machine_id.clone()),
        agent_version: report.and_then(|report| report.agent_version.clone()),
        ..common(workload, found, &ready, now)
    }
}

fn unmanaged_status(workload: &Workload, found: Option<&ComputedWorkload>, now: &Time) -> WorkloadStatus {
    let found = found.cloned().unwrap_or_else(|| ComputedWorkload { role: UNMANAGED.to_owned(), ..Default::default() });
    let ready = match found.warnings.as_slice() {
        [] => Ready::yes("Accepted", "accepted"),
        warnings => Ready::no("Invalid", warnings.join("; ")),
    };
    WorkloadStatus { role: Some(UNMANAGED.to_owned()), ..common(workload, &found, &ready, now) }
}

fn common(workload: &Workload, found: &ComputedWorkload, ready: &Ready, now: &Time) -> WorkloadStatus {
    let previous = workload.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = workload.metadata.generation;
    WorkloadStatus {
        observed_generation: generation,
        conditions: ready.conditions(previous, generation, now),
        addresses: found.addresses.clone(),
        labels: found.labels.clone(),
        ..WorkloadStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelink::cluster;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_compile::cluster::NodeInfo;
    use ringfence_crds::{ContainerCluster, ContainerClusterSpec, NodePolicy, NodePolicySpec};

    #[test]
    fn machine_ids_agree_or_do_not_or_nobody_knows() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(Matched::of(Some(id), Some(id)), Matched::Yes);
        assert_eq!(Matched::of(Some("01234567-89AB-CDEF-0123-456789abcdef"), Some(id)), Matched::Yes);
        assert_eq!(Matched::of(Some(id), Some("f0")), Matched::No);
        assert_eq!(Matched::of(Some(id), None), Matched::Unknown);
        assert_eq!(Matched::of(Some(""), Some("")), Matched::Unknown, "nothing agrees with nothing");
    }

    /// Two nodes, the first of which is in order.
    fn world(kubernetes: &str, agent: Option<&str>) -> (World, Computed) {
        let (mut world, mut computed) = (World::default(), Computed::default());
        world.clusters.insert(cluster_wide("this"), ContainerCluster::new("this", ContainerClusterSpec::default()));
        for (node, kubernetes, agent) in [("node1", "f00d", Some("f00d")), ("node2", kubernetes, agent)] {
            let info = NodeInfo { machine_id: kubernetes.to_owned(), ..NodeInfo::default() };
            world.cluster.nodes.insert(node.to_owned(), info);
            let mut policy = NodePolicy::new(node, NodePolicySpec::default());
            let machine_id = agent.map(str::to_owned);
            policy.status = Some(NodePolicyStatus { machine_id, ..NodePolicyStatus::default() });
            world.node_policies.insert(cluster_wide(node), policy);
            world.workloads.insert(cluster_wide(node), Workload::new(node, WorkloadSpec::default()));
            computed.node_policies.insert(node.to_owned(), NodePolicySpec::default());
            let kubernetes_machine_id = Some(kubernetes.to_owned());
            let shown = ComputedWorkload { role: "worker".to_owned(), kubernetes_machine_id, ..Default::default() };
            computed.workloads.insert(node.to_owned(), shown);
        }
        (world, computed)
    }

    /// The status that node2's Workload gets, and how many nodes the ContainerCluster then counts.
    fn reported(kubernetes: &str, agent: Option<&str>) -> (WorkloadStatus, String) {
        let (world, computed) = world(kubernetes, agent);
        let now = Time(Timestamp::UNIX_EPOCH);
        let status = |writes: Vec<Write>, name: &str| match writes.into_iter().find(|write| write.key.name == name) {
            Some(Write { operation: Operation::Status(status), .. }) => status,
            other => panic!("{other:?}"),
        };
        let cluster = status(cluster::plan(&world, &computed, &[], None, &now), "this");
        let node = serde_json::from_value(status(plan(&world, &computed, None, &now), "node2")).expect("a status");
        (node, cluster["nodesMatched"].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_node_whose_agent_runs_on_another_machine_belongs_to_no_cluster() {
        let (status, matched) = reported("0123", Some("4567"));
        assert_eq!(status.cluster, None);
        assert_eq!(status.matched.as_deref(), Some("False"));
        assert_eq!(status.kubernetes_machine_id.as_deref(), Some("0123"));
        assert_eq!(status.agent_machine_id.as_deref(), Some("4567"));
        assert_eq!(status.conditions[0].type_, "Ready");
        assert_eq!(status.conditions[0].status, "False");
        assert_eq!(status.conditions[0].reason, "OtherMachine");
        assert_eq!(matched, "1/2");
    }

    #[test]
    fn a_node_belongs_to_the_cluster_while_both_report_the_same_machine() {
        let (status, matched) = reported("0123", Some("0123"));
        assert_eq!((status.cluster.as_deref(), status.matched.as_deref()), (Some("this"), Some("True")));
        assert_eq!(status.conditions[0].status, "True");
        assert_eq!(matched, "2/2");
        let (status, matched) = reported("0123", None);
        assert_eq!((status.cluster.as_deref(), status.matched.as_deref()), (None, Some("Unknown")));
        assert_eq!(status.conditions[0].status, "False");
        assert_eq!(matched, "1/2");
    }
}
