//! Essential traffic: what passes though no rule says so.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Outcome;
use crate::lab::{Lab, SLOW, pod_ip};
use crate::manifests::{OURS, namespace, pod, profile};
use crate::probe::{self, Seen};

/// Where CoreDNS tells its health: a port that its probes name, and so essential from its own node alone.
const HEALTH: u16 = 8080;
const KUBE_SYSTEM: &str = "kube-system";

/// A Pod in Full resolves names without a rule, also when CoreDNS is in Full itself; and nothing else of it is open.
pub async fn names_are_resolved_without_a_rule(lab: Lab) -> Result<Outcome> {
    let name = "es-dns";
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Full", &["client"])).await?;
    lab.apply(&pod(name, "client", "client", None)).await?;
    lab.await_pod(name, "client").await?;
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    resolves(&lab, name)?;

    let servers = lab.await_pods(KUBE_SYSTEM, "k8s-app=kube-dns", 1).await?;
    let health = SocketAddr::new(pod_ip(servers.first().context("one Pod was awaited")?)?, HEALTH);
    lab.await_seen(&lab.bed.client_netns(), health, Seen::Open, SLOW).await?;
    lab.apply(&profile(KUBE_SYSTEM, "Full", &["dns"])).await?;
    let outcome = in_full(&lab, name, health).await;
    lab.apply(&json!({
        "apiVersion": OURS, "kind": "ContainerWorkloadProfile", "metadata": {"name": KUBE_SYSTEM},
        "spec": {"managed": false},
    }))
    .await?;
    outcome?;
    lab.await_ready("ContainerWorkloadProfile", None, KUBE_SYSTEM).await?;
    lab.await_seen(&lab.bed.client_netns(), health, Seen::Open, SLOW).await?;
    lab.delete("v1", "Namespace", None, name).await?;
    Ok(Outcome::Passed)
}

async fn in_full(lab: &Lab, name: &str, health: SocketAddr) -> Result<()> {
    lab.await_ready("ContainerWorkloadProfile", None, KUBE_SYSTEM).await?;
    lab.await_seen(&lab.bed.client_netns(), health, Seen::Dropped, Duration::ZERO).await?;
    resolves(lab, name)
}

fn resolves(lab: &Lab, name: &str) -> Result<()> {
    let addresses = lab.bed.addresses()?;
    let server = addresses.get("DNS_SERVICE").context("no DNS_SERVICE")?;
    let server = SocketAddr::new(server.parse().with_context(|| format!("'{server}' is no address"))?, 53);
    let answered = probe::resolves(&lab.netns(name, "client")?, server, "kubernetes.default.svc.cluster.local")?;
    ensure!(answered, "a Pod in Full does not resolve names");
    Ok(())
}
