//! Runs the blocking git room for repositories, each with a cache directory of its own.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use ringfence_crds::PolicyRepository;
use tokio::time::timeout;
use tokio::{fs, task};

use super::refusal::Refusal;
use crate::git::{self, Commit, GitError, Limits, Reference, Remote};

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
        let cache = self.directory(repository).join(name_of(&remote.url));
        self.fetch_into(cache, repository, remote, self.limits).await
    }

    /// A commit that was fetched before, from wherever `spec.url` led to at the time. Nobody is asked for it.
    pub(super) async fn cached(&self, repository: &PolicyRepository, commit: &str) -> Option<Commit> {
        // No time to download is none to replace a cache either, which another fetch may need.
        let limits = Limits { time: Duration::ZERO, ..self.limits };
        let mut caches = fs::read_dir(self.directory(repository)).await.ok()?;
        while let Ok(Some(cache)) = caches.next_entry().await {
            let remote = Remote {
                // The cache itself: what it does not have is not looked for anywhere else.
                url: format!("file://{}", cache.path().display()),
                reference: Reference::Commit(commit.to_owned()),
                credentials: None,
                ca: None,
            };
            if let Ok(commit) = self.fetch_into(cache.path(), repository, remote, limits).await {
                return Some(commit);
            }
        }
        None
    }

    async fn fetch_into(
        &self,
        cache: PathBuf,
        repository: &PolicyRepository,
        remote: Remote,
        limits: Limits,
    ) -> Result<Commit, Refusal> {
        let folder = repository.spec.path.clone().unwrap_or_default();
        let busy = self.enter(cache)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use git2::{Repository, Signature};
    use serde_json::json;

    fn repository(url: &str) -> PolicyRepository {
        serde_json::from_value(json!({
            "apiVersion": "ringfence.dev/v1alpha1", "kind": "PolicyRepository",
            "metadata": { "name": "policy", "namespace": "ringfence-system", "uid": "u" },
            "spec": { "url": url },
        }))
        .expect("a repository")
    }

    /// A repository at this place with one empty commit on main. Gives the commit.
    fn commit(place: &std::path::Path) -> String {
        let repository = Repository::init_bare(place).expect("a bare repository");
        let who = Signature::new("a", "a@example.org", &git2::Time::new(0, 0)).expect("a signature");
        let tree = repository.treebuilder(None).and_then(|builder| builder.write()).expect("a tree");
        let tree = repository.find_tree(tree).expect("the tree");
        repository.commit(Some("refs/heads/main"), &who, &who, "first", &tree, &[]).expect("a commit").to_string()
    }

    #[tokio::test]
    async fn what_was_fetched_is_found_under_another_url_without_asking_anybody() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (origin, fetcher) = (dir.path().join("policy.git"), Fetcher::new(dir.path().join("cache")));
        let url = format!("file://{}", origin.display());
        let id = commit(&origin);
        assert!(fetcher.cached(&repository(&url), &id).await.is_none(), "nothing was fetched yet");
        let remote =
            Remote { url: url.clone(), reference: Reference::Branch("main".to_owned()), credentials: None, ca: None };
        fetcher.fetch(&repository(&url), remote).await.expect("the commit");
        std::fs::remove_dir_all(&origin).expect("removed");

        let elsewhere = repository("https://git.example.org/wrong.git");
        let other = "1234567890123456789012345678901234567890";
        assert!(fetcher.cached(&elsewhere, other).await.is_none(), "a commit that nobody fetched");
        assert_eq!(fetcher.cached(&elsewhere, &id).await.map(|commit| commit.id), Some(id));
    }
}
