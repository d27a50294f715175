//! A label class: a distinct set of labels that workloads have.

use std::fmt;

use ringfence_model::Labels;

/// Number of a class, as long as it lives.
pub type ClassId = u32;

/// What kind of workload a class holds. Pods share classes; each machine has its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClassOrigin {
    /// Pods.
    Pods,
    /// A node.
    Node(String),
    /// An unmanaged machine.
    Unmanaged(String),
}

/// A distinct set of labels that workloads of one origin have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// The labels.
    pub labels: Labels,
    /// Whose they are.
    pub origin: ClassOrigin,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|", self.labels)?;
        match &self.origin {
            ClassOrigin::Pods => f.write_str("pods"),
            ClassOrigin::Node(name) => write!(f, "node {name}"),
            ClassOrigin::Unmanaged(name) => write!(f, "workload {name}"),
        }
    }
}
