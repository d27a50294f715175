//! What can go wrong with a repository, said so that it can be put right.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why no commit could be taken. The text follows "failed to fetch: ".
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// No such branch.
    #[error("branch '{name}' is not in the repository; it has: {}", list(.others))]
    BranchMissing {
        /// The branch asked for.
        name: String,
        /// The branches that are there.
        others: Vec<String>,
    },
    /// No such tag.
    #[error("tag '{name}' is not in the repository; it has: {}", list(.others))]
    TagMissing {
        /// The tag asked for.
        name: String,
        /// The tags that are there.
        others: Vec<String>,
    },
    /// No such commit.
    #[error(
        "commit {0} is not in the repository, or no branch or tag leads to it: check the id, or give a branch or a tag"
    )]
    CommitMissing(String),
    /// A repository without any reference.
    #[error("the repository has no commits yet: push one")]
    Empty,
    /// Nothing there.
    #[error("there is no git repository at {url}: check spec.url (a private one may also need spec.secretRef)")]
    Gone {
        /// The address.
        url: String,
    },
    /// No connection.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// The server could be anybody.
    #[error("the certificate of {url} is not trusted: {reason}")]
    Certificate {
        /// The address.
        url: String,
        /// Why not, and what helps.
        reason: String,
    },
    /// Credentials missing or wrong.
    #[error("{url} refuses access: {hint}")]
    Authentication {
        /// The address.
        url: String,
        /// What to do.
        hint: &'static str,
    },
    /// The commit was found and cannot be read.
    #[error("commit {}: {error}", .commit.get(..8).unwrap_or(.commit))]
    InCommit {
        /// The commit's full id.
        commit: String,
        /// Why it cannot be read.
        #[source]
        error: Box<Self>,
    },
    /// The folder is not in the commit.
    #[error("there is no folder '{0}': check spec.path")]
    PathMissing(String),
    /// The folder is something else.
    #[error("'{0}' is no folder: set spec.path to the folder that holds the policy")]
    PathNoFolder(String),
    /// Too many files.
    #[error("there are more than {limit} files: set spec.path to the folder that holds the policy")]
    TooManyFiles {
        /// How many there may be.
        limit: usize,
    },
    /// All files together are too big.
    #[error(
        "the policy files have more than {limit} bytes together: set spec.path to the folder that holds the policy"
    )]
    TooBig {
        /// What is allowed.
        limit: usize,
    },
    /// The download is too big.
    #[error("the download exceeds {limit} bytes: keep policy in a repository of its own")]
    DownloadTooBig {
        /// What is allowed.
        limit: usize,
    },
    /// It took too long.
    #[error("it took longer than {} seconds: is the server slow, or the repository very large?", .0.as_secs())]
    Timeout(Duration),
    /// The cache directory.
    #[error("use the cache directory {}: {source}", .path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else that libgit2 says.
    #[error("{}", .0.message())]
    Git(#[from] git2::Error),
}

impl GitError {
    /// The reason of a condition: one word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BranchMissing { .. } => "BranchNotFound",
            Self::TagMissing { .. } => "TagNotFound",
            Self::CommitMissing(_) => "CommitNotFound",
            Self::Empty => "EmptyRepository",
            Self::Gone { .. } => "RepositoryNotFound",
            Self::Unreachable { .. } => "RepositoryUnreachable",
            Self::Certificate { .. } => "CertificateNotTrusted",
            Self::Authentication { .. } => "AuthenticationFailed",
            Self::InCommit { error, .. } => error.reason(),
            Self::PathMissing(_) | Self::PathNoFolder(_) => "PathNotFound",
            Self::TooManyFiles { .. } | Self::TooBig { .. } | Self::DownloadTooBig { .. } => "SourceTooLarge",
            Self::Timeout(_) => "FetchTimedOut",
            Self::Cache { .. } | Self::Git(_) => "FetchFailed",
        }
    }

    /// The commit that was found and cannot be read.
    pub fn commit(&self) -> Option<&str> {
        match self {
            Self::InCommit { commit, .. } => Some(commit),
            _ => None,
        }
    }
}

/// At most ten names, so that a repository of a thousand branches does not fill the message.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        text.push_str("none");
    } else if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
