//! `cven --objects DIR --pods FILE`: the agent of a node without Kubernetes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ringfence_dataplane::LocalPod;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{era, follow_cni, follow_node, stop_on_signal};
use crate::Options;
use crate::cri::Sandbox;
use crate::engine::{Engine, Inputs, Outputs, Settings};
use crate::feed::pod_file::PodEntry;
use crate::feed::{Change, Kind, Object, folder, pods};
use crate::gate::Gate;
use crate::health::Health;
use crate::ledger::{self, Kept, Ledger};
use crate::netns::Location;
use crate::report::Report;
use crate::sandboxes::{FolderWatch, Seen};
use crate::tools::Backend;
use crate::view::View;

/// Who writes several files is given the time to do so.
const GATHER: Duration = Duration::from_millis(20);

/// A folder of objects and a file of Pods, and where what they say goes to.
struct Source<'a> {
    objects: &'a Path,
    pods: &'a Path,
    node: Option<String>,
    /// Whether the CNI plugin tells of Pods that are to come.
    plugin: bool,
    changes: UnboundedSender<Change>,
    sandboxes: UnboundedSender<Seen>,
}

/// `cven --objects DIR --pods FILE`: enforces a folder, and follows its changes.
pub async fn run(options: &Options, objects: &Path, pods: &Path) -> anyhow::Result<()> {
    let backend = Backend::probe()?;
    let node = options.node();
    let stop = stop_on_signal()?;
    let (changes, changes_in) = unbounded_channel();
    let (sandboxes_out, sandboxes) = unbounded_channel();
    let (outputs, told) = Outputs::new();
    let (kept, writer) = open_ledger(options, node.as_deref(), backend, told.ledger);
    let plugin = options.cni_socket.is_some();
    let source = Source { objects, pods, node, plugin, changes, sandboxes: sandboxes_out };
    source.send()?;

    let (asks, chaining) = follow_cni(options)?;
    let outputs = Outputs { chaining, ..outputs };
    let (engine, arrivals) = Engine::new(View::new(None), backend, settings(options, backend, kept)?, outputs);
    let (_, off) = watch::channel(false);
    let missed = Arc::new(Notify::new());
    let inputs = Inputs { changes: changes_in, sandboxes, asks, off, missed, stop: stop.clone() };
    let running = tokio::spawn(engine.run(inputs, arrivals));
    let outcome = if options.once {
        let outcome = outcome(told.reports).await?;
        stop.cancel();
        Some(outcome)
    } else {
        source.follow(&stop).await?;
        None
    };
    running.await?;
    if let Some(writer) = writer {
        writer.await.context("write the ledger")?;
    }
    outcome.map_or(Ok(()), |report| say(&report))
}

/// What was kept, and who keeps it, if anybody is to. Of that only what is known of namespaces counts: objects are in
/// the folder.
fn open_ledger(
    options: &Options,
    node: Option<&str>,
    backend: Backend,
    news: watch::Receiver<Option<Kept>>,
) -> (Kept, Option<JoinHandle<()>>) {
    let Some(state_dir) = &options.state_dir else { return (Kept::default(), None) };
    let (ledger, found, _) = Ledger::open(state_dir, node.unwrap_or_default(), None, era(backend));
    let writer = tokio::spawn(ledger::keep(ledger, news, watch::channel(Health::default()).0));
    (found.unwrap_or_default(), Some(writer))
}

fn settings(options: &Options, backend: Backend, kept: Kept) -> anyhow::Result<Settings> {
    let Kept { readings, learned, .. } = kept;
    let node = follow_node(options, backend, &readings, options.state_dir.as_deref(), options.apiserver.clone());
    Ok(Settings {
        own_namespace: options.own_namespace.clone(),
        pod_start_wait: options.pod_start_wait(),
        readings,
        learned,
        node: Some(node),
        gate: if options.keeps_gate() { Some(Gate::new(Backend::of_node()?)) } else { None },
        // A namespace lives on when its Pod was taken out of the file.
        releases_departed: true,
        ..Settings::default()
    })
}

/// Waits until everything is in force, or something is in the way of that.
async fn outcome(mut reports: watch::Receiver<Report>) -> anyhow::Result<Report> {
    let over = reports.wait_for(|report| report.loaded && (report.settled || report.is_in_trouble()));
    Ok(over.await?.clone())
}

fn say(report: &Report) -> anyhow::Result<()> {
    let problems = [report.problems.join("; "), report.stalled.join("; ")];
    let problems = problems.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    if !problems.is_empty() {
        bail!("enforce every Pod: {problems}");
    }
    println!("in force in {} Pods", report.pods_enforced);
    Ok(())
}

impl Source<'_> {
    /// Hands over what is said anew whenever that changes, until it is to end.
    async fn follow(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut watch = self.watch()?;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = watch.changed() => {}
            }
            tokio::time::sleep(GATHER).await;
            // Anew each time, and before they are read: folders may have come.
            let read = self.watch().and_then(|anew| {
                watch = anew;
                self.send()
            });
            if let Err(error) = read {
                tracing::error!("failed to {error:#}: what is in force stays");
            }
        }
    }

    /// Watches all folders of objects, and that of the file.
    fn watch(&self) -> anyhow::Result<FolderWatch> {
        let mut folders = folder::folders_below(self.objects)?;
        let beside = self.pods.parent().filter(|folder| !folder.as_os_str().is_empty());
        folders.push(beside.unwrap_or(Path::new(".")).to_owned());
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        FolderWatch::over(&folders).context("watch folders")
    }

    /// Reads folder and file and hands over what they say.
    fn send(&self) -> anyhow::Result<()> {
        let mut news = folder::read(self.objects, self.node.as_deref())?;
        let (local, found) = self.read_pods()?;
        news.push(Change::All { kind: Kind::Pod, objects: local });
        for change in news {
            self.changes.send(change).map_err(|_| anyhow::anyhow!("reach the engine"))?;
        }
        self.sandboxes.send(Seen { sandboxes: Some(found), problem: None }).context("reach the engine")
    }

    /// The Pods of the file, and those sandboxes of theirs that are there.
    fn read_pods(&self) -> anyhow::Result<(BTreeMap<String, Object>, Vec<Sandbox>)> {
        let text = std::fs::read_to_string(self.pods).with_context(|| format!("read {}", self.pods.display()))?;
        let entries: Vec<PodEntry> =
            serde_saphyr::from_str(&text).with_context(|| format!("understand {}", self.pods.display()))?;
        let (mut local, mut found) = (BTreeMap::new(), Vec::new());
        for entry in entries {
            let netns = entry.netns.clone();
            let pod = LocalPod::from(entry);
            match netns {
                Some(netns) => found.push(sandbox_of(&pod, &netns)),
                // Its network namespace is still to be made.
                None if self.plugin => {}
                None => bail!("enforce {}/{}: its netns is not given", pod.namespace, pod.name),
            }
            local.insert(pods::key(&pod), Object::Pod(pod));
        }
        Ok((local, found))
    }
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
