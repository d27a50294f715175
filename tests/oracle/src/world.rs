//! What the model speaks of, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::{Action, Dimension, LabelValue, PolicyState, PortMatch, Protocol};

/// A namespace and a name.
pub type Key = (String, String);
/// First and last address of a range, both in it.
pub type Range = (IpAddr, IpAddr);
/// Labels as they are written: at most one value per dimension.
pub type Labels = BTreeMap<Dimension, LabelValue>;

/// Policy and cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    /// Settings of the cluster.
    pub settings: Settings,
    /// Profiles, by namespace.
    pub profiles: BTreeMap<String, Profile>,
    /// Nodes.
    pub nodes: BTreeMap<String, Node>,
    /// Labels that users wrote for nodes, and whole unmanaged machines: the kind Workload.
    pub workloads: BTreeMap<String, Workload>,
    /// Pods.
    pub pods: BTreeMap<Key, Pod>,
    /// Services.
    pub services: BTreeMap<Key, Service>,
    /// Labels that users wrote for VirtualServices.
    pub written: BTreeMap<Key, Labels>,
    /// IP lists.
    pub ip_lists: BTreeMap<String, IpList>,
    /// Label groups.
    pub groups: BTreeMap<String, Group>,
    /// Service definitions.
    pub definitions: BTreeMap<String, Vec<PortMatch>>,
    /// RuleSets.
    pub rule_sets: BTreeMap<String, RuleSet>,
}

/// Settings of the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The masters are the provider's and no workloads.
    pub cloud: bool,
    /// What holds for a namespace without a profile.
    pub default_profile: Profile,
    /// Annotation prefixes beside `ringfence.dev/`.
    pub prefixes: Vec<String>,
    /// Kubernetes labels of Pods that become policy labels.
    pub pod_label_map: Vec<Mapping>,
    /// Pod networks by name; none means one that any address may be on.
    pub networks: Vec<(String, Vec<Range>)>,
    /// Where externalIPs may lie.
    pub external_ranges: Vec<Range>,
}

/// A line of the label map.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Key of the Kubernetes label.
    pub from: String,
    /// Dimension of the policy label.
    pub to: Dimension,
    /// Values; none means that they are taken as they are.
    pub values: BTreeMap<String, LabelValue>,
}

/// What holds in a namespace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// The state; none while unmanaged.
    pub state: Option<PolicyState>,
    /// What is said about each dimension.
    pub labels: BTreeMap<Dimension, LabelRule>,
}

/// What a profile says about a dimension.
#[derive(Debug, Clone, PartialEq)]
pub enum LabelRule {
    /// This value.
    Fixed(LabelValue),
    /// What a Pod or Service chooses among these.
    Choice(BTreeSet<LabelValue>),
    /// What the label map yields.
    FromLabelMap,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// A master.
    pub control_plane: bool,
    /// Its addresses by Kubernetes.
    pub addresses: BTreeSet<IpAddr>,
    /// Those that its agent claims.
    pub reported: BTreeSet<IpAddr>,
}

/// A Workload that a user wrote: labels of a node, or an unmanaged machine with its addresses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    /// Labels.
    pub labels: Labels,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pod {
    /// Its node.
    pub node: String,
    /// It uses the network of its node.
    pub host_network: bool,
    /// The mirror of a static Pod.
    pub mirror: bool,
    /// Succeeded or Failed.
    pub ended: bool,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Kubernetes labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Named ports of its containers.
    pub ports: Vec<(String, Protocol, u16)>,
    /// Ports that its probes and hooks name.
    pub probe_ports: BTreeSet<(Protocol, u16)>,
    /// Resolvers of its own.
    pub resolvers: Vec<IpAddr>,
}

/// A Service with what its EndpointSlices say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    /// Kubernetes labels that its Pods have; none for a Service without a selector.
    pub selector: BTreeMap<String, String>,
    /// ClusterIPs.
    pub cluster_ips: Vec<IpAddr>,
    /// externalIPs.
    pub external_ips: BTreeSet<IpAddr>,
    /// Addresses of load balancers.
    pub ingress_ips: BTreeSet<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// EndpointSlices, by name.
    pub slices: BTreeMap<String, Slice>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    /// Name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the Service's addresses.
    pub port: u16,
    /// Port on the Pods.
    pub target: TargetPort,
    /// Port on the nodes.
    pub node_port: Option<u16>,
}

/// A port on the Pods.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    /// Addresses, with the Pod that each says it is.
    pub endpoints: Vec<(Vec<IpAddr>, Option<Key>)>,
    /// Name of the Service's port, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// Named ranges.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IpList {
    /// Ranges.
    pub ranges: Vec<Range>,
    /// What is not in it.
    pub exclusions: Vec<Range>,
}

/// Named labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Their dimension.
    pub dimension: Dimension,
    /// Their values.
    pub values: BTreeSet<LabelValue>,
    /// Groups of the same dimension that are part of it.
    pub groups: BTreeSet<String>,
}

/// Scopes and rules.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleSet {
    /// Switched on.
    pub enabled: bool,
    /// An OR of scopes.
    pub scopes: Vec<BTreeMap<Dimension, BTreeSet<LabelValue>>>,
    /// Rules.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Name.
    pub name: String,
    /// Switched on.
    pub enabled: bool,
    /// What it does.
    pub action: Action,
    /// Where it blocks, the sender is told.
    pub reject: bool,
    /// The scope holds for the providers only.
    pub extra_scope: bool,
    /// Who connects: an OR.
    pub consumers: Vec<Actor>,
    /// Who listens: an OR.
    pub providers: Vec<Actor>,
    /// On what.
    pub services: RuleServices,
}

/// The services of a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleServices {
    /// Everything.
    All,
    /// The ports of the virtual services that are the providers.
    OwnPorts,
    /// These.
    Listed(Vec<ServiceRef>),
}

/// A port in place, or a definition by name.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceRef {
    /// A ServiceDefinition.
    Named(String),
    /// A port.
    Port(PortMatch),
}

/// A term of consumers or providers.
#[derive(Debug, Clone, PartialEq)]
pub enum Actor {
    /// Workloads by label: dimensions AND, values OR.
    Labels {
        /// Has one of these values.
        is: BTreeMap<Dimension, BTreeSet<LabelValue>>,
        /// Has another value than these.
        not: BTreeMap<Dimension, BTreeSet<LabelValue>>,
        /// Has a value of these groups; groups of one dimension OR.
        groups: BTreeSet<String>,
    },
    /// All workloads of the scope; as extra-scope consumers, all managed workloads.
    AllWorkloads,
    /// An IP list.
    IpList(String),
    /// A virtual service.
    VirtualService(Key),
    /// A node or machine by name.
    Workload(String),
    /// The nodes.
    ContainerHosts,
}
