//! What rows dial.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};

use super::super::dual_stack::both;
use super::bed::Bed;
use super::objects::{
    EXTERNAL_IPS, HOST_NETWORK_PORTS, HOST_PORTS, LOAD_BALANCERS, NAMED_ADDRESSES, PORTS, SERVERS, WEBHOOK_PORTS,
};
use super::scene::{Place, place};
use super::table::Target;
use crate::lab::{Lab, SLOW};
use crate::packets;
use crate::wait;

/// What is dialled: addresses, IPv4 first, and ports, the allowed one first.
#[derive(Debug, Clone)]
pub struct Door {
    /// One of each family.
    pub addresses: [IpAddr; 2],
    /// Of TCP, and of SCTP where there is any.
    pub tcp: [u16; 2],
    /// Of UDP.
    pub udp: [u16; 2],
}

impl Door {
    /// A door whose ports are the same for both protocols, of which UDP allows the second.
    pub fn new(addresses: [IpAddr; 2], ports: [u16; 2]) -> Self {
        Self { addresses, tcp: ports, udp: [ports[1], ports[0]] }
    }
}

/// Every door of the scene but those to Pods with probes.
pub async fn doors(lab: &Lab, bed: &Bed, places: &BTreeMap<String, Place>) -> Result<BTreeMap<Target, Door>> {
    let pod = |name| -> Result<[IpAddr; 2]> { Ok(place(places, name)?.addresses) };
    let service = |name| async move { both(&lab.cluster_ips(SERVERS, name).await?) };
    let parsed = |texts: [&str; 2]| both(&texts.map(str::parse::<IpAddr>).into_iter().collect::<Result<Vec<_>, _>>()?);
    let server = pod("server")?;
    let cluster = service("server").await?;
    let in_front = |addresses| Door { addresses, tcp: [80, 81], udp: [81, 80] };
    let (local, cluster_wide) =
        (node_ports(lab, "node-port-local").await?, node_ports(lab, "node-port-cluster").await?);
    let (rejecting, probed) = (node_ports(lab, "rejecting").await?, probed_port(lab).await?);
    let of_node = |node: &str, [tcp, udp]: [[u16; 2]; 2]| -> Result<Door> {
        Ok(Door { addresses: bed.address(node)?, tcp, udp })
    };
    let host_ports = HOST_PORTS.map(|(port, _, _)| port);
    let server_of_names =
        |name| bed.addresses.get(name).with_context(|| format!("no {name}"))?.parse::<IpAddr>().context(name);
    let dns = [server_of_names("DNS_SERVICE")?, server_of_names("DNS_SERVICE6")?];
    for (name, expected) in [("headless", server), ("alias", cluster)] {
        resolves_to(places, SocketAddr::new(dns[0], 53), name, expected).await?;
    }
    Ok(BTreeMap::from([
        (Target::Pod, Door::new(server, PORTS)),
        (Target::Tunnelled, Door::new(pod("tunnelled")?, PORTS)),
        (Target::ClusterIp, in_front(cluster)),
        (Target::Headless, Door::new(server, PORTS)),
        (Target::Manual, in_front(service("manual").await?)),
        (Target::Alias, in_front(cluster)),
        (Target::NodePortLocal, of_node("NODE2", local)?),
        (Target::NodePortHere, of_node("NODE2", cluster_wide)?),
        (Target::NodePortElsewhere, of_node("NODE3", cluster_wide)?),
        (Target::LoadBalancerLocal, in_front(parsed(LOAD_BALANCERS[0])?)),
        (Target::LoadBalancerCluster, in_front(parsed(LOAD_BALANCERS[1])?)),
        (Target::LoadBalancerElsewhere, in_front(parsed(LOAD_BALANCERS[2])?)),
        (Target::ExternalIpLocal, in_front(parsed(EXTERNAL_IPS[0])?)),
        (Target::ExternalIpCluster, in_front(parsed(EXTERNAL_IPS[1])?)),
        (Target::ExternalIpElsewhere, in_front(parsed(EXTERNAL_IPS[2])?)),
        (Target::HostPort, of_node("NODE2", [[host_ports[0], host_ports[2]], [host_ports[1], host_ports[3]]])?),
        (Target::ProbeByNodePort, Door::new(bed.address("NODE2")?, [probed; 2])),
        (Target::ProbeByNodePortElsewhere, Door::new(bed.address("NODE3")?, [probed; 2])),
        (Target::HostPod, Door::new(bed.address("NODE2")?, HOST_NETWORK_PORTS)),
        (Target::ClusterIpOfHostPod, in_front(service("host").await?)),
        (Target::Node, Door::new(bed.address("NODE1")?, HOST_NETWORK_PORTS)),
        (Target::ClusterIpOfNode, in_front(service("node").await?)),
        (Target::Outside, Door::new(bed.address("EXT")?, PORTS)),
        (Target::Named, Door::new(parsed(NAMED_ADDRESSES[0])?, PORTS)),
        (Target::Dns, Door { addresses: dns, tcp: [53; 2], udp: [53; 2] }),
        (Target::Webhook, Door::new(pod("webhook")?, PORTS)),
        (Target::ClusterIpOfWebhook, Door::new(service("webhook").await?, WEBHOOK_PORTS)),
        (Target::Redirect, Door::new(pod("redirect")?, PORTS)),
        (Target::Rejecting, Door::new(pod("rejecting")?, PORTS)),
        (Target::RejectingByNodePort, of_node("NODE2", rejecting)?),
        (Target::SmallMtu, Door::new(pod("small-mtu")?, PORTS)),
    ]))
}

/// The nodePorts of a Service, of TCP and UDP, the allowed ones first.
async fn node_ports(lab: &Lab, name: &str) -> Result<[[u16; 2]; 2]> {
    let live = lab.get("v1", "Service", Some(SERVERS), name).await?.with_context(|| format!("no Service {name}"))?;
    let port = |protocol: &str, target: u16| -> Result<u16> {
        let list = live["spec"]["ports"].as_array().context("a Service has ports")?;
        let entry = list.iter().find(|port| port["protocol"] == protocol && port["targetPort"] == target);
        let number = entry.and_then(|port| port["nodePort"].as_u64()).context("no nodePort")?;
        u16::try_from(number).context("a port has 16 bits")
    };
    Ok([[port("TCP", PORTS[0])?, port("TCP", PORTS[1])?], [port("UDP", PORTS[1])?, port("UDP", PORTS[0])?]])
}

/// The nodePort that leads to a port of a probe.
async fn probed_port(lab: &Lab) -> Result<u16> {
    let live = lab.get("v1", "Service", Some(SERVERS), "probed").await?.context("no Service probed")?;
    let number = live["spec"]["ports"][0]["nodePort"].as_u64().context("no nodePort")?;
    u16::try_from(number).context("a port has 16 bits")
}

/// Awaits that a Service's name means these addresses.
async fn resolves_to(
    places: &BTreeMap<String, Place>,
    server: SocketAddr,
    name: &str,
    expected: [IpAddr; 2],
) -> Result<()> {
    let (netns, name) = (&place(places, "far")?.netns, format!("{name}.{SERVERS}.svc.cluster.local"));
    wait::until(&format!("the name {name}"), SLOW, || async {
        let found = [false, true]
            .into_iter()
            .map(|v6| packets::addresses_of(netns, server, false, &name, v6))
            .collect::<std::io::Result<Vec<_>>>()?
            .concat();
        if found == expected { Ok(Some(())) } else { bail!("it means {found:?}") }
    })
    .await
}
