//! ContainerCluster: what is known about this Kubernetes cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use ringfence_model::PolicyState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::PortSpec;
use crate::container_workload_profile::DimensionLabels;
use crate::pattern;

/// The Kubernetes cluster that the controller runs in: its settings, and what discovery found. There is one; a
/// second one is not Ready and has no effect.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "ContainerCluster",
    status = "ContainerClusterStatus",
    derive = "PartialEq",
    cel,
    shortname = "ccl",
    category = "ringfence",
    doc = "ContainerCluster is what is known about one Kubernetes cluster.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.kubernetesVersion"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodesMatched"),
    printcolumn(name = "Management", type_ = "string", json_path = ".spec.management"),
    printcolumn(name = "Last-Contact", type_ = "date", json_path = ".status.kubelinkLastContact"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(cel)]
pub struct ContainerClusterSpec {
    /// `self`: an agent on every node, masters too. `cloud`: the masters are the provider's; agents on workers only.
    #[serde(default)]
    pub management: Management,
    /// `Suspended`: agents take every rule of theirs away, on every node, until it is `Enforced` again.
    #[serde(default, skip_serializing_if = "Enforcement::is_enforced")]
    pub enforcement: Enforcement,
    /// Profile of a namespace that nobody wrote one for.
    #[serde(default)]
    pub default_profile: DefaultProfile,
    /// Annotation prefixes by which Pods and Services may choose labels; `ringfence.dev/` when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(regex(pattern = r"^[a-z0-9.-]+[/.]$")))]
    pub annotation_prefixes: Vec<String>,
    /// Kubernetes labels that become policy labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub label_map: Vec<LabelMapEntry>,
    /// Ports that a node never blocks, whoever connects to them; SSH (TCP 22) is one without being written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub failsafe_ports: Vec<PortSpec>,
    /// Where a node may always connect to: registries, storage, a load balancer in front of the apiserver. What every node
    /// needs is open without being written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub failsafe_destinations: Vec<FailsafeDestination>,
    /// Pod networks, when discovery from node.spec.podCIDR does not find them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub pod_networks: Vec<PodNetworkSpec>,
    /// Ranges from which a Service's externalIPs are believed (CVE-2020-8554). None when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 93), regex(pattern = pattern::RANGE)))]
    pub external_ip_ranges: Vec<String>,
    /// Epoch of policy revisions; raise it by one after the cluster's database was restored from a backup, so that
    /// agents accept revisions older than those they have seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub policy_epoch: Option<i64>,
}

/// Who runs the masters.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Management {
    /// The operator: agents run on every node.
    #[default]
    #[serde(rename = "self")]
    SelfManaged,
    /// The cloud provider: agents run on workers only, masters are no Workloads.
    Cloud,
}

/// Whether policy is enforced at all.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// As profiles say.
    #[default]
    Enforced,
    /// Nowhere. Objects are read, checked and compiled all the same.
    Suspended,
}

impl Enforcement {
    /// Whether it is.
    pub fn is_enforced(&self) -> bool {
        *self == Self::Enforced
    }
}

/// What a namespace without a profile of its own gets.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DefaultProfile {
    /// Whether new namespaces are managed.
    #[serde(default)]
    pub managed: bool,
    /// Policy state of new managed namespaces; Idle when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_state: Option<PolicyState>,
    /// Labels of new managed namespaces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new(pattern::DIMENSION_KEYS).message(pattern::DIMENSION_KEYS_HELP))]
    pub labels: BTreeMap<String, DimensionLabels>,
}

/// One Kubernetes label that becomes a policy label.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[schemars(transform = crate::common::without_defaults)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelMapEntry {
    /// What the Kubernetes label is on.
    #[serde(default)]
    pub kind: LabelMapKind,
    /// Key of the Kubernetes label. On a node it counts only if no kubelet can write it itself, as below
    /// `node-restriction.kubernetes.io/`.
    #[schemars(length(min = 1, max = 317))]
    pub from: String,
    /// Dimension of the policy label.
    #[schemars(regex(pattern = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"))]
    pub to: String,
    /// From Kubernetes value to policy value; when left out, values are taken as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 1024), extend("additionalProperties" = {"type": "string", "maxLength": 63, "pattern": pattern::VALUE}))]
    pub values: BTreeMap<String, String>,
}

/// What a mapped Kubernetes label is on.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LabelMapKind {
    /// Nodes.
    #[default]
    Node,
    /// Pods; the value must be in the profile's list.
    Pod,
}

/// Where a node may always connect to. Empty ranges or ports mean nowhere.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("size(self.ranges) > 0").message("a failsafe destination needs at least one range"),
    validation = Rule::new("size(self.ports) > 0").message("a failsafe destination needs at least one port")
)]
pub struct FailsafeDestination {
    /// Addresses, prefixes or ranges.
    #[schemars(length(max = 64), inner(length(max = 93), regex(pattern = pattern::RANGE)))]
    pub ranges: Vec<String>,
    /// Ports there.
    #[schemars(length(max = 64))]
    pub ports: Vec<PortSpec>,
}

/// A Pod network given by hand.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("size(self.cidrs) > 0").message("a Pod network needs at least one prefix under cidrs"))]
pub struct PodNetworkSpec {
    /// Name, unique within the cluster.
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
    pub name: String,
    /// Its prefixes.
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = pattern::PREFIX)))]
    pub cidrs: Vec<String>,
}

/// What discovery found.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerClusterStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Identity of the cluster: the UID of its kube-system namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    /// Version of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
    /// Version of Kubelink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelink_version: Option<String>,
    /// When Kubelink last spoke with the apiserver (RFC 3339), rounded to minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelink_last_contact: Option<String>,
    /// Ranges of ClusterIPs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_ranges: Vec<String>,
    /// Pod networks, found or given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_networks: Vec<PodNetworkStatus>,
    /// Nodes whose machine-id the agent and Kubernetes agree on, as `m/n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes_matched: Option<String>,
}

/// A Pod network.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodNetworkStatus {
    /// `<cluster uid>/<name>`.
    pub id: String,
    /// Its prefixes, as far as known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// `discovered` or `spec`.
    pub origin: String,
}
