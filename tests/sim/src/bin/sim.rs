//! `make sim`: random worlds until the time is up, or something differs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use ringfence_sim::walk::{Tally, walk};

/// Holds the compiler against the oracle on random policy and clusters.
#[derive(Parser)]
struct Arguments {
    /// How long to go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Stop after so many changes.
    #[arg(long)]
    transitions: Option<usize>,
    /// The first seed; each walk takes the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Changes in one walk.
    #[arg(long, default_value_t = 1000)]
    steps: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let mut sum = Tally::default();
    let mut seed = arguments.seed;
    while begin.elapsed() < Duration::from_secs(arguments.seconds)
        && arguments.transitions.is_none_or(|most| sum.steps < most)
    {
        match walk(seed, arguments.steps) {
            Ok(tally) => sum.add(&tally),
            Err(text) => {
                println!("sim: differs: {text}");
                return ExitCode::FAILURE;
            }
        }
        seed += 1;
    }
    println!(
        "sim: 0 differences in {}; seeds {} to {}, {:.1} s",
        sum.text(),
        arguments.seed,
        seed - 1,
        begin.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}
