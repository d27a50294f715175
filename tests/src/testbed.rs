//! The test cluster as `tests/cluster/cluster.sh` brings it up.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// In the environment, how kube-proxies translate (tests/cluster/README.md).
const PROXY_MODE: &str = "RINGFENCE_PROXY_MODE";

/// One cluster of the test bed, by name.
#[derive(Debug, Clone)]
pub struct Testbed {
    name: String,
    root: PathBuf,
    uneven: bool,
}

/// A running Pod sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Namespace of the Pod.
    pub namespace: String,
    /// Name of the Pod.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Path by which the host can enter its network namespace.
    pub netns: PathBuf,
}

/// The root folder of the work tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

impl Testbed {
    /// A handle; nothing is started.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), root: root(), uneven: false }
    }

    /// Its nodes differ, and nothing may assume that they do not: the Pods of one have addresses outside its podCIDR, and
    /// kube-proxies translate with iptables on some and with nftables on others, unless the environment says otherwise.
    #[must_use]
    pub fn uneven(self) -> Self {
        Self { uneven: true, ..self }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.root.join("tests/cluster/cluster.sh"));
        command.args(arguments);
        if self.uneven {
            command.env("RINGFENCE_POD_CIDR_OUTSIDE", "1");
            if std::env::var_os(PROXY_MODE).is_none() {
                command.env(PROXY_MODE, "mixed");
            }
        }
        command
    }

    /// Runs a sub-command and gives what it prints; what it says on standard error goes to ours.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stderr(Stdio::inherit()).output().context("failed to run cluster.sh")?;
        if !output.status.success() {
            bail!("cluster.sh {} failed with {}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Name of the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Brings the cluster up and gives the path of its admin kubeconfig.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(&self) -> Result<PathBuf> {
        self.bring_up("up")
    }

    /// Brings up etcd and an apiserver alone, empty, and gives the path of the admin kubeconfig.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn up_apiserver(&self) -> Result<PathBuf> {
        self.bring_up("up-apiserver")
    }

    fn bring_up(&self, command: &str) -> Result<PathBuf> {
        let output = self.run(&[command, &self.name])?;
        let last = output.lines().last().unwrap_or_default();
        let path = last
            .strip_prefix("export KUBECONFIG=")
            .with_context(|| format!("cluster.sh {command} ended with '{last}' instead of export KUBECONFIG=…"))?;
        Ok(PathBuf::from(path))
    }

    /// The process of the apiserver of a cluster with this admin kubeconfig.
    ///
    /// # Errors
    /// When none was started.
    pub fn apiserver(kubeconfig: &Path) -> Result<i32> {
        let text = std::fs::read_to_string(kubeconfig.with_file_name("run").join("apiserver.pid"));
        let text = text.context("failed to find the apiserver")?;
        let number = text.split_whitespace().next().unwrap_or_default();
        number.parse().with_context(|| format!("'{number}' is no process"))
    }

    /// Begins to bring the cluster up, in a process group of its own.
    ///
    /// # Errors
    /// When nothing can be started.
    pub fn begin_up(&self) -> Result<Begun> {
        let mut command = self.command(&["up", &self.name]);
        let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.map(Begun).context("failed to run cluster.sh")
    }

    /// Command lines of running processes that name the folder of this cluster.
    ///
    /// # Errors
    /// When processes cannot be listed.
    pub fn processes(&self) -> Result<Vec<String>> {
        let folder = format!("/ringfence/{}/", self.name);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            // A process may end while it is looked at.
            let Ok(line) = std::fs::read(entry?.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&folder) {
                found.push(line);
            }
        }
        Ok(found)
    }

    /// Ends the cluster.
    ///
    /// # Errors
    /// When something could not be ended.
    pub fn down(&self) -> Result<()> {
        self.run(&["down", &self.name]).map(drop)
    }

    /// All running Pod sandboxes.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let text = self.run(&["pods", &self.name])?;
        text.lines()
            .map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                match fields.as_slice() {
                    [namespace, name, node, netns] => Ok(Sandbox {
                        namespace: (*namespace).to_owned(),
                        name: (*name).to_owned(),
                        node: (*node).to_owned(),
                        netns: PathBuf::from(netns),
                    }),
                    _ => bail!("'cluster.sh pods' printed '{line}', which is not 'namespace name node netns'"),
                }
            })
            .collect()
    }

    /// Addresses of the cluster's parts, by name (see `cluster.sh addresses`).
    ///
    /// # Errors
    /// When they cannot be asked for.
    pub fn addresses(&self) -> Result<BTreeMap<String, String>> {
        let text = self.run(&["addresses", &self.name])?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect())
    }

    /// What a component has logged, such as `kubelet-3`.
    ///
    /// # Errors
    /// When it has not.
    pub fn log(&self, component: &str) -> Result<String> {
        let state = std::env::var("RINGFENCE_STATE").unwrap_or_else(|_| "/var/tmp/ringfence".to_owned());
        let path = Path::new(&state).join(&self.name).join("log").join(format!("{component}.log"));
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
    }

    /// The network namespace of the client outside the cluster.
    pub fn client_netns(&self) -> PathBuf {
        self.netns("ext")
    }

    /// The network namespace of a part: `node1` and so on, `cp`, `ext`, or `fabric`, the router between them.
    pub fn netns(&self, part: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/rf-{}-{part}", self.name))
    }

    /// The folder with kubectl, helm and the rest.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn bin(&self) -> Result<PathBuf> {
        self.run(&["bin"]).map(PathBuf::from)
    }

    /// `make install` of the work tree onto this cluster.
    ///
    /// # Errors
    /// When it fails.
    pub fn install(&self, kubeconfig: &Path) -> Result<()> {
        let status = Command::new("make")
            .arg("--no-print-directory")
            .arg("install")
            .current_dir(&self.root)
            .env("KUBECONFIG", kubeconfig)
            .env("CLUSTER", &self.name)
            .stdout(std::io::stderr())
            .status()
            .context("failed to run make install")?;
        if !status.success() {
            bail!("make install failed with {status}");
        }
        Ok(())
    }
}

/// A run of `up` under way.
pub struct Begun(Child);

impl Begun {
    /// Kills it with all that it has started in its process group, as a killed shell would be.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        let group = i32::try_from(self.0.id()).context("a process id is positive")?;
        killpg(Pid::from_raw(group), Signal::SIGKILL).context("failed to kill the run")?;
        self.0.wait().map(drop).context("failed to await the killed run")
    }
}
