//! Selectors of label classes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use ringfence_model::Selector;

use super::class::{Class, ClassOrigin};
use super::names;

/// Selects label classes. Its text names the PeerGroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadSelector {
    /// Which kinds of workload.
    pub kind: WorkloadKind,
    /// Which labels.
    pub labels: Selector,
}

/// Which kinds of workload a selector is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// Pods, nodes and unmanaged machines.
    Any,
    /// Pods and nodes.
    Managed,
    /// Nodes.
    ContainerHosts,
    /// A node or unmanaged machine by name.
    Named(String),
}

impl WorkloadSelector {
    /// Whether a class is selected.
    pub fn matches(&self, class: &Class) -> bool {
        let kind = match (&self.kind, &class.origin) {
            (WorkloadKind::Any, _) => true,
            (WorkloadKind::Managed, origin) => !matches!(origin, ClassOrigin::Unmanaged(_)),
            (WorkloadKind::ContainerHosts, origin) => matches!(origin, ClassOrigin::Node(_)),
            (WorkloadKind::Named(name), ClassOrigin::Node(own) | ClassOrigin::Unmanaged(own)) => name == own,
            (WorkloadKind::Named(_), ClassOrigin::Pods) => false,
        };
        kind && self.labels.matches(&class.labels)
    }
}

impl fmt::Display for WorkloadSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            WorkloadKind::Any => return self.labels.fmt(f),
            WorkloadKind::Managed => f.write_str("managed workloads")?,
            WorkloadKind::ContainerHosts => f.write_str("container hosts")?,
            WorkloadKind::Named(name) => write!(f, "workload {name}")?,
        }
        if self.labels != Selector::everything() {
            write!(f, " with {}", self.labels)?;
        }
        Ok(())
    }
}

/// A selector with its text and the name of its PeerGroup, which are made once.
#[derive(Debug, Clone)]
pub struct PeerSelector {
    selector: WorkloadSelector,
    /// The selector as one line.
    pub text: String,
    /// Name of its PeerGroup.
    pub name: String,
}

impl From<WorkloadSelector> for PeerSelector {
    fn from(selector: WorkloadSelector) -> Self {
        let text = selector.to_string();
        Self { name: names::peer_group(&text), text, selector }
    }
}

impl Deref for PeerSelector {
    type Target = WorkloadSelector;

    fn deref(&self) -> &WorkloadSelector {
        &self.selector
    }
}

impl PartialEq for PeerSelector {
    fn eq(&self, other: &Self) -> bool {
        self.selector == other.selector
    }
}

impl Eq for PeerSelector {}

impl Hash for PeerSelector {
    /// Its name is a hash already.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
