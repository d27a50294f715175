//! Both sides of a connection, and the verdict (policy model, "Policy states").

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_model::{Action, Decision, PolicyState, Protocol, Verdict};

use crate::holder::Holder;
use crate::rules::{Ask, Known, Wanted};
use crate::world::{Key, Pod, Rule, RuleSet, Service, ServicePort, TargetPort, World};

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A Pod that is there and has not ended.
    Pod(Key),
    /// A node.
    Node(String),
    /// Whoever has this address.
    Address(IpAddr),
}

/// What it connects to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A party, on this port (0 for a protocol without ports).
    Direct(Party, u16),
    /// A ClusterIP of a Service, on this port of the Service.
    ClusterIp(Key, IpAddr, u16),
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Who connects.
    pub from: Party,
    /// To what.
    pub to: Target,
    /// Protocol.
    pub protocol: Protocol,
}

/// What one end does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Why.
    pub decision: Decision,
    /// `ruleset/rule` of every rule that the decision may name.
    pub rules: BTreeSet<String>,
    /// The same of every rule that hits, whatever it does.
    pub hits: BTreeSet<String>,
    /// Whether one of the rules that the decision may name asks to reject.
    pub reject: bool,
}

/// What becomes of a connection; through a Service, one for each back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The back end, for a connection through a Service.
    pub back_end: Option<(IpAddr, u16)>,
    /// The verdict.
    pub verdict: Verdict,
    /// The end that connects.
    pub source: Side,
    /// The end that listens.
    pub destination: Side,
}

/// How an end is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    External,
    Unmanaged,
    Managed(PolicyState),
}

/// What an end does with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Does {
    /// It lets it pass.
    Pass,
    /// It lets it pass, and would block it in a stricter state.
    WouldBlock,
    /// It blocks it.
    Block,
}

/// An end with what rules know of it.
struct End {
    state: State,
    known: Known,
    pod: Option<Key>,
    node: Option<String>,
    /// Whether it is known whose policy it is.
    certain: bool,
}

/// Judges a connection. Nothing if the question makes no sense: a Pod that is not there, a port that the Service does
/// not have, an address and port that a node translates.
pub fn judge(world: &World, connection: &Connection) -> Option<Vec<Answer>> {
    let source = end(world, &connection.from)?;
    let protocol = connection.protocol;
    match &connection.to {
        Target::Direct(party, port) => {
            let destination = end(world, party)?;
            // Who is named by an address is met over its family.
            let (source, destination) = match (&connection.from, party) {
                (_, Party::Address(address)) | (Party::Address(address), _) => {
                    (over(world, source, *address), over(world, destination, *address))
                }
                _ => (source, destination),
            };
            let ask = Ask::port(protocol, *port);
            let wanted = Wanted { known: destination.known.clone(), ask, front: None };
            Some(vec![both(world, &source, &wanted, &destination, *port)])
        }
        Target::ClusterIp(key, address, port) => {
            let service = world.services.get(key)?;
            let own = service.ports.iter().find(|own| own.protocol == protocol && own.port == *port)?;
            source.pod.as_ref().filter(|_| service.cluster_ips.contains(address))?;
            let front = Some((key.clone(), own.clone()));
            let wanted = Wanted { known: world.known_at(*address), ask: Ask::port(protocol, *port), front };
            let source = over(world, source, *address);
            let same_family = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
            let led_to = world.led_to(service, own).into_iter().filter(|(back_end, _)| same_family(back_end));
            let answers = led_to.filter_map(|(address, number)| {
                let destination = over(world, end(world, &Party::Address(address))?, address);
                Some(Answer {
                    back_end: Some((address, number)),
                    ..both(world, &source, &wanted, &destination, number)
                })
            });
            Some(answers.collect())
        }
    }
}

fn end(world: &World, party: &Party) -> Option<End> {
    match party {
        Party::Pod(key) => {
            let pod = world.pods.get(key).filter(|pod| !pod.ended)?;
            if pod.host_network {
                // It is its node.
                return end(world, &Party::Node(pod.node.clone()));
            }
            let state = world.profile(&key.0).state.map_or(State::Unmanaged, State::Managed);
            let own = Holder::Pod(key.clone());
            // Peers know it by an address that is its own and nobody else's; one without any will be known by its first.
            let told = pod.addresses.is_empty() || pod.addresses.iter().any(|address| world.holder(*address) == own);
            let labels = world.labels_of(&own).filter(|_| told);
            let known = Known { holder: own, labels, addresses: pod.addresses.clone() };
            Some(End { state, known, pod: Some(key.clone()), node: None, certain: true })
        }
        Party::Node(name) => {
            world.nodes.get(name)?;
            let holder = Holder::Node(name.clone());
            let labels = world.labels_of(&holder);
            // Nobody asks for a state of a node in this world: Idle. A provider's master is nobody's.
            let state = if world.node_is_workload(name) { State::Managed(PolicyState::Idle) } else { State::External };
            let known = Known { holder, labels, addresses: world.addresses_of_node(name) };
            Some(End { state, known, pod: None, node: Some(name.clone()), certain: true })
        }
        Party::Address(address) => match world.holder(*address) {
            Holder::Pod(key) => end(world, &Party::Pod(key)),
            Holder::Node(name) => end(world, &Party::Node(name)),
            holder => {
                let state = if matches!(holder, Holder::Machine(_)) { State::Unmanaged } else { State::External };
                let certain = holder != Holder::Disputed;
                let known = Known { labels: world.labels_of(&holder), holder, addresses: vec![*address] };
                Some(End { state, known, pod: None, node: None, certain })
            }
        },
    }
}

/// An end with its addresses of one family, if it has any: a connection does not change families on its way.
fn over(world: &World, end: End, address: IpAddr) -> End {
    let addresses: Vec<IpAddr> =
        end.known.addresses.iter().copied().filter(|own| own.is_ipv4() == address.is_ipv4()).collect();
    if addresses.is_empty() {
        return end;
    }
    // Peers know a Pod by those that nobody else has.
    let told = end.pod.is_none() || addresses.iter().any(|own| world.holder(*own) == end.known.holder);
    let labels = end.known.labels.filter(|_| told);
    End { known: Known { addresses, labels, ..end.known }, ..end }
}

fn both(world: &World, source: &End, wanted: &Wanted, destination: &End, port: u16) -> Answer {
    let out = side(
        source.state,
        || essential_out(world, source, wanted, destination),
        || rules(world).filter(|(_, set, rule)| world.hits_out(set, rule, &own_view(world, source), wanted)).collect(),
    );
    let ask = Ask { port, ..wanted.ask };
    let into = side(
        destination.state,
        || essential_in(world, source, destination, ask),
        || match &destination.pod {
            Some(pod) => {
                rules(world).filter(|(_, set, rule)| world.hits_in(set, rule, &source.known, pod, ask)).collect()
            }
            None => Vec::new(),
        },
    );
    let worst = out.1.max(into.1);
    let verdict = match worst {
        Does::Block => Verdict::Blocked,
        _ if !(source.certain && destination.certain) => Verdict::Unknown,
        Does::WouldBlock => Verdict::PotentiallyBlocked,
        Does::Pass => Verdict::Allowed,
    };
    Answer { back_end: None, verdict, source: out.0, destination: into.0 }
}

/// A Pod knows its own labels, whether or not its peers do.
fn own_view(world: &World, end: &End) -> Known {
    Known { labels: world.labels_of(&end.known.holder), ..end.known.clone() }
}

pub(crate) fn rules(world: &World) -> impl Iterator<Item = (&String, &RuleSet, &Rule)> {
    world.rule_sets.iter().flat_map(|(name, set)| set.rules.iter().map(move |rule| (name, set, rule)))
}

/// The table of the policy model.
pub(crate) fn side<'w>(
    state: State,
    essential: impl Fn() -> bool,
    hits: impl Fn() -> Vec<(&'w String, &'w RuleSet, &'w Rule)>,
) -> (Side, Does) {
    let plain = |decision| Side { decision, rules: BTreeSet::new(), hits: BTreeSet::new(), reject: false };
    let state = match state {
        State::External => return (plain(Decision::External), Does::Pass),
        State::Unmanaged => return (plain(Decision::Unmanaged), Does::Pass),
        State::Managed(PolicyState::Idle) => return (plain(Decision::Idle), Does::Pass),
        State::Managed(state) => state,
    };
    if essential() {
        return (plain(Decision::Essential), Does::Pass);
    }
    let blocks = if state == PolicyState::VisibilityOnly { Does::WouldBlock } else { Does::Block };
    let hits = hits();
    let names = |wanted: &dyn Fn(Action) -> bool| -> BTreeSet<String> {
        let hits = hits.iter().filter(|(_, _, rule)| wanted(rule.action));
        hits.map(|(name, _, rule)| format!("{name}/{}", rule.name)).collect()
    };
    for (action, decision, does) in [
        (Action::OverrideDeny, Decision::OverrideDeny, blocks),
        (Action::Allow, Decision::Allow, Does::Pass),
        (Action::Deny, Decision::Deny, blocks),
    ] {
        let rules = names(&|own| own == action);
        if !rules.is_empty() {
            let reject = hits.iter().any(|(_, _, rule)| rule.action == action && rule.reject);
            return (Side { decision, rules, hits: names(&|_| true), reject }, does);
        }
    }
    let does = if state == PolicyState::Full { Does::Block } else { Does::WouldBlock };
    (plain(Decision::Default), does)
}

/// Itself, but not by way of a Service; discovery; DNS to its resolvers.
fn essential_out(world: &World, source: &End, wanted: &Wanted, destination: &End) -> bool {
    let Some(own) = &source.pod else { return false };
    let itself = wanted.front.is_none() && destination.pod.as_ref() == Some(own);
    itself || wanted.ask.is_discovery() || asks_resolver(world, own, &wanted.known.addresses, wanted.ask)
}

/// Itself; discovery; its probes, from its own node; DNS at its provider.
fn essential_in(world: &World, source: &End, destination: &End, ask: Ask) -> bool {
    let Some(own) = &destination.pod else { return false };
    let Some(pod) = world.pods.get(own) else { return false };
    let itself = source.pod.as_ref() == Some(own);
    let probed = source.node.as_ref() == Some(&pod.node) && pod.probe_ports.contains(&(ask.protocol, ask.port));
    itself || ask.is_discovery() || probed || serves_dns(world, own, pod, ask)
}

/// Whether a Pod asks a resolver: one of its own, or the cluster's.
pub(crate) fn asks_resolver(world: &World, own: &Key, addresses: &[IpAddr], ask: Ask) -> bool {
    let resolvers = world.pods.get(own).map(|pod| pod.resolvers.as_slice()).unwrap_or_default();
    let resolver = |address: &IpAddr| {
        resolvers.contains(address)
            || dns_service(world).is_some_and(|(service, _)| service.cluster_ips.contains(address))
    };
    let dns = [Protocol::TCP, Protocol::UDP].contains(&ask.protocol) && ask.port == 53;
    dns && addresses.iter().any(resolver)
}

/// Whether a Pod is asked as the cluster's resolver.
pub(crate) fn serves_dns(world: &World, own: &Key, pod: &Pod, ask: Ask) -> bool {
    dns_service(world).is_some_and(|(service, ports)| {
        let selected =
            !service.selector.is_empty() && service.selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v));
        own.0 == KUBE_SYSTEM && selected && ports.iter().any(|own_port| target_is(own_port, pod, ask))
    })
}

const KUBE_SYSTEM: &str = "kube-system";

/// The cluster's DNS Service, and its ports 53.
fn dns_service(world: &World) -> Option<(&Service, Vec<&ServicePort>)> {
    let service = world.services.get(&(KUBE_SYSTEM.to_owned(), "kube-dns".to_owned()))?;
    Some((service, service.ports.iter().filter(|port| port.port == 53).collect()))
}

fn target_is(own: &ServicePort, pod: &Pod, Ask { protocol, port, .. }: Ask) -> bool {
    let number = match &own.target {
        TargetPort::Number(number) => Some(*number),
        // Container ports of one name and protocol: the first one counts, as for kube-proxy.
        TargetPort::Name(name) => {
            let mut named = pod.ports.iter().filter(|(other, its, _)| other == name && *its == own.protocol);
            named.next().map(|(_, _, number)| *number)
        }
    };
    own.protocol == protocol && number == Some(port)
}
