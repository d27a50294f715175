//! Reading the policy files of a commit from its tree object.

use git2::{ObjectType, Oid, Repository, Tree};
use ringfence_compile::source::{self, EntryError, EntryKind, Problem, Reading, SourceFile};

use super::{GitError, Limits};

/// File mode of a symbolic link.
const MODE_LINK: i32 = 0o120_000;
/// Entries of any kind that are looked at per allowed policy file: a tree may name itself many times over.
const ENTRIES_PER_FILE: usize = 10;

/// The policy files (`*.yaml`, `*.yml`) under `folder`, and a problem for each entry that cannot be read as policy, both
/// sorted by path. What begins with a dot (`.github`) is not policy and is left out; a link or a submodule is a problem,
/// since leaving it out would silently change policy.
pub(super) fn read(
    repository: &Repository,
    commit: Oid,
    folder: &str,
    limits: &Limits,
) -> Result<(Vec<SourceFile>, Vec<Problem>), GitError> {
    let root = repository.find_commit(commit)?.tree()?;
    let folder = normal(folder);
    let tree = subfolder(repository, root, &folder)?;
    let mut reader = Reader { repository, limits, files: Vec::new(), problems: Vec::new(), entries: 0, bytes: 0 };
    let mut open = vec![(folder, tree)];
    while let Some((path, tree)) = open.pop() {
        reader.folder(&path, &tree, &mut open)?;
    }
    let Reader { mut files, mut problems, .. } = reader;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    problems.sort();
    Ok((files, problems))
}

/// `./a//b/` is `a/b`.
fn normal(folder: &str) -> String {
    folder.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

fn subfolder<'r>(repository: &'r Repository, root: Tree<'r>, folder: &str) -> Result<Tree<'r>, GitError> {
    if folder.is_empty() {
        return Ok(root);
    }
    let mut tree = root;
    for part in folder.split('/') {
        let missing = || GitError::PathMissing(folder.to_owned());
        let entry = tree.get_name(part).ok_or_else(missing)?;
        if entry.kind() != Some(ObjectType::Tree) {
            return Err(GitError::PathNoFolder(folder.to_owned()));
        }
        let id = entry.id();
        drop(entry);
        tree = repository.find_tree(id)?;
    }
    Ok(tree)
}

struct Reader<'r> {
    repository: &'r Repository,
    limits: &'r Limits,
    files: Vec<SourceFile>,
    problems: Vec<Problem>,
    entries: usize,
    bytes: usize,
}

impl<'r> Reader<'r> {
    fn folder(&mut self, folder: &str, tree: &Tree<'_>, open: &mut Vec<(String, Tree<'r>)>) -> Result<(), GitError> {
        for entry in tree {
            self.entries += 1;
            if self.entries > self.limits.files.saturating_mul(ENTRIES_PER_FILE) {
                return Err(GitError::TooManyFiles { limit: self.limits.files });
            }
            let kind = match entry.kind() {
                Some(ObjectType::Tree) => EntryKind::Folder,
                Some(ObjectType::Blob) if entry.filemode() != MODE_LINK => EntryKind::File,
                Some(ObjectType::Blob) => EntryKind::Link,
                _ => EntryKind::Submodule,
            };
            let path = source::join(folder, &String::from_utf8_lossy(entry.name_bytes()));
            match source::reading(folder, entry.name_bytes(), kind) {
                Ok(Reading::Folder) => open.push((path, self.repository.find_tree(entry.id())?)),
                Ok(Reading::File) => self.file(path, entry.id())?,
                Ok(Reading::Nothing) => {}
                Err(error) => self.problem(&error)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: String, id: Oid) -> Result<(), GitError> {
        if self.files.len() == self.limits.files {
            return Err(GitError::TooManyFiles { limit: self.limits.files });
        }
        // The size comes first, from the header: the content may be larger than memory.
        let (size, _) = self.repository.odb()?.read_header(id)?;
        let limit = self.limits.file_bytes;
        if size > limit {
            return self.problem(&EntryError::TooBig { path, size, limit });
        }
        self.count(size)?;
        match source::file(path, self.repository.find_blob(id)?.content().to_owned()) {
            Ok(file) => self.files.push(file),
            Err(error) => self.problem(&error)?,
        }
        Ok(())
    }

    /// Keeps an error until the whole tree is read: people want to know of all of them.
    fn problem(&mut self, error: &EntryError) -> Result<(), GitError> {
        let problem = error.problem();
        // What is kept counts: a tree may hold very long paths very many times.
        self.count(problem.path.len() + problem.message.len())?;
        self.problems.push(problem);
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), GitError> {
        self.bytes += bytes;
        if self.bytes > self.limits.total_bytes {
            return Err(GitError::TooBig { limit: self.limits.total_bytes });
        }
        Ok(())
    }
}
