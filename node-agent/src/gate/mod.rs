//! The node's gate (see [`ringfence_dataplane::gate`]): what it is to be, what it is, and for which Pods it is in force.
//!
//! * [`kernel`]: it is brought to what is wanted.
//! * [`flows`]: existing flows follow.

pub mod flows;
pub mod kernel;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfence_dataplane::gate::{GatePolicy, Ports};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use crate::slot::{Door, Moment, Slot};
use crate::tools::Backend;
use kernel::{Done, Known};

/// For so long after the agent's start nothing is written in Pods before the gate is known: what they let in depends on it.
const FIRST: Duration = Duration::from_secs(5);
/// Others write rules in the node's network namespace, and some of them take all away: so often it is looked at.
const CHECK: Duration = Duration::from_secs(10);
/// Existing flows follow so much later, as in Pods.
const QUIET: Duration = Duration::from_millis(200);
/// After so long a failure is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Pods that the gate stands for: sandboxes, with the addresses that it judges.
type Behind = BTreeMap<String, BTreeSet<IpAddr>>;

/// See the module.
#[derive(Debug)]
pub struct Gate {
    backend: Backend,
    begun: Instant,
    /// Whether the Pods that run were ever listed: whoever is not seen yet would be missing from it.
    pods_known: bool,
    wanted: Arc<GatePolicy>,
    wanted_behind: Behind,
    /// For whom it is in force.
    behind: Behind,
    known: Known,
    running: bool,
    /// Whether it is known what is in force.
    answered: bool,
    written_at: Instant,
    check_at: Instant,
    retry_at: Option<Instant>,
    problem: Option<String>,
    /// On which ports Pods may let the node in.
    ports: Ports,
    finished: UnboundedSender<Finished>,
    arrivals: UnboundedReceiver<Finished>,
}

/// Work at the gate, in the node's network namespace.
#[derive(Debug)]
enum Job {
    Bring { wanted: Arc<GatePolicy>, behind: Behind, known: Known, only_if_empty: bool },
    CleanUp(Known),
    Check(Known),
}

/// What came of it.
#[derive(Debug)]
pub struct Finished {
    known: Known,
    /// For whom it is in force now, if that was brought about.
    behind: Option<Behind>,
    ports: Ports,
    problem: Option<String>,
}

impl Gate {
    /// The gate of the node whose network namespace the agent is in.
    pub fn new(backend: Backend) -> Self {
        let (finished, arrivals) = unbounded_channel();
        let now = Instant::now();
        Self {
            backend,
            begun: now,
            pods_known: false,
            wanted: Arc::default(),
            wanted_behind: Behind::new(),
            behind: Behind::new(),
            known: Known::Unread,
            running: false,
            answered: false,
            written_at: now,
            check_at: now + CHECK,
            retry_at: None,
            problem: None,
            ports: Ports::Probes,
            finished,
            arrivals,
        }
    }

    /// Takes in that the Pods that run have been listed.
    pub fn pods_are_known(&mut self) {
        self.pods_known = true;
    }

    /// Takes in which Pods there are, and by which rules they are judged.
    pub fn want<'a>(&mut self, slots: impl Iterator<Item = (&'a String, &'a Slot)>) {
        let judged: Vec<_> = slots.filter_map(|(id, slot)| Some((id, slot.rules()?))).collect();
        let wanted = GatePolicy::of(judged.iter().map(|(_, policy)| policy.as_ref()));
        self.wanted_behind = judged.iter().map(|(id, policy)| ((*id).clone(), policy.own.clone())).collect();
        if *self.wanted != wanted {
            self.wanted = Arc::new(wanted);
            self.retry_at = None;
        }
    }

    /// How a Pod is to let its node in.
    pub fn door(&self, id: &str, slot: &Slot, node_addresses: &[IpAddr]) -> Door {
        let in_force = slot.rules().is_some_and(|policy| self.behind.get(id) == Some(&policy.own));
        Door::Gate { ports: self.ports, nodes: if in_force { node_addresses.into() } else { Arc::default() } }
    }

    /// Whether it is known for whom it is in force, or was to be found out for long enough.
    pub fn is_known(&self, now: Instant) -> bool {
        self.answered || now >= self.begun + FIRST
    }

    /// Whether it is as it is to be, and nothing is left to be done.
    pub fn is_settled(&self) -> bool {
        self.answered && !self.running && self.is_right() && !self.known.is_due()
    }

    fn is_right(&self) -> bool {
        self.known.is(&self.wanted) && self.behind == self.wanted_behind
    }

    /// What went wrong, for people.
    pub fn problem(&self) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("gate: failed to {problem}"))
    }

    /// Begins what is to be done, on a thread; what came of it arrives at [`Gate::arrived`].
    pub fn begin(&mut self, moment: Moment) {
        let Some(job) = self.job(moment) else { return };
        self.running = true;
        let (backend, finished) = (self.backend, self.finished.clone());
        tokio::task::spawn_blocking(move || {
            // Whoever is not there any more has no use for it.
            drop(finished.send(job.run(backend)));
        });
    }

    fn job(&mut self, Moment { now, fresh, .. }: Moment) -> Option<Job> {
        if self.running || !self.pods_known || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let known = |gate: &mut Self| std::mem::take(&mut gate.known);
        if !self.is_right() && (fresh || !self.answered || matches!(self.known, Known::Held(_))) {
            let (wanted, behind) = (self.wanted.clone(), self.wanted_behind.clone());
            return Some(Job::Bring { wanted, behind, known: known(self), only_if_empty: !fresh });
        }
        if self.known.is_due() && now >= self.written_at + QUIET {
            return Some(Job::CleanUp(known(self)));
        }
        (now >= self.check_at).then(|| Job::Check(known(self)))
    }

    /// Takes in what came of work.
    pub fn finish(&mut self, finished: Finished, now: Instant) {
        let Finished { known, behind, ports, problem } = finished;
        self.running = false;
        self.answered = true;
        self.known = known;
        self.ports = ports;
        if behind.is_some() {
            self.written_at = now;
        }
        // A restore is all or nothing: what failed has left in force what was, for whom it was.
        self.behind = behind.unwrap_or(std::mem::take(&mut self.behind));
        self.retry_at = problem.is_some().then(|| now + RETRY);
        self.check_at = now + CHECK;
        if let Some(problem) = &problem {
            tracing::warn!("gate: failed to {problem}");
        }
        self.problem = problem;
    }

    /// When it wants to be looked at again without news.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.running {
            return None;
        }
        let clean = self.known.is_due().then_some(self.written_at + QUIET);
        let first = (!self.answered).then_some(self.begun + FIRST);
        [clean, first, self.retry_at, Some(self.check_at)].into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// Waits for what came of work at a gate; for ever where there is none.
pub async fn arrived(gate: &mut Option<Gate>) -> Option<Finished> {
    match gate {
        Some(gate) => gate.arrivals.recv().await,
        None => std::future::pending().await,
    }
}

impl Job {
    fn run(self, backend: Backend) -> Finished {
        let ports = if Backend::sees_kube_proxy() { Ports::Judged } else { Ports::Probes };
        let failed = |error: String, known| Finished { known, behind: None, ports, problem: Some(error) };
        match self {
            Self::Bring { wanted, behind, known, only_if_empty } => {
                match kernel::bring(backend, &wanted, known, only_if_empty) {
                    Ok((known, Done::Left)) => Finished { known, behind: None, ports, problem: None },
                    Ok((known, done)) => {
                        tracing::debug!(pods = behind.len(), ?done, "the gate is in force");
                        Finished { known, behind: Some(behind), ports, problem: None }
                    }
                    Err(error) => failed(error.to_string(), Known::Unread),
                }
            }
            Self::CleanUp(mut known) => {
                let problem = kernel::clean_up(&mut known).err().map(|error| error.to_string());
                Finished { known, behind: None, ports, problem }
            }
            Self::Check(known) => match kernel::check(backend, known) {
                Ok((known, false)) => Finished { known, behind: None, ports, problem: None },
                Ok((known, true)) => {
                    failed("keep its rules: somebody else has taken them away; they were put back".to_owned(), known)
                }
                Err(error) => failed(error.to_string(), Known::Unread),
            },
        }
    }
}
