//! Connections whose source a node translates: the back end sees an address of that node instead of who connects.
//!
//! The gate of the back end's own node judges by who connects, and so does that of any other node that seals, for Pods that are
//! exposed there. What comes by a node whose gate does not judge for the back end is taken for that node's own. Which node
//! translates and which of its addresses it takes is not always known. So every possible one is judged, and where they do not
//! come to the same, the answer is that it is not known.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_model::address::{all_ipv4, all_ipv6};
use ringfence_model::verdict::Outcome;

use super::ends::End;
use super::service::Entrance;
use super::side::Judged;
use super::{Evaluator, Port};
use crate::compile::addresses::Owner;

/// Which nodes may translate a connection.
enum Entry<'e> {
    /// This one.
    At(&'e str),
    /// Any of them.
    Anywhere,
    /// Any of them, or nobody: whether such a connection is translated depends on how kube-proxy is set up.
    Perhaps,
}

impl Evaluator<'_> {
    /// The back end of a connection through a Service, whoever it sees.
    pub(super) fn back_end_side(&self, end: &End<'_>, source: &End<'_>, entrance: &Entrance<'_>, port: Port) -> Judged {
        let itself = matches!((source.pod, end.pod), (Some((a, _)), Some((b, _))) if a == b);
        match self.entry(source, entrance) {
            Some(entry) if !itself => {
                self.unless_they_differ(end, &self.judged_as(source, &entry, entrance, end), port)
            }
            _ => self.destination_side(end, source, port),
        }
    }

    /// Where a connection is translated; nowhere on a ClusterIP used inside the cluster, nor with
    /// `externalTrafficPolicy: Local`.
    fn entry<'e>(&'e self, source: &End<'e>, entrance: &Entrance<'_>) -> Option<Entry<'e>> {
        let front = entrance.front?;
        if entrance.service.cluster_ips.contains(&front.address) {
            let inside = source.pod.is_some() || source.node.is_some();
            return (!inside).then_some(Entry::Perhaps);
        }
        if entrance.service.external_policy_local {
            return None;
        }
        if let Some(Owner::Node(name)) = self.world.owner(front.address) {
            return Some(Entry::At(name));
        }
        // Inside the cluster the first node on the way translates what is addressed to an externalIP. A load balancer's
        // own address may lead out to it and come in again anywhere.
        let own = source.node.or_else(|| source.pod.and_then(|(_, pod)| pod.node.as_deref()));
        match own.filter(|_| entrance.service.external_ips.contains(&front.address)) {
            Some(node) => Some(Entry::At(node)),
            None => Some(Entry::Anywhere),
        }
    }

    /// Everything that the connection to a back end may be judged as.
    fn judged_as<'e>(
        &'e self,
        source: &End<'e>,
        entry: &Entry<'e>,
        entrance: &Entrance<'_>,
        end: &End<'_>,
    ) -> Vec<End<'e>> {
        let v4 = entrance.front.is_none_or(|front| front.address.is_ipv4());
        let nodes: Vec<&str> = match entry {
            Entry::At(node) => vec![node],
            Entry::Anywhere | Entry::Perhaps => self.world.cluster.nodes.keys().map(String::as_str).collect(),
        };
        // The gates that know the rules of the back end: its own node's, and those of nodes that it is exposed on.
        let own = end.pod.and_then(|(_, pod)| pod.node.as_deref());
        let exposed = end.pod.is_some_and(|(key, _)| self.world.is_exposed(key));
        let seals = |node: &str| self.world.cluster.nodes.get(node).is_some_and(|node| node.seals);
        let (knowing, others): (Vec<&str>, Vec<&str>) =
            nodes.into_iter().partition(|node| own == Some(*node) || (exposed && seals(node)));
        let mut seen: Vec<End<'e>> =
            others.into_iter().flat_map(|node| self.node_as_source(source, node, v4)).collect();
        if matches!(entry, Entry::Perhaps) || !knowing.is_empty() {
            seen.push(source.clone());
        }
        seen
    }

    /// A node with each of its addresses of the family; and with one that is not known, as long as its agent has reported none.
    fn node_as_source<'e>(&'e self, source: &End<'e>, name: &'e str, v4: bool) -> Vec<End<'e>> {
        let Some(node) = self.node_end(name) else {
            return vec![source.hidden()];
        };
        let own = Owner::Node(name.into());
        let with = |address: &IpAddr| End {
            addresses: BTreeSet::from([*address]),
            peer: self.world.owner(*address) == Some(&own),
            ..node.clone()
        };
        let mut seen: Vec<End<'e>> = node.addresses.iter().filter(|own| own.is_ipv4() == v4).map(with).collect();
        if self.world.cluster.nodes.get(name).is_some_and(|node| node.reported.is_empty()) {
            let somewhere = Some(if v4 { all_ipv4() } else { all_ipv6() });
            seen.push(End { addresses: BTreeSet::new(), somewhere, ..node });
        }
        seen
    }

    /// One judgement for all that the back end may see. Where they differ, the one that lets most pass is shown, so
    /// that the verdict is neither "blocked" nor "allowed" but not known.
    fn unless_they_differ(&self, end: &End<'_>, seen: &[End<'_>], port: Port) -> Judged {
        let mut judged: Vec<(Outcome, &str, Judged)> = Vec::new();
        for source in seen {
            let judgement = self.destination_side(end, source, port);
            judged.push((judgement.outcome(), &source.name, judgement));
        }
        judged.sort_by_key(|(outcome, ..)| *outcome);
        let strictest = judged.last().map(|(outcome, name, _)| (*outcome, (*name).to_owned()));
        let mut judged = judged.into_iter();
        match (judged.next(), strictest) {
            (Some((mildest, name, judgement)), Some((outcome, other))) if mildest != outcome => Judged {
                unknown: Some(format!(
                    "a node hides who connects, and which node and which of its addresses {} sees instead is not \
                     known: {}, as one of {name}, but {}, as one of {other}",
                    end.name,
                    word(mildest),
                    word(outcome)
                )),
                ..judgement
            },
            (Some((_, _, judgement)), _) => judgement,
            // There is no node to come in by.
            (None, _) => self.destination_side(end, &End::external(IpAddr::from([0, 0, 0, 0])).hidden(), port),
        }
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "let pass",
        Outcome::WouldBlock => "let pass, and blocked in a stricter state",
        Outcome::Block => "blocked",
    }
}
