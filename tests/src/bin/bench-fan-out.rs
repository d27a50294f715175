//! `make bench-fan-out`: what agents that watch cost an apiserver.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use ringfence_tests::fan_out;
use ringfence_tests::testbed::Testbed;

/// Measures, on an etcd and an apiserver of their own, what it costs to tell agents of Pods that come and go.
#[derive(Parser)]
struct Arguments {
    /// How many agents, one number after the other.
    #[arg(long, value_delimiter = ',', default_value = "200,1000,2000")]
    agents: Vec<usize>,
    /// Name of the cluster.
    #[arg(long, default_value = "fan")]
    cluster: String,
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
    let kubeconfig = bed.up_apiserver()?;
    let file = Kubeconfig::read_from(&kubeconfig).context("failed to read the kubeconfig")?;
    let client = Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?;
    let measured = fan_out::run(&client, Testbed::apiserver(&kubeconfig)?, &arguments.agents).await;
    bed.down()?;
    measured
}
