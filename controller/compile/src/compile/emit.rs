//! Resolved rules and facts, written as computed objects.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::common::NamespacedName;
use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Peer, Subject};
use ringfence_crds::{PeerGroupSpec, PortSpec, WorkloadPolicySpec};
use ringfence_model::{AddressSet, Direction, Selector, Services};

use super::names;
use super::resolve::{Resolved, ResolvedActor, ResolvedRule, RuleServices, WorkloadKind, WorkloadSelector};
use super::world::World;
use crate::policy::{Kind, ObjectKey};

/// WorkloadPolicies, and the PeerGroups that they refer to.
#[derive(Debug, Default)]
pub struct Emitted {
    /// By name.
    pub workload_policies: BTreeMap<String, WorkloadPolicySpec>,
    /// By name.
    pub peer_groups: BTreeMap<String, PeerGroupSpec>,
}

/// Writes all rules.
pub fn emit(world: &World<'_>, resolved: &Resolved) -> Emitted {
    let mut selectors: BTreeSet<&WorkloadSelector> = BTreeSet::new();
    let mut emitted = Emitted::default();
    for rule in &resolved.rules {
        let compiled = compile_rule(world, rule, &mut selectors);
        if compiled.is_empty() {
            continue;
        }
        let name = names::workload_policy(&rule.rule_set, &rule.scope);
        let policy = emitted.workload_policies.entry(name).or_insert_with(|| WorkloadPolicySpec {
            commit: commit(world, &rule.rule_set),
            rule_set: rule.rule_set.clone(),
            scope: rule.scope.clone(),
            ..WorkloadPolicySpec::default()
        });
        policy.rules.extend(compiled);
    }
    emitted.peer_groups = selectors.into_iter().map(|selector| peer_group(world, selector)).collect();
    emitted
}

fn commit(world: &World<'_>, rule_set: &str) -> Option<String> {
    let key = ObjectKey::cluster_wide(Kind::RuleSet, rule_set);
    world.policy.origins.get(&key)?.commit.clone()
}

/// A rule at its providers and at its consumers; neither where nobody is, or where nobody is on the other side.
fn compile_rule<'r>(
    world: &World<'_>,
    rule: &'r ResolvedRule,
    selectors: &mut BTreeSet<&'r WorkloadSelector>,
) -> Vec<CompiledRule> {
    // A provider by label has no ports of its own that a rule could use.
    let ported =
        |actor: &&ResolvedActor| rule.services.stated().is_some() || matches!(actor, ResolvedActor::VirtualService(_));
    let providers: Vec<&ResolvedActor> = rule.providers.iter().filter(ported).collect();
    let consumers: Vec<&ResolvedActor> = rule.consumers.iter().collect();
    let sides = [(Direction::Inbound, &providers, &consumers), (Direction::Outbound, &consumers, &providers)];
    let mut compiled = Vec::new();
    for (direction, here, there) in sides {
        let subjects = subjects(world, here);
        if subjects.is_empty() || there.is_empty() {
            continue;
        }
        selectors.extend(there.iter().filter_map(|actor| match actor {
            ResolvedActor::Workloads(selector) => Some(selector),
            _ => None,
        }));
        compiled.push(written(rule, direction, subjects, peers(there)));
    }
    compiled
}

fn written(rule: &ResolvedRule, direction: Direction, subjects: Vec<Subject>, peers: Vec<Peer>) -> CompiledRule {
    let services = match &rule.services {
        RuleServices::Stated(Services::Only(ports)) => ports.iter().map(PortSpec::from).collect(),
        _ => Vec::new(),
    };
    CompiledRule {
        name: rule.name.clone(),
        direction,
        action: rule.action,
        reject: rule.reject,
        subjects,
        peers,
        all_services: rule.services == RuleServices::Stated(Services::All),
        services,
        virtual_service_ports: rule.services == RuleServices::VirtualServicePorts,
    }
}

/// The workloads of a side that rules can be programmed at, in a fixed order.
fn subjects(world: &World<'_>, actors: &[&ResolvedActor]) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    for actor in actors {
        match actor {
            ResolvedActor::Workloads(selector) => subjects.extend(workload_subjects(world, selector)),
            ResolvedActor::VirtualService(key) => {
                subjects.push(Subject { virtual_service: Some(key.to_string()), ..Subject::default() });
            }
            ResolvedActor::Addresses(_) => {}
        }
    }
    let order = |subject: &Subject| {
        let Subject { labels, virtual_service, workload, container_hosts } = subject.clone();
        (container_hosts, workload, virtual_service, labels)
    };
    subjects.sort_by_key(order);
    subjects.dedup();
    subjects
}

fn workload_subjects(world: &World<'_>, selector: &WorkloadSelector) -> Vec<Subject> {
    let node = |name: &String| Subject { workload: Some(name.clone()), ..Subject::default() };
    match &selector.kind {
        WorkloadKind::Any | WorkloadKind::Managed => {
            vec![Subject { labels: Some(LabelSelector::from(&selector.labels)), ..Subject::default() }]
        }
        WorkloadKind::ContainerHosts if selector.labels == Selector::everything() => {
            vec![Subject { container_hosts: true, ..Subject::default() }]
        }
        // A subject has no labels beside: the nodes that a scope leaves are named.
        WorkloadKind::ContainerHosts | WorkloadKind::Named(_) => {
            let nodes = world.workloads.nodes.iter();
            nodes
                .filter(|(_, facts)| facts.class.as_ref().is_some_and(|class| selector.matches(class)))
                .map(|(name, _)| node(name))
                .collect()
        }
    }
}

/// The other side, in a fixed order.
fn peers(actors: &[&ResolvedActor]) -> Vec<Peer> {
    let mut peers: Vec<Peer> = actors.iter().map(|actor| peer(actor)).collect();
    peers.sort_by_key(|peer| (peer.peer_group.clone(), peer.virtual_service.clone(), peer.addresses.clone()));
    peers.dedup();
    peers
}

fn peer(actor: &ResolvedActor) -> Peer {
    match actor {
        ResolvedActor::Workloads(selector) => {
            Peer { peer_group: Some(names::peer_group(&selector.to_string())), ..Peer::default() }
        }
        ResolvedActor::Addresses(set) => Peer { addresses: Some(prefixes(set)), ..Peer::default() },
        ResolvedActor::VirtualService(key) => Peer { virtual_service: Some(names::service_id(key)), ..Peer::default() },
    }
}

fn prefixes(set: &AddressSet) -> Vec<String> {
    set.nets().iter().map(ToString::to_string).collect()
}

fn peer_group(world: &World<'_>, selector: &WorkloadSelector) -> (String, PeerGroupSpec) {
    let text = selector.to_string();
    let classes = world.workloads.classes.keys().filter(|class| selector.matches(class));
    let mut classes: Vec<String> = classes.map(|class| class.id()).collect();
    classes.sort();
    let touched = world.virtual_services().filter(|(_, service)| selector.touches(service));
    let mut services: Vec<String> = touched.map(|(key, _): (&NamespacedName, _)| names::service_id(key)).collect();
    services.sort();
    let spec = PeerGroupSpec { selector: text.clone(), classes, services, ..PeerGroupSpec::default() };
    (names::peer_group(&text), spec)
}
