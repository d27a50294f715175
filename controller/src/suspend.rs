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
/// An agent that acts on a suspension says within this time that it is at it.
const SETTLED: Duration = Duration::from_secs(2);
/// How often it is tried to lift what was suspended for nothing: for a minute.
const GIVE_UP_TRIES: u32 = 120;

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

/// Suspends enforcement, and waits until every node that is Ready has nothing of Ringfence left. An apiserver that does
/// not answer is asked again until the time is over.
///
/// # Errors
/// When that does not come in time: what was suspended is to be lifted then ([`give_up`]).
pub async fn suspend(client: &Client, limit: Duration) -> Result<(), SuspendError> {
    let begin = Instant::now();
    let mut looked_before = false;
    loop {
        let left = match look(client).await {
            // What the first look finds may have been said of an earlier suspension.
            Ok(left) if left.is_empty() && looked_before => return Ok(()),
            Ok(left) => {
                looked_before = true;
                Ok(left)
            }
            Err(error) => Err(error),
        };
        if begin.elapsed() > limit {
            return Err(match left {
                Ok(left) => SuspendError::NodesLeft { seconds: limit.as_secs(), nodes: left.join(", ") },
                Err(error) => error,
            });
        }
        tokio::time::sleep(if looked_before { SETTLED } else { PAUSE }).await;
    }
}

/// Suspends, again each time since a controller that starts meanwhile lifts it, and says what is left.
async fn look(client: &Client) -> Result<Vec<String>, SuspendError> {
    set(client, json!({"enforcement": "Suspended"})).await?;
    nodes_left(client).await
}

/// Lifts what was suspended for nothing, however often that has to be tried.
pub async fn give_up(client: &Client) {
    for _ in 0..GIVE_UP_TRIES {
        match lift(client).await {
            Ok(()) => return,
            Err(error) => tracing::error!("failed to let enforcement go on, trying again: {error}"),
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
        apply(&clusters, &cluster.name_any(), None).await?;
        tracing::info!(cluster = cluster.name_any(), "enforcement is no longer suspended by an uninstallation");
    }
    Ok(())
}

async fn set(client: &Client, spec: Value) -> Result<(), SuspendError> {
    let clusters: Api<ContainerCluster> = Api::all(client.clone());
    for cluster in clusters.list(&ListParams::default()).await? {
        apply(&clusters, &cluster.name_any(), Some(spec.clone())).await?;
    }
    Ok(())
}

/// What the spec does not name, and we have written before, goes. Without a spec, even an empty one, nothing tells any more
/// that we were there: a ContainerCluster that nobody has written to follows the chart.
async fn apply(clusters: &Api<ContainerCluster>, name: &str, spec: Option<Value>) -> Result<(), kube::Error> {
    let mut body = json!({"apiVersion": API_VERSION, "kind": "ContainerCluster", "metadata": {"name": name}});
    if let Some(spec) = spec {
        body["spec"] = spec;
    }
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
