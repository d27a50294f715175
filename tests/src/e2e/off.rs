//! Off, on purpose: everything of Ringfence goes from every node, or from one, and comes back.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::exposed::Exposed;
use super::scene::Scene;
use super::upgrade::{CHART, RELEASE, helm};
use super::{Outcome, agent, host};
use crate::kernel;
use crate::lab::{Lab, SLOW};
use crate::manifests::{OURS, pod};
use crate::probe::{LongFlow, Seen};
use crate::source::SYSTEM;
use crate::testbed::root;
use crate::wait;

/// Where a node of the test bed has its CNI configuration (tests/cluster/node.sh).
const CONFLIST: &str = "/etc/cni/net.d/00-pods.conflist";
const NODES: [&str; 3] = ["1", "2", "3"];

fn on_node(lab: &Lab, node: &str, command: &[&str]) -> Result<String> {
    lab.bed.run(&[&["node-exec", lab.bed.name(), node], command].concat())
}

/// Why anything of Ringfence is left on a node: in the network namespaces of its Pods, or in its CNI configuration.
fn left(lab: &Lab, node: &str) -> Result<Option<String>> {
    for sandbox in lab.bed.sandboxes()?.iter().filter(|sandbox| sandbox.node == format!("node{node}")) {
        if let Some(line) = kernel::ours(&sandbox.netns)?.first() {
            return Ok(Some(format!("{}/{}: {line}", sandbox.namespace, sandbox.name)));
        }
    }
    if let Some(line) = kernel::ours(&lab.bed.netns(&format!("node{node}")))?.first() {
        return Ok(Some(format!("node{node} itself: {line}")));
    }
    let conflist = on_node(lab, node, &["cat", CONFLIST])?;
    Ok(conflist.contains("cven").then(|| format!("node{node}: the plugin is in {CONFLIST}")))
}

/// Awaits that nothing of Ringfence is left on a node.
///
/// # Errors
/// When something is, past the limit; the message says what.
pub async fn await_nothing_left(lab: &Lab, node: &str) -> Result<()> {
    wait::until(&format!("node{node} to be rid of Ringfence"), SLOW, || async {
        match left(lab, node)? {
            None => Ok(Some(())),
            Some(what) => anyhow::bail!(what),
        }
    })
    .await
}

/// What is said of it; whoever says nothing any more leaves the ContainerCluster to those who made it.
async fn enforcement(lab: &Lab, value: Option<&str>) -> Result<()> {
    let mut object = json!({"apiVersion": OURS, "kind": "ContainerCluster", "metadata": {"name": "this"}});
    if let Some(value) = value {
        object["spec"] = json!({"enforcement": value});
    }
    lab.apply(&object).await.map(drop)
}

/// The reason of an object's condition Ready.
fn reason(object: &Value) -> String {
    crate::lab::ready(object).map(|ready| ready.reason).unwrap_or_default()
}

async fn await_reason(lab: &Lab, kind: &str, name: &str, wanted: &str) -> Result<()> {
    wait::until(&format!("{kind} {name} to say {wanted}"), SLOW, || async {
        let object = lab.ours(kind, name).await?.context("it is not there")?;
        Ok((reason(&object) == wanted).then_some(()))
    })
    .await
}

/// `ContainerCluster.spec.enforcement: Suspended` takes everything away from every node, and it comes back when that
/// is not said any more.
pub async fn suspended_enforcement_leaves_nothing(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "off-cluster").await?;
    ensure!(!kernel::gate(&lab.bed.netns("node2"))?.is_empty(), "the server's node has no gate");
    enforcement(&lab, Some("Suspended")).await?;
    let gone = suspended(&lab, &scene).await;
    enforcement(&lab, None).await?;
    gone?;
    lab.await_seen(&scene.denied, scene.target, Seen::Dropped, SLOW).await?;
    lab.await_ready("RuleSet", None, &scene.name).await?;
    scene.hold(Duration::from_millis(500))?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

async fn suspended(lab: &Lab, scene: &Scene) -> Result<()> {
    lab.await_seen(&scene.denied, scene.target, Seen::Open, SLOW).await?;
    for node in NODES {
        await_nothing_left(lab, node).await?;
        await_reason(lab, "NodePolicy", &format!("node{node}"), "Suspended").await?;
    }
    for (kind, name) in
        [("ContainerCluster", "this"), ("RuleSet", &scene.name), ("ContainerWorkloadProfile", &scene.name)]
    {
        await_reason(lab, kind, name, "Suspended").await?;
    }
    // Who starts now starts as if Ringfence were not there.
    lab.apply(&pod(&scene.name, "meanwhile", "stranger", Some("node2"))).await?;
    lab.await_pod(&scene.name, "meanwhile").await?;
    ensure!(kernel::ours(&lab.netns(&scene.name, "meanwhile")?)?.is_empty(), "a Pod has got rules meanwhile");
    Ok(())
}

/// `cven off` takes everything away from one node, its own rules too, and keeps it away over a restart of the agent, until `cven on`.
pub async fn one_node_is_turned_off_and_on(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "off-node").await?;
    let exposed = Exposed::create(&lab, &scene.name, "client").await?;
    host::ask(&lab, "node2", "Full").await?;
    let ran = off_and_on(&lab, &scene, &exposed).await;
    host::release(&lab, "node2").await?;
    ran?;
    exposed.await_open().await?;
    exposed.remove().await?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

async fn off_and_on(lab: &Lab, scene: &Scene, exposed: &Exposed<'_>) -> Result<()> {
    host::await_said(lab, "node2", Some("InForce")).await?;
    // Nobody helps: the agent does nothing meanwhile. The server is there; what the client's node enforces stays.
    agent::signal(lab, "2", "-STOP")?;
    let off = cven(lab, "2", "off").await;
    let mut gone = off.and_then(|()| left(lab, "2"));
    agent::signal(lab, "2", "-CONT")?;
    if let Ok(None) = gone {
        gone = turned_off(lab, scene, exposed).await.map(|()| None);
    }
    cven(lab, "2", "on").await?;
    if let Some(left) = gone? {
        bail!("'cven off' has left {left}");
    }
    lab.await_seen(&scene.denied, scene.target, Seen::Dropped, SLOW).await?;
    await_reason(lab, "NodePolicy", "node2", "InForce").await?;
    host::await_said(lab, "node2", Some("InForce")).await.map(drop)
}

async fn turned_off(lab: &Lab, scene: &Scene, exposed: &Exposed<'_>) -> Result<()> {
    await_nothing_left(lab, "2").await?;
    await_reason(lab, "NodePolicy", "node2", "Suspended").await?;
    lab.await_seen(&scene.denied, scene.target, Seen::Open, SLOW).await?;
    // Its gate is gone too: a Pod in Full elsewhere lets in nobody who comes by it.
    exposed.await_closed_at_node2().await?;
    // Another agent puts nothing back either.
    lab.kubectl(&["delete", "-n", SYSTEM, &agent::pod(lab, "2")?, "--wait=true"], &[])?;
    lab.kubectl(&["rollout", "status", "-n", SYSTEM, "daemonset/ringfence-agent", "--timeout=60s"], &[])?;
    await_reason(lab, "NodePolicy", "node2", "Suspended").await?;
    await_nothing_left(lab, "2").await?;
    let ours = kernel::ours(&lab.netns(&scene.name, "client")?)?;
    ensure!(!ours.is_empty(), "the other node is off too");
    Ok(())
}

/// Runs `cven off` or `cven on` in the agent of a node, which may be one that has just been started.
async fn cven(lab: &Lab, node: &str, command: &str) -> Result<()> {
    wait::until(&format!("'cven {command}' on node{node}"), SLOW, || async {
        lab.kubectl(&["exec", "-n", SYSTEM, &agent::pod(lab, node)?, "--", "cven", command], &[]).map(Some)
    })
    .await
    .map(drop)
}

/// `helm uninstall` where an agent is silent: nothing is uninstalled, its node is named and keeps its verdicts, and
/// enforcement goes on everywhere.
pub async fn an_uninstallation_that_an_agent_does_not_answer_is_refused(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "off-silent").await?;
    let chart = root().join(CHART).display().to_string();
    helm(&lab, &["upgrade", RELEASE, &chart, "--reuse-values", "--set", "uninstall.wait=1"])?;
    // The Job must not wait on the node of the agent that tells nobody how to start.
    lab.kubectl(&["cordon", "node2"], &[])?;
    agent::signal(&lab, "2", "-STOP")?;
    let refused = refused(&lab, &scene).await;
    agent::signal(&lab, "2", "-CONT")?;
    lab.kubectl(&["uncordon", "node2"], &[])?;
    // For Helm the release is on its way out and may not be upgraded, until something has been installed again.
    let back = helm(&lab, &["rollback", RELEASE]);
    if refused.is_err() {
        // Whatever went wrong, the tests that follow find Ringfence as they need it.
        lab.bed.install(&lab.kubeconfig)?;
    }
    refused?;
    back?;
    lab.await_ready("RuleSet", None, &scene.name).await?;
    for node in NODES {
        await_reason(&lab, "NodePolicy", &format!("node{node}"), "InForce").await?;
    }
    lab.await_seen(&scene.denied, scene.target, Seen::Dropped, SLOW).await?;
    scene.hold(Duration::from_millis(500))?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// Tries to uninstall while the agent of the server's node is silent.
async fn refused(lab: &Lab, scene: &Scene) -> Result<()> {
    let mut flow = LongFlow::open(&scene.allowed, scene.target)?;
    let its = lab.clone();
    let tried = tokio::task::spawn_blocking(move || helm(&its, &["uninstall", RELEASE, "--timeout=60s"]));
    let over = || Ok(tried.is_finished());
    let held = scene.hold_through(&mut flow, "the uninstallation to be refused", over, Duration::ZERO);
    let Err(error) = tried.await? else { bail!("it was uninstalled although an agent is silent") };
    held?;
    let said = lab.kubectl(&["logs", "-n", SYSTEM, "job/ringfence-uninstall"], &[]);
    let said = said.with_context(|| format!("the Job has said nothing, and Helm {error:#}"))?;
    ensure!(said.contains("nothing of Ringfence is left on") && said.contains("node2"), "the Job says: {said}");
    let cluster = lab.ours("ContainerCluster", "this").await?.context("there is no ContainerCluster")?;
    ensure!(cluster["spec"]["enforcement"] != "Suspended", "enforcement does not go on: {}", cluster["spec"]);
    Ok(())
}

/// `helm uninstall` leaves nothing on any node, and the next installation enforces again.
pub async fn an_uninstallation_leaves_nothing_on_any_node(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "off-uninstall").await?;
    let before = on_node(&lab, "2", &["cat", "/var/lib/ringfence/cni-before.json"])?;
    let before: Value = serde_json::from_str(&before).context("what was there before is no JSON")?;
    helm(&lab, &["uninstall", "ringfence", "--wait", "--timeout", "120s"])?;
    for node in NODES {
        ensure!(left(&lab, node)?.is_none(), "after the uninstallation: {:?}", left(&lab, node)?);
    }
    let after = on_node(&lab, "2", &["cat", CONFLIST])?;
    let original = before["text"].as_str().unwrap_or_default();
    ensure!(after.trim() == original.trim(), "{CONFLIST} is {after}, and was {original}");
    lab.await_seen(&scene.denied, scene.target, Seen::Open, SLOW).await?;
    lab.bed.install(&lab.kubeconfig)?;
    lab.await_seen(&scene.denied, scene.target, Seen::Dropped, SLOW).await?;
    await_reason(&lab, "ContainerCluster", "this", "Linked").await?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}
