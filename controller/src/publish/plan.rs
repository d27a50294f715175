//! What to write so that the cluster holds what was compiled.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use ringfence_compile::compile::Computed;
use ringfence_crds::{
    AddressGroup, AddressGroupSpec, NodePolicy, NodePolicySpec, PeerGroup, PeerGroupSpec, Revision, WorkloadPolicy,
    WorkloadPolicySpec, names,
};
use serde::Serialize;
use serde_json::json;

use super::since::Since;
use crate::engine::world::{Index, World, cluster_wide};
use crate::status;
use crate::write::{Operation, Target, Write};

/// What to write, in order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// The revision of what is written.
    pub revision: Revision,
    /// The commit that a changed object came from, when one did.
    pub commit: Option<String>,
    /// Ranks of writes: all of one rank may go on at the same time.
    pub ranks: Vec<Vec<Write>>,
    /// Closes the publication, when policy has changed.
    pub marker: Option<Write>,
    /// Deletions of what nothing refers to any more.
    pub afterwards: Vec<Write>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.marker.is_none() && self.afterwards.is_empty() && self.ranks.iter().all(Vec::is_empty)
    }

    /// How many objects are written.
    pub fn len(&self) -> usize {
        self.ranks.iter().map(Vec::len).sum::<usize>() + usize::from(self.marker.is_some()) + self.afterwards.len()
    }
}

/// A kind of computed object.
trait Published: ResourceExt {
    type Spec: Clone + PartialEq + Serialize;
    const TARGET: Target;
    fn spec(&self) -> &Self::Spec;
    fn revision(spec: &mut Self::Spec) -> &mut Revision;
    /// Where it came from does not count as content: what did not change is not written.
    fn ignore(_spec: &mut Self::Spec) {}
    fn bucket_of<'a>(_name: &'a str, _spec: &'a Self::Spec) -> Option<&'a str> {
        None
    }

    fn same(&self, wanted: &Self::Spec, epoch: i64) -> bool {
        let mut known = self.spec().clone();
        let mut wanted = wanted.clone();
        let current = Self::revision(&mut known).epoch == epoch;
        *Self::revision(&mut wanted) = *Self::revision(&mut known);
        Self::ignore(&mut known);
        Self::ignore(&mut wanted);
        current && known == wanted
    }
}

macro_rules! published {
    ($kind:ident, $spec:ident { $($extra:item)* }) => {
        impl Published for $kind {
            type Spec = $spec;
            const TARGET: Target = Target::$kind;
            fn spec(&self) -> &$spec {
                &self.spec
            }
            fn revision(spec: &mut $spec) -> &mut Revision {
                &mut spec.revision
            }
            $($extra)*
        }
    };
}
published!(NodePolicy, NodePolicySpec {});
published!(WorkloadPolicy, WorkloadPolicySpec {
    fn ignore(spec: &mut WorkloadPolicySpec) {
        spec.commit = None;
    }
});
published!(PeerGroup, PeerGroupSpec {
    fn bucket_of<'a>(name: &'a str, _spec: &'a PeerGroupSpec) -> Option<&'a str> {
        Some(name)
    }
});
published!(AddressGroup, AddressGroupSpec {
    fn bucket_of<'a>(_name: &'a str, spec: &'a AddressGroupSpec) -> Option<&'a str> {
        Some(&spec.class)
    }
});

/// Writes that bring the objects of one kind to what is wanted.
struct Difference {
    upserts: Vec<Write>,
    deletions: Vec<Write>,
}

fn difference<K: Published>(known: &Index<K>, wanted: &BTreeMap<String, K::Spec>, revision: Revision) -> Difference {
    let mut upserts = Vec::new();
    for (name, spec) in wanted {
        let live = known.get(&cluster_wide(name));
        if live.is_none_or(|live| !live.same(spec, revision.epoch)) {
            upserts.push(upsert(live, name, spec.clone(), revision));
        }
    }
    let gone = known.iter().filter(|(key, _)| key.name != names::MARKER && !wanted.contains_key(&key.name));
    let deletions = gone
        .map(|(key, object)| Write {
            target: K::TARGET,
            key: key.clone(),
            operation: Operation::Delete(object.uid().unwrap_or_default()),
        })
        .collect();
    Difference { upserts, deletions }
}

/// Replaced whole, so that nothing that somebody added by hand is left.
fn upsert<K: Published>(live: Option<&K>, name: &str, mut spec: K::Spec, revision: Revision) -> Write {
    *K::revision(&mut spec) = revision;
    let labels: BTreeMap<&str, String> =
        K::bucket_of(name, &spec).map(|id| (names::LABEL_BUCKET, names::bucket(id))).into_iter().collect();
    let operation = match live {
        None => Operation::Create(names::MANAGER_CONTROLLER, json!({ "metadata": { "labels": labels }, "spec": spec })),
        Some(live) => {
            let metadata = json!({ "labels": labels, "resourceVersion": live.resource_version() });
            Operation::Replace(names::MANAGER_CONTROLLER, json!({ "metadata": metadata, "spec": spec }))
        }
    };
    Write { target: K::TARGET, key: cluster_wide(name), operation }
}

/// The newest revision among the computed objects in the cluster.
pub fn newest(world: &World) -> Revision {
    newest_policy(world).max(newest_of(&world.address_groups)).max(marker_revision(world))
}

fn newest_policy(world: &World) -> Revision {
    newest_of(&world.peer_groups).max(newest_of(&world.workload_policies)).max(newest_of(&world.node_policies))
}

fn newest_of<K: Published>(index: &Index<K>) -> Revision {
    index.values().map(|object| *K::revision(&mut object.spec().clone())).max().unwrap_or_default()
}

fn marker_revision(world: &World) -> Revision {
    world.workload_policies.get(&cluster_wide(names::MARKER)).map(|marker| marker.spec.revision).unwrap_or_default()
}

/// The revision that the next publication carries. `last` is the one before, whatever came of it. An epoch never goes
/// back: that of the ContainerCluster counts once it is the higher one.
pub fn next_revision(world: &World, last: Revision) -> Revision {
    let newest = newest(world).max(last);
    let asked = world.first_cluster().and_then(|cluster| cluster.spec.policy_epoch).unwrap_or(0);
    Revision { epoch: newest.epoch.max(asked), number: newest.number + 1 }
}

/// What to write so that the cluster holds what was compiled, and what that means for `since`.
pub fn plan(world: &World, computed: &Computed, since: &mut Since, revision: Revision, now: &Time) -> Plan {
    let addresses = difference(&world.address_groups, &computed.address_groups, revision);
    let peers = difference(&world.peer_groups, &computed.peer_groups, revision);
    let policies = difference(&world.workload_policies, &computed.workload_policies, revision);
    let nodes = difference(&world.node_policies, &computed.node_policies, revision);
    let profiles = since.changed_profiles(world);

    let changed: Vec<&str> =
        policies.upserts.iter().chain(&policies.deletions).map(|write| write.key.name.as_str()).collect();
    let commit = commit_of(world, computed, &changed, &profiles);
    since.note_rule_sets(world, computed, &changed, revision);
    since.note_profiles(world, &profiles, revision);

    let first_marker = !world.workload_policies.contains_key(&cluster_wide(names::MARKER));
    let unchanged = peers.upserts.is_empty() && changed.is_empty() && nodes.upserts.is_empty() && profiles.is_empty();
    let changes_policy = !unchanged
        || first_marker
        || marker_revision(world) < newest_policy(world).max(since.owed())
        || marker_revision(world).epoch < revision.epoch;
    let marker = changes_policy.then(|| marker(world, revision, commit.clone()));
    if marker.is_some() {
        since.owe(revision);
    }
    Plan {
        revision,
        commit,
        ranks: vec![
            addresses.upserts,
            peers.upserts,
            policies.upserts,
            policies.deletions,
            nodes.upserts,
            enforced_states(world, since, now),
        ],
        marker,
        afterwards: [peers.deletions, addresses.deletions, nodes.deletions].concat(),
    }
}

fn marker(world: &World, revision: Revision, commit: Option<String>) -> Write {
    let live = world.workload_policies.get(&cluster_wide(names::MARKER));
    let spec = WorkloadPolicySpec { commit, ..WorkloadPolicySpec::default() };
    upsert(live, names::MARKER, spec, revision)
}

/// The commit of a changed object, so that a trace can be followed from git to the kernel.
fn commit_of(world: &World, computed: &Computed, policies: &[&str], profiles: &[String]) -> Option<String> {
    let compiled = policies.iter().find_map(|name| computed.workload_policies.get(*name)?.commit.clone());
    compiled.or_else(|| {
        profiles.iter().find_map(|name| {
            let profile = world.profiles.get(&cluster_wide(name))?;
            profile.annotations().get(names::ANNOTATION_COMMIT).cloned()
        })
    })
}

/// Statuses of profiles whose enforced state is another than they ask for: those are policy. Other changes of a
/// status can wait.
fn enforced_states(world: &World, since: &Since, now: &Time) -> Vec<Write> {
    let due = world.profiles.iter().filter(|(_, profile)| {
        let enforced = profile.status.as_ref().and_then(|status| status.enforced_state);
        enforced != profile.spec.wanted_state()
    });
    due.map(|(key, profile)| {
        let uid = world.cluster.namespaces.get(&key.name).map(|info| info.uid.as_str());
        let status = status::profile::status(profile, uid, since.profile(&key.name), &status::Reports::of(world), now);
        Write {
            target: Target::ContainerWorkloadProfile,
            key: key.clone(),
            operation: Operation::Status(json!(status)),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests;
