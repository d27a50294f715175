//! Services: virtual services with what is behind them, as providers, and ClusterIPs in front of labels.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
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
    let addresses = lab.bed.addresses()?;
    let outside = addresses.get("EXT_ADDRESS").context("no EXT_ADDRESS")?;
    lab.apply(&json!({
        "apiVersion": OURS, "kind": "IPList", "metadata": {"name": "vs-outside"}, "spec": {"ranges": [outside]},
    }))
    .await?;
    let rule = json!({
        "name": "outside-to-server", "consumers": [{"ipList": "vs-outside"}],
        "providers": [{"labels": {"app": [space], "role": ["server"]}}],
        "services": [{"protocol": "TCP", "port": server.port()}],
    });
    lab.apply(&rule_set("vs-outside", &[rule])).await?;
    let local = node_port(lab, space, "Local", server.port()).await?;
    let cluster = node_port(lab, space, "Cluster", server.port()).await?;
    lab.await_ready("RuleSet", None, "vs-outside").await?;

    let client = lab.bed.client_netns();
    let node = |number: u32| -> Result<IpAddr> {
        let name = format!("NODE{number}_ADDRESS");
        Ok(addresses.get(&name).with_context(|| format!("no {name}"))?.parse()?)
    };
    lab.await_seen(&client, server, Seen::Open, SLOW).await?;
    lab.await_seen(&client, SocketAddr::new(node(2)?, local), Seen::Open, SLOW).await?;
    lab.await_seen(&client, SocketAddr::new(node(2)?, cluster), Seen::Open, SLOW).await?;
    lab.await_seen(&client, SocketAddr::new(node(3)?, cluster), Seen::Open, SLOW).await?;
    lab.await_ready("VirtualService", Some(space), "server-cluster").await?;
    lab.await_ready("VirtualService", Some(space), "server-local").await.map(drop)
}

/// A Service of type NodePort in front of the server; its port on the nodes.
async fn node_port(lab: &Lab, space: &str, policy: &str, target: u16) -> Result<u16> {
    let name = format!("server-{}", policy.to_lowercase());
    let mut object = service(space, &name);
    object["spec"]["type"] = json!("NodePort");
    object["spec"]["externalTrafficPolicy"] = json!(policy);
    object["spec"]["selector"] = json!({"name": "server"});
    object["spec"]["ports"][0]["targetPort"] = json!(target);
    lab.apply(&object).await?;
    let live = lab.get("v1", "Service", Some(space), &name).await?.with_context(|| format!("no Service {name}"))?;
    let port = live["spec"]["ports"][0]["nodePort"].as_u64().context("the Service has no nodePort")?;
    u16::try_from(port).context("a port has 16 bits")
}
