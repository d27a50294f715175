//! The floor of whatever writes rules by program: `iptables-restore` and its likes on the same rules, with nobody around them.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::nets::Nets;
use crate::kernel::in_netns;
use crate::probe;

/// What writes the rules of each family.
const RESTORE: [&str; 2] = ["iptables-nft-restore", "ip6tables-nft-restore"];
/// So many network namespaces are written at a time where many are: as many as the benchmark has processors.
const AT_A_TIME: usize = 2;

/// What a network namespace holds, as the programs read it.
pub struct Held {
    rules: [String; 2],
    sets: String,
}

impl Held {
    /// Reads it.
    ///
    /// # Errors
    /// When the programs cannot be run there.
    pub fn read(netns: &Path) -> Result<Self> {
        // Chains that are not ours need no mention, and cost time.
        let ours = |saved: String| -> String {
            let lines = saved.lines().filter(|line| !line.starts_with(':') || line.starts_with(":RF-"));
            lines.flat_map(|line| [line, "\n"]).collect()
        };
        let [v4, v6] = ["iptables-nft-save", "ip6tables-nft-save"].map(|program| in_netns(netns, &[program]).map(ours));
        Ok(Self { rules: [v4?, v6?], sets: in_netns(netns, &["ipset", "save"])? })
    }

    /// Makes the sets, of which the programs know nothing.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn make_sets(&self, netns: &Path) -> Result<()> {
        ensure!(begin(netns, "ipset", &["restore"], &self.sets)?.wait()?.success(), "sets that a Pod has are refused");
        Ok(())
    }

    /// Writes the rules of both families at a time, as the agent does, where the sets are already.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn write(&self, netns: &Path) -> Result<Duration> {
        let started = Instant::now();
        self.begin(netns)?.into_iter().try_for_each(succeed)?;
        Ok(started.elapsed())
    }

    /// Writes the rules into all of these.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn write_all(&self, nets: &Nets) -> Result<Duration> {
        let paths: Vec<_> = nets.pods().iter().map(|pod| pod.path()).collect();
        paths.iter().try_for_each(|path| self.make_sets(path))?;
        let started = Instant::now();
        let mut running: Vec<Vec<Child>> = Vec::new();
        for path in &paths {
            if running.len() == AT_A_TIME {
                running.remove(0).into_iter().try_for_each(succeed)?;
            }
            running.push(self.begin(path)?);
        }
        running.into_iter().flatten().try_for_each(succeed)?;
        Ok(started.elapsed())
    }

    fn begin(&self, netns: &Path) -> Result<Vec<Child>> {
        (RESTORE.iter().zip(&self.rules)).map(|(program, rules)| begin(netns, program, &["--noflush"], rules)).collect()
    }
}

fn succeed(mut child: Child) -> Result<()> {
    ensure!(child.wait()?.success(), "rules that a Pod has are refused");
    Ok(())
}

/// Starts a program in a network namespace with that as its input.
fn begin(netns: &Path, program: &str, arguments: &[&str], input: &str) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    let mut child = probe::inside(netns, move || command.spawn())?;
    child.stdin.take().context("it is piped")?.write_all(input.as_bytes())?;
    Ok(child)
}
