//! Rules, resolved: names replaced by what they stand for, scopes put into the selectors. Nothing that is empty, missing
//! or unknown widens a rule: it selects nothing, and a warning says so.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::rule_set::{PolicyRule, Scope, ServiceRef};
use ringfence_crds::{PortSpec, RuleSetSpec, ServiceDefinitionSpec};
use ringfence_model::{Action, PortMatch, Selector, Services};
use smol_str::{SmolStr, ToSmolStr};

use super::actors::{ActorReader, scope_selector};
use super::rule::{Ref, Resolved, ResolvedRule, RuleServices};
use super::unprogrammed::without_effect;
use super::world::Facts;
use crate::policy::Policy;

/// Resolves the rules of a RuleSet.
pub fn resolve(name: &str, spec: &RuleSetSpec, policy: &Policy, facts: &Facts) -> Resolved {
    if !spec.enabled {
        return Resolved::default();
    }
    let mut reader = ActorReader::new(policy, facts);
    let mut rules = resolve_rules(name, spec, &mut reader);
    rules.sort_by(|a, b| (&a.scope, &a.name).cmp(&(&b.scope, &b.name)));
    reader.warnings.sort_unstable();
    reader.warnings.dedup();
    Resolved { rules, warnings: reader.warnings, refs: reader.refs }
}

fn resolve_rules(name: &str, spec: &RuleSetSpec, reader: &mut ActorReader<'_>) -> Vec<ResolvedRule> {
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
    for rule in spec.rules.iter().filter(|rule| rule.enabled) {
        reader.enter(&rule.name);
        let Some(services) = read_services(rule, reader) else {
            continue;
        };
        let rule_name = SmolStr::from(&rule.name);
        for (text, scope) in &scopes {
            let consumers_scope = if rule.extra_scope { None } else { Some(scope) };
            rules.push(ResolvedRule {
                rule_set: name.clone(),
                scope: text.clone(),
                name: rule_name.clone(),
                action: rule.action,
                reject: rule.reject && rule.action != Action::Allow,
                consumers: exact(rule.consumers.iter().filter_map(|actor| reader.consumer(actor, consumers_scope))),
                providers: exact(rule.providers.iter().filter_map(|actor| reader.provider(actor, scope))),
                services: services.clone(),
            });
        }
        reader.leave();
    }
    exact(rules)
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
fn read_services(rule: &PolicyRule, reader: &mut ActorReader<'_>) -> Option<RuleServices> {
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
