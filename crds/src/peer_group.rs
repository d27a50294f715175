//! PeerGroup: the label classes that one distinct peer selector selects.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::common::Revision;
use crate::compact;

/// Computed: the label classes that a peer selector selects. It changes only when a class is born or dies, or when a
/// Service in front of one comes or goes; membership is in the AddressGroups. The object named `marker` selects nothing:
/// it is written after all others.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "PeerGroup",
    derive = "PartialEq",
    shortname = "pgrp",
    category = "ringfence",
    doc = "PeerGroup is computed by the controller: the label classes that a peer selector selects.",
    printcolumn(name = "Selector", type_ = "string", json_path = ".spec.selector"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.revision.number"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PeerGroupSpec {
    /// Revision of this object's last change; of the marker, of the newest change of any.
    #[serde(default)]
    pub revision: Revision,
    /// The selector as one line: `app in (shop),role in (web)`, `workload old-mainframe`, `container hosts`.
    #[serde(default)]
    pub selector: String,
    /// Classes of AddressGroups whose members are selected.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Classes of AddressGroups of the Services that have a selected class among their back ends.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}
