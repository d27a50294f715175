//! Publish: brings the computed objects in the cluster to what was compiled.
//!
//! Goals, in order:
//! 1. An agent never sees a reference to what does not exist yet: writes go rank by rank, what is referred to first.
//! 2. Unchanged objects are not written; a changed one carries the revision of this publication.
//! 3. Within one kind order holds, so the WorkloadPolicy `marker`, written last of its kind, closes a publication: who
//!    has seen it has seen all WorkloadPolicies, those that are gone too. What nothing refers to any more goes after it.
//! 4. Nothing is lost: a plan is the difference between what should be and what is known to live in the cluster. What
//!    could not be written is in the next plan, and the marker is not written before everything else was.

pub mod plan;
pub mod since;

use kube::Client;

pub use plan::{Plan, plan};
pub use since::Since;

use crate::write::{self, Outcome, Write};

/// What came of carrying out a plan.
pub struct Published {
    /// What was learned about objects, in order.
    pub outcomes: Vec<(Write, Outcome)>,
    /// Whether everything was written as planned; else it is to be planned again.
    pub complete: bool,
}

/// Carries out a plan.
pub async fn carry_out(client: &Client, plan: Plan) -> Published {
    let mut published = Published { outcomes: Vec::new(), complete: true };
    for rank in plan.ranks {
        published.write(client, rank).await;
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
    async fn write(&mut self, client: &Client, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        for (write, result) in write::all(client, writes).await {
            match result {
                Ok(outcome) => {
                    self.complete &= write::took(&write, &outcome);
                    self.outcomes.push((write, outcome));
                }
                Err(_) => self.complete = false,
            }
        }
    }
}
