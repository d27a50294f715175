//! One sandbox as the engine sees it: what its network namespace is to hold, what it holds, and what went wrong.
//!
//! * [`aim`]: what it is to hold.
//! * [`job`]: work in it.
//! * [`progress`]: how it gets there.

mod aim;
mod job;
mod progress;

use std::time::Duration;

use tokio::time::Instant;

use crate::apply::{Known, Wanted};
use crate::cri::Sandbox;
use crate::lacking::Lacking;
use crate::names::Hearing;
use crate::netns::Cookie;
use crate::readings::Readings;
use crate::retry::Retry;

pub use aim::Door;
use aim::Ruled;
pub use job::{Finished, Job, Moment};

/// A runtime lists a sandbox when all CNI plugins have had their say; after so long something has gone wrong.
const UNLISTED: Duration = Duration::from_secs(30);

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
    retry: Retry,
    problem: Option<String>,
    /// What its rules refer to and nobody knows; what is in force stays meanwhile.
    lacking: Option<Lacking>,
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
    /// A sandbox that the CNI plugin tells of, in a network namespace that was just made; `again` if something of ours
    /// may be in it all the same.
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
            retry: progress::retry(),
            problem: None,
            lacking: None,
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
            (None, None) => self.lacking.is_some(),
        }
    }

    /// Namespace and name of the Pod.
    pub fn pod(&self) -> String {
        format!("{}/{}", self.sandbox.namespace, self.sandbox.name)
    }

    /// Whether it holds what it is to hold, and nothing is left to be done.
    pub fn is_settled(&self) -> bool {
        let holds = self.wanted.as_ref().is_some_and(|wanted| self.known.is(wanted));
        holds && !self.running && !self.known.is_due() && self.lacking.is_none()
    }

    /// Whether nothing of ours is there, and nothing is on its way.
    pub fn is_released(&self) -> bool {
        !self.running && matches!(self.known, Known::Nothing)
    }

    /// Whether rules of ours are in its kernel.
    pub fn has_rules(&self) -> bool {
        self.known.has_rules()
    }

    /// What went wrong, for people.
    pub fn problem(&self) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("{}: failed to {problem}", self.pod()))
    }

    /// What has been missing for too long, for people.
    pub fn stalled(&self, now: Instant) -> Option<String> {
        self.lacking.as_ref()?.stalled(&self.pod(), now)
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
