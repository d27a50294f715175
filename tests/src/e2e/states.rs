//! Each state × each direction × each action, on real connections: Pod to Pod, Pod to ClusterIP, outside to Pod.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::lab::{Lab, pod_ip};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set, service};
use crate::probe::{self, Seen, Try};

const SOURCE: &str = "st-src";
const TARGET: &str = "st-dst";

/// A combination of actions that hit one connection, and whether it passes in Selective and in Full. In Idle and
/// VisibilityOnly everything passes. Written from the table `side` of the policy model.
struct Combination {
    role: &'static str,
    actions: &'static [&'static str],
    selective: bool,
    full: bool,
}

const COMBINATIONS: [Combination; 6] = [
    Combination { role: "none", actions: &[], selective: true, full: false },
    Combination { role: "allow", actions: &["Allow"], selective: true, full: true },
    Combination { role: "deny", actions: &["Deny"], selective: false, full: false },
    Combination { role: "over", actions: &["OverrideDeny"], selective: false, full: false },
    Combination { role: "allow-deny", actions: &["Allow", "Deny"], selective: true, full: true },
    Combination { role: "allow-over", actions: &["Allow", "OverrideDeny"], selective: false, full: false },
];

impl Combination {
    fn passes(&self, state: &str) -> bool {
        match state {
            "Selective" => self.selective,
            "Full" => self.full,
            _ => true,
        }
    }
}

/// One kind of connection to a provider of each combination.
struct Path {
    what: &'static str,
    netns: PathBuf,
    targets: Vec<SocketAddr>,
}

/// States × directions × actions; the other end is Idle, so that one end alone decides.
pub async fn every_state_direction_and_action(lab: Lab) -> Result<Outcome> {
    let (from_pod, to_service, from_outside) = set_up(&lab).await?;
    for state in ["Idle", "VisibilityOnly", "Selective", "Full"] {
        set_states(&lab, state, "Idle").await?;
        check("outbound", state, &[&from_pod, &to_service])?;
        set_states(&lab, "Idle", state).await?;
        check("inbound", state, &[&from_pod, &to_service, &from_outside])?;
    }
    lab.delete("v1", "Namespace", None, SOURCE).await?;
    lab.delete("v1", "Namespace", None, TARGET).await?;
    for kind in ["st-pods", "st-outside"] {
        lab.delete(OURS, "RuleSet", None, kind).await?;
    }
    Ok(Outcome::Passed)
}

async fn set_up(lab: &Lab) -> Result<(Path, Path, Path)> {
    for name in [SOURCE, TARGET] {
        lab.apply(&namespace(name)).await?;
    }
    set_states(lab, "Idle", "Idle").await?;
    lab.apply(&pod(SOURCE, "client", "client", None)).await?;
    for combination in &COMBINATIONS {
        lab.apply(&pod(TARGET, combination.role, combination.role, None)).await?;
        lab.apply(&service(TARGET, combination.role)).await?;
    }
    let client = lab.bed.addresses()?.get("EXT_ADDRESS").cloned().unwrap_or_default();
    let outside = json!({
        "apiVersion": OURS, "kind": "IPList", "metadata": {"name": "st-outside"}, "spec": {"ranges": [client]},
    });
    lab.apply(&outside).await?;
    lab.apply(&rule_set("st-pods", &pod_rules())).await?;
    lab.apply(&rule_set("st-outside", &outside_rules())).await?;

    lab.await_pod(SOURCE, "client").await?;
    let (mut pods, mut services) = (Vec::new(), Vec::new());
    for combination in &COMBINATIONS {
        let ready = lab.await_pod(TARGET, combination.role).await?;
        pods.push(SocketAddr::new(pod_ip(&ready)?, 8080));
        services.push(SocketAddr::new(lab.cluster_ip(TARGET, combination.role).await?, 80));
    }
    let netns = lab.netns(SOURCE, "client")?;
    // A Service refuses until kube-proxy has its back ends.
    for service in &services {
        lab.await_seen(&netns, *service, Seen::Open, crate::lab::SLOW).await?;
    }
    let outside = lab.bed.client_netns();
    Ok((
        Path { what: "Pod to Pod", netns: netns.clone(), targets: pods.clone() },
        Path { what: "Pod to ClusterIP", netns, targets: services },
        Path { what: "outside to Pod", netns: outside, targets: pods },
    ))
}

fn pod_rules() -> Vec<Value> {
    let mut rules = Vec::new();
    for combination in &COMBINATIONS {
        for action in combination.actions {
            let name = format!("{}-{}", combination.role, action.to_lowercase());
            rules.push(rule(&name, action, (SOURCE, "client"), (TARGET, combination.role)));
        }
    }
    rules
}

fn outside_rules() -> Vec<Value> {
    let mut rules = pod_rules();
    for rule in &mut rules {
        rule["consumers"] = json!([{"ipList": "st-outside"}]);
    }
    rules
}

async fn set_states(lab: &Lab, source: &str, target: &str) -> Result<()> {
    let roles: Vec<&str> = COMBINATIONS.iter().map(|combination| combination.role).collect();
    lab.apply(&profile(SOURCE, source, &["client"])).await?;
    lab.apply(&profile(TARGET, target, &roles)).await?;
    lab.await_ready("ContainerWorkloadProfile", None, SOURCE).await?;
    lab.await_ready("ContainerWorkloadProfile", None, TARGET).await?;
    for rule_set in ["st-pods", "st-outside"] {
        if lab.ours("RuleSet", rule_set).await?.is_some() {
            lab.await_ready("RuleSet", None, rule_set).await?;
        }
    }
    Ok(())
}

/// Ready means in force: what is seen must be right at once.
fn check(direction: &str, state: &str, paths: &[&Path]) -> Result<()> {
    for path in paths {
        let tries: Vec<Try> =
            path.targets.iter().map(|target| Try { netns: path.netns.clone(), target: *target, udp: false }).collect();
        for (combination, seen) in COMBINATIONS.iter().zip(probe::all(&tries)) {
            let expected = if combination.passes(state) { Seen::Open } else { Seen::Dropped };
            let seen = seen?;
            ensure!(
                seen == expected,
                "{} with {state} {direction} and the actions {:?} is {seen}, expected {expected}",
                path.what,
                combination.actions,
            );
        }
    }
    Ok(())
}
