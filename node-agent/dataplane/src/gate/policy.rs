//! Who is behind the gate, and by which rules each is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::Direction;

use crate::judge::{Judgement, Packet};
use crate::policy::{Enforcement, Entry, Match, NetnsPolicy, Nets, Origin, Side};

/// What the gate of a node judges by. What lets everything pass, as VisibilityOnly does, is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatePolicy {
    /// Pods that are judged alike are behind one door.
    pub doors: Vec<Door>,
    /// The same for exposed Pods of other nodes; `None` where no Pod is exposed, so that nobody looks for seals.
    pub away: Option<Vec<Door>>,
    /// Whose the addresses behind these are.
    pub names: BTreeMap<IpAddr, String>,
}

/// An exposed Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// Namespace and name.
    pub name: String,
    /// Its addresses.
    pub pods: BTreeSet<IpAddr>,
    /// What it enforces; `None` as long as not all of it is known.
    pub policy: Option<NetnsPolicy>,
}

/// Pods of one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Selective or Full; of Pods of other nodes also VisibilityOnly.
    pub state: Enforcement,
    /// The rules.
    pub inbound: Side,
    /// Addresses of the Pods.
    pub pods: BTreeSet<IpAddr>,
}

impl GatePolicy {
    /// The gate before Pods with these policies. An address that two of them claim is nobody's until that is resolved:
    /// nothing passes to it.
    pub fn of<'a>(policies: impl IntoIterator<Item = &'a NetnsPolicy>) -> Self {
        let blocking: Vec<_> =
            policies.into_iter().filter(|policy| policy.state != Enforcement::VisibilityOnly).collect();
        let mut claims: BTreeMap<IpAddr, usize> = BTreeMap::new();
        blocking.iter().flat_map(|policy| &policy.own).for_each(|address| *claims.entry(*address).or_default() += 1);
        let mut gate = Self::default();
        for policy in blocking {
            let (own, disputed): (BTreeSet<_>, BTreeSet<_>) =
                policy.own.iter().partition(|address| claims.get(*address) == Some(&1));
            add(&mut gate.doors, policy.state, &policy.inbound, own);
            add(&mut gate.doors, Enforcement::Full, &Side::default(), disputed);
        }
        gate
    }

    /// The same with exposed Pods of other nodes, also of those that block nothing yet: whoever is let pass has a seal already when they
    /// begin to. Of those of which not everything is known, what was known `before` stays; nothing
    /// is sealed for those of which nothing was.
    #[must_use]
    pub fn sealing_for(self, exposed: &[Exposed], before: &Self) -> Self {
        let mut claims: BTreeMap<IpAddr, usize> = BTreeMap::new();
        exposed.iter().flat_map(|exposed| &exposed.pods).for_each(|pod| *claims.entry(*pod).or_default() += 1);
        // One that two Pods have is nobody's: nothing is sealed for it.
        let elsewhere = |pod: &&IpAddr| self.door(**pod).is_none() && claims.get(*pod) == Some(&1);
        let (mut away, mut names) = (Vec::new(), BTreeMap::new());
        for Exposed { name, pods, policy } in exposed {
            let pods: BTreeSet<IpAddr> = pods.iter().filter(elsewhere).copied().collect();
            names.extend(pods.iter().map(|pod| (*pod, name.clone())));
            if let Some(policy) = policy {
                add(&mut away, policy.state, &policy.inbound, pods);
                continue;
            }
            // An address may have been another Pod's before.
            for pod in pods.into_iter().filter(|pod| before.names.get(pod) == Some(name)) {
                let known = before.away.iter().flatten().find(|door| door.pods.contains(&pod));
                known.into_iter().for_each(|door| add(&mut away, door.state, &door.inbound, [pod].into()));
            }
        }
        Self { away: Some(away), names, ..self }
    }

    /// The door that an address is behind.
    pub fn door(&self, pod: IpAddr) -> Option<&Door> {
        self.every_door().find(|door| door.pods.contains(&pod))
    }

    /// All doors, those of other nodes' Pods after the others.
    pub fn every_door(&self) -> impl Iterator<Item = &Door> {
        self.doors.iter().chain(self.away.iter().flatten())
    }

    /// Judges connections, with these as the addresses of the node.
    pub fn judge(&self, local: &BTreeSet<IpAddr>) -> GateJudge {
        let policies: Vec<_> = self.every_door().map(|door| door.as_seen_by(local)).collect();
        let translated = policies.iter().map(without_seals).collect();
        let doors = self.every_door().enumerate();
        let doors = doors.flat_map(|(number, door)| door.pods.iter().map(move |pod| (*pod, number))).collect();
        GateJudge { policies, translated, doors }
    }
}

/// Puts Pods behind the door of those that are judged alike.
fn add(doors: &mut Vec<Door>, state: Enforcement, inbound: &Side, pods: BTreeSet<IpAddr>) {
    if pods.is_empty() {
        return;
    }
    let at_the_gate = |side: &Side| -> bool {
        let essential = inbound.essential.iter().filter(|entry| is_for_the_gate(entry));
        side.essential.iter().eq(essential)
            && (&side.override_deny, &side.allow, &side.deny) == (&inbound.override_deny, &inbound.allow, &inbound.deny)
    };
    if let Some(door) = doors.iter_mut().find(|door| door.state == state && at_the_gate(&door.inbound)) {
        return door.pods.extend(pods);
    }
    let mut inbound = inbound.clone();
    inbound.essential.retain(is_for_the_gate);
    doors.push(Door { state, inbound, pods });
}

/// Who reaches itself is known there by both addresses.
fn is_for_the_gate(entry: &Entry) -> bool {
    entry.matching != Match::OwnOrigin
}

/// A gate that judges connections one after the other.
#[derive(Debug)]
pub struct GateJudge {
    policies: Vec<NetnsPolicy>,
    /// The same for what this node translates: its gate looks for no seal there, since it judges the client itself.
    translated: Vec<NetnsPolicy>,
    /// The policy of each Pod.
    doors: BTreeMap<IpAddr, usize>,
}

impl GateJudge {
    /// Whether a Pod is behind the gate.
    pub fn guards(&self, pod: IpAddr) -> bool {
        self.doors.contains_key(&pod)
    }

    /// What becomes of a connection towards a Pod, as the gate sees it: from the client, to the Pod's own address and port, `translated` to
    /// these or not. Nothing where the Pod is behind no door.
    pub fn judge(&self, packet: &Packet, translated: bool) -> Option<Judgement> {
        let policies = if translated { &self.translated } else { &self.policies };
        let policy = policies.get(*self.doors.get(&packet.dst)?)?;
        Some(policy.judge(&Packet { direction: Direction::Inbound, ..*packet }))
    }
}

fn without_seals(policy: &NetnsPolicy) -> NetnsPolicy {
    let mut policy = policy.clone();
    let Side { essential, override_deny, .. } = &mut policy.inbound;
    essential.retain(|entry| !matches!(entry.matching, Match::Sealed { .. }));
    override_deny.retain(|entry| !matches!(entry.matching, Match::Unsealed { .. }));
    policy
}

impl Door {
    /// Whether its Pods look for a seal in what comes from other nodes: also in what one of these sends by way of this node, which
    /// translates it.
    pub fn looks_for_seals(&self) -> bool {
        self.inbound.essential.iter().any(|entry| matches!(entry.matching, Match::Sealed { .. }))
    }

    /// What the Pods behind the door enforce, with these as the addresses of their node.
    fn as_seen_by(&self, local: &BTreeSet<IpAddr>) -> NetnsPolicy {
        let mut policy = NetnsPolicy::new(self.state);
        policy.inbound = self.inbound.clone();
        let node: Arc<Nets> = Arc::new(local.iter().copied().collect());
        for entry in &mut policy.inbound.essential {
            if let Match::Hosts { peers, .. } = &mut entry.matching
                && peers.origins == BTreeSet::from([Origin::Node])
            {
                peers.nets = node.clone();
            }
        }
        policy
    }
}
