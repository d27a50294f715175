//! `make demo`: a real cluster, Ringfence through its chart, the shop, and the story of the README.

use std::process::ExitCode;

use anyhow::Result;
use ringfence_tests::demo::{self, Summary, shop};
use ringfence_tests::lab::Lab;
use ringfence_tests::testbed::Testbed;

#[tokio::main]
async fn main() -> ExitCode {
    let mut summary = Summary::default();
    let told = run(&mut summary).await;
    if let Err(error) = &told {
        eprintln!("demo: stopped: {error:#}");
    }
    println!("\n{}", summary.line());
    if told.is_ok() && summary.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(summary: &mut Summary) -> Result<()> {
    let bed = Testbed::new("demo");
    eprintln!("demo: bringing up the cluster");
    let kubeconfig = bed.up()?;
    eprintln!("demo: installing Ringfence through its chart");
    bed.install(&kubeconfig)?;
    let lab = Lab::connect(bed, kubeconfig.clone()).await?;
    eprintln!("demo: resetting and deploying the shop");
    shop::reset(&lab).await?;
    shop::deploy(&lab).await?;
    let (told_summary, told) = demo::tell(&lab).await;
    *summary = told_summary;
    if told.is_err() {
        ringfence_tests::e2e::dump(&lab);
    }
    eprintln!(
        "\ndemo: the cluster stays up: export KUBECONFIG={}; end it with make cluster-down",
        kubeconfig.display()
    );
    told
}
