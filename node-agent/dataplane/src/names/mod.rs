//! Names in IP lists: what a Pod learns from the answers of its own resolvers, and which addresses that opens.
//!
//! ```text
//! packet ──message──► DNS message ──read_answer──► Answer ──learn──► Learned ──knowing──► members of HostSets
//! ```
//!
//! 1. An address is opened for the Pod that was told of it, and for the name that it asked for.
//! 2. Whoever answers decides which addresses a name has, so that it opens none by which one gets at what is not meant to be
//!    reached by name: see [`reserved`].
//! 3. Bytes that come over the network are never more than not understood.

mod answer;
mod learned;
mod message;
pub mod reserved;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::workload_policy::PeerNames;
use ringfence_model::{DomainName, NamePattern};
use serde::{Deserialize, Serialize};

pub use answer::{Answer, read_answer};
pub use learned::{LONGEST, Learned, MOST, SHORTEST, Taken};
pub use message::message;

use crate::policy::{Entry, HostSet, Match, NetnsPolicy, Nets, Origin};
use crate::resolve::{Resolution, prefixes};

/// Why bytes are no answer that anything can be learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("understand an answer: it is not as DNS has them")]
pub struct Malformed;

/// The names of one IP list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Names {
    /// What they match.
    pub patterns: BTreeSet<NamePattern>,
    /// Prefixes in which they open nothing.
    pub except: Nets,
}

impl Names {
    /// Whether one of them matches.
    pub fn matches(&self, name: &DomainName) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

impl From<&PeerNames> for Names {
    /// A name that cannot be read matches nothing.
    fn from(written: &PeerNames) -> Self {
        let patterns = written.fqdns.iter().filter_map(|text| text.parse().ok()).collect();
        Self { patterns, except: prefixes(&written.except) }
    }
}

impl NetnsPolicy {
    /// The names that the Pod may connect to.
    pub fn names(&self) -> impl Iterator<Item = &Arc<Names>> {
        let hosts = self.outbound.allow.iter().filter_map(|entry| match &entry.matching {
            Match::Hosts { peers, .. } => Some(peers),
            _ => None,
        });
        hosts.flat_map(HostSet::names)
    }
}

impl HostSet {
    /// The names that members come from.
    pub fn names(&self) -> impl Iterator<Item = &Arc<Names>> {
        self.origins.iter().filter_map(|origin| match origin {
            Origin::Names(names) => Some(names),
            _ => None,
        })
    }
}

impl Resolution {
    /// The same, with the addresses that the Pod has learned, but for those in `reserved` prefixes.
    #[must_use]
    pub fn knowing(self, learned: &Learned, reserved: &Nets) -> Self {
        let fill = |policy: NetnsPolicy| knowing(policy, learned, reserved);
        match self {
            Self::Enforce(policy) => Self::Enforce(fill(policy)),
            Self::Incomplete { missing, closed } => Self::Incomplete { missing, closed: closed.map(fill) },
            none => none,
        }
    }
}

fn knowing(mut policy: NetnsPolicy, learned: &Learned, reserved: &Nets) -> NetnsPolicy {
    // What has the same origins has the same members.
    let mut known: BTreeMap<BTreeSet<Origin>, Arc<Nets>> = BTreeMap::new();
    for Entry { matching, .. } in &mut policy.outbound.allow {
        let Match::Hosts { peers, .. } = matching else { continue };
        if peers.names().next().is_none() {
            continue;
        }
        let add = || {
            let may = |address: &IpAddr| !(reserved::is_reserved(*address) || reserved.contains(*address));
            let of = |names: &Arc<Names>| -> Vec<IpAddr> {
                learned.addresses(names).filter(|address| may(address) && !names.except.contains(*address)).collect()
            };
            let learned: Nets = peers.names().flat_map(of).collect();
            Arc::new(peers.nets.iter().chain(learned.iter()).collect())
        };
        peers.nets = known.entry(peers.origins.clone()).or_insert_with(add).clone();
    }
    policy
}
