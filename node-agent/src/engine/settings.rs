//! What an engine begins with.

use std::collections::BTreeMap;
use std::time::Duration;

use ringfence_cni::Fallback;
use ringfence_dataplane::Learned;

use super::{LEDGER_WAIT, NodeSide, POD_START_WAIT};
use crate::gate::Gate;
use crate::names;
use crate::netns::Cookie;
use crate::readings::Readings;

/// What an engine is to do, and what it knows from before.
#[derive(Debug)]
pub struct Settings {
    /// The namespace of the agent's own Pod.
    pub own_namespace: Option<String>,
    /// For so long a Pod's start may wait for its rules.
    pub pod_start_wait: Duration,
    /// For so long no Pod may start by what was left on disk alone.
    pub ledger_wait: Duration,
    /// What holds for the start of Pods as long as nothing was read.
    pub before: Option<Fallback>,
    /// What an agent before it has read back.
    pub readings: BTreeMap<Cookie, Readings>,
    /// Seconds since 1970, by which what Pods learn of names is over.
    pub clock: fn() -> u64,
    /// What Pods have learned of names before, by sandbox.
    pub learned: BTreeMap<String, Learned>,
    /// The node itself, if this agent keeps its rules.
    pub node: Option<NodeSide>,
    /// The gate of the node whose network namespace the agent is in, if the node is to have one.
    pub gate: Option<Gate>,
    /// A gate of an agent with other settings may be there, and is to go.
    pub stale_gate: bool,
    /// Whether rules are taken away from the namespace of a sandbox that is no longer listed. Not where a runtime takes
    /// the namespace away: until then the rules hold.
    pub releases_departed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            own_namespace: None,
            pod_start_wait: POD_START_WAIT,
            ledger_wait: LEDGER_WAIT,
            before: None,
            readings: BTreeMap::new(),
            clock: names::now,
            learned: BTreeMap::new(),
            node: None,
            gate: None,
            stale_gate: false,
            releases_departed: false,
        }
    }
}
