//! What `cven` can be asked to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ringfence_cni::Fallback;
use ringfence_dataplane::{Host, LocalPod};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::cni::{Ask, Chaining, install, listener};
use crate::cri::{Runtime, Sandbox};
use crate::engine::{Engine, Inputs, NodeSide, Outputs, Settings};
use crate::feed::pod_file::PodEntry;
use crate::feed::{self, Change, Kind, Object, folder, kubernetes, pods};
use crate::flows::usage;
use crate::gate::Gate;
use crate::health::{Fault, Health};
use crate::host::{self, Apiserver};
use crate::ledger::{self, Ledger};
use crate::machine;
use crate::netns::{self, Cookie, Location};
use crate::off::Switch;
use crate::readings::Readings;
use crate::report::{self, Identity, Report};
use crate::sandboxes::{self, FolderWatch, Seen};
use crate::tools::Backend;
use crate::view::View;

/// `cven run`: enforces what the apiserver says until it is told to end. Rules stay when it does.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let node = options.node().context("know this node: give --node-name or NODE_NAME")?;
    let backend = Backend::probe()?;
    let machine_id = machine::machine_id(&[&options.machine_id_file, Path::new("/etc/machine-id")]);
    let (ledger, found, damage) = Ledger::open(options.state_dir(), &node, machine_id.as_deref(), era(backend));
    tracing::info!(%node, backend = backend.as_str(), from_ledger = found.is_some(), "starting");
    let damage = damage.map(|problem| Fault::ledger_damaged(&problem));
    damage.iter().for_each(|fault| tracing::warn!("{}", fault.message));
    let (health, health_in) = watch::channel(Health { ledger: damage, ..Health::default() });

    let stop = stop_on_signal()?;
    let (changes, changes_in) = unbounded_channel();
    let (sandboxes_out, sandboxes) = unbounded_channel();
    let (report, reports) = watch::channel(Report::default());
    let (ledger_out, ledger_in) = watch::channel(None);
    let (wanted_out, wanted) = watch::channel(feed::Wanted::default());
    let missed = Arc::new(Notify::new());
    let runtime = Runtime::at(&options.cri_socket)?;
    tokio::spawn(sandboxes::follow(runtime, options.netns_dir.clone(), missed.clone(), sandboxes_out));
    let writer = tokio::spawn(ledger::keep(ledger, ledger_in, health.clone()));
    let (places_out, places) = watch::channel(Vec::new());
    tokio::spawn(usage::watch(places, health));

    let client = kube::Client::try_default().await.context("find the apiserver")?;
    kubernetes::start(&client, &node, &wanted, &changes);
    let identity = Identity { node, machine_id, boot_id: machine::boot_id(), backend: backend.as_str() };
    tokio::spawn(report::follow(client, identity, reports, health_in));

    if options.cni_socket.is_none() {
        // A plugin that an agent with other settings has left behind must not wait for this one.
        install::forget_fallback(options.state_dir());
    }
    let (asks, chaining) = follow_cni(options)?;
    let outputs = Outputs { report, ledger: ledger_out, wanted: wanted_out, places: places_out, chaining };
    let (found, kept) = found.map(|kept| ((kept.store, kept.pods), (kept.readings, kept.learned))).unzip();
    let (readings, learned) = kept.unwrap_or_default();
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
        releases_departed: false,
    };
    let (engine, arrivals) = Engine::new(View::new(found), backend, settings, outputs);
    let switch = Switch::of(options.state_dir());
    let (turned, off) = watch::channel(switch.is_off());
    tokio::spawn(switch.follow(turned));
    engine.run(Inputs { changes: changes_in, sandboxes, asks, off, missed, stop }, arrivals).await;
    // The last state is written before the end; rules stay as they are.
    writer.await.context("write the ledger")?;
    Ok(())
}

/// Listens to the CNI plugin and keeps it in its place, as far as the options ask for that.
fn follow_cni(options: &Options) -> anyhow::Result<(UnboundedReceiver<Ask>, Option<watch::Sender<Option<Chaining>>>)> {
    let (asks, asks_in) = unbounded_channel();
    if let Some(socket) = &options.cni_socket {
        let listener = listener::bind(socket).with_context(|| format!("listen on {}", socket.display()))?;
        tokio::spawn(listener::serve(listener, asks.clone()));
    }
    let chaining = options.cni_place().map(|place| {
        let (chaining, wanted) = watch::channel(None);
        tokio::spawn(install::keep(place, wanted, asks));
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
    tokio::spawn(host::follow(keeper, wanted_in, said));
    NodeSide::new(host, wanted, said_in)
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
    // Of what was kept only what is known of namespaces counts: objects are in the folder.
    let opened = options.state_dir.as_deref().map(|kept| {
        let (ledger, found, _) = Ledger::open(kept, node.as_deref().unwrap_or_default(), None, era(backend));
        let keeping = tokio::spawn(ledger::keep(ledger, news, watch::channel(Health::default()).0));
        let found = found.unwrap_or_default();
        ((found.readings, found.learned), keeping)
    });
    let (kept, writer) = opened.unzip();
    let (readings, learned) = kept.unwrap_or_default();
    // A folder is read whole.
    let (wanted, _) = watch::channel(feed::Wanted::default());
    let (places, _) = watch::channel(Vec::new());
    send_folder(objects, pods, node.as_deref(), options.cni_socket.is_some(), &changes, &sandboxes_out)?;

    let (asks, chaining) = follow_cni(options)?;
    let host = follow_node(options, backend, &readings, options.state_dir.as_deref(), options.apiserver.clone());
    let settings = Settings {
        own_namespace: options.own_namespace.clone(),
        pod_start_wait: options.pod_start_wait(),
        before: None,
        readings,
        learned,
        node: Some(host),
        gate: if options.keeps_gate() { Some(Gate::new(Backend::of_node()?)) } else { None },
        stale_gate: false,
        // A namespace lives on when its Pod was taken out of the file.
        releases_departed: true,
    };
    let outputs = Outputs { report, ledger, wanted, places, chaining };
    let (engine, arrivals) = Engine::new(View::new(None), backend, settings, outputs);
    let (_, off) = watch::channel(false);
    let missed = Arc::new(Notify::new());
    let inputs = Inputs { changes: changes_in, sandboxes, asks, off, missed, stop: stop.clone() };
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
            send_folder(objects, pods, node.as_deref(), options.cni_socket.is_some(), &changes, &sandboxes_out)
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

/// Reads folder and file and hands over what they say. `plugin`: whether the CNI plugin tells of Pods that are to come.
fn send_folder(
    objects: &Path,
    pods: &Path,
    node: Option<&str>,
    plugin: bool,
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
        match netns {
            Some(netns) => found.push(sandbox_of(&pod, &netns)),
            // Its network namespace is still to be made.
            None if plugin => {}
            None => bail!("enforce {}/{}: its netns is not given", pod.namespace, pod.name),
        }
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
