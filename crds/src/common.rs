//! Pieces that several kinds share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use ringfence_model::{Labels, ParsePortError, PortMatch};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// A protocol with a port, a port range, or an ICMP type.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.endPort) || has(self.port)").message("endPort needs port: give the first port of the range as port"),
    validation = Rule::new("!has(self.endPort) || !has(self.port) || self.endPort >= self.port").message("endPort is below port: swap them"),
    validation = Rule::new("!has(self.port) || self.protocol in ['TCP', 'UDP', 'SCTP', '6', '17', '132']").message("only TCP, UDP and SCTP have ports: remove port"),
    validation = Rule::new("!has(self.icmpType) || self.protocol in ['ICMP', 'ICMPv6', '1', '58']").message("icmpType belongs to ICMP and ICMPv6: remove it or change protocol"),
    validation = Rule::new("!has(self.icmpCode) || has(self.icmpType)").message("icmpCode needs icmpType")
)]
pub struct PortSpec {
    /// TCP, UDP, SCTP, ICMP, ICMPv6, or a protocol number as text ("47").
    #[schemars(length(max = 8), regex(pattern = r"^(TCP|UDP|SCTP|ICMP|ICMPv6|[0-9]{1,3})$"))]
    pub protocol: String,
    /// Port, or first port of a range. All ports when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Last port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
    /// ICMP type. All types when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_type: Option<i32>,
    /// ICMP code. All codes of the type when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 255))]
    pub icmp_code: Option<i32>,
}

impl TryFrom<&PortSpec> for PortMatch {
    type Error = ParsePortError;

    fn try_from(spec: &PortSpec) -> Result<Self, ParsePortError> {
        Self::parse(&spec.protocol, spec.port, spec.end_port, spec.icmp_type, spec.icmp_code)
    }
}

impl From<&PortMatch> for PortSpec {
    fn from(entry: &PortMatch) -> Self {
        use ringfence_model::Ports;
        let mut spec = Self { protocol: entry.protocol.to_string(), ..Self::default() };
        match entry.ports {
            Ports::All => {}
            Ports::Range(start, end) => {
                spec.port = Some(start.into());
                spec.end_port = (end != start).then_some(end.into());
            }
            Ports::Icmp(kind, code) => {
                spec.icmp_type = Some(kind.into());
                spec.icmp_code = code.map(Into::into);
            }
        }
        spec
    }
}

/// A revision of computed policy: numbers grow within an epoch. An agent refuses an older number; a new epoch is
/// taken when an operator confirms it (`ContainerCluster.spec.policyEpoch`).
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Epoch, raised by an operator after the cluster's database was restored.
    #[serde(default)]
    pub epoch: i64,
    /// Number within the epoch.
    #[serde(default)]
    pub number: i64,
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// Status of kinds that have nothing to report but conditions.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The generation that the conditions speak of (kstatus).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A namespace and a name.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An address with the Pod network that gives it its meaning.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAddress {
    /// Id of the Pod network, `<cluster uid>/<name>`; empty for addresses outside every Pod network.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub network: SmolStr,
    /// The address.
    pub address: SmolStr,
}

/// Takes the defaults out of the schema of an item of a list. The list is owned as a whole: a default that the apiserver
/// fills in is a difference from what its owner applied, and every further apply would be booked as a change.
pub(crate) fn without_defaults(schema: &mut Schema) {
    let properties = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut);
    for field in properties.into_iter().flat_map(|properties| properties.values_mut()) {
        if let Some(field) = field.as_object_mut() {
            field.remove("default");
        }
    }
}

/// Labels as plain strings: from dimension to value.
pub type LabelStrings = BTreeMap<String, String>;

/// Labels of an object that was already admitted. No schema lets an invalid pair through, but an object may be older
/// than the schema: such a pair is dropped, and selectors over its dimension do not match.
pub fn labels_of(strings: &LabelStrings) -> Labels {
    strings.iter().filter_map(|(dimension, value)| Some((dimension.parse().ok()?, value.parse().ok()?))).collect()
}
