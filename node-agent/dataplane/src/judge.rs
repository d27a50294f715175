//! What a policy does with a packet, written from the policy model ("Policy states"). The rendered rules must agree
//! with it; it also finds the flows that a tightened policy ends.

use std::net::IpAddr;

use ringfence_model::verdict::Outcome;
use ringfence_model::{DISCOVERY, Decision, Direction, Protocol, Services};

use crate::family::Family;
use crate::policy::{Entry, Match, NetnsPolicy, Side};

/// The first packet of a connection, as the Pod's network namespace sees it: before the node translates an outbound
/// one, after it has translated an inbound one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Whether it comes to the Pod or from it.
    pub direction: Direction,
    /// Protocol.
    pub protocol: Protocol,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port; 0 for protocols without ports.
    pub sport: u16,
    /// Destination port; 0 for protocols without ports.
    pub dport: u16,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Why.
    pub decision: Decision,
    /// Whether it is blocked.
    pub blocks: bool,
    /// Whether the sender is told so.
    pub reject: bool,
}

/// A packet in one of its orientations: which rules judge it, and what they see of it.
struct View<'a> {
    side: &'a Side,
    peer: IpAddr,
    /// The provider's port.
    port: u16,
    /// Whether the packet goes from consumer to provider.
    forward: bool,
    /// Whether it certainly does.
    certain: bool,
}

impl NetnsPolicy {
    /// Judges the first packet of a connection.
    pub fn judge(&self, packet: &Packet) -> Judgement {
        self.judge_flow(packet, false)
    }

    /// Judges a flow by the first packet that conntrack saw of it.
    ///
    /// `picked_up`: conntrack saw the flow in the middle (for TCP, both directions carry the flag "be liberal", 0x08,
    /// in `CTA_PROTOINFO_TCP_FLAGS_*`), perhaps backwards. It is then judged in both orientations: a rule hits it if
    /// it hits either. Only TCP flows are.
    pub fn judge_flow(&self, flow: &Packet, picked_up: bool) -> Judgement {
        let Packet { src, dst, .. } = *flow;
        let itself = src.is_loopback() || dst.is_loopback() || (self.own.contains(&src) && self.own.contains(&dst));
        if itself || is_discovery(flow) {
            return self.outcome(Decision::Essential, false);
        }
        let (inbound, outbound) = (&self.inbound, &self.outbound);
        let (same, other, peer) = match flow.direction {
            Direction::Inbound => (inbound, outbound, src),
            Direction::Outbound => (outbound, inbound, dst),
        };
        let certain = !(picked_up && flow.protocol == Protocol::TCP);
        let mut views = vec![View { side: same, peer, port: flow.dport, forward: true, certain }];
        if !certain {
            views.push(View { side: other, peer, port: flow.sport, forward: false, certain });
        }
        let (decision, reject) = self.decide(flow, &views);
        self.outcome(decision, reject)
    }

    fn decide(&self, packet: &Packet, views: &[View<'_>]) -> (Decision, bool) {
        let steps: [(Decision, fn(&Side) -> &Vec<Entry>); 4] = [
            (Decision::Essential, |side| &side.essential),
            (Decision::OverrideDeny, |side| &side.override_deny),
            (Decision::Allow, |side| &side.allow),
            (Decision::Deny, |side| &side.deny),
        ];
        let family = Family::of(packet.src);
        for (decision, entries) in steps {
            let counts = |entry: &&Entry| decision != Decision::Allow || self.allows_over(family, entry);
            for view in views {
                let mut entries = entries(view.side).iter().filter(counts);
                if let Some(entry) = entries.find(|entry| self.hits(entry, packet, view)) {
                    return (decision, entry.reject);
                }
            }
        }
        (Decision::Default, false)
    }

    fn hits(&self, entry: &Entry, packet: &Packet, view: &View<'_>) -> bool {
        match &entry.matching {
            Match::Hosts { peers, services } => peers.nets.contains(view.peer) && serves(services, packet, view.port),
            Match::Ends(ends) => {
                ends.contains(&crate::policy::End { address: view.peer, protocol: packet.protocol, port: view.port })
            }
            Match::OwnOrigin => view.forward && self.own.contains(&view.peer),
            // Of a flow nobody knows whether it was sealed: its gate ends what it does not let pass.
            Match::Sealed { nodes, services } => nodes.nets.contains(view.peer) && serves(services, packet, view.port),
            Match::Unsealed { nodes } => view.certain && nodes.nets.contains(view.peer),
        }
    }

    fn outcome(&self, decision: Decision, reject: bool) -> Judgement {
        let blocks = decision.outcome(self.state.into()) == Outcome::Block;
        Judgement { decision, blocks, reject: reject && blocks }
    }
}

/// Neighbour and router discovery and MLD, without which no interface has IPv6.
fn is_discovery(packet: &Packet) -> bool {
    packet.protocol == Protocol::ICMPV6 && packet.icmp.is_some_and(|(kind, _)| DISCOVERY.contains(&kind))
}

/// Each family has an ICMP of its own: as a protocol of the other family it is of no service.
fn serves(services: &Services, packet: &Packet, port: u16) -> bool {
    let is_icmp = matches!(packet.protocol, Protocol::ICMP | Protocol::ICMPV6);
    match (services, packet.icmp) {
        (Services::All, _) => true,
        _ if is_icmp && packet.protocol != Family::of(packet.src).icmp() => false,
        (Services::Only(list), Some((kind, code))) => {
            list.iter().any(|entry| entry.contains_icmp(packet.protocol, kind, code))
        }
        (Services::Only(list), None) => list.iter().any(|entry| entry.contains(packet.protocol, port)),
    }
}
