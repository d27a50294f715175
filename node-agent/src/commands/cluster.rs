//! `cven run`: the agent of a node of a cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use ringfence_cni::Fallback;
use ringfence_dataplane::{LocalPod, ObjectStore};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, watch};

use super::{be_alone, era, follow_cni, follow_node, stop_on_signal};
use crate::Options;
use crate::cni::install;
use crate::cri::Runtime;
use crate::engine::{Engine, Inputs, Outputs, Settings};
use crate::feed::{Change, Wanted, kubernetes};
use crate::flows::usage;
use crate::gate::Gate;
use crate::health::{Fault, Health};
use crate::lasting::lasting;
use crate::ledger::{self, Kept, Ledger};
use crate::machine;
use crate::off::Switch;
use crate::report::{self, Identity, Report};
use crate::sandboxes::{self, Seen};
use crate::tools::Backend;
use crate::view::View;

/// `cven run`: enforces what the apiserver says until it is told to end. Rules stay when it does.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let node = options.node().context("know this node: give --node-name or NODE_NAME")?;
    let stop = stop_on_signal()?;
    match be_alone(options.state_dir(), &stop).await {
        Ok(None) => return Ok(()),
        // Threads may be at work after this has returned: the end of the process lets another agent begin.
        Ok(Some(alone)) => std::mem::forget(alone),
        // A full or broken disk keeps no agent from its work.
        Err(error) => {
            let folder = options.state_dir().display();
            tracing::warn!(%folder, "failed to know whether another agent is at work on this node: {error}");
        }
    }
    let backend = Backend::probe()?;
    let machine_id = machine::machine_id(&[&options.machine_id_file, Path::new("/etc/machine-id")]);
    let (ledger, kept, damage) = Ledger::open(options.state_dir(), &node, machine_id.as_deref(), era(backend));
    tracing::info!(%node, backend = backend.as_str(), from_ledger = kept.is_some(), "starting");
    let (health, health_in) = watch::channel(health_after(damage));

    let (outputs, told) = Outputs::new();
    let (sandboxes, missed) = follow_sandboxes(options)?;
    let writer = tokio::spawn(ledger::keep(ledger, told.ledger, health.clone()));
    lasting("conntrack", usage::watch(told.places, health));
    let identity = Identity { node, machine_id, boot_id: machine::boot_id(), backend: backend.as_str() };
    let changes = follow_cluster(identity, told.wanted, told.reports, health_in).await?;

    if options.cni_socket.is_none() {
        // A plugin that an agent with other settings has left behind must not wait for this one.
        install::forget_fallback(options.state_dir());
    }
    let (asks, chaining) = follow_cni(options)?;
    let (objects, settings) = settings(options, kept).await?;
    let outputs = Outputs { chaining, ..outputs };
    let (engine, arrivals) = Engine::new(View::new(objects), backend, settings, outputs);
    let off = follow_switch(options);
    engine.run(Inputs { changes, sandboxes, asks, off, missed, stop }, arrivals).await;
    // The last state is written before the end; rules stay as they are.
    writer.await.context("write the ledger")?;
    Ok(())
}

/// What is wrong to begin with.
fn health_after(damage: Option<String>) -> Health {
    let ledger = damage.map(|problem| Fault::ledger_damaged(&problem));
    ledger.iter().for_each(|fault| tracing::warn!("{}", fault.message));
    Health { ledger, ..Health::default() }
}

/// Looks for sandboxes: where they arrive, and how to say that one is missed.
fn follow_sandboxes(options: &Options) -> anyhow::Result<(UnboundedReceiver<Seen>, Arc<Notify>)> {
    let (found, sandboxes) = unbounded_channel();
    let missed = Arc::new(Notify::new());
    let runtime = Runtime::at(&options.cri_socket)?;
    lasting("sandboxes", sandboxes::follow(runtime, options.netns_dir.clone(), missed.clone(), found));
    Ok((sandboxes, missed))
}

/// Reads what is wanted from the apiserver, and reports to it.
async fn follow_cluster(
    identity: Identity,
    wanted: watch::Receiver<Wanted>,
    reports: watch::Receiver<Report>,
    health: watch::Receiver<Health>,
) -> anyhow::Result<UnboundedReceiver<Change>> {
    let (told, changes) = unbounded_channel();
    let client = kube::Client::try_default().await.context("find the apiserver")?;
    kubernetes::start(&client, &identity.node, &wanted, &told);
    lasting("report", report::follow(client, identity, reports, health));
    Ok(changes)
}

/// Says whether this node is off.
fn follow_switch(options: &Options) -> watch::Receiver<bool> {
    let switch = Switch::of(options.state_dir());
    let (turned, off) = watch::channel(switch.is_off());
    lasting("switch", switch.follow(turned));
    off
}

/// Objects and Pods.
type Objects = (ObjectStore, BTreeMap<String, LocalPod>);

/// What the engine begins with: the objects of before, if any were kept, and all else.
async fn settings(options: &Options, kept: Option<Kept>) -> anyhow::Result<(Option<Objects>, Settings)> {
    let (objects, known) = kept.map(|kept| ((kept.store, kept.pods), (kept.readings, kept.learned))).unzip();
    let (readings, learned) = known.unwrap_or_default();
    // One that cannot be read is as good as none: nobody starts until something is known.
    let before = Fallback::read(&options.state_dir().join(install::FALLBACK)).ok().flatten();
    let apiserver = match &options.apiserver {
        Some(apiserver) => apiserver.clone(),
        None => kubernetes::apiserver().await.context("find the apiserver")?,
    };
    let on_node = Backend::of_node()?;
    let node = follow_node(options, on_node, &readings, Some(options.state_dir()), Some(apiserver));
    let settings = Settings {
        own_namespace: options.own_namespace.clone(),
        pod_start_wait: options.pod_start_wait(),
        before,
        readings,
        learned,
        node: Some(node),
        gate: options.keeps_gate().then(|| Gate::new(on_node)),
        stale_gate: !options.keeps_gate(),
        ..Settings::default()
    };
    Ok((objects, settings))
}
