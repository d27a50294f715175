//! Off, on purpose: `cven off` takes everything of ours away from this node, without an apiserver, and it stays away until
//! `cven on`, over restarts and upgrades of the agent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use ringfence_dataplane::Place;
use tokio::sync::watch;

use crate::Options;
use crate::apply::{ApplyError, Done, Known, Terms, Wanted, apply};
use crate::cni::install;
use crate::cri::{Runtime, Sandbox};
use crate::gate::kernel;
use crate::netns::{self, Location};
use crate::sandboxes::FolderWatch;
use crate::tools::Backend;

/// Name of the file in the state folder that says so.
const FILE: &str = "off";
/// An agent that runs takes rules away at the same time: whoever comes second tries again.
const TRIES: usize = 3;

/// Whether this node is off.
#[derive(Debug, Clone)]
pub struct Switch(PathBuf);

impl Switch {
    /// That of the agent with this state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self(state_dir.join(FILE))
    }

    /// Whether it is off.
    pub fn is_off(&self) -> bool {
        self.0.exists()
    }

    fn turn_off(&self) -> std::io::Result<()> {
        let folder = self.0.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // Empty, so that a full disk has room for it.
        std::fs::File::create(&self.0)?.sync_all()?;
        std::fs::File::open(folder)?.sync_all()
    }

    fn turn_on(&self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Says whenever it is turned, until nobody listens.
    pub async fn follow(self, tell: watch::Sender<bool>) {
        let folder = self.0.parent().unwrap_or(Path::new(".")).to_owned();
        loop {
            let watch = FolderWatch::new(&folder);
            let off = self.is_off();
            tell.send_if_modified(|told| std::mem::replace(told, off) != off);
            tokio::select! {
                () = tell.closed() => return,
                () = changed(watch) => {}
            }
        }
    }
}

/// Waits until something in the folder has changed, or, where it cannot be watched, a while.
async fn changed(watch: Result<FolderWatch, std::io::Error>) {
    match watch {
        Ok(mut watch) => watch.changed().await,
        Err(_) => tokio::time::sleep(std::time::Duration::from_secs(5)).await,
    }
}

/// `cven on`: policy is in force on this node again, as soon as an agent runs.
///
/// # Errors
/// When the file stays.
pub fn on(options: &Options) -> anyhow::Result<()> {
    Switch::of(options.state_dir()).turn_on().context("turn this node on")?;
    println!("this node is on: its agent enforces what it has read");
    Ok(())
}

/// `cven off`: takes every rule and set of ours away from all Pods and from the node itself, and the CNI plugin out of the node's configuration.
///
/// # Errors
/// What stays.
pub async fn off(options: &Options) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    // First, so that no agent puts anything back. Where no agent runs, what follows is worth doing without.
    if let Err(error) = Switch::of(options.state_dir()).turn_off() {
        failed.push(format!("note that this node is off, so that an agent does not put everything back: {error}"));
    }
    // By this the plugin refuses Pods while no agent answers. Whatever becomes of rules, Pods are to start.
    install::forget_fallback(options.state_dir());
    let removed = match Backend::probe() {
        Ok(backend) => remove_from_pods(backend, options, &mut failed).await,
        Err(error) => {
            failed.push(error.to_string());
            0
        }
    };
    tokio::task::block_in_place(|| remove_from_node(options, &mut failed));
    match options.cni_place().map(|place| place.remove()) {
        Some(Err(error)) => failed.push(error.to_string()),
        Some(Ok(_)) => {}
        // It may be another agent's. By nothing to refuse by, it lets Pods start.
        None => println!(
            "where the CNI plugin is was not said (--cni-conf-dir, --cni-bin-dir): it stays, and refuses nobody"
        ),
    }
    println!("this node is off until 'cven on'; rules were taken away from {removed} network namespaces here");
    if !failed.is_empty() {
        bail!("take everything away: {}", failed.join("; "));
    }
    Ok(())
}

/// Takes what is ours away from every Pod; says from how many.
async fn remove_from_pods(backend: Backend, options: &Options, failed: &mut Vec<String>) -> usize {
    let mut removed = 0;
    for location in locations(options).await {
        match tokio::task::block_in_place(|| remove(backend, &location, Place::Pod)) {
            Ok(done) => removed += usize::from(done == Done::Removed),
            Err(error) => failed.push(format!("{location}: {error}")),
        }
    }
    removed
}

/// Takes the rules of the node itself away, and its gate.
fn remove_from_node(options: &Options, failed: &mut Vec<String>) {
    // The kubelet may use another back end than when its rules were written.
    let own = options.host_location();
    for backend in Backend::in_use_on_node() {
        if let Err(error) = remove(backend, &own, Place::Host) {
            failed.push(format!("the node itself: {error}"));
        }
    }
    // Also one that another agent, with other settings, has left.
    if let Err(error) = tried(remove_gate) {
        failed.push(format!("the gate of this node: {error}"));
    }
}

/// Takes the gate away from the network namespace of this process, which is the node's.
///
/// # Errors
/// What the kernel or a program says.
pub fn remove_gate() -> Result<(), String> {
    let remove = |backend| -> Result<(), ApplyError> {
        let mut known = kernel::bring(backend, &Arc::default(), kernel::Known::Unread, false)?.known;
        kernel::clean_up(&mut known)
    };
    // The kubelet may use another back end than when it was made.
    let mut backends = Backend::in_use_on_node().into_iter();
    backends.try_for_each(remove).map_err(|error| error.to_string())
}

fn remove(backend: Backend, location: &Location, place: Place) -> Result<Done, String> {
    let terms = Terms { place, ..Terms::default() };
    let work = || netns::run_in(location, |_| apply(backend, &Wanted::Nothing, Known::Unread, &terms));
    tried(|| match work() {
        Ok(Ok(outcome)) => Ok(outcome.done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    })
}

/// Does it until it succeeds, a few times.
fn tried<T>(once: impl Fn() -> Result<T, String>) -> Result<T, String> {
    let mut last = once();
    for _ in 1..TRIES {
        if last.is_ok() {
            break;
        }
        last = once();
    }
    last
}

/// Every network namespace that may be a Pod's.
async fn locations(options: &Options) -> Vec<Location> {
    let mut places: BTreeSet<PathBuf> = std::fs::read_dir(&options.netns_dir)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    let mut processes = BTreeSet::new();
    match all_sandboxes(options).await {
        Ok(sandboxes) => {
            for sandbox in sandboxes.into_iter().filter(|sandbox| !sandbox.host_network) {
                match (sandbox.netns.path, sandbox.netns.pid) {
                    (Some(path), _) => drop(places.insert(path)),
                    (None, pid) => processes.extend(pid),
                }
            }
        }
        Err(error) => tracing::warn!("failed to {error:#}: looking only in {}", options.netns_dir.display()),
    }
    let paths = places.iter().map(|path| Location::at(path));
    let pids = processes.into_iter().map(|pid| Location { path: None, pid: Some(pid) });
    paths.chain(pids).collect()
}

async fn all_sandboxes(options: &Options) -> anyhow::Result<Vec<Sandbox>> {
    let runtime = Runtime::at(&options.cri_socket)?;
    let mut sandboxes = Vec::new();
    for listed in runtime.ready_sandboxes().await? {
        sandboxes.extend(runtime.sandbox(listed).await?);
    }
    Ok(sandboxes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn whoever_turns_it_is_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let switch = Switch::of(&folder.path().join("state"));
        switch.turn_on().expect("it is on already");
        assert!(!switch.is_off());
        switch.turn_off().expect("turned");
        let (tell, mut told) = watch::channel(false);
        let following = tokio::spawn(switch.clone().follow(tell));
        for off in [true, false, true] {
            if off { switch.turn_off() } else { switch.turn_on() }.expect("turned");
            let heard = tokio::time::timeout(Duration::from_secs(20), told.wait_for(|told| *told == off));
            heard.await.expect("in time").expect("it follows");
        }
        drop(told);
        following.await.expect("it ends");
    }

    /// Nobody who has to turn a node off can wait for room on its disk.
    #[test]
    fn a_full_disk_has_room_for_the_switch() {
        let Some(disk) = crate::lab::Small::new("a_full_disk_has_room_for_the_switch") else { return };
        let switch = Switch::of(&disk.path().join("state"));
        switch.turn_off().expect("there is room");
        switch.turn_on().expect("it is taken away");
        disk.fill();
        switch.turn_off().expect("an empty file takes none");
        assert!(switch.is_off());
    }
}
