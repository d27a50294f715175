//! Services: virtual services with what is behind them, as providers, and ClusterIPs in front of labels.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::exposed::{await_hidden, let_outside_in, node_port};
use super::{Outcome, host};
use crate::lab::{Lab, SLOW, pod_ip};
use crate::manifests::{OURS, controller, namespace, pod, profile, rule_set, service};
use crate::probe::Seen;
use crate::wait;

/// One VirtualService each behind ReplicaSet, DaemonSet, StatefulSet and ReplicationController lists it.
pub async fn virtual_services_list_their_controllers(lab: Lab) -> Result<Outcome> {
    let name = "vs-kinds";
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Idle", &["server"])).await?;
    for kind in ["ReplicaSet", "DaemonSet", "StatefulSet", "ReplicationController"] {
        let server = kind.to_lowercase();
        lab.apply(&controller(kind, name, &server, "server", 1)).await?;
        lab.apply(&service(name, &server)).await?;
    }
    for kind in ["ReplicaSet", "DaemonSet", "StatefulSet", "ReplicationController"] {
        let server = kind.to_lowercase();
        wait::until(&format!("VirtualService {server} to list its {kind}"), SLOW, || async {
            let Some(object) = lab.get(OURS, "VirtualService", Some(name), &server).await? else {
                bail!("there is none")
            };
            let backends = &object["status"]["backends"];
            let listed = backends[0]["kind"] == kind && backends[0]["name"] == server.as_str();
            if listed { Ok(Some(())) } else { bail!("it lists {backends}") }
        })
        .await?;
        let object = lab.get(OURS, "VirtualService", Some(name), &server).await?.unwrap_or_default();
        ensure!(object["status"]["labels"]["app"] == name, "labels of the profile are missing: {}", object["status"]);
    }
    lab.delete("v1", "Namespace", None, name).await?;
    Ok(Outcome::Passed)
}

/// A virtual service as provider opens its ports, on the ClusterIP and on the Pods, and no other port.
pub async fn a_virtual_service_opens_exactly_its_ports(lab: Lab) -> Result<Outcome> {
    let name = "vs-ports";
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Full", &["client", "server", "other"])).await?;
    lab.apply(&pod(name, "client", "client", None)).await?;
    lab.apply(&pod(name, "other", "other", None)).await?;
    lab.apply(&server(name)).await?;
    lab.apply(&service(name, "server")).await?;
    lab.apply(&rule_set(
        "vs-ports",
        &[json!({
            "name": "client-to-service",
            "consumers": [{"labels": {"app": [name], "role": ["client"]}}],
            "providers": [{"virtualService": format!("{name}/server")}],
            "useVirtualServicePorts": true,
        })],
    ))
    .await?;
    for pod in ["client", "other", "server"] {
        lab.await_pod(name, pod).await?;
    }
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    lab.await_ready("RuleSet", None, "vs-ports").await?;
    let server = pod_ip(&lab.await_pod(name, "server").await?)?;
    let cluster_ip = SocketAddr::new(lab.cluster_ip(name, "server").await?, 80);
    let (client, other) = (lab.netns(name, "client")?, lab.netns(name, "other")?);
    lab.await_seen(&client, cluster_ip, Seen::Open, SLOW).await?;
    lab.await_seen(&client, SocketAddr::new(server, 8080), Seen::Open, SLOW).await?;
    let at_once = Duration::ZERO;
    lab.await_seen(&client, SocketAddr::new(server, 8081), Seen::Dropped, at_once).await?;
    lab.await_seen(&other, SocketAddr::new(server, 8080), Seen::Dropped, at_once).await?;
    lab.await_seen(&other, cluster_ip, Seen::Dropped, at_once).await?;
    node_ports(&lab, name, SocketAddr::new(server, 8081)).await?;
    lab.delete("v1", "Namespace", None, name).await?;
    for (kind, name) in [("RuleSet", "vs-ports"), ("RuleSet", "vs-outside"), ("IPList", "vs-outside")] {
        lab.delete(OURS, kind, None, name).await?;
    }
    Ok(Outcome::Passed)
}

/// A server on node2 whose port 8081 no probe names, as processes of its node reach ports of probes.
fn server(space: &str) -> Value {
    let mut server = pod(space, "server", "server", Some("node2"));
    if let Some(second) = server.pointer_mut("/spec/containers/1").and_then(Value::as_object_mut) {
        second.remove("startupProbe");
    }
    server
}

/// From outside through the nodes' ports, for a client that a rule lets reach the Pod: with policy Local it keeps its
/// address and gets in; with Cluster the node that it dials knows it, the Pod's own and any other.
async fn node_ports(lab: &Lab, space: &str, server: SocketAddr) -> Result<()> {
    let_outside_in(lab, "vs-outside", (space, "server"), server.port()).await?;
    let local = node_port(lab, (space, "server-local"), "server", "Local", server.port()).await?;
    let cluster = node_port(lab, (space, "server-cluster"), "server", "Cluster", server.port()).await?;
    lab.await_ready("RuleSet", None, "vs-outside").await?;

    let client = lab.bed.client_netns();
    let [node2, node3] = [host::address(lab, "NODE2")?, host::address(lab, "NODE3")?];
    lab.await_seen(&client, server, Seen::Open, SLOW).await?;
    for (node, port) in [(node2, local), (node2, cluster), (node3, cluster)] {
        lab.await_seen(&client, SocketAddr::new(node, port), Seen::Open, SLOW).await?;
    }
    lab.await_ready("VirtualService", Some(space), "server-cluster").await?;
    lab.await_ready("VirtualService", Some(space), "server-local").await?;

    // A load balancer that connects on its own says so, and then nobody can tell who comes by it.
    let balancer = "192.0.2.77";
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": balancer, "ipMode": "Proxy"}]}}}).to_string();
    lab.kubectl(
        &["patch", "service", "server-local", "-n", space, "--type=merge", "-p", r#"{"spec":{"type":"LoadBalancer"}}"#],
        &[],
    )?;
    let patch =
        ["patch", "service", "server-local", "-n", space, "--subresource=status", "--type=merge", "-p", &status];
    lab.kubectl(&patch, &[])?;
    await_hidden(lab, space, "server-local", balancer).await
}
