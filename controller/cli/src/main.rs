//! `ringfence`: the command line. Offline it checks, compiles and explains a folder of policy; online it shows what a
//! cluster has in force.
//!
//! Exit status: 0 done, 1 problems were found (`check`), 2 it could not run or its input was bad.

mod check;
mod compile;
mod explain;
mod files;
mod live;
mod report;
mod status;
mod table;
mod workloads;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Check, compile and explain policy, and see what a cluster has in force.
#[derive(Parser)]
#[command(name = "ringfence", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Report every problem of the policy in a folder, with file, line and column.
    Check(check::Arguments),
    /// Compute what the agents would enforce, as files that `cven --objects` runs from.
    Compile(compile::Arguments),
    /// Say what becomes of a connection, and which rule decides.
    Explain(explain::Arguments),
    /// Show the cluster, its nodes, what is in force and what is not Ready.
    Status(status::Arguments),
    /// List container workloads with their labels, where each label came from, and their state.
    Workloads(workloads::Arguments),
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It did what it was asked to.
    Done,
    /// It ran, and found problems.
    Problems,
    /// Its input was bad; what is wrong has been printed.
    BadInput,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Problems => Self::from(1),
            Outcome::BadInput => Self::from(2),
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Compile(arguments) => compile::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Status(arguments) => live::block_on(status::run(&arguments)),
        Command::Workloads(arguments) => live::block_on(workloads::run(&arguments)),
    };
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            eprintln!("ringfence: {}", causes(&error));
            Outcome::BadInput.into()
        }
    }
}

/// The error and its causes in one line. Some libraries repeat a cause in their own text; it is then said once.
fn causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("no such file").context("failed to read a.yaml: no such file").context("failed");
        assert_eq!(super::causes(&error), "failed: failed to read a.yaml: no such file");
    }

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
