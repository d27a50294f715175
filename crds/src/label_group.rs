//! LabelGroup: a named set of labels of one dimension.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::ObjectStatus;

/// A named set of values of one dimension.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "LabelGroup",
    status = "ObjectStatus",
    derive = "PartialEq",
    cel,
    shortname = "rflg",
    category = "ringfence",
    doc = "LabelGroup names a set of labels of one dimension.",
    printcolumn(name = "Dimension", type_ = "string", json_path = ".spec.dimension"),
    printcolumn(name = "Values", type_ = "string", json_path = ".spec.values"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(cel)]
pub struct LabelGroupSpec {
    /// The dimension that all values belong to.
    #[schemars(regex(pattern = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"))]
    pub dimension: String,
    /// The values. Together with `groups` empty, the group selects nothing.
    #[serde(default)]
    #[schemars(
        length(max = 1024),
        inner(length(max = 63), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"))
    )]
    pub values: Vec<String>,
    /// Other groups of the same dimension whose values belong to this one too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    pub groups: Vec<String>,
}
