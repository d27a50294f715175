//! Who is a workload: with which labels, in which class, at which addresses.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::{NamespacedName, NetworkAddress, labels_of};
use ringfence_crds::container_cluster::Management;
use ringfence_model::Labels;

use super::addresses::{NodeAddresses, no_host_has};
use super::labels::{LabelReader, NamespaceProfile};
use super::names;
use super::networks::Networks;
use super::{ComputedPod, ComputedWorkload};
use crate::cluster::{ClusterState, NodeInfo, PodInfo};
use crate::policy::Policy;

/// What kind of workload a class holds. Pods share classes; each machine has its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassOrigin {
    /// Pods.
    Pods,
    /// A node.
    Node(String),
    /// An unmanaged machine.
    Unmanaged(String),
}

/// A distinct set of labels that workloads of one origin have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// The labels.
    pub labels: Labels,
    /// Whose they are.
    pub origin: ClassOrigin,
}

impl Class {
    /// Its id in computed objects.
    pub fn id(&self) -> String {
        names::class_id(&self.to_string())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|", self.labels)?;
        match &self.origin {
            ClassOrigin::Pods => f.write_str("pods"),
            ClassOrigin::Node(name) => write!(f, "node {name}"),
            ClassOrigin::Unmanaged(name) => write!(f, "workload {name}"),
        }
    }
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A Pod on the Pod network.
    Pod(NamespacedName),
    /// A node.
    Node(String),
    /// An unmanaged machine.
    Unmanaged(String),
    /// Two of them say so, hence nobody until that is resolved.
    Disputed,
}

/// A Pod.
#[derive(Debug, Default)]
pub struct PodFacts {
    /// What is shown of it.
    pub shown: ComputedPod,
    /// Its class; none in an unmanaged namespace and for a host-network Pod.
    pub class: Option<Arc<Class>>,
}

/// A node or an unmanaged machine.
#[derive(Debug, Default)]
pub struct MachineFacts {
    /// What is shown of it.
    pub shown: ComputedWorkload,
    /// Its labels.
    pub labels: Labels,
    /// Its class.
    pub class: Option<Arc<Class>>,
}

/// All workloads.
#[derive(Debug, Default)]
pub struct Workloads {
    /// Pods that have not ended.
    pub pods: BTreeMap<NamespacedName, PodFacts>,
    /// Nodes that are workloads.
    pub nodes: BTreeMap<String, MachineFacts>,
    /// Unmanaged machines.
    pub unmanaged: BTreeMap<String, MachineFacts>,
    /// The addresses of every node, also of those that are no workloads.
    pub node_addresses: NodeAddresses,
    /// Who has which address.
    pub owners: BTreeMap<IpAddr, Owner>,
    /// The addresses of every class. A class whose Pods have no address yet is there, so that their addresses cost no
    /// more than a change of one slice.
    pub classes: BTreeMap<Arc<Class>, Vec<NetworkAddress>>,
    /// What has no effect and why.
    pub warnings: Vec<String>,
}

/// Whether a node is the provider's, so that it is no workload.
pub fn is_workload(policy: &Policy, node: &NodeInfo) -> bool {
    policy.cluster.management == Management::SelfManaged || !node.control_plane
}

impl Workloads {
    /// Finds all workloads.
    pub fn find(policy: &Policy, cluster: &ClusterState, reader: &LabelReader, networks: &Networks) -> Self {
        let mut found = Self { node_addresses: NodeAddresses::find(policy, cluster), ..Self::default() };
        found.add_nodes(policy, cluster, reader);
        found.add_pods(policy, cluster, reader, networks);
        found.add_unmanaged(policy, cluster);
        found.fill_classes(networks);
        found
    }

    fn class(&mut self, labels: &Labels, origin: ClassOrigin) -> Arc<Class> {
        let class = Class { labels: labels.clone(), origin };
        if let Some((present, _)) = self.classes.get_key_value(&class) {
            return Arc::clone(present);
        }
        let class = Arc::new(class);
        self.classes.insert(Arc::clone(&class), Vec::new());
        class
    }

    fn add_nodes(&mut self, policy: &Policy, cluster: &ClusterState, reader: &LabelReader) {
        for (name, node) in &cluster.nodes {
            let addresses = self.node_addresses.of(name);
            for address in &addresses {
                self.claim(*address, Owner::Node(name.clone()));
            }
            if !is_workload(policy, node) {
                continue;
            }
            let labels = reader.of_node(node, policy.workloads.get(name).map(|workload| &workload.labels));
            let class = Some(self.class(&labels, ClassOrigin::Node(name.clone())));
            let mut shown = ComputedWorkload {
                role: if node.control_plane { "master" } else { "worker" }.to_owned(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
                kubernetes_machine_id: Some(node.machine_id.clone()).filter(|id| !id.is_empty()),
                labels: labels.to_strings(),
                warnings: Vec::new(),
            };
            if policy.workloads.get(name).is_some_and(|workload| !workload.addresses.is_empty()) {
                shown.warnings.push("spec.addresses has no effect: discovery finds the addresses of a node".to_owned());
            }
            self.nodes.insert(name.clone(), MachineFacts { shown, labels, class });
        }
    }

    fn add_pods(&mut self, policy: &Policy, cluster: &ClusterState, reader: &LabelReader, networks: &Networks) {
        let cluster_ips = cluster.services.values().flat_map(|service| service.cluster_ips.iter().copied());
        let foreign: BTreeMap<IpAddr, &str> = cluster_ips
            .map(|address| (address, "a Service"))
            .chain(cluster.nodes.values().flat_map(|node| node.addresses.iter().map(|address| (*address, "a node"))))
            .collect();
        let mut profiles: BTreeMap<&str, NamespaceProfile> = BTreeMap::new();
        for (key, pod) in cluster.pods.iter().filter(|(_, pod)| !pod.ended) {
            let profile =
                profiles.entry(&key.namespace).or_insert_with(|| NamespaceProfile::of(policy, &key.namespace));
            let mut facts = PodFacts { shown: shown_pod(pod), class: None };
            if !pod.host_network {
                if profile.state.is_some() {
                    facts.shown.labels = reader.of_pod(profile, pod);
                    facts.shown.state = profile.state;
                    facts.class = Some(self.class(&facts.shown.labels.labels, ClassOrigin::Pods));
                }
                for address in &pod.ips {
                    match implausible(*address, &foreign, networks) {
                        Some(reason) => facts.shown.problems.push(format!("address {address} is refused: {reason}")),
                        None => self.claim(*address, Owner::Pod(key.clone())),
                    }
                }
            }
            self.pods.insert(key.clone(), facts);
        }
        self.report_disputes(cluster);
    }

    /// A second claim makes an address nobody's.
    fn claim(&mut self, address: IpAddr, owner: Owner) {
        match self.owners.entry(address) {
            Entry::Vacant(vacant) => {
                vacant.insert(owner);
            }
            Entry::Occupied(mut present) if *present.get() != owner => {
                present.insert(Owner::Disputed);
            }
            Entry::Occupied(_) => {}
        }
    }

    fn report_disputes(&mut self, cluster: &ClusterState) {
        for (key, facts) in &mut self.pods {
            let Some(pod) = cluster.pods.get(key).filter(|pod| !pod.host_network) else {
                continue;
            };
            for address in pod.ips.iter().filter(|address| self.owners.get(address) == Some(&Owner::Disputed)) {
                facts.shown.problems.push(format!("address {address} is also that of another Pod: neither is a peer"));
                self.warnings.push(format!("pod/{key} and another Pod have the address {address}: neither is a peer"));
            }
        }
    }

    fn add_unmanaged(&mut self, policy: &Policy, cluster: &ClusterState) {
        let machines = || policy.workloads.iter().filter(|(name, _)| !cluster.nodes.contains_key(*name));
        let mut claims: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
        for (name, spec) in machines() {
            for address in spec.addresses.iter().filter_map(|text| text.parse().ok()) {
                claims.entry(address).or_default().insert(name);
            }
        }
        for (name, spec) in machines() {
            let labels = labels_of(&spec.labels);
            let class = Some(self.class(&labels, ClassOrigin::Unmanaged(name.clone())));
            let mut shown = ComputedWorkload {
                role: "unmanaged".to_owned(),
                labels: labels.to_strings(),
                ..ComputedWorkload::default()
            };
            for text in spec.addresses.iter().collect::<BTreeSet<_>>() {
                let refused = match text.parse::<IpAddr>() {
                    Err(_) => Some("it is no address"),
                    Ok(address) if claims.get(&address).is_some_and(|names| names.len() > 1) => {
                        Some("another Workload has it too")
                    }
                    Ok(address) if self.owners.contains_key(&address) => Some("a Pod or node has it"),
                    Ok(address) => {
                        self.owners.insert(address, Owner::Unmanaged(name.clone()));
                        shown.addresses.push(address.to_string());
                        None
                    }
                };
                shown.warnings.extend(refused.map(|reason| format!("address {text} has no effect: {reason}")));
            }
            self.unmanaged.insert(name.clone(), MachineFacts { shown, labels, class });
        }
    }

    fn fill_classes(&mut self, networks: &Networks) {
        for (address, owner) in &self.owners {
            let (class, network) = match owner {
                Owner::Pod(key) => (self.pods.get(key).and_then(|pod| pod.class.clone()), networks.of_pod(*address)),
                Owner::Node(name) => (self.nodes.get(name).and_then(|node| node.class.clone()), Some(String::new())),
                Owner::Unmanaged(name) => {
                    (self.unmanaged.get(name).and_then(|machine| machine.class.clone()), Some(String::new()))
                }
                Owner::Disputed => (None, None),
            };
            if let (Some(class), Some(network)) = (class, network) {
                let member = NetworkAddress { network, address: address.to_string() };
                self.classes.entry(class).or_default().push(member);
            }
        }
    }

    /// The class of whoever has an address.
    pub fn class_at(&self, address: IpAddr) -> Option<&Arc<Class>> {
        match self.owners.get(&address)? {
            Owner::Pod(key) => self.pods.get(key)?.class.as_ref(),
            Owner::Node(name) => self.nodes.get(name)?.class.as_ref(),
            Owner::Unmanaged(name) => self.unmanaged.get(name)?.class.as_ref(),
            Owner::Disputed => None,
        }
    }
}

fn shown_pod(pod: &PodInfo) -> ComputedPod {
    ComputedPod {
        node: pod.node.clone(),
        host_network: pod.host_network,
        addresses: pod.ips.clone(),
        uid: pod.uid.clone(),
        ..ComputedPod::default()
    }
}

/// Why an address cannot be a Pod's. A kubelet reports what it likes.
fn implausible(address: IpAddr, foreign: &BTreeMap<IpAddr, &str>, networks: &Networks) -> Option<String> {
    if no_host_has(address) {
        return Some("no Pod can have it".to_owned());
    }
    if let Some(owner) = foreign.get(&address) {
        return Some(format!("it is that of {owner}"));
    }
    networks.of_pod(address).is_none().then(|| "it lies outside the Pod networks of the ContainerCluster".to_owned())
}
