//! `ringfence check`.

use std::path::PathBuf;

use anyhow::Result;

use crate::files::Folder;
use crate::{Format, Outcome, report};

/// Arguments of `ringfence check`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit status: 0 no errors (there may be warnings), 1 errors, 2 could not run.

Example:
  ringfence check examples/policy-repo")]
pub struct Arguments {
    /// Folder of policy; every *.yaml and *.yml in it is read, as a PolicyRepository would.
    dir: PathBuf,
    /// How to print the problems.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Reports every problem of a folder.
pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let folder = Folder::read(&arguments.dir)?;
    match arguments.output {
        Format::Text => print!("{}", report::text(&folder)),
        Format::Json => println!("{}", report::json(&folder)?),
    }
    Ok(if folder.has_errors() { Outcome::Problems } else { Outcome::Done })
}
