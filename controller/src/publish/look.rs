//! What a plan looks at: everything, or only what may have changed since the plan before it.
//!
//! An object is looked at when the compiler says that it is another one now, when a watch says that it changed in the
//! cluster, and as long as it could not be written. What is not marked is not seen: that is why everything is looked at
//! after a start, after a list was read anew, while the apiserver refuses something, and every ten minutes.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_compile::compile::Changes;
use ringfence_crds::common::NamespacedName;

use crate::engine::world::{Index, cluster_wide};

/// What a plan looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Look {
    /// Every object.
    #[default]
    Everything,
    /// These.
    At(Names),
}

/// Objects of the kinds that publishing is about, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Each set is of the kind it is named like.
pub struct Names {
    pub node_policies: BTreeSet<String>,
    pub workload_policies: BTreeSet<String>,
    pub peer_groups: BTreeSet<String>,
    pub address_groups: BTreeSet<String>,
    pub profiles: BTreeSet<String>,
    pub rule_sets: BTreeSet<String>,
}

impl Look {
    /// At nothing.
    pub fn nowhere() -> Self {
        Self::At(Names::default())
    }

    /// Whether it is at nothing.
    pub fn is_nowhere(&self) -> bool {
        *self == Self::nowhere()
    }

    /// Looks at one more object of a kind, or at all of everything when the change was about no single one.
    pub fn add(&mut self, key: Option<&NamespacedName>, kind: fn(&mut Names) -> &mut BTreeSet<String>) {
        match (&mut *self, key) {
            (Self::Everything, _) => {}
            (Self::At(names), Some(key)) => {
                kind(names).insert(key.name.clone());
            }
            (Self::At(_), None) => *self = Self::Everything,
        }
    }

    /// Looks at what was computed anew, too.
    pub fn add_computed(&mut self, changes: Changes) {
        let Self::At(names) = self else { return };
        names.node_policies.extend(changes.node_policies);
        names.workload_policies.extend(changes.workload_policies);
        names.peer_groups.extend(changes.peer_groups);
        names.address_groups.extend(changes.address_groups);
    }

    /// Looks at what another one looks at, too.
    pub fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Everything, _) => {}
            (_, Self::Everything) => *self = Self::Everything,
            (Self::At(names), Self::At(others)) => {
                names.node_policies.extend(others.node_policies);
                names.workload_policies.extend(others.workload_policies);
                names.peer_groups.extend(others.peer_groups);
                names.address_groups.extend(others.address_groups);
                names.profiles.extend(others.profiles);
                names.rule_sets.extend(others.rule_sets);
            }
        }
    }

    /// The names of one kind; none when everything is looked at.
    pub fn at(&self, kind: fn(&Names) -> &BTreeSet<String>) -> Option<&BTreeSet<String>> {
        match self {
            Self::Everything => None,
            Self::At(names) => Some(kind(names)),
        }
    }
}

/// The objects of an index that are looked at.
pub fn seen<'w, K>(
    index: &'w Index<K>,
    names: Option<&'w BTreeSet<String>>,
) -> Box<dyn Iterator<Item = (&'w NamespacedName, &'w K)> + 'w> {
    match names {
        None => Box::new(index.iter()),
        Some(names) => Box::new(names.iter().filter_map(|name| index.get_key_value(&cluster_wide(name.as_str())))),
    }
}

/// What is wanted of a kind, as far as it is looked at.
pub fn wanted<'c, S>(
    wanted: &'c BTreeMap<String, S>,
    names: Option<&'c BTreeSet<String>>,
) -> Box<dyn Iterator<Item = (&'c String, &'c S)> + 'c> {
    match names {
        None => Box::new(wanted.iter()),
        Some(names) => Box::new(names.iter().filter_map(|name| wanted.get_key_value(name))),
    }
}
