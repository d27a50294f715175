//! What is to be done in network namespaces is handed out: to threads, or done at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{Engine, PARALLEL};
use crate::netns::{self, Cookie};
use crate::readings::Readings;
use crate::slot::{Finished, Job, Moment, Slot};
use crate::tools::Backend;
use crate::work::Work;

/// The threads that work in network namespaces, with what is the same for all of their work.
#[derive(Debug)]
pub(super) struct Threads {
    backend: Backend,
    /// The agent's own namespace, the node's, which never holds the policy of a Pod.
    pub(super) own_cookie: Option<Cookie>,
    /// What an agent before this one has read back.
    pub(super) remembered: Arc<BTreeMap<Cookie, Readings>>,
    /// As many permits as there may be threads.
    free: Arc<Semaphore>,
    /// Where what came of work goes to.
    finished: UnboundedSender<Finished>,
}

impl Engine {
    /// Hands out what is to be done: rules that are to be written before what can wait.
    pub(super) fn dispatch(&mut self, now: Instant) {
        // As long as the runtime does not answer, a Pod that it does not list is not gone.
        if !matches!(self.sandboxes, Some(Err(_))) {
            self.slots.retain(|_, slot| slot.may_be_listed(now));
        }
        let moment = Moment { now, fresh: self.is_fresh(), closed: self.view.is_closed() };
        if !self.open_gate(moment) {
            return;
        }
        let (urgent, rest): (Vec<_>, Vec<_>) = self.slots.values_mut().partition(|slot| slot.is_urgent());
        let begun = urgent.into_iter().chain(rest).filter_map(|slot| self.threads.begin(slot, moment));
        let followed: Vec<Finished> = begun.collect();
        followed.into_iter().for_each(|finished| self.take_finished(finished));
    }

    /// Whether what counts is that of now, and not what was left on disk alone. Who turns a node off means it, whatever has been read.
    pub(super) fn is_fresh(&self) -> bool {
        self.view.is_loaded() || self.off
    }
}

impl Threads {
    /// All of them are free.
    pub(super) fn new(
        backend: Backend,
        remembered: BTreeMap<Cookie, Readings>,
        finished: UnboundedSender<Finished>,
    ) -> Self {
        let (own_cookie, free) = (netns::current_cookie().ok(), Arc::new(Semaphore::new(PARALLEL)));
        Self { backend, own_cookie, remembered: Arc::new(remembered), free, finished }
    }

    /// Whether any of them has nothing to do.
    pub(super) fn are_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// Begins what is to be done in a sandbox, if a thread is free for it. What was done at once is handed back.
    fn begin(&self, slot: &mut Slot, moment: Moment) -> Option<Finished> {
        let permit = self.free.clone().try_acquire_owned().ok();
        if permit.is_none() && !slot.may_follow() {
            return None;
        }
        let job = slot.begin(moment)?;
        let work = self.work_in(slot, moment.now);
        // Members are a few messages: to hand them to a thread would take longer.
        let job = match tokio::task::block_in_place(|| work.follow(job)) {
            Ok(finished) => return Some(finished),
            Err(job) => *job,
        };
        match permit {
            Some(permit) => self.start(work, job, permit),
            // What has to wait begins with what is wanted then.
            None => slot.put_back(job),
        }
        None
    }

    fn work_in(&self, slot: &Slot, now: Instant) -> Work {
        Work {
            id: slot.sandbox.id.clone(),
            location: slot.sandbox.netns.clone(),
            backend: self.backend,
            cookie: slot.cookie,
            forbidden: self.own_cookie,
            listens: slot.hearing.wants_ear(now),
            remembered: self.remembered.clone(),
        }
    }

    /// Lets a thread do a job.
    fn start(&self, work: Work, job: Job, permit: OwnedSemaphorePermit) {
        let (id, finished) = (work.id.clone(), self.finished.clone());
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
}
