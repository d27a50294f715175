//! Whether a rule hits a connection, at the consumer and at the provider.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_crds::common::NamespacedName;

use ringfence_model::{Action, Protocol, Services};

use super::ends::{End, Target};
use super::{Evaluator, Port};
use crate::cluster::{PodInfo, TargetPortInfo};
use crate::compile::class::Class;
use crate::compile::rule::{ResolvedActor, ResolvedRule, RuleServices};
use crate::compile::selector::WorkloadSelector;
use crate::compile::service_facts::{Front, ServiceFacts};

/// What of a rule a connection meets at one end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meets {
    /// The end is one that the rule is programmed at.
    pub subject: bool,
    /// The other end is one that the rule names, on whatever port.
    pub peer: bool,
    /// The port is one that the rule opens at the provider that it names.
    pub served: bool,
    /// It hits: other end and port together.
    pub hit: bool,
}

impl Evaluator<'_> {
    /// What of a rule an outbound connection meets at a consumer of this class.
    pub(super) fn meets_out(&self, rule: &ResolvedRule, class: &Class, target: &Target<'_>) -> Meets {
        let subject = rule.consumers.iter().any(|actor| selects(actor, class));
        let stated = rule.services.stated();
        let mut meets = Meets { subject, ..Meets::default() };
        for provider in &rule.providers {
            let (peer, hit) = match provider {
                ResolvedActor::Workloads(selector) => workload_target(rule, selector, target),
                // What a name leads to is not known here, and opens nothing.
                ResolvedActor::Addresses(_) | ResolvedActor::Names(_) => {
                    let set = provider.addresses();
                    let peer = target.addresses.iter().any(|address| set.is_some_and(|set| set.contains(*address)));
                    (peer, peer && contains(stated, target.port))
                }
                ResolvedActor::VirtualService(key) => self.service_target(rule, key, target),
            };
            meets.peer |= peer;
            meets.served |= hit;
            meets.hit |= subject && hit;
        }
        meets
    }

    /// A virtual service as the provider: exactly its front ends and back ends.
    fn service_target(&self, rule: &ResolvedRule, key: &NamespacedName, target: &Target<'_>) -> (bool, bool) {
        let Some(service) = self.world.virtual_service(key) else {
            return (false, false);
        };
        let mut peer = false;
        let mut hit = false;
        if let Some((_, _, front)) = target.front.filter(|(own, ..)| *own == key) {
            peer = true;
            hit = front.open && hits_front(rule.action, front, |port| covers(&rule.services, front.protocol, port));
        }
        for end in service.behind.accepted.iter().filter(|end| target.addresses.contains(&end.address)) {
            peer = true;
            let exact = end.protocol == target.port.protocol && end.port == target.port.number;
            hit |= exact && covers(&rule.services, end.protocol, end.port);
        }
        (peer, hit)
    }

    /// What of a rule an inbound connection meets at a provider.
    pub(super) fn meets_in(&self, rule: &ResolvedRule, end: &End<'_>, source: &End<'_>, port: Port) -> Meets {
        let peer = rule.consumers.iter().any(|actor| match actor {
            ResolvedActor::Addresses(set) => {
                let everybody = source.somewhere.is_some_and(|all| set.nets().contains(&all));
                everybody || source.addresses.iter().any(|address| set.contains(*address))
            }
            ResolvedActor::Workloads(selector) => {
                source.peer_class().is_some_and(|class| selector.matches(class))
                    || may_be_hit(rule.action, &source.addresses)
            }
            // A name is nobody who connects, nor is a virtual service.
            ResolvedActor::Names(_) | ResolvedActor::VirtualService(_) => false,
        });
        let mut meets = Meets { peer, ..Meets::default() };
        for provider in &rule.providers {
            let (subject, served) = match provider {
                ResolvedActor::VirtualService(key) => self.behind(rule, key, end, port),
                actor => {
                    let subject = end.class.as_deref().is_some_and(|class| selects(actor, class));
                    (subject, contains(rule.services.stated(), port))
                }
            };
            meets.subject |= subject;
            meets.served |= subject && served;
            meets.hit |= subject && served && peer;
        }
        meets
    }

    /// Whether a Pod is behind a virtual service, and whether the port is one that the rule opens on it.
    fn behind(&self, rule: &ResolvedRule, key: &NamespacedName, end: &End<'_>, port: Port) -> (bool, bool) {
        let (Some(service), Some((own, pod))) = (self.world.virtual_service(key), end.pod) else {
            return (false, false);
        };
        if own.namespace != key.namespace || !service.has_pod(&own.name, &pod.labels) {
            return (false, false);
        }
        let target = is_target(service, pod, port);
        (true, target && covers(&rule.services, port.protocol, port.number))
    }
}

fn selects(actor: &ResolvedActor, class: &Class) -> bool {
    matches!(actor, ResolvedActor::Workloads(selector) if selector.matches(class))
}

/// Whether whoever blocks workloads blocks an address, although nobody knows whose it is: one for its link alone (RFC 4291, section
/// 2.5.6) may be that of anybody there.
fn may_be_hit(action: Action, addresses: &BTreeSet<IpAddr>) -> bool {
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    action != Action::Allow && addresses.iter().any(link_local)
}

fn contains(services: Option<&Services>, port: Port) -> bool {
    services.is_some_and(|services| port.is_among(services))
}

/// Whether a rule towards a virtual service covers one of its target ports.
fn covers(services: &RuleServices, protocol: Protocol, target: u16) -> bool {
    services.stated().is_none_or(|stated| stated.contains(protocol, target))
}

/// Workloads by label as providers: their own addresses, and the front ends of the Services before them. An Allow
/// opens a front end that leads to any of them; a Deny closes one only if whatever it leads to is denied, because a
/// mixed Service is judged at the provider.
fn workload_target(rule: &ResolvedRule, selector: &WorkloadSelector, target: &Target<'_>) -> (bool, bool) {
    let Some(stated) = rule.services.stated() else {
        return (false, false);
    };
    let direct = target.class.is_some_and(|class| selector.matches(class)) || may_be_hit(rule.action, target.addresses);
    let mut hit = direct && contains(Some(stated), target.port);
    let mut peer = direct;
    if let Some((_, service, front)) = target.front.filter(|(_, service, front)| service.managed && front.open) {
        let named = match rule.action {
            Action::Allow => service.is_touched_by(selector),
            Action::Deny | Action::OverrideDeny => service.is_covered_by(selector),
        };
        peer |= named;
        hit |= named && hits_front(rule.action, front, |port| stated.contains(front.protocol, port));
    }
    (peer, hit)
}

fn hits_front(action: Action, front: &Front, covers: impl Fn(u16) -> bool) -> bool {
    match action {
        Action::Allow => front.targets.iter().any(|port| covers(*port)),
        Action::Deny | Action::OverrideDeny => {
            !front.targets.is_empty() && front.targets.iter().all(|port| covers(*port))
        }
    }
}

/// Whether a port of a Pod is one that a Service leads to.
fn is_target(service: &ServiceFacts, pod: &PodInfo, port: Port) -> bool {
    service.target_ports.iter().any(|(protocol, target)| {
        *protocol == port.protocol
            && match target {
                TargetPortInfo::Number(number) => *number == port.number,
                TargetPortInfo::Name(name) => pod.container_ports.iter().any(|own| {
                    own.protocol == port.protocol && own.port == port.number && own.name.as_deref() == Some(name)
                }),
            }
    })
}
