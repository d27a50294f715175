//! Which commit a change of policy came from, so that a trace can be followed from git to the kernel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use ringfence_crds::names;

use super::world::Index;
use crate::kubelink::watch::Change;

/// The commit that each PolicyRepository is putting in force or has put in force, told by the git importer before it
/// writes. What is deleted carries no commit of its own: only its repository's says why it went.
#[derive(Debug, Clone, Default)]
pub struct Commits(Arc<Mutex<BTreeMap<String, String>>>);

impl Commits {
    /// Notes the commit of the repository with this label.
    pub fn note(&self, repository: &str, commit: &str) {
        let mut commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        commits.insert(repository.to_owned(), commit.to_owned());
    }

    /// The commit of the repository with this label, if it is known.
    fn of(&self, repository: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(repository).cloned()
    }

    /// The commit that a change of one object came from: what the object says, or, when it is gone from git, that of
    /// the repository that it belonged to.
    pub fn behind<K: ResourceExt>(&self, known: &Index<K>, change: &Change<K>) -> Option<String> {
        let (key, written) = match change {
            Change::Listed(_) => return None,
            Change::Applied(key, object) => (key, object.annotations().get(names::ANNOTATION_COMMIT)),
            Change::Deleted(key) => (key, None),
        };
        written.cloned().or_else(|| self.of(known.get(key)?.labels().get(names::LABEL_REPOSITORY)?))
    }
}
