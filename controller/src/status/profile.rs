//! Status of a ContainerWorkloadProfile: the state that agents enforce, and whether all do.
//!
//! 1. Full comes into force only once every node that is waited for has acknowledged the rules: a default deny never runs
//!    ahead of what it is to let through. Until then the state before holds. Any other state is in force at once, Selective
//!    too: it blocks only what a Deny hits, and a Deny needs nobody's leave.
//! 2. What is in Full stays in Full, whatever nodes say, until the profile asks for something else.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use ringfence_crds::Revision;
use ringfence_crds::container_workload_profile::{ContainerWorkloadProfile, ContainerWorkloadProfileStatus};
use ringfence_model::PolicyState;

use super::{Ready, Reports};

/// What is remembered of a profile from one publication to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The revision in which it, or the state that agents enforce, last changed; none for one that never said anything to
    /// an agent.
    pub since: Option<Revision>,
    /// The revision in which any rules last changed.
    pub rules: Revision,
    /// Whether Full has been put in force for it.
    pub full: bool,
}

/// The state that agents are to enforce now.
pub fn enforced_state(
    profile: &ContainerWorkloadProfile,
    remembered: Remembered,
    reports: &Reports,
) -> Option<PolicyState> {
    let wanted = profile.spec.wanted_state();
    let enforced = profile.status.as_ref().and_then(|status| status.enforced_state);
    let full = Some(PolicyState::Full);
    if wanted != full || enforced == full || remembered.full {
        return wanted;
    }
    let acknowledged =
        remembered.since.is_some_and(|since| reports.progress(since.max(remembered.rules)).is_complete());
    if acknowledged { wanted } else { enforced }
}

/// The status of a profile. `namespace_uid` is there when the namespace is.
pub fn status(
    profile: &ContainerWorkloadProfile,
    namespace_uid: Option<&str>,
    remembered: Remembered,
    reports: &Reports,
    now: &Time,
) -> ContainerWorkloadProfileStatus {
    let previous = profile.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = profile.metadata.generation;
    let enforced_state = enforced_state(profile, remembered, reports);
    let ready = match profile.spec.profile_labels() {
        Err(error) => Ready::no("Invalid", error.to_string()),
        Ok(_) => ready(profile, enforced_state, namespace_uid, remembered, &Nodes { reports, previous, now }),
    };
    ContainerWorkloadProfileStatus {
        observed_generation: generation,
        conditions: ready.conditions(previous, generation, now),
        enforced_state,
        namespace_uid: namespace_uid.map(str::to_owned),
    }
}

/// What nodes say, and for how long they have been waited for.
struct Nodes<'r> {
    reports: &'r Reports,
    previous: &'r [Condition],
    now: &'r Time,
}

fn ready(
    profile: &ContainerWorkloadProfile,
    enforced: Option<PolicyState>,
    namespace_uid: Option<&str>,
    remembered: Remembered,
    nodes: &Nodes<'_>,
) -> Ready {
    let wanted = profile.spec.wanted_state();
    if enforced != wanted {
        let progress = nodes.reports.progress(remembered.since.unwrap_or_default().max(remembered.rules));
        let meanwhile = enforced.map_or("no rules hold".to_owned(), |state| format!("{state} holds"));
        return progress.waiting(Some(&meanwhile), nodes.previous, nodes.now);
    }
    let in_force = match remembered.since {
        None => "unmanaged".to_owned(),
        Some(since) => match nodes.reports.progress(since) {
            progress if progress.is_complete() => progress.in_force(),
            progress => return progress.waiting(None, nodes.previous, nodes.now),
        },
    };
    match (namespace_uid, wanted) {
        (None, _) => Ready::yes("NoNamespace", "there is no such namespace yet"),
        (Some(_), None) => Ready::yes("Unmanaged", "the namespace is not managed"),
        (Some(_), Some(state)) => Ready::yes("InForce", format!("{state}: {in_force}")),
    }
}

#[cfg(test)]
mod tests;
