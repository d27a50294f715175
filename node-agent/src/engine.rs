//! The engine: the one task that knows what is to be in force. Everything that happens comes to it through channels;
//! it resolves, hands work to threads, and says what is in force.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfence_crds::Revision;
use ringfence_dataplane::{LocalPod, ObjectStore, resolve};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::apply::{Done, Known, Outcome, Wanted, apply};
use crate::cri::Sandbox;
use crate::feed::pods::{from_sandbox, with_sandbox};
use crate::feed::{Change, Kind, Object};
use crate::machine;
use crate::netns;
use crate::report::Report;
use crate::slot::{Finished, Slot};
use crate::tools::Backend;
use crate::view::{Held, View};

/// Objects of one publication arrive on several watches within a few milliseconds of one another.
const GATHER: Duration = Duration::from_millis(3);
/// How many namespaces are written at a time: a commit mostly waits for the kernel.
const PARALLEL: usize = 8;
/// How long what the ledger says may not replace rules that the kernel holds: the apiserver may answer any moment, and
/// knows better.
const LEDGER_GRACE: Duration = Duration::from_secs(5);

/// What changed goes to disk this much later, together with what changes until then.
const LEDGER_DELAY: Duration = Duration::from_secs(1);

/// What the engine works with.
#[derive(Debug)]
pub struct Inputs {
    /// News of objects and Pods.
    pub changes: UnboundedReceiver<Change>,
    /// The sandboxes that run, whenever they change.
    pub sandboxes: UnboundedReceiver<Vec<Sandbox>>,
    /// To be told that a sandbox is missed.
    pub missed: Arc<Notify>,
    /// Ends the engine; what is in force stays.
    pub stop: CancellationToken,
}

/// What the engine tells.
#[derive(Debug)]
pub struct Outputs {
    /// What is in force.
    pub report: watch::Sender<Report>,
    /// What the ledger is to hold.
    pub ledger: watch::Sender<Option<Kept>>,
}

/// What the ledger is to hold.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The objects.
    pub store: ObjectStore,
    /// The Pods.
    pub pods: BTreeMap<String, LocalPod>,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    view: View,
    backend: Backend,
    slots: BTreeMap<String, Slot>,
    node_addresses: Vec<IpAddr>,
    /// Until when rules in the kernel count more than the ledger.
    ledger_counts_from: Instant,
    acknowledged: Option<Revision>,
    /// Whether the sandboxes that run are known: before, nothing can be said about them.
    sandboxes_known: bool,
    /// When the ledger is to be written next, if anything differs.
    keep_at: Option<Instant>,
    threads: Arc<Semaphore>,
    finished: UnboundedSender<Finished>,
    outputs: Outputs,
}

impl Engine {
    /// An engine, and where the work of its threads arrives.
    pub fn new(view: View, backend: Backend, outputs: Outputs) -> (Self, UnboundedReceiver<Finished>) {
        let (finished, arrivals) = unbounded_channel();
        let engine = Self {
            view,
            backend,
            slots: BTreeMap::new(),
            node_addresses: machine::addresses(),
            ledger_counts_from: Instant::now() + LEDGER_GRACE,
            acknowledged: None,
            sandboxes_known: false,
            keep_at: None,
            threads: Arc::new(Semaphore::new(PARALLEL)),
            finished,
            outputs,
        };
        (engine, arrivals)
    }

    /// Runs until it is stopped.
    pub async fn run(mut self, mut inputs: Inputs, mut arrivals: UnboundedReceiver<Finished>) {
        loop {
            let mut dirty = false;
            tokio::select! {
                () = inputs.stop.cancelled() => return self.keep(),
                Some(change) = inputs.changes.recv() => {
                    dirty |= self.take(change, &inputs.missed);
                    tokio::time::sleep(GATHER).await;
                }
                Some(sandboxes) = inputs.sandboxes.recv() => dirty |= self.take_sandboxes(sandboxes),
                Some(finished) = arrivals.recv() => self.take_finished(finished),
                () = sleep_until(self.deadline()) => {}
            }
            while let Ok(change) = inputs.changes.try_recv() {
                dirty |= self.take(change, &inputs.missed);
            }
            if dirty {
                self.resolve_all();
                self.keep_at.get_or_insert(Instant::now() + LEDGER_DELAY);
            }
            if self.keep_at.is_some_and(|at| at <= Instant::now()) {
                self.keep();
            }
            self.dispatch();
            self.tell();
        }
    }

    fn take(&mut self, change: Change, missed: &Notify) -> bool {
        if let Change::Put { name, object: Object::Pod(pod) } = &change
            && !pod.host_network
            && !self.slots.values().any(|slot| slot.sandbox.uid == *name)
        {
            missed.notify_one();
        }
        let departs = matches!(change, Change::Gone { kind: Kind::Pod, .. } | Change::All { kind: Kind::Pod, .. });
        let dirty = self.view.take(change);
        if departs {
            self.forget_departed();
        }
        dirty
    }

    fn take_sandboxes(&mut self, sandboxes: Vec<Sandbox>) -> bool {
        self.sandboxes_known = true;
        let mut old = std::mem::take(&mut self.slots);
        for sandbox in sandboxes.into_iter().filter(|sandbox| !sandbox.host_network) {
            let id = sandbox.id.clone();
            let slot = old.remove(&id).unwrap_or_else(|| Slot::new(sandbox));
            self.slots.insert(id, slot);
        }
        self.forget_departed();
        // A bridge may have come with the first Pod.
        self.node_addresses = machine::addresses();
        true
    }

    fn forget_departed(&mut self) {
        let slots = &self.slots;
        self.view.forget_departed(|uid| slots.values().any(|slot| slot.sandbox.uid == uid));
    }

    fn take_finished(&mut self, finished: Finished) {
        // A sandbox that has stopped in the meantime is nobody's concern any more.
        let Some(slot) = self.slots.get_mut(&finished.id) else { return };
        log_finished(slot, &finished, self.view.store());
        slot.finish(finished, Instant::now());
    }

    fn resolve_all(&mut self) {
        if !self.view.counts() {
            return;
        }
        let now = Instant::now();
        for slot in self.slots.values_mut() {
            let pod = match self.view.pod(&slot.sandbox.uid) {
                Some(pod) => with_sandbox(pod, &slot.sandbox),
                None => from_sandbox(&slot.sandbox),
            };
            slot.resolved(resolve(self.view.store(), &pod, &self.node_addresses), now);
        }
    }

    /// Hands out what is to be done.
    fn dispatch(&mut self) {
        let now = Instant::now();
        let fresh = self.view.is_loaded() || now >= self.ledger_counts_from;
        for (id, slot) in &mut self.slots {
            let Some((wanted, known)) = slot.begin(now, fresh) else { continue };
            let work = Work {
                id: id.clone(),
                location: slot.sandbox.netns.clone(),
                backend: self.backend,
                cookie: slot.cookie,
            };
            let (threads, finished) = (self.threads.clone(), self.finished.clone());
            tokio::spawn(async move {
                // The semaphore is never closed.
                let _permit = threads.acquire_owned().await;
                let id = work.id.clone();
                let done = tokio::task::spawn_blocking(move || work.run(&wanted, known, !fresh)).await;
                // Nobody listens if the engine has ended.
                let _ = finished.send(done.unwrap_or_else(|panic| Finished {
                    id,
                    cookie: None,
                    result: Err(format!("work in the network namespace: {panic}")),
                    took: Duration::ZERO,
                }));
            });
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let slots = self.slots.values().filter_map(Slot::deadline);
        let grace = (!self.view.is_loaded() && self.view.counts()).then_some(self.ledger_counts_from);
        let now = Instant::now();
        slots.chain(grace).filter(|at| *at > now).chain(self.keep_at).min()
    }

    fn keep(&mut self) {
        self.keep_at = None;
        if self.view.is_loaded() {
            let kept = Kept { store: self.view.store().clone(), pods: self.view.pods().clone() };
            self.outputs.ledger.send_replace(Some(kept));
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        let settled = self.sandboxes_known && self.slots.values().all(Slot::is_settled);
        let held = self.view.held();
        if settled && held.is_none() {
            self.acknowledged = Some(self.view.revision());
        }
        let report = Report {
            loaded: self.view.is_loaded(),
            node_generation: self.view.node_generation(),
            acknowledged: self.acknowledged,
            settled,
            went_back: match held {
                Some(Held::WentBack { published, seen }) => Some((published, seen)),
                _ => None,
            },
            stalled: self.slots.values().filter_map(|slot| slot.stalled(now)).collect(),
            problems: self.slots.values().filter_map(Slot::problem).collect(),
            pods_enforced: self.slots.values().filter(|slot| slot.has_rules()).count(),
            node_addresses: self.node_addresses.clone(),
        };
        self.outputs.report.send_if_modified(|told| {
            let differs = *told != report;
            *told = report;
            differs
        });
    }
}

/// Work in one network namespace.
struct Work {
    id: String,
    location: netns::Location,
    backend: Backend,
    /// The namespace as known from before: one that is another now must not be taken for it.
    cookie: Option<netns::Cookie>,
}

impl Work {
    fn run(self, wanted: &Wanted, known: Known, only_if_empty: bool) -> Finished {
        let begun = std::time::Instant::now();
        let entered = netns::run_in(&self.location, |cookie| {
            let known = if self.cookie.is_none_or(|before| before == cookie) { known } else { Known::Unread };
            (cookie, apply(self.backend, wanted, known, only_if_empty))
        });
        let (cookie, result) = match entered {
            Ok((cookie, result)) => (Some(cookie), result.map_err(|error| error.to_string())),
            Err(error) => (None, Err(error.to_string())),
        };
        Finished { id: self.id, cookie, result, took: begun.elapsed() }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Says what came into force where, with the commit that brought it: this is how a commit is followed to the kernel.
fn log_finished(slot: &Slot, finished: &Finished, store: &ObjectStore) {
    let (pod, ms) = (slot.pod(), u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX));
    let netns = finished.cookie.or(slot.cookie).map(|cookie| cookie.to_string()).unwrap_or_default();
    match &finished.result {
        Ok(Outcome { done: Done::Nothing | Done::Left, .. }) => tracing::debug!(%pod, %netns, ms, "nothing to do"),
        Ok(Outcome { done, .. }) => {
            let newest = store.workload_policies.values().max_by_key(|policy| policy.revision);
            let revision = newest.map(|policy| policy.revision.to_string()).unwrap_or_default();
            let commit = newest.and_then(|policy| policy.commit.as_deref()).unwrap_or_default();
            tracing::info!(%pod, %netns, %revision, %commit, ms, ?done, "in force");
        }
        Err(error) => tracing::warn!(%pod, %netns, ms, "failed to {error}"),
    }
}
