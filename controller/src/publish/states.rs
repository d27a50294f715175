//! The states of profiles that agents enforce. They are policy: a state that becomes another one is published like a rule,
//! and agents acknowledge it. Other changes of a profile's status can wait.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::{ContainerWorkloadProfile, Revision};
use serde_json::json;

use super::look::{self, Look};
use super::since::Since;
use crate::engine::world::{World, cluster_wide};
use crate::status::{Reports, profile};
use crate::write::{Operation, Target, Write};

/// Whether nodes have acknowledged what some profile was waiting for.
pub fn are_due(world: &World, since: &Since) -> bool {
    if !since.is_waiting() {
        return false;
    }
    let reports = Reports::of(world);
    waiting(world, since).any(|(key, profile)| is_due(&key.name, profile, since, &reports))
}

/// The statuses that bring the states of profiles to what is to be in force, among those that are looked at and those
/// that wait for nodes; and notes it. Nodes that get their NodePolicy by one of `nodes` count already.
pub fn plan(
    world: &World,
    since: &mut Since,
    look: &Look,
    nodes: &[Write],
    revision: Revision,
    now: &Time,
) -> Vec<Write> {
    since.settle(world);
    let looked_at = look::seen(&world.profiles, look.at(|names| &names.profiles));
    let mut candidates = looked_at.chain(waiting(world, since)).peekable();
    if candidates.peek().is_none() {
        return Vec::new();
    }
    let reports = Reports::of(world).expecting(world, nodes.iter().map(|write| write.key.name.as_str()));
    let due = candidates.filter(|(key, profile)| is_due(&key.name, profile, since, &reports));
    let mut due: Vec<String> = due.map(|(key, _)| key.name.clone()).collect();
    due.sort_unstable();
    due.dedup();
    since.note_states(world, &due, revision);
    let profiles = due.iter().filter_map(|name| world.profiles.get_key_value(&cluster_wide(name)));
    profiles
        .map(|(key, profile)| {
            let uid = world.cluster.namespaces.get(&key.name).map(|info| info.uid.as_str());
            let status = profile::status(profile, uid, since.of_profile(&key.name), &reports, now);
            let operation = Operation::Status(json!(status));
            Write { target: Target::ContainerWorkloadProfile, key: key.clone(), operation }
        })
        .collect()
}

fn waiting<'w>(
    world: &'w World,
    since: &'w Since,
) -> impl Iterator<Item = (&'w NamespacedName, &'w ContainerWorkloadProfile)> {
    since.waiting().filter_map(|name| world.profiles.get_key_value(&cluster_wide(name)))
}

/// Whether another state is to be in force than the status says.
fn is_due(name: &str, profile: &ContainerWorkloadProfile, since: &Since, reports: &Reports) -> bool {
    let enforced = profile.status.as_ref().and_then(|status| status.enforced_state);
    enforced != profile::enforced_state(profile, since.of_profile(name), reports)
}
