//! A node in miniature, for what happens when Pods start: a bridge in a network namespace, the chain of CNI plugins as a
//! container runtime runs it, and the agent that the last of them asks. No kubelet: a thousand starts take a minute.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::probe;

/// Where Debian has the plugins that make networks.
const PLUGINS: &str = "/usr/lib/cni";
/// Namespace in Full without a rule.
pub const FULL: &str = "shop";
/// Namespace that nobody manages.
pub const UNMANAGED: &str = "blog";
/// What the names of everything that is made here begin with; the process that made it comes next.
pub const PREFIX: &str = "rfps";
/// Port that every Pod listens on once it has started.
pub const PORT: u16 = 8080;

/// A Pod to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its number: 1 to 60,000.
    pub number: u16,
}

impl Pod {
    /// Its addresses, one of each family.
    pub fn addresses(self) -> [IpAddr; 2] {
        let [high, low] = self.number.to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 1, self.number);
        [Ipv4Addr::new(10, 98, high + 1, low).into(), v6.into()]
    }

    /// Where it listens once it has started, over each family.
    pub fn targets(self) -> [SocketAddr; 2] {
        self.addresses().map(|address| SocketAddr::new(address, PORT))
    }

    /// The address of its interface.
    fn mac(self) -> String {
        let [high, low] = self.number.to_be_bytes();
        format!("02:00:00:98:{high:02x}:{low:02x}")
    }

    fn name(self) -> String {
        format!("pod-{}", self.number)
    }
}

/// What the CNI plugin says when a Pod must not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

fn own_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// Removes whatever this process has made, where a [`Node`] cannot be dropped.
pub fn remove_own() {
    remove_named(&own_prefix());
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&own_prefix()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes network namespaces whose names begin so.
fn remove_named(prefix: &str) {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(prefix)) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// The node; gone when dropped.
#[derive(Debug)]
pub struct Node {
    id: String,
    folder: PathBuf,
    cven: PathBuf,
    plugin: PathBuf,
    /// For how long a Pod's start may wait.
    wait: Duration,
    /// Whether Pods have an IPv6 address too.
    dual_stack: bool,
    agent: Mutex<Option<Child>>,
}

impl Node {
    /// Why there can be none here, if so.
    pub fn missing(cven: &Path, plugin: &Path) -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        let bridge = Path::new(PLUGINS).join("bridge");
        let absent = [cven, plugin, &bridge].into_iter().find(|program| !program.is_file())?;
        Some(format!("there is no {}: run 'make build', and 'tests/cluster/cluster.sh deps'", absent.display()))
    }

    /// A node whose agent does not run yet, and knows Pods 1 to `pods` of [`FULL`].
    ///
    /// # Errors
    /// When something cannot be made.
    pub fn new(cven: &Path, plugin: &Path, wait: Duration, pods: u16) -> Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("{}{number}", own_prefix());
        let folder = std::env::temp_dir().join(&id);
        fs::create_dir_all(folder.join("objects"))?;
        fs::create_dir_all(folder.join("state"))?;
        let (cven, plugin) = (cven.to_owned(), plugin.to_owned());
        let node = Self { id, folder, cven, plugin, wait, dual_stack: true, agent: Mutex::default() };
        fs::write(node.folder.join("objects/policy.yaml"), OBJECTS)?;
        let entry = |number| {
            let name = Pod { namespace: FULL, number }.name();
            format!("- {{name: {name}, namespace: {FULL}, uid: uid-{name}}}\n")
        };
        fs::write(node.folder.join("pods.yaml"), (1..=pods).map(entry).collect::<String>())?;
        run(Command::new("ip").args(["netns", "add", &node.hub_name()]))?;
        run(Command::new("ip").args(["-n", &node.hub_name(), "link", "set", "lo", "up"]))?;
        // The bridge has its IPv6 address at once, as any that has been there for a second.
        probe::inside(&node.hub(), || {
            ["all", "default"]
                .into_iter()
                .try_for_each(|which| fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0"))
        })?;
        Ok(node)
    }

    /// The same, whose Pods have an IPv4 address alone.
    #[must_use]
    pub fn of_ipv4(mut self) -> Self {
        self.dual_stack = false;
        self
    }

    fn hub_name(&self) -> String {
        format!("{}-hub", self.id)
    }

    /// The network namespace of the node itself, in which its bridge is.
    pub fn hub(&self) -> PathBuf {
        Path::new("/run/netns").join(self.hub_name())
    }

    fn netns_name(&self, pod: Pod) -> String {
        format!("{}-{}", self.id, pod.number)
    }

    /// The network namespace of a Pod.
    pub fn netns(&self, pod: Pod) -> PathBuf {
        Path::new("/run/netns").join(self.netns_name(pod))
    }

    /// The folder of objects that its agent enforces.
    pub fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// The process that its agent is, if one runs.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent().as_ref().map(Child::id)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("cni.sock")
    }

    /// What holds without an agent, as [`Node::write_fallback`] writes it.
    fn fallback(&self) -> PathBuf {
        self.folder.join("state/cni-fallback.json")
    }

    /// Starts the agent, and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_agent(&self) -> Result<()> {
        self.stop_agent();
        let _ = fs::remove_file(self.socket());
        let wait = self.wait.as_secs().to_string();
        let mut command = Command::new(&self.cven);
        command.current_dir(&self.folder).args(["--objects", "objects", "--pods", "pods.yaml", "--state-dir", "state"]);
        command.args(["--node-name", "n1", "--cni-socket", "cni.sock", "--pod-start-wait", &wait]);
        let log = fs::File::create(self.folder.join("agent.log"))?;
        let agent = command.env("RUST_LOG", "info,cven::cni=debug").stdout(Stdio::null()).stderr(log).spawn()?;
        *self.agent() = Some(agent);
        let begin = Instant::now();
        while !self.socket().exists() {
            ensure!(begin.elapsed() < Duration::from_secs(20), "the agent does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Kills the agent, as a crash would.
    pub fn stop_agent(&self) {
        if let Some(mut agent) = self.agent().take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    fn agent(&self) -> MutexGuard<'_, Option<Child>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// Says what holds without an agent; `None` takes the file away.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_fallback(&self, text: Option<&str>) -> Result<()> {
        match text {
            Some(text) => fs::write(self.fallback(), text)?,
            None => drop(fs::remove_file(self.fallback())),
        }
        Ok(())
    }

    /// The network namespace of a Pod, before any plugin has been there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_netns(&self, pod: Pod) -> Result<()> {
        run(Command::new("ip").args(["netns", "add", &self.netns_name(pod)]))?;
        run(Command::new("ip").args(["-n", &self.netns_name(pod), "link", "set", "lo", "up"])).map(drop)
    }

    /// The first plugin: a wire to the bridge, and the Pod's addresses. From here on packets reach the Pod.
    ///
    /// # Errors
    /// When it fails.
    pub fn attach(&self, pod: Pod) -> Result<Value> {
        let [v4, v6] = pod.addresses();
        let mut addresses = vec![json!({"address": format!("{v4}/16"), "gateway": "10.98.0.1"})];
        if self.dual_stack {
            addresses.push(json!({"address": format!("{v6}/64"), "gateway": "fd98::1"}));
        }
        let config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "br0", "isGateway": true,
            "ipam": {"type": "static", "addresses": addresses}});
        let bridge = Path::new(PLUGINS).join("bridge");
        self.plugin(&bridge, "ADD", pod, &config)?.map_err(|Refused(why)| anyhow::anyhow!("bridge: {why}"))
    }

    /// Our plugin, last: returns when the Pod may start, or must not.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn protect(&self, pod: Pod, result: &Value) -> Result<Result<Value, Refused>> {
        let mut config = self.entry();
        config["prevResult"] = result.clone();
        self.plugin(&self.plugin, "ADD", pod, &config)
    }

    fn entry(&self) -> Value {
        let wait = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        json!({"cniVersion": "1.0.0", "name": "pods", "type": "cven-cni", "socket": self.socket(),
            "fallback": self.fallback(), "waitMilliseconds": wait})
    }

    /// Both, as a runtime does it.
    ///
    /// # Errors
    /// When something fails, but for a refusal.
    pub fn start(&self, pod: Pod) -> Result<Result<Value, Refused>> {
        self.make_netns(pod)?;
        let result = self.attach(pod)?;
        self.protect(pod, &result)
    }

    /// The Pod is over.
    ///
    /// # Errors
    /// When our plugin holds it up, or its network namespace stays.
    pub fn end(&self, pod: Pod) -> Result<()> {
        if let Err(Refused(why)) = self.plugin(&self.plugin, "DEL", pod, &self.entry())? {
            bail!("a Pod may always end: {why}");
        }
        run(Command::new("ip").args(["netns", "del", &self.netns_name(pod)])).map(drop)
    }

    fn plugin(&self, program: &Path, command: &str, pod: Pod, config: &Value) -> Result<Result<Value, Refused>> {
        let name = pod.name();
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={name};K8S_POD_UID=uid-{name};MAC={}",
            pod.namespace,
            pod.mac()
        );
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.hub().display()))
            .arg(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("sandbox-{}", pod.number))
            .env("CNI_NETNS", self.netns(pod))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // Written in one piece before the plugin writes anything.
        child.stdin.take().context("it is piped")?.write_all(config.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let said: Value = match output.stdout.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&output.stdout)?,
        };
        if output.status.success() {
            return Ok(Ok(said));
        }
        Ok(Err(Refused(format!(
            "{}: {}",
            said["msg"].as_str().unwrap_or_default(),
            said["details"].as_str().unwrap_or_default()
        ))))
    }

    /// Packets to the Pod's addresses find it as soon as its interface is there, without asking first.
    ///
    /// # Errors
    /// When the bridge is not there yet.
    pub fn know_neighbour(&self, pod: Pod) -> Result<()> {
        let (hub, mac) = (self.hub_name(), pod.mac());
        for address in pod.addresses().map(|address| address.to_string()) {
            run(Command::new("ip").args(["-n", &hub, "neigh", "replace", &address, "lladdr", &mac, "dev", "br0"]))?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_agent();
        remove_named(&format!("{}-", self.id));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// One namespace in Full, to which no rule applies.
const OBJECTS: &str = "\
apiVersion: ringfence.dev/v1alpha1
kind: NodePolicy
metadata: {name: n1}
spec: {podNetwork: pods}
---
apiVersion: ringfence.dev/v1alpha1
kind: ContainerWorkloadProfile
metadata: {name: shop}
spec: {managed: true, policyState: Full}
status: {enforcedState: Full}
";

/// What a network namespace has counted of TCP, over both families.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Packets that came in on eth0, of any kind.
    pub arrived: u64,
    /// Segments that were sent.
    pub sent: u64,
    /// Of these, resets: the kernel refuses what nobody listens for.
    pub resets: u64,
    /// Connections that were answered.
    pub accepted: u64,
}

/// Reads the counters of a network namespace.
///
/// # Errors
/// When it cannot be entered.
pub fn count(netns: &Path) -> io::Result<Tcp> {
    probe::inside(netns, || {
        let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let of: BTreeMap<&str, &str> = names.split(' ').zip(values.split(' ')).collect();
        let number = |name: &str| of.get(name).and_then(|text| text.parse().ok()).unwrap_or_default();
        let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
        let eth0 = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
        let arrived = eth0.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_default();
        Ok(Tcp { arrived, sent: number("OutSegs"), resets: number("OutRsts"), accepted: number("PassiveOpens") })
    })
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
