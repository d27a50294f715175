//! Reads a folder of policy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ringfence_compile::policy::Policy;
use ringfence_compile::source::{self, LiveNames, Problem, Severity, SourceFile};

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
    /// Reads and checks every `*.yaml` and `*.yml` of a folder.
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

/// The files of a folder, and a problem for each that is no text.
fn read_files(folder: &Path) -> Result<(Vec<SourceFile>, Vec<Problem>)> {
    if !folder.is_dir() {
        bail!("failed to find a folder at {}", folder.display());
    }
    let mut paths = BTreeMap::new();
    walk(folder, "", &mut paths)?;
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for (path, place) in paths {
        let bytes = fs::read(&place).with_context(|| format!("failed to read {}", place.display()))?;
        match String::from_utf8(bytes) {
            Ok(text) => files.push(SourceFile { path, text }),
            Err(_) => {
                let message = "this is not text in UTF-8: save it as such".to_owned();
                problems.push(Problem { path, line: 1, column: 1, message, severity: Severity::Error });
            }
        }
    }
    Ok((files, problems))
}

/// Finds the YAML files below a folder. Symbolic links are passed over, as the git importer does: what they lead to
/// inside the folder is found anyway, and what is outside is no part of the policy.
fn walk(folder: &Path, prefix: &str, found: &mut BTreeMap<String, std::path::PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("failed to read folder {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("failed to read folder {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type().with_context(|| format!("failed to look at {}", entry.path().display()))?;
        if kind.is_dir() && name != ".git" {
            walk(&entry.path(), &path, found)?;
        } else if kind.is_file() && (name.ends_with(".yaml") || name.ends_with(".yml")) {
            found.insert(path, entry.path());
        }
    }
    Ok(())
}
