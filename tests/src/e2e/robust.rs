//! What happens while parts of Ringfence or of the cluster are down.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::Outcome;
use crate::kernel;
use crate::lab::{Lab, SLOW, pod_ip, ready};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set};
use crate::probe::{self, LongFlow, Seen, Try};
use crate::source::SYSTEM;
use crate::wait;

/// A server in Full that one client may reach and another may not.
struct Scene {
    name: String,
    allowed: PathBuf,
    denied: PathBuf,
    target: SocketAddr,
}

impl Scene {
    async fn create(lab: &Lab, name: &str) -> Result<Self> {
        lab.apply(&namespace(name)).await?;
        lab.apply(&profile(name, "Full", &["client", "server", "stranger"])).await?;
        lab.apply(&rule_set(name, &[rule("client-to-server", "Allow", (name, "client"), (name, "server"))])).await?;
        for (pod_name, node) in [("server", "node2"), ("client", "node3"), ("stranger", "node2")] {
            lab.apply(&pod(name, pod_name, pod_name, Some(node))).await?;
        }
        let server = lab.await_pod(name, "server").await?;
        lab.await_pod(name, "client").await?;
        lab.await_pod(name, "stranger").await?;
        let target = SocketAddr::new(pod_ip(&server)?, 8080);
        let (allowed, denied) = (lab.netns(name, "client")?, lab.netns(name, "stranger")?);
        lab.await_seen(&allowed, target, Seen::Open, SLOW).await?;
        lab.await_seen(&denied, target, Seen::Dropped, SLOW).await?;
        Ok(Self { name: name.to_owned(), allowed, denied, target })
    }

    fn tries(&self) -> [Try; 2] {
        [&self.allowed, &self.denied].map(|netns| Try { netns: netns.clone(), target: self.target, udp: false })
    }

    /// Both verdicts, again and again, for a while.
    fn hold(&self, how_long: Duration) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < how_long {
            let seen = probe::all(&self.tries()).into_iter().collect::<std::io::Result<Vec<_>>>()?;
            ensure!(seen == [Seen::Open, Seen::Dropped], "after {:?} the verdicts are {seen:?}", begin.elapsed());
        }
        Ok(())
    }

    async fn remove(self, lab: &Lab) -> Result<()> {
        lab.delete("v1", "Namespace", None, &self.name).await?;
        lab.delete(OURS, "RuleSet", None, &self.name).await
    }
}

async fn scale_controller(lab: &Lab, replicas: i32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), SYSTEM);
    let patch = json!({"spec": {"replicas": replicas}});
    deployments.patch("ringfence-controller", &PatchParams::default(), &Patch::Merge(patch)).await?;
    wait::until("the controller to be scaled", SLOW, || async {
        let status = deployments.get("ringfence-controller").await?.status.unwrap_or_default();
        let settled = status.replicas.unwrap_or(0) == replicas && status.ready_replicas.unwrap_or(0) == replicas;
        Ok(settled.then_some(()))
    })
    .await
}

/// Controller stopped: Pods start and are enforced by class; its return brings their addresses to their peers.
pub async fn pods_are_enforced_without_the_controller(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-controller").await?;
    scale_controller(&lab, 0).await?;
    let outcome = without_controller(&lab, &scene).await;
    scale_controller(&lab, 1).await?;
    let (late, target) = outcome?;
    lab.await_seen(&late, scene.target, Seen::Open, SLOW).await?;
    lab.await_seen(&scene.allowed, target, Seen::Open, SLOW).await?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

async fn without_controller(lab: &Lab, scene: &Scene) -> Result<(PathBuf, SocketAddr)> {
    lab.apply(&pod(&scene.name, "late-client", "client", Some("node2"))).await?;
    lab.apply(&pod(&scene.name, "late-server", "server", Some("node3"))).await?;
    lab.await_pod(&scene.name, "late-client").await?;
    let target = SocketAddr::new(pod_ip(&lab.await_pod(&scene.name, "late-server").await?)?, 8080);
    let late = lab.netns(&scene.name, "late-client")?;
    ensure!(!kernel::ours(&late)?.is_empty(), "a Pod that started without the controller has no rules");
    // Enforced by class: who is already known may be reached from either side's own view, strangers not at all.
    lab.await_seen(&scene.denied, target, Seen::Dropped, Duration::ZERO).await?;
    lab.await_seen(&lab.bed.client_netns(), target, Seen::Dropped, Duration::ZERO).await?;
    scene.hold(Duration::from_secs(2))?;
    Ok((late, target))
}

/// Apiserver stopped: enforcement stays, also when an agent is killed meanwhile.
pub async fn enforcement_stays_without_the_apiserver(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-apiserver").await?;
    let cluster = lab.bed.name().to_owned();
    lab.bed.run(&["stop", &cluster, "apiserver"])?;
    let held = scene.hold(Duration::from_secs(3)).and_then(|()| {
        lab.bed.run(&["node-exec", &cluster, "2", "pkill", "-KILL", "-x", "cven"])?;
        scene.hold(Duration::from_secs(10))
    });
    lab.bed.run(&["start", &cluster, "apiserver"])?;
    held?;
    wait::until("the apiserver to answer", SLOW, || async { lab.ours("RuleSet", &scene.name).await }).await?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// Agent killed with SIGKILL under traffic: no verdict changes.
pub async fn a_killed_agent_changes_no_verdict(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-agent").await?;
    for node in ["2", "3"] {
        lab.bed.run(&["node-exec", lab.bed.name(), node, "pkill", "-KILL", "-x", "cven"])?;
    }
    scene.hold(Duration::from_secs(8))?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// One agent stopped: `Ready` of a new RuleSet stays False and names the node.
pub async fn a_rule_set_waits_for_every_node(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-wait").await?;
    let signal = |signal: &str| lab.bed.run(&["node-exec", lab.bed.name(), "3", "pkill", signal, "-x", "cven"]);
    signal("-STOP")?;
    let rules = [rule("new", "Allow", (&scene.name, "stranger"), (&scene.name, "server"))];
    let applied = lab.apply(&rule_set("rb-wait-new", &rules)).await;
    let outcome = wait::until("a RuleSet that waits for node3", Duration::from_secs(20), || async {
        let object = lab.ours("RuleSet", "rb-wait-new").await?.context("no RuleSet")?;
        match ready(&object) {
            Some(condition) if condition.status == "False" && condition.message.contains("node3") => Ok(Some(())),
            Some(condition) => bail!("Ready={}: {}", condition.status, condition.message),
            None => Ok(None),
        }
    })
    .await;
    signal("-CONT")?;
    applied?;
    outcome?;
    lab.await_ready("RuleSet", None, "rb-wait-new").await?;
    lab.delete(OURS, "RuleSet", None, "rb-wait-new").await?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// A tightened policy ends the flows that it denies, and only those.
pub async fn a_tightened_policy_ends_exactly_its_flows(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-flows").await?;
    let both = [
        rule("client-to-server", "Allow", (&scene.name, "client"), (&scene.name, "server")),
        rule("stranger-to-server", "Allow", (&scene.name, "stranger"), (&scene.name, "server")),
    ];
    lab.apply(&rule_set(&scene.name, &both)).await?;
    lab.await_ready("RuleSet", None, &scene.name).await?;
    let kept = LongFlow::open(&scene.allowed, scene.target)?;
    let lost = LongFlow::open(&scene.denied, scene.target)?;
    lab.apply(&rule_set(&scene.name, &both[..1])).await?;
    lab.await_ready("RuleSet", None, &scene.name).await?;
    ensure!(kept.answers(), "a flow that is still allowed was ended");
    ensure!(!lost.answers(), "a flow that is not allowed any more goes on");
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}
