//! What a Pod lets in from its node, where the node's gate has judged it, and from other nodes, where theirs have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::{PortMatch, Services};

use crate::policy::{Enforcement, Entry, HostSet, Match, NetnsPolicy, Nets, Origin, Side};

/// On which ports a Pod lets its node in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// On those that a rule opens to anybody, and those of probes: the gate says to whom.
    Judged,
    /// On those of probes alone, since something translates connections that the gate does not see.
    Probes,
}

/// The policy of a Pod behind a gate. From the node's addresses it lets in what the gate has let pass; `node_addresses`
/// are those for which the gate is in force, none as long as it is not.
///
/// In Full these are the ports that some rule opens and no others, so that a gate that somebody takes away does not open what
/// nobody may reach. In Selective the gate alone blocks what a Deny hits.
#[must_use]
pub fn admit(policy: &NetnsPolicy, ports: Ports, node_addresses: &[IpAddr]) -> NetnsPolicy {
    let mut admitting = policy.clone();
    // The gate knows who reaches itself, and whom probes come from.
    admitting.inbound.essential.retain(|entry| !(is_probe(entry) || entry.matching == Match::OwnOrigin));
    let services = match (ports, policy.state) {
        (Ports::Judged, Enforcement::Full) => services(policy.inbound.essential.iter().chain(&policy.inbound.allow)),
        (Ports::Judged, _) => Services::All,
        (Ports::Probes, _) => services(policy.inbound.essential.iter().filter(|entry| is_probe(entry))),
    };
    if services != Services::Only(BTreeSet::new()) {
        let nets = Arc::new(node_addresses.iter().copied().collect());
        let peers = HostSet { origins: BTreeSet::from([Origin::Gate]), nets };
        let entry = Entry { matching: Match::Hosts { peers, services }, reject: false, rule: "gate".to_owned() };
        // Where nothing overrides an Allow it is one itself, behind those of rules: nearly nothing comes from a node, and every packet
        // that gets so far is looked for in its set.
        // (Of either direction: nobody knows in which one a connection without its first packet began.)
        if admitting.inbound.override_deny.is_empty() && admitting.outbound.override_deny.is_empty() {
            admitting.inbound.allow.push(entry);
        } else {
            admitting.inbound.essential.insert(0, entry);
        }
    }
    admitting
}

fn is_probe(entry: &Entry) -> bool {
    matches!(&entry.matching, Match::Hosts { peers, .. } if peers.origins.iter().eq([&Origin::Node]))
}

/// All services that entries are about.
fn services<'a>(entries: impl Iterator<Item = &'a Entry>) -> Services {
    let mut ports: BTreeSet<PortMatch> = BTreeSet::new();
    for entry in entries {
        match &entry.matching {
            Match::Hosts { services: Services::All, .. } => return Services::All,
            Match::Hosts { services: Services::Only(list), .. } => ports.extend(list.iter().cloned()),
            Match::Sealed { .. } | Match::Unsealed { .. } | Match::Ends(_) | Match::OwnOrigin => {}
        }
    }
    Services::Only(ports)
}

/// The policy of a Pod that is exposed on other nodes as well. From those of them whose gate seals it lets in what is sealed,
/// in Full on ports that some rule opens and no others, and nothing else: who comes by them cannot be told otherwise.
#[must_use]
pub fn admit_sealed(policy: NetnsPolicy, gates: Arc<Nets>) -> NetnsPolicy {
    let nodes = HostSet { origins: BTreeSet::from([Origin::Gates]), nets: gates };
    let Side { essential, allow, .. } = &policy.inbound;
    let services = match policy.state {
        Enforcement::VisibilityOnly => return policy,
        Enforcement::Selective => Services::All,
        Enforcement::Full => services(essential.iter().filter(|entry| !is_probe(entry)).chain(allow)),
    };
    let of = |matching, rule: &str| Entry { matching, reject: false, rule: rule.to_owned() };
    let mut policy = policy;
    let sealed = Match::Sealed { nodes: nodes.clone(), services };
    policy.inbound.essential.push(of(sealed, "gate:sealed"));
    // What Selective blocks, the gates of those nodes have dropped.
    if policy.state == Enforcement::Full {
        policy.inbound.override_deny.insert(0, of(Match::Unsealed { nodes }, "gate:unsealed"));
    }
    policy
}
