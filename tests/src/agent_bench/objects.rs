//! The folder that an agent enforces: computed objects, and Pods.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ringfence_crds::common::{NetworkAddress, PortSpec};
use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Peer, Subject};
use ringfence_crds::{
    AddressGroup, AddressGroupSpec, ContainerWorkloadProfile, ContainerWorkloadProfileSpec, NodePolicy, NodePolicySpec,
    PeerGroup, PeerGroupSpec, WorkloadPolicy, WorkloadPolicySpec,
};
use ringfence_model::{Action, Direction, PolicyState};
use serde::Serialize;
use serde_json::json;

use super::nets;

/// The node that the agent takes itself to be on.
pub const NODE: &str = "bench";
const SPACE: &str = "bench";
/// Members of one AddressGroup: what the controller makes has 100, and here is room for one more, so that a change is one
/// file.
const SLICE: usize = 101;

/// What the names of this process's folders begin with.
fn prefix() -> String {
    format!("ringfence-bench-{}-", std::process::id())
}

/// Removes every folder that this process has made.
pub fn remove_own() {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix())) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Objects and Pods on disk, gone when dropped.
pub struct Folder {
    root: PathBuf,
    node: Node,
}

/// The network namespace that is the node's own: with a kube-proxy's chain, so that its gate judges.
struct Node(String);

impl Node {
    fn new(name: &str) -> Result<Self> {
        let node = Self(nets::name(&format!("node-{name}")));
        nets::ip(&["netns", "add", &node.0])?;
        let netns = format!("--net={}", nets::path(&node.0).display());
        let chain = "*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n";
        nets::run("nsenter", &[&netns, "iptables-nft-restore", "--noflush"], chain)?;
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = nets::ip(&["netns", "del", &self.0]);
    }
}

impl Folder {
    /// A namespace in Full, on a node that requires nothing.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let root = std::env::temp_dir().join(format!("{}{name}", prefix()));
        let folder = Self { root, node: Node::new(name)? };
        fs::create_dir_all(folder.objects()).context("failed to make a folder")?;
        let profile = ContainerWorkloadProfileSpec {
            managed: true,
            policy_state: Some(PolicyState::Full),
            ..ContainerWorkloadProfileSpec::default()
        };
        let node = NodePolicySpec { cluster_uid: "bench".to_owned(), ..NodePolicySpec::default() };
        folder.put("profile", &ContainerWorkloadProfile::new(SPACE, profile))?;
        folder.put("node", &NodePolicy::new(NODE, node))?;
        Ok(folder)
    }

    /// Where the node's network namespace is mounted.
    pub fn node(&self) -> PathBuf {
        nets::path(&self.node.0)
    }

    /// Where the objects are.
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// The file of Pods.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods.json")
    }

    /// Where the agent keeps what it has read.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Writes the Pods: network namespaces and their addresses.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put_pods<'a>(&self, pods: impl IntoIterator<Item = (&'a Path, IpAddr)>) -> Result<()> {
        let entry = |(number, (netns, ip)): (usize, (&Path, IpAddr))| json!({"name": format!("pod-{number}"), "namespace": SPACE, "netns": netns, "ips": [ip]});
        let entries: Vec<_> = pods.into_iter().enumerate().map(entry).collect();
        replace(&self.pods(), &serde_json::to_vec(&entries)?)
    }

    /// A group of workloads with these addresses.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn put_group(&self, group: usize, members: &[IpAddr]) -> Result<()> {
        let peers = PeerGroupSpec { classes: vec![format!("c-{group}")], ..PeerGroupSpec::default() };
        self.put(&format!("peers-{group}"), &PeerGroup::new(&peer_group(group), peers))?;
        self.put_members(group, members)
    }

    /// Who is in a group that is there.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn put_members(&self, group: usize, members: &[IpAddr]) -> Result<()> {
        let slices = members.chunks(SLICE).count().max(1);
        for slice in 0..slices {
            let members = members.chunks(SLICE).nth(slice).unwrap_or_default();
            self.put_slice(&format!("c-{group}"), slice, slices, members)?;
        }
        Ok(())
    }

    fn put_slice(&self, class: &str, slice: usize, slices: usize, members: &[IpAddr]) -> Result<()> {
        let name = format!("{class}-{slice}");
        let member = |ip: &IpAddr| NetworkAddress { network: "".into(), address: ip.to_string().into() };
        let spec = AddressGroupSpec {
            class: class.to_owned(),
            slice: i32::try_from(slice)?,
            slices: (slice == 0).then(|| i32::try_from(slices)).transpose()?,
            members: members.iter().map(member).collect(),
            ..AddressGroupSpec::default()
        };
        self.put(&name, &AddressGroup::new(&name, spec))
    }

    /// Writes the rules: each says which group may be reached, and may reach, on which service.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put_rules(&self, rules: &[(usize, PortSpec)]) -> Result<()> {
        let rule = |number: usize, direction: Direction, group: usize, service: &PortSpec| CompiledRule {
            name: format!("rule-{number}"),
            direction,
            action: Action::Allow,
            reject: false,
            subjects: vec![Subject { labels: Some(LabelSelector::default()), ..Subject::default() }],
            peers: vec![Peer { peer_group: Some(peer_group(group)), ..Peer::default() }],
            all_services: false,
            services: vec![service.clone()],
            virtual_service_ports: false,
        };
        let both = [Direction::Inbound, Direction::Outbound];
        let compiled = rules
            .iter()
            .enumerate()
            .flat_map(|(number, (group, service))| both.map(|direction| rule(number, direction, *group, service)));
        let spec = WorkloadPolicySpec { rule_set: "bench".to_owned(), rules: compiled.collect(), ..Default::default() };
        self.put("rules", &WorkloadPolicy::new("bench", spec))
    }

    fn put(&self, name: &str, object: &impl Serialize) -> Result<()> {
        replace(&self.objects().join(format!("{name}.json")), &serde_json::to_vec(object)?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn peer_group(group: usize) -> String {
    format!("p-{group}")
}

/// One port of a protocol.
pub fn port(protocol: &str, port: u16) -> PortSpec {
    PortSpec {
        protocol: protocol.to_owned(),
        port: Some(port.into()),
        end_port: None,
        icmp_type: None,
        icmp_code: None,
    }
}

/// Whoever reads the file finds the old or the new content.
fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, text)
        .and_then(|()| fs::rename(&aside, path))
        .with_context(|| format!("failed to write {}", path.display()))
}
