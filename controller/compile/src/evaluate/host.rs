//! What no policy touches on a node, as its NodePolicy says it to the agent.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_crds::node_policy::HostEssential;
use ringfence_model::{Direction, PortMatch, Protocol};

use super::ends::{End, Target};
use super::{Evaluator, Port};
use crate::compile::essentials::DNS_PORT;

impl Evaluator<'_> {
    /// To itself, of discovery, to the cluster's resolvers, probes of its own Pods, and what is declared. Which resolvers the
    /// node has of its own, only its agent knows.
    pub(super) fn host_essential_out(&self, node: &str, target: &Target<'_>) -> bool {
        let port = target.port;
        let itself = !target.addresses.is_disjoint(&self.world.addresses_of_node(node));
        let dns = matches!(port.protocol, Protocol::TCP | Protocol::UDP) && port.number == DNS_PORT;
        let resolver = dns && target.addresses.iter().any(|address| self.essentials.dns_servers.contains(address));
        let pod = target.pod.and_then(|key| self.world.cluster.pods.get(key));
        let probe = pod.is_some_and(|pod| {
            pod.node.as_deref() == Some(node) && pod.probe_ports.contains(&(port.protocol, port.number))
        });
        let to_node = || self.is_of_a_node(target.addresses);
        itself
            || port.is_discovery()
            || resolver
            || probe
            || self.declared(node, Direction::Outbound, port, target.addresses, to_node)
    }

    /// From itself, of discovery, and what is declared.
    pub(super) fn host_essential_in(&self, node: &str, source: &End<'_>, port: Port) -> bool {
        let from_node = || source.node.is_some();
        let itself = source.node == Some(node);
        itself || port.is_discovery() || self.declared(node, Direction::Inbound, port, &source.addresses, from_node)
    }

    fn declared(
        &self,
        node: &str,
        direction: Direction,
        port: Port,
        peer: &BTreeSet<IpAddr>,
        is_node: impl Fn() -> bool,
    ) -> bool {
        let host = self.world.computed.node_policies.get(node).and_then(|policy| policy.host.as_ref());
        let mut essentials = host.into_iter().flat_map(|host| &host.essentials);
        essentials.any(|essential| {
            let HostEssential { direction: own, ports, peers, peer_group, anyone, .. } = essential;
            let meant = |spec| PortMatch::try_from(spec).is_ok_and(|entry| port.is_meant_by(&entry));
            let among =
                |text: &String| text.parse::<IpNet>().is_ok_and(|net| peer.iter().any(|address| net.contains(address)));
            // The group is that of all nodes.
            let known = || *anyone || peers.iter().any(among) || (peer_group.is_some() && is_node());
            *own == direction && ports.iter().any(meant) && known()
        })
    }

    fn is_of_a_node(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        addresses.iter().any(|address| self.end_at(*address).node.is_some())
    }
}
