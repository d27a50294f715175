//! Policy: the typed objects that people write, whatever they came from (git, a folder, the apiserver).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ringfence_crds::common::NamespacedName;
use ringfence_crds::{
    ContainerClusterSpec, ContainerWorkloadProfileSpec, IpListSpec, LabelGroupSpec, RuleSetSpec, ServiceDefinitionSpec,
    VirtualServiceSpec, WorkloadSpec,
};

/// All policy objects, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Settings of the cluster; those of an empty ContainerCluster when there is none.
    pub cluster: ContainerClusterSpec,
    /// Profiles, by namespace.
    pub profiles: BTreeMap<String, ContainerWorkloadProfileSpec>,
    /// RuleSets.
    pub rule_sets: BTreeMap<String, RuleSetSpec>,
    /// IPLists.
    pub ip_lists: BTreeMap<String, IpListSpec>,
    /// LabelGroups.
    pub label_groups: BTreeMap<String, LabelGroupSpec>,
    /// ServiceDefinitions.
    pub service_definitions: BTreeMap<String, ServiceDefinitionSpec>,
    /// Workloads: nodes, and unmanaged machines.
    pub workloads: BTreeMap<String, WorkloadSpec>,
    /// VirtualServices.
    pub virtual_services: BTreeMap<NamespacedName, VirtualServiceSpec>,
    /// Where the objects were written, as far as known.
    pub origins: BTreeMap<ObjectKey, Origin>,
}

/// The kinds that people write. The order is that in which they are applied: what others refer to comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The cluster and its settings.
    ContainerCluster,
    /// What a namespace's Pods get.
    ContainerWorkloadProfile,
    /// A Kubernetes Service as a policy object.
    VirtualService,
    /// A node, or an unmanaged machine.
    Workload,
    /// Named addresses.
    IpList,
    /// Named labels.
    LabelGroup,
    /// Named ports.
    ServiceDefinition,
    /// Scopes and rules.
    RuleSet,
    /// A git source.
    PolicyRepository,
}

impl Kind {
    /// Every kind, in the order in which they are applied.
    pub const ALL: [Self; 9] = [
        Self::ContainerCluster,
        Self::ContainerWorkloadProfile,
        Self::VirtualService,
        Self::Workload,
        Self::IpList,
        Self::LabelGroup,
        Self::ServiceDefinition,
        Self::RuleSet,
        Self::PolicyRepository,
    ];

    /// The kind as written in YAML.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ContainerCluster => "ContainerCluster",
            Self::ContainerWorkloadProfile => "ContainerWorkloadProfile",
            Self::VirtualService => "VirtualService",
            Self::Workload => "Workload",
            Self::IpList => "IPList",
            Self::LabelGroup => "LabelGroup",
            Self::ServiceDefinition => "ServiceDefinition",
            Self::RuleSet => "RuleSet",
            Self::PolicyRepository => "PolicyRepository",
        }
    }

    /// The resource as the apiserver names it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::ContainerCluster => "containerclusters",
            Self::ContainerWorkloadProfile => "containerworkloadprofiles",
            Self::VirtualService => "virtualservices",
            Self::Workload => "workloads",
            Self::IpList => "iplists",
            Self::LabelGroup => "labelgroups",
            Self::ServiceDefinition => "servicedefinitions",
            Self::RuleSet => "rulesets",
            Self::PolicyRepository => "policyrepositories",
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub const fn namespaced(self) -> bool {
        matches!(self, Self::VirtualService | Self::PolicyRepository)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind that people write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("recognize kind '{0}'")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// What identifies an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace, for namespaced kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object of a cluster-wide kind.
    pub fn cluster_wide(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, namespace: None, name: name.into() }
    }

    /// The key of an object in a namespace.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: Some(namespace.into()), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Where an object was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// File, relative to the root of the source.
    pub file: String,
    /// Line on which its document begins.
    pub line: u64,
    /// Commit, for git.
    pub commit: Option<String>,
    /// Of a RuleSet: the line of each rule, by the rule's name.
    pub rule_lines: BTreeMap<String, u64>,
}
