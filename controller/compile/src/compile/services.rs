//! Services as policy sees them: labels, front ends, back ends, and the controllers behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_crds::address_group::{BackEnd, FrontEnd, ServiceEnds, TargetPort};
use ringfence_crds::common::NamespacedName;
use ringfence_crds::virtual_service::{BackendController, ServicePortStatus};
use ringfence_crds::{AddressGroupSpec, VirtualServiceStatus};
use ringfence_model::Protocol;

use super::addresses::{Claim, Owner};
use super::backends;
use super::exposed;
use super::labels::NamespaceProfile;
use super::limits::{self, BACK_ENDS};
use super::names;
use super::networks::Networks;
use super::service_facts::{self, BackEnds, Front, ServiceFacts};
use super::world::Facts;
use crate::cluster::{ClusterState, EndpointSliceInfo, OwnerKey, ServiceInfo, ServicePortInfo, TargetPortInfo};
use crate::policy::Policy;

/// The addresses that a Service has, whoever may claim them.
pub fn claims(service: &ServiceInfo) -> Vec<(IpAddr, Claim)> {
    let cluster_ips = service.cluster_ips.iter().map(|address| (*address, Claim::ClusterIp));
    let others = service.external_ips.iter().chain(&service.ingress_ips);
    cluster_ips.chain(others.map(|address| (*address, Claim::ServiceAddress))).collect()
}

/// All that is needed to read a Service.
pub struct Reader<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The cluster.
    pub cluster: &'a ClusterState,
    /// What follows from them so far.
    pub facts: &'a Facts,
}

impl Reader<'_> {
    /// Reads a Service with its slices.
    pub fn read(
        &self,
        key: &NamespacedName,
        service: &ServiceInfo,
        slices: &[&EndpointSliceInfo],
        profile: &NamespaceProfile,
    ) -> ServiceFacts {
        let mut facts = ServiceFacts {
            managed: profile.state.is_some(),
            selector: service.selector.clone(),
            exposed: exposed::is_exposed(service),
            ..ServiceFacts::default()
        };
        if service.external_name {
            facts.warnings.push("an ExternalName leads out of the cluster: nothing is opened for it".to_owned());
        } else {
            facts.behind = backends::find(key, service, self.cluster, self.facts, slices);
            if facts.behind.too_many {
                facts.warnings.push(format!(
                    "more than {BACK_ENDS} addresses times ports are behind it: none of its addresses is opened; split it"
                ));
            }
            facts.warnings.extend(facts.behind.refused.iter().map(|refused| refused.reason.clone()));
        }
        if facts.managed {
            let written = self.policy.virtual_services.get(key).map(|spec| &spec.labels);
            facts.labels = self.facts.settings.labels.of_service(profile, service, written);
            let refused = facts.labels.refused.iter();
            let refused =
                refused.map(|entry| format!("label {}={} is refused: {}", entry.dimension, entry.value, entry.reason));
            facts.warnings.extend(refused);
        }
        let ends = facts.behind.accepted.iter();
        facts.classes = ends.filter_map(|end| self.facts.class_at(end.address).cloned()).collect();
        facts.target_ports = target_ports(service, &facts.behind);
        facts.fronts = self.fronts(service, &mut facts);
        facts.warnings = limits::shown(std::mem::take(&mut facts.warnings));
        facts.hidden_source = exposed::hidden_source(service, &facts, profile, &self.facts.nodes);
        facts.shown = self.shown(service, &facts);
        facts
    }

    fn fronts(&self, service: &ServiceInfo, facts: &mut ServiceFacts) -> Vec<Front> {
        let mut addresses: BTreeSet<IpAddr> = service.cluster_ips.iter().chain(&service.ingress_ips).copied().collect();
        for address in &service.external_ips {
            if self.facts.settings.external_ranges.iter().any(|range| range.contains(address)) {
                addresses.insert(*address);
            } else {
                facts.warnings.push(format!(
                    "externalIP {address} is not opened: it lies outside spec.externalIpRanges of the ContainerCluster"
                ));
            }
        }
        let (foreign, behind) = (facts.behind.foreign(), facts.behind.targets());
        let mut fronts = BTreeSet::new();
        for port in &service.ports {
            let name = (port.protocol, port.name.as_str());
            let targets = targets(service, port, behind.get(&name));
            let open = !facts.behind.too_many && !foreign.contains(&name);
            let front = |address: IpAddr, number: u16| Front {
                address,
                protocol: port.protocol,
                port: number,
                targets: targets.clone(),
                service_port: port.port,
                open,
            };
            fronts.extend(addresses.iter().map(|address| front(*address, port.port)));
            if let Some(node_port) = port.node_port {
                let nodes = self.facts.nodes.values().flat_map(|node| node.addresses(&self.facts.book));
                fronts.extend(nodes.map(|address| front(address, node_port)));
            }
        }
        fronts.into_iter().collect()
    }

    fn shown(&self, service: &ServiceInfo, facts: &ServiceFacts) -> VirtualServiceStatus {
        let labels = &facts.labels.labels;
        let backends = self.controllers(facts);
        let text = backends.iter().map(|entry| format!("{}/{} ({})", entry.kind, entry.name, entry.pods));
        let text = text.collect::<Vec<_>>().join(", ");
        VirtualServiceStatus {
            labels: labels.to_strings(),
            label_text: (!labels.is_empty()).then(|| labels.to_string()),
            cluster_ips: service.cluster_ips.iter().map(ToString::to_string).collect(),
            ports: service.ports.iter().map(shown_port).collect(),
            backend_text: (!text.is_empty()).then_some(text),
            backends,
            ..VirtualServiceStatus::default()
        }
    }

    /// The listed controllers of the Pods behind a Service, with the number of their Pods.
    fn controllers(&self, facts: &ServiceFacts) -> Vec<BackendController> {
        let mut pods: BTreeMap<OwnerKey, BTreeSet<&NamespacedName>> = BTreeMap::new();
        for end in &facts.behind.accepted {
            let Some(key) = &end.pod else { continue };
            let owner = self.cluster.pods.get(key).and_then(|pod| pod.owner.clone());
            if let Some(owner) = owner.and_then(|owner| self.listed(owner)) {
                pods.entry(owner).or_default().insert(key);
            }
        }
        let listed = pods.into_iter().map(|(owner, pods)| BackendController {
            kind: owner.kind,
            name: owner.name,
            pods: i32::try_from(pods.len()).unwrap_or(i32::MAX),
        });
        listed.collect()
    }

    /// The nearest controller of a listed kind. The number of steps is bounded: owners may be written in a circle.
    fn listed(&self, owner: OwnerKey) -> Option<OwnerKey> {
        let mut current = owner;
        for _ in 0..8 {
            if OwnerKey::LISTED.contains(&current.kind.as_str()) {
                return Some(current);
            }
            current = self.cluster.owners.get(&current)?.clone()?;
        }
        None
    }
}

fn shown_port(port: &ServicePortInfo) -> ServicePortStatus {
    ServicePortStatus {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        protocol: port.protocol.to_string(),
        port: port.port.into(),
        target_port: match &port.target_port {
            TargetPortInfo::Number(number) => number.to_string(),
            TargetPortInfo::Name(name) => name.clone(),
        },
        node_port: port.node_port.map(Into::into),
    }
}

/// Ports on the Pods: those of the Service when it selects its Pods, else those that its slices give.
fn target_ports(service: &ServiceInfo, behind: &BackEnds) -> BTreeSet<(Protocol, TargetPortInfo)> {
    if service.selector.is_empty() {
        let ends = behind.accepted.iter();
        return ends.map(|end| (end.protocol, TargetPortInfo::Number(end.port))).collect();
    }
    service.ports.iter().map(|port| (port.protocol, port.target_port.clone())).collect()
}

/// The numbers of the ports behind one port of a Service; `behind`: those that its slices give.
fn targets(service: &ServiceInfo, port: &ServicePortInfo, behind: Option<&BTreeSet<u16>>) -> BTreeSet<u16> {
    let mut targets = behind.cloned().unwrap_or_default();
    if let (TargetPortInfo::Number(number), false) = (&port.target_port, service.selector.is_empty()) {
        targets.insert(*number);
    }
    targets
}

impl ServiceFacts {
    /// The ends of the Service as an object has them.
    pub fn ends(&self, key: &NamespacedName, networks: &Networks) -> ServiceEnds {
        let fronts = self.fronts.iter().filter(|front| front.open).map(|front| FrontEnd {
            address: front.address.to_string(),
            protocol: front.protocol.to_string(),
            port: front.port.into(),
            target_ports: front.targets.iter().map(|port| i32::from(*port)).collect(),
        });
        let network = |end: &service_facts::BackEnd| match end.owner {
            Owner::Pod(_) => networks.of_pod(end.address).map(|number| networks.id(number).to_string()),
            _ => None,
        };
        let backs = self.behind.accepted.iter().map(|end| BackEnd {
            network: network(end).unwrap_or_default(),
            address: end.address.to_string(),
            protocol: end.protocol.to_string(),
            port: end.port.into(),
        });
        let mut ends = ServiceEnds {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            selector: self.selector.clone(),
            target_pods: self.behind.target_pods.iter().cloned().collect(),
            target_ports: self.target_ports.iter().map(|(protocol, port)| target_port(*protocol, port)).collect(),
            front_ends: fronts.collect(),
            back_ends: backs.collect(),
            back_end_classes: self.classes.iter().map(|class| class.id.to_string()).collect(),
        };
        ends.back_ends.sort();
        ends.back_ends.dedup();
        ends.back_end_classes.sort();
        ends
    }

    /// The AddressGroup of a virtual service, with its name.
    pub fn address_group(&self, key: &NamespacedName, networks: &Networks) -> (String, AddressGroupSpec) {
        let id = names::service_id(key);
        let name = names::address_group(&id, 0);
        let spec = AddressGroupSpec {
            class: id,
            class_text: format!("service {key}"),
            slices: Some(1),
            service: Some(Box::new(self.ends(key, networks))),
            ..AddressGroupSpec::default()
        };
        (name, spec)
    }
}

fn target_port(protocol: Protocol, port: &TargetPortInfo) -> TargetPort {
    let (number, name) = match port {
        TargetPortInfo::Number(number) => (Some(i32::from(*number)), None),
        TargetPortInfo::Name(name) => (None, Some(name.clone())),
    };
    TargetPort { protocol: protocol.to_string(), port: number, name }
}
