//! Addresses of nodes: those that Kubernetes knows, and the plausible ones of those that agents report.
//!
//! A node's own Pods see it at addresses that Kubernetes does not know: that of a bridge, that of a tunnel. Its agent
//! reports them. A report is a claim by whoever holds the agent's credentials, so it adds nothing that anybody else has
//! or could have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::ClusterState;
use crate::policy::Policy;

/// The addresses of every node.
#[derive(Debug, Default)]
pub struct NodeAddresses {
    all: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Those among them that the node's agent reports.
    reported: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl NodeAddresses {
    /// Addresses of each node's status, and those that its agent reports and nobody else has.
    pub fn find(policy: &Policy, cluster: &ClusterState) -> Self {
        let taken = taken(policy, cluster);
        let claims = claims(cluster);
        let free = |address: &IpAddr| {
            !no_host_has(*address)
                && !taken.contains(address)
                && claims.get(address) == Some(&1)
                && !cluster.service_ranges.iter().any(|range| range.contains(address))
        };
        let mut found = Self::default();
        for (name, node) in &cluster.nodes {
            let plausible = node.reported.iter().filter(|address| node.addresses.contains(*address) || free(address));
            let reported: BTreeSet<IpAddr> = plausible.copied().collect();
            found.all.insert(name.clone(), node.addresses.union(&reported).copied().collect());
            found.reported.insert(name.clone(), reported);
        }
        found
    }

    /// All addresses of a node.
    pub fn of(&self, node: &str) -> BTreeSet<IpAddr> {
        self.all.get(node).cloned().unwrap_or_default()
    }

    /// The addresses of all nodes.
    pub fn everywhere(&self) -> impl Iterator<Item = IpAddr> {
        self.all.values().flatten().copied()
    }

    /// These addresses and, where one of them is that of a node, the ones by which that node's own Pods see it. Whose
    /// an address is, Kubernetes decides: no node reports itself into this.
    pub fn with_reported(&self, addresses: &BTreeSet<IpAddr>, cluster: &ClusterState) -> BTreeSet<IpAddr> {
        let theirs = |name: &str| cluster.nodes.get(name).is_some_and(|node| !node.addresses.is_disjoint(addresses));
        let reported = self.reported.iter().filter(|(name, _)| theirs(name));
        reported.flat_map(|(_, reported)| reported).chain(addresses).copied().collect()
    }
}

/// Whether no machine and no Pod has such an address for others to see.
pub fn no_host_has(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local
}

/// Addresses that somebody else has: Pods, Services, nodes by their status, the apiserver, declared machines.
fn taken(policy: &Policy, cluster: &ClusterState) -> BTreeSet<IpAddr> {
    let pods = cluster.pods.values().filter(|pod| !pod.ended && !pod.host_network);
    let services = cluster.services.values();
    let machines = policy.workloads.iter().filter(|(name, _)| !cluster.nodes.contains_key(*name));
    let mut taken: BTreeSet<IpAddr> = pods.flat_map(|pod| pod.ips.iter().copied()).collect();
    for service in services {
        taken.extend(service.cluster_ips.iter().chain(&service.external_ips).chain(&service.ingress_ips));
    }
    taken.extend(cluster.nodes.values().flat_map(|node| &node.addresses));
    taken.extend(&cluster.apiserver_addresses);
    taken.extend(machines.flat_map(|(_, machine)| &machine.addresses).filter_map(|text| text.parse::<IpAddr>().ok()));
    taken
}

/// How many nodes report an address. What several have, such as the bridge of a container engine, tells none of them.
fn claims(cluster: &ClusterState) -> BTreeMap<IpAddr, usize> {
    let mut claims = BTreeMap::new();
    for address in cluster.nodes.values().flat_map(|node| &node.reported) {
        *claims.entry(*address).or_default() += 1;
    }
    claims
}
