//! What becomes of a connection, and why: the evaluator that explain, tests and what-if share.
//!
//! It reads the same resolved rules that computed objects are written from, so that the two cannot differ, and follows
//! the table `side` of the policy model.

mod answer;
mod endpoint;
mod ends;
mod hits;
mod service;
mod side;
mod translated;

use ringfence_model::{Protocol, Verdict};

use crate::cluster::ClusterState;
use crate::compile::Compiler;
use crate::compile::essentials::Essentials;
use crate::compile::world::World;
use crate::policy::Policy;

pub use answer::{BackendExplanation, Explanation, NearMiss, OtherRule, RuleRef, Side};
pub use endpoint::{Endpoint, ExplainError, ParseEndpointError};

use ends::{End, Target};
use side::Judged;

/// Answers questions about one policy and cluster; made once for many of them.
pub struct Evaluator<'a> {
    world: World<'a>,
    essentials: Essentials,
}

/// A protocol and a port of it; port 0 for a protocol without ports.
#[derive(Debug, Clone, Copy)]
struct Port {
    protocol: Protocol,
    number: u16,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of what was compiled from this policy and cluster.
    pub fn new(compiler: &'a Compiler, policy: &'a Policy, cluster: &'a ClusterState) -> Self {
        let world = compiler.world(policy, cluster);
        Self { world, essentials: Essentials::find(world.cluster, world.facts) }
    }

    /// Says what becomes of a connection from `from` to `port` of `to`, and why.
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
            return self.to_service(&source, key, port);
        }
        let destination = self.end(to)?;
        if let Some(front) = self.front_at(&destination, port) {
            return Ok(self.through(&source, &front));
        }
        let judged = self.direct(&source, &destination, port);
        Ok(Explanation {
            verdict: judged.verdict,
            reason: judged.reason,
            source: judged.source,
            destination: judged.destination,
            backends: None,
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

/// Says what becomes of a connection from `from` to `port` of `to`, and why.
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
    Evaluator::new(&compiler, policy, cluster).explain(from, to, protocol, port)
}
