//! `make bench-e2e`: how long a change takes from the apiserver, or from git, to the kernel.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use ringfence_tests::bench;
use ringfence_tests::lab::Lab;
use ringfence_tests::testbed::Testbed;

/// Measures, on a fresh cluster of a hundred Pods, from a change to the first connection that shows it.
#[derive(Parser)]
struct Arguments {
    /// Measure only this: policy-write, pod-join or commit-open.
    filter: Option<String>,
    /// How many samples of each.
    #[arg(long, default_value_t = 300)]
    samples: usize,
    /// Name of the cluster.
    #[arg(long, default_value = "bench")]
    cluster: String,
    /// Use the cluster as it is, with what is installed on it, and leave it up.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let bed = Testbed::new(&arguments.cluster);
    if !arguments.keep {
        bed.down()?;
    }
    let kubeconfig = bed.up()?;
    if !arguments.keep {
        bed.install(&kubeconfig)?;
    }
    let lab = Lab::connect(bed.clone(), kubeconfig).await?;
    let measured = bench::run(&lab, arguments.samples, arguments.filter.as_deref()).await;
    if measured.is_err() {
        ringfence_tests::e2e::dump(&lab);
    }
    if !arguments.keep {
        bed.down()?;
    }
    measured
}
