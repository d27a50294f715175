//! What happens while parts of Ringfence or of the cluster are down.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::agent::{self, Ended};
use super::exposed::let_outside_in;
use super::scene::Scene;
use super::{Outcome, cli};
use crate::kernel;
use crate::lab::{Lab, SLOW, pod_ip, ready};
use crate::manifests::{AGNHOST, OURS, controller, namespace, pod, rule, rule_set};
use crate::probe::{LongFlow, Seen};
use crate::source::SYSTEM;
use crate::wait;

/// Name of the controller's Deployment and of its Lease.
const CONTROLLER: &str = "ringfence-controller";
/// How long a lease holds that nobody renews (`leader.rs` of the controller).
const LEASE: Duration = Duration::from_secs(15);

async fn scale_controller(lab: &Lab, replicas: i32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), SYSTEM);
    let patch = json!({"spec": {"replicas": replicas}});
    deployments.patch(CONTROLLER, &PatchParams::default(), &Patch::Merge(patch)).await?;
    wait::until("the controller to be scaled", SLOW, || async {
        let status = deployments.get(CONTROLLER).await?.status.unwrap_or_default();
        let settled = status.replicas.unwrap_or(0) == replicas && status.ready_replicas.unwrap_or(0) == replicas;
        Ok(settled.then_some(()))
    })
    .await
}

/// Controller stopped: Pods start, scale and are enforced by class; its return brings their addresses to their peers.
pub async fn pods_are_enforced_without_the_controller(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-controller").await?;
    let_outside_in(&lab, OUTSIDE, (&scene.name, "client"), 8081).await?;
    lab.apply(&controller("Deployment", &scene.name, "fleet", "client", 2)).await?;
    lab.await_pods(&scene.name, "name=fleet", 2).await?;
    lab.await_ready("RuleSet", None, OUTSIDE).await?;
    scale_controller(&lab, 0).await?;
    let outcome = without_controller(&lab, &scene).await;
    scale_controller(&lab, 1).await?;
    let (late, target) = outcome?;
    for client in &late {
        lab.await_seen(client, scene.target, Seen::Open, SLOW).await?;
    }
    lab.await_seen(&scene.allowed, target, Seen::Open, SLOW).await?;
    scene.remove(&lab).await?;
    for kind in ["RuleSet", "IPList"] {
        lab.delete(OURS, kind, None, OUTSIDE).await?;
    }
    Ok(Outcome::Passed)
}

/// The rule and the IP list by which the client outside reaches port 8081 of clients: whoever has their class at once
/// shows by it that it is more than closed.
const OUTSIDE: &str = "rb-controller-outside";

/// Starts Pods and scales a Deployment down and up. Gives the new clients and the new server.
async fn without_controller(lab: &Lab, scene: &Scene) -> Result<(Vec<PathBuf>, SocketAddr)> {
    lab.apply(&controller("Deployment", &scene.name, "fleet", "client", 0)).await?;
    lab.await_pods(&scene.name, "name=fleet", 0).await?;
    lab.apply(&controller("Deployment", &scene.name, "fleet", "client", 3)).await?;
    lab.apply(&pod(&scene.name, "late-client", "client", Some("node2"))).await?;
    lab.apply(&pod(&scene.name, "late-server", "server", Some("node3"))).await?;
    let mut clients = lab.await_pods(&scene.name, "name=fleet", 3).await?;
    clients.push(lab.await_pod(&scene.name, "late-client").await?);
    let target = SocketAddr::new(pod_ip(&lab.await_pod(&scene.name, "late-server").await?)?, 8080);
    let mut late = Vec::new();
    for client in &clients {
        let (name, address) = (client.name_any(), pod_ip(client)?);
        let netns = lab.netns(&scene.name, &name)?;
        ensure!(!kernel::ours(&netns)?.is_empty(), "{name} started without the controller and has no rules");
        // Enforced by class: whom a rule names by address gets in, on that port only.
        let outside = lab.bed.client_netns();
        lab.await_seen(&outside, SocketAddr::new(address, 8081), Seen::Open, Duration::ZERO).await?;
        lab.await_seen(&outside, SocketAddr::new(address, 8080), Seen::Dropped, Duration::ZERO).await?;
        late.push(netns);
    }
    lab.await_seen(&scene.denied, target, Seen::Dropped, Duration::ZERO).await?;
    lab.await_seen(&lab.bed.client_netns(), target, Seen::Dropped, Duration::ZERO).await?;
    scene.hold(Duration::from_secs(2))?;
    Ok((late, target))
}

/// Two replicas of the controller: one holds the Lease; when it dies the other goes on within the lease time.
pub async fn a_second_controller_takes_over(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-lease").await?;
    let outcome = match scale_controller(&lab, 2).await {
        Ok(()) => taken_over(&lab, &scene).await,
        Err(error) => Err(error),
    };
    lab.delete(OURS, "RuleSet", None, "rb-lease-new").await?;
    scale_controller(&lab, 1).await?;
    outcome?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

async fn taken_over(lab: &Lab, scene: &Scene) -> Result<()> {
    let pods = lab.await_pods(SYSTEM, "app.kubernetes.io/component=controller", 2).await?;
    let holder = holder(lab).await?;
    let (old, other): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| pod.name_any() == holder);
    let ([old], [_]) = (old.as_slice(), other.as_slice()) else {
        bail!("the Lease is held by {holder}, which is not exactly one of the two replicas");
    };
    kill_for_good(lab, old).await?;
    let begin = Instant::now();
    let rules = [rule("new", "Allow", (&scene.name, "stranger"), (&scene.name, "server"))];
    lab.apply(&rule_set("rb-lease-new", &rules)).await?;
    // A little more than the lease: how often a replica looks at it, and the work itself.
    lab.await_seen(&scene.denied, scene.target, Seen::Open, LEASE + Duration::from_secs(5)).await?;
    let now = self::holder(lab).await?;
    ensure!(now != holder, "the Lease is still held by {holder}, which is dead since {:?}", begin.elapsed());
    lab.await_ready("RuleSet", None, "rb-lease-new").await.map(drop)
}

/// Who holds the controller's Lease.
async fn holder(lab: &Lab) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(lab.client.clone(), SYSTEM);
    let lease = leases.get(CONTROLLER).await.context("failed to read the Lease")?;
    lease.spec.and_then(|spec| spec.holder_identity).filter(|name| !name.is_empty()).context("nobody holds the Lease")
}

/// Deletes a Pod, so that it does not come again under its name, and kills its process before it could give anything
/// back.
async fn kill_for_good(lab: &Lab, victim: &Pod) -> Result<()> {
    let node = victim.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let number = node.strip_prefix("node").with_context(|| format!("'{node}' is no node"))?;
    let statuses = victim.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let id = statuses.and_then(|list| list.first()?.container_id.as_deref()?.strip_prefix("containerd://"));
    let id = id.context("the controller's Pod has no container")?;
    let pods: Api<Pod> = Api::namespaced(lab.client.clone(), SYSTEM);
    lab.bed.run(&["node-exec", lab.bed.name(), number, "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id])?;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods.delete(&victim.name_any(), &now).await.context("failed to delete the controller's Pod")?;
    Ok(())
}

/// Agent killed with SIGKILL under traffic: no verdict changes, and a connection that is open lives on.
pub async fn a_killed_agent_changes_no_verdict(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-agent").await?;
    let mut flow = LongFlow::open(&scene.allowed, scene.target)?;
    let killed = [Ended::by_kill(&lab, "2").await?, Ended::by_kill(&lab, "3").await?];
    let over = || Ok(killed.iter().all(|agent| agent.is_back(&lab)));
    scene.hold_through(&mut flow, "the killed agents", over, Duration::from_secs(4))?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// Agents told to end (SIGTERM) and replaced under traffic, as in an upgrade: no verdict changes, a connection that is
/// open lives on, and those that come after them write no rule anew.
pub async fn a_replaced_agent_changes_no_verdict(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-replace").await?;
    lab.await_ready("RuleSet", None, &scene.name).await?;
    let pods = [lab.netns(&scene.name, "server")?, lab.netns(&scene.name, "client")?];
    let before = pods.each_ref().map(|netns| rules(netns));
    let mut flow = LongFlow::open(&scene.allowed, scene.target)?;
    let replaced = [Ended::by_deletion(&lab, "2")?, Ended::by_deletion(&lab, "3")?];
    let over = || Ok(replaced.iter().all(|agent| agent.is_back(&lab)));
    scene.hold_through(&mut flow, "the agents in their place", over, Duration::from_secs(4))?;
    for (netns, before) in pods.iter().zip(before) {
        let (before, after) = (before?, rules(netns)?);
        ensure!(before == after, "rules were written anew in {}: {before} became {after}", netns.display());
    }
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// Annotations of all Pods of a node, more than fit into 4 MiB, the largest answer that a client of gRPC takes by itself: Pods that
/// start meanwhile are seen all the same, also by an agent that starts.
pub async fn large_annotations_hide_no_pod(lab: Lab) -> Result<Outcome> {
    const LARGE: &str = "rb-large";
    // Kubernetes takes 256 KiB a Pod.
    let text = "x".repeat(250 << 10);
    lab.apply(&namespace(LARGE)).await?;
    for number in 0..18 {
        let mut large = pod(LARGE, &format!("large-{number}"), "client", Some("node2"));
        large["metadata"]["annotations"] = json!({ "text": text });
        large["spec"]["containers"] = json!([{"name": "main", "image": AGNHOST, "args": ["pause"]}]);
        lab.apply(&large).await?;
    }
    for number in 0..18 {
        lab.await_pod(LARGE, &format!("large-{number}")).await?;
    }
    let replaced = Ended::by_deletion(&lab, "2")?;
    wait::until("another agent on node2", SLOW, || async { Ok(replaced.is_back(&lab).then_some(())) }).await?;
    let scene = Scene::create(&lab, "rb-large-scene").await?;
    lab.await_ready("RuleSet", None, &scene.name).await?;
    lab.await_ready("NodePolicy", None, "node2").await?;
    lab.delete("v1", "Namespace", None, LARGE).await?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// What an agent has said of its node, and somebody writes over or deletes with its NodePolicy, is said again.
pub async fn a_report_that_is_lost_is_made_again(lab: Lab) -> Result<Outcome> {
    const NODE: &str = "node3";
    let reported = || async {
        wait::until("node3 to say what is in force", SLOW, || async {
            let object = lab.ours("NodePolicy", NODE).await?.context("there is no NodePolicy")?;
            let revision = &object["status"]["acknowledged"];
            let is_ready = ready(&object).is_some_and(|ready| ready.status == "True" && ready.current);
            let is_ours = revision.is_object() && object["status"]["problems"].is_null();
            if is_ready && is_ours { Ok(Some(())) } else { bail!("it says {}", object["status"]) }
        })
        .await
    };
    reported().await?;
    let lost = json!({"status": {"acknowledged": null, "conditions": [], "problems": ["forged"]}}).to_string();
    lab.kubectl(&["patch", "nodepolicy", NODE, "--subresource=status", "--type=merge", "-p", &lost], &[])?;
    reported().await?;
    lab.delete(OURS, "NodePolicy", None, NODE).await?;
    reported().await?;
    Ok(Outcome::Passed)
}

/// Every rule in a network namespace with the number that it got when it was written, and without its counters.
fn rules(netns: &Path) -> Result<String> {
    let text = kernel::in_netns(netns, &["nft", "--stateless", "--handle", "list", "ruleset"])?;
    ensure!(text.contains("RF-IN"), "there are no rules of ours in {}", netns.display());
    Ok(text)
}

/// One agent stopped: `Ready` of a new RuleSet stays False and names the node, and so does `ringfence status`.
pub async fn a_rule_set_waits_for_every_node(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-wait").await?;
    cli::workloads_are_listed(&lab, &scene.name)?;
    agent::signal(&lab, "3", "-STOP")?;
    let outcome = waits(&lab, &scene).await;
    agent::signal(&lab, "3", "-CONT")?;
    outcome?;
    lab.await_ready("RuleSet", None, "rb-wait-new").await?;
    cli::status_is_content_with(&lab, "RuleSet rb-wait-new")?;
    lab.delete(OURS, "RuleSet", None, "rb-wait-new").await?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

async fn waits(lab: &Lab, scene: &Scene) -> Result<()> {
    let rules = [rule("new", "Allow", (&scene.name, "stranger"), (&scene.name, "server"))];
    lab.apply(&rule_set("rb-wait-new", &rules)).await?;
    wait::until("a RuleSet that waits for node3", Duration::from_secs(20), || async {
        let object = lab.ours("RuleSet", "rb-wait-new").await?.context("no RuleSet")?;
        match ready(&object) {
            Some(condition) if condition.status == "False" && condition.message.contains("node3") => Ok(Some(())),
            Some(condition) => bail!("Ready={}: {}", condition.status, condition.message),
            None => Ok(None),
        }
    })
    .await?;
    cli::status_names(lab, "RuleSet rb-wait-new", "WaitingForNodes", "node3")
}
