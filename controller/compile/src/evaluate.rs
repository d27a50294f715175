//! What becomes of a connection, and why: the evaluator that explain, tests and what-if share.
//!
//! It reads the same resolved rules that computed objects are written from, so that the two cannot differ, and follows
//! the table `side` of the policy model.

mod answer;
mod endpoint;
mod ends;
mod hits;
mod host;
mod misses;
mod nearest;
mod service;
mod side;
mod translated;

use ringfence_model::{DISCOVERY, PortMatch, Protocol, Services, Verdict};

use crate::cluster::ClusterState;
use crate::compile::Compiler;
use crate::compile::essentials::Essentials;
use crate::compile::world::World;
use crate::policy::Policy;

pub use answer::{BackendExplanation, Explanation, NearMiss, OtherRule, RuleRef, Side};
pub use endpoint::{Endpoint, ExplainError, ParseEndpointError};

use ends::{End, Target};
use nearest::Candidate;
use side::Judged;

/// Answers questions about one policy and cluster; made once for many of them.
pub struct Evaluator<'a> {
    world: World<'a>,
    essentials: Essentials,
    /// What may be nearest where nothing hits, when that was asked for.
    candidates: Vec<Candidate<'a>>,
}

/// A protocol and a port of it; of ICMP the type; 0 for any other protocol.
#[derive(Debug, Clone, Copy)]
struct Port {
    protocol: Protocol,
    number: u16,
}

impl Port {
    /// Whether an entry of a rule's services means it. Of ICMP the code is 0: the others are those of errors, which
    /// are related to a connection and open none.
    fn is_meant_by(self, entry: &PortMatch) -> bool {
        match u8::try_from(self.number) {
            Ok(kind) if matches!(self.protocol, Protocol::ICMP | Protocol::ICMPV6) => {
                entry.contains_icmp(self.protocol, kind, 0)
            }
            _ => entry.contains(self.protocol, self.number),
        }
    }

    /// Whether it is a message without which no interface has IPv6.
    fn is_discovery(self) -> bool {
        self.protocol == Protocol::ICMPV6 && DISCOVERY.iter().any(|kind| u16::from(*kind) == self.number)
    }

    /// Whether the services of a rule mean it.
    fn is_among(self, services: &Services) -> bool {
        match services {
            Services::All => true,
            Services::Only(entries) => entries.iter().any(|entry| self.is_meant_by(entry)),
        }
    }
}

impl<'a> Evaluator<'a> {
    /// An evaluator of what was compiled from this policy and cluster.
    pub fn new(compiler: &'a Compiler, policy: &'a Policy, cluster: &'a ClusterState) -> Self {
        let world = compiler.world(policy, cluster);
        Self { world, essentials: Essentials::find(world.cluster, world.facts), candidates: Vec::new() }
    }

    /// Says of a default decision also which Allow came nearest, and why it missed. That resolves every Allow once
    /// more, and compares all of them for each answer.
    #[must_use]
    pub fn with_nearest(self) -> Self {
        Self { candidates: nearest::candidates(self.world), ..self }
    }

    /// Says what becomes of a connection from `from` to `port` of `to`, and why. Of ICMP the port is the type. Between two
    /// ends that are named otherwise than by address, a rule hits if it hits any of their addresses.
    ///
    /// # Errors
    /// When an end does not exist, or cannot be that end of a connection.
    pub fn explain(
        &self,
        from: &Endpoint,
        to: &Endpoint,
        protocol: Protocol,
        port: u16,
    ) -> Result<Explanation, ExplainError> {
        let port = Port { protocol, number: port };
        let source = self.end(from)?;
        if let Endpoint::Service(key) = to {
            let address = match from {
                Endpoint::Address(address) => Some(*address),
                _ => source.of_one_family(),
            };
            return self.to_service(&source, key, port, address);
        }
        let destination = self.end(to)?;
        let (source, destination) = match (from, to) {
            (_, Endpoint::Address(address)) | (Endpoint::Address(address), _) => {
                (self.over_family_of(source, *address), self.over_family_of(destination, *address))
            }
            _ => (source, destination),
        };
        Ok(match self.front_at(&destination, port) {
            Some(front) => self.through(&source, &front),
            None => self.direct(&source, &destination, port).into(),
        })
    }

    /// A connection that no Service is in between of.
    fn direct(&self, source: &End<'_>, destination: &End<'_>, port: Port) -> Both {
        let out = self.source_side(source, &Target::direct(destination, port));
        let into = self.destination_side(destination, source, port);
        Both::of(out, into)
    }
}

/// Both ends of a connection.
struct Both {
    verdict: Verdict,
    /// Why the verdict is not known, when it is not.
    reason: Option<String>,
    source: Side,
    destination: Side,
}

impl Both {
    /// An end whose policy is not known makes the verdict so, unless the other end blocks anyway.
    fn of(source: Judged, destination: Judged) -> Self {
        let outcomes = (source.outcome(), destination.outcome());
        let unknown = source.unknown.or(destination.unknown);
        let verdict = match Verdict::of(outcomes.0, outcomes.1) {
            verdict if unknown.is_none() || verdict == Verdict::Blocked => verdict,
            _ => Verdict::Unknown,
        };
        let reason = unknown.filter(|_| verdict == Verdict::Unknown);
        Self { verdict, reason, source: source.side, destination: destination.side }
    }
}

impl From<Both> for Explanation {
    fn from(both: Both) -> Self {
        let Both { verdict, reason, source, destination } = both;
        Self { verdict, reason, source, destination, backends: None }
    }
}

/// Says what becomes of a connection from `from` to `port` of `to`, and why: with the nearest Allow. Of ICMP the port is the type.
///
/// # Errors
/// When an end does not exist, or cannot be that end of a connection.
pub fn explain(
    policy: &Policy,
    cluster: &ClusterState,
    from: &Endpoint,
    to: &Endpoint,
    protocol: Protocol,
    port: u16,
) -> Result<Explanation, ExplainError> {
    let compiler = Compiler::new(policy, cluster);
    Evaluator::new(&compiler, policy, cluster).with_nearest().explain(from, to, protocol, port)
}
