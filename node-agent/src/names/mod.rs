//! Names in IP lists: an ear in the network namespace of every Pod that may connect to names hears what the Pod's resolvers
//! answer it, and what the Pod learns so becomes members of its sets.
//!
//! ```text
//! kernel (rule with NFLOG) ──► ear ──► listen ──answers to names of the policy──► engine ──► hearing ──► members
//!                                                                                   └── look (conntrack) when a time is over
//! ```
//!
//! The kernel hands over copies: an answer reaches the Pod whether the agent is there, is slow, or is gone. The price is a race
//! between the Pod's first packet and the members; a SYN that loses it is dropped, and sent again by the kernel after a second.
//! To hold answers back until the agent has written (NFQUEUE) would put the agent in the way of every lookup of the Pod.

mod ear;
mod hearing;
mod listen;
mod look;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use ringfence_dataplane::{Answer, Nets, ObjectStore};

pub use ear::{Ear, EarError};
pub use hearing::Hearing;
pub use look::look;

/// What comes of listening and looking in the network namespace of a sandbox.
#[derive(Debug)]
pub struct Heard {
    /// The sandbox.
    pub id: String,
    /// What it is.
    pub what: What,
}

/// See [`Heard`].
#[derive(Debug)]
pub enum What {
    /// A resolver has answered what the policy names.
    Answer(Answer),
    /// Of addresses whose time is over, connections use these; or why nobody knows.
    InUse(Result<BTreeSet<IpAddr>, String>),
    /// The ear hears nothing any more, and why.
    Deaf(String),
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What no name opens on this node: the cluster's networks, as far as they are known, and the node itself.
pub fn reserved(store: &ObjectStore, node_addresses: &[IpAddr]) -> Nets {
    let node = node_addresses.iter().copied().map(Into::into);
    store.networks.iter().copied().chain(node).collect()
}
