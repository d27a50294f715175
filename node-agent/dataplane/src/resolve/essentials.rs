//! What no policy touches at a Pod (policy model, "Essential for a Pod"), beside loopback and replies, which every
//! rendered ruleset lets pass.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::NodePolicySpec;
use ringfence_crds::node_policy::{InboundEssential, NamedPort};
use ringfence_model::{PortMatch, Protocol, Services};

use super::{classes, subject};
use crate::input::LocalPod;
use crate::policy::{Entry, HostSet, Match, NetnsPolicy, Nets, Origin};

/// Adds the essentials of both directions to a policy.
pub fn add(policy: &mut NetnsPolicy, node: &NodePolicySpec, pod: &LocalPod, node_addresses: &[IpAddr]) {
    policy.outbound.essential.extend(resolvers(node, pod));
    if !policy.own.is_empty() {
        let rule = "essential:self".to_owned();
        policy.inbound.essential.push(Entry { matching: Match::OwnOrigin, reject: false, rule });
    }
    policy.inbound.essential.extend(probes(pod, node_addresses));
    let declared = node.inbound_essentials.iter().filter_map(|essential| inbound(essential, pod));
    policy.inbound.essential.extend(declared);
}

/// DNS, to the resolvers of the Pod's resolv.conf and to the cluster's.
fn resolvers(node: &NodePolicySpec, pod: &LocalPod) -> Option<Entry> {
    let declared = node.dns_servers.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let nets = pod.dns_servers.iter().copied().chain(declared).collect();
    let ports = [Protocol::UDP, Protocol::TCP].iter().filter_map(|protocol| PortMatch::single(*protocol, 53));
    listed("dns", Origin::Resolvers, Arc::new(nets), ports.collect())
}

/// Probes and lifecycle hooks, from this node's addresses to exactly the ports that the Pod's spec names.
fn probes(pod: &LocalPod, node_addresses: &[IpAddr]) -> Option<Entry> {
    let ports = pod.probe_ports.iter().filter_map(|(protocol, port)| PortMatch::single(*protocol, *port));
    let nets = node_addresses.iter().copied().collect();
    listed("probe", Origin::Node, Arc::new(nets), ports.collect())
}

/// What the NodePolicy declares for Pods like this one.
fn inbound(essential: &InboundEssential, pod: &LocalPod) -> Option<Entry> {
    let selected = !essential.selector.is_empty()
        && essential.namespace == pod.namespace
        && essential.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
    if !selected {
        return None;
    }
    let mut ports = subject::port_matches(&essential.ports);
    ports.extend(essential.named_ports.iter().filter_map(|port| named_port(port, pod)));
    if essential.any_source {
        return entry(&essential.reason, HostSet::anyone(), ports);
    }
    let prefixes = Arc::new(classes::prefixes(&essential.from));
    listed(&essential.reason, Origin::Prefixes(prefixes.clone()), prefixes, ports)
}

/// The first container port of a protocol and name: that is where a Service leads.
fn named_port(port: &NamedPort, pod: &LocalPod) -> Option<PortMatch> {
    let protocol = port.protocol.parse::<Protocol>().ok()?;
    subject::named_ports(&port.name, pod).find(|own| own.protocol == protocol)
}

fn listed(reason: &str, origin: Origin, nets: Arc<Nets>, ports: BTreeSet<PortMatch>) -> Option<Entry> {
    if nets.is_empty() {
        return None;
    }
    entry(reason, HostSet { origins: BTreeSet::from([origin]), nets }, ports)
}

fn entry(reason: &str, peers: HostSet, ports: BTreeSet<PortMatch>) -> Option<Entry> {
    if ports.is_empty() {
        return None;
    }
    let matching = Match::Hosts { peers, services: Services::Only(ports) };
    Some(Entry { matching, reject: false, rule: format!("essential:{reason}") })
}
