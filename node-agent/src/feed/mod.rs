//! Feeds: where computed objects and local Pods come from. The Kubernetes feed and the folder feed say the same things
//! in the same words, so nothing behind them knows which one is in use.

pub mod folder;
pub mod kubernetes;
pub mod pod_file;
pub mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_crds::{
    AddressGroupSpec, ContainerClusterSpec, ContainerClusterStatus, NodePolicySpec, NodePolicyStatus, PeerGroupSpec,
    WorkloadPolicySpec,
};
use ringfence_dataplane::{Buckets, LocalPod, Profile};

/// The kinds of objects that an agent reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What this node must know.
    NodePolicy,
    /// Settings of the cluster.
    Cluster,
    /// Labels and state, per namespace.
    Profile,
    /// Compiled rules.
    WorkloadPolicy,
    /// Which label classes a selector selects.
    PeerGroup,
    /// Addresses of label classes.
    AddressGroup,
    /// Pods of this node.
    Pod,
}

impl Kind {
    /// All of them: a view is complete when each has been read once.
    pub const ALL: [Self; 7] = [
        Self::NodePolicy,
        Self::Cluster,
        Self::Profile,
        Self::WorkloadPolicy,
        Self::PeerGroup,
        Self::AddressGroup,
        Self::Pod,
    ];
}

/// What a feed that can tell groups apart is to read of them; `None` as long as that is not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// PeerGroups. They follow from the rules of local Pods.
    pub peer_groups: Option<Buckets>,
    /// AddressGroups. They follow from the PeerGroups.
    pub address_groups: Option<Buckets>,
}

/// One object, trimmed to what is used.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// See [`Kind::NodePolicy`].
    NodePolicy(NodeEntry),
    /// See [`Kind::Cluster`].
    Cluster(ClusterEntry),
    /// See [`Kind::Profile`].
    Profile(Profile),
    /// See [`Kind::WorkloadPolicy`].
    WorkloadPolicy(WorkloadPolicySpec),
    /// See [`Kind::PeerGroup`].
    PeerGroup(PeerGroupSpec),
    /// See [`Kind::AddressGroup`].
    AddressGroup(AddressGroupSpec),
    /// See [`Kind::Pod`]. Its name is its [`pods::key`].
    Pod(LocalPod),
}

/// A NodePolicy with what reports are about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeEntry {
    /// Generation, from the apiserver only.
    pub generation: Option<i64>,
    /// What was reported, as the apiserver has it.
    pub status: Option<Arc<NodePolicyStatus>>,
    /// The policy.
    pub spec: NodePolicySpec,
}

/// A ContainerCluster with its age: of several, the oldest counts.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterEntry {
    /// Seconds since 1970.
    pub created: i64,
    /// Its settings.
    pub spec: ContainerClusterSpec,
    /// The prefixes of its Pods and Services, as far as they are known.
    pub networks: BTreeSet<IpNet>,
}

impl ClusterEntry {
    /// From what the controller has found besides the settings.
    pub fn new(created: i64, spec: ContainerClusterSpec, status: Option<&ContainerClusterStatus>) -> Self {
        let given = spec.pod_networks.iter().flat_map(|network| &network.cidrs);
        let found = status.into_iter().flat_map(|status| {
            status.pod_networks.iter().flat_map(|network| &network.cidrs).chain(&status.service_ranges)
        });
        let networks =
            given.chain(found).filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.trunc()).collect();
        Self { created, spec, networks }
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NodePolicy(_) => Kind::NodePolicy,
            Self::Cluster(_) => Kind::Cluster,
            Self::Profile(_) => Kind::Profile,
            Self::WorkloadPolicy(_) => Kind::WorkloadPolicy,
            Self::PeerGroup(_) => Kind::PeerGroup,
            Self::AddressGroup(_) => Kind::AddressGroup,
            Self::Pod(_) => Kind::Pod,
        }
    }
}

/// News from a feed. They pass through one channel one by one, so that the largest decides no footprint.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// These are all objects of the kind, and no others.
    All {
        /// The kind.
        kind: Kind,
        /// The objects by name.
        objects: BTreeMap<String, Object>,
    },
    /// This object is new or different.
    Put {
        /// Its name.
        name: String,
        /// The object.
        object: Object,
    },
    /// A list follows that was read after a gap, of whatever kind, and this is the marker as it was read after that list; nothing if there
    /// is none.
    Marker(Option<WorkloadPolicySpec>),
    /// Another part of this kind is to be read than before: [`Change::All`] follows, and until then it is not known
    /// whether anything has changed.
    Reading {
        /// The kind.
        kind: Kind,
    },
    /// Nobody knows what has changed in this kind: its watch was interrupted and is tried again.
    Interrupted {
        /// The kind.
        kind: Kind,
        /// Why.
        error: String,
    },
    /// This object is gone.
    Gone {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
}
