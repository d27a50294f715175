//! Nodes become Workloads, and belong to the cluster while their machine-ids agree. A machine-id that two nodes have is
//! told by both; each keeps its own policy, which goes by the name of the node.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use ringfence_compile::compile::{Computed, ComputedWorkload};
use ringfence_crds::{Workload, WorkloadSpec, WorkloadStatus};
use serde_json::json;

use super::identity::{Matched, duplicates, matched, report};
use super::owner;
use crate::engine::chores::due::seen;
use crate::engine::world::{World, cluster_wide};
use crate::status::Ready;
use crate::write::{Operation, Target, Write};

/// Role of a Workload that is no node.
const UNMANAGED: &str = "unmanaged";
/// How many nodes a message names.
const MOST_NAMES: usize = 5;

/// Workloads to make, to report on, and to delete with their node. Looked at are these, or all.
pub fn plan(world: &World, computed: &Computed, look: Option<&BTreeSet<String>>, now: &Time) -> Vec<Write> {
    let write =
        |name: &str, operation: Operation| Write { target: Target::Workload, key: cluster_wide(name), operation };
    let nodes = seen(&computed.workloads, look).filter(|(_, found)| found.role != UNMANAGED);
    let missing = nodes.filter(|(name, _)| !world.workloads.contains_key(&cluster_wide(name.as_str())));
    let create = owner::create(json!(WorkloadSpec::default()));
    let mut writes: Vec<Write> = missing.map(|(name, _)| write(name, create.clone())).collect();
    let duplicates = duplicates(world);
    let keys = look.map(|names| names.iter().map(cluster_wide).collect::<BTreeSet<_>>());
    for (key, workload) in seen(&world.workloads, keys.as_ref()) {
        let found = computed.workloads.get(&key.name).filter(|found| found.role != UNMANAGED);
        if found.is_none() && owner::is_kubelinks(workload) {
            writes.push(write(&key.name, owner::delete(workload)));
            continue;
        }
        let status = match found {
            Some(found) => node_status(world, workload, found, duplicates.get(key.name.as_str()), now),
            None => unmanaged_status(workload, computed.workloads.get(&key.name), now),
        };
        if workload.status.as_ref() != Some(&status) {
            writes.push(write(&key.name, Operation::Status(json!(status))));
        }
    }
    writes
}

fn node_status(
    world: &World,
    workload: &Workload,
    found: &ComputedWorkload,
    duplicates: Option<&BTreeSet<&str>>,
    now: &Time,
) -> WorkloadStatus {
    let node = workload.name_any();
    let matched = matched(world, &node);
    let report = report(world, &node);
    let ready = match (matched, duplicates) {
        (Matched::No, _) => Ready::no("OtherMachine", "the agent and Kubernetes report different machine-ids"),
        (_, Some(others)) => Ready::no("DuplicateMachineID", duplicate(others)),
        (Matched::Yes, None) if found.warnings.is_empty() => {
            Ready::yes("Matched", "the agent runs on the machine that Kubernetes means")
        }
        (Matched::Yes, None) => Ready::yes("Matched", found.warnings.join("; ")),
        (Matched::Unknown, None) => {
            Ready::no("WaitingForAgent", "agent and Kubernetes have not both reported a machine-id")
        }
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

/// Whom it has its machine-id in common with, and what to do. A fleet from one image is named in part.
fn duplicate(others: &BTreeSet<&str>) -> String {
    let named: Vec<&str> = others.iter().take(MOST_NAMES).copied().collect();
    let more = match others.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("has the machine-id of {}{more}: give each machine one of its own", named.join(", "))
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
    use ringfence_crds::{
        ContainerCluster, ContainerClusterSpec, ContainerClusterStatus, NodePolicy, NodePolicySpec, NodePolicyStatus,
    };

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

    /// The status that each node's Workload gets, and that of the ContainerCluster.
    fn statuses(kubernetes: &str, agent: Option<&str>) -> ([WorkloadStatus; 2], ContainerClusterStatus) {
        let (world, computed) = world(kubernetes, agent);
        let now = Time(Timestamp::UNIX_EPOCH);
        fn status<S: serde::de::DeserializeOwned>(writes: &[Write], name: &str) -> S {
            match writes.iter().find(|write| write.key.name == name).map(|write| &write.operation) {
                Some(Operation::Status(status)) => serde_json::from_value(status.clone()).expect("a status"),
                other => panic!("{other:?}"),
            }
        }
        let nodes = plan(&world, &computed, None, &now);
        let cluster = status(&cluster::plan(&world, &computed, &[], None, &now), "this");
        (["node1", "node2"].map(|node| status(&nodes, node)), cluster)
    }

    /// The status that node2's Workload gets, and how many nodes the ContainerCluster then counts.
    fn reported(kubernetes: &str, agent: Option<&str>) -> (WorkloadStatus, String) {
        let ([_, node], cluster) = statuses(kubernetes, agent);
        (node, cluster.nodes_matched.unwrap_or_default())
    }

    #[test]
    fn nodes_with_one_machine_id_both_say_so_and_stay_in_the_cluster() {
        for (kubernetes, agent) in [("F0-0D", Some("f00d")), ("f00d", None)] {
            let (nodes, cluster) = statuses(kubernetes, agent);
            for (status, other) in nodes.iter().zip(["node2", "node1"]) {
                let ready = &status.conditions[0];
                assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "DuplicateMachineID"));
                let message = format!("has the machine-id of {other}: give each machine one of its own");
                assert_eq!(ready.message, message);
            }
            // Policy goes by the name of the node: it is in force on both.
            assert_eq!(nodes[0].cluster.as_deref(), Some("this"));
            assert_eq!(nodes[1].cluster.as_deref(), agent.map(|_| "this"));
            let ready = &cluster.conditions[0];
            assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Linked"));
            assert_eq!(ready.message, "nodes have a machine-id in common: node1, node2");
        }
        // The agent of node2 is on node1, as both agents say: where Kubernetes disagrees is told first.
        let ([first, second], _) = statuses("0123", Some("f00d"));
        assert_eq!(first.conditions[0].reason, "DuplicateMachineID");
        assert_eq!((second.conditions[0].reason.as_str(), second.cluster), ("OtherMachine", None));
    }

    #[test]
    fn a_fleet_from_one_image_is_named_in_part() {
        let others = ["n1", "n2", "n3", "n4", "n5", "n6", "n7"].into();
        let message = duplicate(&others);
        assert!(message.starts_with("has the machine-id of n1, n2, n3, n4, n5 and 2 more: "), "{message}");
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
