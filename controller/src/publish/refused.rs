//! What the apiserver refuses for good (invalid, too large): planned around, reported, and tried again only when it
//! changes.
//!
//! Nothing may widen by that. What lives in place of what was refused stays in force, and so do the other rules of its
//! RuleSet that would go; nothing is written that refers to what does not exist; and a class of Pods is never left out,
//! since a Pod in no class would slip out of every Deny. Exposed Pods are the other way round: what lives says for whom other
//! nodes may let in, and an address in it may be another Pod's by now. So it goes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ringfence_compile::compile::Computed;
use ringfence_crds::address_group::ServiceEnds;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::{AddressGroupSpec, PeerGroupSpec, WorkloadPolicySpec, names};
use serde_json::{Value, json};

use crate::engine::world::{World, cluster_wide};
use crate::write::{Operation, Target, Write};

/// What a condition tells of a message.
const MESSAGE_LENGTH: usize = 1024;

/// What the apiserver refuses.
#[derive(Debug, Clone, Default)]
pub struct Refused(BTreeMap<(Target, NamespacedName), Entry>);

#[derive(Debug, Clone)]
struct Entry {
    /// What was refused, without what is not content.
    content: Value,
    message: String,
}

/// What to say about what was refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// By RuleSet.
    pub rule_sets: BTreeMap<String, String>,
    /// What belongs to no RuleSet.
    pub cluster: Vec<String>,
}

fn content(spec: Value) -> Value {
    let mut spec = spec;
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("revision");
        fields.remove("commit");
    }
    spec
}

fn spec_of(write: &Write) -> Option<&Value> {
    match &write.operation {
        Operation::Create(_, content) | Operation::Replace(_, content) => content.get("spec"),
        Operation::Status(_) | Operation::StatusOf(..) | Operation::Delete(_) => None,
    }
}

fn wanted(computed: &Computed, target: Target, name: &str) -> Option<Value> {
    match target {
        Target::WorkloadPolicy => computed.workload_policies.get(name).map(|spec| json!(spec)),
        Target::PeerGroup => computed.peer_groups.get(name).map(|spec| json!(spec)),
        Target::AddressGroup => computed.address_groups.get(name).map(|spec| json!(spec)),
        Target::NodePolicy => computed.node_policies.get(name).map(|spec| json!(spec)),
        _ => None,
    }
}

impl Refused {
    /// Whether nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a publication may go on without this write.
    pub fn may_leave_out(write: &Write) -> bool {
        let Some(spec) = spec_of(write) else { return false };
        match write.target {
            Target::WorkloadPolicy | Target::PeerGroup => write.key.name != names::MARKER,
            Target::NodePolicy => true,
            Target::AddressGroup => spec.get("service").is_some() || spec.get("exposed").is_some(),
            _ => false,
        }
    }

    /// Notes that the apiserver will not take this write.
    pub fn note(&mut self, write: &Write, message: &str) {
        let Some(spec) = spec_of(write) else { return };
        let entry = Entry { content: content(spec.clone()), message: message.chars().take(MESSAGE_LENGTH).collect() };
        self.0.insert((write.target, write.key.clone()), entry);
    }

    /// Forgets what is not wanted any more, or with another content: that is worth another try.
    pub fn forget_changed(&mut self, computed: &Computed) {
        self.0.retain(|(target, key), entry| {
            wanted(computed, *target, &key.name).is_some_and(|spec| content(spec) == entry.content)
        });
    }

    /// What can be published in place of what was computed.
    pub fn possible<'c>(&self, world: &World, computed: &'c Computed) -> Cow<'c, Computed> {
        if self.0.is_empty() {
            return Cow::Borrowed(computed);
        }
        let mut possible = computed.clone();
        let missing = self.leave_groups(world, &mut possible);
        self.leave_policies(world, &mut possible, &missing);
        keep_referred(world, &mut possible);
        Cow::Owned(possible)
    }

    fn names(&self, target: Target) -> impl Iterator<Item = &str> {
        self.0.keys().filter(move |(kind, _)| *kind == target).map(|(_, key)| key.name.as_str())
    }

    /// Puts what lives in place of what was refused, and nothing in place of exposed Pods. Gives what does not live either.
    fn leave_groups(&self, world: &World, possible: &mut Computed) -> Missing {
        let mut missing = Missing::default();
        macro_rules! leave {
            ($target:expr, $index:ident, $gone:expr) => {
                for name in self.names($target) {
                    match world.$index.get(&cluster_wide(name)) {
                        Some(live) => {
                            possible.$index.insert(name.to_owned(), live.spec.clone());
                        }
                        None => $gone(&mut missing, name, possible.$index.remove(name)),
                    }
                }
            };
        }
        leave!(Target::NodePolicy, node_policies, |_: &mut Missing, _: &str, _| {});
        leave!(Target::PeerGroup, peer_groups, |missing: &mut Missing, name: &str, _| {
            missing.peer_groups.insert(name.to_owned());
        });
        leave!(
            Target::AddressGroup,
            address_groups,
            |missing: &mut Missing, _: &str, gone: Option<AddressGroupSpec>| {
                missing.services.extend(gone.as_ref().and_then(Service::of));
            }
        );
        for name in self.names(Target::AddressGroup) {
            if possible.address_groups.get(name).is_some_and(|spec| spec.exposed.is_some()) {
                possible.address_groups.remove(name);
            }
        }
        missing
    }

    fn leave_policies(&self, world: &World, possible: &mut Computed, missing: &Missing) {
        let refused: BTreeSet<&str> = self.names(Target::WorkloadPolicy).collect();
        let held = possible.workload_policies.iter();
        let held = held.filter(|(name, policy)| refused.contains(name.as_str()) || missing.is_in(policy));
        let held: Vec<(String, String)> = held.map(|(name, policy)| (name.clone(), policy.rule_set.clone())).collect();
        for (name, _) in &held {
            possible.workload_policies.remove(name);
        }
        let rule_sets: BTreeSet<&str> = held.iter().map(|(_, rule_set)| rule_set.as_str()).collect();
        for (key, live) in &world.workload_policies {
            if rule_sets.contains(live.spec.rule_set.as_str()) {
                possible.workload_policies.entry(key.name.clone()).or_insert_with(|| live.spec.clone());
            }
        }
    }

    /// What to say about what was refused.
    pub fn reasons(&self, computed: &Computed) -> Reasons {
        let mut reasons = Reasons::default();
        for ((target, key), entry) in &self.0 {
            let concerned: BTreeSet<&String> = match target {
                Target::WorkloadPolicy => computed.workload_policies.get(&key.name).map(|spec| &spec.rule_set),
                _ => None,
            }
            .into_iter()
            .chain(referring(computed, *target, &key.name))
            .collect();
            let message = format!("the apiserver refuses {target:?} {}: {}", key.name, entry.message);
            if concerned.is_empty() || *target == Target::AddressGroup {
                reasons.cluster.push(message.clone());
            }
            for rule_set in concerned {
                reasons.rule_sets.entry(rule_set.clone()).or_insert_with(|| message.clone());
            }
        }
        reasons
    }
}

/// The RuleSets whose rules refer to a group.
fn referring<'c>(computed: &'c Computed, target: Target, name: &str) -> Vec<&'c String> {
    let mut sought = Missing::default();
    match target {
        Target::PeerGroup => sought.peer_groups.extend([name.to_owned()]),
        Target::AddressGroup => sought.services.extend(computed.address_groups.get(name).and_then(Service::of)),
        _ => {}
    }
    let policies = computed.workload_policies.values();
    policies.filter(|policy| sought.is_in(policy)).map(|policy| &policy.rule_set).collect()
}

/// A Service, as rules refer to it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Service {
    class: String,
    name: String,
}

impl Service {
    fn of(group: &AddressGroupSpec) -> Option<Self> {
        let ends = group.service.as_ref()?;
        Some(Self { class: group.class.clone(), name: format!("{}/{}", ends.namespace, ends.name) })
    }

    fn is_in(&self, policy: &WorkloadPolicySpec) -> bool {
        policy.rules.iter().any(|rule| {
            rule.peers.iter().any(|peer| peer.virtual_service.as_ref() == Some(&self.class))
                || rule.subjects.iter().any(|subject| subject.virtual_service.as_ref() == Some(&self.name))
        })
    }
}

/// What rules may refer to and what does not exist.
#[derive(Debug, Default)]
struct Missing {
    peer_groups: BTreeSet<String>,
    services: BTreeSet<Service>,
}

impl Missing {
    fn is_in(&self, policy: &WorkloadPolicySpec) -> bool {
        let mut peers = policy.rules.iter().flat_map(|rule| &rule.peers);
        peers.any(|peer| peer.peer_group.as_ref().is_some_and(|name| self.peer_groups.contains(name)))
            || self.services.iter().any(|service| service.is_in(policy))
    }
}

/// Rules that stay need what they refer to: PeerGroups that were not computed anew stay, with those of their classes
/// that live on, and a Service that is gone selects nothing.
fn keep_referred(world: &World, possible: &mut Computed) {
    for (key, live) in &world.peer_groups {
        let known = possible.peer_groups.contains_key(&key.name);
        let sought = Missing { peer_groups: [key.name.clone()].into(), ..Missing::default() };
        if !known && possible.workload_policies.values().any(|policy| sought.is_in(policy)) {
            possible.peer_groups.insert(key.name.clone(), live.spec.clone());
        }
    }
    let classes: BTreeSet<&String> = possible.address_groups.values().map(|group| &group.class).collect();
    for group in possible.peer_groups.values_mut() {
        let PeerGroupSpec { classes: selected, services, .. } = group;
        selected.retain(|class| classes.contains(class));
        services.retain(|class| classes.contains(class));
    }
    for (key, live) in &world.address_groups {
        let Some(service) = Service::of(&live.spec) else { continue };
        let known = possible.address_groups.contains_key(&key.name);
        if !known && possible.workload_policies.values().any(|policy| service.is_in(policy)) {
            possible.address_groups.insert(key.name.clone(), emptied(&live.spec));
        }
    }
}

fn emptied(group: &AddressGroupSpec) -> AddressGroupSpec {
    let ends = group.service.as_deref().cloned().unwrap_or_default();
    let service = ServiceEnds { namespace: ends.namespace, name: ends.name, ..ServiceEnds::default() };
    AddressGroupSpec { service: Some(Box::new(service)), ..group.clone() }
}
