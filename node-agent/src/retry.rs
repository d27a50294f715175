//! What has failed is tried again, later each time.

use std::time::Duration;

use tokio::time::Instant;

/// Of one matter: how often it has failed, and when it is tried again.
#[derive(Debug)]
pub struct Retry {
    first: Duration,
    longest: Duration,
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    /// It has not failed yet. Its first failure makes it wait for `first`, each one more twice as long, up to
    /// `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0, at: None }
    }

    /// It has failed: it waits, longer than the last time.
    pub fn failed(&mut self, now: Instant) {
        let wait = self.first.saturating_mul(1 << self.failures.min(10)).min(self.longest);
        self.failures += 1;
        self.at = Some(now + wait);
    }

    /// It has succeeded: nothing is to be tried again, and what fails next is a first failure.
    pub fn succeeded(&mut self) {
        *self = Self::new(self.first, self.longest);
    }

    /// It does not wait any longer; that it has failed is not forgotten.
    pub fn hurry(&mut self) {
        self.at = None;
    }

    /// It waits as after a first failure, unless it waits anyway.
    pub fn pause(&mut self, now: Instant) {
        self.at.get_or_insert(now + self.first);
    }

    /// When it is tried again; nothing where it does not wait.
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// How often it has failed since it last succeeded.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_waits_twice_as_long_each_time_up_to_a_limit() {
        let (now, seconds) = (Instant::now(), Duration::from_secs);
        let mut retry = Retry::new(seconds(1), seconds(5));
        assert_eq!(retry.at(), None);
        for wait in [1, 2, 4, 5, 5] {
            retry.failed(now);
            assert_eq!(retry.at(), Some(now + seconds(wait)));
        }
        (0..100).for_each(|_| retry.failed(now));
        assert_eq!(retry.at(), Some(now + seconds(5)), "however often");
        retry.hurry();
        assert_eq!((retry.at(), retry.failures()), (None, 105), "how long it waits next is not forgotten");
        retry.pause(now);
        assert_eq!((retry.at(), retry.failures()), (Some(now + seconds(1)), 105));
        retry.succeeded();
        assert_eq!((retry.at(), retry.failures()), (None, 0));
    }
}
