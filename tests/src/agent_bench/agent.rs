//! The agent as a process: started over a folder of objects, read by its log, ended when dropped.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::objects::{Folder, NODE};
use crate::probe;

/// Those that run, for whoever has to end them without having them.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Ends every agent that runs; what is in force stays.
pub fn end_all() {
    let pids = RUNNING.lock().map(|running| running.clone()).unwrap_or_default();
    for pid in pids.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// One that somebody else has started, and ends, as long as nothing is cut off.
pub struct Noted(u32);

impl Noted {
    /// Notes one.
    pub fn new(pid: u32) -> Self {
        if let Ok(mut running) = RUNNING.lock() {
            running.insert(pid);
        }
        Self(pid)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Ok(mut running) = RUNNING.lock() {
            running.remove(&self.0);
        }
    }
}

/// A running agent.
pub struct Agent {
    child: Child,
    started: Instant,
    lines: Receiver<(Instant, String)>,
    log: Vec<(Instant, String)>,
}

impl Agent {
    /// Starts one that tells what it does in every network namespace, and keeps the gate of its node, as it does in a cluster.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, folder: &Folder) -> Result<Self> {
        let started = Instant::now();
        let mut command = Command::new(program);
        command.args(["--node-name", NODE, "--gate", "true", "--objects"]).arg(folder.objects());
        command.arg("--pods").arg(folder.pods()).arg("--state-dir").arg(folder.state());
        command.env("RUST_LOG", "warn,cven=debug").stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = probe::inside(&folder.node(), move || command.spawn())
            .with_context(|| format!("failed to run {}", program.display()))?;
        if let Ok(mut running) = RUNNING.lock() {
            running.insert(child.id());
        }
        let stderr = child.stderr.take().context("no standard error")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains(" WARN ") || line.contains("ERROR") {
                    eprintln!("cven: {line}");
                }
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, started, lines, log: Vec::new() })
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until so many of its lines, from the first on, are what `counts` looks for, and says when the last of them was.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn await_lines(&mut self, count: usize, limit: Duration, counts: impl Fn(&str) -> bool) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            let mut found = self.log.iter().filter(|(_, line)| counts(line));
            if let Some((at, _)) = found.nth(count.saturating_sub(1)) {
                return Ok(*at);
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log.extend(std::iter::once(line).chain(self.lines.try_iter())),
                Err(RecvTimeoutError::Timeout) => bail!("the agent has not told of {count} Pods in {limit:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the agent has ended"),
            }
        }
    }

    /// Waits until it has said nothing for so long.
    pub fn await_quiet(&mut self, quiet: Duration) {
        while let Ok(line) = self.lines.recv_timeout(quiet) {
            self.log.push(line);
        }
    }

    /// Processor time of its threads so far. Of those that have ended it is lost: for an agent that does little.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Processor time so far, in seconds, of it and of its children that have ended; in steps of a hundredth.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn cpu_with_children(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        Ok(crate::bench::ticks(&stat) as f64 / 100.0)
    }

    /// A line of /proc/PID/status in kB.
    ///
    /// # Errors
    /// When there is none.
    pub fn memory_kb(&self, line: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).with_context(|| format!("the kernel tells no {line}"))
    }

    /// Ends it and waits for that; what is in force stays.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
            self.child.wait()?;
        }
        if let Ok(mut running) = RUNNING.lock() {
            running.remove(&self.child.id());
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
