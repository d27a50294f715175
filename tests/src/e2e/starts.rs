//! How Pods start: protected, or, where their policy cannot be put in force in time, as their profile says.

use anyhow::{Result, ensure};

use super::outage::{MANIFESTS, start_static_in, wake_cluster};
use super::{Outcome, agent};
use crate::kernel;
use crate::lab::{Lab, SLOW};
use crate::manifests::{OURS, namespace, pod, profile};
use crate::wait;

/// Namespaces of a case, by policy state; the last one is not managed.
struct Namespaces {
    full: &'static str,
    selective: &'static str,
    unmanaged: &'static str,
}

const SILENT: Namespaces = Namespaces { full: "st-full", selective: "st-selective", unmanaged: "st-unmanaged" };
const RESTART: Namespaces = Namespaces { full: "sr-full", selective: "sr-selective", unmanaged: "sr-unmanaged" };
/// What the CNI plugin says of a Pod that must not start.
const REFUSED: &str = "is not protected yet";
/// The node that all of this happens on.
const NODE: &str = "3";
/// Where the test bed has the CNI configuration of a node (`write_node_etc` in tests/cluster/node.sh).
const CONFLIST: &str = "/etc/cni/net.d/00-pods.conflist";

impl Namespaces {
    async fn create(&self, lab: &Lab) -> Result<()> {
        for (name, state) in [(self.full, Some("Full")), (self.selective, Some("Selective")), (self.unmanaged, None)] {
            lab.apply(&namespace(name)).await?;
            if let Some(state) = state {
                lab.apply(&profile(name, state, &["none"])).await?;
                lab.await_ready("ContainerWorkloadProfile", None, name).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, lab: &Lab) -> Result<()> {
        for name in [self.full, self.selective, self.unmanaged] {
            lab.delete("v1", "Namespace", None, name).await?;
            lab.delete(OURS, "ContainerWorkloadProfile", None, name).await?;
        }
        Ok(())
    }
}

fn on_node(lab: &Lab, command: &[&str]) -> Result<String> {
    lab.bed.run(&[&["node-exec", lab.bed.name(), NODE], command].concat())
}

/// While the agent of its node says nothing, a Pod in Full does not start and others do; with the agent it starts, and
/// what others write into the CNI configuration does not take the plugin out.
pub async fn no_pod_in_full_starts_while_its_agent_is_silent(lab: Lab) -> Result<Outcome> {
    SILENT.create(&lab).await?;
    let node = format!("node{NODE}");
    agent::signal(&lab, NODE, "-STOP")?;
    let outcome = silent_agent(&lab, &node).await;
    agent::signal(&lab, NODE, "-CONT")?;
    outcome?;
    lab.await_pod(SILENT.full, "web").await?;
    ensure!(!kernel::ours(&lab.netns(SILENT.full, "web")?)?.is_empty(), "a Pod in Full has started without rules");

    let written = on_node(&lab, &["cat", CONFLIST])?;
    let foreign = written.replace("cven-cni", "loopback");
    ensure!(foreign != written, "the plugin is not in the CNI configuration: {written}");
    on_node(&lab, &["sh", "-c", r#"printf '%s' "$1" >"$0""#, CONFLIST, &foreign])?;
    wait::until("the plugin to be in the CNI configuration again", SLOW, || async {
        Ok(on_node(&lab, &["cat", CONFLIST])?.contains("cven-cni").then_some(()))
    })
    .await?;
    on_node(&lab, &["sh", "-c", r#"printf '%s' "$1" >"$0""#, CONFLIST, &written])?;
    SILENT.remove(&lab).await?;
    Ok(Outcome::Passed)
}

async fn silent_agent(lab: &Lab, node: &str) -> Result<()> {
    for name in [SILENT.full, SILENT.selective, SILENT.unmanaged] {
        lab.apply(&pod(name, "web", "none", Some(node))).await?;
    }
    for name in [SILENT.selective, SILENT.unmanaged] {
        lab.await_pod(name, "web").await?;
    }
    wait::until("a refusal of the Pod in Full", SLOW, || async {
        let events = lab.kubectl(&["get", "events", "-n", SILENT.full, "-o", "jsonpath={.items[*].message}"], &[])?;
        Ok(events.contains(REFUSED).then_some(()))
    })
    .await?;
    ensure!(lab.netns(SILENT.full, "web").is_err(), "a Pod in Full has started without its agent");
    Ok(())
}

/// A node that restarts while the apiserver is away starts its static Pods, but for those in Full: without the apiserver
/// there is no agent. With both back they start, protected.
pub async fn a_node_restarts_before_the_apiserver_is_there(lab: Lab) -> Result<Outcome> {
    RESTART.create(&lab).await?;
    for name in [RESTART.full, RESTART.unmanaged] {
        start_static_in(&lab, name, "still", NODE)?;
        lab.await_pod(name, &format!("still-node{NODE}")).await?;
    }
    // What holds without an agent is on the node's disk.
    wait::until("the fallback to name the namespace in Full", SLOW, || async {
        Ok(on_node(&lab, &["cat", "/var/lib/ringfence/cni-fallback.json"])?.contains(RESTART.full).then_some(()))
    })
    .await?;
    let cluster = lab.bed.name().to_owned();
    lab.bed.run(&["stop", &cluster, "apiserver"])?;
    let outcome = restarted(&lab).await;
    lab.bed.run(&["start", &cluster, "apiserver"])?;
    wake_cluster(&lab)?;
    outcome?;
    let still = format!("still-node{NODE}");
    let rules = wait::until("the static Pod in Full", SLOW + SLOW, || async {
        kernel::ours(&lab.netns(RESTART.full, &still)?).map(Some)
    })
    .await?;
    ensure!(!rules.is_empty(), "a Pod in Full has started without rules");
    lab.await_pod(RESTART.full, &still).await?;
    for name in [RESTART.full, RESTART.unmanaged] {
        on_node(&lab, &["rm", "-f", &static_file(name)])?;
    }
    for name in [RESTART.full, RESTART.unmanaged] {
        wait::until("a static Pod to end", SLOW, || async { Ok(lab.netns(name, &still).is_err().then_some(())) })
            .await?;
    }
    RESTART.remove(&lab).await?;
    Ok(Outcome::Passed)
}

fn static_file(namespace: &str) -> String {
    format!("{MANIFESTS}/{namespace}-still.json")
}

async fn restarted(lab: &Lab) -> Result<()> {
    let before = lab.bed.log(&format!("kubelet-{NODE}"))?.matches(REFUSED).count();
    lab.bed.run(&["node-restart", lab.bed.name(), NODE])?;
    let still = format!("still-node{NODE}");
    wait::until("the static Pod that nobody manages", SLOW, || async {
        lab.netns(RESTART.unmanaged, &still).map(Some)
    })
    .await?;
    wait::until("a refusal of the static Pod in Full", SLOW, || async {
        let now = lab.bed.log(&format!("kubelet-{NODE}"))?.matches(REFUSED).count();
        Ok((now > before).then_some(()))
    })
    .await?;
    ensure!(lab.netns(RESTART.full, &still).is_err(), "a Pod in Full has started without its agent");
    Ok(())
}
