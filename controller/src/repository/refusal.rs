//! Why a commit is not in force.

use ringfence_compile::policy::ObjectKey;
use ringfence_compile::source::{Problem, Severity};

use crate::git::GitError;

/// Why a round did not put the newest commit in force. The text is the message of the `Ready` condition.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The spec, or the Secret it names.
    #[error("{0}")]
    Settings(String),
    /// No commit could be taken.
    #[error("failed to fetch: {0}")]
    Fetch(#[from] GitError),
    /// The commit has mistakes.
    #[error("{}", count(.0))]
    Invalid(Vec<Problem>),
    /// The commit has no objects, and others had.
    #[error(
        "the commit has no policy objects and would delete all {owned} of this repository: check spec.path, or delete \
         the PolicyRepository if that is meant"
    )]
    EmptySource {
        /// How many objects would be deleted.
        owned: usize,
    },
    /// Profiles that disappear while they enforce.
    #[error(
        "the commit removes the profile of {}, which would stop enforcement there: set it to policyState: Idle or \
         managed: false in a commit first", .0.join(", ")
    )]
    StillEnforcing(Vec<String>),
    /// Objects of somebody else.
    #[error("{}", owners(.0))]
    OwnedByAnother(Vec<Conflict>),
    /// The apiserver could not be asked, or did not do as asked.
    #[error("failed to {0}: {1}")]
    Cluster(&'static str, #[source] kube::Error),
}

/// An object that belongs to somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    /// The object.
    pub(super) key: ObjectKey,
    /// File and line in the commit.
    pub(super) place: String,
    /// Whose it is.
    pub(super) owner: String,
}

impl Conflict {
    /// The conflict as a line of the status.
    pub(super) fn text(&self) -> String {
        format!("{}: {} belongs to {}", self.place, self.key, self.owner)
    }
}

impl Refusal {
    /// The reason of the condition.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Settings(_) => "InvalidSettings",
            Self::Fetch(error) => error.reason(),
            Self::Invalid(_) => "InvalidPolicy",
            Self::EmptySource { .. } => "EmptySource",
            Self::StillEnforcing(_) => "ProfileStillEnforcing",
            Self::OwnedByAnother(_) => "OwnedByAnother",
            Self::Cluster(..) => "ClusterError",
        }
    }

    /// Whether it takes somebody to put it right; the rest may pass by itself.
    pub(super) fn stalls(&self) -> bool {
        !matches!(self, Self::Fetch(GitError::Unreachable { .. } | GitError::Timeout(_)) | Self::Cluster(..))
    }
}

/// `3 problems, the first: rules/shop.yaml:3:5: error: …`
fn count(problems: &[Problem]) -> String {
    let errors: Vec<&Problem> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    match errors.as_slice() {
        [] => "the commit is not valid".to_owned(),
        [only] => only.to_string(),
        [first, ..] => format!("{} problems, the first: {first}", errors.len()),
    }
}

fn owners(conflicts: &[Conflict]) -> String {
    let Some(first) = conflicts.first() else { return "an object belongs to somebody else".to_owned() };
    let more = match conflicts.len() {
        1 => String::new(),
        n => format!(" (and {} more like it)", n - 1),
    };
    format!("{}{more}: remove it from one of the two", first.text())
}
