//! Pod networks: which one an address belongs to.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_crds::ContainerClusterSpec;

use crate::cluster::NodeInfo;

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
        self.given.iter().find(|(_, nets)| nets.iter().any(|net| net.contains(&address))).map(|(name, _)| self.id(name))
    }

    /// The id of the network that a node's Pods are on; empty if that cannot be said.
    pub fn of_node(&self, node: &NodeInfo) -> String {
        match self.given.as_slice() {
            [] => self.id(DISCOVERED),
            [(name, _)] => self.id(name),
            many => many
                .iter()
                .find(|(_, nets)| nets.iter().any(|net| node.pod_cidrs.iter().any(|cidr| net.contains(cidr))))
                .map(|(name, _)| self.id(name))
                .unwrap_or_default(),
        }
    }
}
