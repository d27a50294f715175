//! What the network namespace of a sandbox is to hold.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_dataplane::gate::{Ports, admit};
use ringfence_dataplane::{NetnsPolicy, Resolution};
use tokio::time::Instant;

use super::Slot;
use crate::apply::{Known, Wanted};
use crate::lacking::Lacking;

/// How a Pod lets its node in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// Its node has no gate: as its policy says.
    NoGate,
    /// From these addresses of the node, for which the gate is in force.
    Gate {
        /// On which ports.
        ports: Ports,
        /// The addresses; none as long as it is not in force.
        nodes: Arc<[IpAddr]>,
    },
}

impl Door {
    /// By which nothing is let in: of a Pod of which its node's gate, or that there is none, has not been told.
    pub fn closed() -> Self {
        Self::Gate { ports: Ports::Probes, nodes: Arc::default() }
    }
}

/// What the policy of a Pod says.
#[derive(Debug, Default)]
pub(super) struct Ruled {
    wanted: Option<Arc<NetnsPolicy>>,
    stopgap: Option<Arc<NetnsPolicy>>,
}

impl Slot {
    /// Takes in what the Pod is to have in force. While that is incomplete, what is in force stays; where nothing is,
    /// as in a Pod that has just begun, `may_close` lets less pass until the rest is known, or the kernel takes it.
    pub fn resolved(&mut self, resolution: Resolution, may_close: bool, now: Instant) {
        self.may_close = may_close;
        let wanted = match resolution {
            Resolution::Unmanaged | Resolution::Idle => None,
            Resolution::Enforce(policy) => Some(Arc::new(policy)),
            Resolution::Incomplete { missing, closed } => {
                // That nothing is in force was then no decision about its policy, and nothing to stay with.
                if (self.suspended || self.is_admitted()) && self.wanted == Some(Wanted::Nothing) {
                    self.wanted = None;
                }
                self.lacking = Some(Lacking::carry_on(self.lacking.as_ref(), missing, now));
                self.ruled.stopgap = closed.filter(|_| may_close).map(Arc::new);
                self.stopgap = self.ruled.stopgap.as_deref().map(|policy| self.behind_door(policy));
                return;
            }
        };
        self.lacking = None;
        (self.stopgap, self.ruled.stopgap) = (None, None);
        self.suspended = false;
        let enforced = wanted.as_deref().map_or(Wanted::Nothing, |policy| self.behind_door(policy));
        self.ruled.wanted = wanted;
        self.want(enforced);
    }

    fn want(&mut self, wanted: Wanted) {
        if self.wanted.as_ref() != Some(&wanted) {
            self.wanted = Some(wanted);
            self.needs_thread = false;
            // Something new deserves a new try at once.
            self.retry.hurry();
        }
    }

    /// Takes in how the Pod is to let its node in.
    pub fn let_in(&mut self, door: Door) {
        if self.door == door {
            return;
        }
        self.door = door;
        if let Some(policy) = self.ruled.wanted.clone() {
            self.want(self.behind_door(&policy));
        }
        self.stopgap = self.ruled.stopgap.as_deref().map(|policy| self.behind_door(policy));
    }

    /// A policy as the Pod itself enforces it.
    fn behind_door(&self, policy: &NetnsPolicy) -> Wanted {
        Wanted::Policy(Arc::new(match &self.door {
            Door::NoGate => policy.clone(),
            Door::Gate { ports, nodes } => admit(policy, *ports, nodes),
        }))
    }

    /// Whether everything that its rules refer to is known.
    pub fn is_complete(&self) -> bool {
        self.lacking.is_none()
    }

    /// Whether not all of its rules are known, and others may be in its kernel.
    pub fn may_hold_other_rules(&self) -> bool {
        self.wanted.is_none() && self.lacking.is_some() && matches!(self.known, Known::Unread) && !self.is_admitted()
    }

    /// The policy by which the gate judges connections towards it; nothing where it enforces none.
    pub fn rules(&self) -> Option<&Arc<NetnsPolicy>> {
        match &self.wanted {
            Some(Wanted::Nothing) => None,
            Some(Wanted::Policy(_)) => self.ruled.wanted.as_ref(),
            None => self.ruled.stopgap.as_ref(),
        }
    }

    /// Nothing is to be in force, whatever its policy says.
    pub fn suspend(&mut self, now: Instant) {
        self.hearing.rest();
        self.resolved(Resolution::Unmanaged, false, now);
        self.suspended = true;
    }

    /// What to bring about, and whether only where nothing of ours is yet.
    pub(super) fn target(&self, fresh: bool) -> Option<(&Wanted, bool)> {
        match (&self.wanted, &self.stopgap) {
            (Some(wanted), _) => Some((wanted, !fresh)),
            (None, stopgap) => stopgap.as_ref().map(|wanted| (wanted, true)),
        }
    }
}
