//! Room 1: fetch a commit from a git repository and read the files of its tree.
//!
//! Goals, and how they are met:
//! 1. Nothing in a repository runs or escapes here: the commit's tree object is read, there is never a checkout, and
//!    links, submodules and odd names are problems of the commit ([`tree`]).
//! 2. A hostile or broken repository costs a bounded amount of time, memory and disk ([`Limits`]).
//! 3. A commit that is already here costs one listing of the remote's references and no download ([`cache`]).
//! 4. A private certificate authority counts for its own repository only ([`certificate`]).
//! 5. Every error says what to do about it ([`GitError`]).
//!
//! Everything here blocks: call it from `spawn_blocking`.

mod cache;
mod certificate;
mod error;
mod remote;
mod setup;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use ringfence_compile::source::{self, Parsed, Problem, SourceFile};

pub use error::GitError;

/// Where policy comes from.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `https://…` or `file://…`.
    pub url: String,
    /// What to take.
    pub reference: Reference,
    /// For basic authentication.
    pub credentials: Option<Credentials>,
    /// PEM certificates of the authority that must have signed the server's certificate, instead of the system's.
    pub ca: Option<Vec<u8>>,
}

/// A branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The newest commit of a branch.
    Branch(String),
    /// The commit that a tag names.
    Tag(String),
    /// A commit by its full id.
    Commit(String),
}

/// User name and password (or token).
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How much one fetch may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Policy files (`*.yaml`, `*.yml`) under the folder.
    pub files: usize,
    /// Bytes of one file.
    pub file_bytes: usize,
    /// Bytes of all files together.
    pub total_bytes: usize,
    /// Bytes that may come over the wire.
    pub download_bytes: usize,
    /// Time for all of it.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            files: 10_000,
            file_bytes: source::FILE_BYTES,
            total_bytes: 32 * MIB,
            download_bytes: 256 * MIB,
            time: Duration::from_secs(60),
        }
    }
}

/// A commit and its policy files.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Full id.
    pub id: String,
    /// The policy files, sorted by path; paths are relative to the repository's root.
    pub files: Vec<SourceFile>,
    /// What among them cannot be read as policy.
    pub problems: Vec<Problem>,
}

impl Commit {
    /// What the files say, and every problem of the commit itself.
    pub fn parse(&self) -> Parsed {
        let mut parsed = source::parse(&self.files);
        parsed.problems.extend_from_slice(&self.problems);
        parsed.problems.sort();
        parsed
    }
}

/// Takes the commit that `remote` refers to and reads the policy files under `folder` (empty: all).
///
/// `cache` is a directory for this remote alone, made when it is not there. It holds a bare repository, so that the
/// next commit is downloaded as a difference; it may be deleted at any time. Two fetches must not share it at once.
///
/// # Errors
/// See [`GitError`].
pub fn fetch(remote: &Remote, folder: &str, cache: &Path, limits: &Limits) -> Result<Commit, GitError> {
    setup::once();
    let deadline = Instant::now() + limits.time;
    match fetch_with_cache(remote, folder, cache, limits, deadline) {
        // An unusable cache (a full disk once, a killed process) must not stop policy for ever.
        Err(GitError::Git(error)) if Instant::now() < deadline => {
            tracing::warn!(%error, cache = %cache.display(), "the git cache is unusable, starting afresh");
            cache::remove(cache)?;
            fetch_with_cache(remote, folder, cache, limits, deadline)
        }
        other => other,
    }
}

fn fetch_with_cache(
    remote: &Remote,
    folder: &str,
    cache: &Path,
    limits: &Limits,
    deadline: Instant,
) -> Result<Commit, GitError> {
    let repository = cache::open(cache)?;
    let id = cache::bring(&repository, remote, limits, deadline)?;
    let (files, problems) = tree::read(&repository, id, folder, limits).map_err(|error| match error {
        GitError::Git(_) => error,
        error => GitError::InCommit { commit: id.to_string(), error: Box::new(error) },
    })?;
    Ok(Commit { id: id.to_string(), files, problems })
}
