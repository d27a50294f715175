//! `make demo`: a real cluster, Ringfence through its chart, the shop, and the story of the README.

use std::process::ExitCode;

use anyhow::Result;
use ringfence_tests::demo::{self, Summary, shop};
use ringfence_tests::lab::Lab;
use ringfence_tests::testbed::Testbed;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(summary) => {
            println!("\n{}", summary.line());
            if summary.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("demo: stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<Summary> {
    let bed = Testbed::new("demo");
    eprintln!("demo: bringing up the cluster");
    let kubeconfig = bed.up()?;
    eprintln!("demo: installing Ringfence through its chart");
    bed.install(&kubeconfig)?;
    let lab = Lab::connect(bed, kubeconfig.clone()).await?;
    eprintln!("demo: resetting and deploying the shop");
    shop::reset(&lab).await?;
    shop::deploy(&lab).await?;
    let summary = demo::tell(&lab).await;
    if summary.is_err() {
        ringfence_tests::e2e::dump(&lab);
    }
    eprintln!(
        "\ndemo: the cluster stays up: export KUBECONFIG={}; end it with make cluster-down",
        kubeconfig.display()
    );
    summary
}
