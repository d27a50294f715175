//! The online commands of `ringfence`, asked about a live cluster: as JSON for programs, and as text for people.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::testbed::root;

fn ringfence(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let output = Command::new(root().join("bin/ringfence"))
        .args(arguments)
        .env("KUBECONFIG", &lab.kubeconfig)
        .output()
        .context("failed to run bin/ringfence")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ringfence {} ended with {}: {said}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).context("ringfence printed no text")
}

fn ringfence_json(lab: &Lab, arguments: &[&str]) -> Result<Value> {
    let text = ringfence(lab, &[arguments, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).with_context(|| format!("ringfence {} -o json printed no JSON", arguments.join(" ")))
}

/// What `status` says of an object that is not Ready.
fn not_ready<'a>(status: &'a Value, object: &str) -> Option<&'a Value> {
    status["notReady"].as_array()?.iter().find(|entry| entry["object"] == object)
}

/// `ringfence status` shows cluster and nodes, and names an object that is not Ready because a node lags behind.
pub fn status_names(lab: &Lab, object: &str, reason: &str, late: &str) -> Result<()> {
    let status = ringfence_json(lab, &["status"])?;
    let entry = not_ready(&status, object).with_context(|| format!("{object} is not named: {status}"))?;
    let message = entry["message"].as_str().unwrap_or_default();
    ensure!(entry["reason"] == reason && message.contains(late), "of {object} it says {entry}");
    let cluster = &status["cluster"];
    ensure!(cluster["name"] == "this" && cluster["nodesMatched"] == "3/3", "the cluster is {cluster}");
    ensure!(cluster["kubernetesVersion"].as_str().is_some_and(|text| text.starts_with('v')), "it is {cluster}");
    let nodes = status["nodes"].as_array().context("there are no nodes")?;
    let seen: Vec<Value> = nodes.iter().map(|node| json!([node["name"], node["role"], node["matched"]])).collect();
    let expected =
        [json!(["node1", "master", "True"]), json!(["node2", "worker", "True"]), json!(["node3", "worker", "True"])];
    ensure!(seen == expected, "the nodes are {seen:?}");
    let lags = nodes.iter().find(|node| node["name"] == late);
    ensure!(lags.is_some_and(|node| node["current"] == false), "{late} is stopped and counts as current: {lags:?}");

    let text = ringfence(lab, &["status"])?;
    let line = text.lines().find(|line| line.starts_with(object));
    ensure!(line.is_some_and(|line| line.contains(reason) && line.contains(late)), "as text it says: {text}");
    ensure!(text.starts_with("cluster this ("), "as text it says: {text}");
    Ok(())
}

/// `ringfence status` does not complain about an object that is Ready.
pub fn status_is_content_with(lab: &Lab, object: &str) -> Result<()> {
    let status = ringfence_json(lab, &["status"])?;
    let entry = not_ready(&status, object);
    ensure!(entry.is_none(), "{object} is Ready, and status says {entry:?}");
    Ok(())
}

/// `ringfence workloads` shows the Pods of a scene: each has its namespace's `app` by the profile and its own name as
/// `role` by annotation.
pub fn workloads_are_listed(lab: &Lab, namespace: &str) -> Result<()> {
    let rows = ringfence_json(lab, &["workloads", "-n", namespace])?;
    let text = ringfence(lab, &["workloads", "-n", namespace])?;
    let rows = rows.as_array().context("workloads printed no list")?;
    ensure!(rows.len() == 3, "it lists {} Pods: {rows:?}", rows.len());
    for (name, node) in [("client", "node3"), ("server", "node2"), ("stranger", "node2")] {
        let row = rows.iter().find(|row| row["name"] == name).with_context(|| format!("{name} is not listed"))?;
        let labels = json!([
            {"dimension": "app", "value": namespace, "source": "profile"},
            {"dimension": "role", "value": name, "source": "annotation ringfence.dev/role"},
        ]);
        ensure!(row["labels"] == labels, "the labels of {name} are {}", row["labels"]);
        let states = [&row["wantedState"], &row["enforcedState"]];
        ensure!(row["managed"] == true && states.iter().all(|state| **state == "Full"), "{name} is {row}");
        ensure!(row["node"] == node && row["hostNetwork"] == false, "{name} is {row}");
        let words = format!("app={namespace} [profile], role={name} [annotation ringfence.dev/role]");
        ensure!(text.lines().any(|line| line.ends_with(&words)), "as text it says of {name}: {text}");
    }
    Ok(())
}
