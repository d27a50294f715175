//! IPList: named address ranges.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::ObjectStatus;
use crate::pattern;

/// Named address ranges with exclusions.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "IPList",
    root = "IpList",
    plural = "iplists",
    status = "ObjectStatus",
    derive = "PartialEq",
    cel,
    shortname = "ipl",
    category = "ringfence",
    doc = "IPList names address ranges, with exclusions.",
    printcolumn(name = "Ranges", type_ = "string", json_path = ".spec.ranges"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    cel,
    validation = Rule::new("!has(self.fqdns) || size(self.fqdns) == 0").message("names are not resolved yet: list addresses under ranges and leave fqdns empty")
)]
pub struct IpListSpec {
    /// Addresses (192.0.2.1), prefixes (192.0.2.0/24) or ranges (192.0.2.10-192.0.2.20). An empty list selects nothing.
    #[serde(default)]
    #[schemars(length(max = 10000), inner(length(max = 93), regex(pattern = pattern::RANGE)))]
    pub ranges: Vec<String>,
    /// What is taken out of the ranges, in the same forms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10000), inner(length(max = 93), regex(pattern = pattern::RANGE)))]
    pub exclusions: Vec<String>,
    /// Domain names. Not resolved yet: must be empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub fqdns: Vec<String>,
}
