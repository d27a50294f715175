//! Local Pods as a file: what `cven --pods FILE` reads, and what the ledger keeps.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ringfence_crds::PortSpec;
use ringfence_dataplane::{ContainerPort, LocalPod};
use ringfence_model::{PortMatch, Ports, Protocol, StringMap};
use serde::{Deserialize, Serialize};

/// A Pod as a file holds it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodEntry {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID; `namespace/name` when left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Kubernetes labels.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub labels: StringMap,
    /// Annotations.
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// Path of the network namespace; the container runtime is asked when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Ports of its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    /// Ports that probes and lifecycle hooks name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe_ports: Vec<PortSpec>,
    /// Resolvers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_servers: Vec<IpAddr>,
    /// Whether it uses the node's network namespace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// Whether it is the mirror of a static Pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
}

/// A container port with its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedPort {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP, UDP or SCTP; TCP when left out.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Number.
    #[serde(alias = "containerPort")]
    pub port: u16,
}

fn tcp() -> String {
    Protocol::TCP.to_string()
}

impl From<PodEntry> for LocalPod {
    fn from(entry: PodEntry) -> Self {
        let uid = match entry.uid.as_str() {
            "" => format!("{}/{}", entry.namespace, entry.name),
            uid => uid.to_owned(),
        };
        Self {
            namespace: entry.namespace,
            name: entry.name,
            uid,
            labels: entry.labels,
            annotations: entry.annotations,
            ips: entry.ips,
            host_network: entry.host_network,
            mirror: entry.mirror,
            probe_ports: entry.probe_ports.iter().filter_map(single_port).collect(),
            container_ports: entry.ports.into_iter().filter_map(container_port).collect(),
            dns_servers: entry.dns_servers,
        }
    }
}

impl From<&LocalPod> for PodEntry {
    fn from(pod: &LocalPod) -> Self {
        let probe_ports: BTreeSet<PortMatch> = pod
            .probe_ports
            .iter()
            .map(|(protocol, port)| PortMatch { protocol: *protocol, ports: Ports::Range(*port, *port) })
            .collect();
        Self {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            uid: pod.uid.clone(),
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
            netns: None,
            ips: pod.ips.clone(),
            ports: pod.container_ports.iter().map(named_port).collect(),
            probe_ports: probe_ports.iter().map(PortSpec::from).collect(),
            dns_servers: pod.dns_servers.clone(),
            host_network: pod.host_network,
            mirror: pod.mirror,
        }
    }
}

fn single_port(spec: &PortSpec) -> Option<(Protocol, u16)> {
    let entry = PortMatch::try_from(spec).ok()?;
    match entry.ports {
        Ports::Range(first, last) if first == last => Some((entry.protocol, first)),
        _ => None,
    }
}

fn container_port(port: NamedPort) -> Option<ContainerPort> {
    Some(ContainerPort { name: port.name, protocol: port.protocol.parse().ok()?, port: port.port })
}

fn named_port(port: &ContainerPort) -> NamedPort {
    NamedPort { name: port.name.clone(), protocol: port.protocol.to_string(), port: port.port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_survives_the_file() {
        let pod = LocalPod {
            namespace: "shop".to_owned(),
            name: "db-0".to_owned(),
            uid: "u-2".to_owned(),
            labels: StringMap::from_iter([("app".to_owned(), "db".to_owned())]),
            ips: vec!["10.244.0.9".parse().expect("valid")],
            mirror: true,
            probe_ports: [(Protocol::TCP, 5432)].into(),
            container_ports: vec![ContainerPort { name: Some("pg".to_owned()), protocol: Protocol::TCP, port: 5432 }],
            ..LocalPod::default()
        };
        let text = serde_json::to_string(&PodEntry::from(&pod)).expect("written");
        let back: PodEntry = serde_json::from_str(&text).expect("read");
        assert_eq!(LocalPod::from(back), pod);
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        assert!(serde_saphyr::from_str::<PodEntry>("{name: a, namespace: b, nets: /run/netns/x}").is_err());
    }
}
