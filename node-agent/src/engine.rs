//! The engine: the one task that knows what is to be in force. Everything that happens comes to it through channels;
//! it resolves, hands work to threads, and says what is in force.
//!
//! * [`channels`]: the ways to and from it.
//! * [`guarding`]: the node's gate.
//! * [`hearing`]: what Pods learn of names.
//! * [`node`]: the node itself, whose network namespace somebody else keeps.
//! * [`outlook`]: which groups are to be read.
//! * [`starting`]: Pods that are about to start, and whether anything is enforced at all.
//! * [`telling`]: what is in force, and what is not as it should be.

mod channels;
mod guarding;
mod hearing;
mod node;
mod outlook;
mod starting;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfence_cni::Fallback;
use ringfence_crds::Revision;
use ringfence_crds::names::MARKER;
use ringfence_dataplane::gate::Exposed;
use ringfence_dataplane::{Learned, Nets, Resolution, Resolver};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::apply::{Done, Outcome};
use crate::cni::Chaining;
use crate::cni::admission::{Admissions, Knowledge};
use crate::cri::Sandbox;
use crate::feed::pods::{from_sandbox, sandbox_key};
use crate::feed::{Change, Kind, Object};
use crate::gate::{self, Gate};
use crate::machine;
use crate::names::{self, Heard, Hearing};
use crate::netns::{self, Cookie};
use crate::readings::Readings;
use crate::sandboxes::Seen;
use crate::slot::{Finished, Moment, Slot};
use crate::tools::Backend;
use crate::view::View;
use crate::work::Work;

pub use channels::{Inputs, Outputs};
pub use node::NodeSide;
use node::Standing;

/// Objects of one publication arrive on several watches within a few milliseconds of one another.
const GATHER: Duration = Duration::from_millis(3);
/// How many namespaces are written at a time: a commit mostly waits for the kernel.
const PARALLEL: usize = 8;
/// For so long after an error nobody knows what a watch has missed: it is tried again within five seconds.
const INTERRUPTED: Duration = Duration::from_secs(6);
/// So many answers of resolvers are looked at together.
const HEARD_AT_ONCE: usize = 64;
/// What changed goes to disk this much later, together with what changes until then.
const LEDGER_DELAY: Duration = Duration::from_secs(1);
/// So much of what is heard of names waits to be taken in.
const HEARD: usize = 256;
/// For so long a Pod's start may wait for its rules, where nothing else is said.
pub const POD_START_WAIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Engine {
    view: View,
    backend: Backend,
    slots: BTreeMap<String, Slot>,
    /// The gate of the node, if it has one.
    gate: Option<Gate>,
    /// Pods that are exposed on nodes other than their own, if any are.
    exposed: Option<Vec<Exposed>>,
    /// A gate of an agent with other settings may be there, and is to go.
    stale_gate: bool,
    /// The Pods that wait to start.
    admissions: Admissions,
    /// What the CNI plugin was last to be, and what came of that.
    chained: Option<(Chaining, Result<(), String>)>,
    /// Whether this node is off.
    off: bool,
    node_addresses: Vec<IpAddr>,
    /// The node itself, if this agent keeps its rules.
    node: Option<NodeSide>,
    /// The agent's own namespace, the node's, which never holds the policy of a Pod.
    own_cookie: Option<Cookie>,
    /// What an agent before this one has read back.
    remembered: Arc<BTreeMap<Cookie, Readings>>,
    /// What Pods have learned of names before the agent began, by sandbox, until their sandboxes are seen.
    learned_before: BTreeMap<String, Learned>,
    /// In which prefixes no name opens anything.
    reserved: Nets,
    /// Where what is heard of names goes to, and comes from.
    heard: Sender<Heard>,
    heard_in: Receiver<Heard>,
    /// The namespace of the agent's own Pod.
    own_namespace: Option<String>,
    /// Whether rules are taken away from the namespace of a sandbox that is no longer listed. Not where a runtime takes
    /// the namespace away: until then the rules hold.
    releases_departed: bool,
    acknowledged: Option<Revision>,
    /// Whether the sandboxes that run are known, or why not: until they are, nothing can be said about them.
    sandboxes: Option<Result<(), String>>,
    /// Watches that had an error, with it and until when that counts.
    interrupted: BTreeMap<Kind, (Instant, String)>,
    /// Kinds of which other objects are being read than before.
    rereading: BTreeSet<Kind>,
    /// When to look at everything again without news.
    wake_at: Option<Instant>,
    /// When the ledger is to be written next, if anything differs.
    keep_at: Option<Instant>,
    threads: Arc<Semaphore>,
    /// The turn of who looks for connections.
    looks: Arc<Semaphore>,
    finished: UnboundedSender<Finished>,
    outputs: Outputs,
}

impl Engine {
    /// An engine, and where the work of its threads arrives.
    pub fn new(view: View, backend: Backend, outputs: Outputs) -> (Self, UnboundedReceiver<Finished>) {
        let (finished, arrivals) = unbounded_channel();
        let (heard, heard_in) = channel(HEARD);
        let own_namespace = std::env::var("POD_NAMESPACE").ok();
        let engine = Self {
            view,
            backend,
            slots: BTreeMap::new(),
            gate: None,
            exposed: None,
            stale_gate: false,
            admissions: Admissions::new(POD_START_WAIT, own_namespace.clone(), None),
            chained: None,
            off: false,
            node_addresses: machine::addresses(),
            node: None,
            own_cookie: netns::current_cookie().ok(),
            remembered: Arc::default(),
            learned_before: BTreeMap::new(),
            reserved: Nets::default(),
            heard,
            heard_in,
            own_namespace,
            releases_departed: false,
            acknowledged: None,
            sandboxes: None,
            interrupted: BTreeMap::new(),
            rereading: BTreeSet::new(),
            wake_at: None,
            keep_at: None,
            threads: Arc::new(Semaphore::new(PARALLEL)),
            looks: Arc::new(Semaphore::new(1)),
            finished,
            outputs,
        };
        (engine, arrivals)
    }

    /// The same, but namespaces outlive what is listed.
    #[must_use]
    pub fn releasing_departed(self) -> Self {
        Self { releases_departed: true, ..self }
    }

    /// The same, on a node that is to have no gate.
    #[must_use]
    pub fn dismissing_gate(self) -> Self {
        Self { stale_gate: true, ..self }
    }

    /// The same, on a node with a gate, whose network namespace the agent is in.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// The same, but a Pod's start may wait for its rules for so long; `before` is what holds as long as nothing was read.
    #[must_use]
    pub fn waiting(self, wait: Duration, before: Option<Fallback>) -> Self {
        let admissions = Admissions::new(wait, self.own_namespace.clone(), before);
        Self { admissions, ..self }
    }

    /// The same, that says what the node itself is to hold.
    #[must_use]
    pub fn with_node(self, node: NodeSide) -> Self {
        Self { node: Some(node), ..self }
    }

    /// The same, with what an agent before it has read back.
    #[must_use]
    pub fn remembering(self, readings: BTreeMap<Cookie, Readings>) -> Self {
        Self { remembered: Arc::new(readings), ..self }
    }

    /// The same, with what Pods have learned of names before.
    #[must_use]
    pub fn knowing(self, learned: BTreeMap<String, Learned>) -> Self {
        Self { learned_before: learned, ..self }
    }

    /// Runs until it is stopped.
    pub async fn run(mut self, mut inputs: Inputs, mut arrivals: UnboundedReceiver<Finished>) {
        self.off = *inputs.off.borrow_and_update();
        self.resolve_all();
        loop {
            let (mut dirty, mut news) = (false, false);
            tokio::select! {
                () = inputs.stop.cancelled() => return self.keep(),
                Some(change) = inputs.changes.recv() => {
                    dirty |= self.take(change, &inputs.missed);
                    news = true;
                    tokio::time::sleep(GATHER).await;
                }
                Some(seen) = inputs.sandboxes.recv() => {
                    dirty |= self.take_sandboxes(seen);
                    news = true;
                }
                Some(ask) = inputs.asks.recv() => self.take_ask(ask),
                Ok(()) = inputs.off.changed() => {
                    self.off = *inputs.off.borrow_and_update();
                    dirty = true;
                }
                Some(finished) = arrivals.recv() => {
                    self.take_finished(finished);
                    // What has ended meanwhile is looked at together.
                    while let Ok(finished) = arrivals.try_recv() {
                        self.take_finished(finished);
                    }
                }
                Some(finished) = gate::arrived(&mut self.gate) => self.take_gate(finished),
                () = news_of(&mut self.node) => {
                    // What was read back there is to be remembered.
                    self.keep_at.get_or_insert(Instant::now() + LEDGER_DELAY);
                }
                Some(heard) = self.heard_in.recv() => {
                    self.take_heard(heard);
                    // Not for ever: who floods one Pod with answers must not keep all from their rules.
                    for _ in 0..HEARD_AT_ONCE {
                        let Ok(heard) = self.heard_in.try_recv() else { break };
                        self.take_heard(heard);
                    }
                }
                () = sleep_until(self.wake_at) => {}
            }
            while let Ok(change) = inputs.changes.try_recv() {
                dirty |= self.take(change, &inputs.missed);
                news = true;
            }
            if news && self.view.held().is_some() {
                self.look_ahead();
            }
            dirty |= self.node.as_ref().is_some_and(|node| node.is_due(&self.view));
            if dirty {
                self.resolve_all();
                self.keep_at.get_or_insert(Instant::now() + LEDGER_DELAY);
            }
            let now = Instant::now();
            self.interrupted.retain(|_, (until, _)| *until > now);
            if self.keep_at.is_some_and(|at| at <= now) {
                self.keep();
            }
            self.dispatch(now);
            self.look_for_connections(now);
            let store = self.view.counts().then(|| self.view.store());
            self.admissions.settle(&Knowledge { store, slots: &self.slots, now });
            self.tell(now);
            self.wake_at = self.deadline(now);
        }
    }

    fn take(&mut self, change: Change, missed: &Notify) -> bool {
        match change {
            Change::Interrupted { kind, error } => {
                self.interrupted.insert(kind, (Instant::now() + INTERRUPTED, error));
                return false;
            }
            Change::Reading { kind } => {
                self.rereading.insert(kind);
                return false;
            }
            Change::All { kind, .. } => drop(self.rereading.remove(&kind)),
            Change::Put { .. } | Change::Gone { .. } => {}
        }
        if let Change::Put { name, object: Object::Pod(pod) } = &change
            && !pod.host_network
            && !self.slots.values().any(|slot| sandbox_key(&slot.sandbox) == *name)
        {
            missed.notify_one();
        }
        // The marker changes nothing that is in force, and comes when threads are at work on what it closes.
        let closes = self.view.held().is_none()
            && matches!(&change, Change::Put { name, object: Object::WorkloadPolicy(_) | Object::PeerGroup(_) }
                if name == MARKER);
        let departs = matches!(change, Change::Gone { kind: Kind::Pod, .. } | Change::All { kind: Kind::Pod, .. });
        let dirty = self.view.take(change);
        if departs {
            self.forget_departed();
        }
        if dirty && closes {
            self.keep_at.get_or_insert(Instant::now() + LEDGER_DELAY);
        }
        dirty && !closes
    }

    fn take_sandboxes(&mut self, seen: Seen) -> bool {
        let all = seen.problem.is_none();
        self.sandboxes = Some(seen.problem.map_or(Ok(()), Err));
        let Some(sandboxes) = seen.sandboxes else { return false };
        self.gate.iter_mut().for_each(|gate| gate.pods_are_listed(all, Instant::now()));
        let before = self.listed();
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
        self.forget_departed();
        if self.sandboxes == Some(Ok(())) {
            self.learned_before.clear();
        }
        let places = self.slots.values().map(|slot| (slot.pod(), slot.sandbox.netns.clone()));
        self.outputs.places.send_replace(places.collect());
        // A bridge may have come with the first Pod.
        let addresses = std::mem::replace(&mut self.node_addresses, machine::addresses());
        self.listed() != before || self.node_addresses != addresses
    }

    fn new_slot(&mut self, sandbox: Sandbox) -> Slot {
        let mut slot = Slot::new(sandbox);
        if let Some(learned) = self.learned_before.remove(&slot.sandbox.id) {
            slot.hearing = Hearing::remembering(learned, names::now());
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

    fn take_finished(&mut self, mut finished: Finished) {
        // A sandbox that has stopped in the meantime is nobody's concern any more.
        let Some(slot) = self.slots.get_mut(&finished.id) else { return };
        telling::log_finished(slot, &finished, self.view.store());
        if let Some(ear) = finished.ear.take() {
            slot.hearing.opened(&finished.id, ear, &self.heard, Instant::now());
        }
        let looked = matches!(finished.result, Ok(Outcome { done: Done::CleanedUp | Done::Nothing, .. }));
        let (now, before) = (Instant::now(), slot.readings.clone());
        slot.finish(finished, now);
        if looked && slot.readings != before {
            self.keep_at.get_or_insert(now + LEDGER_DELAY);
        }
    }

    fn resolve_all(&mut self) {
        self.slots.retain(|_, slot| !(slot.departed && slot.is_released()));
        self.resolve(None);
        if let (Some(keeper), Some(chaining)) = (&self.outputs.chaining, self.chaining()) {
            tell_if_other(keeper, Some(chaining));
        }
    }

    /// Resolves the Pods of all sandboxes and says what has to be read for them, or that of one alone: what it needs is
    /// read since Kubernetes has told of it.
    fn resolve(&mut self, only: Option<&String>) {
        let suspended = self.suspension().is_some();
        if !(self.view.counts() || suspended) {
            return;
        }
        let now = Instant::now();
        self.reserved = names::reserved(self.view.store(), &self.node_addresses);
        let mut resolver = Resolver::new(self.view.store()).looking_for_seals(self.looks_for_seals());
        for (_, slot) in self.slots.iter_mut().filter(|(id, _)| only.is_none_or(|only| only == *id)) {
            if slot.departed {
                slot.hearing.rest();
                slot.resolved(Resolution::Unmanaged, false, now);
                continue;
            }
            let resolution = match self.view.known_pod(&slot.sandbox) {
                Some(pod) => resolver.resolve(&pod, &self.node_addresses),
                // The CNI plugin says less of a Pod than the runtime does, a moment later.
                None if slot.is_admitted() => {
                    resolver.resolve_unknown(&from_sandbox(&slot.sandbox), &self.node_addresses)
                }
                None => resolver.resolve(&from_sandbox(&slot.sandbox), &self.node_addresses),
            };
            if suspended {
                // It was resolved all the same: what it refers to is to be at hand when enforcement goes on.
                slot.suspend(now);
                continue;
            }
            // Our own Pods bring the rules of all others: they must not wait for them behind a closed door.
            let may_close = self.own_namespace.as_ref() != Some(&slot.sandbox.namespace);
            let resolution = slot.hearing.fill(resolution, may_close, &self.reserved);
            slot.resolved(resolution, may_close, now);
        }
        if only.is_none() {
            self.exposed = resolver.exposed().filter(|_| !suspended);
            let standing = self.standing();
            if let Some(node) = &mut self.node {
                let here = self.slots.values().filter(|slot| !slot.departed);
                let pods = here.map(|slot| self.view.pod_in(&slot.sandbox));
                node.resolve(&self.view, standing, &mut resolver, (&self.node_addresses, pods), now);
            }
            if self.view.held().is_none() {
                self.want(resolver);
            }
        }
        self.ask_gate();
    }

    /// Hands out what is to be done: rules that are to be written before what can wait.
    fn dispatch(&mut self, now: Instant) {
        self.slots.retain(|_, slot| slot.may_be_listed(now));
        // Who turns a node off means it, whatever has been read.
        let moment = Moment { now, fresh: self.view.is_loaded() || self.off, closed: self.view.is_closed() };
        if !self.open_gate(moment) {
            return;
        }
        let (urgent, rest): (Vec<_>, Vec<_>) = self.slots.iter_mut().partition(|(_, slot)| slot.is_urgent());
        let mut followed = Vec::new();
        for (id, slot) in urgent.into_iter().chain(rest) {
            let permit = self.threads.clone().try_acquire_owned().ok();
            if permit.is_none() && !slot.may_follow() {
                continue;
            }
            let Some(job) = slot.begin(moment) else { continue };
            let work = Work {
                id: id.clone(),
                location: slot.sandbox.netns.clone(),
                backend: self.backend,
                cookie: slot.cookie,
                forbidden: self.own_cookie,
                listens: slot.hearing.wants_ear(now),
                remembered: self.remembered.clone(),
            };
            // Members are a few messages: to hand them to a thread would take longer.
            let job = match tokio::task::block_in_place(|| work.follow(job)) {
                Ok(finished) => {
                    followed.push(finished);
                    continue;
                }
                Err(job) => *job,
            };
            let Some(permit) = permit else {
                // What has to wait begins with what is wanted then.
                slot.put_back(job);
                continue;
            };
            let (id, finished) = (id.clone(), self.finished.clone());
            tokio::spawn(async move {
                let done = tokio::task::spawn_blocking(move || work.run(job)).await;
                drop(permit);
                // Nobody listens if the engine has ended.
                let _ = finished.send(done.unwrap_or_else(|panic| Finished {
                    id,
                    cookie: None,
                    ear: None,
                    result: Err(format!("work in the network namespace: {panic}")),
                    took: Duration::ZERO,
                }));
            });
        }
        followed.into_iter().for_each(|finished| self.take_finished(finished));
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        // While all threads are at work, the end of any of them is the next news.
        let free = self.threads.available_permits() > 0;
        let slots = self.slots.values().filter(|_| free).filter_map(|slot| slot.deadline(now));
        let watches = self.interrupted.values().map(|(until, _)| *until);
        // It is told again what the node itself waits for.
        let node = self.node.as_ref().and_then(NodeSide::deadline).filter(|at| *at > now);
        let gate = self.gate.as_ref().and_then(|gate| gate.deadline(now));
        slots.chain(watches).chain(node).chain(gate).chain(self.keep_at).chain(self.admissions.deadline()).min()
    }
}

fn tell_if_other<T: PartialEq>(channel: &watch::Sender<T>, value: T) {
    channel.send_if_modified(|told| {
        let differs = *told != value;
        *told = value;
        differs
    });
}

async fn news_of(node: &mut Option<NodeSide>) {
    match node {
        Some(node) => node.news().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
