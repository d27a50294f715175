//! PolicyRepository: a git source of policy and what came of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A git repository of policy objects, taken commit by commit, whole or not at all.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "PolicyRepository",
    plural = "policyrepositories",
    namespaced,
    status = "PolicyRepositoryStatus",
    derive = "PartialEq",
    cel,
    shortname = "prepo",
    category = "ringfence",
    doc = "PolicyRepository is a git source of policy objects.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Commit", type_ = "string", json_path = ".status.appliedCommit"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(cel)]
pub struct PolicyRepositorySpec {
    /// Address of the repository: https:// or file://.
    #[schemars(regex(pattern = r"^(https|file)://.+$"))]
    pub url: String,
    /// What to take; the branch `main` when left out.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<GitRef>,
    /// Folder that holds the policy; the whole repository when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.contains('..')").message("path is relative to the repository's root and has no '..'"))]
    pub path: Option<String>,
    /// How often to look for a new commit and to put back what was changed by hand: `10s`, `1m`, `1h`. 1m when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"))]
    pub interval: Option<String>,
    /// Secret in the same namespace: `username` and `password` for basic authentication, `ca.crt` for a private CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Delete objects that are gone from git. True when left out.
    #[serde(default = "prune")]
    pub prune: bool,
    /// Stop reconciling; what is in force stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// What becomes of the objects when this PolicyRepository is deleted: `Orphan` leaves them (when left out),
    /// `Delete` deletes them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

fn prune() -> bool {
    true
}

/// What becomes of objects whose PolicyRepository is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// They stay and belong to nobody.
    #[default]
    Orphan,
    /// They are deleted.
    Delete,
}

/// A branch, a tag or a commit.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(has(self.branch) ? 1 : 0) + (has(self.tag) ? 1 : 0) + (has(self.commit) ? 1 : 0) == 1").message("give exactly one of branch, tag or commit"))]
pub struct GitRef {
    /// A branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// A tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// A commit, by its full id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{40}$"))]
    pub commit: Option<String>,
}

/// A Secret by name.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the Secret, in the same namespace.
    pub name: String,
}

/// What came of the repository.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRepositoryStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the newest commit is in force; else why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The commit in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_commit: Option<String>,
    /// The commit last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted_commit: Option<String>,
    /// Every problem of the commit last looked at, as `file:line: reason` (at most 100).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// How many problems there are in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_count: Option<i32>,
    /// The objects that this repository owns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inventory: Vec<InventoryEntry>,
}

/// An object that a repository owns.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct InventoryEntry {
    /// Kind, of group ringfence.dev.
    pub kind: String,
    /// Namespace; none for a cluster-wide kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}
