//! Reads a folder of policy.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ringfence_compile::policy::Policy;
use ringfence_compile::source::{self, EntryError, EntryKind, LiveNames, Problem, Reading, Severity, SourceFile};

/// A folder that was read and checked.
pub struct Folder {
    /// The files, by path relative to the folder.
    pub texts: BTreeMap<String, String>,
    /// What is wrong, sorted by place.
    pub problems: Vec<Problem>,
    /// What is right.
    pub policy: Policy,
}

impl Folder {
    /// Reads and checks a folder as the importer would if it were a repository's.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let (files, mut problems) = read_files(folder)?;
        let parsed = source::parse(&files);
        problems.extend(source::check(&parsed, &LiveNames::default()));
        problems.extend(parsed.problems.iter().cloned());
        problems.sort();
        let policy = source::to_policy(&parsed);
        let texts = files.into_iter().map(|file| (file.path, file.text)).collect();
        Ok(Self { texts, problems, policy })
    }

    /// Whether the policy cannot be used as it is.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many problems are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity == severity).count()
    }
}

/// The files of a folder, and a problem for each entry that cannot be read as policy.
fn read_files(folder: &Path) -> Result<(Vec<SourceFile>, Vec<Problem>)> {
    if !folder.is_dir() {
        bail!("failed to find a folder at {}", folder.display());
    }
    let mut found = Found::default();
    found.walk(folder, "")?;
    let (mut files, mut problems) = (Vec::new(), found.problems);
    for (path, place) in found.files {
        match read_file(path, &place).with_context(|| format!("failed to read {}", place.display()))? {
            Ok(file) => files.push(file),
            Err(error) => problems.push(error.problem()),
        }
    }
    Ok((files, problems))
}

/// A file of policy, or why it cannot be one.
fn read_file(path: String, place: &Path) -> io::Result<Result<SourceFile, EntryError>> {
    let (size, limit) = (usize::try_from(fs::metadata(place)?.len()).unwrap_or(usize::MAX), source::FILE_BYTES);
    if size > limit {
        return Ok(Err(EntryError::TooBig { path, size, limit }));
    }
    Ok(source::file(path, fs::read(place)?))
}

/// What is below a folder.
#[derive(Default)]
struct Found {
    /// Files of policy, by path relative to the folder.
    files: BTreeMap<String, PathBuf>,
    /// Entries that may not be there.
    problems: Vec<Problem>,
}

impl Found {
    fn walk(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("failed to read folder {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("failed to read folder {}", folder.display()))?;
            let place = entry.path();
            let kind = entry.file_type().with_context(|| format!("failed to look at {}", place.display()))?;
            let Some(kind) = kind_of(&place, kind) else { continue };
            let path = source::join(prefix, &entry.file_name().to_string_lossy());
            match source::reading(prefix, entry.file_name().as_bytes(), kind) {
                Ok(Reading::Folder) => self.walk(&place, &path)?,
                Ok(Reading::File) => {
                    self.files.insert(path, place);
                }
                Ok(Reading::Nothing) => {}
                Err(error) => self.problems.push(error.problem()),
            }
        }
        Ok(())
    }
}

/// What git would make of an entry; nothing of sockets and the like.
fn kind_of(place: &Path, kind: fs::FileType) -> Option<EntryKind> {
    if kind.is_symlink() {
        Some(EntryKind::Link)
    } else if kind.is_dir() {
        Some(if place.join(".git").exists() { EntryKind::Submodule } else { EntryKind::Folder })
    } else {
        kind.is_file().then_some(EntryKind::File)
    }
}
