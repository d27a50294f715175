//! Who is at an address.

use std::net::IpAddr;

use crate::world::{Key, Labels, Range, World};

/// Who is at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// No workload that is known.
    Nobody,
    /// A Pod on the Pod network.
    Pod(Key),
    /// A node.
    Node(String),
    /// An unmanaged machine.
    Machine(String),
    /// Two say that they are: neither is, until that is resolved.
    Disputed,
}

/// Whether an address is in one of these ranges.
pub fn within(address: IpAddr, ranges: &[Range]) -> bool {
    ranges.iter().any(|(first, last)| {
        first.is_ipv4() == address.is_ipv4()
            && last.is_ipv4() == address.is_ipv4()
            && *first <= address
            && address <= *last
    })
}

/// Whether no machine and no Pod can have it for others to see.
fn nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_unspecified() || v4.is_multicast() || v4.is_link_local() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local(),
    }
}

impl World {
    /// Whether a Pod is there and has an address of its own.
    fn has_own_address(&self, key: &Key) -> bool {
        self.pods.get(key).is_some_and(|pod| !pod.ended && !pod.host_network)
    }

    /// Pods that say an address is theirs.
    fn pods_at(&self, address: IpAddr) -> Vec<&Key> {
        let pods = self.pods.iter().filter(|(key, pod)| self.has_own_address(key) && pod.addresses.contains(&address));
        pods.map(|(key, _)| key).collect()
    }

    /// Unmanaged machines that say an address is theirs. A Workload that is called like a node is the node's.
    fn machines_at(&self, address: IpAddr) -> Vec<&String> {
        let machines = self.workloads.iter().filter(|(name, _)| !self.nodes.contains_key(*name));
        machines.filter(|(_, machine)| machine.addresses.contains(&address)).map(|(name, _)| name).collect()
    }

    fn is_services(&self, address: IpAddr) -> bool {
        self.services.values().any(|service| {
            service.cluster_ips.contains(&address)
                || service.external_ips.contains(&address)
                || service.ingress_ips.contains(&address)
        })
    }

    /// The one node that reports an address which nobody else has or could have.
    fn reporter(&self, address: IpAddr) -> Option<&String> {
        let reporters: Vec<&String> =
            self.nodes.iter().filter(|(_, node)| node.reported.contains(&address)).map(|(name, _)| name).collect();
        let [one] = reporters.as_slice() else { return None };
        let free = !nobodys(address)
            && self.pods_at(address).is_empty()
            && self.machines_at(address).is_empty()
            && !self.is_services(address);
        free.then_some(*one)
    }

    /// Whether an address can be a Pod's: a kubelet reports what it likes.
    fn can_be_a_pods(&self, address: IpAddr) -> bool {
        let is_cluster_ip = self.services.values().any(|service| service.cluster_ips.contains(&address));
        let is_nodes = self.nodes.values().any(|node| node.addresses.contains(&address));
        !nobodys(address) && !is_cluster_ip && !is_nodes && self.network_of_pod(address).is_some()
    }

    /// The Pod network that a Pod's address lies in.
    pub fn network_of_pod(&self, address: IpAddr) -> Option<&str> {
        if self.settings.networks.is_empty() {
            return Some("default");
        }
        let network = self.settings.networks.iter().find(|(_, ranges)| within(address, ranges));
        network.map(|(name, _)| name.as_str())
    }

    /// Who is at an address.
    pub fn holder(&self, address: IpAddr) -> Holder {
        let nodes: Vec<&String> =
            self.nodes.iter().filter(|(_, node)| node.addresses.contains(&address)).map(|(name, _)| name).collect();
        match nodes.as_slice() {
            [] => {}
            [one] => return Holder::Node((*one).clone()),
            _ => return Holder::Disputed,
        }
        if let Some(name) = self.reporter(address) {
            return Holder::Node(name.clone());
        }
        if self.can_be_a_pods(address) {
            match self.pods_at(address).as_slice() {
                [] => {}
                [one] => return Holder::Pod((*one).clone()),
                _ => return Holder::Disputed,
            }
        }
        match self.machines_at(address).as_slice() {
            [one] => Holder::Machine((*one).clone()),
            _ => Holder::Nobody,
        }
    }

    /// Every address by which a node is known.
    pub fn addresses_of_node(&self, name: &str) -> Vec<IpAddr> {
        let Some(node) = self.nodes.get(name) else { return Vec::new() };
        let own = node.addresses.iter().copied();
        let reported = node.reported.iter().copied().filter(|address| {
            !node.addresses.contains(address) && self.reporter(*address).is_some_and(|reporter| reporter == name) && {
                // What another node has by Kubernetes is that node's.
                !self.nodes.values().any(|other| other.addresses.contains(address))
            }
        });
        own.chain(reported).collect()
    }

    /// Whether a node is a workload.
    pub fn node_is_workload(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| !(self.settings.cloud && node.control_plane))
    }

    /// The labels by which rules know a workload; none for what is no workload: an unmanaged Pod, a provider's master.
    pub fn labels_of(&self, holder: &Holder) -> Option<Labels> {
        match holder {
            Holder::Pod(key) => self.profile(&key.0).state.is_some().then(|| self.pod_labels(key)),
            Holder::Node(name) => self
                .node_is_workload(name)
                .then(|| self.workloads.get(name).map(|workload| workload.labels.clone()).unwrap_or_default()),
            Holder::Machine(name) => self.workloads.get(name).map(|workload| workload.labels.clone()),
            Holder::Nobody | Holder::Disputed => None,
        }
    }
}
