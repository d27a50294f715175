//! Which state is in force when, and what is said about it.

use super::*;
use k8s_openapi::jiff::Timestamp;
use ringfence_crds::ContainerWorkloadProfileSpec;
use ringfence_model::PolicyState::{Full, Idle, Selective, VisibilityOnly};

use crate::status::Node;

const STATES: [Option<PolicyState>; 5] = [None, Some(Idle), Some(VisibilityOnly), Some(Selective), Some(Full)];

fn number(number: i64) -> Revision {
    Revision { epoch: 0, number }
}
fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).expect("a literal of the test"))
}

/// The profile shop, in whose namespace `enforced` is in force, and which asks for `wanted`.
fn profile(enforced: Option<PolicyState>, wanted: Option<PolicyState>) -> ContainerWorkloadProfile {
    let spec = ContainerWorkloadProfileSpec { managed: wanted.is_some(), policy_state: wanted, ..Default::default() };
    let mut profile = ContainerWorkloadProfile::new("shop", spec);
    profile.status = Some(ContainerWorkloadProfileStatus { enforced_state: enforced, ..Default::default() });
    profile
}

/// It has changed in revision 5, and any rules in revision 6.
fn changed() -> Remembered {
    Remembered { since: Some(number(5)), rules: number(6), full: false }
}

/// Nodes a, b, …: what each has acknowledged, and whether it is Ready.
fn nodes(list: &[(Option<i64>, bool)]) -> Reports {
    let node = |(acknowledged, ready): &(Option<i64>, bool)| Node {
        acknowledged: acknowledged.map(number),
        unseen: None,
        ready: *ready,
        off: false,
    };
    let names = ["a", "b", "c"].map(str::to_owned);
    Reports(names.into_iter().zip(list.iter().map(node)).collect())
}

fn after(
    profile: &ContainerWorkloadProfile,
    remembered: Remembered,
    reports: &Reports,
) -> ContainerWorkloadProfileStatus {
    status(profile, Some("u"), remembered, reports, &at(0))
}

fn said(status: &ContainerWorkloadProfileStatus) -> (&str, &str, &str) {
    let ready = &status.conditions[0];
    (&ready.status, &ready.reason, &ready.message)
}

#[test]
fn only_full_waits() {
    let (lagging, acknowledged) = (nodes(&[(Some(6), true), (Some(5), true)]), nodes(&[(Some(6), true); 2]));
    for enforced in STATES {
        for wanted in STATES {
            let profile = profile(enforced, wanted);
            let expected = match (enforced, wanted) {
                (Some(Full), Some(Full)) => Some(Full),
                (before, Some(Full)) => before,
                _ => wanted,
            };
            assert_eq!(after(&profile, changed(), &lagging).enforced_state, expected, "{enforced:?} to {wanted:?}");
            let expected = wanted;
            assert_eq!(
                after(&profile, changed(), &acknowledged).enforced_state,
                expected,
                "{enforced:?} to {wanted:?}"
            );
        }
    }
}

#[test]
fn managed_without_a_state_is_idle() {
    let mut profile = profile(None, None);
    profile.spec.managed = true;
    assert_eq!(after(&profile, changed(), &nodes(&[(None, true)])).enforced_state, Some(Idle));
}

#[test]
fn full_waits_for_the_profile_and_for_all_rules() {
    let full = profile(Some(VisibilityOnly), Some(Full));
    let until = |acknowledged| after(&full, changed(), &nodes(&[(Some(acknowledged), true)])).enforced_state;
    assert_eq!([until(4), until(5), until(6)], [Some(VisibilityOnly), Some(VisibilityOnly), Some(Full)]);
    let newer = Remembered { since: Some(number(9)), ..changed() };
    assert_eq!(after(&full, newer, &nodes(&[(Some(8), true)])).enforced_state, Some(VisibilityOnly));
    let unknown = Remembered { since: None, ..changed() };
    assert_eq!(after(&full, unknown, &nodes(&[(Some(8), true)])).enforced_state, Some(VisibilityOnly));
}

#[test]
fn a_node_that_is_not_ready_is_not_waited_for_and_one_that_never_reported_is() {
    let full = profile(None, Some(Full));
    let of = |reports: &Reports| after(&full, changed(), reports);
    let away = of(&nodes(&[(Some(6), true), (Some(2), false), (None, false)]));
    assert_eq!(away.enforced_state, Some(Full));
    let silent = of(&nodes(&[(Some(6), true), (None, true)]));
    assert_eq!(silent.enforced_state, None);
    assert_eq!(
        said(&silent),
        (
            "False",
            "WaitingForNodes",
            "1/2 nodes have acknowledged; waiting for b (never reported); until then no rules hold"
        )
    );
    let both = of(&nodes(&[(Some(6), true), (Some(5), true), (Some(4), false)]));
    assert_eq!(
        said(&both).2,
        "1/2 nodes have acknowledged; waiting for b (at 0.5); until then no rules hold; \
         not ready and not waited for: c"
    );
    assert_eq!(of(&Reports::default()).enforced_state, Some(Full), "no agent runs, so nobody lags behind");
}

#[test]
fn what_is_in_full_stays_in_full() {
    let nobody = nodes(&[(None, true), (Some(1), true)]);
    let in_full = profile(Some(Full), Some(Full));
    for remembered in [changed(), Remembered::default(), Remembered { since: None, ..changed() }] {
        assert_eq!(after(&in_full, remembered, &nobody).enforced_state, Some(Full), "{remembered:?}");
    }
    // Somebody else has written the status.
    let meddled = profile(Some(Idle), Some(Full));
    let put_in_force = Remembered { full: true, ..changed() };
    assert_eq!(after(&meddled, put_in_force, &nobody).enforced_state, Some(Full));
    let released = profile(Some(Full), Some(VisibilityOnly));
    assert_eq!(after(&released, put_in_force, &nobody).enforced_state, Some(VisibilityOnly), "only its spec does that");
}

#[test]
fn waiting_goes_over_into_stalled_and_the_state_before_holds_on() {
    let mut full = profile(Some(Selective), Some(Full));
    let lagging = nodes(&[(Some(5), true)]);
    let mut look = |second: i64| {
        let status = status(&full, Some("u"), changed(), &lagging, &at(second));
        full.status = Some(status.clone());
        let ready = &status.conditions[0];
        assert!(ready.message.contains("until then Selective holds"), "{}", ready.message);
        (ready.status.clone(), ready.reason.clone(), status.enforced_state)
    };
    let expected = |reason: &str| ("False".to_owned(), reason.to_owned(), Some(Selective));
    assert_eq!(look(1000), expected("WaitingForNodes"));
    assert_eq!(look(1299), expected("WaitingForNodes"));
    assert_eq!(look(1300), expected("Stalled"));
    assert_eq!(look(9000), expected("Stalled"));
}

#[test]
fn ready_means_that_every_node_has_the_state_in_force() {
    // Full came into force in revision 7.
    let in_full = profile(Some(Full), Some(Full));
    let remembered = Remembered { since: Some(number(7)), full: true, ..changed() };
    let lagging = after(&in_full, remembered, &nodes(&[(Some(7), true), (Some(6), true)]));
    assert_eq!(said(&lagging), ("False", "WaitingForNodes", "1/2 nodes have acknowledged; waiting for b (at 0.6)"));
    let done = after(&in_full, remembered, &nodes(&[(Some(7), true), (Some(7), true), (None, false)]));
    assert_eq!(said(&done), ("True", "InForce", "Full: in force on 2 of 2 nodes; not ready and not waited for: c"));
}

#[test]
fn ready_waits_for_nodes_in_other_states_too() {
    let of = |wanted: Option<PolicyState>, uid: Option<&str>, acknowledged: i64| {
        let nodes = nodes(&[(Some(acknowledged), true)]);
        let status = status(&profile(Some(Idle), wanted), uid, changed(), &nodes, &at(0));
        status.conditions[0].reason.clone()
    };
    assert_eq!(of(Some(Selective), Some("u"), 4), "WaitingForNodes");
    assert_eq!(of(Some(Selective), Some("u"), 5), "InForce");
    assert_eq!(of(None, Some("u"), 4), "WaitingForNodes", "rules are still to be removed");
    assert_eq!(of(None, Some("u"), 5), "Unmanaged");
    assert_eq!(of(Some(Selective), None, 5), "NoNamespace");
}
