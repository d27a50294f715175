//! Full waits for the nodes: enforcement never runs ahead of its own rules.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Outcome, agent, cli};
use crate::lab::{Lab, SLOW, pod_ip, ready};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set};
use crate::probe::{self, Seen, Try};
use crate::wait;

/// Name of the namespace and of the RuleSet.
const NAME: &str = "wa-full";
const ROLES: [&str; 3] = ["client", "server", "stranger"];
/// How long a state that must not change is looked at: several times as long as agents take to acknowledge.
const HELD: Duration = Duration::from_secs(4);

/// One agent stopped: a profile that goes to Full names its node, and the state before stays in force on every node,
/// though all others have acknowledged. Once the agent is back, Full comes into force, and a connection that a rule allows
/// passes all the while.
pub async fn full_waits_for_every_node(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab).await?;
    agent::signal(&lab, "3", "-STOP")?;
    let waited = scene.waits(&lab).await;
    agent::signal(&lab, "3", "-CONT")?;
    waited?;
    let released = lab.await_ready("ContainerWorkloadProfile", None, NAME).await?;
    ensure!(released["status"]["enforcedState"] == "Full", "Ready without Full: {}", released["status"]);
    scene.sees([Seen::Open, Seen::Dropped])?;
    cli::status_is_content_with(&lab, &format!("ContainerWorkloadProfile {NAME}"))?;
    lab.delete("v1", "Namespace", None, NAME).await?;
    lab.delete(OURS, "RuleSet", None, NAME).await?;
    Ok(Outcome::Passed)
}

/// A server on node2, and on the same node whom a rule lets in and whom none does: node3 has nothing to do with them.
struct Scene {
    clients: [PathBuf; 2],
    target: SocketAddr,
}

impl Scene {
    async fn create(lab: &Lab) -> Result<Self> {
        lab.apply(&namespace(NAME)).await?;
        lab.apply(&profile(NAME, "VisibilityOnly", &ROLES)).await?;
        for role in ROLES {
            lab.apply(&pod(NAME, role, role, Some("node2"))).await?;
        }
        let target = SocketAddr::new(pod_ip(&lab.await_pod(NAME, "server").await?)?, 8080);
        lab.await_pod(NAME, "client").await?;
        lab.await_pod(NAME, "stranger").await?;
        let clients = [lab.netns(NAME, "client")?, lab.netns(NAME, "stranger")?];
        lab.await_ready("ContainerWorkloadProfile", None, NAME).await?;
        for client in &clients {
            lab.await_seen(client, target, Seen::Open, SLOW).await?;
        }
        Ok(Self { clients, target })
    }

    /// Full is asked for before the rule that it needs is written, as files of one folder may be.
    async fn waits(&self, lab: &Lab) -> Result<()> {
        lab.apply(&profile(NAME, "Full", &ROLES)).await?;
        lab.apply(&rule_set(NAME, &[rule("client-to-server", "Allow", (NAME, "client"), (NAME, "server"))])).await?;
        let waiting = wait::until("a profile that waits for node3 alone", Duration::from_secs(20), || async {
            let object = lab.ours("ContainerWorkloadProfile", NAME).await?.context("no profile")?;
            let waits = ready(&object).filter(|condition| condition.current && condition.status == "False");
            match waits {
                Some(condition) if names_node3_alone(&condition.message) => Ok(Some(object)),
                Some(condition) => bail!("{}: {}", condition.reason, condition.message),
                None => Ok(None),
            }
        })
        .await?;
        holds_visibility(&waiting)?;
        cli::status_names(lab, &format!("ContainerWorkloadProfile {NAME}"), "WaitingForNodes", "node3")?;
        let begin = Instant::now();
        while begin.elapsed() < HELD {
            self.sees([Seen::Open, Seen::Open])?;
        }
        holds_visibility(&lab.ours("ContainerWorkloadProfile", NAME).await?.context("no profile")?)
    }

    /// What client and stranger see of the server, at the same time.
    fn sees(&self, expected: [Seen; 2]) -> Result<()> {
        let tries = self.clients.each_ref().map(|netns| Try { netns: netns.clone(), target: self.target, udp: false });
        let seen = probe::all(&tries).into_iter().collect::<std::io::Result<Vec<_>>>()?;
        ensure!(seen == expected, "client and stranger see {seen:?}, expected {expected:?}");
        Ok(())
    }
}

fn names_node3_alone(message: &str) -> bool {
    message.contains("2/3 nodes") && message.contains("node3") && !message.contains("node2")
}

fn holds_visibility(profile: &Value) -> Result<()> {
    ensure!(profile["status"]["enforcedState"] == "VisibilityOnly", "not held back: {}", profile["status"]);
    let condition = ready(profile).context("no Ready condition")?;
    ensure!(condition.reason == "WaitingForNodes", "the reason is {}", condition.reason);
    ensure!(
        condition.message.contains("until then VisibilityOnly holds"),
        "it does not say what holds until then: {}",
        condition.message
    );
    Ok(())
}
