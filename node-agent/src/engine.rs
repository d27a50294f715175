//! The engine: the one task that knows what is to be in force. Everything that happens comes to it through channels;
//! it resolves, hands work to threads, and says what is in force.
//!
//! * [`channels`]: the ways to and from it.
//! * [`dispatching`]: work is handed out.
//! * [`guarding`]: the node's gate.
//! * [`hearing`]: what Pods learn of names.
//! * [`node`]: the node itself, whose network namespace somebody else keeps.
//! * [`outlook`]: which groups are to be read.
//! * [`resolving`]: what is to be in force.
//! * [`settings`]: what it begins with.
//! * [`starting`]: Pods that are about to start, and whether anything is enforced at all.
//! * [`taking`]: what happens is taken in.
//! * [`telling`]: what is in force, and what is not as it should be.

mod channels;
mod dispatching;
mod guarding;
mod hearing;
mod node;
mod outlook;
mod resolving;
mod settings;
mod starting;
mod taking;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfence_crds::Revision;
use ringfence_dataplane::gate::Exposed;
use ringfence_dataplane::{Learned, Nets};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, channel, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::clock::sleep_until;
use crate::cni::Chaining;
use crate::cni::admission::{Admissions, Knowledge};
use crate::feed::Kind;
use crate::gate::{self, Gate};
use crate::machine;
use crate::names::Heard;
use crate::slot::{Finished, Slot};
use crate::tools::Backend;
use crate::view::View;

pub use channels::{Inputs, Outputs};
use dispatching::Threads;
use guarding::Leftover;
pub use node::NodeSide;
use node::Standing;
pub use settings::Settings;

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
/// For so long after its start an agent lets no Pod start by what was left on disk alone. An apiserver that is there has answered by
/// then; where there is none, only a kubelet's static Pods start.
const LEDGER_WAIT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Engine {
    view: View,
    slots: BTreeMap<String, Slot>,
    threads: Threads,
    /// The gate of the node, if it has one.
    gate: Option<Gate>,
    /// Pods that are exposed on nodes other than their own, if any are.
    exposed: Option<Vec<Exposed>>,
    /// See [`Settings::stale_gate`].
    leftover: Option<Leftover>,
    /// The Pods that wait to start.
    admissions: Admissions,
    /// What the CNI plugin was last to be, and what came of that.
    chained: Option<(Chaining, Result<(), String>)>,
    /// Whether this node is off.
    off: bool,
    node_addresses: Vec<IpAddr>,
    /// The node itself, if this agent keeps its rules.
    node: Option<NodeSide>,
    /// See [`Settings::clock`].
    clock: fn() -> u64,
    /// What Pods have learned of names before the agent began, by sandbox, until their sandboxes are seen.
    learned_before: BTreeMap<String, Learned>,
    /// In which prefixes no name opens anything.
    reserved: Nets,
    /// Where what is heard of names goes to, and comes from.
    heard: Sender<Heard>,
    heard_in: Receiver<Heard>,
    /// The namespace of the agent's own Pod.
    own_namespace: Option<String>,
    /// See [`Settings::releases_departed`].
    releases_departed: bool,
    acknowledged: Option<Revision>,
    /// Something was told of objects or sandboxes, and nobody has looked ahead since.
    told: bool,
    /// What was told may change what is to be in force: everything is to be resolved.
    dirty: bool,
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
    /// The turn of who looks for connections.
    looks: Arc<Semaphore>,
    outputs: Outputs,
}

impl Engine {
    /// An engine, and where the work of its threads arrives.
    pub fn new(
        view: View,
        backend: Backend,
        settings: Settings,
        outputs: Outputs,
    ) -> (Self, UnboundedReceiver<Finished>) {
        let (finished, arrivals) = unbounded_channel();
        let (heard, heard_in) = channel(HEARD);
        let Settings { own_namespace, pod_start_wait, ledger_wait, before, .. } = settings;
        let engine = Self {
            view,
            slots: BTreeMap::new(),
            threads: Threads::new(backend, settings.readings, finished),
            gate: settings.gate,
            exposed: None,
            leftover: settings.stale_gate.then(Leftover::new),
            admissions: Admissions::new(pod_start_wait, ledger_wait, own_namespace.clone(), before),
            chained: None,
            off: false,
            node_addresses: machine::addresses(),
            node: settings.node,
            clock: settings.clock,
            learned_before: settings.learned,
            reserved: Nets::default(),
            heard,
            heard_in,
            own_namespace,
            releases_departed: settings.releases_departed,
            acknowledged: None,
            told: false,
            dirty: false,
            sandboxes: None,
            interrupted: BTreeMap::new(),
            rereading: BTreeSet::new(),
            wake_at: None,
            keep_at: None,
            looks: Arc::new(Semaphore::new(1)),
            outputs,
        };
        (engine, arrivals)
    }

    /// Runs until it is stopped.
    pub async fn run(mut self, mut inputs: Inputs, mut arrivals: UnboundedReceiver<Finished>) {
        self.off = *inputs.off.borrow_and_update();
        self.resolve_all();
        loop {
            tokio::select! {
                () = inputs.stop.cancelled() => return self.keep(),
                Some(change) = inputs.changes.recv() => self.take_first(change, &inputs.missed).await,
                Some(seen) = inputs.sandboxes.recv() => self.take_sandboxes(seen),
                Some(ask) = inputs.asks.recv() => self.take_ask(ask),
                Ok(()) = inputs.off.changed() => self.take_switch(&mut inputs.off),
                Some(finished) = arrivals.recv() => self.take_all_finished(finished, &mut arrivals),
                Some(finished) = gate::arrived(&mut self.gate) => self.take_gate(finished),
                removed = guarding::ended(&mut self.leftover) => self.take_leftover(removed),
                // What was read back there is to be remembered.
                () = news_of(&mut self.node) => self.keep_soon(),
                Some(heard) = self.heard_in.recv() => self.take_heard(heard),
                () = sleep_until(self.wake_at) => {}
            }
            self.take_waiting(&mut inputs.changes, &inputs.missed);
            self.resolve_what_came();
            self.act(Instant::now());
        }
    }

    /// Resolves everything, if what was taken in asks for that.
    fn resolve_what_came(&mut self) {
        if std::mem::take(&mut self.told) && self.view.held().is_some() {
            self.look_ahead();
        }
        let due = self.node.as_ref().is_some_and(|node| node.is_due(&self.view));
        if std::mem::take(&mut self.dirty) || due {
            self.resolve_all();
            self.keep_soon();
        }
    }

    /// Does what is to be done now, and says how things are.
    fn act(&mut self, now: Instant) {
        self.interrupted.retain(|_, (until, _)| *until > now);
        if self.keep_at.is_some_and(|at| at <= now) {
            self.keep();
        }
        self.dispatch(now);
        self.look_for_connections(now);
        let store = self.view.counts().then(|| self.view.store());
        self.admissions.settle(&Knowledge { store, fresh: self.is_fresh(), slots: &self.slots, now });
        self.tell(now);
        self.wake_at = self.deadline(now);
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        // While all threads are at work, the end of any of them is the next news.
        let free = self.threads.are_free();
        let slots = self.slots.values().filter(|_| free).filter_map(|slot| slot.deadline(now));
        let watches = self.interrupted.values().map(|(until, _)| *until);
        // It is told again what the node itself waits for.
        let node = self.node.as_ref().and_then(NodeSide::deadline).filter(|at| *at > now);
        let gate = self.gate.as_ref().and_then(|gate| gate.deadline(now));
        let gate = gate.into_iter().chain(self.leftover.as_ref().and_then(|leftover| leftover.deadline(now)));
        slots.chain(watches).chain(node).chain(gate).chain(self.keep_at).chain(self.admissions.deadline(now)).min()
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

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
