//! The short texts in which states are written: `app=web,env!=dev`, `tcp/80`, `shop/web > shop/db tcp/5432`.
//!
//! They are literals of this crate. A text that cannot be read is a mistake in a state and panics with the text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::str::FromStr;

use ringfence_model::{Dimension, LabelValue, PortMatch, Protocol};
use ringfence_oracle::world::{
    Actor, Key, LabelRule, Labels, Range, RuleServices, ServicePort, ServiceRef, Slice, TargetPort, World,
};
use ringfence_oracle::{Connection, Party, Target};

/// Dimensions with values.
pub type Terms = BTreeMap<Dimension, BTreeSet<LabelValue>>;

/// Any of the small types.
#[track_caller]
pub fn parsed<T: FromStr>(text: &str) -> T
where
    T::Err: Debug,
{
    text.parse().unwrap_or_else(|error| panic!("'{text}' of a state: {error:?}"))
}

#[track_caller]
fn halves<'t>(text: &'t str, by: &str) -> (&'t str, &'t str) {
    text.split_once(by).unwrap_or_else(|| panic!("'{text}' of a state has no '{by}'"))
}

/// `namespace/name`
#[track_caller]
pub fn key(text: &str) -> Key {
    let (namespace, name) = halves(text, "/");
    (namespace.to_owned(), name.to_owned())
}

/// `a|b`
fn values(text: &str) -> BTreeSet<LabelValue> {
    text.split('|').map(parsed).collect()
}

/// `app=web|api env=prod`: dimensions AND, values OR.
pub fn terms(text: &str) -> Terms {
    let terms = text.split_whitespace().map(|term| halves(term, "="));
    terms.map(|(dimension, list)| (parsed(dimension), values(list))).collect()
}

/// `app=web env=prod`: one value each.
pub fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace().map(|term| halves(term, "="));
    pairs.map(|(dimension, value)| (parsed(dimension), parsed(value))).collect()
}

/// The same as plain texts.
pub fn strings(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split_whitespace().map(|term| halves(term, "="));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What a profile says: `app=web` fixes, `role=?web|db` lets choose, `env=map` takes what the label map yields.
pub fn profile(text: &str) -> BTreeMap<Dimension, LabelRule> {
    let rules = text.split_whitespace().map(|term| halves(term, "="));
    let rules = rules.map(|(dimension, rule)| {
        let rule = match rule.strip_prefix('?') {
            Some(list) => LabelRule::Choice(values(list)),
            None if rule == "map" => LabelRule::FromLabelMap,
            None => LabelRule::Fixed(parsed(rule)),
        };
        (parsed(dimension), rule)
    });
    rules.collect()
}

/// Addresses between spaces.
pub fn addresses(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(parsed).collect()
}

/// Addresses and ranges between spaces: `192.0.2.1 10.0.0.0-10.0.0.255`.
pub fn ranges(text: &str) -> Vec<Range> {
    let range = |text: &str| match text.split_once('-') {
        Some((first, last)) => (parsed(first), parsed(last)),
        None => (parsed(text), parsed(text)),
    };
    text.split_whitespace().map(range).collect()
}

/// `tcp/80`, `tcp/8000-8100`, `udp`, `icmp/8`.
#[track_caller]
pub fn port(text: &str) -> PortMatch {
    let (protocol, rest) = text.split_once('/').map_or((text, None), |(protocol, rest)| (protocol, Some(rest)));
    let (first, last) = rest.map_or((None, None), |rest| match rest.split_once('-') {
        Some((first, last)) => (Some(parsed(first)), Some(parsed(last))),
        None => (Some(parsed(rest)), None),
    });
    let made = if protocol.starts_with("icmp") {
        PortMatch::parse(protocol, None, None, first, None)
    } else {
        PortMatch::parse(protocol, first, last, None, None)
    };
    made.unwrap_or_else(|error| panic!("'{text}' of a state: {error}"))
}

/// `all`, `own` (the ports of the virtual services), or ports and ServiceDefinitions: `tcp/80 @web`. Empty: none.
pub fn services(text: &str) -> RuleServices {
    let service = |text: &str| match text.strip_prefix('@') {
        Some(name) => ServiceRef::Named(name.to_owned()),
        None => ServiceRef::Port(port(text)),
    };
    match text {
        "all" => RuleServices::All,
        "own" => RuleServices::OwnPorts,
        _ => RuleServices::Listed(text.split_whitespace().map(service).collect()),
    }
}

/// Terms between spaces, an OR. A term is `workloads`, `hosts`, `list:NAME`, `svc:NAMESPACE/NAME`, `workload:NAME`, or labels
/// between commas, an AND: `app=web|api`, `env!=dev`, `@GROUP`.
pub fn actors(text: &str) -> Vec<Actor> {
    text.split_whitespace().map(actor).collect()
}

fn actor(text: &str) -> Actor {
    match text.split_once(':') {
        Some(("list", name)) => return Actor::IpList(name.to_owned()),
        Some(("svc", name)) => return Actor::VirtualService(key(name)),
        Some(("workload", name)) => return Actor::Workload(name.to_owned()),
        _ => {}
    }
    match text {
        "workloads" => return Actor::AllWorkloads,
        "hosts" => return Actor::ContainerHosts,
        _ => {}
    }
    let (mut is, mut not, mut groups) = (Terms::new(), Terms::new(), BTreeSet::new());
    for part in text.split(',') {
        if let Some(name) = part.strip_prefix('@') {
            groups.insert(name.to_owned());
        } else if let Some((dimension, list)) = part.split_once("!=") {
            not.insert(parsed(dimension), values(list));
        } else {
            let (dimension, list) = halves(part, "=");
            is.insert(parsed(dimension), values(list));
        }
    }
    Actor::Labels { is, not, groups }
}

/// Ports of a Service: `http:80>8080/tcp`, `web:80>http/tcp`, with a nodePort `http:80>8080/tcp:30080`.
pub fn service_ports(text: &str) -> Vec<ServicePort> {
    let one = |text: &str| {
        let (name, rest) = halves(text, ":");
        let (front, rest) = halves(rest, ">");
        let (target, rest) = halves(rest, "/");
        let (protocol, node_port) = rest.split_once(':').map_or((rest, None), |(own, port)| (own, Some(parsed(port))));
        let target = target.parse().map_or_else(|_| TargetPort::Name(target.to_owned()), TargetPort::Number);
        ServicePort { name: name.to_owned(), protocol: parsed(protocol), port: parsed(front), target, node_port }
    };
    text.split_whitespace().map(one).collect()
}

/// A slice: `10.0.0.1=shop/web 192.0.2.1`, and its ports `http:8080/tcp`.
pub fn slice(endpoints: &str, ports: &str) -> Slice {
    let end = |text: &str| match text.split_once('=') {
        Some((address, pod)) => (addresses(address), Some(key(pod))),
        None => (addresses(text), None),
    };
    let own = |text: &str| {
        let (name, rest) = halves(text, ":");
        let (number, protocol) = halves(rest, "/");
        (name.to_owned(), parsed(protocol), parsed(number))
    };
    let ports = ports.split_whitespace().map(own).collect();
    Slice { endpoints: endpoints.split_whitespace().map(end).collect(), ports }
}

/// `shop/web > shop/db tcp/5432`. An end is a Pod, `node:NAME` or an address; what is connected to may be `svc:NAMESPACE/NAME`,
/// by the Service's first ClusterIP.
#[track_caller]
pub fn connection(text: &str, world: &World) -> Connection {
    let (from, rest) = halves(text, " > ");
    let (to, on) = halves(rest, " ");
    let (protocol, number) = on.split_once('/').map_or((on, 0), |(protocol, number)| (protocol, parsed(number)));
    let protocol: Protocol = parsed(protocol);
    let to = match to.strip_prefix("svc:") {
        Some(name) => {
            let key = key(name);
            let address = world.services.get(&key).and_then(|service| service.cluster_ips.first());
            let address = *address.unwrap_or_else(|| panic!("'{text}' of a state: {name} has no ClusterIP"));
            Target::ClusterIp(key, address, number)
        }
        None => Target::Direct(party(to), number),
    };
    Connection { from: party(from), to, protocol }
}

fn party(text: &str) -> Party {
    match text.strip_prefix("node:") {
        Some(name) => Party::Node(name.to_owned()),
        None if text.contains('/') => Party::Pod(key(text)),
        None => Party::Address(parsed(text)),
    }
}
