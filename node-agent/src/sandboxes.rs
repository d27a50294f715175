//! Which sandboxes run: the container runtime is asked when a network namespace appears in or goes from the folder that
//! runtimes mount them in, or when somebody misses one. That is before Kubernetes reports the Pod as running.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel};
use tokio::time::Instant;

use crate::cri::{CriError, Runtime, Sandbox};

/// How soon the runtime is asked again while a namespace belongs to no sandbox: it lists one only when its network is
/// complete. Doubles up to [`SLOWEST`].
const FASTEST: Duration = Duration::from_millis(20);
/// See [`FASTEST`].
const SLOWEST: Duration = Duration::from_secs(1);
/// After so long without news, a namespace that belongs to no sandbox is somebody else's.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of the sandboxes that run.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Those that could be looked at; nothing is not the same as none.
    pub sandboxes: Option<Vec<Sandbox>>,
    /// Why there may be others.
    pub problem: Option<String>,
}

/// Looks for sandboxes until the receiver is gone. `missed` makes it look at once.
pub async fn follow(runtime: Runtime, folder: PathBuf, missed: Arc<Notify>, found: UnboundedSender<Seen>) {
    let mut watch = FolderWatch::new(&folder);
    if let Err(error) = &watch {
        tracing::warn!(folder = %folder.display(), %error, "failed to watch for network namespaces: Pods are found only when Kubernetes reports them");
    }
    let mut known = BTreeMap::new();
    let mut told: Option<Seen> = None;
    let mut listed = false;
    let mut delay = FASTEST;
    let mut patient_until = Instant::now() + PATIENCE;
    loop {
        let problem = refresh(&runtime, &mut known).await.err().map(|error| error.to_string());
        if let Some(error) = &problem {
            tracing::warn!(%error, "failed to look at the sandboxes: trying again");
            patient_until = Instant::now() + PATIENCE;
            delay = SLOWEST;
        }
        listed |= problem.is_none() || !known.is_empty();
        let settled = problem.is_none() && is_settled(&folder, &known);
        let now = Seen { sandboxes: listed.then(|| known.values().cloned().collect()), problem };
        if told.as_ref() != Some(&now) {
            if found.send(now.clone()).is_err() {
                return;
            }
            told = Some(now);
        }
        let again = !settled && Instant::now() < patient_until;
        tokio::select! {
            () = news(&mut watch) => {
                delay = FASTEST;
                patient_until = Instant::now() + PATIENCE;
            }
            () = missed.notified() => {}
            () = tokio::time::sleep(delay), if again => delay = (delay * 2).min(SLOWEST),
        }
    }
}

/// Brings `known` up to date: asks for details of new sandboxes only. One of which nothing can be learned does not hide
/// the others.
async fn refresh(runtime: &Runtime, known: &mut BTreeMap<String, Sandbox>) -> Result<(), CriError> {
    let listed = runtime.ready_sandboxes().await?;
    let ids: BTreeSet<&str> = listed.iter().map(|sandbox| sandbox.id.as_str()).collect();
    known.retain(|id, _| ids.contains(id.as_str()));
    let mut refused = None;
    for sandbox in listed {
        if known.contains_key(&sandbox.id) {
            continue;
        }
        match runtime.sandbox(sandbox).await {
            Ok(Some(sandbox)) => drop(known.insert(sandbox.id.clone(), sandbox)),
            Ok(None) => {}
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Whether every namespace in the folder belongs to a sandbox, and every sandbox still has its namespace.
fn is_settled(folder: &Path, known: &BTreeMap<String, Sandbox>) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return true };
    let present: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let used: BTreeSet<PathBuf> = known.values().filter_map(|sandbox| sandbox.netns.path.clone()).collect();
    let inside = |path: &&PathBuf| path.parent() == Some(folder);
    present.is_subset(&used) && used.iter().filter(inside).all(|path| present.contains(path))
}

/// Waits until something in the folder has changed; for ever if it is not watched.
async fn news(watch: &mut Result<FolderWatch, std::io::Error>) {
    match watch {
        Ok(watch) => watch.changed().await,
        Err(_) => std::future::pending().await,
    }
}

/// Tells when files in one folder come, go, or are written. With it goes what the kernel watches: it has few such watches
/// to give, for everybody on the node.
#[derive(Debug)]
pub struct FolderWatch {
    news: Receiver<()>,
    /// Closed when this is dropped: the thread that waits for news sees that, and ends.
    _alive: PipeWriter,
}

impl FolderWatch {
    /// Watches a folder, not those in it.
    ///
    /// # Errors
    /// When the folder is not there or the kernel has no watch left.
    pub fn new(folder: &Path) -> Result<Self, std::io::Error> {
        Self::over(&[folder])
    }

    /// Watches several folders.
    ///
    /// # Errors
    /// See [`FolderWatch::new`].
    pub fn over(folders: &[&Path]) -> Result<Self, std::io::Error> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let watched = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB;
        for folder in folders {
            inotify.add_watch(*folder, watched)?;
        }
        let (ended, alive) = std::io::pipe()?;
        // One that waits to be taken is as good as many.
        let (tell, news) = channel(1);
        let wait = move || {
            while await_events(&inotify, &ended) && !matches!(tell.try_send(()), Err(TrySendError::Closed(()))) {}
        };
        std::thread::Builder::new().name("inotify".to_owned()).spawn(wait)?;
        Ok(Self { news, _alive: alive })
    }

    /// Waits until something has changed.
    pub async fn changed(&mut self) {
        if self.news.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

/// Waits until there are events, and takes them; false when nobody asks for them any more.
fn await_events(inotify: &Inotify, ended: &PipeReader) -> bool {
    let mut waited = [inotify.as_fd(), ended.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut waited, PollTimeout::NONE) {
        Ok(_) => !waited[1].any().unwrap_or(true) && inotify.read_events().is_ok(),
        Err(error) => error == Errno::EINTR && await_events(inotify, ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Location;

    fn sandbox(path: &Path) -> (String, Sandbox) {
        let mut sandbox: Sandbox = serde_json::from_value(serde_json::json!({
            "id": "s", "uid": "u", "namespace": "shop", "name": "web", "labels": {}, "annotations": {},
            "created_at": 0, "host_network": false, "netns": {}, "ips": [], "dns_servers": []
        }))
        .expect("a sandbox");
        sandbox.netns = Location::at(path);
        ("s".to_owned(), sandbox)
    }

    #[test]
    fn a_namespace_without_a_sandbox_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cni-1");
        assert!(is_settled(folder.path(), &BTreeMap::new()));
        std::fs::write(&path, "").expect("written");
        assert!(!is_settled(folder.path(), &BTreeMap::new()));
        let known = [sandbox(&path)].into();
        assert!(is_settled(folder.path(), &known));
        std::fs::remove_file(&path).expect("removed");
        assert!(!is_settled(folder.path(), &known), "the sandbox is about to go");
    }

    #[tokio::test]
    async fn a_new_file_is_news() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut watch = FolderWatch::new(folder.path()).expect("watched");
        std::fs::write(folder.path().join("cni-2"), "").expect("written");
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("news");
    }

    /// The kernel has some 128 for all programs of a user.
    #[tokio::test]
    async fn a_watch_that_is_dropped_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || std::fs::read_dir("/proc/self/fd").expect("it is there").flatten();
        let leads_to_inotify =
            |path: &Path| std::fs::read_link(path).is_ok_and(|to| to.ends_with("anon_inode:inotify"));
        let count = || open().filter(|entry| leads_to_inotify(&entry.path())).count();
        for _ in 0..1000 {
            // Others may hold many just now.
            drop(FolderWatch::new(folder.path()));
        }
        // Their threads see it a moment later, and other tests have watches too.
        let gone = async {
            while count() > 50 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("they go");
    }
}
