//! Flows that are open while policy changes: exactly those that it denies end.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Outcome;
use super::scene::Scene;
use crate::lab::{Lab, SLOW, pod_ip};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set};
use crate::probe::{LongDatagrams, LongFlow, Seen};

/// A rule on UDP 8080 as well as on TCP 8080.
fn both_protocols(mut rule: Value) -> Value {
    rule["services"] = json!([{"protocol": "TCP", "port": 8080}, {"protocol": "UDP", "port": 8080}]);
    rule
}

/// A tightened policy ends the flows that it denies, and only those: a revoked Allow, then an OverrideDeny.
pub async fn a_tightened_policy_ends_exactly_its_flows(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab, "fl-tight").await?;
    let name = scene.name.as_str();
    let client = both_protocols(rule("client-to-server", "Allow", (name, "client"), (name, "server")));
    let stranger = both_protocols(rule("stranger-to-server", "Allow", (name, "stranger"), (name, "server")));
    let set = |rules: &[&Value]| rule_set(name, &rules.iter().map(|rule| (*rule).clone()).collect::<Vec<_>>());
    lab.apply(&set(&[&client, &stranger])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    let (mut kept, mut lost) =
        (LongFlow::open(&scene.allowed, scene.target)?, LongFlow::open(&scene.denied, scene.target)?);
    let datagrams = [&scene.allowed, &scene.denied].map(|netns| LongDatagrams::open(netns, scene.target));
    let [kept_udp, lost_udp] = datagrams;
    let (kept_udp, lost_udp) = (kept_udp?, lost_udp?);
    ensure!(
        kept.speaks() && lost.speaks() && kept_udp.speaks() && lost_udp.speaks(),
        "not all flows work to begin with"
    );

    lab.apply(&set(&[&client])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    ensure!(kept.speaks() && kept_udp.speaks(), "a flow that is still allowed was ended");
    ensure!(!lost.speaks(), "a TCP flow that is not allowed any more goes on");
    ensure!(!lost_udp.speaks(), "a UDP flow that is not allowed any more goes on");

    let quarantine = both_protocols(rule("quarantine", "OverrideDeny", (name, "client"), (name, "server")));
    lab.apply(&set(&[&client, &quarantine])).await?;
    lab.await_ready("RuleSet", None, name).await?;
    ensure!(!kept.speaks(), "a TCP flow goes on in spite of an OverrideDeny");
    ensure!(!kept_udp.speaks(), "a UDP flow goes on in spite of an OverrideDeny");
    scene.remove(&lab).await?;
    Ok(Outcome::Passed)
}

/// Flows that were open before there were rules (Idle to Full): those that a rule allows live on, whichever end the
/// rules first see them from; the others end.
pub async fn flows_older_than_the_rules_are_judged_as_new_ones(lab: Lab) -> Result<Outcome> {
    let name = "fl-old";
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Idle", &["client", "server", "stranger"])).await?;
    lab.apply(&rule_set(name, &[rule("client-to-server", "Allow", (name, "client"), (name, "server"))])).await?;
    for (pod_name, node) in [("server", "node2"), ("client", "node3"), ("stranger", "node3")] {
        lab.apply(&pod(name, pod_name, pod_name, Some(node))).await?;
    }
    let target = SocketAddr::new(pod_ip(&lab.await_pod(name, "server").await?)?, 8080);
    for pod_name in ["client", "stranger"] {
        lab.await_pod(name, pod_name).await?;
    }
    let (client, stranger) = (lab.netns(name, "client")?, lab.netns(name, "stranger")?);
    lab.await_seen(&client, target, Seen::Open, SLOW).await?;
    let (mut kept, mut lost) = (LongFlow::open(&client, target)?, LongFlow::open(&stranger, target)?);
    ensure!(kept.speaks() && lost.speaks(), "not both flows work to begin with");

    lab.apply(&profile(name, "Full", &["client", "server", "stranger"])).await?;
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    ensure!(kept.speaks(), "a flow that a rule allows ended when its Pods went to Full");
    ensure!(!lost.speaks(), "a flow that no rule allows goes on although its Pods are in Full");
    ensure!(kept.speaks(), "a flow that a rule allows ended a little after its Pods went to Full");
    lab.delete("v1", "Namespace", None, name).await?;
    lab.delete(OURS, "RuleSet", None, name).await?;
    Ok(Outcome::Passed)
}
