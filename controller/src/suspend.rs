//! What runs before the chart is uninstalled: enforcement is suspended, and awaited that every agent has taken everything
//! of Ringfence away from its node. What is suspended so is lifted when a controller starts, and so by the next installation.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use ringfence_crds::names::{API_VERSION, MANAGER_UNINSTALL};
use ringfence_crds::{ContainerCluster, NodePolicy};
use serde_json::{Value, json};

use crate::status::nodes::is_off;

/// How often the agents' reports are looked at.
const PAUSE: Duration = Duration::from_millis(500);

/// Why enforcement was not suspended, or not everywhere.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    /// The apiserver refused or did not answer.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// Agents have not reported in time.
    #[error(
        "hear within {seconds} s that nothing of Ringfence is left on {nodes}: enforcement goes on as before; see to \
         the agents there, or leave rules and CNI plugin where they are with 'helm uninstall --no-hooks'"
    )]
    NodesLeft {
        /// For how long was waited.
        seconds: u64,
        /// The nodes.
        nodes: String,
    },
}

/// Suspends enforcement, and waits until every node that is Ready has nothing of Ringfence left.
///
/// # Errors
/// When that does not come in time: enforcement then goes on as before.
pub async fn suspend(client: &Client, limit: Duration) -> Result<(), SuspendError> {
    let begin = Instant::now();
    loop {
        // Again each time: a controller that starts meanwhile lifts it.
        set(client, json!({"enforcement": "Suspended"})).await?;
        let left = nodes_left(client).await?;
        if left.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > limit {
            lift(client).await?;
            return Err(SuspendError::NodesLeft { seconds: limit.as_secs(), nodes: left.join(", ") });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Lifts what [`suspend`] has suspended, and nothing that somebody else has.
///
/// # Errors
/// When the apiserver refuses or does not answer.
pub async fn lift(client: &Client) -> Result<(), SuspendError> {
    let ours = |cluster: &ContainerCluster| {
        cluster.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(MANAGER_UNINSTALL))
    };
    let clusters: Api<ContainerCluster> = Api::all(client.clone());
    for cluster in clusters.list(&ListParams::default()).await?.items.iter().filter(|cluster| ours(cluster)) {
        apply(&clusters, &cluster.name_any(), json!({})).await?;
        tracing::info!(cluster = cluster.name_any(), "enforcement is no longer suspended by an uninstallation");
    }
    Ok(())
}

async fn set(client: &Client, spec: Value) -> Result<(), SuspendError> {
    let clusters: Api<ContainerCluster> = Api::all(client.clone());
    for cluster in clusters.list(&ListParams::default()).await? {
        apply(&clusters, &cluster.name_any(), spec.clone()).await?;
    }
    Ok(())
}

/// What the spec does not name, and we have written before, goes.
async fn apply(clusters: &Api<ContainerCluster>, name: &str, spec: Value) -> Result<(), kube::Error> {
    let body = json!({
        "apiVersion": API_VERSION, "kind": "ContainerCluster", "metadata": {"name": name}, "spec": spec,
    });
    clusters.patch(name, &PatchParams::apply(MANAGER_UNINSTALL).force(), &Patch::Apply(body)).await.map(drop)
}

/// The nodes whose agents have not said that nothing is left. Of a node that is not Ready nobody can say anything.
async fn nodes_left(client: &Client) -> Result<Vec<String>, SuspendError> {
    let policies = Api::<NodePolicy>::all(client.clone()).list(&ListParams::default()).await?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let ready: Vec<String> = nodes.iter().filter(|node| is_ready(node)).map(ResourceExt::name_any).collect();
    let left = policies.iter().filter(|policy| !is_off(policy)).map(ResourceExt::name_any);
    Ok(left.filter(|name| ready.contains(name)).collect())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
