//! The ports of the control plane, as the static Pods of masters are told them on their command lines. Where it does not run as
//! static Pods, nobody says them, and those count that everybody uses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::KUBE_SYSTEM;
use super::pod::MIRROR_ANNOTATION;

/// What the command line of a static Pod says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlPlanePorts {
    /// Ports that an apiserver listens on.
    pub apiserver: BTreeSet<u16>,
    /// Ports that etcd listens on.
    pub etcd: BTreeSet<u16>,
    /// Where an apiserver looks for etcd, as far as that is written as an address.
    pub etcd_servers: BTreeSet<(IpAddr, u16)>,
}

impl ControlPlanePorts {
    /// What a Pod says; nothing of a Pod that is no static one of the node's own network: others say what they like.
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let mirror = pod.metadata.annotations.as_ref().is_some_and(|own| own.contains_key(MIRROR_ANNOTATION));
        let own = pod.metadata.namespace.as_deref() == Some(KUBE_SYSTEM);
        if !(mirror && own && spec.host_network.unwrap_or(false)) {
            return None;
        }
        let mut found = Self::default();
        for container in &spec.containers {
            let words = container.command.iter().chain(&container.args).flatten();
            words.filter_map(|word| word.strip_prefix("--")?.split_once('=')).for_each(|(flag, value)| {
                found.read(flag, value);
            });
        }
        (found != Self::default()).then_some(found)
    }

    fn read(&mut self, flag: &str, value: &str) {
        match flag {
            "secure-port" => self.apiserver.extend(value.parse::<u16>().ok().filter(|port| *port > 0)),
            "listen-client-urls" | "listen-peer-urls" => self.etcd.extend(ends(value).map(|(_, port)| port)),
            "etcd-servers" => {
                let ends = ends(value).filter_map(|(host, port)| Some((host.parse::<IpAddr>().ok()?, port)));
                self.etcd_servers.extend(ends.filter(|(address, _)| !address.is_loopback()));
            }
            _ => {}
        }
    }
}

/// Host and port of each URL of a list.
fn ends(list: &str) -> impl Iterator<Item = (&str, u16)> {
    list.split(',').filter_map(|url| {
        let rest = url.trim().split_once("://")?.1;
        let (host, port) = rest.split('/').next()?.rsplit_once(':')?;
        Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(annotation: &str, namespace: &str, host_network: bool, command: &[&str]) -> Pod {
        let spec = json!({"hostNetwork": host_network, "containers": [{"name": "c", "command": command}]});
        let meta = json!({"name": "p", "namespace": namespace, "annotations": {annotation: "x"}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a literal of the test")
    }

    #[test]
    fn ports_are_read_from_the_command_lines_of_static_pods() {
        let etcd = [
            "etcd",
            "--listen-client-urls=https://127.0.0.1:12379,https://[fd00::1]:12379",
            "--listen-peer-urls=https://10.0.0.1:12380",
        ];
        let found = ControlPlanePorts::of(&pod(MIRROR_ANNOTATION, KUBE_SYSTEM, true, &etcd)).expect("it says ports");
        assert_eq!(found.etcd, [12379, 12380].into());
        let apiserver =
            ["kube-apiserver", "--secure-port=7443", "--etcd-servers=https://127.0.0.1:2379,https://[fd00::9]:3379/"];
        let found =
            ControlPlanePorts::of(&pod(MIRROR_ANNOTATION, KUBE_SYSTEM, true, &apiserver)).expect("it says ports");
        assert_eq!(found.apiserver, [7443].into());
        assert_eq!(found.etcd_servers, [("fd00::9".parse().expect("an address"), 3379)].into());
    }

    #[test]
    fn no_other_pod_has_a_say() {
        let words = ["x", "--secure-port=1"];
        for other in [
            pod("a", KUBE_SYSTEM, true, &words),
            pod(MIRROR_ANNOTATION, "shop", true, &words),
            pod(MIRROR_ANNOTATION, KUBE_SYSTEM, false, &words),
        ] {
            assert_eq!(ControlPlanePorts::of(&other), None);
        }
    }
}
