//! Room 6: which rules apply to a local Pod, and who their peers are.
//!
//! Goals, in order:
//! 1. Nothing empty, missing or malformed ever widens what passes: it selects nothing.
//! 2. What is only partly known never replaces what is in force: the answer is [`Resolution::Incomplete`], and the
//!    caller keeps that. Where nothing is in force yet, the answer brings a policy that blocks at least all that the
//!    complete one will block.
//! 3. A packet's cost does not grow with the number of peers or rules: of equal direction and action, each service (a port
//!    entry, or all) is in one entry only, with one set.
//! 4. The answer is a function of the store and the Pod, in a fixed order.

mod classes;
mod essentials;
mod exposed;
mod gather;
mod host;
mod rules;
mod subject;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ringfence_crds::container_cluster::{LabelMapEntry, LabelMapKind};
use ringfence_crds::{NodePolicySpec, names};
use ringfence_model::derive::derive_labels;
use ringfence_model::{Action, Direction, LabelMapping, Labels, PolicyState, StringMap};
use rustc_hash::FxHashMap;

use crate::input::{LocalPod, ObjectStore, Profile};
use crate::interest::Interest;
use crate::policy::{Enforcement, NetnsPolicy};
use classes::Classes;
pub(crate) use classes::prefixes;
use exposed::Exposures;
use gather::Gatherer;
pub use host::Host;
use rules::{FiledRule, Rules};

/// Up to so many namespaces, and buckets, are foreseen to be needed by Pods that are not there yet.
const FORESEEN: usize = 64;

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
        /// For a Pod that has nothing in force yet: whatever the missing objects say, it lets nothing pass that they
        /// will block. `None` in VisibilityOnly, which blocks nothing.
        closed: Option<NetnsPolicy>,
    },
}

/// Why a Pod has no rules.
#[derive(Debug, Clone, Copy)]
enum NoRules {
    Unmanaged,
    Idle,
}

impl From<NoRules> for Resolution {
    fn from(none: NoRules) -> Self {
        match none {
            NoRules::Unmanaged => Self::Unmanaged,
            NoRules::Idle => Self::Idle,
        }
    }
}

/// An object that a rule refers to and that has not been read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The Pod: its labels, annotations and ports.
    Pod,
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
            Self::Pod => f.write_str("the Pod"),
            Self::NodePolicy => f.write_str("the NodePolicy of this node"),
            Self::PeerGroup(name) => write!(f, "PeerGroup {name}"),
            Self::Class(class) => write!(f, "AddressGroups of class {class}"),
            Self::Service(class) => write!(f, "AddressGroup of service {class}"),
        }
    }
}

/// Resolves the policy of one local Pod; for several, a [`Resolver`] does what they share once.
pub fn resolve(store: &ObjectStore, pod: &LocalPod, node_addresses: &[IpAddr]) -> Resolution {
    Resolver::new(store).resolve(pod, node_addresses)
}

/// Resolves the policies of local Pods.
#[derive(Debug)]
pub struct Resolver<'a> {
    store: &'a ObjectStore,
    rules: Rules<'a>,
    classes: Classes<'a>,
    exposures: Exposures<'a>,
    /// Whether Pods of this node can look for seals (see [`crate::gate`]).
    looks_for_seals: bool,
    /// What rules come to, and what they lack, by the selectors that they are of.
    shared: FxHashMap<Vec<rules::Number>, (NetnsPolicy, BTreeSet<Missing>)>,
}

impl<'a> Resolver<'a> {
    /// Of what the store holds now.
    pub fn new(store: &'a ObjectStore) -> Self {
        let (rules, classes) = (Rules::new(store), Classes::new(store));
        let exposures = Exposures::new(store);
        Self { store, rules, classes, exposures, looks_for_seals: false, shared: FxHashMap::default() }
    }

    /// The same on a node whose kernel knows seals, and that has a gate.
    #[must_use]
    pub fn looking_for_seals(self, looks_for_seals: bool) -> Self {
        Self { looks_for_seals, ..self }
    }

    /// The policy of a Pod. `node_addresses`: those that this node uses towards its Pods, for probes.
    pub fn resolve(&mut self, pod: &LocalPod, node_addresses: &[IpAddr]) -> Resolution {
        let (profile, state) = match self.state_of(pod) {
            Ok(found) => found,
            Err(none) => return none.into(),
        };
        let mut missing = BTreeSet::new();
        let node = self.node(&mut missing);
        let rules = self.rules_of(profile, pod, &mut missing);
        let policy = complete(rules, state, &node, pod, node_addresses);
        let policy = self.let_sealed_in(policy, pod, node_addresses, &mut missing);
        if missing.is_empty() {
            return Resolution::Enforce(policy);
        }
        let closed = (state != Enforcement::VisibilityOnly).then_some(policy);
        Resolution::Incomplete { missing: missing.into_iter().collect(), closed }
    }

    /// The policy of a Pod of which namespace, name and addresses are known and nothing else: which rules apply to it
    /// nobody can say, so that no more passes than what is essential.
    pub fn resolve_unknown(&self, pod: &LocalPod, node_addresses: &[IpAddr]) -> Resolution {
        let state = match self.state_of(pod) {
            Ok((_, state)) => state,
            Err(none) => return none.into(),
        };
        let mut missing = BTreeSet::from([Missing::Pod]);
        let node = self.node(&mut missing);
        let nothing = NetnsPolicy::new(Enforcement::Full);
        let closed = (state != Enforcement::VisibilityOnly)
            .then(|| complete(nothing, Enforcement::Full, &node, pod, node_addresses));
        Resolution::Incomplete { missing: missing.into_iter().collect(), closed }
    }

    /// The profile that a Pod is under and the state that puts rules into it, or what it is without rules.
    fn state_of(&self, pod: &LocalPod) -> Result<(&'a Profile, Enforcement), NoRules> {
        let profile = self.store.profiles.get(&pod.namespace).filter(|_| !pod.host_network);
        let Some(profile) = profile.filter(|profile| profile.spec.managed) else {
            return Err(NoRules::Unmanaged);
        };
        match profile.enforced_state {
            None => Err(NoRules::Unmanaged),
            Some(PolicyState::Idle) => Err(NoRules::Idle),
            Some(PolicyState::VisibilityOnly) => Ok((profile, Enforcement::VisibilityOnly)),
            Some(PolicyState::Selective) => Ok((profile, Enforcement::Selective)),
            Some(PolicyState::Full) => Ok((profile, Enforcement::Full)),
        }
    }

    /// What the node says of itself; where that is not read, it says nothing.
    fn node(&self, missing: &mut BTreeSet<Missing>) -> Cow<'a, NodePolicySpec> {
        match &self.store.node_policy {
            Some(node) => Cow::Borrowed(node),
            None => {
                missing.insert(Missing::NodePolicy);
                Cow::Owned(NodePolicySpec::default())
            }
        }
    }

    /// The rules that apply to a Pod; Pods that the same selectors select have the same, unless some are behind Services.
    fn rules_of(&mut self, profile: &Profile, pod: &LocalPod, missing: &mut BTreeSet<Missing>) -> NetnsPolicy {
        self.rules_by_labels(&pod_labels(self.store, profile, pod), pod, missing)
    }

    fn rules_by_labels(&mut self, labels: &Labels, pod: &LocalPod, missing: &mut BTreeSet<Missing>) -> NetnsPolicy {
        let selectors = self.rules.selecting(labels);
        if self.rules.has_services(&pod.namespace) {
            return self.gather_rules(&selectors, pod, missing);
        }
        if let Some((policy, lacking)) = self.shared.get(&selectors) {
            missing.extend(lacking.iter().cloned());
            return policy.clone();
        }
        let mut lacking = BTreeSet::new();
        let policy = self.gather_rules(&selectors, pod, &mut lacking);
        missing.extend(lacking.iter().cloned());
        self.shared.insert(selectors, (policy.clone(), lacking));
        policy
    }

    /// The rules of these selectors, and of the Services that the Pod is behind. Of a rule that is only partly known, an Allow opens what is known, and one that
    /// blocks hits whatever it may turn out to hit: so whatever the answer lets pass, the complete rules let pass too.
    fn gather_rules(
        &mut self,
        selectors: &[rules::Number],
        pod: &LocalPod,
        missing: &mut BTreeSet<Missing>,
    ) -> NetnsPolicy {
        let mut gatherer = Gatherer::new(&mut self.classes);
        for (FiledRule { policy, rule }, selected) in self.rules.of(selectors, &pod.namespace) {
            let mut lacking = BTreeSet::new();
            let reached = subject::reach(rule, selected, pod, gatherer.classes(), &mut lacking);
            if reached.is_none() && lacking.is_empty() {
                continue;
            }
            let name = format!("{}/{}", policy.rule_set, rule.name);
            if let Some(services) = reached {
                match rule.direction {
                    Direction::Inbound => gatherer.inbound(rule, &name, &services, &mut lacking),
                    Direction::Outbound => gatherer.outbound(rule, &name, &mut lacking),
                }
            }
            if !lacking.is_empty() && rule.action != Action::Allow {
                gatherer.anyone(rule, &name);
            }
            missing.extend(lacking);
        }
        gatherer.finish()
    }

    /// What the Pods refer to that were resolved: what has to be read for them, as far as that is known. A kubelet starts
    /// static Pods without an apiserver, of which nothing could be read then: where it is not much, what one of any
    /// namespace would refer to is of interest too.
    pub fn into_interest(mut self) -> Interest {
        let needed = self.classes.interest().clone();
        if self.store.profiles.len() > FORESEEN {
            return needed;
        }
        for namespace in self.store.profiles.keys() {
            let pod = LocalPod { namespace: namespace.clone(), mirror: true, ..LocalPod::default() };
            self.resolve(&pod, &[]);
        }
        let foreseen = self.classes.interest();
        let few = foreseen.peer_groups.len().max(foreseen.address_groups.len()) <= FORESEEN;
        if few { foreseen.clone() } else { needed }
    }
}

/// The rules of a Pod with what belongs to it whatever they are.
fn complete(
    rules: NetnsPolicy,
    state: Enforcement,
    node: &NodePolicySpec,
    pod: &LocalPod,
    node_addresses: &[IpAddr],
) -> NetnsPolicy {
    let mut policy = NetnsPolicy { state, own: pod.ips.iter().copied().collect(), ..rules };
    essentials::add(&mut policy, node, pod, node_addresses);
    policy
}

/// The policy labels of a Pod.
pub fn pod_labels(store: &ObjectStore, profile: &Profile, pod: &LocalPod) -> Labels {
    // No schema lets an invalid profile through; should one come all the same, the Pod has no labels.
    let rules = profile.spec.profile_labels().unwrap_or_default();
    if pod.mirror {
        return derive_labels(&rules, &StringMap::default(), &StringMap::default(), &[], &[]).labels;
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

#[cfg(test)]
mod tests;
