//! The policy of one network namespace, typed: what stands between `resolve` and `render`.
//!
//! Only what is valid can be written. There is no state without rules in it (an Idle or unmanaged Pod has no
//! [`NetnsPolicy`]), "any peer" is a variant and never an empty list, and an empty list of peers matches nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use ringfence_model::{Action, Direction, EndState, Protocol, Services};

/// The states that put rules into a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// Rules that count, none that blocks.
    VisibilityOnly,
    /// Blocks what a Deny without an Allow, or an OverrideDeny, hits.
    Selective,
    /// Default deny.
    Full,
}

impl From<Enforcement> for EndState {
    fn from(state: Enforcement) -> Self {
        match state {
            Enforcement::VisibilityOnly => Self::VisibilityOnly,
            Enforcement::Selective => Self::Selective,
            Enforcement::Full => Self::Full,
        }
    }
}

/// What one network namespace enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetnsPolicy {
    /// The state.
    pub state: Enforcement,
    /// Addresses of the Pod, by which it is known when it reaches itself.
    pub own: BTreeSet<Ipv4Addr>,
    /// Connections towards the Pod; peers are sources.
    pub inbound: Side,
    /// Connections of the Pod; peers are destinations.
    pub outbound: Side,
}

impl NetnsPolicy {
    /// A policy without a rule.
    pub fn new(state: Enforcement) -> Self {
        Self { state, own: BTreeSet::new(), inbound: Side::default(), outbound: Side::default() }
    }

    /// The rules of one direction.
    pub fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

/// The rules of one direction, by the step of the policy model that they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Side {
    /// What no policy touches.
    pub essential: Vec<Entry>,
    /// What is blocked, whatever else hits.
    pub override_deny: Vec<Entry>,
    /// What passes if no OverrideDeny hits.
    pub allow: Vec<Entry>,
    /// What is blocked if no Allow hits.
    pub deny: Vec<Entry>,
}

impl Side {
    /// The list that rules of an action are in.
    pub fn of(&mut self, action: Action) -> &mut Vec<Entry> {
        match action {
            Action::Allow => &mut self.allow,
            Action::Deny => &mut self.deny,
            Action::OverrideDeny => &mut self.override_deny,
        }
    }
}

/// One line of a step: rules of one action, merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it hits.
    pub matching: Match,
    /// Reject instead of drop, where it blocks.
    pub reject: bool,
    /// The first of the rules merged into it, `ruleset/rule`, or the reason of an essential.
    pub rule: String,
}

/// What an entry hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Peers, on services of the provider.
    Hosts {
        /// The peers.
        peers: Peers,
        /// The provider's ports.
        services: Services,
    },
    /// Exact ends of Services as destinations; outbound only.
    Ends(BTreeSet<End>),
    /// Inbound connections that began at an address of the Pod itself.
    OwnOrigin,
}

/// The peers of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Every address: an IP list says so.
    Anyone,
    /// These and no others.
    Listed(HostSet),
}

/// A set of addresses with where it comes from. Entries with equal origins share one kernel set, and keep sharing it
/// when members come and go, so that a change of membership alone never changes a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSet {
    /// What the members come from.
    pub origins: BTreeSet<Origin>,
    /// The members; never `0.0.0.0/0`, which is [`Peers::Anyone`]. Policies share those of the same groups.
    pub nets: Arc<BTreeSet<Ipv4Net>>,
}

impl HostSet {
    /// Whether an address is in the set.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (1..=32u8).any(|length| Ipv4Net::new(address, length).is_ok_and(|net| self.nets.contains(&net.trunc())))
    }
}

/// Where members of a [`HostSet`] come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The workloads that a PeerGroup selects.
    PeerGroup(String),
    /// An IP list's prefixes.
    Prefixes(BTreeSet<Ipv4Net>),
    /// Addresses of this node.
    Node,
    /// Resolvers.
    Resolvers,
}

/// An address and port of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// The address.
    pub address: Ipv4Addr,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}
