//! ServiceDefinition: a named set of ports.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::{ObjectStatus, PortSpec};

/// A named set of ports.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "ServiceDefinition",
    status = "ObjectStatus",
    derive = "PartialEq",
    cel,
    shortname = "svcdef",
    category = "ringfence",
    doc = "ServiceDefinition names a set of ports.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(cel)]
pub struct ServiceDefinitionSpec {
    /// The ports. An empty list means no port at all.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub ports: Vec<PortSpec>,
}
