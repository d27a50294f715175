//! Services: virtual services with what is behind them, as providers, and ClusterIPs in front of labels.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use serde_json::json;

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
    lab.apply(&pod(name, "server", "server", None)).await?;
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
    lab.await_ready("RuleSet", None, "vs-ports").await?;
    let server = pod_ip(&lab.await_pod(name, "server").await?)?;
    let cluster_ip = SocketAddr::new(lab.cluster_ip(name, "server").await?, 80);
    let (client, other) = (lab.netns(name, "client")?, lab.netns(name, "other")?);
    lab.await_seen(&client, cluster_ip, Seen::Open, SLOW).await?;
    lab.await_seen(&client, SocketAddr::new(server, 8080), Seen::Open, SLOW).await?;
    let at_once = std::time::Duration::ZERO;
    lab.await_seen(&client, SocketAddr::new(server, 8081), Seen::Dropped, at_once).await?;
    lab.await_seen(&other, SocketAddr::new(server, 8080), Seen::Dropped, at_once).await?;
    lab.await_seen(&other, cluster_ip, Seen::Dropped, at_once).await?;
    lab.delete("v1", "Namespace", None, name).await?;
    lab.delete(OURS, "RuleSet", None, "vs-ports").await?;
    Ok(Outcome::Passed)
}
