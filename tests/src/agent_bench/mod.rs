//! What a node agent costs: the real `cven` over network namespaces that are made and removed here.
//!
//! The agent reads its objects and Pods from files (`--objects`, `--pods`), as it reads them from an apiserver otherwise.
//! Children are counted by the kernel's process events ([`forks`]), what was written by the kernel's own numbers
//! ([`writes`]), and whether a policy is in force by packets of new flows that leave a Pod or do not ([`nets`]).

mod agent;
mod alone;
mod big;
mod figures;
mod forks;
mod nets;
mod node;
mod objects;
mod packets;
mod pair;
mod starts;
mod throughput;
mod writes;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

pub use forks::Forks;

/// How to measure.
pub struct Bench {
    /// The agent's program.
    pub agent: PathBuf,
    /// Pods of the node.
    pub pods: usize,
    /// Runs of what is measured as a whole; their median counts.
    pub runs: usize,
    /// Samples of one change.
    pub samples: usize,
    /// Pods that start.
    pub starts: u16,
    /// How long nothing is to happen.
    pub idle: Duration,
    /// The children of all processes.
    pub forks: Forks,
}

/// Benchmarks by name, in the order in which they run.
const PARTS: [(&str, fn(&Bench) -> Result<()>); 5] = [
    ("node", node::run),
    ("pod-start", starts::run),
    ("first-packet", packets::run),
    ("throughput", throughput::run),
    ("big-group", big::run),
];

/// Runs those whose name contains `filter`.
///
/// # Errors
/// When an agent does not do what it should, or a namespace cannot be made.
pub fn run(bench: &Bench, filter: Option<&str>) -> Result<()> {
    nets::sweep()?;
    for (name, part) in PARTS {
        if filter.is_none_or(|filter| name.contains(filter)) {
            part(bench).with_context(|| format!("failed to measure {name}"))?;
        }
    }
    Ok(())
}

/// Ends and removes whatever is left, after a run that was cut off.
pub fn clean_up() {
    agent::end_all();
    nets::remove_own();
    crate::pod_start::remove_own();
    objects::remove_own();
}
