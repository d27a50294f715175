//! The last part of `make bench`: what a node agent costs, in network namespaces. Needs root.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ringfence_tests::agent_bench::{self, Bench, Forks};
use tokio::signal::unix::{SignalKind, signal};

/// Measures the node agent; one line a benchmark.
#[derive(Parser)]
struct Arguments {
    /// Only benchmarks whose name contains this.
    name: Option<String>,
    /// The agent's program; the one beside this program when left out.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Pods of the node.
    #[arg(long, default_value_t = 110)]
    pods: usize,
    /// Runs of what is measured as a whole.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Samples of one change.
    #[arg(long, default_value_t = 100)]
    samples: usize,
    /// Pods that start, one after the other.
    #[arg(long, default_value_t = 300)]
    starts: u16,
    /// Seconds in which nothing happens.
    #[arg(long, default_value_t = 30)]
    idle: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let measured = tokio::select! {
        measured = measure(Arguments::parse()) => measured,
        stopped = stopped() => stopped,
    };
    // What was cut off could not clean up after itself.
    agent_bench::clean_up();
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: stopped: {error:#}");
            // Threads that are still at work go with the process.
            std::process::exit(1)
        }
    }
}

async fn measure(arguments: Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("cven"));
    let bench = Bench {
        agent: arguments.agent.map_or_else(beside, Ok)?,
        pods: arguments.pods,
        runs: arguments.runs,
        samples: arguments.samples,
        starts: arguments.starts,
        idle: Duration::from_secs(arguments.idle),
        forks: Forks::listen().context("failed to listen to process events")?,
    };
    tokio::task::spawn_blocking(move || agent_bench::run(&bench, arguments.name.as_deref())).await?
}

async fn stopped() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        pressed = tokio::signal::ctrl_c() => pressed?,
    }
    anyhow::bail!("by a signal")
}
