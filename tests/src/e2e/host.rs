//! The node's own traffic: what passes a node in Full, and policies that are taken back.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::scene::Scene;
use super::{Outcome, agent};
use crate::kernel::{self, in_netns};
use crate::lab::{Lab, SLOW};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set};
use crate::probe::{self, Seen};
use crate::wait;

/// The node whose own traffic gets a policy: none of the control plane.
const NODE: &str = "node3";
/// A failsafe port, one that a rule opens, and one that nothing does.
const PORTS: [u16; 3] = [28022, 28080, 28081];
/// Open to anybody on every node.
const SSH: u16 = 22;
/// Ports outside: a failsafe destination, and one that nothing opens.
const OUTSIDE: [u16; 2] = [28090, 28091];
/// The port of a tunnel that nobody knows as one: no policy counts it as essential.
const TUNNEL_PORT: &str = "28789";
/// Within so long what a policy has cut must work again.
const TAKEN_BACK: Duration = Duration::from_secs(10);
/// Name of what a test makes.
const NAME: &str = "ho-node";
/// Name of what comes later.
const LATER: &str = "ho-later";

/// The IPv4 address of a part of the cluster.
pub fn address(lab: &Lab, part: &str) -> Result<IpAddr> {
    let addresses = lab.bed.addresses()?;
    addresses
        .get(&format!("{part}_ADDRESS"))
        .with_context(|| format!("no address of {part}"))?
        .parse()
        .context("it is none")
}

/// Asks for a state of a node's own traffic.
pub async fn ask(lab: &Lab, node: &str, state: &str) -> Result<()> {
    let spec = json!({"policyState": state});
    lab.apply(&json!({"apiVersion": OURS, "kind": "Workload", "metadata": {"name": node}, "spec": spec}))
        .await
        .map(drop)
}

/// Asks for nothing any more: Kubelink makes the Workload anew, as long as there is the node.
pub async fn release(lab: &Lab, node: &str) -> Result<()> {
    lab.delete(OURS, "Workload", None, node).await
}

/// The condition that tells of a node's own policy: its reason and message.
async fn said(lab: &Lab, node: &str) -> Result<Option<(String, String)>> {
    let object = lab.ours("NodePolicy", node).await?.context("there is no NodePolicy")?;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let host = conditions.into_iter().find(|condition| condition["type"] == "HostPolicy");
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Ok(host.map(|condition| (text(&condition, "reason"), text(&condition, "message"))))
}

/// Awaits a reason, or that nothing is said any more; gives the message.
pub async fn await_said(lab: &Lab, node: &str, reason: Option<&str>) -> Result<String> {
    wait::until(&format!("{node} to say {reason:?} of its own policy"), SLOW, || async {
        match said(lab, node).await? {
            now if now.as_ref().map(|(reason, _)| reason.as_str()) == reason => {
                Ok(Some(now.map(|(_, message)| message).unwrap_or_default()))
            }
            now => bail!("it says {now:?}"),
        }
    })
    .await
}

/// Something that listens on a node, or outside, until it is dropped.
pub struct Listener(Child);

impl Listener {
    /// Listens on a port.
    pub fn on(lab: &Lab, netns: &Path, port: u16) -> Result<Self> {
        let child = Command::new("nsenter")
            .arg(format!("--net={}", netns.display()))
            .arg(lab.bed.bin()?.join("agnhost"))
            .args(["netexec", &format!("--http-port={port}"), "--udp-port=-1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.map(Self).context("failed to start a listener")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Settings of the cluster that this test needs; without a spec nothing tells any more that somebody has written to it.
async fn cluster(lab: &Lab, spec: Option<Value>) -> Result<()> {
    let mut object = json!({"apiVersion": OURS, "kind": "ContainerCluster", "metadata": {"name": "this"}});
    if let Some(spec) = spec {
        object["spec"] = spec;
    }
    lab.apply(&object).await.map(drop)
}

/// The failsafes of the cluster, with more beside them.
async fn failsafe(lab: &Lab, more: Value) -> Result<()> {
    let destination = json!({"ranges": [address(lab, "EXT")?], "ports": [{"protocol": "TCP", "port": OUTSIDE[0]}]});
    let mut spec =
        json!({"failsafePorts": [{"protocol": "TCP", "port": PORTS[0]}], "failsafeDestinations": [destination]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    cluster(lab, Some(spec)).await
}

/// What the client outside sees of the three ports, and the node of those outside.
fn sees(lab: &Lab, expected: [Seen; 3]) -> Result<()> {
    let [failsafe, _, closed] = expected;
    let (node, outside) = (address(lab, "NODE3")?, address(lab, "EXT")?);
    let inward = PORTS.map(|port| (lab.bed.client_netns(), SocketAddr::new(node, port)));
    let outward = OUTSIDE.map(|port| (lab.bed.netns(NODE), SocketAddr::new(outside, port)));
    let tries = inward.iter().chain(&outward).map(|(netns, target)| probe::tcp(netns, *target));
    let seen = tries.collect::<std::io::Result<Vec<_>>>()?;
    let expected: Vec<Seen> = expected.into_iter().chain([failsafe, closed]).collect();
    ensure!(
        seen == expected,
        "the ports {PORTS:?} of {NODE} and {OUTSIDE:?} outside are {seen:?}, expected {expected:?}"
    );
    Ok(())
}

/// What the kubelet's port is to the control plane, and to anybody else.
const KUBELET: u16 = 10250;
const KUBELET_OPEN: [Seen; 2] = [Seen::Open; 2];
const KUBELET_CLOSED: [Seen; 2] = [Seen::Open, Seen::Dropped];

/// SSH and kube-proxy's health are open to anybody; the kubelet to the control plane, and to the client outside as `kubelet` says.
fn essentials(lab: &Lab, kubelet: [Seen; 2]) -> Result<()> {
    let (node, client, control_plane) = (address(lab, "NODE3")?, lab.bed.client_netns(), lab.bed.netns("cp"));
    let tries = [(&client, SSH), (&client, 10256), (&control_plane, KUBELET), (&client, KUBELET)];
    let seen = tries.iter().map(|(netns, port)| probe::tcp(netns, SocketAddr::new(node, *port)));
    let seen = seen.collect::<std::io::Result<Vec<_>>>()?;
    let expected = [&[Seen::Open; 2][..], &kubelet].concat();
    ensure!(seen == expected, "essential ports of {NODE} are {seen:?}, expected {expected:?}");
    Ok(())
}

async fn await_sees(lab: &Lab, expected: [Seen; 3]) -> Result<()> {
    wait::until("the ports of a node", SLOW, || std::future::ready(sees(lab, expected).map(Some))).await
}

/// A node in Full: its failsafe port and destination and what a rule opens pass, anything else does not; the node stays Ready and its Pods too. It
/// stays so without its agent, and nothing is left once it is turned off, or Idle again.
pub async fn a_node_in_full_is_open_where_it_must_be(lab: Lab) -> Result<Outcome> {
    let inside = [&PORTS[..], &[SSH]].concat();
    let places = [(lab.bed.netns(NODE), &inside[..]), (lab.bed.client_netns(), &OUTSIDE[..])];
    let ports = places.iter().flat_map(|(netns, ports)| ports.iter().map(move |port| (netns, *port)));
    let _listeners = ports.map(|(netns, port)| Listener::on(&lab, netns, port)).collect::<Result<Vec<_>>>()?;
    let open = [Seen::Open; 3];
    await_sees(&lab, open).await?;
    essentials(&lab, KUBELET_OPEN)?;
    let ran = in_full(&lab).await;
    release(&lab, NODE).await?;
    cluster(&lab, None).await?;
    ran?;
    await_said(&lab, NODE, None).await?;
    await_sees(&lab, open).await?;
    ensure!(!has_rules(&lab.bed.netns(NODE))?, "rules are left on an Idle node");
    lab.delete("v1", "Namespace", None, NAME).await?;
    for (kind, name) in [("RuleSet", NAME), ("IPList", NAME), ("ContainerWorkloadProfile", NAME)] {
        lab.delete(OURS, kind, None, name).await?;
    }
    Ok(Outcome::Passed)
}

async fn in_full(lab: &Lab) -> Result<()> {
    let full = [Seen::Open, Seen::Open, Seen::Dropped];
    let client = lab.bed.addresses()?.get("EXT_ADDRESS").context("no EXT_ADDRESS")?.clone();
    lab.apply(&json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": NAME}, "spec": {"ranges": [client]}}))
        .await?;
    let opened = json!({
        "name": "client-to-nodes", "consumers": [{"ipList": NAME}], "providers": [{"containerHosts": true}],
        "services": [{"protocol": "TCP", "port": PORTS[1]}],
    });
    lab.apply(&rule_set(NAME, &[opened])).await?;
    failsafe(lab, json!({})).await?;
    ask(lab, NODE, "Full").await?;
    await_said(lab, NODE, Some("InForce")).await?;
    await_sees(lab, full).await?;
    essentials(lab, KUBELET_CLOSED)?;
    let way = format!(" {},tcp:6443", address(lab, "APISERVER")?);
    ensure!(in_netns(&lab.bed.netns(NODE), &["ipset", "save"])?.contains(&way), "the kubelet's way is not known");
    // Whatever a rule says, what is essential passes, and failsafes do.
    let all = |name: &str, ends: [Value; 2]| {
        let [consumers, providers] = ends.map(|end| json!([end]));
        json!({"name": name, "action": "OverrideDeny", "consumers": consumers, "providers": providers, "allServices": true})
    };
    let (anyone, nodes) = (json!({"ipList": LATER}), json!({"containerHosts": true}));
    let ranges = json!({"ranges": ["0.0.0.0/0"]});
    lab.apply(&json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": LATER}, "spec": ranges})).await?;
    let both = [all("in", [anyone.clone(), nodes.clone()]), all("out", [nodes, anyone])];
    lab.apply(&rule_set(LATER, &both)).await?;
    lab.await_ready("RuleSet", None, LATER).await?;
    await_sees(lab, [Seen::Open, Seen::Dropped, Seen::Dropped]).await?;
    essentials(lab, KUBELET_CLOSED)?;
    for kind in ["RuleSet", "IPList"] {
        lab.delete(OURS, kind, None, LATER).await?;
    }
    await_sees(lab, full).await?;
    // A Pod starts and is probed, and is reached over the Pod network.
    lab.apply(&namespace(NAME)).await?;
    lab.apply(&profile(NAME, "Idle", &["server"])).await?;
    for (name, node) in [("here", NODE), ("there", "node2")] {
        lab.apply(&pod(NAME, name, "server", Some(node))).await?;
    }
    let here = SocketAddr::new(crate::lab::pod_ip(&lab.await_pod(NAME, "here").await?)?, 8080);
    lab.await_pod(NAME, "there").await?;
    lab.await_seen(&lab.netns(NAME, "there")?, here, Seen::Open, SLOW).await?;
    // Nobody keeps the rules but the kernel; the next agent writes none.
    let killed = agent::Ended::by_kill(lab, "3").await?;
    sees(lab, full)?;
    wait::until("the next agent", SLOW, || async { Ok(killed.is_back(lab).then_some(())) }).await?;
    sees(lab, full)?;
    await_said(lab, NODE, Some("InForce")).await?;
    lab.await_ready("NodePolicy", None, NODE).await?;
    lab.await_ready("RuleSet", None, NAME).await?;
    sees(lab, full)?;
    // Suspended, the node itself is as if nothing had been.
    failsafe(lab, json!({"enforcement": "Suspended"})).await?;
    await_sees(lab, [Seen::Open; 3]).await?;
    wait::until("a node without rules of ours", SLOW, || async {
        let left = kernel::ours(&lab.bed.netns(NODE))?;
        if left.is_empty() { Ok(Some(())) } else { bail!("{left:?}") }
    })
    .await?;
    failsafe(lab, json!({})).await?;
    await_sees(lab, full).await
}

/// A tunnel between the node and node2, by a port that nobody knows as one, and what the node sends through it.
struct Tunnel {
    ends: [PathBuf; 2],
    routes: Vec<String>,
}

impl Tunnel {
    /// Through it go `destinations`, with the node's own address; node2 sends them on, and answers come back directly.
    fn to_node2(lab: &Lab, destinations: &[String]) -> Result<Self> {
        let ends = [lab.bed.netns(NODE), lab.bed.netns("node2")];
        let outer = [address(lab, "NODE3")?, address(lab, "NODE2")?];
        // The node's end has the node's own address: what the node translates takes that of the device.
        for (index, inner) in [format!("{}/32", outer[0]), "192.168.77.2/30".to_owned()].iter().enumerate() {
            let (own, other) = (outer[index].to_string(), outer[1 - index].to_string());
            let vxlan = ["type", "vxlan", "id", "77", "dstport", TUNNEL_PORT, "local", &own, "remote", &other];
            in_netns(&ends[index], &[&["ip", "link", "add", "rftest"][..], &vxlan].concat())?;
            in_netns(&ends[index], &["ip", "address", "add", inner, "dev", "rftest"])?;
            in_netns(&ends[index], &["ip", "link", "set", "rftest", "mtu", "1400", "up"])?;
        }
        let before = |destination: &String| in_netns(&ends[0], &["ip", "route", "show", destination]);
        let routes = destinations.iter().map(before).collect::<Result<Vec<_>>>()?;
        let tunnel = Self { ends, routes };
        let own = outer[0].to_string();
        for destination in destinations {
            let way = ["via", "192.168.77.2", "dev", "rftest", "onlink", "src", &own];
            in_netns(&tunnel.ends[0], &[&["ip", "route", "replace", destination][..], &way].concat())?;
        }
        tunnel.close_connections()?;
        Ok(tunnel)
    }

    /// Connections to the apiserver, by its own address or its Service, that went another way until now would be silent until somebody
    /// notices, a minute later.
    fn close_connections(&self) -> Result<()> {
        in_netns(&self.ends[0], &["ss", "--kill", "( dport = :6443 or dport = :443 )"]).map(drop)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = in_netns(end, &["ip", "link", "delete", "rftest"]);
        }
        for route in self.routes.iter().flat_map(|text| text.lines()) {
            let words: Vec<&str> = route.split_whitespace().collect();
            let _ = in_netns(&self.ends[0], &[&["ip", "route", "replace"][..], &words].concat());
        }
        let _ = self.close_connections();
    }
}

/// Asks for Full, awaits that it is taken back, and that it is not tried again; `works` is what it cuts.
async fn is_taken_back(lab: &Lab, works: impl Fn() -> Result<bool>, why: &str) -> Result<()> {
    ensure!(works()?, "what the policy is to cut does not work");
    ask(lab, NODE, "Full").await?;
    let own = lab.bed.netns(NODE);
    wait::until("rules on the node itself", SLOW, || async { Ok(has_rules(&own)?.then_some(())) }).await?;
    wait::until("the rules to be taken back", TAKEN_BACK, || async { Ok((!has_rules(&own)?).then_some(())) }).await?;
    ensure!(works()?, "it does not work though the rules are gone");
    let message = await_said(lab, NODE, Some("TakenBack")).await?;
    ensure!(message.contains(why) && message.contains("not tried again until it changes"), "it says '{message}'");
    // A publication that has nothing to do with it has the agent look at everything anew, and acknowledge that.
    lab.apply(&rule_set(LATER, &[rule("nobody", "Allow", (NAME, "client"), (NAME, "server"))])).await?;
    lab.await_ready("RuleSet", None, LATER).await?;
    ensure!(!has_rules(&own)?, "it is tried again");
    lab.delete(OURS, "RuleSet", None, LATER).await
}

/// Whether a node has rules for its own traffic.
pub fn has_rules(netns: &Path) -> Result<bool> {
    Ok(in_netns(netns, &["iptables-nft-save", "-t", "mangle"])?.contains("RF-HOST-IN"))
}

/// A rule that lets the tunnel pass.
fn tunnel_rule() -> Value {
    let anyone = || json!([{"ipList": NAME}]);
    let services = json!([{"protocol": "UDP", "port": TUNNEL_PORT.parse::<u16>().unwrap_or_default()}]);
    let hosts = || json!([{"containerHosts": true}]);
    rule_set(
        NAME,
        &[
            json!({"name": "out", "consumers": hosts(), "providers": anyone(), "services": services}),
            json!({"name": "in", "consumers": anyone(), "providers": hosts(), "services": services}),
        ],
    )
}

async fn opened(lab: &Lab) -> Result<()> {
    let list =
        json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": NAME}, "spec": {"ranges": ["0.0.0.0/0"]}});
    lab.apply(&list).await?;
    lab.apply(&tunnel_rule()).await?;
    await_said(lab, NODE, Some("InForce")).await.map(drop)
}

async fn clear(lab: &Lab) -> Result<()> {
    release(lab, NODE).await?;
    for kind in ["RuleSet", "IPList"] {
        lab.delete(OURS, kind, None, NAME).await?;
    }
    await_said(lab, NODE, None).await.map(drop)
}

/// The node reaches the apiserver by a way that its policy closes: within seconds the policy is gone, which is said and stays so,
/// until a rule opens the way.
pub async fn a_node_policy_that_cuts_the_apiserver_is_taken_back(lab: Lab) -> Result<Outcome> {
    let apiserver = address(&lab, "APISERVER")?;
    let end = SocketAddr::new(apiserver, 6443);
    let tunnel = Tunnel::to_node2(&lab, &[apiserver.to_string()])?;
    let own = lab.bed.netns(NODE);
    cuts(&lab, tunnel, || Ok(probe::tcp(&own, end)? == Seen::Open), "the apiserver at").await
}

/// The same with the way to another node's Pods.
pub async fn a_node_policy_that_cuts_pods_of_two_nodes_is_taken_back(lab: Lab) -> Result<Outcome> {
    let node = lab.get("v1", "Node", None, "node2").await?.context("there is no node2")?;
    let cidr = node["spec"]["podCIDR"].as_str().context("it has no podCIDR")?.to_owned();
    let scene = Scene::create(&lab, "ht-pods").await?;
    let tunnel = Tunnel::to_node2(&lab, &[cidr])?;
    let bridge = in_netns(&lab.bed.netns("node2"), &["ip", "-4", "-oneline", "address", "show", "dev", "cni0"])?;
    let bridge = bridge.split_whitespace().skip_while(|word| *word != "inet").nth(1).context("cni0 has no address")?;
    let bridge: IpAddr = bridge.split('/').next().unwrap_or_default().parse()?;
    let own = lab.bed.netns(NODE);
    // What goes from one node's Pods to another's takes the same way.
    let works = || {
        let pods = probe::tcp(&scene.allowed, scene.target)?;
        Ok([crate::packets::echo(&own, bridge)?, pods] == [Seen::Open; 2])
    };
    let outcome = cuts(&lab, tunnel, works, "did not answer any more on the Pod network").await;
    scene.remove(&lab).await?;
    outcome
}

/// A policy cuts what goes through the tunnel: it is taken back, and in force once a rule opens the way.
async fn cuts(lab: &Lab, tunnel: Tunnel, works: impl Fn() -> Result<bool>, why: &str) -> Result<Outcome> {
    let ran = async {
        is_taken_back(lab, &works, why).await?;
        opened(lab).await?;
        ensure!(works()?, "the rule does not open the way");
        Ok(())
    }
    .await;
    drop(tunnel);
    let cleared = clear(lab).await;
    ran.and(cleared).map(|()| Outcome::Passed)
}
