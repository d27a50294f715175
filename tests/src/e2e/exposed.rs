//! Services of type NodePort, and a client outside that comes by them.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::host;
use crate::lab::{self, Lab, SLOW};
use crate::manifests::{OURS, rule_set, service};
use crate::probe::Seen;
use crate::wait;

/// The Service that [`Exposed`] makes.
const SERVICE: &str = "exposed";

/// Makes a Service of type NodePort in front of the Pods `name=<pod>`; gives its port on the nodes.
///
/// # Errors
/// When the apiserver refuses.
pub async fn node_port(lab: &Lab, (space, name): (&str, &str), pod: &str, policy: &str, target: u16) -> Result<u16> {
    let mut object = service(space, name);
    object["spec"]["type"] = json!("NodePort");
    object["spec"]["externalTrafficPolicy"] = json!(policy);
    object["spec"]["selector"] = json!({"name": pod});
    object["spec"]["ports"][0]["targetPort"] = json!(target);
    lab.apply(&object).await?;
    let live = lab.get("v1", "Service", Some(space), name).await?.with_context(|| format!("no Service {name}"))?;
    let port = live["spec"]["ports"][0]["nodePort"].as_u64().context("the Service has no nodePort")?;
    u16::try_from(port).context("a port has 16 bits")
}

/// An IPList of the client outside, and a RuleSet by which it may connect to Pods of a role on a port; both have this name.
///
/// # Errors
/// When the apiserver refuses.
pub async fn let_outside_in(lab: &Lab, name: &str, (app, role): (&str, &str), port: u16) -> Result<()> {
    let outside = host::address(lab, "EXT")?;
    let spec = json!({"ranges": [outside]});
    lab.apply(&json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": name}, "spec": spec})).await?;
    let rule = json!({
        "name": "outside", "consumers": [{"ipList": name}],
        "providers": [{"labels": {"app": [app], "role": [role]}}],
        "services": [{"protocol": "TCP", "port": port}],
    });
    lab.apply(&rule_set(name, &[rule])).await.map(drop)
}

/// Awaits that a VirtualService says of its Service that sources are hidden, and where.
///
/// # Errors
/// When it does not within the limit.
pub async fn await_hidden(lab: &Lab, space: &str, name: &str, place: &str) -> Result<()> {
    wait::until(&format!("VirtualService {name} to say that {place} hides sources"), SLOW, || async {
        let object = lab.get(OURS, "VirtualService", Some(space), name).await?.unwrap_or(Value::Null);
        match lab::ready(&object) {
            Some(ready) if ready.reason == "SourceHidden" && ready.message.contains(place) => Ok(Some(())),
            Some(ready) => bail!("it says {}: {}", ready.reason, ready.message),
            None => bail!("it says nothing"),
        }
    })
    .await
}

/// A Pod on node3 that a Service exposes on every node and that a client outside may reach.
pub struct Exposed<'l> {
    lab: &'l Lab,
    space: String,
    client: PathBuf,
    port: u16,
}

impl<'l> Exposed<'l> {
    /// Exposes the Pod `pod` on node3, of the role of the same name; awaits that it is reached by its own node and another.
    ///
    /// # Errors
    /// When it is not within the limit.
    pub async fn create(lab: &'l Lab, space: &str, pod: &str) -> Result<Self> {
        let_outside_in(lab, &outside(space), (space, pod), 8080).await?;
        let port = node_port(lab, (space, SERVICE), pod, "Cluster", 8080).await?;
        let exposed = Self { lab, space: space.to_owned(), client: lab.bed.client_netns(), port };
        exposed.await_open().await?;
        Ok(exposed)
    }

    /// Awaits that the client comes in by every node, and that nobody says otherwise.
    ///
    /// # Errors
    /// When it does not within the limit.
    pub async fn await_open(&self) -> Result<()> {
        for node in [2, 3] {
            self.await_through(node, Seen::Open).await?;
        }
        self.lab.await_ready("VirtualService", Some(&self.space), SERVICE).await.map(drop)
    }

    /// Awaits that nobody comes in by node2, which says so, while node3 goes on.
    ///
    /// # Errors
    /// When it is not so within the limit.
    pub async fn await_closed_at_node2(&self) -> Result<()> {
        await_hidden(self.lab, &self.space, SERVICE, "node2").await?;
        self.await_through(2, Seen::Dropped).await?;
        self.await_through(3, Seen::Open).await
    }

    async fn await_through(&self, node: u32, seen: Seen) -> Result<()> {
        let address = host::address(self.lab, &format!("NODE{node}"))?;
        self.lab.await_seen(&self.client, SocketAddr::new(address, self.port), seen, SLOW).await
    }

    /// Takes away what is not in the namespace.
    ///
    /// # Errors
    /// When the apiserver refuses.
    pub async fn remove(self) -> Result<()> {
        for kind in ["RuleSet", "IPList"] {
            self.lab.delete(OURS, kind, None, &outside(&self.space)).await?;
        }
        Ok(())
    }
}

fn outside(space: &str) -> String {
    format!("{space}-outside")
}
