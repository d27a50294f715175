//! What `cven` can be asked to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ringfence_dataplane::LocalPod;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::apply::{Done, Known, Terms, Wanted, apply};
use crate::cri::{Runtime, Sandbox};
use crate::engine::{Engine, Inputs, Outputs};
use crate::feed::pod_file::PodEntry;
use crate::feed::{self, Change, Kind, Object, folder, kubernetes, pods};
use crate::ledger::{Kept, Ledger};
use crate::machine;
use crate::netns::{self, Location};
use crate::report::{self, Identity, Report};
use crate::sandboxes::{self, FolderWatch, Seen};
use crate::tools::Backend;
use crate::view::View;

/// `cven run`: enforces what the apiserver says until it is told to end. Rules stay when it does.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let node = options.node().context("know this node: give --node-name or NODE_NAME")?;
    let backend = Backend::probe()?;
    let machine_id = machine::machine_id(&[&options.machine_id_file, Path::new("/etc/machine-id")]);
    let (ledger, found) = Ledger::open(options.state_dir(), &node, era(backend)).context("open the ledger")?;
    tracing::info!(%node, backend = backend.as_str(), from_ledger = found.is_some(), "starting");

    let stop = stop_on_signal()?;
    let (changes, changes_in) = unbounded_channel();
    let (sandboxes_out, sandboxes) = unbounded_channel();
    let (report, reports) = watch::channel(Report::default());
    let (ledger_out, ledger_in) = watch::channel(None);
    let (wanted_out, wanted) = watch::channel(feed::Wanted::default());
    let missed = Arc::new(Notify::new());
    let runtime = Runtime::at(&options.cri_socket)?;
    tokio::spawn(sandboxes::follow(runtime, options.netns_dir.clone(), missed.clone(), sandboxes_out));
    let writer = tokio::spawn(keep_ledger(ledger, ledger_in));

    let client = kube::Client::try_default().await.context("find the apiserver")?;
    kubernetes::start(&client, &node, &wanted, &changes);
    let identity = Identity { node, machine_id, backend: backend.as_str() };
    tokio::spawn(report::follow(client, identity, reports));

    let outputs = Outputs { report, ledger: ledger_out, wanted: wanted_out };
    let (found, readings) = found.map(|Kept { store, pods, readings }| ((store, pods), readings)).unzip();
    let (engine, arrivals) = Engine::new(View::new(found), backend, outputs);
    let engine = engine.remembering(readings.unwrap_or_default());
    engine.run(Inputs { changes: changes_in, sandboxes, missed, stop }, arrivals).await;
    // The last state is written before the end; rules stay as they are.
    writer.await.context("write the ledger")?;
    Ok(())
}

/// The time in which rules that were read back come back in the same form, from namespaces with the same cookies.
fn era(backend: Backend) -> Option<String> {
    let version = backend.version().inspect_err(|error| tracing::warn!("failed to know what reads rules: {error}"));
    Some(format!("{} {}", machine::boot_id()?, version.ok()?))
}

/// `cven --objects DIR --pods FILE`: enforces a folder, and follows its changes.
pub async fn from_folder(options: &Options, objects: &Path, pods: &Path) -> anyhow::Result<()> {
    let backend = Backend::probe()?;
    let node = options.node();
    let stop = stop_on_signal()?;
    let (changes, changes_in) = unbounded_channel();
    let (sandboxes_out, sandboxes) = unbounded_channel();
    let (report, mut reports) = watch::channel(Report::default());
    let (ledger, news) = watch::channel(None);
    let opened =
        options.state_dir.as_deref().map(|kept| Ledger::open(kept, &node.clone().unwrap_or_default(), era(backend)));
    // Of what was kept only the rules that were read back count: objects are in the folder.
    let (readings, writer) = match opened.transpose().context("open the ledger")? {
        Some((ledger, found)) => (found.unwrap_or_default().readings, Some(tokio::spawn(keep_ledger(ledger, news)))),
        None => (BTreeMap::new(), None),
    };
    // A folder is read whole.
    let (wanted, _) = watch::channel(feed::Wanted::default());
    send_folder(objects, pods, node.as_deref(), &changes, &sandboxes_out)?;

    let (engine, arrivals) = Engine::new(View::new(None), backend, Outputs { report, ledger, wanted });
    // A namespace lives on when its Pod was taken out of the file.
    let engine = engine.releasing_departed().remembering(readings);
    let inputs = Inputs { changes: changes_in, sandboxes, missed: Arc::new(Notify::new()), stop: stop.clone() };
    let running = tokio::spawn(engine.run(inputs, arrivals));
    if options.once {
        let report = reports.wait_for(|report| report.loaded && (report.settled || report.is_in_trouble())).await?;
        let (in_force, problems) = (report.pods_enforced, [report.problems.join("; "), report.stalled.join("; ")]);
        let problems = problems.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        drop(report);
        stop.cancel();
        running.await?;
        if let Some(writer) = writer {
            writer.await.context("write the ledger")?;
        }
        if !problems.is_empty() {
            bail!("enforce every Pod: {problems}");
        }
        println!("in force in {in_force} Pods");
        return Ok(());
    }
    let folder_of =
        |file: &Path| file.parent().filter(|p| !p.as_os_str().is_empty()).map_or(".".into(), Path::to_owned);
    let mut watch = watch_folders(objects, &folder_of(pods))?;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = watch.changed() => {}
        }
        // Who writes several files is given the time to do so.
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Anew each time, and before they are read: folders may have come.
        let read = watch_folders(objects, &folder_of(pods)).and_then(|anew| {
            watch = anew;
            send_folder(objects, pods, node.as_deref(), &changes, &sandboxes_out)
        });
        if let Err(error) = read {
            tracing::error!("failed to {error:#}: what is in force stays");
        }
    }
    running.await?;
    if let Some(writer) = writer {
        writer.await.context("write the ledger")?;
    }
    Ok(())
}

fn watch_folders(objects: &Path, beside: &Path) -> anyhow::Result<FolderWatch> {
    let mut folders = folder::folders_below(objects)?;
    folders.push(beside.to_owned());
    let folders: Vec<&Path> = folders.iter().map(std::path::PathBuf::as_path).collect();
    FolderWatch::over(&folders).context("watch folders")
}

/// `cven off`: takes every rule and set of ours away from all Pods, and clears the ledger.
pub async fn off(options: &Options) -> anyhow::Result<()> {
    let backend = Backend::probe()?;
    let mut places: BTreeSet<std::path::PathBuf> = std::fs::read_dir(&options.netns_dir)
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
    let mut failed = Vec::new();
    let mut removed = 0;
    for location in paths.chain(pids) {
        let work = || netns::run_in(&location, |_| apply(backend, &Wanted::Nothing, Known::Unread, &Terms::default()));
        match tokio::task::block_in_place(work) {
            Ok(Ok(outcome)) => removed += usize::from(outcome.done == Done::Removed),
            Ok(Err(error)) => failed.push(format!("{location}: {error}")),
            Err(error) => failed.push(error.to_string()),
        }
    }
    Ledger::open(options.state_dir(), &options.node().unwrap_or_default(), None)?.0.clear()?;
    println!("took the rules away from {removed} network namespaces");
    if !failed.is_empty() {
        bail!("clear every network namespace: {}", failed.join("; "));
    }
    Ok(())
}

async fn all_sandboxes(options: &Options) -> anyhow::Result<Vec<Sandbox>> {
    let runtime = Runtime::at(&options.cri_socket)?;
    let mut sandboxes = Vec::new();
    for listed in runtime.ready_sandboxes().await? {
        sandboxes.extend(runtime.sandbox(listed).await?);
    }
    Ok(sandboxes)
}

/// Reads folder and file and hands over what they say.
fn send_folder(
    objects: &Path,
    pods: &Path,
    node: Option<&str>,
    changes: &UnboundedSender<Change>,
    sandboxes: &UnboundedSender<Seen>,
) -> anyhow::Result<()> {
    let mut news = folder::read(objects, node)?;
    let text = std::fs::read_to_string(pods).with_context(|| format!("read {}", pods.display()))?;
    let entries: Vec<PodEntry> =
        serde_saphyr::from_str(&text).with_context(|| format!("understand {}", pods.display()))?;
    let mut local = BTreeMap::new();
    let mut found = Vec::new();
    for entry in entries {
        let netns = entry.netns.clone();
        let pod = LocalPod::from(entry);
        let Some(netns) = netns else { bail!("enforce {}/{}: its netns is not given", pod.namespace, pod.name) };
        found.push(sandbox_of(&pod, &netns));
        local.insert(pods::key(&pod), Object::Pod(pod));
    }
    news.push(Change::All { kind: Kind::Pod, objects: local });
    for change in news {
        changes.send(change).map_err(|_| anyhow::anyhow!("reach the engine"))?;
    }
    sandboxes.send(Seen { sandboxes: Some(found), problem: None }).context("reach the engine")
}

fn sandbox_of(pod: &LocalPod, netns: &Path) -> Sandbox {
    Sandbox {
        // A sandbox keeps its namespace: under another path it is another one.
        id: format!("{} {}", pod.uid, netns.display()),
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone().into_iter().collect(),
        annotations: pod.annotations.clone().into_iter().collect(),
        created_at: 0,
        host_network: pod.host_network,
        netns: Location::at(netns),
        ips: pod.ips.clone(),
        dns_servers: pod.dns_servers.clone(),
    }
}

/// Writes the ledger whenever it differs, until the engine has ended.
async fn keep_ledger(mut ledger: Ledger, mut news: watch::Receiver<Option<Kept>>) {
    loop {
        let ended = news.changed().await.is_err();
        let kept = news.borrow_and_update().clone();
        if let Some(kept) = kept {
            let writing = tokio::task::spawn_blocking(move || {
                let result = ledger.save(kept);
                (ledger, result)
            });
            let Ok((back, result)) = writing.await else { return };
            ledger = back;
            if let Err(error) = result {
                tracing::warn!("failed to keep what was read: {error}");
            }
        }
        if ended {
            return;
        }
    }
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
