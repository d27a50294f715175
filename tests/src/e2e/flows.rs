//! Flows that are open while policy changes: exactly those that it denies end.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringfence_dataplane::gate::SEAL;
use serde_json::{Value, json};

use super::Outcome;
use super::dual_stack::both;
use super::scene::Scene;
use crate::kernel::in_netns;
use crate::lab::{Lab, SLOW, pod_ips};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set};
use crate::probe::{LongDatagrams, LongFlow, PushServer, Seen};
use crate::sctp;

/// Where a server listens that sends by itself, beside what listens in every Pod.
const PUSH: u16 = 9090;

/// Where everything else listens.
const PORT: u16 = 8080;
/// What has flows.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A rule on a port of every protocol.
fn every_protocol_on(mut rule: Value, port: u16) -> Value {
    rule["services"] = PROTOCOLS.map(|protocol| json!({"protocol": protocol, "port": port})).into();
    rule
}

fn every_protocol(rule: Value) -> Value {
    every_protocol_on(rule, PORT)
}

/// A flow of each protocol to one end.
struct ToOne {
    target: SocketAddr,
    tcp: LongFlow,
    udp: LongDatagrams,
    sctp: sctp::Association,
}

/// A flow of each protocol and family.
struct Flows(Vec<ToOne>);

impl Flows {
    /// Opens them from inside a namespace.
    fn open(netns: &Path, targets: &[SocketAddr]) -> Result<Self> {
        let to_one = |target: &SocketAddr| -> Result<ToOne> {
            let sctp = sctp::Association::open(netns, *target).context("failed to open an association of SCTP")?;
            let (tcp, udp) = (LongFlow::open(netns, *target)?, LongDatagrams::open(netns, *target)?);
            Ok(ToOne { target: *target, tcp, udp, sctp })
        };
        Ok(Self(targets.iter().map(to_one).collect::<Result<_>>()?))
    }

    /// That those that go on are all of them, or none.
    fn all_go_on(&mut self, expected: bool, when: &str) -> Result<()> {
        for ToOne { target, tcp, udp, sctp } in &mut self.0 {
            for (protocol, goes_on) in PROTOCOLS.into_iter().zip([tcp.speaks(), udp.speaks(), sctp.speaks()]) {
                ensure!(goes_on == expected, "{when}: whether a flow of {protocol} to {target} goes on is {goes_on}");
            }
        }
        Ok(())
    }

    /// The same of those of SCTP when each has had a heartbeat, which it has only if it goes on.
    fn all_beat(&mut self, expected: bool, when: &str) -> Result<()> {
        for ToOne { target, sctp, .. } in &mut self.0 {
            let beats = sctp.beats();
            ensure!(beats == expected, "{when}: whether an association with {target} has a heartbeat is {beats}");
        }
        Ok(())
    }
}

/// What answers SCTP in a Pod of the scene, whose program knows none.
fn sctp_server(lab: &Lab, space: &str) -> Result<sctp::Listener> {
    Ok(sctp::Listener::listen(&lab.netns(space, "server")?, &[PORT])?)
}

/// A tightened policy ends the flows that it denies, and only those: a revoked Allow, then an OverrideDeny.
pub async fn a_tightened_policy_ends_exactly_its_flows(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "fl-tight").await?;
    let name = scene.name.as_str();
    let _server = sctp_server(&lab, name)?;
    let client = every_protocol(rule("client-to-server", "Allow", (name, "client"), (name, "server")));
    let stranger = every_protocol(rule("stranger-to-server", "Allow", (name, "stranger"), (name, "server")));
    let set = |rules: &[&Value]| rule_set(name, &rules.iter().map(|rule| (*rule).clone()).collect::<Vec<_>>());
    lab.apply(&set(&[&client, &stranger])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    let (mut kept, mut lost) =
        (Flows::open(&scene.allowed, &scene.targets)?, Flows::open(&scene.denied, &scene.targets)?);
    kept.all_go_on(true, "to begin with")?;
    lost.all_go_on(true, "to begin with")?;

    lab.apply(&set(&[&client])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    kept.all_go_on(true, "still allowed")?;
    lost.all_go_on(false, "not allowed any more")?;

    let quarantine = every_protocol(rule("quarantine", "OverrideDeny", (name, "client"), (name, "server")));
    lab.apply(&set(&[&client, &quarantine])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    kept.all_go_on(false, "in spite of an OverrideDeny")?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// Flows that were open before there were rules (Idle to Full): those that a rule allows live on, whichever end the
/// rules first see them from; the others end. Of SCTP conntrack takes up nothing but a heartbeat, by which the association
/// goes on.
pub async fn flows_older_than_the_rules_are_judged_as_new_ones(lab: Lab) -> Result<Outcome> {
    let name = "fl-old";
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Idle", &["client", "server", "stranger"])).await?;
    let allowed = every_protocol(rule("client-to-server", "Allow", (name, "client"), (name, "server")));
    lab.apply(&rule_set(name, &[allowed])).await?;
    for (pod_name, node) in [("server", "node2"), ("client", "node3"), ("stranger", "node3")] {
        lab.apply(&pod(name, pod_name, pod_name, Some(node))).await?;
    }
    let targets = both(&pod_ips(&lab.await_pod(name, "server").await?)?)?.map(|address| SocketAddr::new(address, PORT));
    for pod_name in ["client", "stranger"] {
        lab.await_pod(name, pod_name).await?;
    }
    let (client, stranger) = (lab.netns(name, "client")?, lab.netns(name, "stranger")?);
    for target in targets {
        lab.await_seen(&client, target, Seen::Open, SLOW).await?;
    }
    let _server = sctp_server(&lab, name)?;
    let (mut kept, mut lost) = (Flows::open(&client, &targets)?, Flows::open(&stranger, &targets)?);
    kept.all_go_on(true, "to begin with")?;
    lost.all_go_on(true, "to begin with")?;

    lab.apply(&profile(name, "Full", &["client", "server", "stranger"])).await?;
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    kept.all_beat(true, "allowed by a rule, when its Pods went to Full")?;
    kept.all_go_on(true, "allowed by a rule, when its Pods went to Full")?;
    lost.all_beat(false, "allowed by no rule, when its Pods went to Full")?;
    lost.all_go_on(false, "allowed by no rule, when its Pods went to Full")?;
    kept.all_go_on(true, "allowed by a rule, a little after its Pods went to Full")?;
    lab.delete("v1", "Namespace", None, name).await?;
    lab.delete(OURS, "RuleSet", None, name).await?;
    Ok(Outcome::Passed)
}

/// A server that sends by itself to two clients that only listen: once the rule of one of them is revoked, nothing
/// arrives there any more, and everything at the other.
pub async fn a_tightened_policy_ends_what_a_server_pushes(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "fl-push").await?;
    let name = scene.name.as_str();
    let from = |role: &str| {
        every_protocol_on(rule(&format!("{role}-to-server"), "Allow", (name, role), (name, "server")), PUSH)
    };
    lab.apply(&rule_set(name, &[from("client"), from("stranger")])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    let server = PushServer::listen(&lab.netns(name, "server")?, PUSH)?;
    let (mut kept, mut lost) = (Vec::new(), Vec::new());
    for target in scene.targets.map(|target| SocketAddr::new(target.ip(), PUSH)) {
        kept.push((target, server.serve(&scene.allowed, target)?));
        lost.push((target, server.serve(&scene.denied, target)?));
    }
    for (target, pushed) in kept.iter_mut().chain(&mut lost) {
        let begin = pushed.arrives();
        ensure!(begin == [true; 2], "over TCP and UDP, to begin with this arrives of what {target} pushes: {begin:?}");
    }

    lab.apply(&rule_set(name, &[from("client")])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    for (target, pushed) in &mut lost {
        let [tcp, udp] = pushed.arrives();
        ensure!(!tcp, "what {target} pushes over TCP arrives although its client is not allowed any more");
        ensure!(!udp, "what {target} pushes over UDP arrives although its client is not allowed any more");
    }
    for (target, pushed) in &mut kept {
        let [tcp, udp] = pushed.arrives();
        ensure!(
            tcp && udp,
            "what {target} pushes does not arrive at a client that is still allowed: TCP {tcp}, UDP {udp}"
        );
    }
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// Loosening ends nothing: flows that a rule allows live on while their Pods go from Full through every other state,
/// and back to Full from having no rules at all.
pub async fn a_loosened_policy_ends_nothing(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "fl-loose").await?;
    let name = scene.name.as_str();
    let _server = sctp_server(&lab, name)?;
    let client = every_protocol(rule("client-to-server", "Allow", (name, "client"), (name, "server")));
    lab.apply(&rule_set(name, &[client])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    let mut flows = Flows::open(&scene.allowed, &scene.targets)?;
    flows.all_go_on(true, "to begin with")?;
    for state in ["Selective", "VisibilityOnly", "Idle", "Full"] {
        lab.apply(&profile(name, state, &["client", "server", "stranger"])).await?;
        lab.await_ready("ContainerWorkloadProfile", None, name).await?;
        flows.all_go_on(true, &format!("allowed by a rule, when its Pods went to {state}"))?;
        // What no rule allows tells whether the state is in force.
        let seen = if state == "Full" { Seen::Dropped } else { Seen::Open };
        lab.await_seen(&scene.denied, scene.target, seen, Duration::ZERO).await?;
    }
    flows.all_go_on(true, "allowed by a rule, a little after its Pods went to Full")?;
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// A tightened policy ends the flows through a NodePort that it denies, and only those: through the server's node, which the Pod
/// takes for its own, and through another one, whose gate seals what it lets pass. A seal that a client brings along is none.
pub async fn a_tightened_policy_ends_flows_through_the_gate(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "fl-gate").await?;
    let name = scene.name.as_str();
    let _server = sctp_server(&lab, name)?;
    let addresses = lab.bed.addresses()?;
    let address = |key: &str| addresses.get(key).with_context(|| format!("no {key}"));
    let keys = ["NODE2_ADDRESS", "NODE2_ADDRESS6", "NODE3_ADDRESS", "NODE3_ADDRESS6"];
    let nodes = keys.into_iter().map(address).collect::<Result<Vec<_>>>()?;
    let (kept, lost) = (lab.bed.client_netns(), lab.bed.netns("fabric"));
    for (list, netns) in [("fl-gate-kept", &kept), ("fl-gate-lost", &lost)] {
        let spec = json!({"ranges": [source_towards(netns, nodes[0])?, source_towards(netns, nodes[1])?]});
        lab.apply(&json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": list}, "spec": spec})).await?;
    }
    let from = |list: &str| {
        let providers = json!([{"labels": {"app": [name], "role": ["server"]}}]);
        every_protocol(json!({"name": list, "consumers": [{"ipList": list}], "providers": providers}))
    };
    let client = rule("client-to-server", "Allow", (name, "client"), (name, "server"));
    lab.apply(&rule_set(name, &[client.clone(), from("fl-gate-kept"), from("fl-gate-lost")])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    let port = node_port(&lab, name).await?;
    let doors: Vec<SocketAddr> =
        nodes.iter().map(|node| Ok(SocketAddr::new(node.parse()?, port))).collect::<Result<_>>()?;
    let mut flows = Vec::new();
    for door in doors.iter().copied() {
        for netns in [&kept, &lost] {
            lab.await_seen(netns, door, Seen::Open, SLOW).await?;
            flows.push((door, netns == &kept, Flows::open(netns, &[door])?));
        }
    }
    for (door, _, of_door) in &mut flows {
        of_door.all_go_on(true, &format!("through {door}, to begin with"))?;
    }

    lab.apply(&rule_set(name, &[client, from("fl-gate-kept")])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    for (door, goes_on, of_door) in &mut flows {
        of_door.all_go_on(*goes_on, &format!("through {door}, where it should be {goes_on}"))?;
    }
    forge_seals(&lost, "-A")?;
    for door in doors {
        lab.await_seen(&lost, door, Seen::Dropped, SLOW).await?;
    }
    forge_seals(&lost, "-D")?;
    scene.remove(&lab).await?;
    for list in ["fl-gate-kept", "fl-gate-lost"] {
        lab.delete(OURS, "IPList", None, list).await?;
    }
    Ok(Outcome::Passed)
}

/// Whatever leaves a network namespace looks as if a gate had let it pass; `-D` ends that.
fn forge_seals(netns: &Path, action: &str) -> Result<()> {
    let seal = ["-j", "DSCP", "--set-dscp", SEAL];
    for program in ["iptables-nft", "ip6tables-nft"] {
        in_netns(netns, &[&[program, "-t", "mangle", action, "OUTPUT"][..], &seal].concat())?;
    }
    Ok(())
}

/// The address that connections to another one have from a network namespace.
fn source_towards(netns: &Path, target: &str) -> Result<String> {
    let route = in_netns(netns, &["ip", "route", "get", target])?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "src");
    words.nth(1).map(str::to_owned).with_context(|| format!("no source in '{}'", route.trim()))
}

/// A Service on the nodes' ports, on the same one of every protocol, in front of the server.
async fn node_port(lab: &Lab, space: &str) -> Result<u16> {
    let port = |protocol: &str| {
        let name = protocol.to_lowercase();
        json!({"name": name, "port": PORT, "protocol": protocol, "targetPort": PORT, "nodePort": 31808})
    };
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": space, "name": "door"},
        "spec": {
            "type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "selector": {"name": "server"},
            "ports": PROTOCOLS.map(port),
        },
    });
    lab.apply(&object).await?;
    Ok(31808)
}
