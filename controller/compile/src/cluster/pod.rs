//! Pods: where they run, their addresses, and the ports that their spec names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSpec, PodStatus, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringfence_model::{Protocol, StringMap};

use super::{ControlPlanePorts, OwnerKey};

/// Set by the kubelet on the Pod object that mirrors a static Pod.
pub(super) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The whole object once more, as kubectl leaves it: big, and no label of ours.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// Its UID.
    pub uid: String,
    /// Kubernetes labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// The node it runs on, once it is scheduled.
    pub node: Option<String>,
    /// Whether it uses the network of its node.
    pub host_network: bool,
    /// Whether it is the mirror of a static Pod, so that the kubelet alone decides on its labels.
    pub mirror: bool,
    /// Whether it has ended (Succeeded or Failed) and opens no connection any more.
    pub ended: bool,
    /// Its addresses; none before it has a sandbox.
    pub ips: Vec<IpAddr>,
    /// What controls it.
    pub owner: Option<OwnerKey>,
    /// Ports that its containers declare.
    pub container_ports: Vec<ContainerPortInfo>,
    /// Ports that its probes and lifecycle hooks name.
    pub probe_ports: BTreeSet<(Protocol, u16)>,
    /// Resolvers of its own dnsConfig.
    pub dns_servers: Vec<IpAddr>,
    /// What it says of the control plane, if it is a part of it.
    pub control_plane: Option<Box<ControlPlanePorts>>,
}

/// A port that a container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPortInfo {
    /// Name, which a Service may refer to.
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

impl PodInfo {
    /// The number of a container port by name.
    pub fn named_port(&self, protocol: Protocol, name: &str) -> Option<u16> {
        self.container_ports
            .iter()
            .find(|port| port.protocol == protocol && port.name.as_deref() == Some(name))
            .map(|port| port.port)
    }
}

impl From<&Pod> for PodInfo {
    fn from(pod: &Pod) -> Self {
        let annotations: StringMap = without(LAST_APPLIED, pod.metadata.annotations.as_ref());
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let containers = long_running(spec);
        let dns = spec.dns_config.as_ref().and_then(|dns| dns.nameservers.as_ref());
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default().into_iter().collect(),
            node: spec.node_name.clone().filter(|name| !name.is_empty()),
            host_network: spec.host_network.unwrap_or(false),
            mirror: annotations.contains_key(MIRROR_ANNOTATION),
            annotations,
            ended: pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
            ips: pod.status.as_ref().map(ips).unwrap_or_default(),
            owner: OwnerKey::controller_of(&namespace, pod.metadata.owner_references.as_ref()),
            container_ports: containers.iter().flat_map(|container| declared(container)).collect(),
            probe_ports: containers.iter().flat_map(|container| probed(container)).collect(),
            dns_servers: dns.into_iter().flatten().filter_map(|text| text.parse().ok()).collect(),
            control_plane: ControlPlanePorts::of(pod).map(Box::new),
        }
    }
}

fn without(key: &str, annotations: Option<&BTreeMap<String, String>>) -> StringMap {
    let others = annotations.into_iter().flatten().filter(|(own, _)| *own != key);
    others.map(|(own, value)| (own.clone(), value.clone())).collect()
}

/// Containers, and the init containers that stay (sidecars).
fn long_running(spec: &PodSpec) -> Vec<&Container> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars).collect()
}

fn ips(status: &PodStatus) -> Vec<IpAddr> {
    let many = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let mut found: Vec<IpAddr> = many.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()).collect();
    found.sort();
    found.dedup();
    found
}

fn declared(container: &Container) -> Vec<ContainerPortInfo> {
    container
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(ContainerPortInfo {
                name: port.name.clone(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").parse().ok()?,
                port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

/// The TCP ports on the Pod's own address that the kubelet connects to.
fn probed(container: &Container) -> Vec<(Protocol, u16)> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let lifecycle = container.lifecycle.as_ref();
    let hooks = lifecycle.into_iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
    let ports = probes.into_iter().flatten().flat_map(probe_ports).chain(hooks.flatten().flat_map(hook_ports));
    ports
        .filter_map(|port| match port {
            IntOrString::Int(number) => u16::try_from(number).ok(),
            IntOrString::String(name) => by_name(container, &name),
        })
        .map(|port| (Protocol::TCP, port))
        .collect()
}

fn by_name(container: &Container, name: &str) -> Option<u16> {
    declared(container).into_iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.port)
}

/// A probe that names another host does not connect to the Pod.
fn own_host(host: Option<&String>) -> bool {
    host.is_none_or(String::is_empty)
}

fn probe_ports(probe: &Probe) -> Vec<IntOrString> {
    let http = probe.http_get.as_ref().filter(|get| own_host(get.host.as_ref())).map(|get| get.port.clone());
    let tcp = probe.tcp_socket.as_ref().filter(|tcp| own_host(tcp.host.as_ref())).map(|tcp| tcp.port.clone());
    let grpc = probe.grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port));
    [http, tcp, grpc].into_iter().flatten().collect()
}

fn hook_ports(hook: &LifecycleHandler) -> Vec<IntOrString> {
    let http = hook.http_get.as_ref().filter(|get| own_host(get.host.as_ref())).map(|get| get.port.clone());
    let tcp = hook.tcp_socket.as_ref().filter(|tcp| own_host(tcp.host.as_ref())).map(|tcp| tcp.port.clone());
    [http, tcp].into_iter().flatten().collect()
}
