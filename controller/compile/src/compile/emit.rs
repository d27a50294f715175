//! Resolved rules and facts, written as computed objects.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Peer, Subject};
use ringfence_crds::{PortSpec, WorkloadPolicySpec};
use ringfence_model::{AddressSet, Direction, Selector, Services};

use super::names;
use super::resolve::{ResolvedActor, ResolvedRule, RuleServices, WorkloadKind, WorkloadSelector};
use super::world::Facts;

/// What one RuleSet becomes.
#[derive(Debug, Default)]
pub struct Emitted<'r> {
    /// WorkloadPolicies, by name.
    pub workload_policies: BTreeMap<String, WorkloadPolicySpec>,
    /// The peer selectors that they refer to.
    pub selectors: BTreeSet<&'r WorkloadSelector>,
}

/// Writes the rules of a RuleSet. `commit`: that the RuleSet came from.
pub fn emit<'r>(rule_set: &str, rules: &'r [ResolvedRule], facts: &Facts, commit: Option<&String>) -> Emitted<'r> {
    let mut emitted = Emitted::default();
    // Rules are sorted by scope.
    for of_scope in rules.chunk_by(|a, b| a.scope == b.scope) {
        let compiled: Vec<CompiledRule> =
            of_scope.iter().flat_map(|rule| compile_rule(facts, rule, &mut emitted.selectors)).collect();
        let (false, Some(first)) = (compiled.is_empty(), of_scope.first()) else { continue };
        let name = names::workload_policy(rule_set, &first.scope);
        let policy = emitted.workload_policies.entry(name).or_insert_with(|| WorkloadPolicySpec {
            commit: commit.cloned(),
            rule_set: rule_set.to_owned(),
            scope: first.scope.clone(),
            ..WorkloadPolicySpec::default()
        });
        // Names hold a short hash of the scope: two that have the same share an object rather than lose rules.
        policy.rules.extend(compiled);
    }
    emitted
}

/// A rule at its providers and at its consumers; neither where nobody is, or where nobody is on the other side.
fn compile_rule<'r>(
    facts: &Facts,
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
        let subjects = subjects(facts, here);
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
fn subjects(facts: &Facts, actors: &[&ResolvedActor]) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    for actor in actors {
        match actor {
            ResolvedActor::Workloads(selector) => subjects.extend(workload_subjects(facts, selector)),
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

fn workload_subjects(facts: &Facts, selector: &WorkloadSelector) -> Vec<Subject> {
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
            let nodes = facts.nodes.iter();
            nodes
                .filter(|(_, node)| node.workload.as_ref().is_some_and(|workload| selector.matches(&workload.class)))
                .map(|(name, _)| node(name))
                .collect()
        }
    }
}

/// The other side, in a fixed order.
fn peers(actors: &[&ResolvedActor]) -> Vec<Peer> {
    let mut peers: Vec<Peer> = actors.iter().map(|actor| peer(actor)).collect();
    peers.sort_by_cached_key(|peer| (peer.peer_group.clone(), peer.virtual_service.clone(), peer.addresses.clone()));
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
