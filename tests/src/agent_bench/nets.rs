//! Network namespaces of the benchmark's own, gone when dropped; those that an earlier run had to leave behind go first.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{pod_start, probe};

/// What their names begin with; the process that made them comes next.
const PREFIX: &str = "rfbench-";
/// Between two looks at all namespaces that have not changed yet.
const PERIOD: Duration = Duration::from_millis(2);

/// A network namespace with an address of each family on `eth0`, which leads nowhere.
pub struct Pod {
    name: String,
    sockets: [UdpSocket; 2],
}

/// Several of them.
pub struct Nets {
    pods: Vec<Pod>,
}

/// Removes what processes that have ended have left behind.
///
/// # Errors
/// When `ip` cannot be run.
pub fn sweep() -> Result<()> {
    for name in ip(&["netns", "list"])?.lines().filter_map(|line| line.split(' ').next()) {
        let own = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(pod_start::PREFIX));
        let owner = own.and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}

/// Removes everything that this process has made.
pub fn remove_own() {
    let own = format!("{PREFIX}{}-", std::process::id());
    let names = ip(&["netns", "list"]).unwrap_or_default();
    for name in names.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with(&own)) {
        let _ = ip(&["netns", "del", name]);
    }
}

/// The name of a namespace of this process.
pub fn name(of: &str) -> String {
    format!("{PREFIX}{}-{of}", std::process::id())
}

/// Where a namespace is mounted.
pub fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Runs `ip`, and returns what it prints.
///
/// # Errors
/// When it fails.
pub fn ip(arguments: &[&str]) -> Result<String> {
    run("ip", arguments, "")
}

/// Runs a program with some input, and returns what it prints.
///
/// # Errors
/// When it fails.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to run {program}"))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let text = input.to_owned();
    // What is written here and what it prints may both be more than a pipe holds.
    let writer = std::thread::spawn(move || io::Write::write_all(&mut stdin, text.as_bytes()));
    let output = child.wait_with_output()?;
    let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    written?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Pod {
    fn new(number: usize) -> Result<Self> {
        let name = name(&number.to_string());
        ip(&["netns", "add", &name])?;
        let own = own_address(number)?;
        // Without ARP, and with nobody at the other end: what is sent is judged, and gone.
        let script = format!(
            "link set lo up\nlink add eth0 type veth peer name wire\nlink set eth0 arp off up\n\
             addr add {own}/8 dev eth0\naddr add fd99::{number:x}/64 dev eth0 nodad\n"
        );
        run("ip", &["-n", &name, "-batch", "-"], &script)?;
        let sockets = probe::inside(&path(&name), || Ok([UdpSocket::bind("0.0.0.0:0")?, UdpSocket::bind("[::]:0")?]))?;
        Ok(Self { name, sockets })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        path(&self.name)
    }

    /// Whether a packet of a new flow may leave.
    pub fn may_send(&self, target: SocketAddr) -> bool {
        let [v4, v6] = &self.sockets;
        let socket = if target.is_ipv4() { v4 } else { v6 };
        // What table mangle drops on its way out is an error to the sender.
        !matches!(socket.send_to(b"x", target), Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// The address of a Pod.
///
/// # Errors
/// When there are no such many.
pub fn own_address(number: usize) -> Result<IpAddr> {
    let [.., high, low] = u32::try_from(number + 1)?.to_be_bytes();
    Ok(Ipv4Addr::new(10, 0, high, low).into())
}

impl Nets {
    /// Makes so many.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn new(count: usize) -> Result<Self> {
        let mut nets = Self { pods: Vec::new() };
        for number in 0..count {
            nets.pods.push(Pod::new(number)?);
        }
        Ok(nets)
    }

    /// All of them.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Waits until every Pod may, or may not, send to all of the targets; the time from `begin` to the last.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn await_all(&self, targets: &[SocketAddr], may: bool, begin: Instant, limit: Duration) -> Result<Duration> {
        let mut waiting: Vec<&Pod> = self.pods.iter().collect();
        loop {
            waiting.retain(|pod| targets.iter().any(|target| pod.may_send(*target) != may));
            let took = begin.elapsed();
            if waiting.is_empty() {
                return Ok(took);
            }
            ensure!(took < limit, "{} Pods have not changed in {limit:?}", waiting.len());
            std::thread::sleep(PERIOD);
        }
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        for pod in &self.pods {
            let _ = ip(&["netns", "del", &pod.name]);
        }
    }
}
