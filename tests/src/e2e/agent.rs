//! The agent's process on a node: killed, told to end, stopped and seen again.

use anyhow::{Context, Result};

use crate::lab::{Lab, SLOW};
use crate::source::SYSTEM;
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

/// The Pod of a node's agent, as kubectl calls it.
///
/// # Errors
/// When the apiserver does not answer.
pub fn pod(lab: &Lab, node: &str) -> Result<String> {
    let field = format!("spec.nodeName=node{node}");
    let labels = "app.kubernetes.io/component=agent";
    let list = ["get", "pods", "-n", SYSTEM, "-l", labels, "--field-selector", &field, "-o", "name"];
    Ok(lab.kubectl(&list, &[])?.trim().to_owned())
}

/// An agent that has ended or is about to, and the one that comes after it.
pub struct Ended {
    node: String,
    old: String,
}

impl Ended {
    /// Kills the agent of a node, as a crash would.
    ///
    /// # Errors
    /// When none runs there, or it does not end.
    pub async fn by_kill(lab: &Lab, node: &str) -> Result<Self> {
        let old = process(lab, node).with_context(|| format!("no agent runs on node{node}"))?;
        signal(lab, node, "-KILL")?;
        // The kernel takes a moment to close what it had open.
        wait::until(&format!("the end of the agent of node{node}"), SLOW, || async {
            Ok(process(lab, node).is_none_or(|pid| pid != old).then_some(()))
        })
        .await?;
        Ok(Self { node: node.to_owned(), old })
    }

    /// Deletes the Pod of a node's agent, as an upgrade does, and awaits nothing: its process is told to end (SIGTERM),
    /// and another Pod comes in its place.
    ///
    /// # Errors
    /// When none runs there, or the apiserver refuses.
    pub fn by_deletion(lab: &Lab, node: &str) -> Result<Self> {
        let old = process(lab, node).with_context(|| format!("no agent runs on node{node}"))?;
        lab.kubectl(&["delete", "-n", SYSTEM, &pod(lab, node)?, "--wait=false"], &[])?;
        Ok(Self { node: node.to_owned(), old })
    }

    /// Whether another one runs.
    pub fn is_back(&self, lab: &Lab) -> bool {
        process(lab, &self.node).is_some_and(|pid| pid != self.old)
    }
}
