//! What the engine says: what is in force on this node, what is not as it should be, and what is to be kept on disk.

use std::collections::BTreeMap;

use ringfence_dataplane::{Learned, ObjectStore};
use tokio::time::Instant;

use super::guarding::Leftover;
use super::{Engine, LEDGER_DELAY, NodeSide, tell_if_other};
use crate::apply::{Done, Outcome};
use crate::gate::Gate;
use crate::ledger::Kept;
use crate::netns::Cookie;
use crate::readings::Readings;
use crate::report::Report;
use crate::slot::{Finished, Slot};
use crate::view::Held;

impl Engine {
    /// What changed goes to disk a little later.
    pub(super) fn keep_soon(&mut self) {
        self.keep_at.get_or_insert(Instant::now() + LEDGER_DELAY);
    }

    pub(super) fn keep(&mut self) {
        self.keep_at = None;
        if self.view.is_loaded() {
            let (store, pods) = (self.view.store().clone(), self.view.pods().clone());
            self.outputs.ledger.send_replace(Some(Kept {
                store,
                pods,
                readings: self.readings(),
                learned: self.learned(),
            }));
        }
    }

    /// What was read back in which network namespace. What is remembered counts until every namespace was looked at.
    fn readings(&self) -> BTreeMap<Cookie, Readings> {
        let all_seen = self.sandboxes == Some(Ok(())) && self.slots.values().all(|slot| slot.cookie.is_some());
        let mut readings = if all_seen { BTreeMap::new() } else { (*self.threads.remembered).clone() };
        let known = self.slots.values().filter(|slot| !slot.readings.is_empty());
        readings.extend(known.filter_map(|slot| Some((slot.cookie?, slot.readings.clone()))));
        readings.extend(self.node.as_ref().and_then(NodeSide::readings));
        readings
    }

    /// What Pods have learned of names, by sandbox.
    fn learned(&self) -> BTreeMap<String, Learned> {
        let known = self.slots.iter().map(|(id, slot)| (id, slot.hearing.learned()));
        let all = self.learned_before.iter().chain(known).filter(|(_, learned)| !learned.is_empty());
        all.map(|(id, learned)| (id.clone(), learned.clone())).collect()
    }

    fn problems(&self) -> Vec<String> {
        let runtime = self.sandboxes.iter().filter_map(|seen| seen.as_ref().err());
        let runtime = runtime.map(|error| format!("failed to look at the sandboxes: {error}"));
        let cni = self.chained.iter().filter_map(|(_, result)| result.as_ref().err());
        let cni = cni.map(|problem| format!("failed to {problem}"));
        let gate = self.gate.as_ref().and_then(Gate::problem);
        let gate = gate.into_iter().chain(self.leftover.as_ref().and_then(Leftover::problem));
        let node = self.node.as_ref().and_then(NodeSide::problem);
        runtime
            .chain(self.interruptions())
            .chain(cni)
            .chain(gate)
            .chain(node)
            .chain(self.slots.values().filter_map(Slot::problem))
            .collect()
    }

    fn interruptions(&self) -> Vec<String> {
        let watches = self.interrupted.iter();
        watches.map(|(kind, (_, error))| format!("failed to watch {kind:?}: {error}")).collect()
    }

    pub(super) fn tell(&mut self, now: Instant) {
        let read = self.interrupted.is_empty() && self.rereading.is_empty() && self.view.has_peer_groups();
        let settled = self.sandboxes == Some(Ok(())) && read && self.slots.values().all(Slot::is_settled);
        let settled = settled && self.gate.as_ref().is_none_or(Gate::is_settled);
        let settled = settled && self.node.as_ref().is_none_or(NodeSide::is_settled);
        let held = self.view.held();
        let suspended = self.suspension();
        let settled = settled && (suspended.is_none() || self.is_chained());
        if suspended.is_some() {
            // Nothing is in force.
            self.acknowledged = None;
        } else if settled && held.is_none() {
            self.acknowledged = Some(self.view.revision());
        }
        let report = Report {
            loaded: self.view.is_loaded(),
            node_generation: self.view.node_generation(),
            published: self.view.node_status().cloned(),
            acknowledged: self.acknowledged,
            settled,
            suspended,
            went_back: match held {
                Some(Held::WentBack { published, seen }) => Some((published, seen)),
                _ => None,
            },
            stalled: self
                .slots
                .values()
                .filter_map(|slot| slot.stalled(now))
                .chain(self.node.as_ref().and_then(|node| node.stalled(now)))
                .collect(),
            node: self.node.as_ref().map(NodeSide::state).unwrap_or_default(),
            node_problem: self.node.as_ref().and_then(NodeSide::problem),
            problems: self.problems(),
            interruptions: self.interruptions(),
            names: self
                .slots
                .values()
                .filter_map(|slot| Some(format!("{}: {}", slot.pod(), slot.hearing.problem()?)))
                .collect(),
            pods_enforced: self.slots.values().filter(|slot| slot.has_rules()).count(),
            node_addresses: self.node_addresses.clone(),
            seals: self.gate.as_ref().is_some_and(Gate::seals),
        };
        tell_if_other(&self.outputs.report, report);
    }
}

/// Says what came into force where, with the commit that brought it: this is how a commit is followed to the kernel.
pub(super) fn log_finished(slot: &Slot, finished: &Finished, store: &ObjectStore) {
    let (pod, ms) = (slot.pod(), u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX));
    let netns = finished.cookie.or(slot.cookie).map(|cookie| cookie.to_string()).unwrap_or_default();
    match &finished.result {
        Ok(Outcome { done: done @ (Done::Nothing | Done::Left | Done::CleanedUp), problem: None, .. }) => {
            tracing::debug!(%pod, %netns, ms, ?done);
        }
        Ok(Outcome { done, problem: Some(problem), .. }) => {
            tracing::warn!(%pod, %netns, ms, ?done, "failed to {problem}")
        }
        Ok(Outcome { done, .. }) => {
            let newest = store.workload_policies.values().max_by_key(|policy| policy.revision);
            let revision = newest.map(|policy| policy.revision.to_string()).unwrap_or_default();
            let commit = newest.and_then(|policy| policy.commit.as_deref()).unwrap_or_default();
            tracing::info!(%pod, %netns, %revision, %commit, ms, ?done, "in force");
        }
        Err(error) => tracing::warn!(%pod, %netns, ms, "failed to {error}"),
    }
}
