//! What holds for the whole cluster. A change of it has everything computed anew.

use ipnet::IpNet;
use ringfence_crds::container_cluster::Management;
use ringfence_model::AddressSet;

use super::labels::LabelReader;
use super::networks::Networks;
use crate::cluster::{ClusterState, NodeInfo};
use crate::policy::Policy;

/// Settings of the ContainerCluster, read once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How labels are read.
    pub labels: LabelReader,
    /// The Pod networks.
    pub networks: Networks,
    /// Where externalIPs may lie.
    pub external_ranges: Vec<IpNet>,
    /// Ranges of ClusterIPs.
    pub service_ranges: Vec<IpNet>,
    management: Management,
}

impl Settings {
    /// Reads them. What cannot be read covers nothing.
    pub fn new(policy: &Policy, cluster: &ClusterState) -> Self {
        let external = policy.cluster.external_ip_ranges.iter().filter_map(|text| AddressSet::parse(text).ok());
        Self {
            labels: LabelReader::new(&policy.cluster),
            networks: Networks::new(&policy.cluster, &cluster.uid),
            external_ranges: external.flatten().collect(),
            service_ranges: cluster.service_ranges.clone(),
            management: policy.cluster.management,
        }
    }

    /// Whether a node is a workload: a master may be the provider's.
    pub fn is_workload(&self, node: &NodeInfo) -> bool {
        self.management == Management::SelfManaged || !node.control_plane
    }
}
