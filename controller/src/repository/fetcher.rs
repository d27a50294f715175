//! Runs the blocking git room for repositories, each with a cache directory of its own.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use ringfence_crds::PolicyRepository;
use tokio::task;
use tokio::time::timeout;

use super::refusal::Refusal;
use crate::git::{self, Commit, GitError, Limits, Remote};

/// What a fetch may take beyond its own limit before it is left behind: its thread cannot be ended from outside.
const GRACE: Duration = Duration::from_secs(30);

/// Fetches commits.
#[derive(Debug)]
pub(super) struct Fetcher {
    root: PathBuf,
    limits: Limits,
    busy: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A cache directory in use: a fetch that was left behind must not meet the next one.
struct Busy {
    directories: Arc<Mutex<HashSet<PathBuf>>>,
    directory: PathBuf,
}

impl Fetcher {
    /// A fetcher whose caches are under `root`.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, limits: Limits::default(), busy: Arc::default() }
    }

    /// The commit that `remote` refers to, with the policy files under `spec.path`.
    pub(super) async fn fetch(&self, repository: &PolicyRepository, remote: Remote) -> Result<Commit, Refusal> {
        let folder = repository.spec.path.clone().unwrap_or_default();
        let directory = self.directory(repository).join(name_of(&remote.url));
        let limits = self.limits;
        let busy = self.enter(directory)?;
        let work = task::spawn_blocking(move || git::fetch(&remote, &folder, &busy.directory, &limits));
        match timeout(limits.time + GRACE, work).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(panic)) => Err(Refusal::Settings(format!("the fetch ended unexpectedly: {panic}"))),
            Err(_) => Err(GitError::Timeout(limits.time).into()),
        }
    }

    /// Removes what was kept for a repository that is gone. What cannot be removed is only disk space.
    pub(super) fn forget(&self, repository: &PolicyRepository) {
        let directory = self.directory(repository);
        task::spawn_blocking(move || std::fs::remove_dir_all(directory));
    }

    fn directory(&self, repository: &PolicyRepository) -> PathBuf {
        self.root.join("git").join(repository.uid().unwrap_or_else(|| "unknown".to_owned()))
    }

    fn enter(&self, directory: PathBuf) -> Result<Busy, GitError> {
        if locked(&self.busy).insert(directory.clone()) {
            Ok(Busy { directories: Arc::clone(&self.busy), directory })
        } else {
            Err(GitError::Timeout(self.limits.time))
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        locked(&self.directories).remove(&self.directory);
    }
}

/// A panic elsewhere leaves the set whole: single inserts and removals only.
fn locked(set: &Mutex<HashSet<PathBuf>>) -> MutexGuard<'_, HashSet<PathBuf>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory name for an address: its letters and digits, so that one can find it.
fn name_of(url: &str) -> String {
    const LENGTH: usize = 120;
    let plain: String = url.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let hash = url
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}-{hash:016x}", &plain[..plain.len().min(LENGTH)])
}
