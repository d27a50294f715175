//! Existing flows: a tightened policy ends those that it blocks, and only those.
//!
//! Deleting a conntrack entry ends nothing, since the kernel picks the flow up again in the middle. A flow is ended by a
//! bit in its conntrack mark, which the rules drop before they let established flows pass. When a later policy allows a
//! flow again, the bit is taken back. Local TCP sockets are closed too, so that programs notice at once.
//!
//! The table is read once, after the rules are in force: what begins later meets them. Reading walks the hash table of
//! the whole machine, some milliseconds each time, so that it is left out where it cannot find anything (see
//! [`tightening`]).

mod conntrack;
mod sockets;
pub mod tightening;

use std::net::IpAddr;

use ringfence_dataplane::{NetnsPolicy, Packet};
use ringfence_model::{Direction, Protocol};

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
/// When the kernel refuses. The rules hold all the same; flows that they block may go on.
pub fn settle(policy: &NetnsPolicy) -> Result<bool, FlowError> {
    let mut table = Conntrack::open()?;
    let mut ended = Vec::new();
    let mut left = false;
    for flow in table.flows()? {
        let blocked = is_blocked(policy, &flow);
        left |= blocked && !flow.is_over;
        if blocked && !flow.is_ended() && !flow.is_over && table.mark(&flow, true)? {
            ended.push(flow.packet);
        } else if !blocked && flow.is_ended() {
            table.mark(&flow, false)?;
        }
    }
    if !ended.is_empty() {
        tracing::info!(flows = ended.len(), "ended flows that the policy blocks");
        sockets::close(ended.into_iter().filter(|flow| flow.protocol == Protocol::TCP));
    }
    Ok(left)
}

/// Takes back every bit of ours, when no rule looks at them any more.
///
/// # Errors
/// When the kernel refuses.
pub fn forgive_all() -> Result<(), FlowError> {
    let mut table = Conntrack::open()?;
    for flow in table.flows()?.into_iter().filter(Flow::is_ended) {
        table.mark(&flow, false)?;
    }
    Ok(())
}

/// Whether the policy blocks the flow. What is related to another flow goes with that one.
fn is_blocked(policy: &NetnsPolicy, flow: &Flow) -> bool {
    let packet = Packet { direction: direction(policy, &flow.packet), ..flow.packet };
    !flow.related && policy.judge_flow(&packet, flow.picked_up).blocks
}

/// What an address of the Pod began is outbound; everything else came in.
fn direction(policy: &NetnsPolicy, packet: &Packet) -> Direction {
    match packet.src {
        IpAddr::V4(address) if policy.own.contains(&address) => Direction::Outbound,
        _ => Direction::Inbound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_dataplane::{Enforcement, Entry, Match, Peers};
    use ringfence_model::{PortMatch, Services};

    /// Full; anyone may reach port 80 of 10.0.0.1.
    fn policy() -> NetnsPolicy {
        let mut policy = NetnsPolicy::new(Enforcement::Full);
        policy.own = ["10.0.0.1".parse().expect("valid")].into();
        let port = PortMatch::parse("TCP", Some(80), None, None, None).expect("valid");
        policy.inbound.allow.push(Entry {
            matching: Match::Hosts { peers: Peers::Anyone, services: Services::Only([port].into()) },
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
        assert!(!is_blocked(&policy, &flow("10.0.0.9", 40000, "10.0.0.1", 80)));
        assert!(is_blocked(&policy, &flow("10.0.0.9", 40000, "10.0.0.1", 81)));
        assert!(is_blocked(&policy, &flow("10.0.0.1", 40000, "10.0.0.9", 80)), "outbound has no rule");
    }

    #[test]
    fn a_flow_that_was_picked_up_backwards_is_judged_both_ways() {
        let mut backwards = flow("10.0.0.1", 80, "10.0.0.9", 40000);
        assert!(is_blocked(&policy(), &backwards));
        backwards.picked_up = true;
        assert!(!is_blocked(&policy(), &backwards));
    }

    #[test]
    fn what_is_related_goes_with_its_flow() {
        let mut related = flow("10.0.0.9", 40000, "10.0.0.1", 81);
        related.related = true;
        assert!(!is_blocked(&policy(), &related));
    }
}
