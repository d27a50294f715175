//! One connection, judged by the evaluator and by the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ringfence_compile::evaluate::{Endpoint, Evaluator, Explanation, Side};
use ringfence_model::{Decision, Protocol, Verdict};
use ringfence_oracle::holder::Holder;
use ringfence_oracle::{Answer, Connection, Party, Target, World, judge};

use crate::convert;
use crate::random::{NAMESPACES, NODES, PORTS, PROTOCOLS, Random};

/// A connection that somebody in this world may try.
pub fn sample(world: &World, random: &mut Random<'_>) -> Connection {
    let from = party(world, random);
    let fronts: Vec<_> = world
        .services
        .iter()
        .flat_map(|(key, service)| {
            let ports = service.ports.iter();
            ports.flat_map(move |port| service.cluster_ips.iter().map(move |address| (key, *address, port)))
        })
        .collect();
    if !fronts.is_empty() && random.chance(35) {
        let (key, address, port) = random.one(&fronts);
        let to = Target::ClusterIp(key.clone(), address, port.port);
        return Connection { from, to, protocol: port.protocol };
    }
    let (protocol, port) = match random.below(10) {
        0 => (Protocol::ICMP, 0),
        1 => (Protocol(47), 0),
        _ => (random.one(&PROTOCOLS), random.one(&PORTS)),
    };
    Connection { from, to: Target::Direct(party(world, random), port), protocol }
}

fn party(world: &World, random: &mut Random<'_>) -> Party {
    let pods: Vec<_> = world.pods.keys().cloned().collect();
    match random.below(10) {
        0 => Party::Node(random.one(&NODES).to_owned()),
        1..=2 => Party::Address(random.address()),
        _ if pods.is_empty() => Party::Pod((NAMESPACES[0].to_owned(), "nobody".to_owned())),
        _ => Party::Pod(random.one(&pods)),
    }
}

/// Judges a connection twice, and gives what both say; nothing where there is nothing to judge.
///
/// # Errors
/// What differs.
pub fn compare(world: &World, evaluator: &Evaluator<'_>, connection: &Connection) -> Result<Vec<Answer>, String> {
    if is_translated(world, connection) {
        return Ok(Vec::new());
    }
    let (from, to, port) = asked(connection);
    let told = evaluator.explain(&from, &to, connection.protocol, port);
    match (judge(world, connection), told) {
        (None, Err(_)) => Ok(Vec::new()),
        // From a node or from outside: where a node translates, the oracle has no opinion.
        (None, Ok(_)) if matches!(connection.to, Target::ClusterIp(..)) => Ok(Vec::new()),
        (None, Ok(told)) => Err(format!("{connection:?}: the oracle knows no such connection, explain says {told:?}")),
        (Some(answers), Err(error)) => Err(format!("{connection:?}: failed to {error}; the oracle says {answers:?}")),
        (Some(answers), Ok(told)) => match same(&answers, &told) {
            Ok(()) => Ok(answers),
            Err(text) => Err(format!("{connection:?}:\n{text}")),
        },
    }
}

fn asked(connection: &Connection) -> (Endpoint, Endpoint, u16) {
    match &connection.to {
        Target::Direct(party, port) => (endpoint(&connection.from), endpoint(party), *port),
        Target::ClusterIp(_, address, port) => (endpoint(&connection.from), Endpoint::Address(*address), *port),
    }
}

fn endpoint(party: &Party) -> Endpoint {
    match party {
        Party::Pod(key) => Endpoint::Pod(convert::key(key)),
        Party::Node(name) => Endpoint::Node(name.clone()),
        Party::Address(address) => Endpoint::Address(*address),
    }
}

/// Whether a node translates what is sent to an address and port that is not asked for as a Service.
fn is_translated(world: &World, connection: &Connection) -> bool {
    let protocol = connection.protocol;
    let is_front = |address: &IpAddr, number: u16, on_node: bool| {
        world.services.values().any(|service| {
            let at = service.cluster_ips.contains(address)
                || service.external_ips.contains(address)
                || service.ingress_ips.contains(address);
            service.ports.iter().any(|port| {
                port.protocol == protocol
                    && ((at && port.port == number) || (on_node && port.node_port == Some(number)))
            })
        })
    };
    match &connection.to {
        // A ClusterIP that somebody else has as well is no case of the model.
        Target::ClusterIp(_, address, _) => !matches!(world.holder(*address), Holder::Nobody | Holder::Machine(_)),
        Target::Direct(Party::Pod(key), port) => {
            let node = world.pods.get(key).filter(|pod| pod.host_network).map(|pod| pod.node.clone());
            node.is_some_and(|name| world.addresses_of_node(&name).iter().any(|address| is_front(address, *port, true)))
        }
        Target::Direct(Party::Node(name), port) => {
            world.addresses_of_node(name).iter().any(|address| is_front(address, *port, true))
        }
        Target::Direct(Party::Address(address), port) => match world.holder(*address) {
            Holder::Pod(_) => false,
            Holder::Node(name) => world.addresses_of_node(&name).iter().any(|address| is_front(address, *port, true)),
            _ => is_front(address, *port, true),
        },
    }
}

fn same(answers: &[Answer], told: &Explanation) -> Result<(), String> {
    let Some(backends) = &told.backends else {
        let [answer] = answers else { return Err(format!("{} answers for one connection", answers.len())) };
        return same_ends(answer, told.verdict, &told.source, &told.destination);
    };
    let mut wanted: BTreeMap<(IpAddr, u16), &Answer> = BTreeMap::new();
    wanted.extend(answers.iter().filter_map(|answer| Some((answer.back_end?, answer))));
    if wanted.len() != backends.len() {
        return Err(format!("the oracle knows the back ends {:?}, explain {backends:?}", wanted.keys()));
    }
    for backend in backends {
        let answer = wanted.get(&(backend.address, backend.port));
        let answer = answer.ok_or_else(|| format!("the oracle does not know the back end {backend:?}"))?;
        same_ends(answer, backend.verdict, &backend.source, &backend.destination)
            .map_err(|text| format!("back end {}:{}: {text}", backend.address, backend.port))?;
    }
    let worst = answers.iter().map(|answer| answer.verdict).max_by_key(|verdict| badness(*verdict));
    if worst.is_some_and(|worst| worst != told.verdict) {
        return Err(format!("the worst back end is {worst:?}, explain says {:?}", told.verdict));
    }
    Ok(())
}

fn badness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allowed => 0,
        Verdict::PotentiallyBlocked => 1,
        Verdict::Unknown => 2,
        Verdict::Blocked => 3,
    }
}

fn same_ends(answer: &Answer, verdict: Verdict, source: &Side, destination: &Side) -> Result<(), String> {
    let mut text = String::new();
    for (end, wanted, told) in [("source", &answer.source, source), ("destination", &answer.destination, destination)] {
        let rule = told.rule.as_ref().map(|rule| format!("{}/{}", rule.rule_set, rule.name));
        let named = match &rule {
            Some(rule) => wanted.rules.contains(rule),
            None => !matches!(wanted.decision, Decision::Allow | Decision::Deny | Decision::OverrideDeny),
        };
        let others = told.others.iter().map(|other| format!("{}/{}", other.rule.rule_set, other.rule.name));
        let hits: BTreeSet<String> = rule.iter().cloned().chain(others).collect();
        if wanted.decision != told.decision || !named || hits != wanted.hits {
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "{end}: the oracle says {wanted:?}, explain {:?} {rule:?} of {hits:?}", told.decision);
        }
    }
    if answer.verdict != verdict {
        let _ = writeln!(text, "the oracle says {:?}, explain {verdict:?}", answer.verdict);
    }
    if text.is_empty() { Ok(()) } else { Err(text) }
}
