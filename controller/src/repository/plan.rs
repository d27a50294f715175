//! From what git wants and what lives to the writes that bring them together. Pure.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::DynamicObject;
use ringfence_compile::policy::ObjectKey;
use ringfence_crds::names::{ANNOTATION_COMMIT, LABEL_CREATED_BY};

use super::content::{Desired, Difference};
use super::live::Live;
use super::managers;
use super::owner::{self, Owner};
use super::refusal::{Conflict, Refusal};

/// The round that a plan is for.
#[derive(Debug)]
pub(super) struct Round<'r> {
    /// Value of the label that marks this repository's objects.
    pub(super) repository: &'r str,
    /// The commit to put in force.
    pub(super) commit: &'r str,
    /// The commit in force.
    pub(super) applied: Option<&'r str>,
    /// The objects that this repository owns.
    pub(super) owned: &'r BTreeSet<ObjectKey>,
}

/// A write to one object.
#[derive(Debug)]
pub(super) struct Write {
    /// What it should be.
    pub(super) desired: Desired,
    /// How that differs from what lives.
    pub(super) difference: Difference,
    /// The commit that last changed what it says.
    pub(super) commit: String,
    /// Whether it is discovery's so far.
    pub(super) adopts: bool,
    /// Whose change is put back, if the difference is not git's.
    pub(super) reverted: Option<Reverted>,
}

/// A change that did not come from git.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reverted {
    /// The object was deleted.
    Deleted,
    /// The object was changed by these field managers, as far as the apiserver recorded them.
    Changed(BTreeSet<String>),
}

/// The writes of a round, in no order. Objects that are as they should be are not among them.
///
/// # Errors
/// When an object belongs to somebody else: then nothing is to be written at all.
pub(super) fn plan(desired: Vec<Desired>, live: &Live, round: &Round<'_>) -> Result<Vec<Write>, Refusal> {
    let conflicts: Vec<Conflict> = desired.iter().filter_map(|object| conflict(object, live, round)).collect();
    if !conflicts.is_empty() {
        return Err(Refusal::OwnedByAnother(conflicts));
    }
    Ok(desired.into_iter().filter_map(|object| write(object, live, round)).collect())
}

fn conflict(desired: &Desired, live: &Live, round: &Round<'_>) -> Option<Conflict> {
    let object = live.get(&desired.key)?;
    match owner::of(object, round.repository, round.owned.contains(&desired.key)) {
        Owner::Ours | Owner::Free => None,
        Owner::Other(owner) => Some(Conflict { key: desired.key.clone(), place: desired.place(), owner }),
    }
}

fn write(desired: Desired, live: &Live, round: &Round<'_>) -> Option<Write> {
    let object = live.get(&desired.key);
    let difference = desired.difference(object);
    let ours = round.owned.contains(&desired.key);
    let reverted = match (difference, object) {
        (Difference::None, _) => return None,
        (Difference::Missing, _) if ours && round.applied == Some(round.commit) => Some(Reverted::Deleted),
        (Difference::Content, Some(object)) if ours => reverted(&desired, object, round),
        _ => None,
    };
    // What git says did not change when only its place did, or when a change by hand is put back.
    let says_the_same = difference == Difference::Place || (reverted.is_some() && round.applied == Some(round.commit));
    let last = object.and_then(|object| object.annotations().get(ANNOTATION_COMMIT)).filter(|_| says_the_same);
    Some(Write {
        commit: last.map_or_else(|| round.commit.to_owned(), Clone::clone),
        adopts: object.is_some_and(|object| object.labels().contains_key(LABEL_CREATED_BY)),
        desired,
        difference,
        reverted,
    })
}

/// Whose change of the content this is: somebody else's when they own a field that differs, or when git has not
/// changed since the object was last applied.
fn reverted(desired: &Desired, object: &DynamicObject, round: &Round<'_>) -> Option<Reverted> {
    let by = managers::others(object, &desired.differing(object));
    (!by.is_empty() || round.applied == Some(round.commit)).then_some(Reverted::Changed(by))
}
