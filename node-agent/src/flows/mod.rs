//! Existing flows: a tightened policy ends those that it blocks, and only those.
//!
//! Deleting a conntrack entry ends nothing, since the kernel picks the flow up again in the middle. A flow is ended by a
//! bit in its conntrack mark, which the rules drop before they let established flows pass. When a later policy allows a
//! flow again, the bit is taken back. Local TCP sockets are closed too, so that programs notice at once.
//!
//! The table is read once, after the rules are in force: what begins later meets them. Reading walks the hash table of
//! the whole machine with its locks, so that it is left out where it cannot find anything (see
//! [`tightening`]), or where a quicker look has found nothing to do ([`listed`]).

pub mod conntrack;
#[cfg(test)]
mod full_tests;
mod listed;
mod sockets;
pub mod tightening;
pub mod usage;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_dataplane::{NetnsPolicy, Packet};
use ringfence_model::{Decision, Direction, Protocol};

use crate::machine;
use crate::netfilter;
use conntrack::{Conntrack, Flow};

/// Why flows could not be looked at or ended.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The kernel refused, or said something that cannot be understood.
    #[error("{what}: {source}")]
    Netlink {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Ends the flows of the calling thread's network namespace that the policy blocks, and lets those go on that were ended
/// and that it allows. Says whether ended flows are left, for which this has to be done again when the policy changes.
///
/// # Errors
/// When the kernel refuses, after everything else was done. The rules hold all the same; flows that they block may go
/// on.
pub fn settle(policy: &NetnsPolicy) -> Result<bool, FlowError> {
    let policy = with_local_addresses(policy);
    if is_without_flows() || listed::flows().is_some_and(|flows| all_go_on(&policy, &flows)) {
        return Ok(false);
    }
    let (mut left, mut ended) = (false, 0);
    let judge = |flow: &Flow| {
        let fate = fate(&policy, flow);
        left |= fate == Fate::Ends && !flow.is_over;
        fate.is_due(flow).then_some(fate)
    };
    let settled = Conntrack::open()?.deal_with(judge, |table, flows| {
        // Sockets first: what they send when they are closed still passes, so that the peer notices too.
        let losers = flows.iter().filter(|(flow, fate)| *fate != Fate::GoesOn && !flow.is_over && !flow.is_ended());
        sockets::close(losers.map(|(flow, _)| flow.packet).filter(|flow| flow.protocol == Protocol::TCP));
        let mut refused = Ok(());
        for (flow, fate) in flows {
            let done = fate.bring_about(table, &flow);
            refused = refused.and(done.map(|done| ended += usize::from(done)));
        }
        refused
    });
    if ended > 0 {
        tracing::info!(flows = ended, "ended flows that the policy blocks");
    }
    settled.map(|()| left)
}

/// Takes back every bit of ours, when no rule looks at them any more.
///
/// # Errors
/// When the kernel refuses.
pub fn forgive_all() -> Result<(), FlowError> {
    if is_without_flows() {
        return Ok(());
    }
    Conntrack::open()?.forgive(|_| true)
}

/// Which of these addresses flows of the calling thread's network namespace lead to, that may go on.
///
/// # Errors
/// When the table cannot be read.
pub fn in_use(addresses: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, FlowError> {
    if is_without_flows() {
        return Ok(BTreeSet::new());
    }
    let mut used = BTreeSet::new();
    Conntrack::open()?.each(|flow| {
        if !flow.is_over && !flow.is_ended() && addresses.contains(&flow.packet.dst) {
            used.insert(flow.packet.dst);
        }
    })?;
    Ok(used)
}

/// Whether the network namespace is known to have none: it is then not looked for them among those of the whole machine.
fn is_without_flows() -> bool {
    matches!(netfilter::flows(), Ok(0))
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing, or it may do so again.
    GoesOn,
    /// Its packets are dropped from now on.
    Ends,
    /// Conntrack forgets it: the next packet is a first one, which the rules judge.
    BeginsAgain,
}

impl Fate {
    /// Does it. Says whether a flow that was there goes on no more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bring_about(self, table: &mut Conntrack, flow: &Flow) -> Result<bool, FlowError> {
        match self {
            Self::GoesOn => table.mark(flow, false).map(|_| false),
            Self::Ends => table.mark(flow, true),
            Self::BeginsAgain => table.forget(flow),
        }
    }

    /// Whether something is to be done so that it becomes this of a flow.
    pub fn is_due(self, flow: &Flow) -> bool {
        match self {
            Self::GoesOn => flow.is_ended(),
            Self::Ends => !flow.is_ended() && !flow.is_over,
            Self::BeginsAgain => true,
        }
    }
}

/// What the policy makes of a flow. What is related to another flow goes with that one.
///
/// Of a flow that is not TCP, nobody knows who began it if conntrack first saw it under way. One that would be allowed
/// the other way round therefore begins again; ended by the mark it might stay dumb for as long as somebody talks.
fn fate(policy: &NetnsPolicy, flow: &Flow) -> Fate {
    let packet = Packet { direction: direction(policy, &flow.packet), ..flow.packet };
    if flow.related || !policy.judge_flow(&packet, flow.picked_up).blocks {
        return Fate::GoesOn;
    }
    if packet.protocol != Protocol::TCP && packet.protocol.has_ports() {
        let decision = policy.judge(&reversed(packet)).decision;
        if matches!(decision, Decision::Allow | Decision::Essential) {
            return Fate::BeginsAgain;
        }
    }
    Fate::Ends
}

/// Whether nothing is to be done about flows of which not everything is known: each goes on, whether it was seen to begin or
/// not, and none was ended.
fn all_go_on(policy: &NetnsPolicy, flows: &[Flow]) -> bool {
    let goes_on = |flow: &Flow| {
        let mut flow = flow.clone();
        [false, true].into_iter().all(|picked_up| {
            flow.picked_up = picked_up;
            fate(policy, &flow) == Fate::GoesOn
        })
    };
    flows.iter().all(|flow| !flow.is_ended() && goes_on(flow))
}

fn reversed(packet: Packet) -> Packet {
    let direction = match packet.direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    };
    Packet { direction, src: packet.dst, dst: packet.src, sport: packet.dport, dport: packet.sport, ..packet }
}

/// The policy with every address of the calling thread's network namespace as the Pod's own: who began a flow is told
/// by its address, and Kubernetes knows only those on the Pod network.
fn with_local_addresses(policy: &NetnsPolicy) -> NetnsPolicy {
    let mut policy = policy.clone();
    policy.own.extend(machine::every_address());
    policy
}

/// What an address of the Pod began is outbound; everything else came in.
fn direction(policy: &NetnsPolicy, packet: &Packet) -> Direction {
    if policy.own.contains(&packet.src) { Direction::Outbound } else { Direction::Inbound }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_dataplane::{Enforcement, Entry, HostSet, Match};
    use ringfence_model::{PortMatch, Services};

    /// Full; anyone may reach port 80 of 10.0.0.1.
    fn policy() -> NetnsPolicy {
        let mut policy = NetnsPolicy::new(Enforcement::Full);
        policy.own = ["10.0.0.1".parse().expect("valid")].into();
        let port = PortMatch::parse("TCP", Some(80), None, None, None).expect("valid");
        policy.inbound.allow.push(Entry {
            matching: Match::Hosts { peers: HostSet::anyone(), services: Services::Only([port].into()) },
            reject: false,
            rule: "shop/web".to_owned(),
        });
        policy
    }

    fn flow(src: &str, sport: u16, dst: &str, dport: u16) -> Flow {
        Flow::of(Packet {
            direction: Direction::Inbound,
            protocol: Protocol::TCP,
            src: src.parse().expect("valid"),
            dst: dst.parse().expect("valid"),
            sport,
            dport,
            icmp: None,
        })
    }

    #[test]
    fn only_losers_are_blocked() {
        let policy = policy();
        assert_eq!(fate(&policy, &flow("10.0.0.9", 40000, "10.0.0.1", 80)), Fate::GoesOn);
        assert_eq!(fate(&policy, &flow("10.0.0.9", 40000, "10.0.0.1", 81)), Fate::Ends);
        assert_eq!(fate(&policy, &flow("10.0.0.1", 40000, "10.0.0.9", 80)), Fate::Ends, "outbound has no rule");
    }

    #[test]
    fn a_flow_that_was_picked_up_backwards_is_judged_both_ways() {
        let mut backwards = flow("10.0.0.1", 80, "10.0.0.9", 40000);
        assert_eq!(fate(&policy(), &backwards), Fate::Ends);
        backwards.picked_up = true;
        assert_eq!(fate(&policy(), &backwards), Fate::GoesOn);
    }

    #[test]
    fn a_quick_look_leaves_alone_only_what_certainly_goes_on() {
        let allowed = flow("10.0.0.9", 40000, "10.0.0.1", 80);
        let all = |flows: &[Flow]| all_go_on(&policy(), flows);
        assert!(all(&[]) && all(std::slice::from_ref(&allowed)));
        assert!(!all(&[allowed.clone(), flow("10.0.0.9", 40000, "10.0.0.1", 81)]), "it is blocked");
        assert!(!all(&[allowed.marked(ringfence_dataplane::render::ENDED)]), "it may go on again");
        assert!(!all(&[flow("10.0.0.1", 80, "10.0.0.9", 40000)]), "it goes on only if it was picked up backwards");
        let mut denied = policy();
        let port = PortMatch::parse("TCP", Some(40000), None, None, None).expect("valid");
        denied.state = Enforcement::Selective;
        denied.inbound.deny.push(Entry {
            matching: Match::Hosts { peers: HostSet::anyone(), services: Services::Only([port].into()) },
            reject: false,
            rule: "shop/no".to_owned(),
        });
        assert!(
            !all_go_on(&denied, &[flow("10.0.0.1", 40000, "10.0.0.9", 443)]),
            "blocked if it was picked up backwards"
        );
    }

    #[test]
    fn a_datagram_flow_that_may_have_been_seen_backwards_begins_again() {
        let mut policy = policy();
        let port = PortMatch::parse("UDP", Some(514), None, None, None).expect("valid");
        policy.outbound.allow.push(Entry {
            matching: Match::Hosts { peers: HostSet::anyone(), services: Services::Only([port].into()) },
            reject: false,
            rule: "shop/syslog".to_owned(),
        });
        let udp = |mut flow: Flow| {
            flow.packet.protocol = Protocol::UDP;
            flow
        };
        // The Pod talks to a server's port 514 and conntrack saw the server's answer first.
        assert_eq!(fate(&policy, &udp(flow("10.0.0.9", 514, "10.0.0.1", 40000))), Fate::BeginsAgain);
        assert_eq!(fate(&policy, &udp(flow("10.0.0.1", 40000, "10.0.0.9", 514))), Fate::GoesOn);
        assert_eq!(fate(&policy, &udp(flow("10.0.0.9", 40000, "10.0.0.1", 53))), Fate::Ends);
    }

    #[test]
    fn what_is_related_goes_with_its_flow() {
        let mut related = flow("10.0.0.9", 40000, "10.0.0.1", 81);
        related.related = true;
        assert_eq!(fate(&policy(), &related), Fate::GoesOn);
    }
}
