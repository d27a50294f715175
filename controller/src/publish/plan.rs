//! What to write so that the cluster holds what was compiled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use ringfence_compile::compile::Computed;
use ringfence_crds::{PeerGroupSpec, Revision, WorkloadPolicySpec, names};
use serde_json::json;

use super::Memory;
use super::difference::{Published, difference, upsert};
use super::look::Look;
use super::newest::{marker_revision, peer_marker_revision};
use super::{order, states};
use crate::engine::world::{World, cluster_wide};
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
    let newest = memory.newest;
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
    let peer_marker = peer_marker(world, !peers.upserts.is_empty(), newest.peer_groups, revision);
    let profiles = since.changed_profiles(world, look);

    let changed: Vec<&str> =
        policies.upserts.iter().chain(&policies.deletions).map(|write| write.key.name.as_str()).collect();
    since.note_rule_sets(world, computed, &changed, look, revision);
    since.note_profiles(world, &profiles, revision);
    let states = states::plan(world, since, look, &nodes.upserts, revision, now);
    let in_force = states.iter().map(|write| &write.key.name);
    let commit = world.commit.clone().or_else(|| commit_of(world, computed, &changed, profiles.iter().chain(in_force)));

    let unchanged = peer_marker.is_none()
        && changed.is_empty()
        && nodes.upserts.is_empty()
        && profiles.is_empty()
        && states.is_empty();
    let changes_policy = !unchanged || is_behind(world, newest.policy.max(since.owed()), revision.epoch);
    let peer_group_revision = if peer_marker.is_some() { revision } else { peer_marker_revision(world) };
    let marker = changes_policy.then(|| marker(world, revision, commit.clone(), peer_group_revision));
    if marker.is_some() {
        since.owe(revision);
    }
    carry(&mut policies.upserts, world.commit.as_deref());
    let taken_up = &[Target::AddressGroup, Target::PeerGroup];
    Plan {
        revision,
        commit,
        ranks: vec![
            addresses.exposed.into(),
            addresses.gains.into(),
            peers.upserts.into(),
            Rank { writes: peer_marker.into_iter().collect(), after: &[Target::PeerGroup] },
            policies.upserts.into(),
            Rank { writes: policies.deletions, after: &[Target::WorkloadPolicy] },
            nodes.upserts.into(),
            states.into(),
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

/// Whether the marker is missing, or older than what it is to close.
fn is_behind(world: &World, newest: Revision, epoch: i64) -> bool {
    let live = marker_revision(world);
    !world.workload_policies.contains_key(&cluster_wide(names::MARKER)) || live < newest || live.epoch < epoch
}

fn marker(world: &World, revision: Revision, commit: Option<String>, peer_groups: Revision) -> Write {
    let live = world.workload_policies.get(&cluster_wide(names::MARKER));
    // Before there is any PeerGroup, there is no marker of them.
    let peer_group_revision = (peer_groups != Revision::default()).then_some(peer_groups);
    let spec = WorkloadPolicySpec { commit, peer_group_revision, ..WorkloadPolicySpec::default() };
    upsert(live, names::MARKER, spec, revision)
}

/// The marker of PeerGroups, if it is not newer than all of them: agents get them on a watch of their own, and know by it
/// that they have seen all. Those that are gone it does not speak of: nothing refers to them.
fn peer_marker(world: &World, changed: bool, newest: Revision, revision: Revision) -> Option<Write> {
    let live = world.peer_groups.get(&cluster_wide(names::MARKER));
    let spec = PeerGroupSpec { selector: "marker".to_owned(), ..PeerGroupSpec::default() };
    let stale = peer_marker_revision(world) < newest
        || live.is_some_and(|live| !live.same(names::MARKER, &spec, revision.epoch));
    (changed || stale).then(|| upsert(live, names::MARKER, spec, revision))
}

/// The commit of a changed object, so that a trace can be followed from git to the kernel.
fn commit_of<'n>(
    world: &World,
    computed: &Computed,
    policies: &[&str],
    mut profiles: impl Iterator<Item = &'n String>,
) -> Option<String> {
    let compiled = policies.iter().find_map(|name| computed.workload_policies.get(*name)?.commit.clone());
    compiled.or_else(|| {
        profiles.find_map(|name| {
            let profile = world.profiles.get(&cluster_wide(name))?;
            profile.annotations().get(names::ANNOTATION_COMMIT).cloned()
        })
    })
}

#[cfg(test)]
mod tests;
