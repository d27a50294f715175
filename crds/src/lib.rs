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
pub mod compact;
pub mod container_cluster;
pub mod container_workload_profile;
pub mod ip_list;
pub mod label_group;
pub mod names;
pub mod node_policy;
pub mod pattern;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Short names and plurals of Istio and of Kueue.
    const TAKEN: [&str; 31] = [
        "vs",
        "se",
        "gw",
        "dr",
        "we",
        "wg",
        "pa",
        "ra",
        "ap",
        "telemetry",
        "wp",
        "pc",
        "ef",
        "cq",
        "lq",
        "wl",
        "rf",
        "ac",
        "cohort",
        "cohorts",
        "clqueue",
        "clq",
        "queue",
        "queues",
        "wpc",
        "mkc",
        "mkconfig",
        "flavor",
        "flavors",
        "workload-priority",
        "topo",
    ];

    /// The paths of fields below a schema that say nothing of themselves.
    fn undocumented(path: &str, schema: &Value, found: &mut Vec<String>) {
        assert_eq!(schema.get("x-kubernetes-preserve-unknown-fields"), None, "{path}");
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
                found.push(path.clone());
            }
            undocumented(&path, field, found);
        }
        for inner in ["items", "additionalProperties"].into_iter().filter_map(|inner| schema.get(inner)) {
            undocumented(&format!("{path}[]"), inner, found);
        }
    }

    #[test]
    fn every_definition_is_documented_and_keeps_out_of_the_way_of_others() {
        for definition in all() {
            let (names, version) = (&definition.spec.names, &definition.spec.versions[0]);
            let kind = &names.kind;
            let schema = serde_json::to_value(version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()));
            let schema = schema.expect("a schema is JSON");
            let mut found = Vec::new();
            undocumented(kind, &schema, &mut found);
            assert_eq!(found, [""; 0]);
            assert_eq!(names.categories, Some(vec!["ringfence".to_owned()]), "{kind}");
            let subresource = version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some());
            assert_eq!(schema.pointer("/properties/status").is_some(), subresource, "{kind}");
            let short = names.short_names.clone().unwrap_or_default();
            assert!(!short.is_empty() && short.iter().all(|name| !TAKEN.contains(&name.as_str())), "{kind}: {short:?}");
        }
    }

    /// Whether a schema fills something in below a list.
    fn fills_lists_in(schema: &Value, in_list: bool) -> bool {
        let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let mut fields = fields.map(|(_, field)| field);
        (in_list && schema.get("default").is_some())
            || fields.any(|field| fills_lists_in(field, in_list))
            || schema.get("items").is_some_and(|items| fills_lists_in(items, true))
            || schema.get("additionalProperties").is_some_and(|inner| fills_lists_in(inner, in_list))
    }

    #[test]
    fn what_is_applied_a_second_time_has_no_defaults_filled_into_its_lists() {
        let computed = ["AddressGroup", "NodePolicy", "PeerGroup", "WorkloadPolicy"];
        let written = all().into_iter().filter(|definition| !computed.contains(&definition.spec.names.kind.as_str()));
        for definition in written {
            let schema = definition.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
            let schema = serde_json::to_value(schema).expect("a schema is JSON");
            let spec = schema.pointer("/properties/spec").expect("every kind has a spec");
            assert!(!fills_lists_in(spec, false), "{}", definition.spec.names.kind);
        }
    }

    #[test]
    fn names_of_rule_sets_leave_room_for_those_of_their_workload_policies() {
        assert!(pattern::RULE_SET_NAME.ends_with(&format!(" {}", 253 - "-12345678".len())));
    }
}
