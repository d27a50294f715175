//! Policy from git: taken whole or not at all, and every refusal says why.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::lab::Lab;
use crate::manifests::OURS;
use crate::source::PolicySource;

/// A RuleSet with one rule, to port 5432.
pub const GOOD: &str = "apiVersion: ringfence.dev/v1alpha1
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

/// An empty repository.
pub async fn source(lab: &Lab, name: &str) -> Result<PolicySource> {
    let empty = std::env::temp_dir().join(format!("ringfence-empty-{name}"));
    std::fs::create_dir_all(&empty).context("failed to make a folder")?;
    PolicySource::create(lab, name, &empty).await
}

/// The port of the one rule of [`GOOD`], as it lives.
pub async fn port(lab: &Lab) -> Result<Value> {
    let object = lab.ours("RuleSet", "git-rules").await?.context("there is no RuleSet git-rules")?;
    Ok(object["spec"]["rules"][0]["services"][0]["port"].clone())
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
    let refused = source.await_refused(Some(&broken)).await?;
    ensure!(refused.reason == "InvalidPolicy", "the reason is another: {}", refused.text);
    for (_, _, part) in &cases {
        ensure!(refused.text.contains(part), "'{part}' is not among the problems: {}", refused.text);
    }
    let after = lab.ours("RuleSet", "git-rules").await?.context("the RuleSet is gone")?;
    ensure!(before["spec"] == after["spec"], "a refused commit changed the RuleSet: {}", after["spec"]);
    ensure!(source.live().await?["status"]["appliedCommit"] == good.as_str(), "the good commit is not in force");

    for (file, _, _) in &cases {
        source.repo.remove(&format!("policy/{file}"))?;
    }
    let mended = source.repo.commit("mended")?;
    source.await_applied(&mended).await?;
    ensure!(port(&lab).await? == 5433, "the mended commit is not in force");
    source.delete().await?;
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    Ok(Outcome::Passed)
}

/// Missing branch, repository gone, wrong certificate, empty repository: each says what is wrong.
pub async fn a_repository_that_cannot_be_read_says_why(lab: Lab) -> Result<Outcome> {
    let source = source(&lab, "git-unreadable").await?;
    let good = source.spec("")?;
    source.point(&good).await?;
    let refused = source.await_refused(None).await?;
    ensure!(refused.reason == "EmptyRepository", "of an empty repository: {}", refused.text);

    source.repo.write("rules.yaml", GOOD)?;
    let commit = source.repo.commit("good")?;
    source.await_applied(&commit).await?;
    let gone = format!("{}-gone", good["url"].as_str().unwrap_or_default());
    // (what is changed, the condition's reason, what the message must name)
    let changes = [
        (json!({"ref": {"branch": "nowhere"}}), "BranchNotFound", "nowhere"),
        (json!({"url": gone}), "RepositoryNotFound", gone.as_str()),
        (json!({"secretRef": null}), "CertificateNotTrusted", "ca.crt"),
        (json!({"path": "no/such/folder"}), "PathNotFound", "no/such/folder"),
    ];
    for (change, reason, part) in changes {
        let mut spec = good.clone();
        for (key, value) in change.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        if spec["secretRef"].is_null() {
            spec.as_object_mut().context("a spec is an object")?.remove("secretRef");
        }
        source.point(&spec).await?;
        let refused = source.await_refused(None).await?;
        ensure!(refused.reason == reason, "expected the reason {reason}: {}", refused.text);
        ensure!(refused.text.contains(part), "'{part}' is not in: {}", refused.text);
        ensure!(port(&lab).await? == 5432, "{reason}: the good commit is not in force any more");
        source.point(&good).await?;
        source.await_applied(&commit).await?;
    }
    source.delete().await?;
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
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
    let refused = second.await_refused(Some(&other)).await?;
    ensure!(refused.reason == "OwnedByAnother", "the reason is another: {}", refused.text);
    let names = |part: &str| refused.text.contains(part);
    ensure!(names("git-rules") && names("git-first"), "the owner is not named: {}", refused.text);
    ensure!(lab.ours("IPList", "git-list").await?.is_none(), "part of a refused commit was applied");
    second.delete().await?;
    first.delete().await?;
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    Ok(Outcome::Passed)
}
