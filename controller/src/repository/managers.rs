//! Who wrote what: the field managers that the apiserver records on every object.

use std::collections::BTreeSet;

use kube::api::DynamicObject;
use kube::{Resource, core::ObjectMeta};
use ringfence_crds::names::MANAGER_GIT;
use serde_json::{Map, Value};

use crate::kubelink::owner;

/// Managers of this project begin so: they never count as somebody else.
const OURS: &str = "ringfence-";

/// One manager's share of an object.
#[derive(Debug)]
pub(super) struct Share<'o> {
    /// Its name, such as `kubectl-edit`.
    pub(super) manager: &'o str,
    /// Whether it applies (an owner by intent) or updates.
    pub(super) applies: bool,
    fields: &'o Value,
}

impl Share<'_> {
    /// Whether any field under `spec` is the manager's.
    pub(super) fn has_spec(&self) -> bool {
        self.fields.get("f:spec").is_some()
    }

    /// The keys of a map in the metadata (`labels`, `annotations`) that are the manager's.
    fn metadata(&self, map: &str) -> BTreeSet<&str> {
        let fields = self.fields.pointer(&format!("/f:metadata/f:{map}")).and_then(Value::as_object);
        fields.into_iter().flat_map(Map::keys).filter_map(|key| key.strip_prefix("f:")).collect()
    }

    /// Whether the manager owns the field at this path, or one above or below it.
    fn touches(&self, path: &[String]) -> bool {
        let mut at = self.fields;
        for (depth, part) in path.iter().enumerate() {
            match at.as_object() {
                // A leaf above the path: the manager owns the whole of it. Of the object itself nobody does.
                Some(fields) if fields.is_empty() => return depth > 0,
                Some(fields) => match fields.get(&format!("f:{part}")) {
                    Some(next) => at = next,
                    None => return false,
                },
                None => return false,
            }
        }
        true
    }
}

/// Everybody's share of the object itself (not of its status).
pub(super) fn shares(object: &DynamicObject) -> Vec<Share<'_>> {
    let meta: &ObjectMeta = object.meta();
    meta.managed_fields
        .iter()
        .flatten()
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .filter_map(|entry| {
            Some(Share {
                manager: entry.manager.as_deref()?,
                applies: entry.operation.as_deref() == Some("Apply"),
                fields: &entry.fields_v1.as_ref()?.0,
            })
        })
        .collect()
}

/// Managers outside this project that own one of the fields at these paths.
pub(super) fn others(object: &DynamicObject, paths: &[Vec<String>]) -> BTreeSet<String> {
    shares(object)
        .iter()
        .filter(|share| !share.manager.starts_with(OURS))
        .filter(|share| paths.iter().any(|path| share.touches(path)))
        .map(|share| share.manager.to_owned())
        .collect()
}

/// The keys of a map in the metadata that came from git.
pub(super) fn from_git(object: &DynamicObject, map: &str) -> BTreeSet<String> {
    shares(object)
        .iter()
        .filter(|share| share.manager == MANAGER_GIT && share.applies)
        .flat_map(|share| share.metadata(map).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Whether any field came from git.
pub(super) fn has_git(object: &DynamicObject) -> bool {
    shares(object).iter().any(|share| share.manager == MANAGER_GIT)
}

/// Who outside this project is the object's owner by intent, by the same rule as for discovery.
pub(super) fn owners(object: &DynamicObject) -> BTreeSet<String> {
    shares(object)
        .iter()
        .filter(|share| share.has_spec() && !share.manager.starts_with(OURS))
        .filter(|share| owner::by_intent(share.manager, share.applies))
        .map(|share| share.manager.to_owned())
        .collect()
}

/// Everybody outside this project who wrote any of the spec.
pub(super) fn writers(object: &DynamicObject) -> BTreeSet<String> {
    shares(object)
        .iter()
        .filter(|share| share.has_spec() && !share.manager.starts_with(OURS))
        .map(|share| share.manager.to_owned())
        .collect()
}
