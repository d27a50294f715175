//! Which VirtualServices and Workloads chores look at: all, or those of which something may have changed since. Everything
//! else that chores compare is little, or depends on what every node acknowledges.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_compile::compile::Changes;
use ringfence_crds::common::NamespacedName;

use crate::engine::input::Input;

/// What chores look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Due {
    /// Every object.
    #[default]
    Everything,
    /// These.
    At {
        /// VirtualServices.
        services: BTreeSet<NamespacedName>,
        /// Workloads.
        workloads: BTreeSet<String>,
    },
}

/// Where a change is, for chores.
#[derive(Debug, PartialEq, Eq)]
pub enum Spot {
    /// In a VirtualService or its Service.
    Service(NamespacedName),
    /// In a Workload or its node.
    Workload(String),
    /// In what all of them depend on, or in a whole list.
    Anywhere,
    /// In what none of them depends on.
    Nowhere,
}

impl Spot {
    /// The place of a change.
    pub fn of(input: &Input) -> Self {
        let one =
            |key: Option<&NamespacedName>, spot: fn(NamespacedName) -> Self| key.cloned().map_or(Self::Anywhere, spot);
        let workload: fn(NamespacedName) -> Self = |key| Self::Workload(key.name);
        match input {
            Input::Namespace(_) | Input::Cluster(_) => Self::Anywhere,
            Input::Service(change) => one(change.key(), Self::Service),
            Input::VirtualService(change) => one(change.key(), Self::Service),
            Input::Node(change) => one(change.key(), workload),
            Input::NodePolicy(change) => one(change.key(), workload),
            Input::Workload(change) => one(change.key(), workload),
            _ => Self::Nowhere,
        }
    }
}

impl Due {
    /// At nothing.
    pub fn nowhere() -> Self {
        Self::At { services: BTreeSet::new(), workloads: BTreeSet::new() }
    }

    /// Looks at one more place.
    pub fn add(&mut self, spot: Spot) {
        let Self::At { services, workloads } = self else { return };
        match spot {
            Spot::Service(key) => drop(services.insert(key)),
            Spot::Workload(name) => drop(workloads.insert(name)),
            Spot::Anywhere => *self = Self::Everything,
            Spot::Nowhere => {}
        }
    }

    /// Looks at what was computed anew, too.
    pub fn add_computed(&mut self, changes: &Changes) {
        if let Self::At { services, workloads } = self {
            services.extend(changes.services.iter().cloned());
            workloads.extend(changes.workloads.iter().cloned());
        }
    }

    /// Looks at what another one looks at, too.
    pub fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Everything, _) => {}
            (_, Self::Everything) => *self = Self::Everything,
            (Self::At { services, workloads }, Self::At { services: more_services, workloads: more_workloads }) => {
                services.extend(more_services);
                workloads.extend(more_workloads);
            }
        }
    }

    /// The VirtualServices; none when everything is looked at.
    pub fn services(&self) -> Option<&BTreeSet<NamespacedName>> {
        match self {
            Self::Everything => None,
            Self::At { services, .. } => Some(services),
        }
    }

    /// The Workloads; none when everything is looked at.
    pub fn workloads(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Everything => None,
            Self::At { workloads, .. } => Some(workloads),
        }
    }
}

/// The entries of a map that are looked at.
pub fn seen<'m, K: Ord, V>(
    map: &'m BTreeMap<K, V>,
    look: Option<&'m BTreeSet<K>>,
) -> Box<dyn Iterator<Item = (&'m K, &'m V)> + 'm> {
    match look {
        None => Box::new(map.iter()),
        Some(keys) => Box::new(keys.iter().filter_map(|key| map.get_key_value(key))),
    }
}

#[cfg(test)]
mod tests;
