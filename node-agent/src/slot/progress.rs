//! How the network namespace of a sandbox gets to what it is to hold: the next work, what came of it, and when to look
//! again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Finished, Job, Moment, Slot};
use crate::apply::{Done, Known, Outcome, Terms};
use crate::lacking::Lacking;
use crate::retry::Retry;

/// Wait after the first failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Existing flows follow the rules so much later: a Pod that moves from one label to another, or a rule from one
/// RuleSet to another, may be gone for a moment, and must not lose its connections by that.
pub(super) const QUIET: Duration = Duration::from_millis(200);
/// After so long they follow even a publication that nobody has closed.
const OVERDUE: Duration = Duration::from_secs(2);
/// After so long they follow even while members come and go all the time.
const LATEST: Duration = Duration::from_secs(5);

/// Of a sandbox where nothing has failed yet.
pub(super) fn retry() -> Retry {
    Retry::new(FIRST_WAIT, LONGEST_WAIT)
}

impl Slot {
    /// The work to do now, if any.
    pub fn begin(&mut self, moment: Moment) -> Option<Job> {
        let (wanted, only_if_empty) = self.target(moment.fresh)?;
        if self.running || (self.left && only_if_empty) {
            return None;
        }
        let again = self.retry.at().filter(|at| *at > moment.now);
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
        if again.is_none() {
            self.retry.hurry();
        }
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
        // What goes wrong while cleaning up is over only when that has succeeded, and what could not be put in force
        // when it is.
        if !self.known.is_due() && self.retry.at().is_none() {
            self.retry.succeeded();
            self.problem = None;
        }
        match (done, problem) {
            (Done::Closed, Some(problem)) => self.fail(problem, now),
            (Done::CleanedUp, Some(problem)) if self.retry.at().is_none() => self.fail(problem, now),
            // What closes the Pod is told before what keeps that from being cleaned up.
            (Done::CleanedUp, Some(problem)) => drop(self.problem.get_or_insert(problem)),
            (_, Some(problem)) => self.problem = Some(problem),
            (_, None) => {}
        }
        match done {
            Done::Members | Done::Rules | Done::Closed => self.written_at = now,
            // Some sets stay for a while, or something failed: not before anything else is tried again.
            Done::CleanedUp if self.known.is_due() => {
                self.written_at = self.retry.at().unwrap_or(now);
                self.retry.pause(now);
            }
            _ => {}
        }
    }

    /// Tries again, later each time.
    fn fail(&mut self, problem: String, now: Instant) {
        self.retry.failed(now);
        self.problem = Some(problem);
    }

    /// When it wants to be looked at again without news, after it was at `now`.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let stalls = self.lacking.as_ref().map(Lacking::deadline);
        let cleans = [QUIET, OVERDUE].map(|wait| self.known.is_due().then_some(self.written_at + wait));
        let [quiet, overdue] = cleans;
        let latest = self.due_since.map(|since| since + LATEST);
        let others = [self.retry.at(), stalls, quiet, overdue, latest, self.admitted_until, self.hearing.deadline()];
        others.into_iter().flatten().filter(|at| *at > now).min()
    }
}
