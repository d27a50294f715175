//! Room 6: which rules apply to a local Pod, and who their peers are.
//!
//! Goals, in order:
//! 1. Nothing empty, missing or malformed ever widens what passes: it selects nothing.
//! 2. A rule whose peers are only partly known is not enforced in part: the answer is [`Resolution::Incomplete`], and
//!    the caller keeps what it has in force.
//! 3. A packet's cost does not grow with the number of peers: rules of equal direction, action and services become one
//!    entry with one set.
//! 4. The answer is a function of the store and the Pod, in a fixed order.

mod classes;
mod essentials;
mod gather;
mod subject;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ringfence_crds::container_cluster::{LabelMapEntry, LabelMapKind};
use ringfence_crds::{NodePolicySpec, names};
use ringfence_model::derive::derive_labels;
use ringfence_model::{Direction, LabelMapping, Labels, PolicyState};

use crate::input::{LocalPod, ObjectStore, Profile};
use crate::policy::{Enforcement, NetnsPolicy};
use classes::Classes;
use gather::Gatherer;

/// What is to be in force in a Pod's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The Pod is none of ours: no rules.
    Unmanaged,
    /// Labels and inventory only: no rules.
    Idle,
    /// These rules.
    Enforce(NetnsPolicy),
    /// Not known yet, because objects have not been read: what is in force stays.
    Incomplete {
        /// The objects.
        missing: Vec<Missing>,
        /// For a Pod in Full that has nothing in force yet: essential traffic alone.
        closed: Option<NetnsPolicy>,
    },
}

/// An object that a rule refers to and that has not been read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The NodePolicy of this node.
    NodePolicy,
    /// A PeerGroup, by name.
    PeerGroup(String),
    /// Slices of a label class, by the class's id.
    Class(String),
    /// The ends of a Service, by class id or `namespace/name`.
    Service(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodePolicy => f.write_str("the NodePolicy of this node"),
            Self::PeerGroup(name) => write!(f, "PeerGroup {name}"),
            Self::Class(class) => write!(f, "AddressGroups of class {class}"),
            Self::Service(class) => write!(f, "AddressGroup of service {class}"),
        }
    }
}

/// Resolves the policy of a local Pod. `node_addresses`: those that this node uses towards its Pods, for probes.
pub fn resolve(store: &ObjectStore, pod: &LocalPod, node_addresses: &[IpAddr]) -> Resolution {
    let Some(profile) = store.profiles.get(&pod.namespace).filter(|_| !pod.host_network) else {
        return Resolution::Unmanaged;
    };
    if !profile.spec.managed {
        return Resolution::Unmanaged;
    }
    let state = match profile.enforced_state {
        None => return Resolution::Unmanaged,
        Some(PolicyState::Idle) => return Resolution::Idle,
        Some(PolicyState::VisibilityOnly) => Enforcement::VisibilityOnly,
        Some(PolicyState::Selective) => Enforcement::Selective,
        Some(PolicyState::Full) => Enforcement::Full,
    };
    let unknown = NodePolicySpec::default();
    let node = store.node_policy.as_ref().unwrap_or(&unknown);
    let complete = |mut policy: NetnsPolicy| {
        policy.state = state;
        policy.own = ipv4(pod.ips.iter().copied());
        essentials::add(&mut policy, node, pod, node_addresses);
        policy
    };
    let mut missing = BTreeSet::new();
    if store.node_policy.is_none() {
        missing.insert(Missing::NodePolicy);
    }
    let policy = gather_rules(store, profile, pod, &node.pod_network, &mut missing);
    if missing.is_empty() {
        return Resolution::Enforce(complete(policy));
    }
    let closed = (state == Enforcement::Full).then(|| complete(NetnsPolicy::new(state)));
    Resolution::Incomplete { missing: missing.into_iter().collect(), closed }
}

fn gather_rules(
    store: &ObjectStore,
    profile: &Profile,
    pod: &LocalPod,
    network: &str,
    missing: &mut BTreeSet<Missing>,
) -> NetnsPolicy {
    let labels = pod_labels(store, profile, pod);
    let classes = Classes { store, network };
    let mut gatherer = Gatherer::new(classes);
    for policy in store.workload_policies.values() {
        for rule in &policy.rules {
            let Some(services) = subject::reach(rule, pod, &labels, store, missing) else { continue };
            let name = format!("{}/{}", policy.rule_set, rule.name);
            match rule.direction {
                Direction::Inbound => gatherer.inbound(rule, &name, &services, missing),
                Direction::Outbound => gatherer.outbound(rule, &name, missing),
            }
        }
    }
    gatherer.finish()
}

/// The policy labels of a Pod.
pub fn pod_labels(store: &ObjectStore, profile: &Profile, pod: &LocalPod) -> Labels {
    // No schema lets an invalid profile through; should one come all the same, the Pod has no labels.
    let rules = profile.spec.profile_labels().unwrap_or_default();
    if pod.mirror {
        return derive_labels(&rules, &BTreeMap::new(), &BTreeMap::new(), &[], &[]).labels;
    }
    let cluster = store.cluster.as_ref();
    let mut prefixes = vec![names::ANNOTATION_PREFIX.to_owned()];
    prefixes.extend(cluster.iter().flat_map(|cluster| cluster.annotation_prefixes.iter().cloned()));
    let mappings: Vec<LabelMapping> =
        cluster.iter().flat_map(|cluster| &cluster.label_map).filter_map(pod_mapping).collect();
    derive_labels(&rules, &pod.annotations, &pod.labels, &prefixes, &mappings).labels
}

/// A line of the label map that is for Pods. A line with anything invalid in it is left out as a whole: a list of
/// values that became empty would mean "as they are".
fn pod_mapping(entry: &LabelMapEntry) -> Option<LabelMapping> {
    if entry.kind != LabelMapKind::Pod {
        return None;
    }
    let pairs = entry.values.iter().map(|(from, to)| Some((from.clone(), to.parse().ok()?)));
    Some(LabelMapping { from: entry.from.clone(), to: entry.to.parse().ok()?, values: pairs.collect::<Option<_>>()? })
}

/// The IPv4 addresses among these.
fn ipv4(addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<Ipv4Addr> {
    addresses
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
