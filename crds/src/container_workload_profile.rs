//! ContainerWorkloadProfile: what applies to the Pods of one namespace.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use litemap::LiteMap;
use ringfence_model::{DimensionRule, InvalidLabel, PolicyState, ProfileLabels, Visibility};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern;

/// Labels and policy state of the Pods of one namespace; it is named like the namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "ContainerWorkloadProfile",
    status = "ContainerWorkloadProfileStatus",
    derive = "PartialEq",
    cel,
    shortname = "cwp",
    category = "ringfence",
    doc = "ContainerWorkloadProfile says what applies to the Pods of the namespace it is named like.",
    printcolumn(name = "Managed", type_ = "boolean", json_path = ".spec.managed"),
    printcolumn(name = "State", type_ = "string", json_path = ".spec.policyState"),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.enforcedState"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    cel,
    validation = Rule::new("self.managed || !has(self.policyState) || self.policyState == 'Idle'").message("an unmanaged namespace has no policy: set managed: true or remove policyState")
)]
pub struct ContainerWorkloadProfileSpec {
    /// Whether the namespace's Pods get labels, policy and visibility.
    #[serde(default)]
    pub managed: bool,
    /// Idle, VisibilityOnly, Selective or Full; Idle when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_state: Option<PolicyState>,
    /// What is reported: Off, Blocked or All; All when left out. Not acted on yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Whether a Pod may start that its node's agent has not put policy into in time; when left out, Refuse in Full, else
    /// Allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unprotected_start: Option<UnprotectedStart>,
    /// Per dimension, the label of the Pods or who may choose it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new(pattern::DIMENSION_KEYS).message(pattern::DIMENSION_KEYS_HELP))]
    pub labels: BTreeMap<String, DimensionLabels>,
}

/// What becomes of a Pod whose policy is not in force in time.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnprotectedStart {
    /// It starts, and its policy follows.
    Allow,
    /// It does not start until its policy is in force.
    Refuse,
}

/// What a profile says about one dimension.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("(has(self.value) ? 1 : 0) + (has(self.allowed) && size(self.allowed) > 0 ? 1 : 0) + (has(self.fromLabelMap) && self.fromLabelMap ? 1 : 0) == 1").message("give exactly one of value (fixed), allowed (chosen by annotation) or fromLabelMap: true")
)]
pub struct DimensionLabels {
    /// The fixed value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"))]
    pub value: Option<String>,
    /// The values that a Pod or Service may choose by the annotation `ringfence.dev/<dimension>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")))]
    pub allowed: Vec<String>,
    /// Takes any value that the cluster's label map yields.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_label_map: bool,
}

impl ContainerWorkloadProfileSpec {
    /// What the profile says about labels.
    ///
    /// # Errors
    /// The first dimension or value that is not valid.
    pub fn profile_labels(&self) -> Result<ProfileLabels, InvalidLabel> {
        profile_labels(&self.labels)
    }

    /// The state asked for; `None` when the namespace is unmanaged.
    pub fn wanted_state(&self) -> Option<PolicyState> {
        self.managed.then(|| self.policy_state.unwrap_or(PolicyState::Idle))
    }
}

/// Parses a map from dimension to what is said about it. An entry that says nothing gives no label.
///
/// # Errors
/// The first dimension or value that is not valid.
pub fn profile_labels(labels: &BTreeMap<String, DimensionLabels>) -> Result<ProfileLabels, InvalidLabel> {
    let mut rules = LiteMap::new_vec();
    for (dimension, entry) in labels {
        let rule = if let Some(value) = &entry.value {
            DimensionRule::Fixed(value.parse()?)
        } else if entry.from_label_map {
            DimensionRule::FromLabelMap
        } else {
            let allowed = entry.allowed.iter().map(|v| v.parse()).collect::<Result<_, _>>()?;
            DimensionRule::Choice { allowed }
        };
        rules.insert(dimension.parse()?, rule);
    }
    Ok(ProfileLabels(rules))
}

/// What came of the profile.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerWorkloadProfileStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The state that agents enforce; written only by the controller. None while the namespace is unmanaged. Full is
    /// held back until the nodes have acknowledged the rules; until then it is the state before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced_state: Option<PolicyState>,
    /// UID of the namespace that the profile is linked to; none while there is no such namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_uid: Option<String>,
}
