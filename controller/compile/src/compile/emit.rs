//! Resolved rules and facts, written as computed objects.

use std::sync::Arc;

use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Peer, PeerNames, Subject};
use ringfence_crds::{PortSpec, WorkloadPolicySpec};
use ringfence_model::{AddressSet, Direction, Selector, Services};
use rustc_hash::FxHashSet;

use super::names;
use super::rule::{ResolvedActor, ResolvedRule, RuleServices};
use super::selector::{PeerSelector, WorkloadKind, WorkloadSelector};
use super::world::Facts;

/// What one RuleSet becomes.
#[derive(Debug, Default)]
pub struct Emitted {
    /// WorkloadPolicies.
    pub workload_policies: Vec<(String, WorkloadPolicySpec)>,
    /// Their names.
    pub names: Vec<String>,
    /// The peer selectors that they refer to.
    pub selectors: Vec<Arc<PeerSelector>>,
}

/// Writes the rules of a RuleSet, which are sorted by scope. `commit`: that the RuleSet came from.
pub fn emit(rule_set: &str, rules: &[ResolvedRule], facts: &Facts, commit: Option<&String>) -> Emitted {
    let of_scopes = rules.chunk_by(|a, b| a.scope == b.scope);
    let count = of_scopes.clone().count();
    let mut emitted = Emitted {
        workload_policies: Vec::with_capacity(count),
        names: Vec::with_capacity(count),
        selectors: Vec::new(),
    };
    let mut selectors = FxHashSet::default();
    for of_scope in of_scopes {
        let mut compiled = Vec::with_capacity(2 * of_scope.len());
        of_scope.iter().for_each(|rule| compile_rule(facts, rule, &mut selectors, &mut compiled));
        let (false, Some(first)) = (compiled.is_empty(), of_scope.first()) else { continue };
        let name = names::workload_policy(rule_set, &first.scope);
        // Names hold a short hash of the scope: two that have the same share an object rather than lose rules.
        if let Some((_, policy)) = emitted.workload_policies.iter_mut().find(|(own, _)| *own == name) {
            policy.rules.extend(compiled);
            continue;
        }
        emitted.names.push(name.clone());
        let policy = WorkloadPolicySpec {
            commit: commit.cloned(),
            rule_set: rule_set.to_owned(),
            scope: first.scope.to_string(),
            rules: compiled,
            ..WorkloadPolicySpec::default()
        };
        emitted.workload_policies.push((name, policy));
    }
    emitted.selectors = selectors.into_iter().cloned().collect();
    emitted.selectors.sort_unstable_by(|a, b| a.text.cmp(&b.text));
    emitted
}

/// A rule at its providers and at its consumers; neither where nobody is, or where nobody is on the other side.
fn compile_rule<'r>(
    facts: &Facts,
    rule: &'r ResolvedRule,
    selectors: &mut FxHashSet<&'r Arc<PeerSelector>>,
    compiled: &mut Vec<CompiledRule>,
) {
    // A provider by label has no ports of its own that a rule could use.
    let ported =
        |actor: &&ResolvedActor| rule.services.stated().is_some() || matches!(actor, ResolvedActor::VirtualService(_));
    let providers: Vec<&ResolvedActor> = rule.providers.iter().filter(ported).collect();
    let consumers: Vec<&ResolvedActor> = rule.consumers.iter().collect();
    let sides = [(Direction::Inbound, &providers, &consumers), (Direction::Outbound, &consumers, &providers)];
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
}

fn written(rule: &ResolvedRule, direction: Direction, subjects: Vec<Subject>, peers: Vec<Peer>) -> CompiledRule {
    let services = match &rule.services {
        RuleServices::Stated(Services::Only(ports)) => ports.iter().map(PortSpec::from).collect(),
        _ => Vec::new(),
    };
    CompiledRule {
        name: rule.name.to_string(),
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
    let mut subjects: Vec<Subject> = Vec::with_capacity(actors.len());
    for actor in actors {
        match actor {
            ResolvedActor::Workloads(selector) => subjects.extend(workload_subjects(facts, selector)),
            ResolvedActor::VirtualService(key) => {
                subjects.push(Subject { virtual_service: Some(key.to_string()), ..Subject::default() });
            }
            ResolvedActor::Addresses(_) | ResolvedActor::Names(_) => {}
        }
    }
    fn order(subject: &Subject) -> impl Ord + '_ {
        let Subject { labels, virtual_service, workload, container_hosts } = subject;
        (container_hosts, workload, virtual_service, labels)
    }
    subjects.sort_by(|a, b| order(a).cmp(&order(b)));
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
    fn order(peer: &Peer) -> impl Ord + '_ {
        let names = peer.names.as_ref().map(|names| (&names.fqdns, &names.except));
        (&peer.peer_group, &peer.virtual_service, &peer.addresses, names)
    }
    peers.sort_by(|a, b| order(a).cmp(&order(b)));
    peers.dedup();
    peers
}

fn peer(actor: &ResolvedActor) -> Peer {
    match actor {
        ResolvedActor::Workloads(selector) => Peer { peer_group: Some(selector.name.clone()), ..Peer::default() },
        ResolvedActor::Addresses(set) => Peer { addresses: Some(prefixes(set)), ..Peer::default() },
        ResolvedActor::Names(list) => {
            let fqdns = list.names.iter().map(ToString::to_string).collect();
            let names = Some(PeerNames { fqdns, except: prefixes(&list.except) });
            let addresses = (!list.addresses.is_empty()).then(|| prefixes(&list.addresses));
            Peer { addresses, names, ..Peer::default() }
        }
        ResolvedActor::VirtualService(key) => Peer { virtual_service: Some(names::service_id(key)), ..Peer::default() },
    }
}

fn prefixes(set: &AddressSet) -> Vec<String> {
    set.nets().iter().map(ToString::to_string).collect()
}
