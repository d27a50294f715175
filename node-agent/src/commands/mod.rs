//! What `cven` can be asked to do; [`crate::off`] is what it does once.
//!
//! * [`cluster`]: it enforces what the apiserver says.
//! * [`folder`]: it enforces what a folder says.

pub mod cluster;
pub mod folder;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ringfence_dataplane::Host;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::cni::{Ask, Chaining, keeping, listener};
use crate::engine::NodeSide;
use crate::host::{self, Apiserver};
use crate::lasting::lasting;
use crate::machine;
use crate::netns::{self, Cookie};
use crate::readings::Readings;
use crate::tools::Backend;

/// Waits until no other agent is at work on this node, such as one whose Pod was deleted by force: two would write over one
/// another's rules. What is given is to be kept until the process ends; nothing where it was told to end meanwhile.
///
/// # Errors
/// When the folder cannot be looked at: nobody knows then, and there is no ledger either.
async fn be_alone(state_dir: &Path, stop: &CancellationToken) -> std::io::Result<Option<File>> {
    std::fs::create_dir_all(state_dir)?;
    let folder = File::open(state_dir)?;
    let mut waits = false;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {}
        }
        if !std::mem::replace(&mut waits, true) {
            tracing::warn!(folder = %state_dir.display(), "another agent is still at work on this node: waiting until it ends");
        }
        // The kernel tells nobody but who waits for the lock, and such a thread could not be told to end.
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

/// Listens to the CNI plugin and keeps it in its place, as far as the options ask for that.
fn follow_cni(options: &Options) -> anyhow::Result<(UnboundedReceiver<Ask>, Option<watch::Sender<Option<Chaining>>>)> {
    let (asks, asks_in) = unbounded_channel();
    if let Some(socket) = &options.cni_socket {
        let listener = listener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
        lasting("CNI socket", listener::serve(listener, asks.clone()));
    }
    let chaining = options.cni_place().map(|place| {
        let (chaining, wanted) = watch::channel(None);
        lasting("CNI configuration", keeping::keep(place, wanted, asks));
        chaining
    });
    Ok((asks_in, chaining))
}

/// Keeps the network namespace of the node itself, with what an agent before this one has read back there.
fn follow_node(
    options: &Options,
    backend: Backend,
    readings: &BTreeMap<Cookie, Readings>,
    state_dir: Option<&Path>,
    apiserver: Option<Apiserver>,
) -> NodeSide {
    let location = options.host_location();
    let remembered = netns::run_in(&location, |cookie| readings.get(&cookie).cloned()).ok().flatten();
    let host = Host {
        addresses: Vec::new(),
        resolvers: machine::resolvers(Path::new("/etc/resolv.conf")),
        apiserver: apiserver.as_ref().map(Apiserver::ends).unwrap_or_default(),
    };
    let keeper = host::Keeper::new(backend, location, state_dir).reaching(apiserver).remembering(remembered);
    let ((wanted, wanted_in), (said, said_in)) =
        (watch::channel(host::Wanted::Keep), watch::channel(host::Said::default()));
    lasting("rules of the node", host::follow(keeper, wanted_in, said));
    NodeSide::new(host, wanted, said_in)
}

/// The time in which rules that were read back come back in the same form, from namespaces with the same cookies.
fn era(backend: Backend) -> Option<String> {
    let version = backend.version().inspect_err(|error| tracing::warn!("failed to know what reads rules: {error}"));
    Some(format!("{} {}", machine::boot_id()?, version.ok()?))
}

/// A token that is cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let token = stop.clone();
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: rules stay in force");
        token.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_agent_of_a_node_waits_for_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, stop) = (folder.path().join("state"), CancellationToken::new());
        let first = be_alone(&state, &stop).await.expect("it is there").expect("nobody else is");
        let second = tokio::spawn({
            let (state, stop) = (state.clone(), stop.clone());
            async move { be_alone(&state, &stop).await }
        });
        let third = CancellationToken::new();
        third.cancel();
        assert!(be_alone(&state, &third).await.expect("it is there").is_none(), "it was told to end");
        assert!(!second.is_finished());
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(20), second).await.expect("in time");
        second.expect("no panic").expect("it is there").expect("nobody else is");
    }
}
