//! The custom resources of Ringfence, API group `ringfence.dev/v1alpha1`, one kind a file.
//!
//! Kinds that people write (policy): [`ContainerCluster`], [`ContainerWorkloadProfile`], [`VirtualService`],
//! [`Workload`], [`RuleSet`], [`IpList`], [`LabelGroup`], [`ServiceDefinition`], [`PolicyRepository`].
//! Kinds that the controller computes (never edited by hand): [`NodePolicy`], [`WorkloadPolicy`], [`PeerGroup`],
//! [`AddressGroup`].
//!
//! `crds/yaml/` is generated from these types by `cargo run -p ringfence-crds --bin crdgen`.

// The derive macro reads one `printcolumn(…)` per column, which clippy takes for the same attribute twice.
#![allow(clippy::duplicated_attributes)]

pub mod address_group;
pub mod common;
pub mod container_cluster;
pub mod container_workload_profile;
pub mod ip_list;
pub mod label_group;
pub mod names;
pub mod node_policy;
pub mod peer_group;
pub mod policy_repository;
pub mod rule_set;
pub mod service_definition;
pub mod virtual_service;
pub mod workload;
pub mod workload_policy;
pub mod yaml;

pub use address_group::{AddressGroup, AddressGroupSpec};
pub use common::{ObjectStatus, PortSpec, Revision};
pub use container_cluster::{ContainerCluster, ContainerClusterSpec, ContainerClusterStatus};
pub use container_workload_profile::{
    ContainerWorkloadProfile, ContainerWorkloadProfileSpec, ContainerWorkloadProfileStatus,
};
pub use ip_list::{IpList, IpListSpec};
pub use label_group::{LabelGroup, LabelGroupSpec};
pub use node_policy::{NodePolicy, NodePolicySpec, NodePolicyStatus};
pub use peer_group::{PeerGroup, PeerGroupSpec};
pub use policy_repository::{PolicyRepository, PolicyRepositorySpec, PolicyRepositoryStatus};
pub use rule_set::{RuleSet, RuleSetSpec, RuleSetStatus};
pub use service_definition::{ServiceDefinition, ServiceDefinitionSpec};
pub use virtual_service::{VirtualService, VirtualServiceSpec, VirtualServiceStatus};
pub use workload::{Workload, WorkloadSpec, WorkloadStatus};
pub use workload_policy::{WorkloadPolicy, WorkloadPolicySpec};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
/// The evaluator of CEL rules, for those who check objects without an apiserver.
pub use kube::core::cel;

use kube::CustomResourceExt;

/// The definitions of all kinds, by name of the definition.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        AddressGroup::crd(),
        ContainerCluster::crd(),
        ContainerWorkloadProfile::crd(),
        IpList::crd(),
        LabelGroup::crd(),
        NodePolicy::crd(),
        PeerGroup::crd(),
        PolicyRepository::crd(),
        RuleSet::crd(),
        ServiceDefinition::crd(),
        VirtualService::crd(),
        Workload::crd(),
        WorkloadPolicy::crd(),
    ]
}
