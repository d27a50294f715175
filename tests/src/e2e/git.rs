//! Policy from git: taken whole or not at all, put back, pruned, orphaned.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::json;

use super::Outcome;
use crate::lab::{Lab, SLOW};
use crate::manifests::{OURS, namespace};
use crate::source::PolicySource;
use crate::wait;

const GOOD: &str = "apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata:
  name: git-rules
spec:
  scopes:
  - labels: {app: [git-shop]}
  rules:
  - name: web-to-db
    consumers: [{labels: {role: [web]}}]
    providers: [{labels: {role: [db]}}]
    services: [{protocol: TCP, port: 5432}]
";

const PROFILE: &str = "apiVersion: ringfence.dev/v1alpha1
kind: ContainerWorkloadProfile
metadata:
  name: git-shop
spec:
  managed: true
  policyState: VisibilityOnly
  labels:
    app: {value: git-shop}
";

async fn source(lab: &Lab, name: &str) -> Result<PolicySource> {
    let empty = std::env::temp_dir().join(format!("ringfence-empty-{name}"));
    std::fs::create_dir_all(&empty).context("failed to make a folder")?;
    PolicySource::create(lab, name, &empty).await
}

/// A broken commit is refused with file, line and reason of every problem, and the last good one stays in force.
pub async fn a_broken_commit_is_refused_whole(lab: Lab) -> Result<Outcome> {
    let source = source(&lab, "git-broken").await?;
    source.repo.write("policy/rules.yaml", GOOD)?;
    let good = source.repo.commit("good")?;
    source.point(&source.spec("policy")?).await?;
    source.await_applied(&good).await?;
    let before = lab.ours("RuleSet", "git-rules").await?.context("the RuleSet is missing")?;

    // (file, content, what the problem must name)
    let cases = [
        ("broken.yaml", "kind: [RuleSet\n", "broken.yaml:"),
        ("kind.yaml", "apiVersion: ringfence.dev/v1alpha1\nkind: RoolSet\nmetadata: {name: a}\n", "kind.yaml:2"),
        (
            "field.yaml",
            "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a}\nspec:\n  rangez: []\n",
            "field.yaml:5",
        ),
        (
            "nothing.yaml",
            "apiVersion: ringfence.dev/v1alpha1\nkind: RuleSet\nmetadata: {name: b}\nspec:\n  scopes: [{}]\n  rules:\n  - name: x\n    consumers: [{ipList: nowhere}]\n    providers: [{allWorkloads: true}]\n    allServices: true\n",
            "nothing.yaml:8",
        ),
    ];
    for (file, content, _) in &cases {
        source.repo.write(&format!("policy/{file}"), content)?;
    }
    let changed = GOOD.replace("5432", "5433");
    source.repo.write("policy/rules.yaml", &changed)?;
    let broken = source.repo.commit("broken")?;
    let said = source.await_refused(Some(&broken)).await?;
    for (_, _, part) in &cases {
        ensure!(said.contains(part), "'{part}' is not among the problems: {said}");
    }
    let after = lab.ours("RuleSet", "git-rules").await?.context("the RuleSet is gone")?;
    ensure!(before["spec"] == after["spec"], "a refused commit changed the RuleSet: {}", after["spec"]);
    ensure!(source.live().await?["status"]["appliedCommit"] == good.as_str(), "the good commit is not in force");

    for (file, _, _) in &cases {
        source.repo.remove(&format!("policy/{file}"))?;
    }
    let mended = source.repo.commit("mended")?;
    source.await_applied(&mended).await?;
    let after = lab.ours("RuleSet", "git-rules").await?.context("the RuleSet is gone")?;
    ensure!(after["spec"]["rules"][0]["services"][0]["port"] == 5433, "the mended commit is not in force");
    source.delete().await?;
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    Ok(Outcome::Passed)
}

/// Missing branch, repository gone, wrong certificate, empty repository: each says what is wrong.
pub async fn a_repository_that_cannot_be_read_says_why(lab: Lab) -> Result<Outcome> {
    let source = source(&lab, "git-unreadable").await?;
    let good = source.spec("")?;
    source.point(&good).await?;
    let said = source.await_refused(None).await?.to_lowercase();
    ensure!(said.contains("commit") || said.contains("empty"), "of an empty repository: {said}");

    source.repo.write("rules.yaml", GOOD)?;
    let commit = source.repo.commit("good")?;
    source.await_applied(&commit).await?;
    let changes = [
        ("branch", json!({"ref": {"branch": "nowhere"}}), "nowhere"),
        ("repository", json!({"url": format!("{}-gone", good["url"].as_str().unwrap_or_default())}), "gone"),
        ("certificate", json!({"secretRef": null}), "certificate"),
        ("folder", json!({"path": "no/such/folder"}), "no/such/folder"),
    ];
    for (what, change, part) in changes {
        let mut spec = good.clone();
        for (key, value) in change.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        if spec["secretRef"].is_null() {
            spec.as_object_mut().context("a spec is an object")?.remove("secretRef");
        }
        source.point(&spec).await?;
        let said = source.await_refused(None).await?;
        ensure!(said.contains(part), "{what}: '{part}' is not in: {said}");
        ensure!(lab.ours("RuleSet", "git-rules").await?.is_some(), "{what}: the good commit is not in force any more");
        source.point(&good).await?;
        source.await_applied(&commit).await?;
    }
    source.delete().await?;
    ensure!(lab.ours("RuleSet", "git-rules").await?.is_some(), "deleting the PolicyRepository deleted its objects");
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    Ok(Outcome::Passed)
}

/// What is changed by hand is put back with an Event; what is gone from git is pruned; a pruned profile of a living
/// namespace returns to the default.
pub async fn git_owned_objects_are_put_back_and_pruned(lab: Lab) -> Result<Outcome> {
    lab.apply(&namespace("git-shop")).await?;
    let source = source(&lab, "git-drift").await?;
    source.repo.write("rules.yaml", GOOD)?;
    source.repo.write("profile.yaml", PROFILE)?;
    let commit = source.repo.commit("good")?;
    source.point(&source.spec("")?).await?;
    source.await_applied(&commit).await?;

    let mut edited = lab.ours("ContainerWorkloadProfile", "git-shop").await?.context("no profile")?;
    edited["spec"]["policyState"] = json!("Idle");
    edited["metadata"] = json!({"name": "git-shop"});
    edited.as_object_mut().context("an object")?.remove("status");
    lab.apply_as("somebody", &edited).await?;
    wait::until("the edited profile to be put back", SLOW, || async {
        let object = lab.ours("ContainerWorkloadProfile", "git-shop").await?.unwrap_or_default();
        Ok((object["spec"]["policyState"] == "VisibilityOnly").then_some(()))
    })
    .await?;
    let events: Api<Event> = Api::all(lab.client.clone());
    wait::until("an Event that names the other manager", SLOW, || async {
        let list = events.list(&ListParams::default()).await?;
        let found = list.items.iter().any(|event| event.note.as_deref().is_some_and(|note| note.contains("somebody")));
        Ok(found.then_some(()))
    })
    .await?;

    source.repo.remove("profile.yaml")?;
    let pruned = source.repo.commit("no profile")?;
    source.await_applied(&pruned).await?;
    wait::until("the pruned profile to return to the default", SLOW, || async {
        let object = lab.ours("ContainerWorkloadProfile", "git-shop").await?.unwrap_or_default();
        Ok((object["spec"]["managed"] == false).then_some(()))
    })
    .await?;
    source.delete().await?;
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    lab.delete("v1", "Namespace", None, "git-shop").await?;
    Ok(Outcome::Passed)
}

/// Two repositories that hold one object: the second says so, and nothing of it is applied.
pub async fn two_owners_of_one_object_are_an_error_on_the_second(lab: Lab) -> Result<Outcome> {
    let first = source(&lab, "git-first").await?;
    let second = source(&lab, "git-second").await?;
    for source in [&first, &second] {
        source.repo.write("rules.yaml", GOOD)?;
    }
    let commit = first.repo.commit("mine")?;
    first.point(&first.spec("")?).await?;
    first.await_applied(&commit).await?;
    second.repo.write("list.yaml", "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: git-list}\nspec: {ranges: [192.0.2.0/24]}\n")?;
    let other = second.repo.commit("mine too")?;
    second.point(&second.spec("")?).await?;
    let said = second.await_refused(Some(&other)).await?;
    ensure!(said.contains("git-rules") && said.contains("git-first"), "the owner is not named: {said}");
    ensure!(lab.ours("IPList", "git-list").await?.is_none(), "part of a refused commit was applied");
    second.delete().await?;
    first.delete().await?;
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    Ok(Outcome::Passed)
}
