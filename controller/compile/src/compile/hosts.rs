//! The policy of nodes' own traffic: which state and labels, and what no policy touches (policy model, "Nodes").
//!
//! Ports of the control plane are those that the cluster tells of: the apiserver's by the EndpointSlices of its Service, the
//! kubelets' by their Node objects, and all of them by the command lines of static Pods; where nobody tells, those that
//! everybody uses. Nodes are essential to one another as a group, so that a node that joins costs no NodePolicy a write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_crds::node_policy::{HostEssential, HostPolicy};
use ringfence_crds::{ContainerClusterSpec, PortSpec};
use ringfence_model::{AddressSet, Direction, PortMatch, Protocol, Selector};

use super::essentials;
use super::machines::NodeFacts;
use super::selector::{PeerSelector, WorkloadKind, WorkloadSelector};
use super::world::Facts;
use crate::cluster::{APISERVER, ClusterState};

const SSH: u16 = 22;
const KUBELET: u16 = 10250;
const ETCD: [u16; 2] = [2379, 2380];
/// Where kube-proxy says whether it is well.
const PROXY_HEALTH: u16 = 10256;
/// VXLAN, as assigned and as Linux has it; Geneve; WireGuard as Flannel, Calico over IPv6 and Cilium have it; IKE, and ESP in UDP.
const OVERLAY: [u16; 8] = [4789, 8472, 6081, 51820, 51821, 51871, 500, 4500];
/// A packet of IPv4 in another, one of IPv6 in one of IPv4, GRE, ESP.
const ENCAPSULATED: [Protocol; 4] = [Protocol(4), Protocol(41), Protocol(47), Protocol(50)];
const BGP: u16 = 179;
/// Where clouds tell a machine about itself.
const METADATA: [&str; 2] = ["169.254.169.254/32", "fd00:ec2::254/128"];
/// At most so many other nodes are asked whether the Pod network still works.
const WITNESSES: usize = 8;

/// The selector of all nodes.
pub fn all_nodes() -> Arc<PeerSelector> {
    Arc::new(WorkloadSelector { kind: WorkloadKind::ContainerHosts, labels: Selector::everything() }.into())
}

/// What the policies of nodes have in common.
pub struct Hosts<'a> {
    cluster: &'a ClusterState,
    facts: &'a Facts,
    /// Whether masters are labelled: then no other node has an apiserver.
    labelled: bool,
    /// Name of the group of all nodes.
    nodes: String,
    /// What is the same for every node.
    everywhere: Vec<HostEssential>,
    /// Where the control plane connects from.
    control_plane: BTreeSet<IpAddr>,
    apiserver_ports: BTreeSet<u16>,
    etcd_ports: BTreeSet<u16>,
    etcd_servers: BTreeSet<(IpAddr, u16)>,
    kubelet_ports: BTreeSet<u16>,
    /// By node, an address of it on the Pod network, of each family.
    on_pod_network: BTreeMap<&'a str, Vec<IpAddr>>,
}

impl<'a> Hosts<'a> {
    /// Finds it.
    pub fn new(settings: &ContainerClusterSpec, cluster: &'a ClusterState, facts: &'a Facts) -> Self {
        let endpoints = cluster.find_apiserver_endpoints();
        // Any kubelet can make a mirror Pod of its own node, whatever that says.
        let labelled = cluster.has_masters();
        let serves = |node: &str| {
            let addresses = || facts.nodes.get(node).map(|node| node.addresses(&facts.book));
            is_master(cluster, node)
                || !labelled && addresses().is_some_and(|own| !own.is_disjoint(&cluster.apiserver_addresses))
        };
        let trusted = || cluster.pods.values().filter(|pod| pod.node.as_deref().is_some_and(serves));
        let said = || trusted().filter_map(|pod| pod.control_plane.as_deref());
        let etcd: BTreeSet<u16> = said().flat_map(|ports| ports.etcd.iter().copied()).collect();
        let apiserver = said().flat_map(|ports| ports.apiserver.iter().copied());
        let kubelets = cluster.nodes.values().map(|node| node.kubelet_port.unwrap_or(KUBELET));
        let masters = facts.nodes.iter().filter(|(name, _)| is_master(cluster, name));
        let masters = masters.flat_map(|(_, node)| node.addresses(&facts.book));
        let nodes = all_nodes().name.clone();
        Self {
            everywhere: everywhere(settings, cluster, &endpoints, &nodes),
            control_plane: masters.chain(essentials::apiserver(cluster, facts)).collect(),
            apiserver_ports: apiserver.chain(endpoints.iter().map(|(_, port)| *port)).collect(),
            etcd_ports: if etcd.is_empty() { ETCD.into() } else { etcd },
            etcd_servers: said().flat_map(|ports| ports.etcd_servers.iter().copied()).collect(),
            kubelet_ports: kubelets.collect(),
            on_pod_network: on_pod_network(settings, cluster, facts),
            labelled,
            nodes,
            cluster,
            facts,
        }
    }

    /// The policy of a node; nothing if its own traffic has none.
    pub fn policy(&self, name: &str, node: &NodeFacts) -> Option<HostPolicy> {
        let state = node.enforced()?;
        let labels = node.workload.as_ref().map(|workload| workload.labels.to_strings()).unwrap_or_default();
        let mut essentials = self.everywhere.clone();
        let kubelet = self.cluster.nodes.get(name).and_then(|info| info.kubelet_port).unwrap_or(KUBELET);
        essentials.push(inbound("kubelet", tcp([kubelet])).with(&self.control_plane));
        let is_master = is_master(self.cluster, name);
        if is_master {
            essentials.extend(self.of_master());
        }
        let is_named = || !node.addresses(&self.facts.book).is_disjoint(&self.cluster.apiserver_addresses);
        if (is_master || !self.labelled) && is_named() {
            essentials.extend(self.of_apiserver());
        }
        Some(HostPolicy { node: name.to_owned(), state, labels, essentials, witnesses: self.witnesses(name) })
    }

    /// etcd between masters; the control plane's way to kubelets.
    fn of_master(&self) -> Vec<HostEssential> {
        let etcd = tcp(self.etcd_ports.iter().copied());
        let mut found = vec![
            inbound("etcd", etcd.clone()).with(&self.control_plane),
            outbound("etcd", etcd).with(&self.control_plane),
            outbound("kubelet", tcp(self.kubelet_ports.iter().copied())).of_group(&self.nodes),
            // Before an apiserver has joined the others, no EndpointSlice names it.
            inbound("apiserver", tcp(self.apiserver_ports.iter().copied())).of_anyone(),
        ];
        found.extend(by_port("etcd", &self.etcd_servers));
        found
    }

    /// Whoever connects to the apiserver; its calls of Services, by their front ends.
    fn of_apiserver(&self) -> Vec<HostEssential> {
        let mut found = vec![
            inbound("apiserver", tcp(self.apiserver_ports.iter().copied())).of_anyone(),
            outbound("kubelet", tcp(self.kubelet_ports.iter().copied())).of_group(&self.nodes),
        ];
        let called = self.cluster.webhook_services.iter();
        let called = called.filter_map(|(key, ports)| Some((self.cluster.services.get(key)?, ports)));
        let ends = called.flat_map(|(service, ports)| {
            let ports = ports.iter().filter_map(|port| u16::try_from(*port).ok());
            ports.flat_map(|port| service.cluster_ips.iter().map(move |address| (*address, port)))
        });
        found.extend(by_port("webhook", &ends.collect()));
        found
    }

    /// Other nodes' addresses on the Pod network. Each node asks those that come after it by name, so that a node that joins
    /// concerns few.
    fn witnesses(&self, name: &str) -> Vec<String> {
        let after = self.on_pod_network.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        let before = self.on_pod_network.range::<str, _>((Bound::Unbounded, Bound::Excluded(name)));
        after.chain(before).take(WITNESSES).flat_map(|(_, found)| found).map(ToString::to_string).collect()
    }
}

fn is_master(cluster: &ClusterState, name: &str) -> bool {
    cluster.nodes.get(name).is_some_and(|node| node.control_plane)
}

/// Of each node and family, the first believed address that lies where Pods have theirs: a bridge, a tunnel.
fn on_pod_network<'a>(
    settings: &ContainerClusterSpec,
    cluster: &ClusterState,
    facts: &'a Facts,
) -> BTreeMap<&'a str, Vec<IpAddr>> {
    let given = settings.pod_networks.iter().flat_map(|network| &network.cidrs);
    let given = given.filter_map(|text| text.parse::<IpNet>().ok());
    let ranges: Vec<IpNet> =
        cluster.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).chain(given).collect();
    let found = facts.nodes.iter().map(|(name, node)| {
        let believed: BTreeSet<IpAddr> =
            node.believed(&facts.book).filter(|address| ranges.iter().any(|range| range.contains(address))).collect();
        let first = |v4: bool| believed.iter().copied().find(|address| address.is_ipv4() == v4);
        (name.as_str(), [first(true), first(false)].into_iter().flatten().collect::<Vec<_>>())
    });
    found.filter(|(_, addresses)| !addresses.is_empty()).collect()
}

/// What is the same for every node. `nodes`: the group of all of them.
fn everywhere(
    settings: &ContainerClusterSpec,
    cluster: &ClusterState,
    endpoints: &BTreeSet<(IpAddr, u16)>,
    nodes: &str,
) -> Vec<HostEssential> {
    let health = cluster.services.values().filter_map(|service| service.health_check_port).chain([PROXY_HEALTH]);
    let mut found = vec![
        inbound("ssh", tcp([SSH])).of_anyone(),
        inbound("health", tcp(health.collect::<BTreeSet<_>>())).of_anyone(),
        inbound("dhcp", udp([68, 546])).of_anyone(),
        outbound("dhcp", udp([67, 547])).of_anyone(),
        outbound("ntp", udp([123])).of_anyone(),
        outbound("metadata", tcp([80])).at(METADATA.map(str::to_owned)),
    ];
    for direction in [Direction::Inbound, Direction::Outbound] {
        found.push(essential("overlay", direction, overlay()).of_group(nodes));
        found.push(essential("routing", direction, tcp([BGP])).of_group(nodes));
        // By which a change of rules is tried.
        found.push(essential("echo", direction, echo()).of_group(nodes));
    }
    let service = cluster.services.iter().find(|(key, _)| (key.namespace.as_str(), key.name.as_str()) == APISERVER);
    let fronts = service.into_iter().flat_map(|(_, service)| {
        let ports = service.ports.iter().map(|port| port.port);
        ports.flat_map(|port| service.cluster_ips.iter().map(move |address| (*address, port)))
    });
    found.extend(by_port("apiserver", &endpoints.iter().copied().chain(fronts).collect()));
    if !settings.failsafe_ports.is_empty() {
        found.push(inbound("failsafe", settings.failsafe_ports.clone()).of_anyone());
    }
    found.extend(settings.failsafe_destinations.iter().map(|destination| {
        let ranges = destination.ranges.iter().filter_map(|text| AddressSet::parse(text).ok()).flatten();
        outbound("failsafe", destination.ports.clone()).at(ranges.map(|net| net.to_string()))
    }));
    found
}

fn overlay() -> Vec<PortSpec> {
    let whole = ENCAPSULATED.map(|protocol| PortSpec { protocol: protocol.to_string(), ..PortSpec::default() });
    udp(OVERLAY).into_iter().chain(whole).collect()
}

/// The request of a ping, of both families.
fn echo() -> Vec<PortSpec> {
    let of = |protocol: Protocol, kind| PortSpec {
        protocol: protocol.to_string(),
        icmp_type: Some(kind),
        ..PortSpec::default()
    };
    vec![of(Protocol::ICMP, 8), of(Protocol::ICMPV6, 128)]
}

/// Outbound to addresses and ports: those of one port together.
fn by_port(reason: &str, ends: &BTreeSet<(IpAddr, u16)>) -> Vec<HostEssential> {
    let mut ports: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, port) in ends {
        ports.entry(*port).or_default().insert(*address);
    }
    ports.into_iter().map(|(port, addresses)| outbound(reason, tcp([port])).with(&addresses)).collect()
}

fn tcp(ports: impl IntoIterator<Item = u16>) -> Vec<PortSpec> {
    ports
        .into_iter()
        .filter_map(|port| PortMatch::single(Protocol::TCP, port))
        .map(|port| PortSpec::from(&port))
        .collect()
}

fn udp(ports: impl IntoIterator<Item = u16>) -> Vec<PortSpec> {
    ports
        .into_iter()
        .filter_map(|port| PortMatch::single(Protocol::UDP, port))
        .map(|port| PortSpec::from(&port))
        .collect()
}

/// An essential that still has nobody on the other end.
struct Unpeered(HostEssential);

fn essential(reason: &str, direction: Direction, ports: Vec<PortSpec>) -> Unpeered {
    let (peers, peer_group) = (Vec::new(), None);
    Unpeered(HostEssential { reason: reason.to_owned(), direction, ports, peers, peer_group, anyone: false })
}

fn inbound(reason: &str, ports: Vec<PortSpec>) -> Unpeered {
    essential(reason, Direction::Inbound, ports)
}

fn outbound(reason: &str, ports: Vec<PortSpec>) -> Unpeered {
    essential(reason, Direction::Outbound, ports)
}

impl Unpeered {
    fn of_anyone(self) -> HostEssential {
        HostEssential { anyone: true, ..self.0 }
    }

    fn of_group(self, name: &str) -> HostEssential {
        HostEssential { peer_group: Some(name.to_owned()), ..self.0 }
    }

    fn at(self, prefixes: impl IntoIterator<Item = String>) -> HostEssential {
        HostEssential { peers: prefixes.into_iter().collect(), ..self.0 }
    }

    /// From these addresses, or to them.
    fn with(self, addresses: &BTreeSet<IpAddr>) -> HostEssential {
        self.at(addresses.iter().map(|address| IpNet::from(*address).to_string()))
    }
}
