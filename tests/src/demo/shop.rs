//! The shop of `examples/shop` on the cluster: deployed, reset, and where its parts are.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::matrix::Places;
use crate::lab::{Lab, SLOW, pod_ip};
use crate::manifests::{OURS, namespace, pod};
use crate::source::SYSTEM;
use crate::testbed::{Sandbox, root};
use crate::wait;

/// A namespace that no repository speaks of.
pub const GUEST: &str = "guest";
/// Name of the demo's PolicyRepository.
pub const REPOSITORY: &str = "demo";

/// Takes away what an earlier run left: the repository, the policy it brought, what was edited by hand.
///
/// # Errors
/// When the apiserver refuses.
pub async fn reset(lab: &Lab) -> Result<()> {
    lab.delete(OURS, "PolicyRepository", Some(SYSTEM), REPOSITORY).await?;
    wait::until("the earlier PolicyRepository to be gone", SLOW, || async {
        Ok(lab.get(OURS, "PolicyRepository", Some(SYSTEM), REPOSITORY).await?.is_none().then_some(()))
    })
    .await?;
    for kind in ["ruleset", "iplist", "labelgroup", "servicedefinition", "containerworkloadprofile"] {
        let plural = format!("{kind}s.ringfence.dev");
        lab.kubectl(&["delete", &plural, "--all", "--wait=true", "--timeout=60s"], &[])?;
    }
    Ok(())
}

/// Deploys the shop and a Pod in a namespace of its own, and awaits that everything is ready.
///
/// # Errors
/// When it does not get ready.
pub async fn deploy(lab: &Lab) -> Result<()> {
    let folder = root().join("examples/shop");
    lab.kubectl(&["apply", "-k", &folder.display().to_string()], &[])?;
    lab.apply(&namespace(GUEST)).await?;
    lab.apply(&pod(GUEST, "guest", "guest", Some("node2"))).await?;
    for (space, app, count) in [
        ("shop-prod", "web", 2),
        ("shop-prod", "api", 2),
        ("shop-prod", "db", 1),
        ("shop-prod", "tools", 1),
        ("shop-prod", "legacy", 1),
        ("shop-dev", "web", 1),
        ("shop-dev", "api", 1),
        ("shop-dev", "db", 1),
        ("shop-dev", "tools", 1),
        ("monitoring", "scraper", 1),
    ] {
        lab.await_pods(space, &format!("app={app}"), count).await?;
    }
    lab.await_pod(GUEST, "guest").await?;
    Ok(())
}

/// Where every client and listener of the matrix is.
///
/// # Errors
/// When one is missing.
pub async fn places(lab: &Lab) -> Result<Places> {
    let mut places = Places::default();
    let sandboxes = lab.bed.sandboxes()?;
    for (row, space, app) in [
        ("prod/web", "shop-prod", "web"),
        ("prod/api", "shop-prod", "api"),
        ("prod/db", "shop-prod", "db"),
        ("prod/tools", "shop-prod", "tools"),
        ("prod/legacy", "shop-prod", "legacy"),
        ("dev/web", "shop-dev", "web"),
        ("dev/tools", "shop-dev", "tools"),
        ("scraper", "monitoring", "scraper"),
    ] {
        let first = first(&lab.client, space, app).await?;
        places.clients.insert(row.to_owned(), netns_of(&sandboxes, &first)?.netns.clone());
    }
    places.clients.insert("office".to_owned(), lab.bed.client_netns());
    // Of two replicas, the first one is the client and the last one the listener.
    for (column, space, app, port) in [
        ("web", "shop-prod", "web", 8080),
        ("api", "shop-prod", "api", 8080),
        ("api:9000", "shop-prod", "api", 9000),
        ("api:9100", "shop-prod", "api", 9100),
        ("db", "shop-prod", "db", 5432),
        ("dev/api", "shop-dev", "api", 8080),
        ("dev/db", "shop-dev", "db", 5432),
    ] {
        let last = pods(&lab.client, space, app).await?.pop().context("no Pod")?;
        places.listeners.insert(column.to_owned(), SocketAddr::new(pod_ip(&last)?, port));
    }
    for (column, service, port) in [("svc/api", "api", 8080), ("svc/db", "db", 5432)] {
        let address = lab.cluster_ip("shop-prod", service).await?;
        places.listeners.insert(column.to_owned(), SocketAddr::new(address, port));
    }
    let guest = lab.await_pod(GUEST, "guest").await?;
    places.listeners.insert("guest".to_owned(), SocketAddr::new(pod_ip(&guest)?, 8080));
    places.listeners.insert("nodeport".to_owned(), node_port(lab).await?);
    Ok(places)
}

async fn pods(client: &kube::Client, space: &str, app: &str) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), space);
    let mut list = api.list(&ListParams::default().labels(&format!("app={app}"))).await?.items;
    list.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    list.sort_by_key(ResourceExt::name_any);
    Ok(list)
}

async fn first(client: &kube::Client, space: &str, app: &str) -> Result<Pod> {
    pods(client, space, app).await?.into_iter().next().with_context(|| format!("no Pod app={app} in {space}"))
}

fn netns_of<'a>(sandboxes: &'a [Sandbox], pod: &Pod) -> Result<&'a Sandbox> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    sandboxes
        .iter()
        .find(|sandbox| sandbox.namespace == namespace && sandbox.name == name)
        .with_context(|| format!("no sandbox of Pod {namespace}/{name}"))
}

/// The web's nodePort on a node that has a web Pod (the Service keeps the client's address).
async fn node_port(lab: &Lab) -> Result<SocketAddr> {
    let services: Api<Service> = Api::namespaced(lab.client.clone(), "shop-prod");
    let service = services.get("web").await?.spec.context("a Service has a spec")?;
    let port = service.ports.unwrap_or_default().first().and_then(|port| port.node_port).context("no nodePort")?;
    let web = first(&lab.client, "shop-prod", "web").await?;
    let node = web.spec.and_then(|spec| spec.node_name).context("the Pod has no node")?;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let addresses = nodes.get(&node).await?.status.and_then(|status| status.addresses).unwrap_or_default();
    let address = addresses.into_iter().find(|address| address.type_ == "InternalIP").context("no InternalIP")?;
    Ok(SocketAddr::new(address.address.parse()?, u16::try_from(port)?))
}
