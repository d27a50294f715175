//! Pod networks: which one an address belongs to.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_crds::ContainerClusterSpec;
use smol_str::{SmolStr, format_smolstr};

use crate::cluster::NodeInfo;

/// Name of the Pod network when none is given by hand.
const DISCOVERED: &str = "default";

/// The Pod networks of a cluster, known by their numbers.
#[derive(Debug, Clone)]
pub struct Networks {
    ids: Vec<SmolStr>,
    /// Prefixes of the networks that the ContainerCluster gives. Empty: there is one network, and any address may be on
    /// it, because nothing says that a Pod's address lies in its node's podCIDR.
    given: Vec<Vec<IpNet>>,
}

impl Networks {
    /// The networks that the ContainerCluster gives, or the one discovered.
    pub fn new(spec: &ContainerClusterSpec, cluster_uid: &str) -> Self {
        let names = spec.pod_networks.iter().map(|network| network.name.as_str());
        let names: Vec<&str> = if spec.pod_networks.is_empty() { vec![DISCOVERED] } else { names.collect() };
        // A prefix that cannot be read covers nothing.
        let prefixes = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            ids: names.into_iter().map(|name| format_smolstr!("{cluster_uid}/{name}")).collect(),
            given: spec.pod_networks.iter().map(|network| prefixes(&network.cidrs)).collect(),
        }
    }

    /// The id of a network: `<cluster uid>/<name>`.
    pub fn id(&self, number: u16) -> SmolStr {
        self.ids.get(usize::from(number)).cloned().unwrap_or_default()
    }

    fn name(&self, number: u16) -> &str {
        self.ids.get(usize::from(number)).and_then(|id| id.rsplit('/').next()).unwrap_or_default()
    }

    /// The network that a Pod's address is on; `None` if networks are given and none covers it.
    pub fn of_pod(&self, address: IpAddr) -> Option<u16> {
        if self.given.is_empty() {
            return Some(0);
        }
        let position = self.given.iter().position(|nets| nets.iter().any(|net| net.contains(&address)))?;
        u16::try_from(position).ok()
    }

    /// Whether it takes the addresses of a node's Pods to tell which network the node is on.
    pub fn are_several(&self) -> bool {
        self.given.len() > 1
    }

    /// The id of the network that a node's Pods are on, and what is odd about it. `seen`: how many addresses of its Pods
    /// lie in which network. Before it has a Pod, its own prefix is all there is to go by.
    pub fn of_node(&self, name: &str, node: &NodeInfo, seen: &BTreeMap<u16, usize>) -> (String, Option<String>) {
        if !self.are_several() {
            return (self.id(0).to_string(), None);
        }
        let mut networks: Vec<(u16, usize)> = seen.iter().map(|(number, count)| (*number, *count)).collect();
        networks.sort_by_key(|(number, count)| (Reverse(*count), *number));
        let allotted = |nets: &Vec<IpNet>| nets.iter().any(|net| node.pod_cidrs.iter().any(|cidr| net.contains(cidr)));
        let by_prefix = || u16::try_from(self.given.iter().position(allotted)?).ok();
        let number = networks.first().map(|(number, _)| *number).or_else(by_prefix);
        let odd = (networks.len() > 1).then(|| {
            let names = networks.iter().map(|(number, _)| self.name(*number)).collect::<Vec<_>>();
            format!(
                "node {name} has Pods on the Pod networks {}: its policy knows the peers of {} only",
                names.join(", "),
                names[0]
            )
        });
        (number.map(|number| self.id(number).to_string()).unwrap_or_default(), odd)
    }
}
