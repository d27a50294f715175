//! The node itself: what its own network namespace is to hold. Whoever keeps that namespace ([`crate::host`]) works on
//! its own; here it is only said what is wanted, and heard what came of it.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_dataplane::{Host, LocalPod, Resolution, Resolver};
use tokio::sync::watch;
use tokio::time::Instant;

use super::tell_if_other;
use crate::host::{Said, State, Wanted};
use crate::lacking::Lacking;
use crate::netns::Cookie;
use crate::readings::Readings;
use crate::view::View;

/// The way to whoever keeps the node's network namespace, and what is said there.
#[derive(Debug)]
pub struct NodeSide {
    /// What the agent itself knows of the node. Its addresses are the engine's.
    pub host: Host,
    /// What is wanted.
    pub wanted: watch::Sender<Wanted>,
    /// What came of it.
    pub said: watch::Receiver<Said>,
    /// What its rules refer to and nobody knows.
    lacking: Option<Lacking>,
    /// The publication that the node's policy is of is not here yet.
    open: bool,
}

/// Why nothing is wanted, or what is wanted instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This node was turned off.
    Off,
    /// Enforcement is suspended.
    Suspended,
    /// Policy is enforced.
    Enforced,
}

impl NodeSide {
    /// Nothing is known yet.
    pub fn new(host: Host, wanted: watch::Sender<Wanted>, said: watch::Receiver<Said>) -> Self {
        Self { host, wanted, said, lacking: None, open: false }
    }

    /// Says what is wanted now. `pods`: those of the node, for their probes.
    pub fn resolve(
        &mut self,
        view: &View,
        standing: Standing,
        resolver: &mut Resolver<'_>,
        (addresses, pods): (&[IpAddr], impl Iterator<Item = LocalPod>),
        now: Instant,
    ) {
        addresses.clone_into(&mut self.host.addresses);
        let resolution = resolver.resolve_host(&self.host, pods);
        self.open = false;
        let missing = match &resolution {
            Resolution::Incomplete { missing, .. } if standing == Standing::Enforced && view.is_loaded() => {
                Some(missing.clone())
            }
            _ => None,
        };
        self.lacking = missing.map(|missing| Lacking::carry_on(self.lacking.as_ref(), missing, now));
        let wanted = match (standing, resolution) {
            // Who turns a node off means it, whatever has been read.
            (Standing::Off, _) => Wanted::Nothing,
            // What is on disk may be older than what holds, and without an apiserver no change can be confirmed.
            _ if !view.is_loaded() => Wanted::Keep,
            (Standing::Suspended, _) | (_, Resolution::Unmanaged | Resolution::Idle) => Wanted::Nothing,
            (_, Resolution::Incomplete { .. }) => Wanted::Keep,
            // A state and the rules that go with it come on watches of their own.
            (_, Resolution::Enforce(_)) if !is_published(view) => {
                self.open = true;
                Wanted::Keep
            }
            (_, Resolution::Enforce(policy)) => Wanted::Policy(Arc::new(policy), witnesses(view)),
        };
        tell_if_other(&self.wanted, wanted);
    }

    /// Whether the publication has come that it waited for.
    pub fn is_due(&self, view: &View) -> bool {
        self.open && is_published(view)
    }

    /// Waits for news of what came of it.
    pub async fn news(&mut self) {
        if self.said.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether nothing is left to be done.
    pub fn is_settled(&self) -> bool {
        self.lacking.is_none() && self.said.borrow().settles(&self.wanted.borrow())
    }

    /// What is wrong.
    pub fn problem(&self) -> Option<String> {
        self.said.borrow().problem.clone()
    }

    /// What has been missing for too long.
    pub fn stalled(&self, now: Instant) -> Option<String> {
        self.lacking.as_ref()?.stalled("the node itself", now)
    }

    /// When that is so.
    pub fn deadline(&self) -> Option<Instant> {
        self.lacking.as_ref().map(Lacking::deadline)
    }

    /// What is in force.
    pub fn state(&self) -> State {
        self.said.borrow().state
    }

    /// What was read back in its network namespace.
    pub fn readings(&self) -> Option<(Cookie, Readings)> {
        self.said.borrow().readings.clone()
    }
}

/// Whether everything is here that was published with the node's policy.
fn is_published(view: &View) -> bool {
    let node = view.store().node_policy.as_ref().map(|node| node.revision).unwrap_or_default();
    node <= view.revision() && view.is_closed() && view.has_peer_groups()
}

fn witnesses(view: &View) -> Vec<IpAddr> {
    let host = view.store().node_policy.iter().filter_map(|node| node.host.as_ref());
    host.flat_map(|host| &host.witnesses).filter_map(|text| text.parse().ok()).collect()
}
