//! Services whose outside the node translates: a Pod in Full cannot know whom it would let in, so nothing is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_compile::cluster::ServiceInfo;
use ringfence_compile::compile::Computed;
use ringfence_crds::common::NamespacedName;
use ringfence_model::PolicyState;

use crate::engine::world::World;

/// For every such Service with a Pod in Full behind it, what is not opened and what helps.
pub fn find(world: &World, computed: &Computed) -> BTreeMap<NamespacedName, String> {
    let pods = computed.container_workloads.values();
    let full: BTreeSet<IpAddr> = pods
        .filter(|pod| pod.state == Some(PolicyState::Full) && !pod.host_network)
        .flat_map(|pod| pod.addresses.iter().copied())
        .collect();
    let services = computed.address_groups.values().filter_map(|group| group.service.as_ref());
    let hidden = services.filter_map(|ends| {
        let key = NamespacedName { namespace: ends.namespace.clone(), name: ends.name.clone() };
        let ways = ways_in(world.cluster.services.get(&key)?);
        let mut behind = ends.back_ends.iter().filter_map(|end| end.address.parse().ok());
        let hidden = !ways.is_empty() && behind.any(|address: IpAddr| full.contains(&address));
        hidden.then(|| (key, message(&ways)))
    });
    hidden.collect()
}

fn message(ways: &[String]) -> String {
    format!(
        "connections from outside ({}) are not opened towards Pods in Full, because the node hides their source: set \
         externalTrafficPolicy: Local",
        ways.join(", ")
    )
}

/// The ways into a Service on which the node puts its own address in place of the client's.
fn ways_in(service: &ServiceInfo) -> Vec<String> {
    if service.external_policy_local {
        return Vec::new();
    }
    let ports = service.ports.iter().filter_map(|port| port.node_port).map(|port| format!("nodePort {port}"));
    let ingress = service.ingress_ips.iter().map(|address| format!("load balancer {address}"));
    let external = service.external_ips.iter().map(|address| format!("externalIP {address}"));
    ports.chain(ingress).chain(external).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_compile::cluster::ServicePortInfo;
    use ringfence_compile::cluster::TargetPortInfo;
    use ringfence_compile::compile::ComputedPod;
    use ringfence_crds::AddressGroupSpec;
    use ringfence_crds::address_group::{BackEnd, ServiceEnds};
    use ringfence_model::Protocol;

    fn found(service: ServiceInfo, state: PolicyState) -> Option<String> {
        let key = NamespacedName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let (mut world, mut computed) = (World::default(), Computed::default());
        world.cluster.services.insert(key.clone(), service);
        let address: IpAddr = "10.244.0.7".parse().expect("a literal of the test");
        let pod = ComputedPod { state: Some(state), addresses: vec![address], ..ComputedPod::default() };
        computed.container_workloads.insert(key.clone(), pod);
        let end = BackEnd { address: address.to_string(), ..BackEnd::default() };
        let ends = ServiceEnds {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            back_ends: vec![end],
            ..ServiceEnds::default()
        };
        let group = AddressGroupSpec { service: Some(ends), ..AddressGroupSpec::default() };
        computed.address_groups.insert("s-1-0".to_owned(), group);
        find(&world, &computed).remove(&key)
    }
    fn with_node_port(node_port: Option<u16>) -> ServiceInfo {
        let port = ServicePortInfo {
            name: String::new(),
            protocol: Protocol::TCP,
            port: 80,
            target_port: TargetPortInfo::Number(8080),
            node_port,
        };
        ServiceInfo { ports: vec![port], ..ServiceInfo::default() }
    }

    #[test]
    fn a_node_port_towards_full_is_said_with_what_helps() {
        let text = found(with_node_port(Some(30080)), PolicyState::Full).expect("hidden");
        assert!(text.contains("nodePort 30080") && text.contains("externalTrafficPolicy: Local"), "{text}");
        assert_eq!(found(with_node_port(Some(30080)), PolicyState::Selective), None);
        assert_eq!(found(with_node_port(None), PolicyState::Full), None, "only from inside");
        let local = ServiceInfo { external_policy_local: true, ..with_node_port(Some(30080)) };
        assert_eq!(found(local, PolicyState::Full), None);
    }

    #[test]
    fn a_load_balancer_without_node_ports_counts() {
        let address = "203.0.113.7".parse().expect("a literal of the test");
        let balanced = ServiceInfo { ingress_ips: [address].into(), ..with_node_port(None) };
        let text = found(balanced, PolicyState::Full).expect("hidden");
        assert!(text.contains("load balancer 203.0.113.7"), "{text}");
    }
}
