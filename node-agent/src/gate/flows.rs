//! Flows through the gate: those that a tightened policy blocks end, and no others.
//!
//! Of a flow that the node neither translates nor began, its Pod knows the client: the Pod ends it. Of one that conntrack first saw
//! under way nobody knows who began it: it goes on. A flow of datagrams that the node itself has is forgotten instead of
//! ended, since it may have begun with the Pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_dataplane::gate::{GateJudge, GatePolicy};
use ringfence_model::Protocol;

use crate::flows::conntrack::{Conntrack, Flow};
use crate::flows::{Fate, FlowError};
use crate::machine;

/// Ends the flows of the node that its gate blocks, and lets those go on that were ended and that it lets pass. Says whether ended
/// flows are left, for which this has to be done again when the policy changes.
///
/// # Errors
/// When the kernel refuses, after everything else was done.
pub fn settle(gate: &GatePolicy) -> Result<bool, FlowError> {
    let local = machine::every_address();
    let judge = gate.judge(&local);
    let (mut ended, mut left) = (0, false);
    let judge = |flow: &Flow| {
        let fate = is_ours(&judge, &local, flow).then(|| fate(&judge, &local, flow))?;
        left |= fate == Fate::Ends;
        fate.is_due(flow).then_some(fate)
    };
    let settled = Conntrack::open()?.deal_with(judge, |table, flows| {
        let mut refused = Ok(());
        for (flow, fate) in flows {
            let done = fate.bring_about(table, &flow);
            refused = refused.and(done.map(|done| ended += usize::from(done)));
        }
        refused
    });
    if ended > 0 {
        tracing::info!(flows = ended, "ended flows that the gate blocks");
    }
    settled.map(|()| left)
}

/// Takes back every bit of ours from flows of these Pods, when no rule looks at them any more.
///
/// # Errors
/// When the kernel refuses.
pub fn forgive(pods: &BTreeSet<IpAddr>) -> Result<(), FlowError> {
    if pods.is_empty() {
        return Ok(());
    }
    Conntrack::open()?.forgive(|flow| pods.contains(&flow.provider().0))
}

/// Whether the gate alone knows who began a flow: the node translates it, or began it itself.
fn is_ours(judge: &GateJudge, local: &BTreeSet<IpAddr>, flow: &Flow) -> bool {
    let began_here = || local.contains(&flow.packet.src) && !flow.picked_up;
    judge.guards(flow.provider().0) && !flow.related && (flow.is_translated() || began_here())
}

fn fate(judge: &GateJudge, local: &BTreeSet<IpAddr>, flow: &Flow) -> Fate {
    let packet = flow.at_provider();
    let itself = packet.src == packet.dst;
    let led_here = (packet.dst, packet.dport) != (flow.packet.dst, flow.packet.dport);
    let blocks = judge.judge(&packet, led_here).is_some_and(|judgement| judgement.blocks);
    match blocks && !itself && !flow.is_over {
        false => Fate::GoesOn,
        true if local.contains(&packet.src) && !flow.is_translated() && packet.protocol != Protocol::TCP => {
            Fate::BeginsAgain
        }
        true => Fate::Ends,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_dataplane::gate::Door;
    use ringfence_dataplane::policy::{Enforcement, Side};
    use ringfence_dataplane::{Entry, HostSet, Match, Packet};
    use ringfence_model::{Direction, PortMatch, Services};

    const POD: &str = "10.244.1.5";
    const CLIENT: &str = "192.0.2.7";
    const NODE: &str = "172.30.0.11";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Full; the client may reach port 80.
    fn gate() -> GatePolicy {
        let nets = std::sync::Arc::new([ip(CLIENT)].into_iter().collect());
        let services = Services::Only(PortMatch::single(Protocol::TCP, 80).into_iter().collect());
        let matching = Match::Hosts { peers: HostSet { nets, ..HostSet::default() }, services };
        let allow = vec![Entry { matching, reject: false, rule: "shop/web".to_owned() }];
        let inbound = Side { allow: allow.into(), ..Side::default() };
        GatePolicy {
            doors: vec![Door { state: Enforcement::Full, inbound, pods: [ip(POD)].into() }],
            ..GatePolicy::default()
        }
    }

    fn flow(src: &str, dst: &str, dport: u16, protocol: Protocol) -> Flow {
        let (direction, icmp) = (Direction::Inbound, None);
        Flow::of(Packet { direction, protocol, src: ip(src), dst: ip(dst), sport: 40000, dport, icmp })
    }

    /// `None` for what is left to the Pod.
    fn of(flow: &Flow) -> Option<Fate> {
        let local = BTreeSet::from([ip(NODE)]);
        let judge = gate().judge(&local);
        is_ours(&judge, &local, flow).then(|| fate(&judge, &local, flow))
    }

    #[test]
    fn the_client_of_a_translated_flow_counts() {
        let through = |src, to| flow(src, NODE, 30080, Protocol::TCP).translated_to(ip(POD), to);
        assert_eq!(of(&through(CLIENT, 80)), Some(Fate::GoesOn));
        assert_eq!(of(&through(CLIENT, 81)), Some(Fate::Ends));
        assert_eq!(of(&through("192.0.2.8", 80)), Some(Fate::Ends));
        assert_eq!(of(&through(POD, 81)), Some(Fate::GoesOn), "it reaches itself");
        let elsewhere = flow("192.0.2.8", NODE, 30080, Protocol::TCP).translated_to(ip("10.244.1.9"), 80);
        assert_eq!(of(&elsewhere), None);
    }

    /// Such a Pod sees this node, and leaves to its gate what comes from it.
    #[test]
    fn flows_to_exposed_pods_of_other_nodes_end_here() {
        let GatePolicy { doors, .. } = gate();
        let judge = GatePolicy { away: Some(doors), ..GatePolicy::default() }.judge(&BTreeSet::new());
        let through = |src, to| flow(src, NODE, 30080, Protocol::TCP).translated_to(ip(POD), to);
        let of = |flow: &Flow| is_ours(&judge, &BTreeSet::new(), flow).then(|| fate(&judge, &BTreeSet::new(), flow));
        assert_eq!(of(&through(CLIENT, 80)), Some(Fate::GoesOn));
        assert_eq!(of(&through("192.0.2.8", 80)), Some(Fate::Ends));
        assert_eq!(of(&flow("192.0.2.8", POD, 80, Protocol::TCP)), None, "the Pod sees who that is");
    }

    #[test]
    fn what_the_pod_can_judge_is_left_to_it() {
        assert_eq!(of(&flow("192.0.2.8", POD, 80, Protocol::TCP)), None);
        let mut midway = flow(NODE, POD, 40001, Protocol::TCP);
        assert_eq!(of(&midway), Some(Fate::Ends), "the node has begun it");
        midway.picked_up = true;
        assert_eq!(of(&midway), None, "the Pod may have begun it");
        assert_eq!(of(&flow(NODE, POD, 40001, Protocol::UDP)), Some(Fate::BeginsAgain));
    }
}
