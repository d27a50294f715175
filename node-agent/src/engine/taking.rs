//! What comes to the engine is taken in: objects, sandboxes, and what came of work.

use std::collections::BTreeMap;

use ringfence_crds::names::MARKER;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Engine, GATHER, INTERRUPTED, telling};
use crate::apply::{Done, Outcome};
use crate::cri::Sandbox;
use crate::feed::pods::sandbox_key;
use crate::feed::{Change, Kind, Object};
use crate::machine;
use crate::names::Hearing;
use crate::sandboxes::Seen;
use crate::slot::{Finished, Slot};

impl Engine {
    /// Takes in a change, and gives those of the same publication the time to come.
    pub(super) async fn take_first(&mut self, change: Change, missed: &Notify) {
        self.take(change, missed);
        tokio::time::sleep(GATHER).await;
    }

    /// Takes in the changes that have come meanwhile.
    pub(super) fn take_waiting(&mut self, changes: &mut UnboundedReceiver<Change>, missed: &Notify) {
        while let Ok(change) = changes.try_recv() {
            self.take(change, missed);
        }
    }

    pub(super) fn take(&mut self, change: Change, missed: &Notify) {
        self.told = true;
        match change {
            Change::Interrupted { kind, error } => {
                self.interrupted.insert(kind, (Instant::now() + INTERRUPTED, error));
            }
            Change::Reading { kind } => {
                self.rereading.insert(kind);
            }
            Change::All { .. } | Change::Put { .. } | Change::Gone { .. } | Change::Marker(_) => {
                self.take_objects(change, missed)
            }
        }
    }

    fn take_objects(&mut self, change: Change, missed: &Notify) {
        if let Change::All { kind, .. } = &change {
            self.rereading.remove(kind);
        }
        if self.misses_sandbox(&change) {
            missed.notify_one();
        }
        let closes = self.only_closes(&change);
        let departs = matches!(change, Change::Gone { kind: Kind::Pod, .. } | Change::All { kind: Kind::Pod, .. });
        let differs = self.view.take(change);
        if departs {
            self.forget_departed();
        }
        if differs && closes {
            self.keep_soon();
        }
        self.dirty |= differs && !closes;
    }

    /// Whether it tells of a Pod of which no sandbox is known.
    fn misses_sandbox(&self, change: &Change) -> bool {
        let Change::Put { name, object: Object::Pod(pod) } = change else { return false };
        !pod.host_network && !self.slots.values().any(|slot| sandbox_key(&slot.sandbox) == *name)
    }

    /// Whether it is the marker and no more: that changes nothing that is in force, and comes when threads are at work
    /// on what it closes.
    fn only_closes(&self, change: &Change) -> bool {
        let Change::Put { name, object: Object::WorkloadPolicy(_) | Object::PeerGroup(_) } = change else {
            return false;
        };
        name == MARKER && self.view.held().is_none()
    }

    pub(super) fn take_sandboxes(&mut self, seen: Seen) {
        self.told = true;
        let all = seen.problem.is_none();
        self.sandboxes = Some(seen.problem.map_or(Ok(()), Err));
        let Some(sandboxes) = seen.sandboxes else { return };
        self.gate.iter_mut().for_each(|gate| gate.pods_are_listed(all, Instant::now()));
        let before = self.listed();
        self.replace_slots(sandboxes);
        self.forget_departed();
        if all {
            self.learned_before.clear();
        }
        let places = self.slots.values().map(|slot| (slot.pod(), slot.sandbox.netns.clone()));
        self.outputs.places.send_replace(places.collect());
        // A bridge may have come with the first Pod.
        let addresses = std::mem::replace(&mut self.node_addresses, machine::addresses());
        self.dirty |= self.listed() != before || self.node_addresses != addresses;
    }

    /// Whoever is listed stays or comes; whoever is not goes, unless it is only to come, or has rules that are to be
    /// taken away.
    fn replace_slots(&mut self, sandboxes: Vec<Sandbox>) {
        let mut old = std::mem::take(&mut self.slots);
        for sandbox in sandboxes.into_iter().filter(|sandbox| !sandbox.host_network) {
            let id = sandbox.id.clone();
            let slot = match old.remove(&id) {
                Some(mut slot) => {
                    slot.listed(sandbox);
                    slot
                }
                None => self.new_slot(sandbox),
            };
            self.slots.insert(id, slot);
        }
        let (admitted, mut old): (BTreeMap<_, _>, _) = old.into_iter().partition(|(_, slot)| slot.is_admitted());
        self.slots.extend(admitted);
        if self.releases_departed {
            old.values_mut().for_each(|slot| slot.departed = true);
            self.slots.extend(old);
        }
    }

    fn new_slot(&mut self, sandbox: Sandbox) -> Slot {
        let mut slot = Slot::new(sandbox);
        if let Some(learned) = self.learned_before.remove(&slot.sandbox.id) {
            slot.hearing = Hearing::remembering(learned, (self.clock)());
        }
        slot
    }

    /// The sandboxes, whether nobody lists them any more, and whether nobody does yet.
    fn listed(&self) -> Vec<(String, bool, bool)> {
        self.slots.iter().map(|(id, slot)| (id.clone(), slot.departed, slot.is_admitted())).collect()
    }

    fn forget_departed(&mut self) {
        self.view.forget_departed(self.slots.values().map(|slot| &slot.sandbox));
    }

    /// Takes in whether this node is off.
    pub(super) fn take_switch(&mut self, off: &mut watch::Receiver<bool>) {
        self.off = *off.borrow_and_update();
        self.dirty = true;
    }

    /// Takes in what came of work; what has ended meanwhile is looked at together.
    pub(super) fn take_all_finished(&mut self, first: Finished, arrivals: &mut UnboundedReceiver<Finished>) {
        self.take_finished(first);
        while let Ok(finished) = arrivals.try_recv() {
            self.take_finished(finished);
        }
    }

    pub(super) fn take_finished(&mut self, mut finished: Finished) {
        // A sandbox that has stopped in the meantime is nobody's concern any more.
        let Some(slot) = self.slots.get_mut(&finished.id) else { return };
        telling::log_finished(slot, &finished, self.view.store());
        if let Some(ear) = finished.ear.take() {
            slot.hearing.opened(&finished.id, ear, &self.heard, Instant::now());
        }
        let looked = matches!(finished.result, Ok(Outcome { done: Done::CleanedUp | Done::Nothing, .. }));
        let before = slot.readings.clone();
        slot.finish(finished, Instant::now());
        if looked && slot.readings != before {
            self.keep_soon();
        }
    }
}
