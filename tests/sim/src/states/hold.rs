//! Whether what must be true of a state is true of a compiler that has come to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_compile::compile::Computed;
use ringfence_model::Protocol;
use ringfence_oracle::{Connection, Party, Target, World};

use super::state::State;
use super::text;
use crate::compare;
use crate::follow::Follower;

/// Pods of which all pairs are judged; of a state with more, the first ones.
const PODS: usize = 6;
/// An address that nobody has.
const OUTSIDE: &str = "203.0.113.77";
/// On what all pairs are judged.
const ON: [(Protocol, u16); 4] = [(Protocol::TCP, 80), (Protocol::TCP, 5432), (Protocol::UDP, 53), (Protocol::ICMP, 0)];

/// Checks what is written of a state, and holds the evaluator against the oracle on all pairs.
///
/// # Errors
/// What is not so.
pub fn holds(state: &State, follower: &Follower) -> Result<(), String> {
    hold_classes(state, follower.computed())?;
    hold_warnings(state, follower.computed())?;
    let evaluator = follower.evaluator();
    for said in &state.said {
        let connection = text::connection(said.connection, &state.world);
        let answers = compare::compare(&state.world, &evaluator, &connection)?;
        if answers.is_empty() {
            return Err(format!("'{}' cannot be judged", said.connection));
        }
        for answer in answers {
            let told = (answer.verdict, (answer.source.decision, answer.destination.decision));
            if told != (said.verdict, said.decisions) {
                let expected = (said.verdict, said.decisions);
                return Err(format!("'{}' is {told:?} and not {expected:?}", said.connection));
            }
        }
    }
    for connection in all_pairs(&state.world) {
        compare::compare(&state.world, &evaluator, &connection)?;
    }
    Ok(())
}

fn hold_classes(state: &State, computed: &Computed) -> Result<(), String> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for group in computed.address_groups.values().filter(|group| group.class_text.contains('|')) {
        let members = found.entry(group.class_text.clone()).or_default();
        members.extend(group.members.iter().map(|member| member.address.to_string()));
    }
    if found == state.classes {
        return Ok(());
    }
    Err(format!("the classes are {found:?} and not {:?}", state.classes))
}

fn hold_warnings(state: &State, computed: &Computed) -> Result<(), String> {
    let missing = state.warnings.iter().find(|(name, piece)| {
        !computed.warnings.get(**name).is_some_and(|found| found.iter().any(|text| text.contains(**piece)))
    });
    if let Some((name, piece)) = missing {
        return Err(format!("RuleSet {name} does not warn that '{piece}': {:?}", computed.warnings.get(*name)));
    }
    match computed.warnings.iter().find(|(name, _)| !state.warnings.contains_key(name.as_str())) {
        Some((name, found)) => Err(format!("RuleSet {name} warns: {found:?}")),
        None => Ok(()),
    }
}

/// Everybody to everybody, and through every ClusterIP.
fn all_pairs(world: &World) -> Vec<Connection> {
    let pods: Vec<_> = world.pods.iter().filter(|(_, pod)| !pod.ended).take(PODS).collect();
    let own = pods.iter().map(|(key, _)| Party::Pod((*key).clone()));
    let nodes = world.nodes.keys().cloned().map(Party::Node);
    let mut addresses: BTreeSet<IpAddr> = pods.iter().flat_map(|(_, pod)| pod.addresses.iter().copied()).collect();
    addresses.extend(world.workloads.values().flat_map(|machine| machine.addresses.iter().copied()));
    addresses.insert(text::parsed(OUTSIDE));
    let parties: Vec<Party> = own.chain(nodes).chain(addresses.into_iter().map(Party::Address)).collect();
    let mut connections = Vec::new();
    for from in &parties {
        for to in &parties {
            connections.extend(ON.iter().map(|(protocol, number)| Connection {
                from: from.clone(),
                to: Target::Direct(to.clone(), *number),
                protocol: *protocol,
            }));
        }
        for (key, service) in &world.services {
            for (address, port) in service.cluster_ips.iter().flat_map(|ip| service.ports.iter().map(move |p| (ip, p)))
            {
                let to = Target::ClusterIp(key.clone(), *address, port.port);
                connections.push(Connection { from: from.clone(), to, protocol: port.protocol });
            }
        }
    }
    connections
}
