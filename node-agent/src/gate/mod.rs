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

use ringfence_dataplane::gate::{Exposed, GatePolicy, Ports};
use ringfence_dataplane::{Enforcement, NetnsPolicy};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use crate::apply::{ApplyError, Done};
use crate::machine;
use crate::retry::Retry;
use crate::slot::{Door, Moment, Slot};
use crate::tools::Backend;
use kernel::{Brought, Known};

/// For so long nothing is written in Pods that have rules before the gate is known: what they let in depends on it.
const FIRST: Duration = Duration::from_secs(5);
/// So often it is asked what translates Services while that cannot be told.
const TRIES: usize = 10;
/// Between two of these.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// Others write rules in the node's network namespace, and some of them take all away: so often it is looked at.
const CHECK: Duration = Duration::from_secs(10);
/// What translates Services hardly ever changes, and to find it out is to list all chains: so often it is asked again.
const ASK: Duration = Duration::from_secs(60);
/// Existing flows follow so much later, as in Pods.
const QUIET: Duration = Duration::from_millis(200);
/// After so long they follow even while Pods and rules come and go.
const OVERDUE: Duration = Duration::from_secs(2);
/// Wait after the first failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Pods that the gate stands for: sandboxes, with the addresses that it judges, and in which state.
type Behind = BTreeMap<String, (BTreeSet<IpAddr>, Enforcement)>;

/// See the module.
#[derive(Debug)]
pub struct Gate {
    backend: Backend,
    /// Since when Pods are listed, and whether all of them are: whoever is not would be missing from it.
    listed: Option<(Instant, bool)>,
    /// Since when the policy is that of now.
    fresh_since: Option<Instant>,
    /// Rules of a Pod are not all known yet, and it may hold others.
    unsure: bool,
    wanted: Arc<GatePolicy>,
    wanted_behind: Behind,
    /// For whom it is in force.
    behind: Behind,
    known: Known,
    running: bool,
    /// Whether it was once brought to what is wanted.
    answered: bool,
    /// What was there was left alone, since nothing newer is known.
    left: bool,
    /// When it was last written, and since when something is left to be done.
    written_at: Instant,
    due_since: Option<Instant>,
    /// What is left to be done is not tried before.
    clean_at: Option<Instant>,
    check_at: Instant,
    retry: Retry,
    /// What went wrong the last time, by what was to be done.
    problems: BTreeMap<Kind, String>,
    /// On which ports Pods may let the node in, whether IPVS translates, and when that was found out.
    ports: Ports,
    by_ipvs: bool,
    asked_at: Instant,
    /// Whether it seals; unless its kernel has refused to, it is taken to be able to.
    seals: bool,
    can_seal: bool,
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

/// What kind of work it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Bring,
    CleanUp,
    Check,
}

/// What came of it.
#[derive(Debug)]
pub struct Finished {
    kind: Kind,
    known: Known,
    /// For whom it is in force now, if that was brought about.
    behind: Option<Behind>,
    /// On which ports Pods may let the node in, and whether IPVS translates, if that could be found out.
    ports: Option<(Ports, bool)>,
    problem: Option<String>,
}

impl Gate {
    /// The gate of the node whose network namespace the agent is in.
    pub fn new(backend: Backend) -> Self {
        let (finished, arrivals) = unbounded_channel();
        let now = Instant::now();
        Self {
            backend,
            listed: None,
            fresh_since: None,
            unsure: false,
            wanted: Arc::default(),
            wanted_behind: Behind::new(),
            behind: Behind::new(),
            known: Known::Unread,
            running: false,
            answered: false,
            left: false,
            written_at: now,
            due_since: None,
            clean_at: None,
            check_at: now + CHECK,
            retry: Retry::new(FIRST_WAIT, LONGEST_WAIT),
            problems: BTreeMap::new(),
            ports: Ports::Probes,
            by_ipvs: false,
            asked_at: now,
            seals: false,
            can_seal: true,
            finished,
            arrivals,
        }
    }

    /// Takes in that the Pods that run have been listed, and whether all of them were.
    pub fn pods_are_listed(&mut self, all: bool, now: Instant) {
        let (since, before) = self.listed.unwrap_or((now, false));
        self.listed = Some((since, before || all));
    }

    /// Takes in which Pods there are, and by which rules they are judged; and, if any are, those that are `exposed`.
    pub fn want<'a>(&mut self, slots: impl Iterator<Item = (&'a String, &'a Slot)>, exposed: Option<&[Exposed]>) {
        let mut judged = Vec::new();
        self.unsure = false;
        for (id, slot) in slots {
            self.unsure |= slot.may_hold_other_rules();
            let rules = slot.rules().filter(|policy| policy.state != Enforcement::VisibilityOnly);
            judged.extend(rules.map(|policy| (id.clone(), policy)));
        }
        let wanted = GatePolicy::of(judged.iter().map(|(_, policy)| policy.as_ref()));
        let wanted = match exposed {
            Some(exposed) => wanted.sealing_for(exposed, &self.wanted),
            None => wanted,
        };
        self.wanted_behind = judged.into_iter().map(|(id, policy)| (id, (policy.own.clone(), policy.state))).collect();
        if *self.wanted != wanted {
            self.wanted = Arc::new(wanted);
            self.retry.hurry();
        }
    }

    /// How a Pod is to let its node in: by addresses of families that it is known by, where the gate judges it as strictly as
    /// it is to be.
    pub fn door(&self, id: &str, slot: &Slot, node_addresses: &[IpAddr]) -> Door {
        let judged = |policy: &NetnsPolicy| {
            self.behind.get(id).is_some_and(|(own, state)| *own == policy.own && *state >= policy.state)
        };
        let nodes = match slot.rules().filter(|policy| judged(policy)) {
            Some(policy) => {
                let known = |node: &&IpAddr| policy.own.iter().any(|own| own.is_ipv4() == node.is_ipv4());
                node_addresses.iter().filter(known).copied().collect()
            }
            None => Arc::default(),
        };
        Door::Gate { ports: self.ports, nodes }
    }

    /// Whether Pods may be written to: it is known for whom the gate is in force, or was to be found out for long enough. As
    /// long as the policy is not known to be that of now, Pods that have rules keep them anyway.
    pub fn is_known(&self, now: Instant) -> bool {
        self.answered || self.fresh_since.is_none_or(|since| now >= since + FIRST)
    }

    /// Whether Pods of this node can look for the seals of other nodes.
    pub fn can_seal(&self) -> bool {
        self.can_seal
    }

    /// Whether it judges and seals what goes on to exposed Pods of other nodes. Not where something that it does not see translates, and
    /// not with IPVS, of which conntrack does not say that it has translated.
    pub fn seals(&self) -> bool {
        self.seals && self.ports == Ports::Judged && !self.by_ipvs
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
        self.problems.values().next().map(|problem| format!("gate: failed to {problem}"))
    }

    /// Begins what is to be done, on a thread; what came of it arrives at [`arrived`].
    pub fn begin(&mut self, moment: Moment) {
        if moment.fresh {
            self.fresh_since.get_or_insert(moment.now);
        }
        let Some(job) = self.job(moment) else { return };
        self.running = true;
        let (backend, finished, kind) = (self.backend, self.finished.clone(), job.kind());
        let asks = self.ports == Ports::Probes || moment.now >= self.asked_at + ASK;
        tokio::spawn(async move {
            let done = tokio::task::spawn_blocking(move || job.run(backend, asks)).await;
            let lost = |panic: tokio::task::JoinError| Finished::failed(kind, panic.to_string(), Known::Unread);
            // Whoever is not there any more has no use for it.
            drop(finished.send(done.unwrap_or_else(lost)));
        });
    }

    fn job(&mut self, Moment { now, fresh, .. }: Moment) -> Option<Job> {
        let late = |since: Option<Instant>| since.is_some_and(|since| now >= since + FIRST);
        let listed = self.listed.is_some_and(|(since, all)| all || late(Some(since)));
        if self.running || !listed || self.retry.at().is_some_and(|at| at > now) {
            return None;
        }
        let sure = !self.unsure || self.answered || late(self.fresh_since);
        let known = |gate: &mut Self| std::mem::take(&mut gate.known);
        if !self.is_right() && sure && (fresh || !self.left) {
            let (wanted, behind) = (self.wanted.clone(), self.wanted_behind.clone());
            let only_if_empty = !fresh && matches!(self.known, Known::Unread);
            return Some(Job::Bring { wanted, behind, known: known(self), only_if_empty });
        }
        if now >= self.check_at {
            return Some(Job::Check(known(self)));
        }
        let clean = self.clean_due().is_some_and(|at| now >= at);
        clean.then(|| Job::CleanUp(known(self)))
    }

    /// When what is left to be done is to be done.
    fn clean_due(&self) -> Option<Instant> {
        let quiet = self.written_at + QUIET;
        let due = self.known.is_due().then(|| self.due_since.map_or(quiet, |since| quiet.min(since + OVERDUE)));
        due.map(|due| self.clean_at.map_or(due, |at| at.max(due)))
    }

    /// Takes in what came of work.
    pub fn finish(&mut self, finished: Finished, now: Instant) {
        let Finished { kind, known, behind, ports, problem } = finished;
        self.running = false;
        self.known = known;
        self.can_seal &= !self.known.cannot_seal();
        self.seals = self.known.seals().unwrap_or(self.seals);
        if let Some((ports, by_ipvs)) = ports {
            (self.ports, self.by_ipvs) = (ports, by_ipvs);
            self.asked_at = now;
        }
        self.check_at = now + CHECK;
        if kind == Kind::Bring {
            self.left = behind.is_none() && problem.is_none();
        }
        if let Some(behind) = behind {
            self.answered = true;
            self.written_at = now;
            // Where it could not be brought about, it stands for whom it did before: at worst it lets less pass to them.
            self.behind = behind;
        }
        let due = self.known.is_due();
        self.due_since = due.then(|| self.due_since.unwrap_or(now));
        match kind {
            // What is in the way of cleaning up is not in the way of anything else.
            Kind::CleanUp => self.clean_at = problem.is_some().then(|| now + FIRST_WAIT),
            Kind::Check => {}
            Kind::Bring => {
                match problem {
                    Some(_) => self.retry.failed(now),
                    None => self.retry.succeeded(),
                }
                // Nobody is to trust in what nobody knows.
                self.seals &= self.retry.failures() < 2;
            }
        }
        match problem {
            Some(problem) => {
                tracing::warn!("gate: failed to {problem}");
                self.problems.insert(kind, problem);
            }
            None => drop(self.problems.remove(&kind)),
        }
    }

    /// When it wants to be looked at again without news.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let late = [self.fresh_since, self.listed.map(|(since, _)| since)].into_iter().flatten();
        let late = late.map(|since| since + FIRST).filter(|_| !self.answered);
        // While work is under way, its end is the next news.
        let works = [self.clean_due(), self.retry.at(), Some(self.check_at)].into_iter().flatten();
        late.chain(works.filter(|_| !self.running)).filter(|at| *at > now).min()
    }
}

/// Waits for what came of work at a gate; for ever where there is none.
pub async fn arrived(gate: &mut Option<Gate>) -> Option<Finished> {
    match gate {
        Some(gate) => gate.arrivals.recv().await,
        None => std::future::pending().await,
    }
}

/// Asks until there is an answer, a few times.
fn tried<T>(ask: impl Fn() -> Option<T>) -> Option<T> {
    (0..TRIES).find_map(|number| {
        std::thread::sleep(if number > 0 { BETWEEN_TRIES } else { Duration::ZERO });
        ask()
    })
}

impl Finished {
    fn failed(kind: Kind, problem: String, known: Known) -> Self {
        Self { kind, known, behind: None, ports: None, problem: Some(problem) }
    }
}

impl Job {
    fn kind(&self) -> Kind {
        match self {
            Self::Bring { .. } => Kind::Bring,
            Self::CleanUp(_) => Kind::CleanUp,
            Self::Check(_) => Kind::Check,
        }
    }

    /// `asks`: whether to find out what translates Services.
    fn run(self, backend: Backend, asks: bool) -> Finished {
        let kind = self.kind();
        let failed = |error: ApplyError| Finished::failed(kind, error.to_string(), Known::Unread);
        let came = match self {
            Self::Bring { wanted, behind, known, only_if_empty } => {
                kernel::bring(backend, &wanted, known, only_if_empty).map_or_else(failed, |brought| {
                    let Brought { known, done, problem } = brought;
                    tracing::debug!(pods = behind.len(), ?done, "the gate was brought to what is wanted");
                    let behind = (done != Done::Left).then_some(behind);
                    Finished { kind, known, behind, ports: None, problem }
                })
            }
            Self::CleanUp(mut known) => {
                let problem = kernel::clean_up(&mut known).err().map(|error| error.to_string());
                Finished { kind, known, behind: None, ports: None, problem }
            }
            Self::Check(known) => kernel::check(backend, known).map_or_else(failed, |(known, put_back)| {
                let gone = "keep its rules: somebody else has taken them away; they were put back";
                let problem = put_back.then(|| gone.to_owned());
                Finished { kind, known, behind: None, ports: None, problem }
            }),
        };
        // A doubt changes nothing. Whoever writes rules just now has soon done so.
        let ports = asks.then(|| tried(Backend::sees_kube_proxy)).flatten();
        let ports = ports.map(|sees| {
            let ports = if sees { Ports::Judged } else { Ports::Probes };
            (ports, machine::translates_by_ipvs())
        });
        Finished { ports, ..came }
    }
}
