//! Pod networks: which one an address belongs to.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_crds::ContainerClusterSpec;

use super::workloads::{Owner, Workloads};
use crate::cluster::{ClusterState, NodeInfo};

/// Name of the Pod network when none is given by hand.
const DISCOVERED: &str = "default";

/// The Pod networks of a cluster.
#[derive(Debug)]
pub struct Networks {
    cluster_uid: String,
    /// Those of the ContainerCluster. Empty: there is one, and any address may be on it, because nothing says that a
    /// Pod's address lies in its node's podCIDR.
    given: Vec<(String, Vec<IpNet>)>,
}

impl Networks {
    /// The networks that the ContainerCluster gives, or the one discovered.
    pub fn new(spec: &ContainerClusterSpec, cluster_uid: &str) -> Self {
        let given = spec.pod_networks.iter().map(|network| {
            // A prefix that cannot be read covers nothing.
            (network.name.clone(), network.cidrs.iter().filter_map(|text| text.parse().ok()).collect())
        });
        Self { cluster_uid: cluster_uid.to_owned(), given: given.collect() }
    }

    fn id(&self, name: &str) -> String {
        format!("{}/{name}", self.cluster_uid)
    }

    /// The id of the network that a Pod's address is on; `None` if networks are given and none covers it.
    pub fn of_pod(&self, address: IpAddr) -> Option<String> {
        if self.given.is_empty() {
            return Some(self.id(DISCOVERED));
        }
        self.covering(address).map(|index| self.id(&self.given[index].0))
    }

    /// The given network that covers an address.
    fn covering(&self, address: IpAddr) -> Option<usize> {
        self.given.iter().position(|(_, nets)| nets.iter().any(|net| net.contains(&address)))
    }

    /// For every node, the id of the network that its Pods are on; empty if that cannot be said. And what is odd.
    pub fn of_nodes(&self, cluster: &ClusterState, workloads: &Workloads) -> (BTreeMap<String, String>, Vec<String>) {
        let mut warnings = Vec::new();
        let mut seen = self.seen(cluster, workloads);
        let found = cluster.nodes.iter().map(|(name, node)| {
            let networks = seen.remove(name.as_str()).unwrap_or_default();
            if networks.len() > 1 {
                let names = networks.iter().map(|(index, _)| self.given[*index].0.as_str()).collect::<Vec<_>>();
                warnings.push(format!(
                    "node {name} has Pods on the Pod networks {}: its policy knows the peers of {} only",
                    names.join(", "),
                    names[0]
                ));
            }
            (name.clone(), self.of_node(node, networks.first().map(|(index, _)| *index)))
        });
        (found.collect(), warnings)
    }

    /// For every node, the given networks that addresses of its Pods lie in, the one with the most of them first.
    fn seen<'c>(&self, cluster: &'c ClusterState, workloads: &Workloads) -> BTreeMap<&'c str, Vec<(usize, usize)>> {
        let mut counts: BTreeMap<&str, BTreeMap<usize, usize>> = BTreeMap::new();
        for (address, owner) in &workloads.owners {
            let Owner::Pod(key) = owner else { continue };
            let node = cluster.pods.get(key).and_then(|pod| pod.node.as_deref());
            if let (Some(node), Some(index)) = (node, self.covering(*address)) {
                *counts.entry(node).or_default().entry(index).or_default() += 1;
            }
        }
        let sorted = counts.into_iter().map(|(node, counts)| {
            let mut networks: Vec<(usize, usize)> = counts.into_iter().collect();
            networks.sort_by_key(|(index, count)| (Reverse(*count), *index));
            (node, networks)
        });
        sorted.collect()
    }

    /// `seen`: the network that its Pods' addresses lie in. Before it has a Pod, its own prefix is all there is to go by.
    fn of_node(&self, node: &NodeInfo, seen: Option<usize>) -> String {
        match self.given.as_slice() {
            [] => self.id(DISCOVERED),
            [(name, _)] => self.id(name),
            many => {
                let allotted =
                    |nets: &[IpNet]| nets.iter().any(|net| node.pod_cidrs.iter().any(|cidr| net.contains(cidr)));
                let index = seen.or_else(|| many.iter().position(|(_, nets)| allotted(nets)));
                index.map(|index| self.id(&many[index].0)).unwrap_or_default()
            }
        }
    }
}
