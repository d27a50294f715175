//! Packets that somebody in a world may send.

use std::net::IpAddr;

use ringfence_model::{Direction, Protocol};
use ringfence_oracle::world::Pod;
use ringfence_oracle::{Ask, Packet, World};

use crate::random::{ICMP_CODES, ICMP_TYPES, NODE_PORTS, PORTS, PROTOCOLS, Random};

/// An address and port that a node translates.
pub type Front = (IpAddr, Protocol, u16);

/// Nobody's addresses: no rule and no object of any world names them.
const STRANGERS: [&str; 2] = ["203.0.113.7", "2001:db8:ffff::7"];

/// Every front end of a world, also those that no rule may open.
pub fn fronts(world: &World) -> Vec<Front> {
    let nodes: Vec<IpAddr> = world.nodes.keys().flat_map(|name| world.addresses_of_node(name)).collect();
    let mut fronts = Vec::new();
    for service in world.services.values() {
        let own = service.cluster_ips.iter().chain(&service.external_ips).chain(&service.ingress_ips);
        for port in &service.ports {
            fronts.extend(own.clone().map(|address| (*address, port.protocol, port.port)));
            let on_nodes = port.node_port.iter().flat_map(|number| nodes.iter().map(move |node| (node, number)));
            fronts.extend(on_nodes.map(|(node, number)| (*node, port.protocol, *number)));
        }
    }
    fronts
}

/// A packet from or to a Pod, of one family.
pub fn packet(world: &World, pod: &Pod, is_v4: bool, fronts: &[Front], random: &mut Random) -> Packet {
    let direction = if random.chance(50) { Direction::Inbound } else { Direction::Outbound };
    let packet = match (random.below(20), direction) {
        (0..=6, Direction::Outbound) => to_front(fronts, random),
        (7, Direction::Outbound) => to_resolver(pod, random),
        (0..=1, Direction::Inbound) => probe(world, pod, random),
        _ => None,
    };
    let family = |packet: &Packet| packet.peer.is_ipv4() == is_v4;
    packet.filter(family).unwrap_or_else(|| Packet {
        direction,
        peer: peer(direction, is_v4, random),
        ask: ask(is_v4, random),
    })
}

/// To a Service, sometimes next to the port of it.
fn to_front(fronts: &[Front], random: &mut Random) -> Option<Packet> {
    let (peer, protocol, port) = (!fronts.is_empty()).then(|| random.one(fronts))?;
    let port = if random.chance(20) { port + 1 } else { port };
    Some(Packet { direction: Direction::Outbound, peer, ask: Ask::port(protocol, port) })
}

fn to_resolver(pod: &Pod, random: &mut Random) -> Option<Packet> {
    let peer = (!pod.resolvers.is_empty()).then(|| random.one(&pod.resolvers))?;
    let ask = Ask::port(random.one(&PROTOCOLS), random.one(&[53, 53, 53, 54]));
    Some(Packet { direction: Direction::Outbound, peer, ask })
}

/// From a node, on a port that the Pod's probes name.
fn probe(world: &World, pod: &Pod, random: &mut Random) -> Option<Packet> {
    let name = if random.chance(70) { pod.node.clone() } else { random.one(&crate::random::NODES).to_owned() };
    let (addresses, ports) = (world.addresses_of_node(&name), Vec::from_iter(pod.probe_ports.iter().copied()));
    if addresses.is_empty() || ports.is_empty() {
        return None;
    }
    let (protocol, port) = random.one(&ports);
    let ask = Ask::port(protocol, if random.chance(20) { port + 1 } else { port });
    Some(Packet { direction: Direction::Inbound, peer: random.one(&addresses), ask })
}

/// Somebody, sometimes next to somebody.
fn peer(direction: Direction, is_v4: bool, random: &mut Random) -> IpAddr {
    loop {
        let address = match random.below(20) {
            0 => STRANGERS[usize::from(!is_v4)].parse().unwrap_or_else(|error| panic!("it is a literal: {error}")),
            1..=4 => next_to(random.address(), random.chance(50)),
            _ => random.address(),
        };
        // The kernel takes nothing from a loopback address that arrives from outside.
        if address.is_ipv4() == is_v4 && !(direction == Direction::Inbound && address.is_loopback()) {
            return address;
        }
    }
}

fn next_to(address: IpAddr, above: bool) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let number = u32::from(address);
            IpAddr::V4((if above { number + 1 } else { number - 1 }).into())
        }
        IpAddr::V6(address) => {
            let number = u128::from(address);
            IpAddr::V6((if above { number + 1 } else { number - 1 }).into())
        }
    }
}

fn ask(is_v4: bool, random: &mut Random) -> Ask {
    match random.below(10) {
        0..=1 => {
            let protocol = if is_v4 { Protocol::ICMP } else { Protocol::ICMPV6 };
            let kind = random.one(&[&ICMP_TYPES[..], &[0, 128, 135, 136, 143]].concat());
            let code = random.one(&[&ICMP_CODES[..], &[1]].concat());
            Ask { protocol, port: 0, icmp: Some((kind, code)) }
        }
        2 => Ask::port(random.one(&[Protocol(47), Protocol(50)]), 0),
        _ => Ask::port(random.one(&PROTOCOLS), port(random)),
    }
}

/// A port of the universe, next to one, or at the end of a range.
fn port(random: &mut Random) -> u16 {
    let port = random.one(&PORTS);
    match random.below(20) {
        0 => port - 1,
        1 => port + 1,
        2 => port + 399,
        3 => port + 400,
        4 => port + 401,
        5 => random.one(&NODE_PORTS),
        _ => port,
    }
}
