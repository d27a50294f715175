//! What a commit must not do by leaving something out.

use std::collections::BTreeSet;

use kube::api::DynamicObject;
use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_crds::ContainerWorkloadProfileSpec;
use ringfence_model::PolicyState;
use serde::Deserialize;

use super::live::Live;
use super::refusal::Refusal;

/// Refuses a commit that has nothing where there was something: more likely a wrong path than a wish.
pub(super) fn not_empty(desired: usize, owned: usize) -> Result<(), Refusal> {
    if desired == 0 && owned > 0 { Err(Refusal::EmptySource { owned }) } else { Ok(()) }
}

/// Refuses a commit without a profile that still blocks connections in a living namespace: what is left out by
/// mistake must not open it.
pub(super) fn not_enforcing(
    gone: &BTreeSet<ObjectKey>,
    live: &Live,
    namespaces: &BTreeSet<String>,
) -> Result<(), Refusal> {
    let enforcing: Vec<String> = gone
        .iter()
        .filter(|key| key.kind == Kind::ContainerWorkloadProfile && namespaces.contains(&key.name))
        .filter(|key| live.get(key).is_some_and(enforces))
        .map(|key| format!("namespace {}", key.name))
        .collect();
    if enforcing.is_empty() { Ok(()) } else { Err(Refusal::StillEnforcing(enforcing)) }
}

/// Whether the profile asks for Selective or Full. One that cannot be read counts as enforcing.
fn enforces(profile: &DynamicObject) -> bool {
    let spec = profile.data.get("spec").map(ContainerWorkloadProfileSpec::deserialize);
    match spec {
        Some(Ok(spec)) => matches!(spec.wanted_state(), Some(PolicyState::Selective | PolicyState::Full)),
        Some(Err(_)) => true,
        None => false,
    }
}
