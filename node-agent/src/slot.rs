//! One sandbox as the engine sees it: what its network namespace is to hold, what it holds, and what went wrong.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringfence_dataplane::gate::{Ports, admit};
use ringfence_dataplane::{Missing, NetnsPolicy, Resolution};
use tokio::time::Instant;

use crate::apply::{Done, Known, Outcome, Terms, Wanted};
use crate::cri::Sandbox;
use crate::names::{Ear, EarError, Hearing};
use crate::netns::Cookie;
use crate::readings::Readings;

/// A rule whose peers are not all known may wait this long for them before it is reported.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Wait after the first failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A runtime lists a sandbox when all CNI plugins have had their say; after so long something has gone wrong.
const UNLISTED: Duration = Duration::from_secs(30);
/// Existing flows follow the rules so much later: a Pod that moves from one label to another, or a rule from one RuleSet
/// to another, may be gone for a moment, and must not lose its connections by that.
const QUIET: Duration = Duration::from_millis(200);
/// After so long they follow even a publication that nobody has closed.
const OVERDUE: Duration = Duration::from_secs(2);
/// After so long they follow even while members come and go all the time.
const LATEST: Duration = Duration::from_secs(5);

/// Work in a network namespace. Whoever takes it must hand back [`Finished`].
#[derive(Debug)]
pub enum Job {
    /// Bring it to what is wanted.
    Apply {
        /// What is wanted.
        wanted: Wanted,
        /// What it is known to hold.
        known: Known,
        /// How.
        terms: Terms,
    },
    /// Do what was left for later.
    CleanUp(Known),
}

/// What a job may go by.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time.
    pub now: Instant,
    /// Whether the policy is known to be that of now: if not, rules that are already in the kernel are left alone.
    pub fresh: bool,
    /// Whether everything of the newest publication is here.
    pub closed: bool,
}

/// What came of work in a network namespace.
#[derive(Debug)]
pub struct Finished {
    /// The sandbox.
    pub id: String,
    /// The namespace, if it could be entered.
    pub cookie: Option<Cookie>,
    /// An ear that was opened in it, or why not.
    pub ear: Option<Result<Ear, EarError>>,
    /// What it holds now and what was done, or why that failed.
    pub result: Result<Outcome, String>,
    /// How long it took.
    pub took: Duration,
}

/// How a Pod lets its node in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// Its node has no gate: as its policy says.
    NoGate,
    /// From these addresses of the node, for which the gate is in force.
    Gate {
        /// On which ports.
        ports: Ports,
        /// The addresses; none as long as it is not in force.
        nodes: Arc<[IpAddr]>,
    },
}

impl Door {
    /// By which nothing is let in: of a Pod of which its node's gate, or that there is none, has not been told.
    pub fn closed() -> Self {
        Self::Gate { ports: Ports::Probes, nodes: Arc::default() }
    }
}

/// What the policy of a Pod says.
#[derive(Debug, Default)]
struct Ruled {
    wanted: Option<Arc<NetnsPolicy>>,
    stopgap: Option<Arc<NetnsPolicy>>,
}

/// A sandbox with a network namespace of its own.
#[derive(Debug)]
pub struct Slot {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its namespace, once it has been entered.
    pub cookie: Option<Cookie>,
    /// Nobody lists it any more; it stays until its rules are gone.
    pub departed: bool,
    /// What its rules were when they were last read back.
    pub readings: Readings,
    /// What it hears of names.
    pub hearing: Hearing,
    wanted: Option<Wanted>,
    /// What its policy says, of which `wanted` and `stopgap` are what the Pod itself enforces.
    ruled: Ruled,
    /// How it lets its node in.
    door: Door,
    /// When rules were last written.
    written_at: Instant,
    /// Since when something is left to be cleaned up.
    due_since: Option<Instant>,
    known: Known,
    running: bool,
    /// What is wanted takes more than members: that was found out, and it waits for a thread.
    needs_thread: bool,
    failures: u32,
    retry_at: Option<Instant>,
    problem: Option<String>,
    incomplete: Option<(Instant, Vec<Missing>)>,
    /// What is wanted as long as nothing better is known.
    stopgap: Option<Wanted>,
    may_close: bool,
    left: bool,
    /// Something simpler and stricter than what is wanted is in force.
    closed: bool,
    /// Enforcement was suspended when it was last looked at.
    suspended: bool,
    /// The CNI plugin has told of it, and the runtime does not list it yet: until when that may be.
    admitted_until: Option<Instant>,
}

impl Slot {
    /// A sandbox that the CNI plugin tells of, in a network namespace that was just made; `again` if something of ours may
    /// be in it all the same.
    pub fn admitted(sandbox: Sandbox, again: bool, now: Instant) -> Self {
        let known = if again { Known::Unread } else { Known::Nothing };
        Self { known, admitted_until: Some(now + UNLISTED), ..Self::new(sandbox) }
    }

    /// A sandbox that was just found.
    pub fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            cookie: None,
            departed: false,
            readings: Readings::default(),
            hearing: Hearing::default(),
            wanted: None,
            ruled: Ruled::default(),
            door: Door::closed(),
            written_at: Instant::now(),
            due_since: None,
            known: Known::Unread,
            running: false,
            needs_thread: false,
            failures: 0,
            retry_at: None,
            problem: None,
            incomplete: None,
            stopgap: None,
            may_close: false,
            left: false,
            closed: false,
            suspended: false,
            admitted_until: None,
        }
    }

    /// The runtime lists it, and knows more of it than the CNI plugin did.
    pub fn listed(&mut self, sandbox: Sandbox) {
        self.departed = false;
        if self.admitted_until.take().is_some() {
            self.sandbox = sandbox;
        }
    }

    /// Whether the runtime is not expected to list it yet.
    pub fn is_admitted(&self) -> bool {
        self.admitted_until.is_some()
    }

    /// Whether it is still to be expected that the runtime lists it.
    pub fn may_be_listed(&self, now: Instant) -> bool {
        self.admitted_until.is_none_or(|until| now < until)
    }

    /// Whether nothing passes in it that is not to pass: it holds what is wanted, or something stricter.
    pub fn is_protected(&self) -> bool {
        match (&self.wanted, &self.stopgap) {
            (Some(wanted), _) => self.known.is(wanted) || self.closed,
            (None, Some(stopgap)) => self.known.is(stopgap),
            // What is missing blocks nothing, or the Pod must not be closed.
            (None, None) => self.incomplete.is_some(),
        }
    }

    /// Namespace and name of the Pod.
    pub fn pod(&self) -> String {
        format!("{}/{}", self.sandbox.namespace, self.sandbox.name)
    }

    /// Takes in what the Pod is to have in force. While that is incomplete, what is in force stays; where nothing is, as
    /// in a Pod that has just begun, `may_close` lets less pass until the rest is known, or the kernel takes it.
    pub fn resolved(&mut self, resolution: Resolution, may_close: bool, now: Instant) {
        self.may_close = may_close;
        let wanted = match resolution {
            Resolution::Unmanaged | Resolution::Idle => None,
            Resolution::Enforce(policy) => Some(Arc::new(policy)),
            Resolution::Incomplete { missing, closed } => {
                // That nothing is in force was then no decision about its policy, and nothing to stay with.
                if (self.suspended || self.is_admitted()) && self.wanted == Some(Wanted::Nothing) {
                    self.wanted = None;
                }
                let since = self.incomplete.as_ref().map_or(now, |(since, _)| *since);
                self.incomplete = Some((since, missing));
                self.ruled.stopgap = closed.filter(|_| may_close).map(Arc::new);
                self.stopgap = self.ruled.stopgap.as_deref().map(|policy| self.behind_door(policy));
                return;
            }
        };
        self.incomplete = None;
        (self.stopgap, self.ruled.stopgap) = (None, None);
        self.suspended = false;
        let enforced = wanted.as_deref().map_or(Wanted::Nothing, |policy| self.behind_door(policy));
        self.ruled.wanted = wanted;
        self.want(enforced);
    }

    fn want(&mut self, wanted: Wanted) {
        if self.wanted.as_ref() != Some(&wanted) {
            self.wanted = Some(wanted);
            self.needs_thread = false;
            // Something new deserves a new try at once.
            self.retry_at = None;
        }
    }

    /// Takes in how the Pod is to let its node in.
    pub fn let_in(&mut self, door: Door) {
        if self.door == door {
            return;
        }
        self.door = door;
        if let Some(policy) = self.ruled.wanted.clone() {
            self.want(self.behind_door(&policy));
        }
        self.stopgap = self.ruled.stopgap.as_deref().map(|policy| self.behind_door(policy));
    }

    /// A policy as the Pod itself enforces it.
    fn behind_door(&self, policy: &NetnsPolicy) -> Wanted {
        Wanted::Policy(Arc::new(match &self.door {
            Door::NoGate => policy.clone(),
            Door::Gate { ports, nodes } => admit(policy, *ports, nodes),
        }))
    }

    /// Whether everything that its rules refer to is known.
    pub fn is_complete(&self) -> bool {
        self.incomplete.is_none()
    }

    /// Whether not all of its rules are known, and others may be in its kernel.
    pub fn may_hold_other_rules(&self) -> bool {
        self.wanted.is_none() && self.incomplete.is_some() && matches!(self.known, Known::Unread) && !self.is_admitted()
    }

    /// The policy by which the gate judges connections towards it; nothing where it enforces none.
    pub fn rules(&self) -> Option<&Arc<NetnsPolicy>> {
        match &self.wanted {
            Some(Wanted::Nothing) => None,
            Some(Wanted::Policy(_)) => self.ruled.wanted.as_ref(),
            None => self.ruled.stopgap.as_ref(),
        }
    }

    /// Nothing is to be in force, whatever its policy says.
    pub fn suspend(&mut self, now: Instant) {
        self.hearing.rest();
        self.resolved(Resolution::Unmanaged, false, now);
        self.suspended = true;
    }

    /// What to bring about, and whether only where nothing of ours is yet.
    fn target(&self, fresh: bool) -> Option<(&Wanted, bool)> {
        match (&self.wanted, &self.stopgap) {
            (Some(wanted), _) => Some((wanted, !fresh)),
            (None, stopgap) => stopgap.as_ref().map(|wanted| (wanted, true)),
        }
    }

    /// The work to do now, if any.
    pub fn begin(&mut self, moment: Moment) -> Option<Job> {
        let (wanted, only_if_empty) = self.target(moment.fresh)?;
        if self.running || (self.left && only_if_empty) {
            return None;
        }
        let again = self.retry_at.filter(|at| *at > moment.now);
        let holds = self.known.is(wanted);
        let job = match (again, holds) {
            (None, false) => {
                let readings = self.readings.clone();
                let terms = Terms { only_if_empty, may_close: self.may_close, readings, ..Terms::default() };
                Job::Apply { wanted: wanted.clone(), known: std::mem::take(&mut self.known), terms }
            }
            // What closes a Pod until its policy is tried again is cleaned up meanwhile.
            (None, true) | (Some(_), false) if self.may_clean_up(moment) => {
                Job::CleanUp(std::mem::take(&mut self.known))
            }
            // Nothing else is to be done that an ear could be opened with.
            (None, true) if self.hearing.wants_ear(moment.now) && !self.known.is_due() => {
                Job::CleanUp(std::mem::take(&mut self.known))
            }
            _ => return None,
        };
        self.running = true;
        self.needs_thread = false;
        self.left = false;
        self.retry_at = again;
        Some(job)
    }

    /// Takes back a job that nothing was done of, since no thread is free for it.
    pub fn put_back(&mut self, job: Job) {
        self.known = match job {
            Job::Apply { known, .. } | Job::CleanUp(known) => known,
        };
        self.running = false;
        self.needs_thread = true;
    }

    /// Whether a job that begins now may be one of members alone, for which nothing has to be free.
    pub fn may_follow(&self) -> bool {
        self.is_urgent() && self.known.has_rules() && !self.needs_thread
    }

    /// Whether rules have to be written.
    pub fn is_urgent(&self) -> bool {
        !self.running && self.target(true).is_some_and(|(wanted, _)| !self.known.is(wanted))
    }

    fn may_clean_up(&self, Moment { now, closed, .. }: Moment) -> bool {
        let overdue = self.due_since.is_some_and(|since| now >= since + LATEST);
        self.known.is_due() && (overdue || now >= self.written_at + if closed { QUIET } else { OVERDUE })
    }

    /// Takes in what came of the work.
    pub fn finish(&mut self, finished: Finished, now: Instant) {
        self.running = false;
        self.cookie = finished.cookie.or(self.cookie);
        match finished.result {
            Ok(outcome) => self.succeed(outcome, now),
            Err(problem) => {
                self.known = Known::Unread;
                self.fail(problem, now);
            }
        }
    }

    fn succeed(&mut self, Outcome { known, done, problem }: Outcome, now: Instant) {
        if let Some(readings) = known.readings() {
            self.readings = readings;
        }
        self.known = known;
        self.due_since = self.known.is_due().then(|| match done {
            // What could not be done is not tried at once.
            Done::CleanedUp => now,
            _ => self.due_since.unwrap_or(now),
        });
        self.left = done == Done::Left;
        self.closed = match done {
            Done::Closed => true,
            Done::CleanedUp => self.closed,
            _ => false,
        };
        // What goes wrong while cleaning up is over only when that has succeeded, and what could not be put in force when
        // it is.
        if !self.known.is_due() && self.retry_at.is_none() {
            self.failures = 0;
            self.problem = None;
        }
        match (done, problem) {
            (Done::Closed, Some(problem)) => self.fail(problem, now),
            (Done::CleanedUp, Some(problem)) if self.retry_at.is_none() => self.fail(problem, now),
            // What closes the Pod is told before what keeps that from being cleaned up.
            (Done::CleanedUp, Some(problem)) => drop(self.problem.get_or_insert(problem)),
            (_, Some(problem)) => self.problem = Some(problem),
            (_, None) => {}
        }
        match done {
            Done::Members | Done::Rules | Done::Closed => self.written_at = now,
            // Some sets stay for a while, or something failed: not before anything else is tried again.
            Done::CleanedUp if self.known.is_due() => {
                self.written_at = self.retry_at.unwrap_or(now);
                self.retry_at.get_or_insert(now + FIRST_WAIT);
            }
            _ => {}
        }
    }

    /// Tries again, later each time.
    fn fail(&mut self, problem: String, now: Instant) {
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(10)).min(LONGEST_WAIT);
        self.failures += 1;
        self.retry_at = Some(now + wait);
        self.problem = Some(problem);
    }

    /// Whether it holds what it is to hold, and nothing is left to be done.
    pub fn is_settled(&self) -> bool {
        let holds = self.wanted.as_ref().is_some_and(|wanted| self.known.is(wanted));
        holds && !self.running && !self.known.is_due() && self.incomplete.is_none()
    }

    /// Whether nothing of ours is there, and nothing is on its way.
    pub fn is_released(&self) -> bool {
        !self.running && matches!(self.known, Known::Nothing)
    }

    /// Whether rules of ours are in its kernel.
    pub fn has_rules(&self) -> bool {
        self.known.has_rules()
    }

    /// When it wants to be looked at again without news, after it was at `now`.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let stalls = self.incomplete.as_ref().map(|(since, _)| *since + PATIENCE);
        let cleans = [QUIET, OVERDUE].map(|wait| self.known.is_due().then_some(self.written_at + wait));
        let [quiet, overdue] = cleans;
        let latest = self.due_since.map(|since| since + LATEST);
        let others = [self.retry_at, stalls, quiet, overdue, latest, self.admitted_until, self.hearing.deadline()];
        others.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// What went wrong, for people.
    pub fn problem(&self) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("{}: failed to {problem}", self.pod()))
    }

    /// What has been missing for too long, for people.
    pub fn stalled(&self, now: Instant) -> Option<String> {
        let (since, missing) = self.incomplete.as_ref()?;
        let names: Vec<String> = missing.iter().take(3).map(ToString::to_string).collect();
        (now >= *since + PATIENCE).then(|| format!("{}: waits for {}", self.pod(), names.join(", ")))
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
