//! When a repository's next round is due.
//!
//! The watch also reports what the reconciler itself wrote. Such a change must not cost a round, so a round takes
//! place when the spec or the request annotation changed, or when it is due.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::{Resource, ResourceExt};
use ringfence_crds::PolicyRepository;

/// A new value of this annotation starts a round at once.
const REQUESTED_AT: &str = "ringfence.dev/reconcile-requested-at";

/// What a round was about: when this is another, the next round is due at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    generation: Option<i64>,
    requested_at: Option<String>,
    deleting: bool,
}

impl From<&PolicyRepository> for Wish {
    fn from(repository: &PolicyRepository) -> Self {
        Self {
            generation: repository.meta().generation,
            requested_at: repository.annotations().get(REQUESTED_AT).cloned(),
            deleting: repository.meta().deletion_timestamp.is_some(),
        }
    }
}

/// The last round of every repository, by UID.
#[derive(Debug, Default)]
pub(super) struct Schedule(Mutex<HashMap<String, (Wish, Instant)>>);

impl Schedule {
    /// How long to wait for the next round; none when it is due.
    pub(super) fn wait(&self, repository: &PolicyRepository) -> Option<Duration> {
        let rounds = self.rounds();
        let (wish, due) = rounds.get(&repository.uid()?)?;
        let left = due.checked_duration_since(Instant::now())?;
        (*wish == Wish::from(repository) && !left.is_zero()).then_some(left)
    }

    /// A round has ended; the next is due in `wait`.
    pub(super) fn done(&self, repository: &PolicyRepository, wait: Duration) {
        if let Some(uid) = repository.uid() {
            self.rounds().insert(uid, (Wish::from(repository), Instant::now() + wait));
        }
    }

    /// The repository is gone.
    pub(super) fn forget(&self, repository: &PolicyRepository) {
        if let Some(uid) = repository.uid() {
            self.rounds().remove(&uid);
        }
    }

    /// A panic elsewhere leaves the map whole: single inserts and removals only.
    fn rounds(&self) -> MutexGuard<'_, HashMap<String, (Wish, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
