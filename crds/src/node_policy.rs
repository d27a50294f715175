//! NodePolicy: what the agent of one node needs to know beside the policy of workloads.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use ringfence_model::{Direction, PolicyState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{PortSpec, Revision};

/// Computed: what one node's agent must know; named like the node. The agent reports in the status.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "NodePolicy",
    plural = "nodepolicies",
    status = "NodePolicyStatus",
    derive = "PartialEq",
    shortname = "rfnp",
    category = "ringfence",
    doc = "NodePolicy is computed by the controller: what one node's agent must know. The agent reports in its status.",
    printcolumn(name = "Acknowledged", type_ = "integer", json_path = ".status.acknowledged.number"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.podsEnforced"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicySpec {
    /// Revision of this object's last change.
    #[serde(default)]
    pub revision: Revision,
    /// UID of the cluster.
    #[serde(default)]
    pub cluster_uid: String,
    /// Id of the Pod network that this node's Pods are on.
    #[serde(default)]
    pub pod_network: String,
    /// Traffic towards certain Pods that no policy touches: DNS at its provider, the apiserver's calls of webhooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inbound_essentials: Vec<InboundEssential>,
    /// Addresses of resolvers that Pods may be pointed at, beside those in each Pod's resolv.conf: the cluster's DNS
    /// Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<String>,
    /// The node itself, where its own traffic has a policy; left out, it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPolicy>,
}

/// The policy of a node's own traffic.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostPolicy {
    /// Name of the node, by which rules may name it.
    pub node: String,
    /// The state that its Workload asks for.
    pub state: PolicyState,
    /// Its labels in force.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What no policy touches on it, beside what its agent finds itself: its resolvers, and the probes of its Pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub essentials: Vec<HostEssential>,
    /// Addresses of other nodes on the Pod network. What answered before a change of the node's rules must answer after it, or
    /// the change is taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<String>,
}

/// Traffic of a node that no policy touches. Without a peer or without a port it is none.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostEssential {
    /// Why, for people who look at the rules: `ssh`, `kubelet`, `overlay`.
    pub reason: String,
    /// `Inbound` to the node, or `Outbound` from it.
    pub direction: Direction,
    /// The provider's ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// The other end, as prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// The other end, as a PeerGroup by name: the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_group: Option<String>,
    /// The other end is anyone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anyone: bool,
}

/// Traffic towards Pods that no policy touches.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InboundEssential {
    /// Why, for explanations: `dns` or `webhook`.
    pub reason: String,
    /// Namespace of the Pods.
    pub namespace: String,
    /// Kubernetes labels of the Pods. Empty selects nothing.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Ports on the Pods, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// Ports on the Pods, by name of a container port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named_ports: Vec<NamedPort>,
    /// From these prefixes only; from anywhere when `anySource` is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// From anywhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_source: bool,
}

/// A port by the name that a container gives it. Of several ports of one protocol and name, the first one is meant.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct NamedPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Name.
    pub name: String,
}

/// What the node's agent reports.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicyStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: what is published is in force; `Stalled`, `Degraded` and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Newest policy revision that is in force here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Revision>,
    /// machine-id as the agent reads it.
    #[serde(default, rename = "machineID", skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// What the agent's kernel calls the time since it was started, as in the Node's `status.nodeInfo.bootID`.
    #[serde(default, rename = "bootID", skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// iptables back end in Pods: `nft` or `legacy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Addresses that the node itself uses, among them those of its bridges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_addresses: Vec<String>,
    /// Whether its gate judges what this node sends on to exposed Pods of other nodes, and seals what passes. It counts as long
    /// as the node has not been started anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seals: bool,
    /// Pods whose network namespaces hold rules of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods_enforced: Option<i32>,
    /// What is not as asked, a line each (at most 20).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
