//! Runs the real-cluster tests on a fresh cluster of their own.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use ringfence_tests::e2e::{self, Outcome};
use ringfence_tests::lab::Lab;
use ringfence_tests::testbed::Testbed;

/// Real-cluster tests of Ringfence: a fresh cluster, the chart, real connections.
#[derive(Parser)]
struct Arguments {
    /// Run only the tests whose name contains this.
    filter: Option<String>,
    /// Name of the cluster.
    #[arg(long, default_value = "test")]
    cluster: String,
    /// Use the cluster as it is, with what is installed on it, and leave it up (while writing tests).
    #[arg(long)]
    keep: bool,
}

/// The longest that one test may take.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: the cluster could not be set up: {error:#}");
            println!("0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<usize> {
    let bed = Testbed::new(&arguments.cluster).uneven();
    if !arguments.keep {
        bed.down()?;
    }
    let kubeconfig = bed.up()?;
    if !arguments.keep {
        bed.install(&kubeconfig)?;
    }
    let lab = Lab::connect(bed.clone(), kubeconfig).await?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in e2e::cases() {
        if arguments.filter.as_ref().is_some_and(|filter| !case.name.contains(filter.as_str())) {
            continue;
        }
        let begin = Instant::now();
        let outcome = tokio::time::timeout(LIMIT, (case.run)(lab.clone())).await;
        let seconds = begin.elapsed().as_secs_f32();
        match outcome {
            Ok(Ok(Outcome::Passed)) => {
                passed += 1;
                println!("ok       {} ({seconds:.1}s)", case.name);
            }
            Ok(Ok(Outcome::Partly(parts))) => {
                passed += 1;
                println!("ok       {} ({seconds:.1}s), in part:", case.name);
                parts.iter().for_each(|part| println!("not run  {}: {part}", case.name));
            }
            Ok(Ok(Outcome::NotRun(why))) => {
                skipped += 1;
                println!("not run  {}: {why}", case.name);
            }
            Ok(Err(error)) => {
                failed += 1;
                println!("FAILED   {} ({seconds:.1}s): {error:#}", case.name);
                e2e::dump(&lab);
            }
            Err(_) => {
                failed += 1;
                println!("FAILED   {}: not done after {}s", case.name, LIMIT.as_secs());
                e2e::dump(&lab);
            }
        }
    }
    if !arguments.keep {
        bed.down()?;
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}
