//! `cven`, the node agent of Ringfence: puts computed policy into the network namespace of every Pod of its node.
//!
//! ```text
//! apiserver ── feed ──► view ──► engine ── resolve, render ──► apply in each netns ──► kernel
//! containerd ─ sandboxes ───────►   │ └──► ledger (disk)          tools, flows
//! CNI plugin ─ cni ─────────────►   ├────► report (NodePolicy.status)
//!                                   └────► host: the node's own netns
//! ```
//!
//! As a container it needs:
//!
//! * `hostNetwork: true` (the node's addresses are read from its interfaces), `hostPID: true` (namespaces that are
//!   known by process only, and sandbox process ids);
//! * capabilities `SYS_ADMIN` (setns), `NET_ADMIN` (iptables, ipset, conntrack), `NET_RAW` (the set match
//!   of iptables, pings of other nodes), with all others dropped; user 0;
//! * `/run/netns` of the host at the same path, mount propagation `HostToContainer`;
//! * the container runtime's socket (`/run/containerd/containerd.sock`) at the same path, or its folder;
//! * `/var/lib/ringfence` of the host at the same path, writable: the ledger;
//! * for the CNI plugin: `/run/ringfence` of the host at the same path, writable, and the folders of the node's CNI
//!   configuration and plugins, writable (`--cni-socket`, `--cni-conf-dir`, `--cni-bin-dir`);
//! * `/etc/machine-id` of the host at `/host/etc/machine-id`, read only;
//! * in its image: `iptables-nft-restore`, `iptables-nft-save`, the same for `ip6tables` (and `-legacy-` where nodes need
//!   it), `iptables`; `ipset` for people who look.
//!
//! It reads NodePolicies, ContainerClusters, ContainerWorkloadProfiles, WorkloadPolicies, PeerGroups, AddressGroups and
//! Pods (get, list, watch) and writes `nodepolicies/status` (patch).

mod apply;
mod clock;
mod cni;
mod commands;
mod cri;
mod engine;
mod feed;
mod files;
mod flows;
mod gate;
mod health;
mod host;
mod ipset;
#[cfg(test)]
mod lab;
mod lacking;
mod lasting;
mod ledger;
mod machine;
mod memory;
mod names;
mod netfilter;
mod netns;
mod off;
mod readings;
mod report;
mod retry;
mod sandboxes;
mod slot;
mod tools;
mod view;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// The node agent of Ringfence.
#[derive(Debug, Parser)]
#[command(name = "cven", version, about, args_conflicts_with_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enforce what the apiserver says, on this node (the default); with --objects, what a folder says.
    Run,
    /// Take every rule and set of ours away from this node and all of its Pods, until `on`; without an apiserver.
    Off,
    /// Let policy be in force on this node again.
    On,
}

/// What is common to all commands.
#[derive(Debug, Args)]
struct Options {
    /// Name of this node.
    #[arg(long, global = true)]
    node_name: Option<String>,
    /// Where what was read is kept: /var/lib/ringfence when left out; with --objects, nothing is kept then.
    #[arg(long, global = true)]
    state_dir: Option<PathBuf>,
    /// Socket of the container runtime.
    #[arg(long, global = true, env = "CVEN_CRI_SOCKET", default_value = "/run/containerd/containerd.sock")]
    cri_socket: PathBuf,
    /// Folder in which the container runtime mounts network namespaces.
    #[arg(long, global = true, default_value = "/run/netns")]
    netns_dir: PathBuf,
    /// The host's machine-id; /etc/machine-id is read when this is not there.
    #[arg(long, global = true, env = "CVEN_MACHINE_ID_FILE", default_value = "/host/etc/machine-id")]
    machine_id_file: PathBuf,
    /// The node's own network namespace: that of this process when left out.
    #[arg(long, global = true, value_name = "FILE", default_value = "/proc/self/ns/net", hide = true)]
    host_netns: PathBuf,
    /// Where a change of the node's own rules must still reach the apiserver: where this agent finds it, when left out.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    apiserver: Option<host::Apiserver>,
    /// Where the CNI plugin asks before a Pod starts; when left out, no Pod waits for its rules.
    #[arg(long, global = true, env = "CVEN_CNI_SOCKET", value_name = "SOCKET")]
    cni_socket: Option<PathBuf>,
    /// The node's CNI configuration, into which the plugin is put; when left out, somebody else does that.
    #[arg(long, global = true, env = "CVEN_CNI_CONF_DIR", value_name = "DIR", requires_all = ["cni_socket", "cni_bin_dir"])]
    cni_conf_dir: Option<PathBuf>,
    /// The node's CNI plugins.
    #[arg(long, global = true, env = "CVEN_CNI_BIN_DIR", value_name = "DIR", requires = "cni_conf_dir")]
    cni_bin_dir: Option<PathBuf>,
    /// The plugin that comes with this agent.
    #[arg(long, global = true, value_name = "FILE", default_value = "/usr/libexec/ringfence/cven-cni")]
    cni_program: PathBuf,
    /// The state folder as the host has it, where that is another path.
    #[arg(long, global = true, env = "CVEN_HOST_STATE_DIR", value_name = "DIR")]
    host_state_dir: Option<PathBuf>,
    /// Whether this agent keeps the gate of its node, which judges by their client what the node translates; on unless
    /// --objects is given.
    #[arg(long, global = true, env = "CVEN_GATE", value_name = "BOOL")]
    gate: Option<bool>,
    /// The namespace of this agent's own Pod, where no Pod waits for rules.
    #[arg(long, global = true, env = "POD_NAMESPACE", value_name = "NAMESPACE", hide = true)]
    own_namespace: Option<String>,
    /// For so many seconds a Pod's start may wait for its rules.
    #[arg(long, global = true, env = "CVEN_POD_START_WAIT", value_name = "SECONDS", default_value_t = engine::POD_START_WAIT.as_secs())]
    pod_start_wait: u64,
    /// Enforce the computed objects in this folder, without Kubernetes; needs --pods.
    #[arg(long, global = true, requires = "pods", value_name = "DIR")]
    objects: Option<PathBuf>,
    /// The Pods to enforce: a YAML list of name, namespace, labels, annotations, netns, ips, ports.
    #[arg(long, global = true, requires = "objects", value_name = "FILE")]
    pods: Option<PathBuf>,
    /// With --objects: end when everything is in force, instead of following changes of the files.
    #[arg(long, global = true, requires = "objects")]
    once: bool,
    /// Log as JSON.
    #[arg(long, global = true)]
    log_json: bool,
}

impl Options {
    /// Where an agent of a cluster keeps what was read.
    fn state_dir(&self) -> &Path {
        self.state_dir.as_deref().unwrap_or(Path::new("/var/lib/ringfence"))
    }

    /// The node's name: the option, or `NODE_NAME`, as the downward API gives it.
    fn node(&self) -> Option<String> {
        let named = self.node_name.clone().or_else(|| std::env::var("NODE_NAME").ok());
        named.filter(|name| !name.is_empty())
    }

    /// The node's own network namespace.
    fn host_location(&self) -> netns::Location {
        netns::Location { path: Some(self.host_netns.clone()), pid: None }
    }

    /// For how long a Pod's start may wait for its rules.
    fn pod_start_wait(&self) -> Duration {
        Duration::from_secs(self.pod_start_wait)
    }

    /// Whether this agent keeps the gate of this node.
    fn keeps_gate(&self) -> bool {
        self.gate.unwrap_or(self.objects.is_none())
    }

    /// Where the CNI plugin is to be, if this agent is to put it there.
    fn cni_place(&self) -> Option<cni::install::Place> {
        let fallback = self.host_state_dir.as_deref().unwrap_or(self.state_dir()).join(cni::install::FALLBACK);
        Some(cni::install::Place {
            conf_dir: self.cni_conf_dir.clone()?,
            bin_dir: self.cni_bin_dir.clone()?,
            program: self.cni_program.clone(),
            state_dir: self.state_dir().to_owned(),
            entry: ringfence_cni::Entry::new(self.cni_socket.clone()?, fallback, self.pod_start_wait()),
        })
    }
}

fn main() -> ExitCode {
    memory::share_one_arena();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(Cli::parse())),
        Err(error) => {
            eprintln!("cven: failed to start threads: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> ExitCode {
    start_log(cli.options.log_json);
    let result = match (cli.command, &cli.options.objects, &cli.options.pods) {
        (Some(Command::Off), ..) => off::off(&cli.options).await,
        (Some(Command::On), ..) => off::on(&cli.options),
        (_, Some(objects), Some(pods)) => commands::folder::run(&cli.options, objects, pods).await,
        _ => commands::cluster::run(&cli.options).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("failed to {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error; `RUST_LOG` says what.
fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
}
