//! IPList: named address ranges and domain names.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::ObjectStatus;
use crate::pattern;

/// Named address ranges with exclusions, and domain names.
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
    doc = "IPList names address ranges, with exclusions, and domain names.",
    printcolumn(name = "Ranges", type_ = "string", json_path = ".spec.ranges"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpListSpec {
    /// Addresses (192.0.2.1), prefixes (192.0.2.0/24) or ranges (192.0.2.10-192.0.2.20). An empty list selects nothing.
    #[serde(default)]
    #[schemars(length(max = 10000), inner(length(max = 93), regex(pattern = pattern::RANGE)))]
    pub ranges: Vec<String>,
    /// What is taken out of the ranges, in the same forms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10000), inner(length(max = 93), regex(pattern = pattern::RANGE)))]
    pub exclusions: Vec<String>,
    /// Domain names (db.example.com), or one label and a name below it (*.example.com), for Allow rules towards them: what a
    /// Pod may connect to is what its own resolver answers it, but for the exclusions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 256), regex(pattern = pattern::NAME)))]
    pub fqdns: Vec<String>,
}
