//! What is behind a Service: which addresses of its EndpointSlices are believed.
//!
//! Whoever may write EndpointSlices in one namespace must not thereby reach into another (CVE-2021-25740): an address
//! counts only if it is that of a Pod of the Service's own namespace or of a declared unmanaged Workload.

use std::net::IpAddr;

use ringfence_crds::common::NamespacedName;

use super::addresses::Owner;
use super::limits::BACK_ENDS;
use super::selects;
use super::service_facts::{BackEnd, BackEnds, Refused};
use super::world::Facts;
use crate::cluster::{ClusterState, EndpointInfo, EndpointSliceInfo, ServiceInfo};

/// Reads the slices of a Service, whatever the readiness of the endpoints.
pub fn find(
    key: &NamespacedName,
    service: &ServiceInfo,
    cluster: &ClusterState,
    facts: &Facts,
    slices: &[&EndpointSliceInfo],
) -> BackEnds {
    let mut found = BackEnds::default();
    for slice in slices {
        for endpoint in &slice.endpoints {
            for address in &endpoint.addresses {
                found.pairs = found.pairs.saturating_add(slice.ports.len().max(1));
                if found.pairs > BACK_ENDS {
                    found.too_many = true;
                    break;
                }
                let judged = judge(*address, endpoint, key, cluster, facts);
                add(&mut found, *address, judged, slice, service, cluster);
            }
        }
    }
    found.accepted.sort();
    found.accepted.dedup();
    found
}

fn add(
    found: &mut BackEnds,
    address: IpAddr,
    judged: Result<(Owner, Option<NamespacedName>), (String, bool)>,
    slice: &EndpointSliceInfo,
    service: &ServiceInfo,
    cluster: &ClusterState,
) {
    match judged {
        Ok((owner, pod)) => {
            let labels = pod.as_ref().and_then(|key| Some((key, &cluster.pods.get(key)?.labels)));
            if let Some((key, _)) = labels.filter(|(_, labels)| !selects(&service.selector, labels)) {
                found.target_pods.insert(key.name.clone());
            }
            if let Owner::Pod(number) = owner {
                found.pods.insert(number);
            }
            found.accepted.extend(slice.ports.iter().map(|port| BackEnd {
                address,
                protocol: port.protocol,
                port: port.port,
                port_name: port.name.clone(),
                pod: pod.clone(),
                owner: owner.clone(),
            }));
        }
        Err((reason, foreign)) => {
            let ports = slice.ports.iter().map(|port| (port.name.clone(), port.protocol, port.port)).collect();
            let reason = format!("back end {address} is not opened: {reason}");
            found.refused.push(Refused { address, reason, foreign, ports });
        }
    }
}

/// Who is behind an address of a slice; or why it is not believed, and whether it certainly is none of the Service's.
fn judge(
    address: IpAddr,
    endpoint: &EndpointInfo,
    service: &NamespacedName,
    cluster: &ClusterState,
    facts: &Facts,
) -> Result<(Owner, Option<NamespacedName>), (String, bool)> {
    let owner = facts.book.owner(address);
    let target = endpoint.target_pod.as_ref().filter(|target| target.namespace == service.namespace);
    // A host-network Pod has the address of its node.
    let on_node = target.filter(|target| {
        cluster.pods.get(target).is_some_and(|pod| pod.host_network && !pod.ended && pod.ips.contains(&address))
    });
    let own = |number| facts.pods.at(number).map(|pod| &pod.key).filter(|key| key.namespace == service.namespace);
    match owner {
        Some(Owner::Unmanaged(name)) => Ok((Owner::Unmanaged(name.clone()), None)),
        Some(Owner::Pod(number)) if let Some(key) = own(*number) => {
            if target.is_none_or(|target| *target == **key) {
                Ok((Owner::Pod(*number), Some((**key).clone())))
            } else {
                Err((format!("it is that of pod/{key}, not of the Pod that the EndpointSlice names"), false))
            }
        }
        Some(Owner::Node(name)) if on_node.is_some() && is_workload(facts, name) => {
            Ok((Owner::Node(name.clone()), on_node.cloned()))
        }
        Some(Owner::Disputed) if target.is_some() => Err(("two Pods have the address".to_owned(), false)),
        // The Pod's own news may be on their way still.
        None if target.is_some_and(|target| cluster.pods.get(target).is_none_or(|pod| pod.ips.is_empty())) => {
            Err(("its Pod or the Pod's address is not known yet".to_owned(), false))
        }
        _ => Err((
            format!(
                "it is neither a Pod of namespace {} nor a declared unmanaged Workload (CVE-2021-25740)",
                service.namespace
            ),
            true,
        )),
    }
}

fn is_workload(facts: &Facts, node: &str) -> bool {
    facts.nodes.get(node).is_some_and(|node| node.workload.is_some())
}
