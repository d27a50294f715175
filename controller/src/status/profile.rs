//! Status of a ContainerWorkloadProfile: the state that agents enforce, and whether all do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_crds::Revision;
use ringfence_crds::container_workload_profile::{ContainerWorkloadProfile, ContainerWorkloadProfileStatus};

use super::{Ready, Reports};

/// The status of a profile that last changed in revision `since`. `namespace_uid` is there when the namespace is.
pub fn status(
    profile: &ContainerWorkloadProfile,
    namespace_uid: Option<&str>,
    since: Option<Revision>,
    reports: &Reports,
    now: &Time,
) -> ContainerWorkloadProfileStatus {
    let previous = profile.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = profile.metadata.generation;
    ContainerWorkloadProfileStatus {
        observed_generation: generation,
        conditions: ready(profile, namespace_uid, since, reports).conditions(previous, generation, now),
        enforced_state: profile.spec.wanted_state(),
        namespace_uid: namespace_uid.map(str::to_owned),
    }
}

fn ready(
    profile: &ContainerWorkloadProfile,
    namespace_uid: Option<&str>,
    since: Option<Revision>,
    reports: &Reports,
) -> Ready {
    if let Err(error) = profile.spec.profile_labels() {
        return Ready::no("Invalid", error.to_string());
    }
    let in_force = match since.map(|since| reports.all(since)) {
        None => "unmanaged".to_owned(),
        Some(Ok(in_force)) => in_force,
        Some(Err(waiting)) => return waiting,
    };
    match (namespace_uid, profile.spec.wanted_state()) {
        (None, _) => Ready::yes("NoNamespace", "there is no such namespace yet"),
        (Some(_), None) => Ready::yes("Unmanaged", "the namespace is not managed"),
        (Some(_), Some(state)) => Ready::yes("InForce", format!("{state}: {in_force}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_crds::ContainerWorkloadProfileSpec;
    use ringfence_model::PolicyState;
    use std::collections::BTreeMap;

    fn of(
        managed: bool,
        state: Option<PolicyState>,
        uid: Option<&str>,
        acknowledged: i64,
    ) -> ContainerWorkloadProfileStatus {
        let spec = ContainerWorkloadProfileSpec { managed, policy_state: state, ..Default::default() };
        let profile = ContainerWorkloadProfile::new("shop", spec);
        let reports = Reports(BTreeMap::from([("n".to_owned(), Some(Revision { epoch: 0, number: acknowledged }))]));
        let now = Time(Timestamp::UNIX_EPOCH);
        status(&profile, uid, Some(Revision { epoch: 0, number: 5 }), &reports, &now)
    }

    #[test]
    fn the_enforced_state_follows_the_spec_at_once() {
        assert_eq!(of(true, Some(PolicyState::Full), Some("u"), 0).enforced_state, Some(PolicyState::Full));
        assert_eq!(of(true, None, Some("u"), 0).enforced_state, Some(PolicyState::Idle), "managed without a state");
        assert_eq!(of(false, None, Some("u"), 0).enforced_state, None);
        assert_eq!(
            of(true, Some(PolicyState::Full), None, 0).enforced_state,
            Some(PolicyState::Full),
            "until the last Pod is gone"
        );
    }

    #[test]
    fn ready_waits_for_nodes() {
        assert_eq!(of(true, None, Some("u"), 4).conditions[0].reason, "WaitingForNodes");
        assert_eq!(of(true, None, Some("u"), 5).conditions[0].reason, "InForce");
        assert_eq!(
            of(false, None, Some("u"), 4).conditions[0].reason,
            "WaitingForNodes",
            "rules are still to be removed"
        );
        assert_eq!(of(false, None, Some("u"), 5).conditions[0].reason, "Unmanaged");
        assert_eq!(of(true, None, None, 5).conditions[0].reason, "NoNamespace");
    }
}
