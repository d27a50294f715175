//! One sandbox as the engine sees it: what its network namespace is to hold, what it holds, and what went wrong.

use std::time::Duration;

use ringfence_dataplane::{Missing, Resolution};
use tokio::time::Instant;

use crate::apply::{Done, Known, Outcome, Wanted};
use crate::cri::Sandbox;
use crate::netns::Cookie;

/// A rule whose peers are not all known may wait this long for them before it is reported.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Wait after the first failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What came of work in a network namespace.
#[derive(Debug)]
pub struct Finished {
    /// The sandbox.
    pub id: String,
    /// The namespace, if it could be entered.
    pub cookie: Option<Cookie>,
    /// What it holds now and what was done, or why that failed.
    pub result: Result<Outcome, String>,
    /// How long it took.
    pub took: Duration,
}

/// A sandbox with a network namespace of its own.
#[derive(Debug)]
pub struct Slot {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its namespace, once it has been entered.
    pub cookie: Option<Cookie>,
    wanted: Option<Wanted>,
    known: Known,
    running: bool,
    failures: u32,
    retry_at: Option<Instant>,
    problem: Option<String>,
    incomplete: Option<(Instant, Vec<Missing>)>,
    left: bool,
}

impl Slot {
    /// A sandbox that was just found.
    pub fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            cookie: None,
            wanted: None,
            known: Known::Unread,
            running: false,
            failures: 0,
            retry_at: None,
            problem: None,
            incomplete: None,
            left: false,
        }
    }

    /// Namespace and name of the Pod.
    pub fn pod(&self) -> String {
        format!("{}/{}", self.sandbox.namespace, self.sandbox.name)
    }

    /// Takes in what the Pod is to have in force. While that is incomplete, what is in force stays.
    pub fn resolved(&mut self, resolution: Resolution, now: Instant) {
        let wanted = match resolution {
            Resolution::Unmanaged | Resolution::Idle => Wanted::Nothing,
            Resolution::Enforce(policy) => Wanted::Policy(Box::new(policy)),
            Resolution::Incomplete(missing) => {
                let since = self.incomplete.as_ref().map_or(now, |(since, _)| *since);
                self.incomplete = Some((since, missing));
                return;
            }
        };
        self.incomplete = None;
        if self.wanted.as_ref() != Some(&wanted) {
            self.wanted = Some(wanted);
            // Something new deserves a new try at once.
            self.retry_at = None;
        }
    }

    /// The work to do now, if any; the caller must hand back [`Finished`]. `fresh` says whether the policy is known to
    /// be that of now: if not, rules that are already in the kernel are left alone.
    pub fn begin(&mut self, now: Instant, fresh: bool) -> Option<(Wanted, Known)> {
        let wanted = self.wanted.clone()?;
        let waits = self.retry_at.is_some_and(|at| at > now);
        if self.running || waits || self.known.is(&wanted) || (self.left && !fresh) {
            return None;
        }
        self.running = true;
        self.left = false;
        Some((wanted, std::mem::take(&mut self.known)))
    }

    /// Takes in what came of the work.
    pub fn finish(&mut self, finished: Finished, now: Instant) {
        self.running = false;
        self.cookie = finished.cookie.or(self.cookie);
        match finished.result {
            Ok(Outcome { known, done, remark }) => {
                self.known = known;
                self.left = done == Done::Left;
                self.failures = 0;
                self.retry_at = None;
                self.problem = remark;
            }
            Err(problem) => {
                self.known = Known::Unread;
                let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(10)).min(LONGEST_WAIT);
                self.failures += 1;
                self.retry_at = Some(now + wait);
                self.problem = Some(problem);
            }
        }
    }

    /// Whether it holds what it is to hold.
    pub fn is_settled(&self) -> bool {
        !self.running && self.incomplete.is_none() && self.wanted.as_ref().is_some_and(|w| self.known.is(w))
    }

    /// Whether rules of ours are in its kernel.
    pub fn has_rules(&self) -> bool {
        self.known.has_rules()
    }

    /// When it wants to be looked at again without news.
    pub fn deadline(&self) -> Option<Instant> {
        let overdue = self.incomplete.as_ref().map(|(since, _)| *since + PATIENCE);
        [self.retry_at, overdue].into_iter().flatten().min()
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
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot::new(
            serde_json::from_value(serde_json::json!({
                "id": "s", "uid": "u", "namespace": "shop", "name": "web", "labels": {}, "annotations": {},
                "created_at": 0, "host_network": false, "netns": {}, "ips": [], "dns_servers": []
            }))
            .expect("a sandbox"),
        )
    }

    fn finished(result: Result<Outcome, String>) -> Finished {
        Finished { id: "s".to_owned(), cookie: None, result, took: Duration::ZERO }
    }

    fn outcome(known: Known, done: Done) -> Outcome {
        Outcome { known, done, remark: None }
    }

    #[tokio::test]
    async fn an_incomplete_policy_keeps_what_is_in_force_and_stalls() {
        let (mut slot, now) = (slot(), Instant::now());
        slot.resolved(Resolution::Incomplete(vec![Missing::PeerGroup("p-1".to_owned())]), now);
        assert!(slot.begin(now, true).is_none(), "nothing is known to be wanted");
        assert!(!slot.is_settled());
        assert_eq!(slot.stalled(now), None);
        let late = now + PATIENCE;
        assert_eq!(slot.stalled(late).as_deref(), Some("shop/web: waits for PeerGroup p-1"));
    }

    #[tokio::test]
    async fn a_failure_is_tried_again_later_and_news_at_once() {
        let (mut slot, now) = (slot(), Instant::now());
        slot.resolved(Resolution::Idle, now);
        assert!(slot.begin(now, true).is_some());
        assert!(slot.begin(now, true).is_none(), "one at a time");
        slot.finish(finished(Err("enter".to_owned())), now);
        assert!(slot.begin(now, true).is_none());
        assert!(slot.deadline().is_some_and(|at| slot.begin(at, true).is_some()));
        slot.finish(finished(Ok(outcome(Known::Nothing, Done::Removed))), now);
        assert!(slot.is_settled());
    }

    #[tokio::test]
    async fn rules_in_the_kernel_outlast_a_view_that_is_not_fresh() {
        let (mut slot, now) = (slot(), Instant::now());
        slot.resolved(Resolution::Unmanaged, now);
        assert!(slot.begin(now, false).is_some());
        slot.finish(finished(Ok(outcome(Known::Unread, Done::Left))), now);
        assert!(slot.begin(now, false).is_none());
        assert!(slot.begin(now, true).is_some());
    }
}
