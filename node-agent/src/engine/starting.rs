//! Pods that are about to start, and whether anything is enforced on this node at all.

use tokio::time::Instant;

use super::{Engine, Standing};
use crate::cni::{Ask, Chaining};
use crate::machine;
use crate::report::Suspension;
use crate::slot::Slot;

impl Engine {
    pub(super) fn take_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Add { sandbox, again, answer } => {
                let (id, now) = (sandbox.id.clone(), Instant::now());
                self.admissions.add(id.clone(), answer, now);
                self.slots.entry(id.clone()).or_insert_with(|| Slot::admitted(*sandbox, again, now));
                // A bridge comes with the first Pod.
                self.node_addresses = machine::addresses();
                self.resolve(Some(&id));
            }
            Ask::Del { sandbox } => {
                self.admissions.forget(&sandbox);
                // What the runtime lists is there until it does no more.
                if self.slots.get(&sandbox).is_some_and(Slot::is_admitted) {
                    self.slots.remove(&sandbox);
                }
            }
            Ask::Installed { wanted, result } => self.chained = Some((wanted, result)),
        }
    }

    /// Why nothing is enforced on this node, if so. What policy says that is held back does not count here either.
    pub(super) fn suspension(&self) -> Option<Suspension> {
        if self.off {
            return Some(Suspension::Off);
        }
        let cluster = self.view.store().cluster.as_ref().filter(|_| self.view.counts());
        cluster.filter(|cluster| !cluster.enforcement.is_enforced()).map(|_| Suspension::Cluster)
    }

    /// The same for the node itself.
    pub(super) fn standing(&self) -> Standing {
        match self.suspension() {
            Some(Suspension::Off) => Standing::Off,
            Some(Suspension::Cluster) => Standing::Suspended,
            None => Standing::Enforced,
        }
    }

    /// Whether the node's CNI configuration is as it is to be; where nobody keeps it, it is.
    pub(super) fn is_chained(&self) -> bool {
        let done = self.chained.as_ref().filter(|(_, result)| result.is_ok()).map(|(wanted, _)| wanted);
        self.outputs.chaining.as_ref().is_none_or(|wanted| wanted.borrow().as_ref() == done)
    }

    /// What the node's CNI configuration is to say; nothing as long as that is not known.
    pub(super) fn chaining(&self) -> Option<Chaining> {
        match self.suspension() {
            Some(Suspension::Off) => Some(Chaining::Off),
            // What is on disk may be older than what holds.
            _ if !self.view.is_loaded() => None,
            Some(Suspension::Cluster) => Some(Chaining::Off),
            None => Some(Chaining::On(self.admissions.fallback(self.view.store()))),
        }
    }
}
