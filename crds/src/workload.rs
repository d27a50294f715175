//! Workload: a node, or an unmanaged machine.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use ringfence_model::PolicyState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern;

/// A node of the cluster (made by discovery, named like the node), or an unmanaged machine known by its addresses.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "Workload",
    status = "WorkloadStatus",
    derive = "PartialEq",
    cel,
    shortname = "rfwl",
    category = "ringfence",
    doc = "Workload is a node of the cluster, or an unmanaged machine known by its addresses.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.cluster"),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(name = "Matched", type_ = "string", json_path = ".status.matched"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".status.addresses", priority = 1),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion", priority = 1),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.policyState) || self.policyState == 'Idle' || !has(self.addresses) || size(self.addresses) == 0")
        .message("no agent runs on an unmanaged machine: set policyState to Idle or leave it out, or leave out addresses if this is a node")
        .field_path(".policyState")
)]
pub struct WorkloadSpec {
    /// Labels, by dimension.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), extend("additionalProperties" = {"type": "string", "maxLength": 63, "pattern": pattern::VALUE}))]
    #[x_kube(validation = Rule::new(pattern::DIMENSION_KEYS).message(pattern::DIMENSION_KEYS_HELP))]
    pub labels: BTreeMap<String, String>,
    /// Addresses of an unmanaged machine; leave it out for a node, whose addresses discovery finds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 45), regex(pattern = pattern::ADDRESS)))]
    pub addresses: Vec<String>,
    /// Policy state of a node: of its own traffic and that of its host-network Pods, never of what it forwards for Pods.
    /// Idle when left out. What a node cannot do without is never blocked, nor are `failsafePorts` of the ContainerCluster.
    /// An unmanaged machine has no agent, so that it is Idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_state: Option<PolicyState>,
}

/// What discovery and the agent report.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// ContainerCluster the node belongs to; only while both machine-ids agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// `master` or `worker`; `unmanaged` for what is no node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether the machine-id of the agent and that of Kubernetes agree: `True`, `False`, or `Unknown` before the
    /// agent has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<String>,
    /// machine-id as Kubernetes reports it.
    #[serde(default, rename = "kubernetesMachineID", skip_serializing_if = "Option::is_none")]
    pub kubernetes_machine_id: Option<String>,
    /// machine-id as the agent reports it.
    #[serde(default, rename = "agentMachineID", skip_serializing_if = "Option::is_none")]
    pub agent_machine_id: Option<String>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Addresses of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Labels in force: those of the spec, and those that the label map makes of the node's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
