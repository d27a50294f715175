//! The agent's process on a node: killed, stopped and seen again.

use anyhow::{Context, Result};

use crate::lab::{Lab, SLOW};
use crate::wait;

fn process(lab: &Lab, node: &str) -> Option<String> {
    lab.bed.run(&["node-exec", lab.bed.name(), node, "pgrep", "-x", "cven"]).ok().filter(|pid| !pid.is_empty())
}

/// Sends a signal (such as `-STOP`) to the agent of a node.
///
/// # Errors
/// When no agent runs there.
pub fn signal(lab: &Lab, node: &str, signal: &str) -> Result<()> {
    let cluster = lab.bed.name();
    let sent = lab.bed.run(&["node-exec", cluster, node, "pkill", signal, "-x", "cven"]);
    sent.map(drop).with_context(|| format!("failed to send {signal} to the agent of node{node}"))
}

/// An agent that was killed as a crash would, and the one that comes after it.
pub struct Killed {
    node: String,
    old: String,
}

impl Killed {
    /// Kills the agent of a node.
    ///
    /// # Errors
    /// When none runs there, or it does not end.
    pub async fn now(lab: &Lab, node: &str) -> Result<Self> {
        let old = process(lab, node).with_context(|| format!("no agent runs on node{node}"))?;
        signal(lab, node, "-KILL")?;
        // The kernel takes a moment to close what it had open.
        wait::until(&format!("the end of the agent of node{node}"), SLOW, || async {
            Ok(process(lab, node).is_none_or(|pid| pid != old).then_some(()))
        })
        .await?;
        Ok(Self { node: node.to_owned(), old })
    }

    /// Whether the kubelet has started it again.
    pub fn is_back(&self, lab: &Lab) -> bool {
        process(lab, &self.node).is_some_and(|pid| pid != self.old)
    }
}
