//! Where agents run, what nodes are, and what is known about the cluster as a whole.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
use super::upgrade::{CHART, helm, release_values};
use crate::kernel;
use crate::lab::{Lab, SLOW, pod_ip};
use crate::manifests::{AGNHOST, OURS, namespace, pod, profile, rule_set};
use crate::probe::{self, Seen};
use crate::source::SYSTEM;
use crate::wait;

/// Where the host-network server listens: a port that nothing else on a node uses.
const HOST_PORT: u16 = 18090;
/// How long a node may take to join with an agent, or a Helm upgrade to replace every Pod.
const JOIN: Duration = Duration::from_secs(120);

/// The network namespace of a node itself.
fn host_pod(space: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "host", "namespace": space, "annotations": {"ringfence.dev/role": "server"}},
        "spec": {
            "hostNetwork": true, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "nodeSelector": {"kubernetes.io/hostname": "node2"},
            "containers": [{
                "name": "main", "image": AGNHOST, "imagePullPolicy": "IfNotPresent",
                "args": ["netexec", format!("--http-port={HOST_PORT}"), "--udp-port=-1"],
            }],
        },
    })
}

/// Host-network Pods have no rules and no labels of their own: what applies to them is what applies to their node.
pub async fn host_network_pods_follow_their_node(lab: Lab) -> Result<Outcome> {
    let name = "pl-host";
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Full", &["client", "server"])).await?;
    let rules = |provider: Value| {
        rule_set(
            name,
            &[json!({
                "name": "client-to-server", "consumers": [{"labels": {"app": [name], "role": ["client"]}}],
                "providers": [provider], "services": [{"protocol": "TCP", "port": HOST_PORT}],
            })],
        )
    };
    lab.apply(&rules(json!({"labels": {"app": [name], "role": ["server"]}}))).await?;
    lab.apply(&host_pod(name)).await?;
    lab.apply(&pod(name, "client", "client", Some("node3"))).await?;
    let host = SocketAddr::new(pod_ip(&lab.await_pod(name, "host").await?)?, HOST_PORT);
    let own_client = pod_ip(&lab.await_pod(name, "client").await?)?;
    is_outside_pod_cidr(&lab, "node3", own_client).await?;
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    lab.await_ready("RuleSet", None, name).await?;

    // The namespace is in Full and no rule lets the outside in, but a node has no rules before its Workload has a state.
    lab.await_seen(&lab.bed.client_netns(), host, Seen::Open, SLOW).await?;
    let own = kernel::ours(&lab.bed.netns("node2"))?.into_iter().filter(|line| line.contains("RF-HOST-IN"));
    let own: Vec<String> = own.collect();
    ensure!(own.is_empty(), "the node of a host-network Pod has rules for its own traffic: {own:?}");
    // Outbound it is the node too: no default deny, but the client's own inbound side does not know it.
    let target = SocketAddr::new(own_client, 8080);
    ensure!(
        probe::tcp(&lab.bed.netns("node2"), target)? == Seen::Dropped,
        "a node reached a Pod in Full that no rule opens"
    );
    // To a rule it is no Pod with the role `server` but a container host.
    let client = lab.netns(name, "client")?;
    ensure!(probe::tcp(&client, host)? == Seen::Dropped, "a label of the profile selected a host-network Pod");
    lab.apply(&rules(json!({"containerHosts": true}))).await?;
    lab.await_ready("RuleSet", None, name).await?;
    ensure!(
        probe::tcp(&client, host)? == Seen::Open,
        "a rule to container hosts does not open their host-network Pods"
    );

    lab.delete("v1", "Namespace", None, name).await?;
    for kind in ["RuleSet", "ContainerWorkloadProfile"] {
        lab.delete(OURS, kind, None, name).await?;
    }
    Ok(Outcome::Passed)
}

/// That a Pod's address lies in its node's podCIDR is nothing that any test may rely on.
async fn is_outside_pod_cidr(lab: &Lab, node: &str, address: IpAddr) -> Result<()> {
    let object = lab.get("v1", "Node", None, node).await?.with_context(|| format!("there is no {node}"))?;
    let cidr = object["spec"]["podCIDR"].as_str().with_context(|| format!("{node} has no podCIDR"))?;
    // The test bed gives every node a /24.
    let (network, length) = cidr.rsplit_once('.').with_context(|| format!("'{cidr}' is no range"))?;
    ensure!(length == "0/24", "{node} has the podCIDR {cidr}, and this test knows only /24");
    let inside = address.to_string().rsplit_once('.').is_some_and(|(prefix, _)| prefix == network);
    ensure!(!inside, "{address} is in the podCIDR {cidr} of {node}: the cluster is to be made with Pods outside it");
    Ok(())
}

/// A node that joins gets an agent and a matched Workload; when it leaves, Workload and NodePolicy go.
pub async fn a_node_joins_and_leaves(lab: Lab) -> Result<Outcome> {
    let cluster = lab.bed.name().to_owned();
    lab.bed.run(&["node-add", &cluster, "4"])?;
    let joined = joined(&lab).await;
    lab.bed.run(&["node-del", &cluster, "4"])?;
    joined?;
    for kind in ["Workload", "NodePolicy"] {
        wait::until(&format!("the {kind} of node4 to go"), SLOW, || async {
            Ok(lab.ours(kind, "node4").await?.is_none().then_some(()))
        })
        .await?;
    }
    await_matched(&lab, "3/3").await.map(drop)?;
    Ok(Outcome::Passed)
}

async fn joined(lab: &Lab) -> Result<()> {
    wait::until("a ready agent on node4", JOIN, || async {
        let nodes = agent_nodes(lab)?;
        if nodes.iter().any(|node| node == "node4") { Ok(Some(())) } else { bail!("ready agents are on {nodes:?}") }
    })
    .await?;
    await_matched(lab, "4/4").await?;
    let columns = workload_columns(lab, "node4")?;
    ensure!(columns == ["this", "worker", "True"], "CLUSTER, ROLE and MATCHED of node4 are {columns:?}");
    Ok(())
}

/// What `kubectl get workloads` prints of a node under CLUSTER, ROLE and MATCHED.
fn workload_columns(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let text = lab.kubectl(&["get", "workloads.ringfence.dev", node], &[])?;
    let mut lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let head = lines.next().context("kubectl printed nothing")?;
    let row = lines.next().with_context(|| format!("kubectl printed no row: {text}"))?;
    ["CLUSTER", "ROLE", "MATCHED"]
        .iter()
        .map(|wanted| {
            let at = head.iter().position(|column| column == wanted);
            let at = at.with_context(|| format!("there is no column {wanted} in {head:?}"))?;
            row.get(at).cloned().with_context(|| format!("nothing under {wanted}: {row:?}"))
        })
        .collect()
}

async fn await_matched(lab: &Lab, matched: &str) -> Result<Value> {
    wait::until(&format!("{matched} nodes to be matched"), JOIN, || async {
        let object = lab.ours("ContainerCluster", "this").await?.context("there is no ContainerCluster")?;
        let now = &object["status"]["nodesMatched"];
        if now == matched { Ok(Some(object)) } else { bail!("it says {now}") }
    })
    .await
}

/// The one ContainerCluster says what discovery found; a second one is refused and changes nothing.
pub async fn the_container_cluster_says_what_was_found(lab: Lab) -> Result<Outcome> {
    let object = await_matched(&lab, "3/3").await?;
    lab.await_ready("ContainerCluster", None, "this").await?;
    let status = &object["status"];
    let system = lab.get("v1", "Namespace", None, "kube-system").await?.context("there is no kube-system")?;
    let uid = system["metadata"]["uid"].as_str().context("a namespace has a UID")?;
    ensure!(status["clusterUid"] == uid, "clusterUid is {}, kube-system has {uid}", status["clusterUid"]);
    let version: Value = serde_json::from_str(&lab.kubectl(&["get", "--raw", "/version"], &[])?)?;
    ensure!(status["kubernetesVersion"] == version["gitVersion"], "kubernetesVersion: {}", status["kubernetesVersion"]);
    ensure!(status["kubelinkVersion"].is_string(), "kubelinkVersion is missing");
    ensure!(status["kubelinkLastContact"].is_string(), "kubelinkLastContact is missing");
    let addresses = lab.bed.addresses()?;
    let range = |name: &str| addresses.get(name).with_context(|| format!("no {name}"));
    let ranges = json!([range("SERVICE_RANGE")?, range("SERVICE_RANGE6")?]);
    ensure!(status["serviceRanges"] == ranges, "serviceRanges are {}", status["serviceRanges"]);
    let networks = &status["podNetworks"];
    ensure!(networks[0]["id"] == format!("{uid}/default") && networks[1].is_null(), "podNetworks are {networks}");
    ensure!(networks[0]["origin"] == "discovered", "the Pod network is not a discovered one: {networks}");
    for (node, role) in [("node1", "master"), ("node2", "worker"), ("node3", "worker")] {
        let columns = workload_columns(&lab, node)?;
        ensure!(columns == ["this", role, "True"], "CLUSTER, ROLE and MATCHED of {node} are {columns:?}");
        let report = lab.ours("NodePolicy", node).await?.with_context(|| format!("no NodePolicy {node}"))?;
        let version = &report["status"]["agentVersion"];
        ensure!(*version == env!("CARGO_PKG_VERSION"), "the agent of {node} says it is of version {version}");
    }

    let second = json!({
        "apiVersion": OURS, "kind": "ContainerCluster", "metadata": {"name": "pl-second"}, "spec": {"management": "cloud"},
    });
    lab.apply(&second).await?;
    let refused = lab.await_condition("ContainerCluster", None, "pl-second", "False").await?;
    let reason = crate::lab::ready(&refused).context("it was awaited")?.reason;
    ensure!(reason == "SecondCluster", "the reason of a second ContainerCluster is {reason}");
    await_matched(&lab, "3/3").await?;
    ensure!(lab.ours("Workload", "node1").await?.is_some(), "a second ContainerCluster changed the management");
    lab.delete(OURS, "ContainerCluster", None, "pl-second").await?;
    Ok(Outcome::Passed)
}

/// `management: cloud` leaves masters to the provider: no agent there and no Workload; `self` brings both back.
pub async fn management_decides_where_agents_run(lab: Lab) -> Result<Outcome> {
    let values = release_values(&lab)?;
    let managed = manage(&lab, &values, "cloud").await;
    let checked = match managed {
        Ok(()) => without_master(&lab).await,
        Err(error) => Err(error),
    };
    manage(&lab, &values, "self").await?;
    checked?;
    let object = await_matched(&lab, "3/3").await?;
    ensure!(object["spec"]["management"] == "self", "the ContainerCluster does not say self: {}", object["spec"]);
    wait::until("an agent on every node", JOIN, || async {
        let nodes = agent_nodes(&lab)?;
        if nodes == ["node1", "node2", "node3"] { Ok(Some(())) } else { bail!("they are on {nodes:?}") }
    })
    .await?;
    Ok(Outcome::Passed)
}

async fn manage(lab: &Lab, values: &str, management: &str) -> Result<()> {
    let setting = format!("management={management}");
    let chart = crate::testbed::root().join(CHART).display().to_string();
    let arguments = [
        "upgrade",
        "ringfence",
        &chart,
        "--reset-values",
        "--values",
        values,
        "--set",
        &setting,
        "--wait",
        "--timeout=120s",
    ];
    helm(lab, &arguments).map(drop)?;
    // The chart tells the controller, which tells everyone else through the ContainerCluster.
    wait::until("the ContainerCluster to know its management", SLOW, || async {
        let object = lab.ours("ContainerCluster", "this").await?.context("there is no ContainerCluster")?;
        let now = &object["spec"]["management"];
        if now == management { Ok(Some(())) } else { bail!("it says {now}") }
    })
    .await
}

async fn without_master(lab: &Lab) -> Result<()> {
    wait::until("agents on workers only", JOIN, || async {
        let nodes = agent_nodes(lab)?;
        if nodes == ["node2", "node3"] { Ok(Some(())) } else { bail!("they are on {nodes:?}") }
    })
    .await?;
    for kind in ["Workload", "NodePolicy"] {
        wait::until(&format!("the {kind} of the master to go"), SLOW, || async {
            Ok(lab.ours(kind, "node1").await?.is_none().then_some(()))
        })
        .await?;
    }
    await_matched(lab, "2/2").await.map(drop)
}

/// The nodes with a ready agent, in order.
fn agent_nodes(lab: &Lab) -> Result<Vec<String>> {
    let selector = "app.kubernetes.io/component=agent";
    let text = lab.kubectl(&["get", "pods", "-n", SYSTEM, "-l", selector, "-o", "json"], &[])?;
    let list: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
    let mut nodes: Vec<String> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
        .filter_map(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned))
        .collect();
    nodes.sort();
    Ok(nodes)
}
