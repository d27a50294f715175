//! The engine: the one task that holds what is known, computes what should be, and has the difference written.
//!
//! ```text
//! watches ──► Input ──► World ──► compile ──► Plan ──► publish ──┐
//!               ▲                    └──────► chores ────────────┤
//!               └──────────────── outcomes of writes ◄───────────┘
//! ```
//!
//! A change is acted on at once; changes that follow closely are gathered. Publishing is awaited, since the next plan
//! starts from what it left; chores (other objects, statuses, Events) go on beside it and never hold it up.

pub mod chores;
pub mod commits;
pub mod input;
pub mod world;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use ringfence_compile::cluster::ClusterState;
use ringfence_compile::compile::{Changes, Compiler, Dirty};
use ringfence_compile::policy::Policy;
use ringfence_crds::Revision;
use ringfence_crds::container_cluster::Management;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use crate::kubelink::sources;
use crate::publish::{self, Look, Memory, Since};
use crate::write::Write;
use chores::due::Due;
use chores::{Chores, Done, Settled};
pub use commits::Commits;
use input::{Input, of_outcome};
use world::{Effect, World};

/// How long changes that follow a publication are gathered.
const GATHER: Duration = Duration::from_millis(25);
/// How long chores wait after a publication, so that agents are served first, and after each other.
const CHORES_PAUSE: Duration = Duration::from_millis(100);
/// Shortest and longest wait after something could not be written.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));
/// How often chores are planned though nothing has happened, for what depends on the time.
const TICK: Duration = Duration::from_secs(60);
/// After how many ticks everything is compiled anew, to be sure.
const TICKS_TO_BE_SURE: u32 = 10;

/// When something may be done (again).
struct Pace {
    due: Instant,
    wait: Duration,
}

impl Pace {
    fn new() -> Self {
        Self { due: Instant::now(), wait: RETRY.0 }
    }

    fn succeeded(&mut self, pause: Duration) {
        *self = Self { due: Instant::now() + pause, wait: RETRY.0 };
    }

    fn failed(&mut self) {
        self.due = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(RETRY.1);
    }
}

/// The engine's task.
pub struct Engine {
    client: Client,
    instance: String,
    inputs: UnboundedReceiver<Input>,
    world: World,
    /// Policy as it was compiled last.
    policy: Policy,
    compiler: Compiler,
    /// Ticks since everything was compiled anew to be sure.
    ticks: u32,
    /// Whether the next publication should find nothing to do: everything is looked at, to be sure.
    to_be_sure: bool,
    /// Known once the world is complete.
    memory: Option<Memory>,
    last: Revision,
    pending: Effect,
    publishing: Pace,
    chores_due: bool,
    chores_pace: Pace,
    running: JoinSet<Done>,
    settled: Settled,
    /// What the last chores looked at: again, if not all was done.
    looking: Due,
    /// What the last chores wrote, and whether that repeated what those before them had written.
    written: Vec<Write>,
    repeated: bool,
}

/// Runs the engine until the process ends. `instance` is the name of this replica, for Events; `management` is for the
/// ContainerCluster that Kubelink makes; `commits` says which commit each repository is at.
pub async fn run(client: Client, instance: String, management: Management, commits: Commits) {
    let (sender, inputs) = unbounded_channel();
    sources::start(client.clone(), sender);
    let engine = Engine {
        client,
        instance,
        inputs,
        world: World::new(management, commits),
        policy: Policy::default(),
        compiler: Compiler::new(&Policy::default(), &ClusterState::default()),
        ticks: 0,
        to_be_sure: false,
        memory: None,
        last: Revision::default(),
        pending: Effect::Compile,
        publishing: Pace::new(),
        chores_due: true,
        chores_pace: Pace::new(),
        running: JoinSet::new(),
        settled: Settled::default(),
        looking: Due::default(),
        written: Vec::new(),
        repeated: false,
    };
    engine.turn().await;
}

impl Engine {
    async fn turn(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let publish_due = self.memory.is_some() && self.pending > Effect::Chores;
            let chores_due = self.memory.is_some() && self.chores_due && self.running.is_empty();
            tokio::select! {
                biased;
                input = self.inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                Some(done) = self.running.join_next() => match done {
                    Ok(done) => self.chores_done(done),
                    Err(error) => {
                        tracing::error!(%error, "chores ended early");
                        self.chores_due = true;
                        self.world.due = Due::Everything;
                        self.chores_pace.failed();
                    }
                },
                () = sleep_until(self.publishing.due), if publish_due => self.publish().await,
                () = sleep_until(self.chores_pace.due), if chores_due => self.start_chores(),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    /// Takes in one change and all that wait behind it.
    fn take(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            let effect = self.world.take(input);
            self.note(effect);
            next = self.inputs.try_recv().ok();
        }
        if self.memory.is_none() && self.world.is_complete() {
            tracing::info!(
                namespaces = self.world.cluster.namespaces.len(),
                pods = self.world.cluster.pods.len(),
                rule_sets = self.world.rule_sets.len(),
                "everything is listed"
            );
            self.memory = Some(Memory { since: Since::recover(&self.world), ..Memory::default() });
        }
    }

    fn note(&mut self, effect: Effect) {
        self.pending = self.pending.max(effect);
        self.chores_due |= effect >= Effect::Chores;
        // There is something to do, and it is known.
        self.to_be_sure &= effect < Effect::Publish;
    }

    fn tick(&mut self) {
        self.ticks += 1;
        let due = std::mem::replace(&mut self.chores_due, true);
        self.world.due = Due::Everything;
        if self.ticks < TICKS_TO_BE_SURE || self.memory.is_none() || self.pending == Effect::Compile {
            return;
        }
        self.ticks = 0;
        // What is not marked is not seen: should a mark ever be missing, policy is not stale for long, and somebody hears
        // of it.
        let anew = Compiler::new(&self.policy, &self.world.cluster);
        if anew.computed() != self.compiler.computed() {
            let changes = Changes::between(self.compiler.computed(), anew.computed());
            tracing::error!(?changes, "found changes that nothing had told of; please report this");
            self.note(Effect::Publish);
        }
        self.compiler = anew;
        let settled = self.pending < Effect::Publish && !due && self.running.is_empty();
        self.world.look = Look::Everything;
        self.note(Effect::Publish);
        self.to_be_sure = settled;
    }

    /// Looks at what has changed.
    fn compile(&mut self) {
        let mut dirty = std::mem::take(&mut self.world.dirty);
        if std::mem::take(&mut self.world.policy_changed) {
            let policy = self.world.policy();
            dirty.merge(Dirty::of_policy(&self.policy, &policy));
            self.policy = policy;
        }
        let changes = self.compiler.update(&self.policy, &self.world.cluster, dirty);
        self.world.due.add_computed(&changes);
        self.world.look.add_computed(changes);
    }

    async fn publish(&mut self) {
        let began = Instant::now();
        if self.memory.is_some() && self.pending == Effect::Compile {
            self.compile();
        }
        let Some(memory) = &mut self.memory else { return };
        let compiled = began.elapsed();
        self.pending = Effect::Nothing;
        self.chores_due = true;
        let mut look = std::mem::replace(&mut self.world.look, Look::nowhere());
        let plan = publish::plan(&self.world, self.compiler.computed(), memory, &mut look, self.last, &now());
        if std::mem::take(&mut self.to_be_sure) && !plan.is_empty() {
            tracing::error!(writes = plan.len(), "found objects to write that nothing had told of; please report this");
        }
        if plan.is_empty() {
            self.world.commit = None;
            self.publishing.succeeded(Duration::ZERO);
            return;
        }
        let revision = plan.revision;
        self.last = revision;
        let span = tracing::info_span!("publish", %revision, commit = plan.commit.as_deref().unwrap_or("-"));
        let (writes, closes, unfinished) = (plan.len(), plan.marker.is_some(), plan.unfinished);
        let mut published = publish::carry_out(&self.client, plan).instrument(span.clone()).await;
        for (write, message) in &published.refused {
            memory.refused.note(write, message);
        }
        for (write, outcome) in std::mem::take(&mut published.outcomes) {
            // Its effect is this publication, and what that left undone is pending below; but what we find beside our
            // write may be news: the watch will not tell it again.
            let effect = of_outcome(&write, outcome).map(|input| self.world.take(input));
            if effect == Some(Effect::Compile) {
                self.pending = Effect::Compile;
            }
        }
        if published.complete {
            if self.pending < Effect::Compile {
                self.world.commit = None;
            }
            self.publishing.succeeded(GATHER);
        } else if published.refused.is_empty() {
            self.publishing.failed();
        } else {
            self.publishing.succeeded(Duration::ZERO);
        }
        if unfinished || !published.complete {
            self.pending = self.pending.max(Effect::Publish);
            // What could not be written is looked at again.
            self.world.look.merge(look);
        }
        self.chores_pace.due = self.chores_pace.due.max(Instant::now() + CHORES_PAUSE);
        span.in_scope(|| {
            tracing::info!(
                writes,
                policy = closes,
                complete = published.complete,
                compile_us = compiled.as_micros(),
                total_us = began.elapsed().as_micros(),
                "published"
            );
        });
    }

    fn start_chores(&mut self) {
        let Some(memory) = &self.memory else { return };
        self.chores_due = false;
        let published = self.pending < Effect::Publish;
        if published && publish::states::are_due(&self.world, &memory.since) {
            self.note(Effect::Publish);
            return;
        }
        self.looking = std::mem::replace(&mut self.world.due, Due::nowhere());
        let computed = self.compiler.computed();
        let chores = Chores::plan(&self.world, computed, memory, published, &self.settled, &self.looking, &now());
        if chores.is_empty() {
            return;
        }
        // Somebody else who writes the same statuses differently (a second controller) must not make this a race.
        let again = chores.writes.iter().find(|write| self.written.contains(write));
        if let Some(write) = again {
            tracing::warn!(%write, "written before and changed back by somebody, going slower");
        }
        self.repeated = again.is_some();
        self.written.clone_from(&chores.writes);
        self.running.spawn(chores.carry_out(self.client.clone(), self.instance.clone()));
    }

    fn chores_done(&mut self, done: Done) {
        for (write, outcome) in done.outcomes {
            if let Some(input) = of_outcome(&write, outcome) {
                let effect = self.world.take(input);
                self.note(effect);
            }
        }
        self.settled.note(done.notices, done.kubernetes_version, self.compiler.computed());
        if !done.complete {
            self.chores_due = true;
            self.world.due.merge(std::mem::take(&mut self.looking));
        }
        if done.complete && !self.repeated {
            self.chores_pace.succeeded(CHORES_PAUSE);
        } else {
            self.chores_pace.failed();
        }
    }
}

fn now() -> Time {
    // The apiserver keeps whole seconds: anything finer would look changed when it comes back.
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_each_time_until_one_succeeds() {
        let mut pace = Pace::new();
        for _ in 0..20 {
            pace.failed();
        }
        assert_eq!(pace.wait, RETRY.1);
        pace.succeeded(GATHER);
        assert_eq!(pace.wait, RETRY.0);
    }
}
