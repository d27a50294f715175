//! Puts the plugin into the node's CNI configuration, and takes it out. Others write those files too, at any time.
//!
//! 1. Whoever reads a file finds the old or the new one, whole.
//! 2. First the fallback, then the program, then the entry that names them; the other way round when it goes.
//! 3. A file that nobody has written since becomes what it was before us, to the byte.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ringfence_cni::{Entry, Fallback, TYPE};
use serde::{Deserialize, Serialize};

use super::conflist::{ConfError, has_plugin, with_plugin, without_plugin};
use crate::files;

/// Name of the fallback in the state folder.
pub const FALLBACK: &str = "cni-fallback.json";
/// Name of what was there before us, in the state folder.
const BEFORE: &str = "cni-before.json";

/// Why the plugin is not in its place, or still is.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file could not be read or written.
    #[error("use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The configuration that the runtime reads is none.
    #[error("add the CNI plugin to {}: {source}", path.display())]
    Conf {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ConfError,
    },
    /// What was there before us cannot be kept.
    #[error("keep what the CNI configuration was: {0}")]
    Json(#[from] serde_json::Error),
    /// Nobody has made a network yet.
    #[error("find a CNI configuration in {}: no Pod can start here before one is there", .0.display())]
    NoNetwork(PathBuf),
}

/// A file as it was before us, and as we have left it.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    file: String,
    text: String,
    became: String,
    written: String,
}

/// Where everything is, as this process sees it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Folder of CNI configurations.
    pub conf_dir: PathBuf,
    /// Folder of CNI plugins.
    pub bin_dir: PathBuf,
    /// The plugin that comes with this agent.
    pub program: PathBuf,
    /// The agent's own folder.
    pub state_dir: PathBuf,
    /// The entry, with paths as the host has them.
    pub entry: Entry,
}

impl Place {
    /// Puts the plugin in its place, as far as it is not there; says whether the configuration had to be written.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn install(&self, fallback: &Fallback) -> Result<bool, InstallError> {
        write_if_other(&self.state_dir.join(FALLBACK), &serde_json::to_vec(fallback)?, 0o600)?;
        let program = fs::read(&self.program).map_err(at(&self.program))?;
        write_if_other(&self.bin_dir.join(TYPE), &program, 0o755)?;
        let first = self.configurations()?.into_iter().next();
        let path = first.ok_or_else(|| InstallError::NoNetwork(self.conf_dir.clone()))?;
        let text = fs::read_to_string(&path).map_err(at(&path))?;
        if has_plugin(&text, &self.entry) {
            return Ok(false);
        }
        let conf = |source| InstallError::Conf { path: path.clone(), source };
        let written = with_plugin(&text, &self.entry).map_err(conf)?;
        let became = list_for(&path);
        let before = match self.before()?.filter(|before| before.is(&path, &text)) {
            Some(known) => Before { written: written.clone(), ..known },
            None => Before {
                file: name(&path),
                text: without_plugin(&text).map_err(conf)?.unwrap_or(text),
                became: name(&became),
                written: written.clone(),
            },
        };
        write(&self.state_dir.join(BEFORE), &serde_json::to_vec(&before)?, 0o600)?;
        write(&became, written.as_bytes(), mode(&path))?;
        if became != path {
            fs::remove_file(&path).map_err(at(&path))?;
        }
        tracing::info!(file = %became.display(), "the CNI plugin is in the list");
        Ok(true)
    }

    /// Takes the plugin out of every configuration, and with it what it goes by. The program itself stays: a runtime may
    /// call it once more for a Pod that has started with it, as CRI-O does, and such a Pod must be able to end.
    ///
    /// # Errors
    /// When something stays.
    pub fn remove(&self) -> Result<(), InstallError> {
        let before = self.before()?;
        for path in self.configurations()? {
            let text = fs::read_to_string(&path).map_err(at(&path))?;
            // What is no configuration does not hold the plugin either.
            let Ok(Some(without)) = without_plugin(&text) else { continue };
            match before.as_ref().filter(|before| before.is(&path, &text)) {
                Some(before) => {
                    let original = self.conf_dir.join(&before.file);
                    // One that somebody has written anew is newer than what we know.
                    if original == path || !original.exists() {
                        write(&original, before.text.as_bytes(), mode(&path))?;
                    }
                    if original != path {
                        gone(fs::remove_file(&path)).map_err(at(&path))?;
                    }
                }
                None => write(&path, without.as_bytes(), mode(&path))?,
            }
            tracing::info!(file = %path.display(), "the CNI plugin is out of the list");
        }
        for path in [self.state_dir.join(FALLBACK), self.state_dir.join(BEFORE)] {
            gone(fs::remove_file(&path)).map_err(at(&path))?;
        }
        Ok(())
    }

    fn before(&self) -> Result<Option<Before>, InstallError> {
        let path = self.state_dir.join(BEFORE);
        match fs::read(&path) {
            // What cannot be understood is as good as nothing: the plugin is then taken out of what is there.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(InstallError::File { path, source }),
        }
    }

    /// The files that a runtime reads, in its order: it takes the first.
    fn configurations(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.conf_dir).map_err(at(&self.conf_dir))? {
            let path = entry.map_err(at(&self.conf_dir))?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if matches!(extension, Some("conf" | "conflist" | "json")) && path.is_file() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Before {
    /// Whether a file is as we have left it.
    fn is(&self, path: &Path, text: &str) -> bool {
        self.became == name(path) && self.written == text
    }
}

/// The file that a list goes into: a single plugin's cannot hold one. It takes that file's place in the order.
fn list_for(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|extension| extension == "conflist") {
        return path.to_owned();
    }
    path.with_file_name(format!("{}.conflist", name(path)))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777)
}

fn write_if_other(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    if fs::read(path).is_ok_and(|present| present == content) { Ok(()) } else { write(path, content, mode) }
}

/// Replaces a file as a whole: `cven off` may be at it at the same time.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
    files::replace(path, mode, content).map_err(at(path))
}

/// Something to remove that is not there is as good as removed.
fn gone(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { path: path.clone(), source }
}

/// Takes the fallback away, so that a plugin that asks nobody lets Pods start.
pub fn forget_fallback(state_dir: &Path) {
    if let Err(error) = gone(fs::remove_file(state_dir.join(FALLBACK))) {
        tracing::warn!(%error, "failed to take the fallback of the CNI plugin away: Pods of namespaces in Full may not start");
    }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
