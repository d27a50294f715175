//! What is known of a Service, and of what is behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::VirtualServiceStatus;
use ringfence_crds::common::NamespacedName;
use ringfence_model::{DerivedLabels, Protocol, StringMap};
use rustc_hash::{FxHashMap, FxHashSet};

use super::addresses::{Owner, PodId};
use super::class::Class;
use super::selector::WorkloadSelector;
use super::selects;
use crate::cluster::TargetPortInfo;

/// A Service.
#[derive(Debug, Clone, Default)]
pub struct ServiceFacts {
    /// Whether its namespace is managed, so that it is a virtual service.
    pub managed: bool,
    /// Its labels.
    pub labels: DerivedLabels,
    /// Its selector.
    pub selector: BTreeMap<String, String>,
    /// Ports on the Pods behind it.
    pub target_ports: BTreeSet<(Protocol, TargetPortInfo)>,
    /// What consumers connect to, before the node translates.
    pub fronts: Vec<Front>,
    /// What is behind it.
    pub behind: BackEnds,
    /// Classes of its back ends.
    pub classes: BTreeSet<Arc<Class>>,
    /// Whether there is a way in on which nodes hide who connects, so that its Pods are exposed on every node.
    pub exposed: bool,
    /// What its VirtualService shows.
    pub shown: VirtualServiceStatus,
    /// What of it is not opened and why.
    pub warnings: Vec<String>,
    /// Why connections from outside are not opened and what helps, where a node hides who connects and does not judge first.
    pub hidden_source: Option<String>,
}

/// One front end of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Front {
    /// ClusterIP, address of a load balancer, accepted externalIP, or a node's address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on that address.
    pub port: u16,
    /// Ports on the Pods that it leads to.
    pub targets: BTreeSet<u16>,
    /// The port of the Service that it stands for.
    pub service_port: u16,
    /// Whether rules may open it: not if an address behind it is none of the Service's.
    pub open: bool,
}

impl ServiceFacts {
    /// Whether a Pod of the Service's namespace is behind it.
    pub fn has_pod(&self, name: &str, labels: &StringMap) -> bool {
        selects(&self.selector, labels) || self.behind.target_pods.contains(name)
    }

    /// Whether its back ends count as selected, so that its front ends may be opened: one class is enough, because what is
    /// opened is judged at the provider once more.
    pub fn is_touched_by(&self, selector: &WorkloadSelector) -> bool {
        self.classes.iter().any(|class| selector.matches(class))
    }

    /// Whether nothing else is behind it, so that its front ends may be closed.
    pub fn is_covered_by(&self, selector: &WorkloadSelector) -> bool {
        !self.classes.is_empty() && self.classes.iter().all(|class| selector.matches(class))
    }
}

/// One address and port behind a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackEnd {
    /// The address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// Name of the Service's port that it stands for; empty when that has none.
    pub port_name: String,
    /// The Pod of the Service's namespace that it is, on the Pod network or on that of its node.
    pub pod: Option<NamespacedName>,
    /// Who has the address.
    pub owner: Owner,
}

/// An address in a slice that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The address.
    pub address: IpAddr,
    /// Why, for the status of the VirtualService.
    pub reason: String,
    /// Whether it certainly is none of the Service's, and not a Pod of its namespace that is about to be known.
    pub foreign: bool,
    /// The ports of the slice: name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// What is behind a Service.
#[derive(Debug, Clone, Default)]
pub struct BackEnds {
    /// Believed, sorted.
    pub accepted: Vec<BackEnd>,
    /// The Pods of the Pod network among them, and those that none of the Service's ports leads to.
    pub pods: BTreeSet<PodId>,
    /// Not believed.
    pub refused: Vec<Refused>,
    /// Names of Pods of the namespace that are behind it without being selected.
    pub target_pods: BTreeSet<String>,
    /// Addresses times ports that were looked at.
    pub(super) pairs: usize,
    /// Whether there are more than [`BACK_ENDS`](super::limits::BACK_ENDS). Who is behind it is not known then: no front
    /// end may be opened.
    pub too_many: bool,
}

impl BackEnds {
    /// The ports of the Service, by protocol and name, that lead to an address that is none of the Service's.
    pub fn foreign(&self) -> FxHashSet<(Protocol, &str)> {
        let foreign = self.refused.iter().filter(|refused| refused.foreign);
        let ports = foreign.flat_map(|refused| &refused.ports);
        ports.map(|(name, protocol, _)| (*protocol, name.as_str())).collect()
    }

    /// The numbers that the ports of the Service, by protocol and name, lead to.
    pub fn targets(&self) -> FxHashMap<(Protocol, &str), BTreeSet<u16>> {
        let mut targets: FxHashMap<_, BTreeSet<u16>> = FxHashMap::default();
        for end in &self.accepted {
            targets.entry((end.protocol, end.port_name.as_str())).or_default().insert(end.port);
        }
        targets
    }
}
