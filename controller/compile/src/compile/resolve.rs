//! Rules, resolved: names replaced by what they stand for, scopes put into the selectors. Nothing that is empty, missing
//! or unknown widens a rule: it selects nothing, and a warning says so.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::rule_set::{PolicyRule, Scope, ServiceRef};
use ringfence_crds::{PortSpec, RuleSetSpec, ServiceDefinitionSpec};
use ringfence_model::{Action, PortMatch, Selector, Services};
use smol_str::{SmolStr, ToSmolStr};

use super::actors::{ActorReader, scope_selector};
use super::limits::{self, RULE_SET_ITEMS};
use super::rule::{Ref, Resolved, ResolvedActor, ResolvedRule, RuleServices};
use super::unprogrammed::without_effect;
use super::widest;
use super::world::Facts;
use crate::policy::Policy;

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
    let mut scopes: BTreeMap<SmolStr, Selector> = BTreeMap::new();
    for scope in &spec.scopes {
        if let Some(selector) = read_scope(scope, reader) {
            scopes.insert(selector.to_smolstr(), selector);
        }
    }
    let name = SmolStr::from(name);
    let mut rules = Vec::new();
    let mut over = false;
    for rule in spec.rules.iter().filter(|rule| rule.enabled) {
        reader.enter(&rule.name, rule.action);
        let Some(services) = read_services(rule, reader) else {
            continue;
        };
        let rule_name = SmolStr::from(&rule.name);
        for (text, scope) in &scopes {
            let consumers_scope = if rule.extra_scope { None } else { Some(scope) };
            // Counted term by term: what is too much is never made.
            let mut counted = |actor: ResolvedActor| {
                *items = items.saturating_add(actor.items());
                over |= *items > RULE_SET_ITEMS;
                (!over).then_some(actor)
            };
            let consumers = rule.consumers.iter().filter_map(|actor| reader.consumer(actor, consumers_scope));
            let consumers = exact(consumers.map_while(&mut counted));
            let providers = rule.providers.iter().filter_map(|actor| reader.provider(actor, scope));
            let providers = exact(providers.map_while(&mut counted));
            *items = items.saturating_add(1);
            if over {
                reader.leave();
                return None;
            }
            rules.push(ResolvedRule {
                rule_set: name.clone(),
                scope: text.clone(),
                name: rule_name.clone(),
                action: rule.action,
                reject: rule.reject && rule.action != Action::Allow,
                consumers,
                providers,
                services: services.clone(),
            });
        }
        reader.leave();
    }
    Some(exact(rules))
}

/// A list without room for more: there are very many of them.
fn exact<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.shrink_to_fit();
    items
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
            Ok(port) => {
                if let Some(reason) = without_effect(&port) {
                    reader.warn(&format!("a service selects nothing: {reason}"));
                }
                matches.push(port);
            }
            Err(error) => reader.warn(&format!("a service selects nothing: {error}")),
        }
    }
    matches
}
