//! Rules, resolved: names replaced by what they stand for, scopes put into the selectors.
//!
//! This is the one form that emission and the evaluator read, so that they cannot differ. Nothing that is empty,
//! missing or unknown widens it: it selects nothing, and a warning says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;
use ringfence_crds::rule_set::{PolicyRule, Scope, ServiceRef};
use ringfence_crds::{PortSpec, RuleSetSpec, ServiceDefinitionSpec};
use ringfence_model::{Action, AddressSet, PortMatch, Selector, Services};

use super::actors::{ActorReader, scope_selector};
use super::classes::{Class, ClassOrigin};
use super::limits::{self, RULE_SET_ITEMS};
use super::services::ServiceFacts;
use super::widest;
use super::world::Facts;
use crate::policy::Policy;

/// A rule of one RuleSet in one scope.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedRule {
    /// Name of the RuleSet.
    pub rule_set: String,
    /// The scope as one line.
    pub scope: String,
    /// Name of the rule.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Reject instead of drop.
    pub reject: bool,
    /// Who connects.
    pub consumers: Vec<ResolvedActor>,
    /// Who listens.
    pub providers: Vec<ResolvedActor>,
    /// On what.
    pub services: RuleServices,
}

/// The services of a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleServices {
    /// As the rule states them.
    Stated(Services),
    /// The ports of the virtual services that are its providers.
    VirtualServicePorts,
}

impl RuleServices {
    /// The ports of workloads and addresses that the rule covers.
    pub fn stated(&self) -> Option<&Services> {
        match self {
            Self::Stated(services) => Some(services),
            Self::VirtualServicePorts => None,
        }
    }
}

/// One term of consumers or providers.
#[derive(Debug, Clone, PartialEq)]
pub enum ResolvedActor {
    /// Workloads.
    Workloads(WorkloadSelector),
    /// The addresses of an IP list, its exclusions taken out.
    Addresses(Arc<AddressSet>),
    /// A Service of a managed namespace.
    VirtualService(NamespacedName),
}

impl ResolvedActor {
    /// What it comes to, counted as [`RULE_SET_ITEMS`] is.
    fn items(&self) -> usize {
        match self {
            Self::Workloads(selector) => {
                1 + selector.labels.constraints().map(|(_, asked)| asked.values().len()).sum::<usize>()
            }
            Self::Addresses(set) => 1 + set.nets().len(),
            Self::VirtualService(_) => 1,
        }
    }
}

/// Selects label classes. Its text names the PeerGroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadSelector {
    /// Which kinds of workload.
    pub kind: WorkloadKind,
    /// Which labels.
    pub labels: Selector,
}

/// Which kinds of workload a selector is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// Pods, nodes and unmanaged machines.
    Any,
    /// Pods and nodes.
    Managed,
    /// Nodes.
    ContainerHosts,
    /// A node or unmanaged machine by name.
    Named(String),
}

impl WorkloadSelector {
    /// Whether a class is selected.
    pub fn matches(&self, class: &Class) -> bool {
        let kind = match (&self.kind, &class.origin) {
            (WorkloadKind::Any, _) => true,
            (WorkloadKind::Managed, origin) => !matches!(origin, ClassOrigin::Unmanaged(_)),
            (WorkloadKind::ContainerHosts, origin) => matches!(origin, ClassOrigin::Node(_)),
            (WorkloadKind::Named(name), ClassOrigin::Node(own) | ClassOrigin::Unmanaged(own)) => name == own,
            (WorkloadKind::Named(_), ClassOrigin::Pods) => false,
        };
        kind && self.labels.matches(&class.labels)
    }

    /// Whether the back ends of a Service count as selected, so that its front ends may be opened: one class is
    /// enough, because what is opened is judged at the provider once more.
    pub fn touches(&self, service: &ServiceFacts) -> bool {
        service.classes.iter().any(|class| self.matches(class))
    }

    /// Whether nothing else is behind a Service, so that its front ends may be closed.
    pub fn covers(&self, service: &ServiceFacts) -> bool {
        !service.classes.is_empty() && service.classes.iter().all(|class| self.matches(class))
    }
}

impl fmt::Display for WorkloadSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            WorkloadKind::Any => return self.labels.fmt(f),
            WorkloadKind::Managed => f.write_str("managed workloads")?,
            WorkloadKind::ContainerHosts => f.write_str("container hosts")?,
            WorkloadKind::Named(name) => write!(f, "workload {name}")?,
        }
        if self.labels != Selector::everything() {
            write!(f, " with {}", self.labels)?;
        }
        Ok(())
    }
}

/// What the rules of a RuleSet refer to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ref {
    /// An IPList.
    IpList(String),
    /// A LabelGroup.
    LabelGroup(String),
    /// A ServiceDefinition.
    ServiceDefinition(String),
    /// A VirtualService: whether it is there, and its labels.
    VirtualService(NamespacedName),
    /// A Workload: whether it is there, and its labels.
    Workload(String),
    /// Which nodes there are, and their labels.
    Nodes,
}

/// The rules of a RuleSet that are switched on.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// The rules, by scope and name.
    pub rules: Vec<ResolvedRule>,
    /// What selects nothing and why.
    pub warnings: Vec<String>,
    /// Those of the warnings about what is over a limit.
    pub over: BTreeSet<String>,
    /// What they come to, counted as [`RULE_SET_ITEMS`] is.
    pub items: usize,
    /// What they refer to, found or not.
    pub refs: BTreeSet<Ref>,
}

/// Resolves the rules of a RuleSet.
pub fn resolve(name: &str, spec: &RuleSetSpec, policy: &Policy, facts: &Facts) -> Resolved {
    if !spec.enabled {
        return Resolved::default();
    }
    let mut reader = ActorReader::new(policy, facts);
    let mut items = 0;
    let mut rules = resolve_rules(name, spec, &mut reader, &mut items).unwrap_or_else(|| {
        reader.warn_over(&format!(
            "it comes to more than {RULE_SET_ITEMS} rules, terms, label values and prefixes over all of its scopes: what it \
             allows is not opened, and what it denies is blocked for everybody; split it, or shorten its lists"
        ));
        widest::resolve(name, spec, &mut reader)
    });
    rules.sort_by(|a, b| (&a.scope, &a.name).cmp(&(&b.scope, &b.name)));
    let warnings = limits::shown(reader.warnings.into_iter().collect());
    Resolved { rules, warnings, over: reader.over, items, refs: reader.refs }
}

/// The rules in every scope; nothing if they come to too much.
fn resolve_rules(
    name: &str,
    spec: &RuleSetSpec,
    reader: &mut ActorReader<'_>,
    items: &mut usize,
) -> Option<Vec<ResolvedRule>> {
    if spec.scopes.is_empty() {
        reader.warn("scopes is empty: the RuleSet selects nothing");
    }
    let mut scopes: BTreeMap<String, Selector> = BTreeMap::new();
    for scope in &spec.scopes {
        if let Some(selector) = read_scope(scope, reader) {
            scopes.insert(selector.to_string(), selector);
        }
    }
    let mut rules = Vec::new();
    let mut over = false;
    for rule in spec.rules.iter().filter(|rule| rule.enabled) {
        reader.enter(&rule.name, rule.action);
        let Some(services) = read_services(rule, reader) else {
            continue;
        };
        for (text, scope) in &scopes {
            let consumers_scope = if rule.extra_scope { None } else { Some(scope) };
            // Counted term by term: what is too much is never made.
            let mut counted = |actor: ResolvedActor| {
                *items = items.saturating_add(actor.items());
                over |= *items > RULE_SET_ITEMS;
                (!over).then_some(actor)
            };
            let consumers = rule.consumers.iter().filter_map(|actor| reader.consumer(actor, consumers_scope));
            let consumers: Vec<_> = consumers.map_while(&mut counted).collect();
            let providers = rule.providers.iter().filter_map(|actor| reader.provider(actor, scope));
            let providers: Vec<_> = providers.map_while(&mut counted).collect();
            *items = items.saturating_add(1);
            if over {
                reader.leave();
                return None;
            }
            rules.push(ResolvedRule {
                rule_set: name.to_owned(),
                scope: text.clone(),
                name: rule.name.clone(),
                action: rule.action,
                reject: rule.reject && rule.action != Action::Allow,
                consumers,
                providers,
                services: services.clone(),
            });
        }
        reader.leave();
    }
    Some(rules)
}

/// A scope that can hold anything.
fn read_scope(scope: &Scope, reader: &mut ActorReader<'_>) -> Option<Selector> {
    let selector = scope_selector(&scope.labels).filter(|selector| !selector.is_nothing());
    if selector.is_none() {
        let dimensions = scope.labels.keys().cloned().collect::<Vec<_>>().join(", ");
        reader.warn(&format!("the scope over {dimensions} selects nothing: a dimension or its values are not valid"));
    }
    selector
}

/// The services of a rule; nothing when it has none.
pub(super) fn read_services(rule: &PolicyRule, reader: &mut ActorReader<'_>) -> Option<RuleServices> {
    if rule.use_virtual_service_ports {
        return Some(RuleServices::VirtualServicePorts);
    }
    if rule.all_services {
        return Some(RuleServices::Stated(Services::All));
    }
    let ports: BTreeSet<PortMatch> = rule.services.iter().flat_map(|service| read_service(service, reader)).collect();
    if ports.is_empty() {
        reader.warn("it names no port and so selects nothing");
        return None;
    }
    Some(RuleServices::Stated(Services::Only(ports)))
}

fn definition<'a>(name: &str, reader: &mut ActorReader<'a>) -> Option<&'a ServiceDefinitionSpec> {
    reader.refs.insert(Ref::ServiceDefinition(name.to_owned()));
    reader.policy.service_definitions.get(name)
}

fn read_service(service: &ServiceRef, reader: &mut ActorReader<'_>) -> Vec<PortMatch> {
    let ports = match (&service.name, &service.protocol) {
        (Some(name), _) => match definition(name, reader) {
            Some(definition) if definition.ports.is_empty() => {
                reader.warn(&format!("ServiceDefinition {name} is empty and selects nothing"));
                return Vec::new();
            }
            Some(definition) => definition.ports.clone(),
            None => {
                reader.warn(&format!("there is no ServiceDefinition {name}: it selects nothing"));
                return Vec::new();
            }
        },
        (None, Some(protocol)) => vec![PortSpec {
            protocol: protocol.clone(),
            port: service.port,
            end_port: service.end_port,
            icmp_type: service.icmp_type,
            icmp_code: service.icmp_code,
        }],
        (None, None) => {
            reader.warn("a service without name and protocol selects nothing");
            return Vec::new();
        }
    };
    let mut matches = Vec::new();
    for port in &ports {
        match PortMatch::try_from(port) {
            Ok(port) => matches.push(port),
            Err(error) => reader.warn(&format!("a service selects nothing: {error}")),
        }
    }
    matches
}
