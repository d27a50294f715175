//! What to write so that the cluster holds what was compiled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use ringfence_compile::compile::Computed;
use ringfence_crds::{Revision, WorkloadPolicySpec, names};
use serde_json::json;

use super::Memory;
use super::difference::{difference, upsert};
use super::look::{self, Look};
use super::newest::marker_revision;
use super::order;
use super::since::Since;
use crate::engine::world::{World, cluster_wide};
use crate::status;
use crate::write::{Operation, Target, Write};

/// What to write, in order.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// The revision of what is written.
    pub revision: Revision,
    /// The commit that the publication carries, when one is known.
    pub commit: Option<String>,
    /// Ranks of writes: all of one rank may go on at the same time.
    pub ranks: Vec<Rank>,
    /// Closes the publication, when policy has changed.
    pub marker: Option<Write>,
    /// Deletions of what nothing refers to any more.
    pub afterwards: Vec<Write>,
    /// Whether something was left to the next publication, which may follow at once.
    pub unfinished: bool,
}

/// Writes that may go on at the same time.
#[derive(Debug, Default, PartialEq)]
pub struct Rank {
    /// The writes.
    pub writes: Vec<Write>,
    /// Kinds of which everything must have been written before: what takes something away waits for what takes its
    /// place.
    pub after: &'static [Target],
}

impl From<Vec<Write>> for Rank {
    fn from(writes: Vec<Write>) -> Self {
        Self { writes, after: &[] }
    }
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many objects are written.
    pub fn len(&self) -> usize {
        self.ranks.iter().map(|rank| rank.writes.len()).sum::<usize>()
            + usize::from(self.marker.is_some())
            + self.afterwards.len()
    }
}

/// The revision that the next publication carries. `last` is the one before, whatever came of it. An epoch never goes
/// back: that of the ContainerCluster counts once it is the higher one.
pub fn next_revision(world: &World, memory: &Memory, last: Revision) -> Revision {
    let newest = memory.newest.any.max(last);
    let asked = world.first_cluster().and_then(|cluster| cluster.spec.policy_epoch).unwrap_or(0);
    Revision { epoch: newest.epoch.max(asked), number: newest.number + 1 }
}

/// What to write so that the cluster holds what was compiled, as far as it can be written and as far as is looked at, and
/// what that means for what is remembered. `look` becomes everything where that has to be looked at: what could not be
/// written is to be looked at again. `last` is the revision of the publication before.
pub fn plan(
    world: &World,
    computed: &Computed,
    memory: &mut Memory,
    look: &mut Look,
    last: Revision,
    now: &Time,
) -> Plan {
    memory.newest.learn(world, look);
    let revision = next_revision(world, memory, last);
    // What is refused changes what is wanted of others, and a new epoch everything.
    if !memory.refused.is_empty() || marker_revision(world).epoch < revision.epoch {
        *look = Look::Everything;
    }
    let look = &*look;
    memory.refused.forget_changed(computed);
    let computed = &*memory.refused.possible(world, computed);
    let since = &mut memory.since;
    let addresses = order::address_groups(world, computed, look, revision);
    let (groups, rules, nodes) = (
        look.at(|names| &names.peer_groups),
        look.at(|names| &names.workload_policies),
        look.at(|names| &names.node_policies),
    );
    let peers = difference(&world.peer_groups, &computed.peer_groups, groups, revision);
    let mut policies = difference(&world.workload_policies, &computed.workload_policies, rules, revision);
    let nodes = difference(&world.node_policies, &computed.node_policies, nodes, revision);
    let profiles = since.changed_profiles(world, look);

    let changed: Vec<&str> =
        policies.upserts.iter().chain(&policies.deletions).map(|write| write.key.name.as_str()).collect();
    let commit = world.commit.clone().or_else(|| commit_of(world, computed, &changed, &profiles));
    since.note_rule_sets(world, computed, &changed, look, revision);
    since.note_profiles(world, &profiles, revision);

    let first_marker = !world.workload_policies.contains_key(&cluster_wide(names::MARKER));
    let unchanged = peers.upserts.is_empty() && changed.is_empty() && nodes.upserts.is_empty() && profiles.is_empty();
    let changes_policy = !unchanged
        || first_marker
        || marker_revision(world) < memory.newest.policy.max(since.owed())
        || marker_revision(world).epoch < revision.epoch;
    let marker = changes_policy.then(|| marker(world, revision, commit.clone()));
    if marker.is_some() {
        since.owe(revision);
    }
    carry(&mut policies.upserts, world.commit.as_deref());
    let taken_up = &[Target::AddressGroup, Target::PeerGroup];
    Plan {
        revision,
        commit,
        ranks: vec![
            addresses.gains.into(),
            peers.upserts.into(),
            policies.upserts.into(),
            Rank { writes: policies.deletions, after: &[Target::WorkloadPolicy] },
            nodes.upserts.into(),
            enforced_states(world, since, look, now).into(),
            Rank { writes: addresses.announcements, after: taken_up },
            Rank { writes: addresses.losses, after: taken_up },
        ],
        marker,
        afterwards: [peers.deletions, addresses.deletions, nodes.deletions].concat(),
        unfinished: addresses.unfinished,
    }
}

/// Notes in changed rules which commit has changed them: not always one of their own RuleSet.
fn carry(upserts: &mut [Write], commit: Option<&str>) {
    let Some(commit) = commit else { return };
    for write in upserts {
        if let Operation::Create(_, content) | Operation::Replace(_, content) = &mut write.operation {
            content["spec"]["commit"] = json!(commit);
        }
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
fn enforced_states(world: &World, since: &Since, look: &Look, now: &Time) -> Vec<Write> {
    let due = look::seen(&world.profiles, look.at(|names| &names.profiles)).filter(|(_, profile)| {
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
