//! Existing flows: a tightened policy ends those that it blocks, and only those.
//!
//! Deleting a conntrack entry ends nothing, since the kernel picks the flow up again in the middle. A flow is ended by a
//! bit in its conntrack mark, which the rules drop before they let established flows pass. The bit is set before the
//! rules change, so that no packet slips through in between, and once more afterwards, for flows that began meanwhile.
//! When a later policy allows a flow again, the bit is taken back. Local TCP sockets are closed too, so that programs
//! notice at once.

mod conntrack;
mod sockets;

use std::net::IpAddr;

use ringfence_dataplane::{NetnsPolicy, Packet};
use ringfence_model::{Direction, Protocol};

use crate::apply::ApplyError;
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

/// Changes the rules, and ends the flows of the calling thread's network namespace that the new policy blocks. Answers
/// with what went wrong with the flows, if anything did: that is no reason not to put the rules in force.
///
/// # Errors
/// Those of the change.
pub fn around(
    policy: &NetnsPolicy,
    change: impl FnOnce() -> Result<(), ApplyError>,
) -> Result<Option<String>, ApplyError> {
    let before = Conntrack::open().and_then(|mut table| end_losers(&mut table, policy).map(|ended| (table, ended)));
    change()?;
    let after = before.and_then(|(mut table, mut ended)| {
        ended.extend(end_losers(&mut table, policy)?);
        forgive(&mut table, |flow| !is_blocked(policy, flow))?;
        Ok(ended)
    });
    match after {
        Ok(ended) => {
            if !ended.is_empty() {
                tracing::info!(flows = ended.len(), "ended flows that the policy blocks");
            }
            let sockets = ended.iter().filter(|flow| flow.packet.protocol == Protocol::TCP);
            sockets::close(sockets.map(|flow| flow.packet));
            Ok(None)
        }
        Err(error) => Ok(Some(format!("end flows that the policy blocks: {error}"))),
    }
}

/// Takes back every bit of ours, when no rule looks at them any more.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn forgive_all() -> Result<(), FlowError> {
    forgive(&mut Conntrack::open()?, |_| true)
}

/// Marks the flows that the policy blocks and that are not marked yet.
fn end_losers(table: &mut Conntrack, policy: &NetnsPolicy) -> Result<Vec<Flow>, FlowError> {
    let mut ended = Vec::new();
    for flow in table.flows()? {
        if !flow.is_ended() && is_blocked(policy, &flow) && table.mark(&flow, true)? {
            ended.push(flow);
        }
    }
    Ok(ended)
}

fn forgive(table: &mut Conntrack, deserves: impl Fn(&Flow) -> bool) -> Result<(), FlowError> {
    for flow in table.flows()?.into_iter().filter(|flow| flow.is_ended() && deserves(flow)) {
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
