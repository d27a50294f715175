//! Rules, resolved: names replaced by what they stand for, scopes put into the selectors. Nothing that is empty, missing
//! or unknown widens a rule: it selects nothing, and a warning says so.

use std::collections::BTreeMap;

use ringfence_crds::RuleSetSpec;
use ringfence_crds::rule_set::Scope;
use ringfence_model::{Action, Selector};
use smol_str::{SmolStr, ToSmolStr};

use super::actors::{ActorReader, scope_selector};
use super::limits::{self, RULE_SET_ITEMS};
use super::rule::{Resolved, ResolvedActor, ResolvedRule};
use super::rule_services::read_services;
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
