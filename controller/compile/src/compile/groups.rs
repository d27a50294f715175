//! AddressGroups: the members of classes in slices, and the ends of Services.

use std::collections::BTreeMap;

use ringfence_crds::AddressGroupSpec;
use ringfence_crds::address_group::{BackEnd, FrontEnd, ServiceEnds, TargetPort};
use ringfence_crds::common::{NamespacedName, NetworkAddress};
use sha2::{Digest, Sha256};

use super::names;
use super::services::ServiceFacts;
use super::workloads::Owner;
use super::world::World;
use crate::cluster::TargetPortInfo;

/// The most members of a slice.
const SLICE: usize = 100;

/// All AddressGroups, by name.
pub fn address_groups(world: &World<'_>) -> BTreeMap<String, AddressGroupSpec> {
    let mut groups = BTreeMap::new();
    for (class, members) in &world.workloads.classes {
        let id = class.id();
        let slices = sliced(members);
        let count = i32::try_from(slices.len()).unwrap_or(i32::MAX);
        for (number, members) in slices.into_iter().enumerate() {
            let spec = AddressGroupSpec {
                class: id.clone(),
                class_text: class.to_string(),
                slice: i32::try_from(number).unwrap_or(i32::MAX),
                slices: (number == 0).then_some(count),
                members,
                ..AddressGroupSpec::default()
            };
            groups.insert(names::address_group(&id, number), spec);
        }
    }
    for (key, service) in world.virtual_services() {
        let id = names::service_id(key);
        let spec = AddressGroupSpec {
            class: id.clone(),
            class_text: format!("service {key}"),
            slices: Some(1),
            service: Some(service_ends(world, key, service)),
            ..AddressGroupSpec::default()
        };
        groups.insert(names::address_group(&id, 0), spec);
    }
    groups
}

/// Members in slices. A member's slice follows from its address, and their number is a power of two, so that one that
/// comes or goes changes one slice; and everything follows from the members alone.
fn sliced(members: &[NetworkAddress]) -> Vec<Vec<NetworkAddress>> {
    let mut count = 1;
    loop {
        let mut slices = vec![Vec::new(); count];
        for member in members {
            slices[slot(member, count)].push(member.clone());
        }
        if slices.iter().all(|slice| slice.len() <= SLICE) {
            for slice in &mut slices {
                slice.sort();
            }
            return slices;
        }
        count *= 2;
    }
}

fn slot(member: &NetworkAddress, count: usize) -> usize {
    let digest = Sha256::digest(format!("{}|{}", member.network, member.address).as_bytes());
    let number = digest.iter().take(4).fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
    number % count
}

fn service_ends(world: &World<'_>, key: &NamespacedName, service: &ServiceFacts) -> ServiceEnds {
    let fronts = service.fronts.iter().filter(|front| front.open).map(|front| FrontEnd {
        address: front.address.to_string(),
        protocol: front.protocol.to_string(),
        port: front.port.into(),
        target_ports: front.targets.iter().map(|port| i32::from(*port)).collect(),
    });
    let backs = service.behind.accepted.iter().map(|end| BackEnd {
        network: match end.owner {
            Owner::Pod(_) => world.networks.of_pod(end.address).unwrap_or_default(),
            _ => String::new(),
        },
        address: end.address.to_string(),
        protocol: end.protocol.to_string(),
        port: end.port.into(),
    });
    let mut ends = ServiceEnds {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        selector: service.selector.clone(),
        target_pods: service.behind.target_pods.iter().cloned().collect(),
        target_ports: service.target_ports.iter().map(|(protocol, port)| target_port(*protocol, port)).collect(),
        front_ends: fronts.collect(),
        back_ends: backs.collect(),
        back_end_classes: service.classes.iter().map(|class| class.id()).collect(),
    };
    ends.back_ends.sort();
    ends.back_ends.dedup();
    ends.back_end_classes.sort();
    ends
}

fn target_port(protocol: ringfence_model::Protocol, port: &TargetPortInfo) -> TargetPort {
    let (number, name) = match port {
        TargetPortInfo::Number(number) => (Some(i32::from(*number)), None),
        TargetPortInfo::Name(name) => (None, Some(name.clone())),
    };
    TargetPort { protocol: protocol.to_string(), port: number, name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u32) -> Vec<NetworkAddress> {
        (0..count)
            .map(|number| NetworkAddress {
                network: "uid/default".to_owned(),
                address: std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(),
            })
            .collect()
    }

    #[test]
    fn slices_are_at_most_a_hundred_long_and_lose_nobody() {
        for count in [0, 1, 100, 101, 1000] {
            let slices = sliced(&members(count));
            assert!(slices.iter().all(|slice| slice.len() <= 100));
            let mut all: Vec<NetworkAddress> = slices.into_iter().flatten().collect();
            all.sort();
            let mut expected = members(count);
            expected.sort();
            assert_eq!(all, expected);
        }
        assert_eq!(sliced(&members(100)).len(), 1);
    }

    #[test]
    fn a_member_that_goes_changes_one_slice() {
        let all = sliced(&members(1000));
        let fewer = sliced(&members(999));
        assert_eq!(all.len(), fewer.len());
        assert_eq!(all.iter().zip(&fewer).filter(|(a, b)| a != b).count(), 1);
    }
}
