//! What holds when no agent answers: a file that the agent keeps up to date, and takes away when it goes on purpose.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::wire::Start;

/// Whose Pods must not start while no agent answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fallback {
    /// Namespaces.
    pub refuse: BTreeSet<String>,
}

/// Why nobody knows what holds.
#[derive(Debug, thiserror::Error)]
#[error("read what holds without the agent from {path}: {problem}")]
pub struct FallbackError {
    path: String,
    problem: String,
}

impl Fallback {
    /// Reads the file. `None` if there is none: then no agent is meant to be here.
    ///
    /// # Errors
    /// When there is one that cannot be read or understood: that must not pass for none.
    pub fn read(path: &Path) -> Result<Option<Self>, FallbackError> {
        let fail = |problem: String| FallbackError { path: path.display().to_string(), problem };
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| fail(error.to_string())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// Whether Pods of a namespace may start.
    pub fn start(&self, namespace: &str) -> Start {
        if self.refuse.contains(namespace) { Start::Refuse } else { Start::Allow }
    }
}
