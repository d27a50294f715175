//! AddressGroup: the addresses of one label class, or the ends of one virtual service.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{NetworkAddress, Revision};
use crate::compact;

/// Computed: addresses of one label class, in slices of at most 100; or front ends and back ends of a virtual service; or
/// the Pods that a Service exposes on nodes other than their own; or the addresses of nodes whose gate seals. Named `<class>-<slice>`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "AddressGroup",
    derive = "PartialEq",
    shortname = "agrp",
    category = "ringfence",
    doc = "AddressGroup is computed by the controller: the addresses of one label class, or the ends of one Service.",
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.classText"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.revision.number"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AddressGroupSpec {
    /// Revision of this object's last change.
    #[serde(default)]
    pub revision: Revision,
    /// Id of the class.
    pub class: String,
    /// The class as one line: labels and kind of workload, or `service shop/db`.
    #[serde(default)]
    pub class_text: String,
    /// Number of this slice, from 0.
    #[serde(default)]
    pub slice: i32,
    /// In slice 0, how many slices the class has; a reader without all of them does not have the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<i32>,
    /// Addresses of the class's workloads; each is in exactly one class. Of class `gates`, those of nodes whose gate seals.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<NetworkAddress>,
    /// Instead of members: the ends of a virtual service (one slice).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Box<ServiceEnds>>,
    /// Instead of members: the Pods that a Service exposes on every node (one slice).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed: Option<Box<Exposed>>,
}

/// The ends of a Kubernetes Service.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEnds {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Kubernetes labels of the Pods behind it; empty for a Service without a selector, which selects no Pod by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Pods of the namespace that a targetRef names, for a Service without a selector.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub target_pods: Vec<String>,
    /// Ports on the Pods.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub target_ports: Vec<TargetPort>,
    /// What consumers connect to, before the node translates: exact pairs.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub front_ends: Vec<FrontEnd>,
    /// Addresses and ports of the Pods (and declared workloads) behind it, whatever their readiness.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub back_ends: Vec<BackEnd>,
    /// Classes that the back ends belong to.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub back_end_classes: Vec<String>,
}

/// A port on the Pods of a Service: a number, or the name of a container port.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct TargetPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// Name of a container port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An address and port that consumers connect to.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct FrontEnd {
    /// ClusterIP, load-balancer address, accepted externalIP, or a node's address for a nodePort.
    pub address: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Port on that address.
    pub port: i32,
    /// Ports on the Pods that it leads to, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_ports: Vec<i32>,
}

/// An address and port behind a Service.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct BackEnd {
    /// Id of the Pod network; empty outside.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// The address.
    pub address: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

/// Pods that are reached by way of nodes other than their own, which put an address of theirs in place of the client's: behind a
/// Service with a nodePort, a load balancer or an externalIP, and `externalTrafficPolicy: Cluster`. The gate of every such node judges
/// for them.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Exposed {
    /// Namespace of the Service and its Pods.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Kubernetes labels of the Pods behind it; empty for a Service without a selector, which selects no Pod by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Pods of the namespace that a targetRef names, for a Service without a selector.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub target_pods: Vec<String>,
    /// The Pods behind it that have an address.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<ExposedPods>,
}

/// Pods that rules tell apart by nothing but their names.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExposedPods {
    /// Policy labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Kubernetes labels, by which Services and webhooks select.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
    /// Container ports that have a name, which a Service may lead to.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub named_ports: Vec<TargetPort>,
    /// The Pods.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<ExposedPod>,
}

/// A Pod.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ExposedPod {
    /// Name.
    pub name: String,
    /// Its addresses, as far as they are nobody else's.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NetworkAddress>,
}
