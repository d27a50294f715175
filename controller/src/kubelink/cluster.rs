//! The ContainerCluster: made when there is none, and what discovery reports in it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{Timestamp, TimestampRound, Unit};
use kube::ResourceExt;
use ringfence_compile::compile::Computed;
use ringfence_crds::container_cluster::PodNetworkStatus;
use ringfence_crds::{ContainerCluster, ContainerClusterSpec, ContainerClusterStatus, names};
use serde_json::json;
use std::collections::BTreeSet;

use super::identity::{Matched, duplicates, matched};
use super::owner;
use crate::engine::world::{World, cluster_wide};
use crate::status::Ready;
use crate::status::nodes::is_off;
use crate::write::{Operation, Target, Write};

/// How exactly the last contact is told: a write for every minute would cost more than it says.
const CONTACT_MINUTES: i64 = 5;
/// Name of the Pod network that is found and not given.
const DEFAULT_NETWORK: &str = "default";
/// How many nodes a message names.
const MOST_NAMES: usize = 5;

/// The ContainerCluster to make, or the statuses that are due. `refused` is what could not be published and belongs to
/// no policy object.
pub fn plan(
    world: &World,
    computed: &Computed,
    refused: &[String],
    kubernetes_version: Option<&str>,
    now: &Time,
) -> Vec<Write> {
    let write = |name: &str, operation| Write { target: Target::ContainerCluster, key: cluster_wide(name), operation };
    let wanted = ContainerClusterSpec { management: world.management, ..ContainerClusterSpec::default() };
    let Some(first) = world.first_cluster() else {
        return vec![write(names::CLUSTER, owner::create(json!(wanted)))];
    };
    if first.spec != wanted && owner::is_untouched(first) {
        return vec![write(&first.name_any(), owner::replace(first, json!(wanted)))];
    }
    let statuses = world.clusters.values().filter_map(|cluster| {
        let status = if cluster.name_any() == first.name_any() {
            ContainerClusterStatus {
                kubernetes_version: kubernetes_version.map(str::to_owned),
                ..first_status(world, computed, refused, cluster, now)
            }
        } else {
            second_status(cluster, &first.name_any(), now)
        };
        let due = cluster.status.as_ref() != Some(&status);
        due.then(|| write(&cluster.name_any(), Operation::Status(json!(status))))
    });
    statuses.collect()
}

fn second_status(cluster: &ContainerCluster, first: &str, now: &Time) -> ContainerClusterStatus {
    let message = format!("has no effect: there is one ContainerCluster per cluster, and {first} is the older one");
    with_conditions(cluster, &Ready::no("SecondCluster", message), now)
}

fn with_conditions(cluster: &ContainerCluster, ready: &Ready, now: &Time) -> ContainerClusterStatus {
    let previous = cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = cluster.metadata.generation;
    ContainerClusterStatus {
        observed_generation: generation,
        conditions: ready.conditions(previous, generation, now),
        ..ContainerClusterStatus::default()
    }
}

fn first_status(
    world: &World,
    computed: &Computed,
    refused: &[String],
    cluster: &ContainerCluster,
    now: &Time,
) -> ContainerClusterStatus {
    let nodes: Vec<&String> = computed.node_policies.keys().collect();
    let agreed = nodes.iter().filter(|node| matched(world, node) == Matched::Yes).count();
    let warnings: Vec<String> = computed.cluster_warnings.iter().cloned().chain(duplicated(world)).collect();
    let ready = match (refused, warnings.as_slice()) {
        _ if !cluster.spec.enforcement.is_enforced() => suspended(world),
        ([first, ..], _) => Ready::no("Refused", first),
        ([], []) => Ready::yes("Linked", "linked with the cluster"),
        ([], warnings) => Ready::yes("Linked", warnings.join("; ")),
    };
    ContainerClusterStatus {
        cluster_uid: Some(world.cluster.uid.clone()),
        kubelink_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        kubelink_last_contact: last_contact(now),
        service_ranges: world.service_ranges.values().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        pod_networks: pod_networks(world, &cluster.spec),
        nodes_matched: Some(format!("{agreed}/{}", nodes.len())),
        ..with_conditions(cluster, &ready, now)
    }
}

/// That nodes have a machine-id in common. Each of them says with whom.
fn duplicated(world: &World) -> Option<String> {
    let nodes: Vec<&str> = duplicates(world).into_keys().collect();
    let named = nodes.iter().take(MOST_NAMES).copied().collect::<Vec<_>>().join(", ");
    match nodes.len() {
        0 => None,
        count if count > MOST_NAMES => Some(format!("{count} nodes have a machine-id in common: {named}, …")),
        _ => Some(format!("nodes have a machine-id in common: {named}")),
    }
}

/// Nothing is enforced, whatever else there is to say.
fn suspended(world: &World) -> Ready {
    let off = world.node_policies.values().filter(|policy| is_off(policy)).count();
    let total = world.node_policies.len();
    let message = format!("spec.enforcement is Suspended: nothing of Ringfence is left on {off} of {total} nodes");
    Ready::no("Suspended", message)
}

fn last_contact(now: &Time) -> Option<String> {
    let step = TimestampRound::new()
        .smallest(Unit::Minute)
        .increment(CONTACT_MINUTES)
        .mode(k8s_openapi::jiff::RoundMode::Trunc);
    let contact: Timestamp = now.0.round(step).ok()?;
    Some(contact.to_string())
}

/// The Pod networks that are given, or the one that the nodes' prefixes make up.
fn pod_networks(world: &World, spec: &ContainerClusterSpec) -> Vec<PodNetworkStatus> {
    let id = |name: &str| format!("{}/{name}", world.cluster.uid);
    if spec.pod_networks.is_empty() {
        let found: BTreeSet<_> = world.cluster.nodes.values().flat_map(|node| &node.pod_cidrs).collect();
        let cidrs = found.into_iter().map(ToString::to_string).collect();
        return vec![PodNetworkStatus { id: id(DEFAULT_NETWORK), cidrs, origin: "discovered".to_owned() }];
    }
    let given = spec.pod_networks.iter();
    given
        .map(|network| PodNetworkStatus {
            id: id(&network.name),
            cidrs: network.cidrs.clone(),
            origin: "spec".to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_crds::container_cluster::Enforcement;
    use ringfence_crds::{NodePolicy, NodePolicySpec, NodePolicyStatus};

    #[test]
    fn the_last_contact_changes_every_five_minutes() {
        let at = |text: &str| last_contact(&Time(text.parse().expect("a literal of the test")));
        assert_eq!(at("2026-03-01T10:04:59Z").as_deref(), Some("2026-03-01T10:00:00Z"));
        assert_eq!(at("2026-03-01T10:05:00Z").as_deref(), Some("2026-03-01T10:05:00Z"));
    }

    #[test]
    fn a_suspended_cluster_says_how_many_nodes_have_nothing_left() {
        let mut world = World::default();
        let spec = ContainerClusterSpec { enforcement: Enforcement::Suspended, ..ContainerClusterSpec::default() };
        world.clusters.insert(cluster_wide("this"), ContainerCluster::new("this", spec));
        for (node, reason) in [("n1", "Suspended"), ("n2", "Applying")] {
            let mut policy = NodePolicy::new(node, NodePolicySpec::default());
            let conditions = Ready::no(reason, "").conditions(&[], None, &Time(Timestamp::UNIX_EPOCH));
            policy.status = Some(NodePolicyStatus { conditions, ..NodePolicyStatus::default() });
            world.node_policies.insert(cluster_wide(node), policy);
        }
        let writes = plan(&world, &Computed::default(), &[], None, &Time(Timestamp::UNIX_EPOCH));
        let [Write { operation: Operation::Status(status), .. }] = writes.as_slice() else { panic!("{writes:?}") };
        let condition = &status["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Suspended")));
        assert!(condition["message"].as_str().is_some_and(|text| text.ends_with("left on 1 of 2 nodes")), "{status}");
    }

    #[test]
    fn the_oldest_cluster_counts() {
        let mut world = World::default();
        for (name, created) in [("young", "2026-03-01T10:00:00Z"), ("old", "2026-02-01T10:00:00Z")] {
            let mut cluster = ContainerCluster::new(name, ContainerClusterSpec::default());
            cluster.metadata.creation_timestamp = Some(Time(created.parse().expect("a literal of the test")));
            world.clusters.insert(cluster_wide(name), cluster);
        }
        let now = Time("2026-03-01T10:00:00Z".parse().expect("a literal of the test"));
        let reasons: Vec<String> = plan(&world, &Computed::default(), &[], None, &now)
            .iter()
            .map(|write| match &write.operation {
                Operation::Status(status) => format!("{} {}", write.key.name, status["conditions"][0]["reason"]),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(reasons, ["old \"Linked\"", "young \"SecondCluster\""]);
    }
}
