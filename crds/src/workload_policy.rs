//! WorkloadPolicy: the compiled rules of one RuleSet and scope.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use litemap::LiteMap;
use ringfence_model::{Action, Constraint, Dimension, Direction, InvalidLabel, Selector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::common::{PortSpec, Revision};
use crate::compact::{self, LabelTerms};

/// Computed: the rules of one RuleSet in one scope, with the workloads they apply to; shared by all nodes. The object
/// named `marker` has no rules: it closes a publication (see [`crate::names::MARKER`]).
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "WorkloadPolicy",
    plural = "workloadpolicies",
    derive = "PartialEq",
    shortname = "wpol",
    category = "ringfence",
    doc = "WorkloadPolicy is computed by the controller: the rules of one RuleSet in one scope.",
    printcolumn(name = "RuleSet", type_ = "string", json_path = ".spec.ruleSet"),
    printcolumn(name = "Scope", type_ = "string", json_path = ".spec.scope"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.revision.number"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPolicySpec {
    /// Revision of this object's last change; of the marker, the newest revision published.
    #[serde(default)]
    pub revision: Revision,
    /// Of the marker: the revision of the PeerGroup named `marker` that goes with it. A node acknowledges once it has seen
    /// that one too; without it, PeerGroups are not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_group_revision: Option<Revision>,
    /// The commit that the RuleSet came from, when it came from git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Name of the RuleSet; empty for the marker.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule_set: String,
    /// The scope as one line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// The rules.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<CompiledRule>,
}

/// One direction of one rule.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CompiledRule {
    /// Name of the rule.
    pub name: String,
    /// Inbound: applies at the providers, peers are the consumers. Outbound: the other way round.
    pub direction: Direction,
    /// What it does.
    pub action: Action,
    /// Reject instead of drop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reject: bool,
    /// The workloads it is programmed at: an OR. Empty means none.
    #[serde(deserialize_with = "compact::list")]
    pub subjects: Vec<Subject>,
    /// The other end: an OR. Empty means nobody.
    #[serde(deserialize_with = "compact::list")]
    pub peers: Vec<Peer>,
    /// Every protocol and port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_services: bool,
    /// The provider's ports. Empty without `allServices` and `virtualServicePorts` means none.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<PortSpec>,
    /// Each virtual service's own ports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub virtual_service_ports: bool,
}

/// Workloads that a rule is programmed at. Exactly one field is set.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Workloads by label (Pods, nodes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelSelector>,
    /// The Pods behind a virtual service: `namespace/name`; the AddressGroup of its class says which they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_service: Option<String>,
    /// A node by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// All nodes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub container_hosts: bool,
}

/// The other end of a rule. Exactly one field is set, or `addresses` and `names` of one IP list.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// A PeerGroup by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_group: Option<String>,
    /// A virtual service, by the class of its AddressGroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_service: Option<String>,
    /// Prefixes of an IP list, exclusions already taken out. Present and empty means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Names of an IP list; only of an outbound Allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<PeerNames>,
}

/// Addresses that a Pod's own resolvers answer to it for one of these names.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PeerNames {
    /// The names, with or without `*.` before them. Empty means none.
    pub fqdns: Vec<String>,
    /// Prefixes that they open nothing in: the list's exclusions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// A conjunction over dimensions. Empty selects every managed workload.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// The workload has one of these values in the dimension.
    #[serde(default, rename = "in", deserialize_with = "compact::terms", skip_serializing_if = "LiteMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub is_in: LabelTerms,
    /// The workload has another value than these in the dimension.
    #[serde(default, deserialize_with = "compact::terms", skip_serializing_if = "LiteMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub not_in: LabelTerms,
}

impl From<&Selector> for LabelSelector {
    fn from(selector: &Selector) -> Self {
        let asked = selector.constraints().filter(|(_, constraint)| matches!(constraint, Constraint::In(_))).count();
        let excluded = selector.constraints().count() - asked;
        let mut out = Self { is_in: LiteMap::with_capacity(asked), not_in: LiteMap::with_capacity(excluded) };
        for (dimension, constraint) in selector.constraints() {
            let (map, values) = match constraint {
                Constraint::In(values) => (&mut out.is_in, values),
                Constraint::NotIn(values) => (&mut out.not_in, values),
            };
            map.insert(dimension.clone().into(), values.iter().cloned().map(SmolStr::from).collect());
        }
        out
    }
}

impl TryFrom<&LabelSelector> for Selector {
    type Error = InvalidLabel;

    fn try_from(spec: &LabelSelector) -> Result<Self, InvalidLabel> {
        let parse = |map: &LabelTerms, make: fn(_) -> Constraint| {
            map.iter()
                .map(|(dimension, values)| {
                    let values = values.iter().map(|v| v.parse()).collect::<Result<_, _>>()?;
                    Ok((dimension.parse::<Dimension>()?, make(values)))
                })
                .collect::<Result<Vec<_>, InvalidLabel>>()
        };
        let mut selector = Self::everything();
        for (dimension, constraint) in
            parse(&spec.is_in, Constraint::In)?.into_iter().chain(parse(&spec.not_in, Constraint::NotIn)?)
        {
            selector = selector.and(dimension, constraint);
        }
        Ok(selector)
    }
}
