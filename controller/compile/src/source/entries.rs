//! What of a folder is policy: the one rule for the importer, which reads a commit, and the command line, which reads
//! a folder on disk.

use super::{Parsed, Place, Problem, Severity, SourceFile};

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A plain file.
    File,
    /// A symbolic link, whatever it leads to.
    Link,
    /// A repository within the repository.
    Submodule,
}

/// What is done with an entry of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Its entries are looked at.
    Folder,
    /// It is read as policy.
    File,
    /// It is no policy.
    Nothing,
}

/// Why an entry cannot stand in a folder of policy. Leaving it out would silently change policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Something that is neither a folder nor a plain file.
    #[error("'{path}' is a {what}, and policy is read from plain files only: replace it by a copy or remove it")]
    NotPlain {
        /// Path in the folder of policy.
        path: String,
        /// Symbolic link or submodule.
        what: &'static str,
    },
    /// A name that no file system, or only some, would hold.
    #[error("the folder '{folder}' has an entry named '{name}', which is no valid file name: rename it")]
    BadName {
        /// Path of the folder.
        folder: String,
        /// The name, made printable.
        name: String,
    },
    /// Not UTF-8.
    #[error("'{path}' is not UTF-8 text: save it as UTF-8")]
    NotText {
        /// Path in the folder of policy.
        path: String,
    },
    /// Too much for one file.
    #[error("'{path}' has {size} bytes and {limit} are allowed: split it")]
    TooBig {
        /// Path in the folder of policy.
        path: String,
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl EntryError {
    /// The error as a problem of the entry as a whole.
    pub fn problem(&self) -> Problem {
        let path = match self {
            Self::NotPlain { path, .. } | Self::NotText { path } | Self::TooBig { path, .. } => path.clone(),
            Self::BadName { folder, name } => join(folder, name),
        };
        let Place { line, column } = Place::START;
        Problem { path, line, column, message: self.to_string(), severity: Severity::Error }
    }
}

/// What is done with the entry `name` of `folder` (a path relative to the folder of policy, empty for that itself).
/// What begins with a dot (`.github`) is no policy.
///
/// # Errors
/// When the entry may not be there at all.
pub fn reading(folder: &str, name: &[u8], kind: EntryKind) -> Result<Reading, EntryError> {
    let odd = name.is_empty()
        || name == b"."
        || name == b".."
        || name.iter().any(|byte| matches!(byte, b'/' | b'\\') || byte.is_ascii_control());
    let name = match std::str::from_utf8(name) {
        Ok(name) if !odd => name,
        _ => {
            let name = String::from_utf8_lossy(name).escape_debug().to_string();
            return Err(EntryError::BadName { folder: folder.to_owned(), name });
        }
    };
    let not_plain = |what| EntryError::NotPlain { path: join(folder, name), what };
    match kind {
        _ if name.starts_with('.') => Ok(Reading::Nothing),
        EntryKind::Folder => Ok(Reading::Folder),
        EntryKind::File if is_policy(name) => Ok(Reading::File),
        EntryKind::File => Ok(Reading::Nothing),
        EntryKind::Link => Err(not_plain("symbolic link")),
        EntryKind::Submodule => Err(not_plain("submodule")),
    }
}

/// A file that is read as policy, from what is stored.
///
/// # Errors
/// When it is not text.
pub fn file(path: String, content: Vec<u8>) -> Result<SourceFile, EntryError> {
    match String::from_utf8(content) {
        Ok(text) => Ok(SourceFile { path, text }),
        Err(_) => Err(EntryError::NotText { path }),
    }
}

/// The path of an entry.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Whether a file is named as policy is: `*.yaml` or `*.yml`.
pub(super) fn is_policy(path: &str) -> bool {
    path.ends_with(".yaml") || path.ends_with(".yml")
}

/// A warning for each object that is no part of the policy though it stands among it. A repository may hold the
/// PolicyRepository that leads to it; but whoever writes to a repository must not thereby choose which Secrets the
/// controller reads.
pub(super) fn left_out(parsed: &Parsed) -> Vec<Problem> {
    let repositories = parsed.objects.iter().filter(|object| !object.is_policy());
    let problems = repositories.map(|object| Problem {
        path: object.origin.file.clone(),
        line: object.origin.line,
        column: 1,
        message: format!(
            "{} is left out: a PolicyRepository does not bring another one, since it names Secrets; apply it with kubectl",
            object.key
        ),
        severity: Severity::Warning,
    });
    problems.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_passed_over_or_refused() {
        use EntryKind as K;
        use Reading as R;
        for (name, kind, expected) in [
            ("a.yaml", K::File, R::File),
            ("a.yml", K::File, R::File),
            ("README.md", K::File, R::Nothing),
            (".a.yaml", K::File, R::Nothing),
            ("shop", K::Folder, R::Folder),
            (".github", K::Folder, R::Nothing),
            (".link", K::Link, R::Nothing),
        ] {
            assert_eq!(reading("", name.as_bytes(), kind), Ok(expected), "{name}");
        }
        let link = reading("shop", b"README.md", K::Link).map_err(|error| error.to_string());
        let words = "'shop/README.md' is a symbolic link, and policy is read from plain files only: replace it by a \
                     copy or remove it";
        assert_eq!(link, Err(words.to_owned()));
        assert!(matches!(reading("", b"sub", K::Submodule), Err(EntryError::NotPlain { what: "submodule", .. })));
        for odd in [&b"a\nb.yaml"[..], b"a\\b.yaml", b"..", b".", b"", b"\xff.yaml"] {
            assert!(matches!(reading("", odd, K::File), Err(EntryError::BadName { .. })), "{odd:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_problem_of_its_path() {
        let shown = |error: EntryError| error.problem().to_string();
        let name = reading("shop", b"a\nb.yaml", EntryKind::File).expect_err("a line break");
        assert!(shown(name).starts_with("shop/a\\nb.yaml:1:1: error: the folder 'shop' has an entry named"));
        let text = file("a.yaml".to_owned(), vec![0xff, 0xfe]).expect_err("not text");
        assert_eq!(shown(text), "a.yaml:1:1: error: 'a.yaml' is not UTF-8 text: save it as UTF-8");
        let big = EntryError::TooBig { path: "a.yaml".to_owned(), size: 10, limit: 9 };
        assert_eq!(shown(big), "a.yaml:1:1: error: 'a.yaml' has 10 bytes and 9 are allowed: split it");
    }
}
