//! Local Pods: from Kubernetes, or, when the apiserver does not answer, from the container runtime.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort as KubePort, LifecycleHandler, Pod, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use ringfence_dataplane::{ContainerPort, LocalPod};
use ringfence_model::{Protocol, StringMap};

use crate::cri::Sandbox;

/// On the apiserver's copy of a static Pod: the hash of its manifest, which is the uid its sandbox has.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// On a sandbox: where the kubelet has the Pod from; `api` unless it is a static Pod.
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Prefix of the labels that the kubelet adds to a sandbox.
const KUBELET_LABELS: &str = "io.kubernetes.";

/// The uid that the container runtime knows the Pod by.
fn runtime_uid(pod: &Pod) -> String {
    let mirror = pod.annotations().get(MIRROR).cloned();
    mirror.or_else(|| pod.uid()).unwrap_or_default()
}

/// The name of a Pod within the agent. The uid of a mirror is read from an annotation, which anybody may write to a Pod of
/// theirs; nobody can have the namespace and name of another Pod.
pub fn key(pod: &LocalPod) -> String {
    key_of(&pod.namespace, &pod.name, &pod.uid)
}

/// The [`key`] of the Pod that a sandbox is of, as the container runtime has it from the kubelet.
pub fn sandbox_key(sandbox: &Sandbox) -> String {
    key_of(&sandbox.namespace, &sandbox.name, &sandbox.uid)
}

/// The [`key`] of a Pod of the apiserver.
pub fn api_key(pod: &Pod) -> String {
    key_of(&pod.namespace().unwrap_or_default(), &pod.name_any(), &runtime_uid(pod))
}

/// Neither a namespace nor a name has a slash in it, so whatever a forged uid is, it ends up behind them.
fn key_of(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}/{name}/{uid}")
}

/// What the agent uses of a Pod; `None` for one that has ended, in which nothing runs any more.
pub fn local_pod(pod: &Pod) -> Option<LocalPod> {
    let status = pod.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let spec = pod.spec.clone().unwrap_or_default();
    Some(LocalPod {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: runtime_uid(pod),
        labels: compact(pod.labels()),
        annotations: compact(pod.annotations()),
        ips: status.pod_ips.iter().flatten().filter_map(|entry| entry.ip.parse().ok()).collect(),
        host_network: spec.host_network.unwrap_or_default(),
        mirror: pod.annotations().contains_key(MIRROR),
        probe_ports: probe_ports(&spec),
        container_ports: containers(&spec).flat_map(ports_of).collect(),
        dns_servers: spec
            .dns_config
            .iter()
            .flat_map(|dns| dns.nameservers.iter().flatten())
            .filter_map(|server| server.parse().ok())
            .collect(),
    })
}

/// The Pod of a sandbox, as far as the runtime knows it: no probes and no ports, so that nothing is open that is not
/// known to be needed.
pub fn from_sandbox(sandbox: &Sandbox) -> LocalPod {
    let own = |(key, _): &(&String, &String)| !key.starts_with(KUBELET_LABELS);
    let labels = sandbox.labels.iter().filter(own).map(|(k, v)| (k.clone(), v.clone())).collect();
    LocalPod {
        namespace: sandbox.namespace.clone(),
        name: sandbox.name.clone(),
        uid: sandbox.uid.clone(),
        labels,
        annotations: compact(&sandbox.annotations),
        ips: sandbox.ips.clone(),
        host_network: sandbox.host_network,
        mirror: is_static(sandbox),
        probe_ports: BTreeSet::new(),
        container_ports: Vec::new(),
        dns_servers: sandbox.dns_servers.clone(),
    }
}

fn is_static(sandbox: &Sandbox) -> bool {
    sandbox.annotations.get(CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// A Pod with what only its sandbox knows: its resolvers, and its addresses before the kubelet has reported them. What
/// both know is as the sandbox has it: the mirror of a static Pod may be the work of anybody in its namespace.
pub fn with_sandbox(pod: &LocalPod, sandbox: &Sandbox) -> LocalPod {
    let mut pod = pod.clone();
    if !sandbox.ips.is_empty() {
        pod.ips.clone_from(&sandbox.ips);
    }
    if !sandbox.dns_servers.is_empty() {
        pod.dns_servers.clone_from(&sandbox.dns_servers);
    }
    pod.host_network = sandbox.host_network;
    pod.mirror |= is_static(sandbox);
    pod
}

/// Every container that may run for as long as the Pod: init containers too, because sidecars are among them.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn protocol_of(port: &KubePort) -> Option<Protocol> {
    port.protocol.as_deref().unwrap_or("TCP").parse().ok()
}

fn ports_of(container: &Container) -> impl Iterator<Item = ContainerPort> {
    container.ports.iter().flatten().filter_map(|port| {
        Some(ContainerPort {
            name: port.name.clone(),
            protocol: protocol_of(port)?,
            port: u16::try_from(port.container_port).ok()?,
        })
    })
}

/// The ports that probes and lifecycle hooks name. The kubelet speaks TCP with all of them.
fn probe_ports(spec: &PodSpec) -> BTreeSet<(Protocol, u16)> {
    containers(spec)
        .flat_map(|container| {
            let names = named_ports(container);
            let asked: Vec<IntOrString> = probes(container).chain(hooks(container)).collect();
            asked.into_iter().filter_map(move |port| resolve(&port, &names))
        })
        .map(|port| (Protocol::TCP, port))
        .collect()
}

fn named_ports(container: &Container) -> BTreeMap<String, i32> {
    let ports = container.ports.iter().flatten();
    ports.filter_map(|port| Some((port.name.clone()?, port.container_port))).collect()
}

fn resolve(port: &IntOrString, names: &BTreeMap<String, i32>) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => names.get(name).copied().or_else(|| name.parse().ok())?,
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

fn probes(container: &Container) -> impl Iterator<Item = IntOrString> {
    let all = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    // What is sent to a host that the spec names does not come to the Pod.
    all.into_iter().flatten().flat_map(|probe: &Probe| {
        let http = probe.http_get.as_ref().filter(|get| get.host.is_none()).map(|get| get.port.clone());
        let tcp = probe.tcp_socket.as_ref().filter(|tcp| tcp.host.is_none()).map(|tcp| tcp.port.clone());
        let grpc = probe.grpc.as_ref().map(|grpc| IntOrString::Int(grpc.port));
        [http, tcp, grpc].into_iter().flatten()
    })
}

fn hooks(container: &Container) -> impl Iterator<Item = IntOrString> {
    let lifecycle = container.lifecycle.iter();
    let handlers = lifecycle.flat_map(|hooks| [hooks.post_start.as_ref(), hooks.pre_stop.as_ref()]).flatten();
    handlers.flat_map(|hook: &LifecycleHandler| {
        let http = hook.http_get.as_ref().filter(|get| get.host.is_none()).map(|get| get.port.clone());
        let tcp = hook.tcp_socket.as_ref().filter(|tcp| tcp.host.is_none()).map(|tcp| tcp.port.clone());
        [http, tcp].into_iter().flatten()
    })
}

fn compact(map: &BTreeMap<String, String>) -> StringMap {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> Pod {
        serde_saphyr::from_str(text).expect("a literal of the test")
    }

    const WEB: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: u-1, labels: {app: web}, annotations: {ringfence.dev/role: web}}
spec:
  initContainers:
  - name: proxy
    restartPolicy: Always
    startupProbe: {tcpSocket: {port: 15021}}
  containers:
  - name: web
    ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]
    livenessProbe: {httpGet: {port: http, path: /}}
    readinessProbe: {grpc: {port: 9000}}
    lifecycle:
      preStop: {httpGet: {port: 8081}}
      postStart: {exec: {command: [true]}}
  - name: outside
    livenessProbe: {httpGet: {port: 443, host: example.org}}
status: {phase: Running, podIPs: [{ip: 10.244.0.7}]}
";

    #[test]
    fn probes_and_hooks_name_the_ports_that_the_kubelet_may_reach() {
        let local = local_pod(&pod(WEB)).expect("it runs");
        let ports: Vec<u16> = local.probe_ports.iter().map(|(_, port)| *port).collect();
        assert_eq!(ports, [8080, 8081, 9000, 15021]);
        assert!(local.probe_ports.iter().all(|(protocol, _)| *protocol == Protocol::TCP));
        assert_eq!(local.container_ports.len(), 2);
        assert_eq!(local.container_ports[1].protocol, Protocol::UDP);
        assert_eq!((local.uid.as_str(), local.mirror), ("u-1", false));
    }

    #[test]
    fn a_mirror_pod_is_known_by_the_hash_of_its_manifest() {
        let text = WEB.replace("ringfence.dev/role: web", "kubernetes.io/config.mirror: h-1");
        let local = local_pod(&pod(&text)).expect("it runs");
        assert_eq!((local.uid.as_str(), local.mirror), ("h-1", true));
    }

    #[test]
    fn whatever_uid_is_claimed_namespace_and_name_tell_pods_apart() {
        let forged = WEB.replace("ringfence.dev/role: web", "kubernetes.io/config.mirror: u-1");
        let forged = forged.replace("namespace: shop, uid: u-1", "namespace: elsewhere, uid: u-2");
        assert_eq!(
            (api_key(&pod(WEB)), api_key(&pod(&forged))),
            ("shop/web-1/u-1".into(), "elsewhere/web-1/u-1".into())
        );
        let local = local_pod(&pod(&forged)).expect("it runs");
        assert_eq!(key(&local), api_key(&pod(&forged)));
    }

    #[test]
    fn what_a_sandbox_knows_its_mirror_cannot_deny() {
        let sandbox: Sandbox = serde_json::from_value(serde_json::json!({
            "id": "s", "uid": "h-1", "namespace": "shop", "name": "web-1", "labels": {},
            "annotations": {"kubernetes.io/config.source": "file"}, "created_at": 0, "host_network": false,
            "netns": {}, "ips": [], "dns_servers": []
        }))
        .expect("a sandbox");
        let claims = LocalPod { host_network: true, mirror: false, ..LocalPod::default() };
        let pod = with_sandbox(&claims, &sandbox);
        assert_eq!((pod.host_network, pod.mirror), (false, true));
    }

    #[test]
    fn an_ended_pod_is_none() {
        assert!(local_pod(&pod(&WEB.replace("Running", "Succeeded"))).is_none());
        assert!(local_pod(&pod(&WEB.replace("Running", "Failed"))).is_none());
    }
}
