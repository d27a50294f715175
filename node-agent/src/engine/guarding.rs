//! The node's gate: what it is told, and whom Pods let in by it; and one that is left of an agent with other settings.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Engine;
use crate::gate::{Finished, Gate};
use crate::machine;
use crate::off;
use crate::retry::Retry;
use crate::slot::{Door, Moment, Slot};

/// A gate that an agent with other settings may have left, until it is gone: it would go on to judge by rules of then.
#[derive(Debug)]
pub(super) struct Leftover {
    removing: Option<JoinHandle<Result<(), String>>>,
    retry: Retry,
    problem: Option<String>,
}

impl Leftover {
    /// It has not been looked at.
    pub(super) fn new() -> Self {
        let retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60));
        Self { removing: None, retry, problem: None }
    }

    /// Takes it away with `remove`, unless that is under way or has failed just now.
    fn begin(&mut self, now: Instant, remove: impl FnOnce() -> Result<(), String> + Send + 'static) {
        if self.removing.is_none() && self.retry.at().is_none_or(|at| at <= now) {
            self.removing = Some(tokio::task::spawn_blocking(remove));
        }
    }

    /// What came of it, once it has ended.
    async fn ended(&mut self) -> Result<(), String> {
        let Some(removing) = &mut self.removing else { return std::future::pending().await };
        removing.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// It is still there, and taking it away is tried again.
    fn stays(&mut self, problem: String, now: Instant) {
        self.removing = None;
        self.retry.failed(now);
        self.problem = Some(problem);
    }

    /// Why it is still there, for people.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("failed to take the gate of before away: {problem}"))
    }

    /// When it is to be tried again.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.retry.at().filter(|at| *at > now)
    }
}

/// What came of taking a leftover away, if there is one, once that has ended.
pub(super) async fn ended(leftover: &mut Option<Leftover>) -> Result<(), String> {
    match leftover {
        Some(leftover) => leftover.ended().await,
        None => std::future::pending().await,
    }
}

impl Engine {
    /// Tells the gate which Pods there are, and Pods whether it is in force for them.
    pub(super) fn ask_gate(&mut self) {
        if let Some(gate) = &mut self.gate {
            gate.want(self.slots.iter(), self.exposed.as_deref());
        }
        for (id, slot) in &mut self.slots {
            let by_gate = |gate: &Gate| gate.door(id, slot, &self.node_addresses);
            let door = self.gate.as_ref().map_or(Door::NoGate, by_gate);
            slot.let_in(door);
        }
    }

    /// Lets the gate begin what is to be done there, and says whether Pods may be written to: what they let in depends
    /// on it.
    pub(super) fn open_gate(&mut self, moment: Moment) -> bool {
        let resolved = self.view.counts() || self.suspension().is_some();
        // Once no Pod lets its node in by it.
        let may_go = moment.fresh && self.sandboxes == Some(Ok(())) && self.slots.values().all(Slot::is_settled);
        if let Some(leftover) = self.leftover.as_mut().filter(|_| may_go) {
            leftover.begin(moment.now, off::remove_gate);
        }
        let Some(gate) = &mut self.gate else { return true };
        if resolved {
            gate.begin(moment);
        }
        gate.is_known(moment.now)
    }

    /// Takes in what came of taking a leftover away.
    pub(super) fn take_leftover(&mut self, removed: Result<(), String>) {
        match (removed, &mut self.leftover) {
            (Err(problem), Some(leftover)) => {
                leftover.stays(problem, Instant::now());
                leftover.problem().iter().for_each(|problem| tracing::error!("{problem}"));
            }
            (Ok(()), _) | (_, None) => self.leftover = None,
        }
    }

    pub(super) fn take_gate(&mut self, finished: Finished) {
        let could_seal = self.looks_for_seals();
        if let Some(gate) = &mut self.gate {
            gate.finish(finished, Instant::now());
        }
        // An address may have come to the node without a Pod that starts; the gate looks every 10 s.
        let addresses = std::mem::replace(&mut self.node_addresses, machine::addresses());
        if self.looks_for_seals() != could_seal || self.node_addresses != addresses {
            self.resolve_all();
        }
        self.ask_gate();
    }

    /// Whether Pods look for the seals of other nodes' gates.
    pub(super) fn looks_for_seals(&self) -> bool {
        self.gate.as_ref().is_some_and(Gate::can_seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_leftover_that_stays_is_tried_again_and_said() {
        let (mut leftover, now) = (Leftover::new(), Instant::now());
        leftover.begin(now, || Err("somebody holds the lock".to_owned()));
        let problem = leftover.ended().await.expect_err("it stays");
        leftover.stays(problem, now);
        assert_eq!(
            leftover.problem().as_deref(),
            Some("failed to take the gate of before away: somebody holds the lock")
        );
        let at = leftover.deadline(now).expect("it is tried again");
        leftover.begin(now, || panic!("that is too soon"));
        assert!(leftover.removing.is_none());
        leftover.begin(at, || Ok(()));
        assert_eq!(leftover.ended().await, Ok(()));
    }
}
