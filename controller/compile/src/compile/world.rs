//! What policy is resolved against: workloads, their classes, Services.

use std::collections::BTreeMap;

use ringfence_crds::common::NamespacedName;

use super::labels::LabelReader;
use super::networks::Networks;
use super::services::{self, ServiceFacts};
use super::workloads::Workloads;
use crate::cluster::ClusterState;
use crate::policy::Policy;

/// Policy and cluster, with what follows from them before any rule is read.
pub struct World<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The cluster.
    pub cluster: &'a ClusterState,
    /// Its Pod networks.
    pub networks: Networks,
    /// By node, the id of the Pod network that its Pods are on.
    pub node_networks: BTreeMap<String, String>,
    /// Its workloads.
    pub workloads: Workloads,
    /// Its Services.
    pub services: BTreeMap<NamespacedName, ServiceFacts>,
    /// What has no effect and why.
    pub warnings: Vec<String>,
}

impl<'a> World<'a> {
    /// Finds workloads and Services.
    pub fn new(policy: &'a Policy, cluster: &'a ClusterState) -> Self {
        let networks = Networks::new(&policy.cluster, &cluster.uid);
        let reader = LabelReader::new(&policy.cluster);
        let workloads = Workloads::find(policy, cluster, &reader, &networks);
        let services = services::find(policy, cluster, &reader, &workloads);
        let (node_networks, odd) = networks.of_nodes(cluster, &workloads);
        let warnings = reader.warnings.iter().chain(&workloads.warnings).chain(&odd).cloned().collect();
        Self { policy, cluster, networks, node_networks, workloads, services, warnings }
    }

    /// A Service of a managed namespace.
    pub fn virtual_service(&self, key: &NamespacedName) -> Option<&ServiceFacts> {
        self.services.get(key).filter(|service| service.managed)
    }

    /// The Services of managed namespaces.
    pub fn virtual_services(&self) -> impl Iterator<Item = (&NamespacedName, &ServiceFacts)> {
        self.services.iter().filter(|(_, service)| service.managed)
    }
}
