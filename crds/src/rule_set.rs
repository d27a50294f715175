//! RuleSet: scopes and rules.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use ringfence_model::Action;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compact::{self, LabelTerms};
use crate::pattern;

/// Scopes, and rules that hold within them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "ringfence.dev",
    version = "v1alpha1",
    kind = "RuleSet",
    status = "RuleSetStatus",
    derive = "PartialEq",
    cel,
    shortname = "rfrs",
    category = "ringfence",
    doc = "RuleSet holds scopes, and rules that hold within them.",
    validation = Rule::new(pattern::RULE_SET_NAME).message(pattern::RULE_SET_NAME_HELP),
    printcolumn(name = "Enabled", type_ = "boolean", json_path = ".spec.enabled"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    cel,
    validation = Rule::new("size(self.scopes) > 0").message("scopes is empty and would select nothing: write a scope, or 'scopes: [{}]' for everything"),
    validation = Rule::new("!has(self.rules) || size(self.scopes) * size(self.rules) <= 4096").message("scopes times rules are more than 4096, each rule being made for each scope: split the RuleSet"),
    validation = Rule::new("self.rules.all(r, self.rules.exists_one(o, o.name == r.name))").message("two rules have the same name: give each its own")
)]
pub struct RuleSetSpec {
    /// Switches the whole RuleSet off and keeps it. Enabled when left out.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Where the rules hold: an OR of scopes, each taken on its own. `[{}]` means everywhere.
    #[serde(deserialize_with = "compact::list")]
    #[schemars(length(max = 64))]
    pub scopes: Vec<Scope>,
    /// The rules. Their order does not matter.
    #[serde(default, deserialize_with = "compact::list")]
    #[schemars(length(max = 256))]
    pub rules: Vec<PolicyRule>,
}

fn enabled() -> bool {
    true
}

/// An AND over dimensions; a dimension's values are an OR; a dimension left out means all.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scope {
    /// From dimension to the values that are in the scope.
    #[serde(default, deserialize_with = "compact::terms", skip_serializing_if = "LabelTerms::is_empty")]
    #[schemars(with = "BTreeMap<String, Vec<String>>", extend("maxProperties" = 16), extend("additionalProperties" = {"type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 63, "pattern": pattern::VALUE}}))]
    #[x_kube(validation = Rule::new(pattern::DIMENSION_KEYS).message(pattern::DIMENSION_KEYS_HELP))]
    pub labels: LabelTerms,
}

/// Who may open connections to whom, on what.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = crate::common::without_defaults)]
#[x_kube(
    validation = Rule::new("size(self.consumers) > 0").message("consumers is empty and would match nobody: name who may connect"),
    validation = Rule::new("size(self.providers) > 0").message("providers is empty and would match nobody: name who listens"),
    validation = Rule::new("(has(self.services) && size(self.services) > 0 ? 1 : 0) + (has(self.allServices) && self.allServices ? 1 : 0) + (has(self.useVirtualServicePorts) && self.useVirtualServicePorts ? 1 : 0) == 1").message("give exactly one of services, allServices: true or useVirtualServicePorts: true"),
    validation = Rule::new("!has(self.useVirtualServicePorts) || !self.useVirtualServicePorts || self.providers.all(p, has(p.virtualService))").message("useVirtualServicePorts needs virtual services as providers, and nothing else"),
    validation = Rule::new("!has(self.reject) || !self.reject || (has(self.action) && self.action != 'Allow')").message("reject belongs to Deny and OverrideDeny: remove it or change action"),
    validation = Rule::new("!(self.consumers.exists(c, has(c.ipList)) && self.providers.exists(p, has(p.ipList)))").message("a rule from IP list to IP list is programmed nowhere: name workloads on one side"),
    validation = Rule::new("self.consumers.all(c, !has(c.virtualService))").message("a virtual service listens and does not connect: name labels or workloads as consumers")
)]
pub struct PolicyRule {
    /// Name, unique within the RuleSet.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"))]
    pub name: String,
    /// Switches the rule off and keeps it. Enabled when left out.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Allow, Deny or OverrideDeny. Precedence: OverrideDeny > Allow > Deny > policy state.
    #[serde(default)]
    pub action: Action,
    /// The scope holds for the providers only; consumers come from anywhere the rule says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub extra_scope: bool,
    /// Who opens connections: an OR of terms.
    #[serde(deserialize_with = "compact::list")]
    #[schemars(length(max = 32))]
    pub consumers: Vec<Actor>,
    /// Who listens: an OR of terms.
    #[serde(deserialize_with = "compact::list")]
    #[schemars(length(max = 32))]
    pub providers: Vec<Actor>,
    /// The provider's ports.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub services: Vec<ServiceRef>,
    /// Every protocol and port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_services: bool,
    /// The ports of the virtual services that are the providers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_virtual_service_ports: bool,
    /// Deny and OverrideDeny: reject instead of drop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reject: bool,
}

/// One term of consumers or providers. `labels`, `not` and `labelGroups` may stand together and are an AND; every
/// other field stands alone.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("((has(self.labels) && size(self.labels) > 0) || (has(self.not) && size(self.not) > 0) || (has(self.labelGroups) && size(self.labelGroups) > 0) ? 1 : 0) + (has(self.allWorkloads) && self.allWorkloads ? 1 : 0) + (has(self.ipList) ? 1 : 0) + (has(self.virtualService) ? 1 : 0) + (has(self.workload) ? 1 : 0) + (has(self.containerHosts) && self.containerHosts ? 1 : 0) == 1").message("a term names exactly one of: labels/not/labelGroups (together), allWorkloads: true, ipList, virtualService, workload, containerHosts: true")
)]
pub struct Actor {
    /// Workloads by label: dimensions AND, values of one dimension OR.
    #[serde(default, deserialize_with = "compact::terms", skip_serializing_if = "LabelTerms::is_empty")]
    #[schemars(with = "BTreeMap<String, Vec<String>>", extend("maxProperties" = 16), extend("additionalProperties" = {"type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 63, "pattern": pattern::VALUE}}))]
    #[x_kube(validation = Rule::new(pattern::DIMENSION_KEYS).message(pattern::DIMENSION_KEYS_HELP))]
    pub labels: LabelTerms,
    /// Workloads that have another value than these in each of the dimensions. One without the dimension does not match.
    #[serde(default, deserialize_with = "compact::terms", skip_serializing_if = "LabelTerms::is_empty")]
    #[schemars(with = "BTreeMap<String, Vec<String>>", extend("maxProperties" = 16), extend("additionalProperties" = {"type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 63, "pattern": pattern::VALUE}}))]
    #[x_kube(validation = Rule::new(pattern::DIMENSION_KEYS).message(pattern::DIMENSION_KEYS_HELP))]
    pub not: LabelTerms,
    /// LabelGroups: groups of one dimension OR, dimensions AND.
    #[serde(default, deserialize_with = "compact::list", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 253)))]
    pub label_groups: Vec<String>,
    /// All workloads of the scope; as extra-scope consumers, all managed workloads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_workloads: bool,
    /// An IPList.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ip_list: Option<String>,
    /// A VirtualService, as `namespace/name` (providers only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 320),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
    )]
    pub virtual_service: Option<String>,
    /// A Workload: a node, or an unmanaged machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub workload: Option<String>,
    /// The nodes of the cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub container_hosts: bool,
}

/// A ServiceDefinition by name, or a port in place.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.name) != has(self.protocol)").message("give either the name of a ServiceDefinition or a protocol with its ports"),
    validation = Rule::new("!has(self.name) || !(has(self.port) || has(self.endPort) || has(self.icmpType) || has(self.icmpCode))").message("a service by name takes its ports from the ServiceDefinition: remove the others"),
    validation = Rule::new("!has(self.endPort) || (has(self.port) && self.endPort >= self.port)").message("endPort needs a port that is not above it"),
    validation = Rule::new("!has(self.port) || !has(self.protocol) || self.protocol in ['TCP', 'UDP', 'SCTP', '6', '17', '132']").message("only TCP, UDP and SCTP have ports: remove port"),
    validation = Rule::new("!has(self.icmpType) || !has(self.protocol) || self.protocol in ['ICMP', 'ICMPv6', '1', '58']").message("icmpType belongs to ICMP and ICMPv6: remove it or change protocol"),
    validation = Rule::new("!has(self.icmpCode) || has(self.icmpType)").message("icmpCode needs icmpType")
)]
pub struct ServiceRef {
    /// A ServiceDefinition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// TCP, UDP, SCTP, ICMP, ICMPv6, or a protocol number as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^(TCP|UDP|SCTP|ICMP|ICMPv6|[0-9]{1,3})$"))]
    pub protocol: Option<String>,
    /// Port, or first port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Last port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
    /// ICMP type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_type: Option<i32>,
    /// ICMP code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_code: Option<i32>,
}

/// What came of the RuleSet.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RuleSetStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: in force on all nodes concerned; else what is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Nodes that have acknowledged the rules, as `m/n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// What the RuleSet refers to and does not find, or finds empty; it selects nothing there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
