//! What a RuleSet that comes to too much still does: it opens nothing, and blocks whatever it may mean.
//!
//! Leaving its Deny and OverrideDeny rules out would let more through than it says; which of them concern whom is what would
//! be too much to find out.

use std::sync::Arc;

use ringfence_crds::RuleSetSpec;
use ringfence_crds::rule_set::Actor;
use ringfence_model::address::{all_ipv4, all_ipv6};
use ringfence_model::{Action, AddressSet, Selector, Services};
use smol_str::{SmolStr, ToSmolStr};

use super::actors::ActorReader;
use super::rule::{ResolvedActor, ResolvedRule, RuleServices};
use super::rule_services::read_services;
use super::selector::{WorkloadKind, WorkloadSelector};

/// The rules that block, each once, everywhere and between everybody, on their ports.
pub fn resolve(name: &str, spec: &RuleSetSpec, reader: &mut ActorReader<'_>) -> Vec<ResolvedRule> {
    let blocking = spec.rules.iter().filter(|rule| rule.enabled && rule.action != Action::Allow);
    let rules = blocking.filter_map(|rule| {
        reader.enter(&rule.name, rule.action);
        let services = match read_services(rule, reader)? {
            // Which ports these are is known of the Services that are named only.
            RuleServices::VirtualServicePorts => RuleServices::Stated(Services::All),
            stated => stated,
        };
        Some(ResolvedRule {
            rule_set: name.into(),
            scope: Selector::everything().to_smolstr(),
            name: SmolStr::from(&rule.name),
            action: rule.action,
            reject: rule.reject,
            consumers: everybody(&rule.consumers),
            providers: everybody(&rule.providers),
            services,
        })
    });
    rules.collect()
}

/// Whoever terms may mean: addresses if there are lists among them, workloads if there is anything else.
fn everybody(terms: &[Actor]) -> Vec<ResolvedActor> {
    let lists = terms.iter().any(|term| term.ip_list.is_some());
    let workloads = terms.iter().any(|term| term.ip_list.is_none());
    let every = WorkloadSelector { kind: WorkloadKind::Any, labels: Selector::everything() };
    let workloads = workloads.then_some(ResolvedActor::Workloads(Arc::new(every.into())));
    let all = || Arc::new(AddressSet::from_nets([all_ipv4(), all_ipv6()]));
    workloads.into_iter().chain(lists.then(|| ResolvedActor::Addresses(all()))).collect()
}
