//! The policy of the node itself: which rules apply to its own traffic, and what none of them touches.
//!
//! 1. Its labels, its state and most of what is essential come from its NodePolicy, so that all nodes are described in one place.
//! 2. What only its agent knows is essential too: the resolvers it asks, the apiserver it talks to, and the probes of its Pods.
//! 3. While anything is missing there is no policy to stand in for it: what is in force stays. A node that is closed by mistake
//!    is worse off than one whose rules come a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ringfence_crds::node_policy::{HostEssential, HostPolicy};
use ringfence_model::{Action, Dimension, Direction, LabelValue, Labels, PolicyState, PortMatch, Protocol, Services};

use super::{Missing, NoRules, Resolution, Resolver, classes, subject};
use crate::chains::Place;
use crate::input::LocalPod;
use crate::policy::{End, Enforcement, Entry, HostSet, Match, NetnsPolicy, Nets, Origin};
use crate::resolve::gather::Gatherer;

/// What the agent itself knows of its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The resolvers that it asks.
    pub resolvers: Vec<IpAddr>,
    /// Where its agent finds the apiserver.
    pub apiserver: Vec<SocketAddr>,
}

impl Resolver<'_> {
    /// The policy of the node itself. `pods`: those that run on it, for their probes; not looked at where it has none.
    pub fn resolve_host(&mut self, host: &Host, pods: impl Iterator<Item = LocalPod>) -> Resolution {
        let Some(node) = self.store.node_policy.as_ref() else {
            return Resolution::Incomplete { missing: vec![Missing::NodePolicy], closed: None };
        };
        let Some(own) = &node.host else { return NoRules::Unmanaged.into() };
        let state = match own.state {
            PolicyState::Idle => return NoRules::Idle.into(),
            PolicyState::VisibilityOnly => Enforcement::VisibilityOnly,
            PolicyState::Selective => Enforcement::Selective,
            PolicyState::Full => Enforcement::Full,
        };
        let mut missing = BTreeSet::new();
        let mut policy = self.rules_of_node(own, &mut missing);
        (policy.place, policy.state) = (Place::Host, state);
        policy.own.extend(&host.addresses);
        for essential in &own.essentials {
            let entry = self.essential(essential, &mut missing);
            policy.side_mut(essential.direction).essential.extend(entry);
        }
        let cluster = node.dns_servers.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        policy.outbound.essential.extend(resolvers(host.resolvers.iter().copied().chain(cluster)));
        policy.outbound.essential.extend(apiserver(&host.apiserver));
        policy.outbound.essential.push(probes(pods));
        if missing.is_empty() {
            return Resolution::Enforce(policy);
        }
        Resolution::Incomplete { missing: missing.into_iter().collect(), closed: None }
    }

    /// The rules of a node. It cannot reject, so that whatever blocks drops.
    fn rules_of_node(&mut self, own: &HostPolicy, missing: &mut BTreeSet<Missing>) -> NetnsPolicy {
        let selectors = self.rules.selecting(&labels(&own.labels));
        let mut gatherer = Gatherer::of_node(&mut self.classes);
        for filed in self.rules.of_node(&selectors, &own.node) {
            let name = format!("{}/{}", filed.policy.rule_set, filed.rule.name);
            let rule = filed.rule;
            match rule.direction {
                Direction::Inbound => gatherer.inbound(rule, &name, &subject::written_services(rule), missing),
                Direction::Outbound => gatherer.outbound(rule, &name, missing),
            }
        }
        let mut policy = gatherer.finish();
        for direction in [Direction::Inbound, Direction::Outbound] {
            for action in [Action::Deny, Action::OverrideDeny] {
                policy.side_mut(direction).of(action).iter_mut().for_each(|entry| entry.reject = false);
            }
        }
        policy
    }

    /// What its NodePolicy says is essential; nothing where that is nobody, or no port.
    fn essential(&mut self, essential: &HostEssential, missing: &mut BTreeSet<Missing>) -> Option<Entry> {
        let HostEssential { reason, ports, peers, peer_group, anyone, .. } = essential;
        if *anyone {
            return entry(reason, HostSet::anyone(), subject::port_matches(ports));
        }
        let prefixes = Arc::new(classes::prefixes(peers));
        let mut parts = BTreeMap::new();
        if !prefixes.is_empty() {
            parts.insert(Origin::Prefixes(prefixes.clone()), prefixes);
        }
        if let Some(name) = peer_group
            && let Some((_, nets)) = self.classes.peer_group(name, missing)
        {
            parts.insert(Origin::PeerGroup(name.clone()), nets);
        }
        if parts.is_empty() {
            return None;
        }
        let peers = self.classes.union(parts);
        entry(reason, peers, subject::port_matches(ports))
    }
}

impl NetnsPolicy {
    fn side_mut(&mut self, direction: Direction) -> &mut crate::policy::Side {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }
}

/// Valid labels. (What is not valid no selector asks for.)
fn labels(written: &BTreeMap<String, String>) -> Labels {
    let mut labels = Labels::new();
    for (dimension, value) in written {
        if let (Ok(dimension), Ok(value)) = (dimension.parse::<Dimension>(), value.parse::<LabelValue>()) {
            labels.insert(dimension, value);
        }
    }
    labels
}

fn resolvers(servers: impl Iterator<Item = IpAddr>) -> Option<Entry> {
    let nets: Arc<Nets> = Arc::new(servers.collect());
    let ports = [Protocol::UDP, Protocol::TCP].iter().filter_map(|protocol| PortMatch::single(*protocol, 53));
    listed("dns", Origin::Resolvers, nets, ports.collect())
}

/// The apiserver as the agent finds it, beside what its NodePolicy says: addresses of one port together.
fn apiserver(ends: &[SocketAddr]) -> Vec<Entry> {
    let mut ports: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    ends.iter().for_each(|end| ports.entry(end.port()).or_default().push(end.ip()));
    let entries = ports.into_iter().filter_map(|(port, addresses)| {
        let nets: Arc<Nets> = Arc::new(addresses.into_iter().collect());
        let port = PortMatch::single(Protocol::TCP, port)?;
        listed("apiserver", Origin::Prefixes(nets.clone()), nets, [port].into())
    });
    entries.collect()
}

/// The kubelet's probes of the node's own Pods, each exactly. It is there without a Pod too, so that a Pod that starts changes
/// members and no rule.
fn probes(pods: impl Iterator<Item = LocalPod>) -> Entry {
    let mut ends = BTreeSet::new();
    for pod in pods.filter(|pod| !pod.host_network) {
        for (protocol, port) in pod.probe_ports {
            ends.extend(pod.ips.iter().map(|address| End { address: *address, protocol, port }));
        }
    }
    let matching = Match::Ends(Arc::new(ends));
    Entry { matching, reject: false, rule: "essential:probe".to_owned() }
}

fn listed(reason: &str, origin: Origin, nets: Arc<Nets>, ports: BTreeSet<PortMatch>) -> Option<Entry> {
    let peers = HostSet { origins: BTreeSet::from([origin]), nets };
    (!peers.nets.is_empty()).then(|| entry(reason, peers, ports)).flatten()
}

fn entry(reason: &str, peers: HostSet, ports: BTreeSet<PortMatch>) -> Option<Entry> {
    let matching = Match::Hosts { peers, services: Services::Only(ports.clone()) };
    (!ports.is_empty()).then(|| Entry { matching, reject: false, rule: format!("essential:{reason}") })
}

#[cfg(test)]
#[path = "tests/host.rs"]
mod tests;
