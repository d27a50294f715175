//! Publish: brings the computed objects in the cluster to what was compiled.
//!
//! Goals, in order:
//! 1. An agent never sees a reference to what does not exist yet: writes go rank by rank, what is referred to first.
//! 2. Nobody is left out on the way: what takes a member or a rule away comes after what takes its place ([`order`]).
//! 3. Unchanged objects are not written; a changed one carries the revision of this publication.
//! 4. Within one kind order holds, so the WorkloadPolicy `marker`, written last of its kind, closes a publication: who
//!    has seen it has seen all WorkloadPolicies, those that are gone too. It names the PeerGroup `marker`, which closes the
//!    PeerGroups in the same way. What nothing refers to any more goes after it.
//! 5. Nothing is lost: a plan is the difference between what should be and what is known to live in the cluster. What
//!    could not be written is in the next plan, and the marker is not written before everything else was.
//! 6. A plan looks at what may have changed, and not at every object ([`look`]).
//! 7. What the apiserver will never take holds up nobody else: it is planned around and reported ([`refused`]).

pub mod difference;
pub mod look;
pub mod newest;
pub mod order;
pub mod plan;
pub mod refused;
pub mod since;
pub mod states;

use std::collections::BTreeSet;

use kube::Client;

pub use look::Look;
pub use newest::Newest;
pub use plan::{Plan, plan};
pub use refused::Refused;
pub use since::Since;

use crate::write::{self, Outcome, Target, Write, WriteError};

/// What is remembered from one publication to the next.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The revisions of the last changes.
    pub since: Since,
    /// The newest revisions.
    pub newest: Newest,
    /// What the apiserver does not take.
    pub refused: Refused,
}

/// What came of carrying out a plan.
#[derive(Debug)]
pub struct Published {
    /// What was learned about objects, in order.
    pub outcomes: Vec<(Write, Outcome)>,
    /// What the apiserver will not take, and what it says. The rest of the plan was left: it is to be planned around.
    pub refused: Vec<(Write, String)>,
    /// Whether everything was written as planned; else it is to be planned again.
    pub complete: bool,
    failed: BTreeSet<Target>,
}

/// Carries out a plan.
pub async fn carry_out(client: &Client, plan: Plan) -> Published {
    let mut published =
        Published { outcomes: Vec::new(), refused: Vec::new(), complete: true, failed: BTreeSet::new() };
    for rank in plan.ranks {
        if published.may_follow(rank.after) {
            published.write(client, rank.writes).await;
        }
    }
    if published.complete {
        published.write(client, plan.marker.into_iter().collect()).await;
    }
    if published.complete {
        published.write(client, plan.afterwards).await;
    }
    published
}

impl Published {
    /// Whether a rank may be written that waits for these kinds.
    fn may_follow(&self, after: &[Target]) -> bool {
        self.refused.is_empty() && !after.iter().any(|target| self.failed.contains(target))
    }

    async fn write(&mut self, client: &Client, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        for (write, result) in write::all(client, writes).await {
            self.note(write, result);
        }
    }

    fn note(&mut self, write: Write, result: Result<Outcome, WriteError>) {
        let took = result.as_ref().is_ok_and(|outcome| write::took(&write, outcome));
        if !took {
            self.complete = false;
            self.failed.insert(write.target);
        }
        match result {
            Ok(outcome) => self.outcomes.push((write, outcome)),
            Err(error) => {
                if let Some(message) = error.refusal().filter(|_| Refused::may_leave_out(&write)) {
                    self.refused.push((write, message.to_owned()));
                }
            }
        }
    }
}
