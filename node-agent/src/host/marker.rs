//! What must outlive the agent: that a change is not confirmed yet, with the rules of before; which policy was confirmed last, and
//! which was refused. Each is a small file in the state folder, written as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringfence_dataplane::NetnsPolicy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::apply::Texts;
use crate::files;
use crate::machine;

/// A change that is not confirmed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// What is known of the policy.
    pub fingerprint: String,
    /// The rules of before.
    pub before: Texts,
    /// Whether the apiserver answered before, and which other nodes did.
    pub answered: super::probe::Answered,
    /// In which boot of the machine it was made: in another one nothing of it is in force.
    #[serde(default)]
    pub boot: Option<String>,
}

/// The policy that was confirmed last, with the members that it had then: an agent that starts where a newer one is refused has the
/// one of before to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Confirmed {
    policy: Arc<NetnsPolicy>,
    boot: Option<String>,
}

/// A policy that is not tried again until it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    fingerprint: String,
    problem: String,
}

/// Why a note could not be made.
#[derive(Debug, thiserror::Error)]
#[error("note a change of the node's rules in {}: {source}", path.display())]
pub struct NoteError {
    path: PathBuf,
    source: std::io::Error,
}

/// The notes; without a folder they last as long as the agent.
#[derive(Debug, Default)]
pub struct Notes {
    folder: Option<PathBuf>,
    unconfirmed: Option<Unconfirmed>,
    refused: Option<Refused>,
    confirmed: Option<Confirmed>,
}

const CONFIRMED: &str = "host-confirmed.json";
const UNCONFIRMED: &str = "host-unconfirmed.json";
const REFUSED: &str = "host-refused.json";

impl Notes {
    /// Those in a folder, as an agent before has left them.
    pub fn in_folder(folder: Option<&Path>) -> Self {
        let folder = folder.map(Path::to_owned);
        let (unconfirmed, refused) = (read(folder.as_deref(), UNCONFIRMED), read(folder.as_deref(), REFUSED));
        let confirmed = read(folder.as_deref(), CONFIRMED);
        Self { folder, unconfirmed, refused, confirmed }
    }

    /// The change that is not confirmed yet.
    pub fn unconfirmed(&self) -> Option<&Unconfirmed> {
        self.unconfirmed.as_ref()
    }

    /// Notes a change before it is made.
    ///
    /// # Errors
    /// When it cannot be written: then nothing is to be changed.
    pub fn begin(&mut self, change: Unconfirmed) -> Result<(), NoteError> {
        self.write(UNCONFIRMED, &change)?;
        self.unconfirmed = Some(change);
        Ok(())
    }

    /// The change is confirmed, or was taken back.
    pub fn end(&mut self) {
        self.unconfirmed = None;
        self.remove(UNCONFIRMED);
    }

    /// Notes what was confirmed. Where that cannot be written, an agent that starts anew does not know it.
    pub fn confirm(&mut self, policy: &Arc<NetnsPolicy>) {
        let confirmed = Confirmed { policy: Arc::clone(policy), boot: machine::boot_id() };
        if let Err(error) = self.write(CONFIRMED, &confirmed) {
            tracing::warn!("failed to {error}");
        }
        self.confirmed = Some(confirmed);
    }

    /// What was confirmed last, if that is still in force: no rules outlive the kernel.
    pub fn confirmed(&self) -> Option<&Arc<NetnsPolicy>> {
        let confirmed = self.confirmed.as_ref().filter(|confirmed| confirmed.boot == machine::boot_id());
        confirmed.map(|confirmed| &confirmed.policy)
    }

    /// Notes that a policy was taken back, and why. Where that cannot be written, an agent that starts anew tries it once more.
    pub fn refuse(&mut self, fingerprint: &str, problem: &str) {
        let refused = Refused { fingerprint: fingerprint.to_owned(), problem: problem.to_owned() };
        if let Err(error) = self.write(REFUSED, &refused) {
            tracing::warn!("failed to {error}");
        }
        self.refused = Some(refused);
    }

    /// Why a policy is not tried, if it was taken back. One that is another is tried, and the old one forgotten.
    pub fn refused(&mut self, fingerprint: &str) -> Option<String> {
        if self.refused.as_ref().is_some_and(|refused| refused.fingerprint != fingerprint) {
            self.refused = None;
            self.remove(REFUSED);
        }
        self.refused.as_ref().map(|refused| refused.problem.clone())
    }

    /// Why the policy that was refused last was.
    pub fn refusal(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.problem.as_str())
    }

    /// Nothing is in force any more, on purpose.
    pub fn forget_all(&mut self) {
        self.end();
        (self.refused, self.confirmed) = (None, None);
        self.remove(REFUSED);
        self.remove(CONFIRMED);
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), NoteError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(name);
        let put = || {
            std::fs::create_dir_all(folder)?;
            files::replace(&path, 0o600, &serde_json::to_vec(value)?)
        };
        put().map_err(|source| NoteError { path: path.clone(), source })
    }

    fn remove(&self, name: &str) {
        if let Some(folder) = &self.folder
            && let Err(error) = std::fs::remove_file(folder.join(name))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("failed to remove {}: {error}", folder.join(name).display());
        }
    }
}

/// What a file says; one that is damaged says nothing.
fn read<T: DeserializeOwned>(folder: Option<&Path>, name: &str) -> Option<T> {
    let text = std::fs::read_to_string(folder?.join(name)).ok()?;
    serde_json::from_str(&text).inspect_err(|error| tracing::warn!("failed to read {name}: {error}")).ok()
}
