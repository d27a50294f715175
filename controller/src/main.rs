//! `ringfence-controller`: waits for the lease, then runs the engine and the git importer until it is told to end or
//! loses the lease.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use kube::Client;
use ringfence_controller::leader::Candidate;
use ringfence_controller::{engine, health, repository, suspend};
use ringfence_crds::container_cluster::Management;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The compiler makes and ends millions of small objects: with the allocator of libc that takes half of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The controller of Ringfence.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Name of this replica, as holder of the lease.
    #[arg(long, env = "POD_NAME", default_value = "ringfence-controller")]
    pod_name: String,
    /// Namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "ringfence-system")]
    pod_namespace: String,
    /// Name of the lease.
    #[arg(long, env = "RINGFENCE_LEASE", default_value = "ringfence-controller")]
    lease: String,
    /// Address that answers /healthz.
    #[arg(long, env = "RINGFENCE_HEALTH_ADDRESS", default_value = "0.0.0.0:8081")]
    health_address: SocketAddr,
    /// Who runs the masters, for the ContainerCluster that the controller makes.
    #[arg(long, env = "RINGFENCE_MANAGEMENT", default_value = "self")]
    management: ManagementArgument,
    /// How log lines look.
    #[arg(long, env = "RINGFENCE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,ringfence_controller=debug`.
    #[arg(long, env = "RINGFENCE_LOG", default_value = "info,kube_lease_manager=warn")]
    log: String,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Suspend enforcement and wait until nothing of Ringfence is left on any node: what runs before the chart is uninstalled.
    Suspend {
        /// For so many seconds.
        #[arg(long, default_value_t = 120)]
        wait: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ManagementArgument {
    /// The operator: agents on every node.
    #[value(name = "self")]
    SelfManaged,
    /// The cloud provider: agents on workers only.
    Cloud,
}

impl From<ManagementArgument> for Management {
    fn from(argument: ManagementArgument) -> Self {
        match argument {
            ManagementArgument::SelfManaged => Self::SelfManaged,
            ManagementArgument::Cloud => Self::Cloud,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = start_log(&arguments) {
        eprintln!("ringfence-controller: {error:#}");
        return ExitCode::from(2);
    }
    let done = match arguments.command {
        Some(Command::Suspend { wait }) => suspended(Duration::from_secs(wait)).await,
        None => lead(arguments).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(arguments: &Arguments) -> Result<()> {
    let filter = EnvFilter::try_new(&arguments.log).context("failed to read --log")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

async fn suspended(limit: Duration) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let client = Client::try_default().await.context("failed to find the apiserver")?;
    let done = tokio::select! {
        done = suspend::suspend(&client, limit) => done.map_err(|error| anyhow::anyhow!("failed to {error}")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end before every node was done")),
    };
    if done.is_err() {
        // Nothing is uninstalled then.
        suspend::give_up(&client).await;
    }
    done?;
    println!("enforcement is suspended, and nothing of Ringfence is left on any node that is Ready");
    Ok(())
}

async fn lead(arguments: Arguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    tokio::spawn(async move {
        if let Err(error) = health::serve(arguments.health_address).await {
            tracing::error!(address = %arguments.health_address, %error, "failed to answer probes");
        }
    });
    let client = Client::try_default().await.context("failed to find the apiserver")?;
    let identity = &arguments.pod_name;
    let candidate = Candidate {
        namespace: arguments.pod_namespace.clone(),
        name: arguments.lease.clone(),
        identity: identity.clone(),
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, "waiting for the lease");
    let told_to_end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(told_to_end);
    let mut lease = tokio::select! {
        lease = candidate.held(&client) => lease,
        () = &mut told_to_end => return Ok(()),
    };
    tracing::info!(identity, "leading");
    // Who installs anew wants policy enforced.
    suspend::lift(&client).await.map_err(|error| anyhow::anyhow!("failed to {error}"))?;
    let shutdown = CancellationToken::new();
    let work = run(client, arguments.pod_name.clone(), arguments.management.into(), shutdown.clone());
    let result = tokio::select! {
        result = work => result,
        () = lease.lost() => bail!("lost the lease: another replica leads"),
        () = &mut told_to_end => Ok(()),
    };
    shutdown.cancel();
    lease.release().await;
    result
}

/// Everything that only the leader does. Ends only when something of it cannot go on.
async fn run(client: Client, instance: String, management: Management, shutdown: CancellationToken) -> Result<()> {
    let commits = engine::Commits::default();
    let engine = tokio::spawn(engine::run(client.clone(), instance, management, commits.clone()));
    let repository = tokio::spawn(repository::run(client, commits, shutdown));
    tokio::select! {
        ended = engine => ended.context("the engine has failed")?,
        ended = repository => ended.context("the git importer has failed")?.context("the git importer has failed")?,
    }
    bail!("a part of the controller has ended by itself")
}
