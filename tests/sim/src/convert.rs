//! The oracle's world as the compiler's inputs.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use ringfence_compile::cluster::{
    ClusterState, ContainerPortInfo, EndpointInfo, EndpointSliceInfo, NamespaceInfo, NodeInfo, PodInfo, ServiceInfo,
    ServicePortInfo, SlicePortInfo, TargetPortInfo,
};
use ringfence_compile::policy::Policy;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::compact::LabelTerms;
use ringfence_crds::container_cluster::{DefaultProfile, LabelMapEntry, LabelMapKind, Management, PodNetworkSpec};
use ringfence_crds::container_workload_profile::DimensionLabels;
use ringfence_crds::rule_set::{Actor, PolicyRule, Scope, ServiceRef};
use ringfence_crds::{
    ContainerClusterSpec, ContainerWorkloadProfileSpec, IpListSpec, LabelGroupSpec, PortSpec, RuleSetSpec,
    ServiceDefinitionSpec, VirtualServiceSpec, WorkloadSpec,
};
use ringfence_dataplane::{ContainerPort, LocalPod};
use ringfence_model::{AddressSet, Dimension, LabelValue, StringMap};
use ringfence_oracle::world::{self, World};

/// Policy and cluster that say what the world says.
pub fn inputs(world: &World) -> (Policy, ClusterState) {
    (policy(world), cluster(world))
}

/// A namespace and a name.
pub fn key(key: &world::Key) -> NamespacedName {
    NamespacedName { namespace: key.0.clone(), name: key.1.clone() }
}

fn policy(world: &World) -> Policy {
    let profiles = world.profiles.iter().map(|(name, profile)| (name.clone(), profile_spec(profile)));
    let written =
        world.written.iter().map(|(name, labels)| (key(name), VirtualServiceSpec { labels: strings(labels) }));
    let workloads = world.workloads.iter().map(|(name, workload)| {
        let addresses = workload.addresses.iter().map(ToString::to_string).collect();
        (name.clone(), WorkloadSpec { labels: strings(&workload.labels), addresses, ..WorkloadSpec::default() })
    });
    let ip_lists = world.ip_lists.iter().map(|(name, list)| {
        let spec = IpListSpec { ranges: ranges(&list.ranges), exclusions: ranges(&list.exclusions), fqdns: Vec::new() };
        (name.clone(), spec)
    });
    let groups = world.groups.iter().map(|(name, group)| {
        let spec = LabelGroupSpec {
            dimension: group.dimension.to_string(),
            values: group.values.iter().map(ToString::to_string).collect(),
            groups: group.groups.iter().cloned().collect(),
        };
        (name.clone(), spec)
    });
    let definitions = world.definitions.iter().map(|(name, ports)| {
        (name.clone(), ServiceDefinitionSpec { ports: ports.iter().map(PortSpec::from).collect() })
    });
    Policy {
        cluster: settings(&world.settings),
        profiles: profiles.collect(),
        rule_sets: world.rule_sets.iter().map(|(name, set)| (name.clone(), rule_set(set))).collect(),
        ip_lists: ip_lists.collect(),
        label_groups: groups.collect(),
        service_definitions: definitions.collect(),
        workloads: workloads.collect(),
        virtual_services: written.collect(),
        origins: BTreeMap::new(),
    }
}

fn settings(settings: &world::Settings) -> ContainerClusterSpec {
    let profile = profile_spec(&settings.default_profile);
    ContainerClusterSpec {
        management: if settings.cloud { Management::Cloud } else { Management::SelfManaged },
        default_profile: DefaultProfile {
            managed: profile.managed,
            policy_state: profile.policy_state,
            labels: profile.labels,
        },
        annotation_prefixes: settings.prefixes.clone(),
        label_map: settings.pod_label_map.iter().map(mapping).collect(),
        pod_networks: settings
            .networks
            .iter()
            .map(|(name, ranges)| PodNetworkSpec {
                name: name.clone(),
                cidrs: prefixes(ranges).iter().map(ToString::to_string).collect(),
            })
            .collect(),
        external_ip_ranges: ranges(&settings.external_ranges),
        ..ContainerClusterSpec::default()
    }
}

fn mapping(line: &world::Mapping) -> LabelMapEntry {
    LabelMapEntry {
        kind: LabelMapKind::Pod,
        from: line.from.clone(),
        to: line.to.to_string(),
        values: line.values.iter().map(|(from, to)| (from.clone(), to.to_string())).collect(),
    }
}

/// A profile as its namespace has it.
pub fn profile_spec(profile: &world::Profile) -> ContainerWorkloadProfileSpec {
    let labels = profile.labels.iter().map(|(dimension, rule)| {
        let labels = match rule {
            world::LabelRule::Fixed(value) => DimensionLabels { value: Some(value.to_string()), ..Default::default() },
            world::LabelRule::Choice(allowed) => {
                DimensionLabels { allowed: allowed.iter().map(ToString::to_string).collect(), ..Default::default() }
            }
            world::LabelRule::FromLabelMap => DimensionLabels { from_label_map: true, ..Default::default() },
        };
        (dimension.to_string(), labels)
    });
    ContainerWorkloadProfileSpec {
        managed: profile.state.is_some(),
        policy_state: profile.state,
        labels: labels.collect(),
        ..ContainerWorkloadProfileSpec::default()
    }
}

fn strings(labels: &world::Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(dimension, value)| (dimension.to_string(), value.to_string())).collect()
}

fn ranges(ranges: &[world::Range]) -> Vec<String> {
    ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect()
}

fn prefixes(list: &[world::Range]) -> Vec<IpNet> {
    ranges(list).iter().filter_map(|text| AddressSet::parse(text).ok()).flatten().collect()
}

fn compact(map: &BTreeMap<String, String>) -> StringMap {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn values(map: &BTreeMap<Dimension, BTreeSet<LabelValue>>) -> LabelTerms {
    let pairs = map.iter();
    pairs
        .map(|(dimension, values)| (dimension.clone().into(), values.iter().cloned().map(Into::into).collect()))
        .collect()
}

fn rule_set(set: &world::RuleSet) -> RuleSetSpec {
    RuleSetSpec {
        enabled: set.enabled,
        scopes: set.scopes.iter().map(|scope| Scope { labels: values(scope) }).collect(),
        rules: set.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &world::Rule) -> PolicyRule {
    let services = match &rule.services {
        world::RuleServices::Listed(list) => list.iter().map(service_ref).collect(),
        _ => Vec::new(),
    };
    PolicyRule {
        name: rule.name.clone(),
        enabled: rule.enabled,
        action: rule.action,
        extra_scope: rule.extra_scope,
        consumers: rule.consumers.iter().map(actor).collect(),
        providers: rule.providers.iter().map(actor).collect(),
        services,
        all_services: rule.services == world::RuleServices::All,
        use_virtual_service_ports: rule.services == world::RuleServices::OwnPorts,
        reject: rule.reject,
    }
}

fn service_ref(service: &world::ServiceRef) -> ServiceRef {
    match service {
        world::ServiceRef::Named(name) => ServiceRef { name: Some(name.clone()), ..ServiceRef::default() },
        world::ServiceRef::Port(port) => {
            let PortSpec { protocol, port, end_port, icmp_type, icmp_code } = PortSpec::from(port);
            ServiceRef { name: None, protocol: Some(protocol), port, end_port, icmp_type, icmp_code }
        }
    }
}

fn actor(actor: &world::Actor) -> Actor {
    match actor {
        world::Actor::Labels { is, not, groups } => Actor {
            labels: values(is),
            not: values(not),
            label_groups: groups.iter().cloned().collect(),
            ..Actor::default()
        },
        world::Actor::AllWorkloads => Actor { all_workloads: true, ..Actor::default() },
        world::Actor::IpList(name) => Actor { ip_list: Some(name.clone()), ..Actor::default() },
        world::Actor::VirtualService(service) => {
            Actor { virtual_service: Some(key(service).to_string()), ..Actor::default() }
        }
        world::Actor::Workload(name) => Actor { workload: Some(name.clone()), ..Actor::default() },
        world::Actor::ContainerHosts => Actor { container_hosts: true, ..Actor::default() },
    }
}

fn cluster(world: &World) -> ClusterState {
    let mut cluster = ClusterState { uid: "uid".to_owned(), ..ClusterState::default() };
    let namespaces = world.profiles.keys().chain(world.pods.keys().map(|(namespace, _)| namespace));
    for name in namespaces {
        cluster.namespaces.insert(name.clone(), NamespaceInfo::default());
    }
    for (name, node) in &world.nodes {
        let info = NodeInfo {
            addresses: node.addresses.clone(),
            reported: node.reported.clone(),
            control_plane: node.control_plane,
            ..NodeInfo::default()
        };
        cluster.nodes.insert(name.clone(), info);
    }
    cluster.pods = world.pods.iter().map(|(name, info)| (key(name), pod(info))).collect();
    for (name, info) in &world.services {
        cluster.services.insert(key(name), service(info));
        for (slice_name, info) in &info.slices {
            let slice_key = NamespacedName { namespace: name.0.clone(), name: format!("{}-{slice_name}", name.1) };
            cluster.endpoint_slices.insert(slice_key, slice(&name.1, info));
        }
    }
    cluster
}

fn pod(pod: &world::Pod) -> PodInfo {
    let ports = pod.ports.iter().map(|(name, protocol, port)| ContainerPortInfo {
        name: Some(name.clone()),
        protocol: *protocol,
        port: *port,
    });
    PodInfo {
        labels: compact(&pod.labels),
        annotations: compact(&pod.annotations),
        node: Some(pod.node.clone()),
        host_network: pod.host_network,
        mirror: pod.mirror,
        ended: pod.ended,
        ips: pod.addresses.clone(),
        container_ports: ports.collect(),
        probe_ports: pod.probe_ports.clone(),
        dns_servers: pod.resolvers.clone(),
        ..PodInfo::default()
    }
}

/// A Pod as the agent of its node knows it.
pub fn local_pod(key: &world::Key, pod: &world::Pod) -> LocalPod {
    let ports = pod.ports.iter().map(|(name, protocol, port)| ContainerPort {
        name: Some(name.clone()),
        protocol: *protocol,
        port: *port,
    });
    LocalPod {
        namespace: key.0.clone(),
        name: key.1.clone(),
        labels: compact(&pod.labels),
        annotations: compact(&pod.annotations),
        ips: pod.addresses.clone(),
        host_network: pod.host_network,
        mirror: pod.mirror,
        container_ports: ports.collect(),
        probe_ports: pod.probe_ports.clone(),
        dns_servers: pod.resolvers.clone(),
        ..LocalPod::default()
    }
}

fn service(service: &world::Service) -> ServiceInfo {
    let ports = service.ports.iter().map(|port| ServicePortInfo {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
        target_port: match &port.target {
            world::TargetPort::Number(number) => TargetPortInfo::Number(*number),
            world::TargetPort::Name(name) => TargetPortInfo::Name(name.clone()),
        },
        node_port: port.node_port,
    });
    ServiceInfo {
        annotations: compact(&service.annotations),
        selector: service.selector.clone(),
        cluster_ips: service.cluster_ips.clone(),
        external_ips: service.external_ips.clone(),
        ingress_ips: service.ingress_ips.clone(),
        ports: ports.collect(),
        external_policy_local: service.local,
        ..ServiceInfo::default()
    }
}

fn slice(service: &str, slice: &world::Slice) -> EndpointSliceInfo {
    let endpoints = slice
        .endpoints
        .iter()
        .map(|(addresses, target)| EndpointInfo { addresses: addresses.clone(), target_pod: target.as_ref().map(key) });
    let ports = slice.ports.iter().map(|(name, protocol, port)| SlicePortInfo {
        name: name.clone(),
        protocol: *protocol,
        port: *port,
    });
    EndpointSliceInfo { service: Some(service.to_owned()), endpoints: endpoints.collect(), ports: ports.collect() }
}
