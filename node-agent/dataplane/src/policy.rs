//! The policy of one network namespace, typed: what stands between `resolve` and `render`.
//!
//! Only what is valid can be written. There is no state without rules in it (an Idle or unmanaged Pod has no
//! [`NetnsPolicy`]), "any peer" is the prefix that holds every address, and an empty list of peers matches nothing.
//!
//! Both address families are in one policy: rules are about peers, and a peer may have addresses of both.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ringfence_model::{Action, Direction, EndState, Protocol, Services};
use serde::{Deserialize, Serialize};

use crate::chains::Place;
use crate::family::Family;
use crate::names::Names;

/// The states that put rules into a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsPolicy {
    /// Whose network namespace it is for.
    pub place: Place,
    /// The state.
    pub state: Enforcement,
    /// Addresses of the Pod, by which it is known when it reaches itself.
    pub own: BTreeSet<IpAddr>,
    /// Connections towards the Pod; peers are sources.
    pub inbound: Side,
    /// Connections of the Pod; peers are destinations.
    pub outbound: Side,
}

impl NetnsPolicy {
    /// A policy without a rule.
    pub fn new(state: Enforcement) -> Self {
        let place = Place::Pod;
        Self { place, state, own: BTreeSet::new(), inbound: Side::default(), outbound: Side::default() }
    }

    /// Whether an Allow counts over a family. Where a Pod has addresses, and none of this family, workloads do not reach it over that, nor
    /// does it reach them: what is about them alone would be rules for nothing. Prefixes count all the same, since a Pod may have
    /// interfaces that Kubernetes does not know of.
    pub fn allows_over(&self, family: Family, entry: &Entry) -> bool {
        let has = self.own.is_empty() || self.own.iter().any(|own| Family::of(*own) == family);
        has || self.place == Place::Host || !entry.is_about_workloads()
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// What no policy touches.
    pub essential: Entries,
    /// What is blocked, whatever else hits.
    pub override_deny: Entries,
    /// What passes if no OverrideDeny hits.
    pub allow: Entries,
    /// What is blocked if no Allow hits.
    pub deny: Entries,
}

impl Side {
    /// The list that rules of an action are in.
    pub fn of(&mut self, action: Action) -> &mut Entries {
        match action {
            Action::Allow => &mut self.allow,
            Action::Deny => &mut self.deny,
            Action::OverrideDeny => &mut self.override_deny,
        }
    }
}

/// The lines of a step. Those of Pods that the same rules apply to are held once, until one of them is written to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries(Arc<Vec<Entry>>);

impl Deref for Entries {
    type Target = Vec<Entry>;

    fn deref(&self) -> &Vec<Entry> {
        &self.0
    }
}

impl DerefMut for Entries {
    fn deref_mut(&mut self) -> &mut Vec<Entry> {
        Arc::make_mut(&mut self.0)
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        Self(Arc::new(entries))
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Entries {
    type Item = &'a mut Entry;
    type IntoIter = std::slice::IterMut<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// One line of a step: rules of one action, merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it hits.
    pub matching: Match,
    /// Reject instead of drop, where it blocks.
    pub reject: bool,
    /// The first of the rules merged into it, `ruleset/rule`, or the reason of an essential.
    pub rule: String,
}

impl Entry {
    fn is_about_workloads(&self) -> bool {
        match &self.matching {
            Match::Hosts { peers, .. } => peers.origins.iter().all(|origin| matches!(origin, Origin::PeerGroup(_))),
            Match::Ends(_) => true,
            Match::OwnOrigin | Match::Sealed { .. } | Match::Unsealed { .. } => false,
        }
    }
}

/// What an entry hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Match {
    /// Peers, on services of the provider.
    Hosts {
        /// The peers.
        peers: HostSet,
        /// The provider's ports.
        services: Services,
    },
    /// Exact ends of Services as destinations; outbound only.
    Ends(Arc<BTreeSet<End>>),
    /// Inbound connections that began at an address of the Pod itself.
    OwnOrigin,
    /// Nodes whose gate seals what it lets pass, on services of the provider: what is sealed, inbound only. Of a connection that
    /// exists nobody sees a seal: that is for the gate that it came through to end.
    Sealed {
        /// The nodes.
        nodes: HostSet,
        /// The provider's ports.
        services: Services,
    },
    /// New connections from these nodes that are not sealed: their gate has not let them pass, or knows nothing of the Pod yet.
    Unsealed {
        /// The nodes.
        nodes: HostSet,
    },
}

/// A set of addresses with where it comes from. Entries with equal origins share one kernel set, and keep sharing it
/// when members come and go, so that a change of membership alone never changes a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSet {
    /// What the members come from.
    pub origins: BTreeSet<Origin>,
    /// The members. Policies share those of the same groups.
    pub nets: Arc<Nets>,
}

impl HostSet {
    /// Every address.
    pub fn anyone() -> Self {
        let nets = Arc::new(Nets::everything());
        Self { origins: BTreeSet::from([Origin::Prefixes(nets.clone())]), nets }
    }

    /// Whether members may come and go while the rules stay: those of groups and names do, and nodes with a gate.
    pub fn is_dynamic(&self) -> bool {
        let comes_and_goes =
            |origin: &Origin| matches!(origin, Origin::PeerGroup(_) | Origin::Names(_) | Origin::Gate | Origin::Gates);
        self.origins.iter().any(comes_and_goes)
    }
}

/// Prefixes of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Nets {
    /// IPv4.
    pub v4: BTreeSet<Ipv4Net>,
    /// IPv6.
    pub v6: BTreeSet<Ipv6Net>,
}

impl Nets {
    /// Every address.
    pub fn everything() -> Self {
        Self { v4: [Ipv4Net::default()].into(), v6: [Ipv6Net::default()].into() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether an address is in one of the prefixes.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.covers(IpNet::from(address))
    }

    /// Whether one of the prefixes holds all of another.
    pub fn covers(&self, net: IpNet) -> bool {
        (0..=net.prefix_len()).any(|length| match net {
            IpNet::V4(net) => Ipv4Net::new(net.addr(), length).is_ok_and(|wider| self.v4.contains(&wider.trunc())),
            IpNet::V6(net) => Ipv6Net::new(net.addr(), length).is_ok_and(|wider| self.v6.contains(&wider.trunc())),
        })
    }

    /// Whether every prefix of another is held by one of these.
    pub fn covers_all(&self, other: &Self) -> bool {
        let more_v4 = other.v4.difference(&self.v4).copied().map(IpNet::V4);
        let more_v6 = other.v6.difference(&self.v6).copied().map(IpNet::V6);
        // What both name needs no search.
        more_v4.chain(more_v6).all(|net| self.covers(net))
    }

    /// All prefixes, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.iter().copied().map(IpNet::V4);
        v4.chain(self.v6.iter().copied().map(IpNet::V6))
    }
}

impl FromIterator<IpNet> for Nets {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push(net),
                IpNet::V6(net) => v6.push(net),
            }
        }
        // Made of a whole list, a sorted set is built at once.
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}

impl FromIterator<IpAddr> for Nets {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(IpNet::from).collect()
    }
}

/// Where members of a [`HostSet`] come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Origin {
    /// The workloads that a PeerGroup selects.
    PeerGroup(String),
    /// An IP list's prefixes.
    Prefixes(Arc<Nets>),
    /// What the Pod has learned of an IP list's names.
    Names(Arc<Names>),
    /// Addresses of this node.
    Node,
    /// Addresses of this node, whose gate judges what comes from them.
    Gate,
    /// Addresses of other nodes, whose gates seal what they let pass.
    Gates,
    /// Resolvers.
    Resolvers,
}

/// An address and port of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct End {
    /// The address.
    pub address: IpAddr,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}
