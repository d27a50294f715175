//! Why a rule misses, in words that name what it wants and what is there instead.

mod words;

use std::collections::BTreeSet;

use ringfence_crds::common::NamespacedName;
use ringfence_crds::rule_set::Actor;
use ringfence_model::{AddressSet, Constraint, Dimension, DimensionRule, Labels, Selector, Services};

use super::nearest::{Asked, Candidate, Party, Respect, Role};
use super::{Evaluator, Port};
use crate::cluster::TargetPortInfo;
use crate::compile::actors::ActorReader;
use crate::compile::class::{Class, ClassOrigin};
use crate::compile::labels::NamespaceProfile;
use crate::compile::rule::{ResolvedActor, RuleServices};
use crate::compile::selector::{WorkloadKind, WorkloadSelector};
use words::{addresses, match_text, port_text, some, wanted};

/// A sentence, and how far from the end the term that it speaks of is.
type Distant = (usize, String);

impl Evaluator<'_> {
    /// Why a rule misses in one respect.
    pub(super) fn why(&self, candidate: &Candidate<'_>, respect: Respect, asked: &Asked<'_>) -> String {
        let other = match asked.role {
            Role::Consumer => Role::Provider,
            Role::Provider => Role::Consumer,
        };
        match respect {
            Respect::Enabled if !candidate.rule_set.enabled => "the RuleSet is disabled (enabled: false)".to_owned(),
            Respect::Enabled => "the rule is disabled (enabled: false)".to_owned(),
            Respect::Services => self.services(candidate, asked),
            Respect::OwnScope => self.scope(candidate, asked.role, asked),
            Respect::PeerScope => self.scope(candidate, other, asked),
            Respect::Own => self.actors(candidate, asked.role, asked),
            Respect::Peer => self.actors(candidate, other, asked),
        }
    }

    fn services(&self, candidate: &Candidate<'_>, asked: &Asked<'_>) -> String {
        let rule = candidate.written;
        if !candidate.has_services {
            let names = rule.services.iter().filter_map(|service| service.name.as_ref());
            let missing = names.filter(|name| !self.world.policy.service_definitions.contains_key(*name));
            let missing: Vec<&str> = missing.map(String::as_str).collect();
            return match missing.as_slice() {
                [] => "the rule names no port".to_owned(),
                names => format!("there is no ServiceDefinition {}: it selects nothing", names.join(" and no ")),
            };
        }
        let among = |ports: Vec<String>| format!("not among {}", some(&ports));
        let (subject, targets) = match asked.front {
            Some((key, _, front)) => {
                let targets: Vec<Port> =
                    front.targets.iter().map(|number| Port { protocol: front.protocol, number: *number }).collect();
                let leads: Vec<String> = targets.iter().map(|port| port_text(*port)).collect();
                let leads = if leads.is_empty() { "no port".to_owned() } else { leads.join(" and ") };
                (format!("{} of Service {key} leads to {leads}, which is", port_text(asked.port)), targets)
            }
            None => (format!("{} is", port_text(asked.port)), vec![asked.port]),
        };
        match &candidate.rule().services {
            RuleServices::Stated(Services::Only(ports))
                if !targets.iter().any(|port| ports.iter().any(|own| port.is_meant_by(own))) =>
            {
                format!("{subject} {}", among(ports.iter().map(match_text).collect()))
            }
            _ => {
                let services = rule.providers.iter().filter_map(|actor| actor.virtual_service.as_deref());
                let names: Vec<String> = services.clone().map(str::to_owned).collect();
                let ports = services.flat_map(|name| self.target_ports(name)).collect::<BTreeSet<_>>();
                let of = format!("the ports of VirtualService {}", some(&names));
                format!("{subject} none of {of} ({})", some(&ports.into_iter().collect::<Vec<_>>()))
            }
        }
    }

    /// The ports on the Pods behind a virtual service.
    fn target_ports(&self, name: &str) -> Vec<String> {
        let key = split(name);
        let service = key.and_then(|key| self.world.virtual_service(&key));
        let ports = service.into_iter().flat_map(|service| &service.target_ports);
        ports
            .map(|(protocol, target)| match target {
                TargetPortInfo::Number(number) => format!("{number}/{protocol}"),
                TargetPortInfo::Name(name) => format!("{name}/{protocol}"),
            })
            .collect()
    }

    fn scope(&self, candidate: &Candidate<'_>, side: Role, asked: &Asked<'_>) -> String {
        let party = party(side, asked);
        let selector = WorkloadSelector { kind: WorkloadKind::Any, labels: candidate.scope.clone() };
        let classes = classes(side, asked);
        let near = classes.iter().map(|class| self.of_class(&selector, class, side, &party, "scope")).min();
        if let Some((_, text)) = near.filter(|(distance, _)| *distance > 0) {
            return text;
        }
        let named = actors(candidate, side).iter().filter_map(|actor| actor.virtual_service.as_deref());
        let outside: Vec<String> = named.map(|name| format!("VirtualService {name}")).collect();
        format!("{} lies outside of the scope {}", some(&outside), candidate.scope)
    }

    /// Why none of a rule's terms names an end: that of the term that comes nearest.
    fn actors(&self, candidate: &Candidate<'_>, side: Role, asked: &Asked<'_>) -> String {
        let party = party(side, asked);
        let terms = actors(candidate, side);
        if classes(side, asked).is_empty() {
            return self.of_nobody(candidate, side, &party, asked);
        }
        let misses = terms.iter().map(|actor| self.of_actor(actor, candidate.written.extra_scope, side, asked));
        // Of equally near terms the first as written.
        let Some((_, text)) = misses.min_by_key(|(distance, _)| *distance) else {
            return format!("the rule names no {}", side.word());
        };
        match terms.len() {
            1 => text,
            several => format!("{text} (the nearest of {several} terms)"),
        }
    }

    /// An end that no term by label can name.
    fn of_nobody(&self, candidate: &Candidate<'_>, side: Role, party: &Party<'_>, asked: &Asked<'_>) -> String {
        let who = side.word();
        if let Some((key, service, front)) = asked.front.filter(|_| side == Role::Provider) {
            return match (service.managed, front.open) {
                (false, _) => format!("Service {key} is in a namespace that is not managed"),
                (true, false) => format!(
                    "no rule opens {} of Service {key}: an address behind it is none of the Service's",
                    front.address
                ),
                (true, true) => format!("nothing that has labels is behind Service {key}"),
            };
        }
        let is = match party.pod {
            Some(key) if party.untold => format!("nobody knows the {who} by its labels ({})", self.untold(key)),
            Some(key) => format!("the {who} has no labels (namespace {} is not managed)", key.namespace),
            None => format!("the {who} is no workload"),
        };
        let lists = actors(candidate, side).iter().filter(|actor| actor.ip_list.is_some());
        let misses: Vec<String> =
            lists.map(|actor| self.of_actor(actor, candidate.written.extra_scope, side, asked).1).collect();
        match misses.as_slice() {
            [] => format!("{is}: {} is in no IP list of the rule", addresses(party)),
            misses => format!("{is}: {}", some(misses)),
        }
    }

    /// Why the peers of a Pod do not know it.
    fn untold(&self, key: &NamespacedName) -> String {
        let problems = self.world.computed.container_workloads.get(key).map(|pod| pod.problems.as_slice());
        problems.and_then(<[String]>::first).cloned().unwrap_or_else(|| "somebody else has its address too".to_owned())
    }

    fn of_actor(&self, actor: &Actor, extra_scope: bool, side: Role, asked: &Asked<'_>) -> Distant {
        let party = party(side, asked);
        let everything = Selector::everything();
        let mut reader = ActorReader::new(self.world.policy, self.world.facts);
        let read = match side {
            Role::Consumer => reader.consumer(actor, (!extra_scope).then_some(&everything)),
            Role::Provider => reader.provider(actor, &everything),
        };
        match read {
            None => {
                let warning = reader.warnings.into_iter().next();
                (1, warning.unwrap_or_else(|| "a term selects nothing".to_owned()))
            }
            Some(ResolvedActor::Workloads(selector)) => {
                let classes = classes(side, asked);
                let near = classes.iter().map(|class| self.of_class(&selector, class, side, &party, "rule"));
                near.min().unwrap_or_else(|| (1, format!("the {} is no workload", side.word())))
            }
            Some(ResolvedActor::Addresses(_)) => {
                (2, self.of_list(actor.ip_list.as_deref().unwrap_or_default(), &party))
            }
            Some(ResolvedActor::Names(list)) => {
                let text = self.of_list(actor.ip_list.as_deref().unwrap_or_default(), &party);
                let names: Vec<String> = list.names.iter().map(ToString::to_string).collect();
                let unknown = "what they lead to is known only to the agent of the Pod that has asked for them";
                (2, format!("{text}; of its names ({}) {unknown}", some(&names)))
            }
            Some(ResolvedActor::VirtualService(key)) => {
                (2, format!("the {} is not behind VirtualService {key}", side.word()))
            }
        }
    }

    fn of_list(&self, name: &str, party: &Party<'_>) -> String {
        let nets = |texts: &[String]| {
            AddressSet::from_nets(texts.iter().flat_map(|text| AddressSet::parse(text).unwrap_or_default()))
        };
        let list = self.world.policy.ip_lists.get(name);
        let ranges = list.map(|list| nets(&list.ranges)).unwrap_or_default();
        let excluded = party.addresses.iter().any(|address| ranges.contains(*address));
        let is_in = if excluded { "is among the exclusions of" } else { "is in no range of" };
        format!("{} {is_in} IPList {name}", addresses(party))
    }

    /// What a class lacks for a selector; nothing and no distance if it lacks nothing. `wants`: whose selector it is.
    fn of_class(
        &self,
        selector: &WorkloadSelector,
        class: &Class,
        side: Role,
        party: &Party<'_>,
        wants: &str,
    ) -> Distant {
        let who = match party.class {
            Some(_) => format!("the {}", side.word()),
            None => "what is behind the Service".to_owned(),
        };
        let kind = match (&selector.kind, &class.origin) {
            (WorkloadKind::Managed, ClassOrigin::Unmanaged(_)) => {
                Some(format!("{who} is a machine that is not managed, and allWorkloads means managed ones here"))
            }
            (WorkloadKind::ContainerHosts, ClassOrigin::Pods | ClassOrigin::Unmanaged(_)) => {
                Some(format!("{who} is no node"))
            }
            (WorkloadKind::Named(name), _) if !is_named(name, class) => Some(format!("{who} is not Workload {name}")),
            _ => None,
        };
        let missed: Vec<(&Dimension, &Constraint)> = selector
            .labels
            .constraints()
            .filter(|(dimension, constraint)| !constraint.accepts(class.labels.get(dimension)))
            .collect();
        let distance = missed.len() + usize::from(kind.is_some());
        let labels = (!missed.is_empty()).then(|| self.of_labels(&missed, &class.labels, &who, party, wants));
        (distance, kind.into_iter().chain(labels).collect::<Vec<_>>().join("; "))
    }

    fn of_labels(
        &self,
        missed: &[(&Dimension, &Constraint)],
        labels: &Labels,
        who: &str,
        party: &Party<'_>,
        wants: &str,
    ) -> String {
        let has = missed.iter().map(|(dimension, _)| match labels.get(dimension) {
            Some(value) => format!("{dimension}={value}"),
            None => format!("no label {dimension}"),
        });
        let has = has.collect::<Vec<_>>().join(" and ");
        let wanted = missed.iter().map(|(dimension, constraint)| wanted(dimension, constraint));
        let wanted = wanted.collect::<Vec<_>>().join(" and ");
        let absent = missed.iter().find(|(dimension, _)| labels.get(dimension).is_none());
        let because = absent.and_then(|(dimension, _)| self.absent(dimension, party));
        let because = because.map(|text| format!(": {text}")).unwrap_or_default();
        format!("{who} has {has}, the {wants} wants {wanted}{because}")
    }

    /// Why a Pod has no label in a dimension.
    fn absent(&self, dimension: &Dimension, party: &Party<'_>) -> Option<String> {
        let key = party.pod?;
        let shown = self.world.computed.container_workloads.get(key)?;
        if let Some(refusal) = shown.labels.refused.iter().find(|refusal| refusal.dimension == *dimension) {
            return Some(format!("{dimension}={} is not taken, {}", refusal.value, refusal.reason));
        }
        let profile = NamespaceProfile::of(self.world.policy, &key.namespace);
        Some(match profile.labels.0.get(dimension) {
            None => format!("it is in namespace {}, whose profile has no label {dimension}", key.namespace),
            Some(DimensionRule::FromLabelMap) => format!("no label of it is mapped to {dimension}"),
            Some(DimensionRule::Fixed(_) | DimensionRule::Choice { .. }) => {
                format!("it has no annotation for {dimension}, which the profile of {} lets it choose", key.namespace)
            }
        })
    }
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Provider => "provider",
        }
    }
}

fn is_named(name: &str, class: &Class) -> bool {
    match &class.origin {
        ClassOrigin::Node(own) | ClassOrigin::Unmanaged(own) => own == name,
        ClassOrigin::Pods => false,
    }
}

fn party<'e>(side: Role, asked: &Asked<'e>) -> Party<'e> {
    if side == asked.role { asked.own } else { asked.peer }
}

fn actors<'c>(candidate: &Candidate<'c>, side: Role) -> &'c [Actor] {
    match side {
        Role::Consumer => &candidate.written.consumers,
        Role::Provider => &candidate.written.providers,
    }
}

/// The classes that an end stands for: its own, or those behind the Service that it is.
fn classes<'e>(side: Role, asked: &Asked<'e>) -> Vec<&'e Class> {
    let own = party(side, asked).class;
    let front = asked.front.filter(|(_, service, front)| side == Role::Provider && service.managed && front.open);
    let behind = front.into_iter().flat_map(|(_, service, _)| service.classes.iter().map(AsRef::as_ref));
    own.into_iter().chain(behind).collect()
}

fn split(name: &str) -> Option<NamespacedName> {
    let (namespace, name) = name.split_once('/')?;
    Some(NamespacedName { namespace: namespace.to_owned(), name: name.to_owned() })
}
