//! The node's gate: what it is told, and whom Pods let in by it.

use tokio::time::Instant;

use super::Engine;
use crate::gate::{Finished, Gate};
use crate::machine;
use crate::off;
use crate::slot::{Door, Moment, Slot};

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
        if self.stale_gate && moment.fresh && self.sandboxes == Some(Ok(())) {
            self.dismiss_gate();
        }
        let Some(gate) = &mut self.gate else { return true };
        if resolved {
            gate.begin(moment);
        }
        gate.is_known(moment.now)
    }

    /// Takes away what is left of a gate once no Pod lets its node in by it.
    fn dismiss_gate(&mut self) {
        if self.slots.values().all(Slot::is_settled) {
            self.stale_gate = false;
            tokio::task::spawn_blocking(|| {
                let removed = off::remove_gate();
                removed.unwrap_or_else(|error| tracing::error!("failed to take the gate away: {error}"));
            });
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
