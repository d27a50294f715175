//! The bare repository on disk that a remote's commits are downloaded into.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use git2::{Direction, ErrorClass, ObjectType, Oid, RemoteConnection, Repository};

use super::remote::{Head, Verdict, callbacks, choose, explain, fetch_options, proxy};
use super::{GitError, Limits, Reference, Remote};

/// Where downloads leave the tip, so that a later download need not repeat what leads to it.
const TIP: &str = "refs/ringfence/tip";

/// Opens the bare repository, or makes it.
pub(super) fn open(path: &Path) -> Result<Repository, GitError> {
    fs::create_dir_all(path).map_err(|source| GitError::Cache { path: path.to_owned(), source })?;
    Ok(Repository::open_bare(path).or_else(|_| Repository::init_bare(path))?)
}

/// Removes the bare repository, whatever state it is in.
pub(super) fn remove(path: &Path) -> Result<(), GitError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(GitError::Cache { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes sure that the commit which `remote` refers to is in the repository, and says which it is.
pub(super) fn bring(
    repository: &Repository,
    remote: &Remote,
    limits: &Limits,
    deadline: Instant,
) -> Result<Oid, GitError> {
    // A commit never changes: what is here need not be asked for.
    if let Reference::Commit(id) = &remote.reference {
        let id = parse(id)?;
        if let Ok(id) = peel(repository, id) {
            return Ok(id);
        }
    }
    let verdict: Verdict = Rc::new(RefCell::new(None));
    let transfer = Transfer { repository, remote, limits, deadline, verdict };
    transfer.run()
}

fn parse(id: &str) -> Result<Oid, GitError> {
    Oid::from_str(id).map_err(|_| GitError::CommitMissing(id.to_owned()))
}

/// The commit that an object is or, being a tag, names; with its tree.
fn peel(repository: &Repository, id: Oid) -> Result<Oid, git2::Error> {
    let commit = repository.find_object(id, None)?.peel(ObjectType::Commit)?;
    commit.peel(ObjectType::Tree)?;
    Ok(commit.id())
}

struct Transfer<'a> {
    repository: &'a Repository,
    remote: &'a Remote,
    limits: &'a Limits,
    deadline: Instant,
    verdict: Verdict,
}

impl Transfer<'_> {
    fn run(&self) -> Result<Oid, GitError> {
        let mut remote = self.repository.remote_anonymous(&self.remote.url)?;
        let callbacks = callbacks(self.remote, self.limits, self.deadline, &self.verdict);
        let mut connection = remote
            .connect_auth(Direction::Fetch, Some(callbacks), Some(proxy()))
            .map_err(|error| self.explain(error))?;
        let heads = connection
            .list()
            .map_err(|error| self.explain(error))?
            .iter()
            .map(|head| Head { name: head.name().to_owned(), id: head.oid() })
            .collect::<Vec<_>>();
        match (choose(&heads, &self.remote.reference)?, &self.remote.reference) {
            (Some(head), _) => self.bring_head(&mut connection, head),
            (None, Reference::Commit(id)) => self.bring_commit(&mut connection, id),
            (None, reference) => unreachable!("only a commit is not advertised, and this is {reference:?}"),
        }
    }

    fn bring_head(&self, connection: &mut RemoteConnection<'_, '_, '_>, head: &Head) -> Result<Oid, GitError> {
        if let Ok(id) = peel(self.repository, head.id) {
            return Ok(id);
        }
        self.download(connection, &[format!("+{}:{TIP}", head.name)])?;
        Ok(peel(self.repository, head.id)?)
    }

    /// Servers need not hand out a commit that is no tip: then everything is downloaded and searched.
    fn bring_commit(&self, connection: &mut RemoteConnection<'_, '_, '_>, id: &str) -> Result<Oid, GitError> {
        let oid = parse(id)?;
        if self.download(connection, &[format!("+{id}:{TIP}")]).is_ok()
            && let Ok(oid) = peel(self.repository, oid)
        {
            return Ok(oid);
        }
        self.verdict.borrow_mut().take();
        let all = ["+refs/heads/*:refs/ringfence/heads/*", "+refs/tags/*:refs/ringfence/tags/*"].map(str::to_owned);
        self.fetch(connection, &all, false).map_err(|error| self.explain(error))?;
        peel(self.repository, oid).map_err(|_| GitError::CommitMissing(id.to_owned()))
    }

    /// Downloads with a depth of one where possible. The transport for local files cannot, nor can some servers.
    fn download(&self, connection: &mut RemoteConnection<'_, '_, '_>, refspecs: &[String]) -> Result<(), GitError> {
        let shallow = self.remote.url.starts_with("https://");
        let result = self.fetch(connection, refspecs, shallow).or_else(|error| {
            let unsupported = error.class() == ErrorClass::Net && error.message().contains("shallow");
            if unsupported { self.fetch(connection, refspecs, false) } else { Err(error) }
        });
        result.map_err(|error| self.explain(error))
    }

    fn fetch(
        &self,
        connection: &mut RemoteConnection<'_, '_, '_>,
        refspecs: &[String],
        shallow: bool,
    ) -> Result<(), git2::Error> {
        let callbacks = callbacks(self.remote, self.limits, self.deadline, &self.verdict);
        let mut options = fetch_options(self.remote, callbacks, shallow);
        connection.remote().fetch(refspecs, Some(&mut options), None)
    }

    fn explain(&self, error: git2::Error) -> GitError {
        explain(error, self.remote, &self.verdict)
    }
}
