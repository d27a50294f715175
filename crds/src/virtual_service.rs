//! VirtualService: a Kubernetes Service as a labelled policy object.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern;

/// A Kubernetes Service as a labelled policy object; it is named like the Service, in the Service's namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "VirtualService",
    namespaced,
    status = "VirtualServiceStatus",
    derive = "PartialEq",
    cel,
    shortname = "rfvs",
    category = "ringfence",
    doc = "VirtualService is a Kubernetes Service as a labelled policy object.",
    printcolumn(name = "Labels", type_ = "string", json_path = ".status.labelText"),
    printcolumn(name = "Cluster-IPs", type_ = "string", json_path = ".status.clusterIPs"),
    printcolumn(name = "Backends", type_ = "string", json_path = ".status.backendText"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(cel)]
pub struct VirtualServiceSpec {
    /// Labels, within what the profile of the namespace fixes. Those that the profile fixes need not be repeated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), extend("additionalProperties" = {"type": "string", "maxLength": 63, "pattern": pattern::VALUE}))]
    #[x_kube(validation = Rule::new(pattern::DIMENSION_KEYS).message(pattern::DIMENSION_KEYS_HELP))]
    pub labels: BTreeMap<String, String>,
}

/// What discovery found behind the Service.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Labels in force: the profile's, the Service's annotations', and those of the spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The labels as one line, for print columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_text: Option<String>,
    /// ClusterIPs; none for a headless Service.
    #[serde(default, rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// Ports of the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePortStatus>,
    /// Controllers of the Pods behind the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendController>,
    /// The controllers as one line, for print columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_text: Option<String>,
}

/// A port of a Service.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortStatus {
    /// Name, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port on the Service's addresses.
    pub port: i32,
    /// Port on the Pods, number or name.
    pub target_port: String,
    /// Port on the nodes, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<i32>,
}

/// A controller of Pods behind a Service.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct BackendController {
    /// ReplicaSet, DaemonSet, StatefulSet or ReplicationController.
    pub kind: String,
    /// Name, in the Service's namespace.
    pub name: String,
    /// How many of its Pods are behind the Service.
    pub pods: i32,
}
