//! Services and their EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use ringfence_crds::common::NamespacedName;
use ringfence_model::{Protocol, StringMap};

/// The label by which a slice belongs to a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Kubernetes labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: StringMap,
    /// Its selector; empty when it has none.
    pub selector: BTreeMap<String, String>,
    /// Addresses inside the cluster; none for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses that its author claims.
    pub external_ips: BTreeSet<IpAddr>,
    /// Addresses that load balancers report.
    pub ingress_ips: BTreeSet<IpAddr>,
    /// Those of them that say of themselves that they are proxies (`ipMode: Proxy`): they connect to nodes on their own.
    pub proxy_ips: BTreeSet<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePortInfo>,
    /// Whether `externalTrafficPolicy: Local` keeps the client's address.
    pub external_policy_local: bool,
    /// Whether it leads out of the cluster by name.
    pub external_name: bool,
    /// Where load balancers ask each node whether it has Pods of the Service.
    pub health_check_port: Option<u16>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortInfo {
    /// Name; empty when it has none.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the Service's addresses.
    pub port: u16,
    /// Port on the Pods.
    pub target_port: TargetPortInfo,
    /// Port on the nodes.
    pub node_port: Option<u16>,
}

/// The port on the Pods behind a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetPortInfo {
    /// By number.
    Number(u16),
    /// By the name of a container port.
    Name(String),
}

impl From<&Service> for ServiceInfo {
    fn from(service: &Service) -> Self {
        let empty = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = ingress.and_then(|balancer| balancer.ingress.as_ref());
        let ingress = || ingress.into_iter().flatten();
        let address = |entry: &LoadBalancerIngress| entry.ip.as_ref()?.parse().ok();
        let is_proxy = |entry: &&LoadBalancerIngress| entry.ip_mode.as_deref() == Some("Proxy");
        Self {
            labels: service.metadata.labels.clone().unwrap_or_default(),
            annotations: service.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
            selector: spec.selector.clone().unwrap_or_default(),
            cluster_ips: cluster_ips(spec),
            external_ips: spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect(),
            ingress_ips: ingress().filter_map(address).collect(),
            proxy_ips: ingress().filter(is_proxy).filter_map(address).collect(),
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            external_policy_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            external_name: spec.type_.as_deref() == Some("ExternalName"),
            health_check_port: spec
                .health_check_node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0),
        }
    }
}

/// The word `None` of a headless Service is no address.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let many = spec.cluster_ips.iter().flatten();
    let mut found: Vec<IpAddr> = Vec::new();
    for address in many.chain(&spec.cluster_ip).filter_map(|text| text.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn port(port: &ServicePort) -> Option<ServicePortInfo> {
    let number = u16::try_from(port.port).ok()?;
    let target_port = match &port.target_port {
        Some(IntOrString::Int(target)) => match u16::try_from(*target).ok()? {
            0 => TargetPortInfo::Number(number),
            target => TargetPortInfo::Number(target),
        },
        Some(IntOrString::String(name)) if !name.is_empty() => TargetPortInfo::Name(name.clone()),
        _ => TargetPortInfo::Number(number),
    };
    Some(ServicePortInfo {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.as_deref().unwrap_or("TCP").parse().ok()?,
        port: number,
        target_port,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
    })
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSliceInfo {
    /// The Service of its namespace that it belongs to.
    pub service: Option<String>,
    /// What is behind the Service, whatever its readiness.
    pub endpoints: Vec<EndpointInfo>,
    /// The ports of every endpoint of the slice.
    pub ports: Vec<SlicePortInfo>,
}

impl EndpointSliceInfo {
    /// The addresses of all its endpoints.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied())
    }
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The Pod that it says it is.
    pub target_pod: Option<NamespacedName>,
}

/// A port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePortInfo {
    /// Name of the Service's port that it stands for; empty when that has none.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

impl From<&EndpointSlice> for EndpointSliceInfo {
    fn from(slice: &EndpointSlice) -> Self {
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        let labels = slice.metadata.labels.as_ref();
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(SlicePortInfo {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").parse().ok()?,
                port: u16::try_from(port.port?).ok()?,
            })
        });
        Self {
            service: labels.and_then(|labels| labels.get(SERVICE_NAME).cloned()),
            endpoints: slice.endpoints.iter().flatten().map(|entry| endpoint(&namespace, entry)).collect(),
            ports: ports.collect(),
        }
    }
}

fn endpoint(namespace: &str, endpoint: &Endpoint) -> EndpointInfo {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    EndpointInfo {
        addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        target_pod: target.and_then(|target| {
            Some(NamespacedName {
                namespace: target.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
                name: target.name.clone()?,
            })
        }),
    }
}
