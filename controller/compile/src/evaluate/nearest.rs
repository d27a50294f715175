//! Where nothing hits: the Allow that came nearest.
//!
//! It is the one that misses in the fewest respects; of equally near ones the first by what they miss, in the order of
//! [`Respect`], then by RuleSet, rule and scope. Rules that are switched off count as well: that is what they miss. One
//! that names neither end, on whatever port, is not near.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::RuleSetSpec;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::rule_set::{PolicyRule, Scope};
use ringfence_model::{Action, Selector};
use smallvec::SmallVec;

use super::answer::NearMiss;
use super::ends::{End, Target};
use super::hits::Meets;
use super::{Evaluator, Port};
use crate::compile::actors::scope_selector;
use crate::compile::class::Class;
use crate::compile::resolve::resolve;
use crate::compile::rule::ResolvedRule;
use crate::compile::service_facts::{Front, ServiceFacts};
use crate::compile::world::World;

/// Which end of a connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Consumer,
    Provider,
}

/// An end of a connection, as far as rules tell it from others.
#[derive(Debug, Clone, Copy)]
pub struct Party<'e> {
    /// Its class, by which rules know it.
    pub class: Option<&'e Class>,
    /// Whether it has a class by which nobody else knows it: its address is not told.
    pub untold: bool,
    /// The Pod that it is.
    pub pod: Option<&'e NamespacedName>,
    /// Its addresses.
    pub addresses: &'e BTreeSet<IpAddr>,
}

impl<'e> Party<'e> {
    /// The end that is judged.
    pub fn own(end: &'e End<'_>) -> Self {
        Self { class: end.class.as_deref(), untold: false, ..Self::peer(end) }
    }

    /// Who connects, as the other end sees it.
    pub fn peer(end: &'e End<'_>) -> Self {
        Self {
            class: end.peer_class(),
            untold: end.class.is_some() && !end.peer,
            pod: end.pod.map(|(key, _)| key),
            addresses: &end.addresses,
        }
    }

    /// What a consumer connects to.
    pub fn target(target: &Target<'e>) -> Self {
        Self { class: target.class, untold: false, pod: target.pod, addresses: target.addresses }
    }
}

/// A question about one end.
#[derive(Clone, Copy)]
pub struct Asked<'e> {
    /// Which end is judged.
    pub role: Role,
    /// That end.
    pub own: Party<'e>,
    /// The other one.
    pub peer: Party<'e>,
    /// The port, as this end sees it.
    pub port: Port,
    /// The front end of a Service that the consumer connects to.
    pub front: Option<(&'e NamespacedName, &'e ServiceFacts, &'e Front)>,
}

/// What a rule misses. The order is that of nearness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Respect {
    /// The rule or its RuleSet is switched off.
    Enabled,
    /// The port is another one.
    Services,
    /// The end that is judged lies outside of the scope.
    OwnScope,
    /// The other end lies outside of the scope.
    PeerScope,
    /// The other end is somebody else.
    Peer,
    /// The end that is judged is somebody else.
    Own,
}

/// An Allow in one scope of its RuleSet.
pub struct Candidate<'a> {
    /// Its RuleSet.
    pub rule_set: &'a RuleSetSpec,
    /// As written.
    pub written: &'a PolicyRule,
    /// The scope.
    pub scope: Selector,
    /// Whether its services select anything.
    pub has_services: bool,
    /// As if it were switched on.
    scoped: ResolvedRule,
    /// As if it were switched on and held everywhere.
    anywhere: Arc<ResolvedRule>,
}

/// Every Allow, switched on or not, by RuleSet, name and scope.
pub fn candidates(world: World<'_>) -> Vec<Candidate<'_>> {
    let mut found = Vec::new();
    for (name, rule_set) in &world.policy.rule_sets {
        let mut allows: Vec<&PolicyRule> = rule_set.rules.iter().filter(|rule| rule.action == Action::Allow).collect();
        allows.sort_by(|a, b| a.name.cmp(&b.name));
        for written in allows {
            found.extend(of_rule(world, name, rule_set, written));
        }
    }
    found
}

fn of_rule<'a>(
    world: World<'a>,
    name: &str,
    rule_set: &'a RuleSetSpec,
    written: &'a PolicyRule,
) -> impl Iterator<Item = Candidate<'a>> {
    let (anywhere, has_services) = resolved(world, name, &[Scope::default()], written);
    let anywhere = anywhere.into_iter().next().map(Arc::new);
    let (scoped, _) = resolved(world, name, &rule_set.scopes, written);
    let scopes: Vec<Selector> = rule_set.scopes.iter().filter_map(|scope| scope_selector(&scope.labels)).collect();
    scoped.into_iter().filter_map(move |scoped| {
        let scope = scopes.iter().find(|scope| scope.to_string() == scoped.scope.as_str())?.clone();
        Some(Candidate { rule_set, written, scope, has_services, scoped, anywhere: Arc::clone(anywhere.as_ref()?) })
    })
}

/// A rule as if it were switched on, by scope, and whether its services select anything. If not, it stands there with
/// every service, so that its ends can be compared.
fn resolved(world: World<'_>, name: &str, scopes: &[Scope], written: &PolicyRule) -> (Vec<ResolvedRule>, bool) {
    let with = |rule: PolicyRule| {
        let rule_set = RuleSetSpec { enabled: true, scopes: scopes.to_vec(), rules: vec![rule] };
        resolve(name, &rule_set, world.policy, world.facts).rules
    };
    let on = PolicyRule { enabled: true, ..written.clone() };
    let rules = with(on.clone());
    if !rules.is_empty() {
        return (rules, true);
    }
    (with(PolicyRule { services: Vec::new(), all_services: true, use_virtual_service_ports: false, ..on }), false)
}

impl Candidate<'_> {
    /// The name of its RuleSet and the rest of what tells where it is written.
    pub fn rule(&self) -> &ResolvedRule {
        &self.scoped
    }

    /// What it misses, in order; nothing if it hits.
    fn missed(&self, asked: &Asked<'_>, meets: &impl Fn(&ResolvedRule) -> Meets) -> SmallVec<[Respect; 6]> {
        let (scoped, anywhere) = (meets(&self.scoped), meets(&self.anywhere));
        let at_provider = |meets: Meets| match asked.role {
            Role::Consumer => meets.peer,
            Role::Provider => meets.subject,
        };
        let served = match (at_provider(scoped), at_provider(anywhere)) {
            (true, _) => scoped.served,
            (false, true) => anywhere.served,
            (false, false) => serves(&self.anywhere, asked),
        };
        let missed = [
            (Respect::Enabled, !self.rule_set.enabled || !self.written.enabled),
            (Respect::Services, !served || !self.has_services),
            (Respect::OwnScope, anywhere.subject && !scoped.subject),
            (Respect::PeerScope, anywhere.peer && !scoped.peer),
            (Respect::Peer, !anywhere.peer),
            (Respect::Own, !anywhere.subject),
        ];
        missed.into_iter().filter_map(|(respect, missed)| missed.then_some(respect)).collect()
    }
}

/// Whether a rule that names another provider names the port.
fn serves(rule: &ResolvedRule, asked: &Asked<'_>) -> bool {
    let Some(stated) = rule.services.stated() else {
        // The ports of a virtual service that this is not: there is nothing to compare.
        return true;
    };
    match asked.front {
        Some((_, _, front)) => front.targets.iter().any(|target| stated.contains(front.protocol, *target)),
        None => asked.port.is_among(stated),
    }
}

/// In how many respects a rule misses. One scope is one, whoever lies outside of it.
fn distance(missed: &[Respect]) -> usize {
    let both = missed.contains(&Respect::OwnScope) && missed.contains(&Respect::PeerScope);
    missed.len() - usize::from(both)
}

impl Evaluator<'_> {
    /// The nearest Allow, where it was asked for.
    pub(super) fn nearest(&self, asked: &Asked<'_>, meets: &impl Fn(&ResolvedRule) -> Meets) -> Option<NearMiss> {
        let missed = self.candidates.iter().map(|candidate| (candidate.missed(asked, meets), candidate));
        let near = missed.filter(|(missed, _)| !(missed.contains(&Respect::Peer) && missed.contains(&Respect::Own)));
        // Of equal ones the first counts, and they are in order.
        let (missed, candidate) = near.min_by(|(a, _), (b, _)| (distance(a), a).cmp(&(distance(b), b)))?;
        let word = match (missed.first()?, asked.role) {
            (Respect::Enabled, _) => "enabled",
            (Respect::Services, _) => "services",
            (Respect::OwnScope | Respect::PeerScope, _) => "scopes",
            (Respect::Peer, Role::Provider) | (Respect::Own, Role::Consumer) => "consumers",
            (Respect::Peer, Role::Consumer) | (Respect::Own, Role::Provider) => "providers",
        };
        Some(NearMiss {
            rule: self.reference(candidate.rule()),
            missed: word.to_owned(),
            why: missed.iter().map(|respect| self.why(candidate, *respect, asked)).collect(),
        })
    }
}
