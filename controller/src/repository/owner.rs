//! Whose an object is.

use kube::ResourceExt;
use kube::api::DynamicObject;
use ringfence_crds::names::{CREATED_BY_KUBELINK, LABEL_CREATED_BY, LABEL_REPOSITORY};

use super::managers;

/// Whose an object is, as seen from one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// This repository's.
    Ours,
    /// Made by discovery, or left behind by a repository that is gone: the first who wants it may have it.
    Free,
    /// Somebody else's, who is named.
    Other(String),
}

/// Whose the object is. `owned` says whether this repository's inventory has it: then a label that somebody took
/// away by hand does not change its owner.
pub(super) fn of(object: &DynamicObject, repository: &str, owned: bool) -> Owner {
    match object.labels().get(LABEL_REPOSITORY) {
        Some(label) if label == repository => return Owner::Ours,
        Some(label) => return Owner::Other(format!("PolicyRepository {}", label.replacen('.', "/", 1))),
        None if owned => return Owner::Ours,
        None => {}
    }
    let discovered = object.labels().get(LABEL_CREATED_BY).is_some_and(|by| by == CREATED_BY_KUBELINK);
    let named = |names: std::collections::BTreeSet<String>| match names.into_iter().collect::<Vec<_>>().join(", ") {
        names if names.is_empty() => "nobody who is known".to_owned(),
        names => names,
    };
    if discovered {
        let owners = managers::owners(object);
        return if owners.is_empty() { Owner::Free } else { Owner::Other(named(owners)) };
    }
    let writers = managers::writers(object);
    let orphan = writers.is_empty() && managers::has_git(object);
    if orphan { Owner::Free } else { Owner::Other(named(writers)) }
}
