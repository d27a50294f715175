//! One request and one answer over a connection, each one line of JSON.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::TYPE;

/// The plugin's entry in the list of a CNI configuration. Paths are those of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Always [`TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Where it says what holds when it does not answer.
    pub fallback: PathBuf,
    /// For how long a Pod's start may wait for its rules, in milliseconds.
    pub wait_milliseconds: u64,
}

impl Entry {
    /// An entry for an agent that listens there.
    pub fn new(socket: PathBuf, fallback: PathBuf, wait: Duration) -> Self {
        let wait_milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self { kind: TYPE.to_owned(), socket, fallback, wait_milliseconds }
    }

    /// For how long a Pod's start may wait for its rules.
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_milliseconds)
    }
}

/// What the plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// A Pod is about to start: is it protected?
    Add(Attachment),
    /// A network namespace is about to go.
    Del {
        /// The sandbox.
        sandbox: String,
    },
}

/// A network namespace that has just got its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Id of the sandbox, as the container runtime has it.
    pub sandbox: String,
    /// The network namespace, as the host has it.
    pub netns: PathBuf,
    /// The Pod's namespace; empty for what is no Pod of Kubernetes.
    #[serde(default)]
    pub namespace: String,
    /// The Pod's name.
    #[serde(default)]
    pub name: String,
    /// The Pod's uid as the kubelet uses it; empty where the runtime does not tell.
    #[serde(default)]
    pub uid: String,
    /// Its addresses.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Whether an agent has been asked before, and may have written something.
    #[serde(default)]
    pub again: bool,
}

/// Whether a Pod may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Start {
    /// It may.
    Allow,
    /// It must not; the kubelet tries again.
    Refuse,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the Pod may start.
    pub start: Start,
    /// Why it may not, or what is not as it should be, to follow "failed to"; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Answer {
    /// It may start: what protects it is in force, or it needs no protection.
    pub fn protected() -> Self {
        Self { start: Start::Allow, problem: None }
    }
}
