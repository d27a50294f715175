//! The apiserver is away: what is in force stays, agents restart from what they kept on disk, a Pod that the kubelet
//! starts all by itself, from a file, is enforced like any other of its class, and a node can be turned off and on.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::agent::{self, Ended};
use super::scene::Scene;
use super::{Outcome, off};
use crate::kernel;
use crate::lab::{Lab, SLOW};
use crate::manifests::{AGNHOST, OURS, namespace, pod, rule, rule_set};
use crate::probe::{self, LongFlow, Seen, Try};
use crate::source::SYSTEM;
use crate::wait;

/// The namespace of the static Pods, and their label `app`.
const STATIC: &str = "rb-static";
/// A RuleSet that is written when the apiserver is back.
const NEW: &str = "rb-apiserver-new";
/// Where the kubelet of a node looks for static Pods (`staticPodPath` in tests/cluster/node.sh).
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// What listens on every node whatever happens: the kubelet, and kube-proxy's health.
const KUBELET: u16 = 10250;
/// See [`KUBELET`].
const PROXY_HEALTH: u16 = 10256;

/// Where an agent keeps what it has read.
const LEDGER: &str = "/var/lib/ringfence/ledger.jsonl";

/// How docs/failures.md says that a node is turned off and on whose apiserver does not answer: in the container whose
/// first process is the agent.
const IN_AGENT: &str = r#"ctr -n k8s.io tasks exec --exec-id cven \
    "$(ctr -n k8s.io tasks list | awk -v pid="$(pgrep -ox cven)" '$2 == pid { print $1 }')" cven "$0""#;

/// Apiserver stopped: enforcement stays, also when agents are killed meanwhile and one of them with its ledger, a new static
/// Pod of a known class is enforced, and a node can be turned off and on.
pub async fn enforcement_stays_without_the_apiserver(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "rb-apiserver").await?;
    known_class(&lab).await?;
    let cluster = lab.bed.name().to_owned();
    lab.bed.run(&["stop", &cluster, "apiserver"])?;
    let held = without_apiserver(&lab, &scene).await;
    lab.bed.run(&["start", &cluster, "apiserver"])?;
    wake_cluster(&lab)?;
    let mirrored = match held {
        Ok(()) => mirrored(&lab).await,
        Err(error) => Err(error),
    };
    // Whoever writes a rule now must not wait for the controller: it is back as well, or this says so.
    let rules = [rule("new", "Allow", (&scene.name, "stranger"), (&scene.name, "server"))];
    lab.apply(&rule_set(NEW, &rules)).await?;
    let followed = lab.await_ready("RuleSet", None, NEW).await;
    lab.delete(OURS, "RuleSet", None, NEW).await?;
    for (name, node) in STATIC_PODS {
        let file = format!("{MANIFESTS}/{STATIC}-{name}.json");
        lab.bed.run(&["node-exec", &cluster, node, "rm", "-f", &file])?;
    }
    mirrored?;
    followed?;
    let said = lab.kubectl(&["logs", "-n", SYSTEM, &agent::pod(&lab, STATIC_PODS[0].1)?], &[])?;
    ensure!(said.contains("read the ledger"), "the agent that found a damaged ledger says nothing of it: {said}");
    scene.remove(&lab).await?;
    for (name, node) in STATIC_PODS {
        wait::until(&format!("the static Pod {name} to end"), SLOW, || async {
            Ok(lab.netns(STATIC, &format!("{name}-node{node}")).is_err().then_some(()))
        })
        .await?;
    }
    lab.delete("v1", "Namespace", None, STATIC).await?;
    for kind in ["RuleSet", "IPList", "ContainerWorkloadProfile"] {
        lab.delete(OURS, kind, None, STATIC).await?;
    }
    Ok(Outcome::Passed)
}

/// The static Pods and their nodes: one while its agent runs, one whose agent is dead when it starts.
const STATIC_PODS: [(&str, &str); 2] = [("first", "3"), ("second", "2")];

/// A namespace in Full whose profile fixes the only label, since a static Pod takes no other; one Pod makes its class
/// known. The client outside may reach port 8080 of the class, and the class the kubelets.
async fn known_class(lab: &Lab) -> Result<()> {
    lab.apply(&namespace(STATIC)).await?;
    lab.apply(&json!({
        "apiVersion": OURS, "kind": "ContainerWorkloadProfile", "metadata": {"name": STATIC},
        "spec": {"managed": true, "policyState": "Full", "labels": {"app": {"value": STATIC}}},
    }))
    .await?;
    let outside = lab.bed.addresses()?.get("EXT_ADDRESS").context("no EXT_ADDRESS")?.clone();
    lab.apply(&json!({
        "apiVersion": OURS, "kind": "IPList", "metadata": {"name": STATIC}, "spec": {"ranges": [outside]},
    }))
    .await?;
    let class = json!([{"labels": {"app": [STATIC]}}]);
    let inward = json!({
        "name": "outside-to-class", "consumers": [{"ipList": STATIC}], "providers": class,
        "services": [{"protocol": "TCP", "port": 8080}],
    });
    let outward = json!({
        "name": "class-to-kubelets", "consumers": class, "providers": [{"containerHosts": true}],
        "services": [{"protocol": "TCP", "port": KUBELET}],
    });
    lab.apply(&rule_set(STATIC, &[inward, outward])).await?;
    let mut known = pod(STATIC, "known", "none", Some("node2"));
    known["metadata"]["annotations"] = json!({});
    lab.apply(&known).await?;
    lab.await_pod(STATIC, "known").await?;
    lab.await_ready("ContainerWorkloadProfile", None, STATIC).await?;
    lab.await_ready("RuleSet", None, STATIC).await?;
    Ok(())
}

async fn without_apiserver(lab: &Lab, scene: &Scene) -> Result<()> {
    let mut flow = LongFlow::open(&scene.allowed, scene.target)?;
    start_static(lab, STATIC_PODS[0])?;
    scene.hold(Duration::from_secs(2))?;
    await_enforced(lab, STATIC_PODS[0]).await?;
    turned_off_and_on(lab, STATIC_PODS[0]).await?;

    let killed = [kill_with_its_ledger(lab, STATIC_PODS[0].1).await?, Ended::by_kill(lab, STATIC_PODS[1].1).await?];
    start_static(lab, STATIC_PODS[1])?;
    let over = || Ok(killed.iter().all(|agent| agent.is_back(lab)));
    scene.hold_through(&mut flow, "the killed agents", over, Duration::from_secs(3))?;
    await_enforced(lab, STATIC_PODS[0]).await?;
    await_enforced(lab, STATIC_PODS[1]).await
}

/// Kills an agent and damages what it has kept, so that the next one knows nothing newer than the ledger before.
async fn kill_with_its_ledger(lab: &Lab, node: &str) -> Result<Ended> {
    agent::signal(lab, node, "-STOP")?;
    let script = r#"dd if=/dev/zero of="$0" bs=64 count=1 conv=notrunc status=none"#;
    let damaged = lab.bed.run(&["node-exec", lab.bed.name(), node, "sh", "-c", script, LEDGER]);
    let killed = Ended::by_kill(lab, node).await;
    damaged?;
    killed
}

/// Turns the node of a static Pod off, which leaves nothing on it, and on again, which brings everything back.
async fn turned_off_and_on(lab: &Lab, pod: (&str, &str)) -> Result<()> {
    let gone = match in_agent(lab, pod.1, "off").await {
        Ok(()) => off::await_nothing_left(lab, pod.1).await,
        Err(error) => Err(error),
    };
    in_agent(lab, pod.1, "on").await?;
    gone?;
    await_enforced(lab, pod).await
}

/// Runs `cven off` or `cven on` on a node, without the apiserver.
async fn in_agent(lab: &Lab, node: &str, command: &str) -> Result<()> {
    wait::until(&format!("'cven {command}' on node{node} through its runtime"), SLOW, || async {
        lab.bed.run(&["node-exec", lab.bed.name(), node, "sh", "-c", IN_AGENT, command]).map(Some)
    })
    .await
    .map(drop)
}

/// A static Pod is a file in its node's folder.
fn start_static(lab: &Lab, (name, node): (&str, &str)) -> Result<()> {
    start_static_in(lab, STATIC, name, node)
}

/// The same in any namespace.
pub fn start_static_in(lab: &Lab, namespace: &str, name: &str, node: &str) -> Result<()> {
    let container = |name: &str, port: u16| {
        json!({
            "name": name, "image": AGNHOST, "imagePullPolicy": "IfNotPresent",
            "args": ["netexec", format!("--http-port={port}"), "--udp-port=-1"],
        })
    };
    let manifest: Value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "enableServiceLinks": false,
            "containers": [container("main", 8080), container("second", 8081)],
        },
    });
    write_static(lab, node, &format!("{namespace}-{name}.json"), &manifest)
}

/// Puts a static Pod into its node's folder. It comes there under its name only when it is whole.
pub fn write_static(lab: &Lab, node: &str, file: &str, manifest: &Value) -> Result<()> {
    let script = r#"printf '%s' "$2" >"$0/.$1" && mv "$0/.$1" "$0/$1""#;
    let arguments = ["node-exec", lab.bed.name(), node, "sh", "-c", script, MANIFESTS, file, &manifest.to_string()];
    lab.bed.run(&arguments).map(drop)
}

/// Awaits the sandbox of a static Pod and that what is seen is what the rules say.
async fn await_enforced(lab: &Lab, (name, node): (&str, &str)) -> Result<()> {
    let full_name = format!("{name}-node{node}");
    let netns =
        wait::until(&format!("the sandbox of {full_name}"), SLOW, || async { lab.netns(STATIC, &full_name).map(Some) })
            .await?;
    let address = IpAddr::V4(kernel::address(&netns)?);
    // It is enforced at once, and listens some time later.
    wait::until(&format!("the verdicts of {full_name}"), SLOW, || async { verdicts(lab, &netns, address).map(Some) })
        .await?;
    ensure!(!kernel::ours(&netns)?.is_empty(), "{full_name} has no rules of ours");
    Ok(())
}

/// What a rule allows opens, in both directions, and the rest is dropped.
fn verdicts(lab: &Lab, netns: &Path, address: IpAddr) -> Result<()> {
    let addresses = lab.bed.addresses()?;
    let master: IpAddr = addresses.get("NODE1_ADDRESS").context("no NODE1_ADDRESS")?.parse()?;
    let outside = lab.bed.client_netns();
    let another = lab.bed.netns("node1");
    let expected = [
        (&outside, address, 8080, Seen::Open),
        (&outside, address, 8081, Seen::Dropped),
        (&another, address, 8080, Seen::Dropped),
        (&netns.to_owned(), master, KUBELET, Seen::Open),
        (&netns.to_owned(), master, PROXY_HEALTH, Seen::Dropped),
    ];
    let tries = expected.map(|(netns, address, port, _)| Try {
        netns: netns.clone(),
        target: SocketAddr::new(address, port),
        udp: false,
    });
    for ((from, to, port, wanted), seen) in expected.into_iter().zip(probe::all(&tries)) {
        let seen = seen?;
        if seen != wanted {
            bail!("{} to {to}:{port} is {seen}, expected {wanted}", from.display());
        }
    }
    Ok(())
}

/// Kubernetes' own parts wait up to half a minute before they ask an apiserver again that refused them for so long: they
/// are started anew, so that neither this test nor the next waits for them. Ringfence's parts get no such help.
pub fn wake_cluster(lab: &Lab) -> Result<()> {
    let cluster = lab.bed.name();
    let mut parts = vec![vec!["controller-manager"], vec!["scheduler"]];
    for node in ["1", "2", "3"] {
        parts.extend([vec!["kubelet", node], vec!["kube-proxy", node]]);
    }
    for part in parts {
        for verb in ["stop", "start"] {
            lab.bed.run(&[&[verb, cluster], part.as_slice()].concat())?;
        }
    }
    Ok(())
}

/// With the apiserver back the kubelets make the mirrors of their static Pods, and nothing changes.
async fn mirrored(lab: &Lab) -> Result<()> {
    for (name, node) in STATIC_PODS {
        let full_name = format!("{name}-node{node}");
        wait::until(&format!("the mirror of {full_name}"), SLOW, || lab.get("v1", "Pod", Some(STATIC), &full_name))
            .await?;
        await_enforced(lab, (name, node)).await?;
    }
    Ok(())
}
