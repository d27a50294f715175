//! One packet at one Pod: what the model says that the Pod's network namespace does with it.
//!
//! A connection is between workloads, each with all of its addresses; a packet has one source and one destination. It is
//! the first one of a connection, seen before the node translates an outbound one and after it has translated an inbound
//! one. So a Service is the destination of an outbound packet and never that of an inbound one, and who connects is known
//! by the address that the packet arrives with.

use std::net::IpAddr;

use ringfence_model::{Decision, Direction};

use crate::holder::Holder;
use crate::judge::{Does, Side, State, asks_resolver, rules, serves_dns, side};
use crate::rules::{Ask, Known, Wanted};
use crate::world::{Key, Pod, World};

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whether it comes to the Pod or from it.
    pub direction: Direction,
    /// The address at its other end.
    pub peer: IpAddr,
    /// What is asked for.
    pub ask: Ask,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// Why.
    pub side: Side,
    /// What.
    pub does: Does,
}

/// Judges a packet at a Pod on the Pod network. Nothing if there is no such Pod, or if the packet is for an address and
/// port of two Services: which of them a node takes, the model does not say.
pub fn judge_packet(world: &World, key: &Key, packet: &Packet) -> Option<Ruling> {
    let pod = world.pods.get(key).filter(|pod| !pod.ended && !pod.host_network)?;
    let own = Holder::Pod(key.clone());
    let own = Known { labels: world.labels_of(&own), holder: own, addresses: pod.addresses.clone() };
    let state = world.profile(&key.0).state.map_or(State::Unmanaged, State::Managed);
    let peer = world.known_at(packet.peer);
    let (side, does) = match packet.direction {
        Direction::Inbound => side(
            state,
            || essential_in(world, key, pod, packet),
            || rules(world).filter(|(_, set, rule)| world.hits_in(set, rule, &peer, key, packet.ask)).collect(),
        ),
        Direction::Outbound => {
            let mut fronts = world.fronts_at(packet.peer, packet.ask);
            let front = fronts.pop();
            if !fronts.is_empty() {
                return None;
            }
            let discovery = packet.ask.is_discovery();
            let essential =
                is_local(pod, packet.peer) || discovery || asks_resolver(world, key, &peer.addresses, packet.ask);
            let wanted = Wanted { known: peer, ask: packet.ask, front };
            side(
                state,
                || essential,
                || rules(world).filter(|(_, set, rule)| world.hits_out(set, rule, &own, &wanted)).collect(),
            )
        }
    };
    Some(Ruling { side, does })
}

/// What never left the Pod; discovery; its probes, from the addresses of its own node; DNS at its provider.
fn essential_in(world: &World, key: &Key, pod: &Pod, packet: &Packet) -> bool {
    let of_node = world.addresses_of_node(&pod.node).contains(&packet.peer);
    let probed = of_node && pod.probe_ports.contains(&(packet.ask.protocol, packet.ask.port));
    is_local(pod, packet.peer) || packet.ask.is_discovery() || probed || serves_dns(world, key, pod, packet.ask)
}

fn is_local(pod: &Pod, address: IpAddr) -> bool {
    address.is_loopback() || pod.addresses.contains(&address)
}

impl Ruling {
    /// Whether the sender is told that it is blocked. A default deny tells nobody.
    pub fn rejects(&self) -> bool {
        self.does == Does::Block && self.side.decision != Decision::Default && self.side.reject
    }
}
