//! What git owns: put back when somebody changes it, deleted when it is gone from git, and left alone where the
//! repository says so.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use ringfence_crds::names::LABEL_REPOSITORY;
use serde_json::json;

use super::Outcome;
use super::git::{GOOD, port, source};
use crate::lab::{Lab, SLOW, ready};
use crate::manifests::{OURS, namespace};
use crate::wait;

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

/// An IP list and a RuleSet that uses it.
const EXTRA: &str = "apiVersion: ringfence.dev/v1alpha1
kind: IPList
metadata: {name: git-list}
spec: {ranges: [192.0.2.0/24]}
---
apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata: {name: git-extra}
spec:
  scopes: [{labels: {app: [git-shop]}}]
  rules:
  - name: list-to-web
    consumers: [{ipList: git-list}]
    providers: [{labels: {role: [web]}}]
    services: [{protocol: TCP, port: 443}]
";

/// What is changed by hand is put back with an Event; what is gone from git is deleted, but the profile of a living
/// namespace, which returns to the default with a Warning; with deletionPolicy Delete the rest goes with the repository.
pub async fn git_owned_objects_are_put_back_and_pruned(lab: Lab) -> Result<Outcome> {
    lab.apply(&namespace("git-shop")).await?;
    let source = source(&lab, "git-drift").await?;
    source.repo.write("rules.yaml", GOOD)?;
    source.repo.write("extra.yaml", EXTRA)?;
    source.repo.write("profile.yaml", PROFILE)?;
    let commit = source.repo.commit("good")?;
    let mut spec = source.spec("")?;
    spec["deletionPolicy"] = json!("Delete");
    source.point(&spec).await?;
    source.await_applied(&commit).await?;
    put_back(&lab).await?;

    source.repo.remove("profile.yaml")?;
    source.repo.remove("extra.yaml")?;
    let pruned = source.repo.commit("no profile, no list")?;
    source.await_applied(&pruned).await?;
    for (kind, name) in [("RuleSet", "git-extra"), ("IPList", "git-list")] {
        await_gone(&lab, kind, name).await?;
    }
    ensure!(lab.ours("RuleSet", "git-rules").await?.is_some(), "what is still in git was pruned");
    wait::until("the pruned profile to return to the default", SLOW, || async {
        let object = lab.ours("ContainerWorkloadProfile", "git-shop").await?.unwrap_or_default();
        Ok((object["spec"]["managed"] == false).then_some(()))
    })
    .await?;
    await_event(&lab, "a Warning on the pruned profile", |event| {
        let about = event.regarding.as_ref();
        event.type_.as_deref() == Some("Warning")
            && event.reason.as_deref() == Some("ProfilePruned")
            && about.and_then(|about| about.kind.as_deref()) == Some("ContainerWorkloadProfile")
            && about.and_then(|about| about.name.as_deref()) == Some("git-shop")
    })
    .await?;

    source.delete().await?;
    await_gone(&lab, "RuleSet", "git-rules").await?;
    lab.delete("v1", "Namespace", None, "git-shop").await?;
    Ok(Outcome::Passed)
}

/// Changes a profile of git's as somebody else, and awaits that it is as before and that an Event names the other.
async fn put_back(lab: &Lab) -> Result<()> {
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
    await_event(lab, "an Event that names the other manager", |event| {
        event.note.as_deref().is_some_and(|note| note.contains("somebody"))
    })
    .await
}

async fn await_event(lab: &Lab, what: &str, is_it: impl Fn(&Event) -> bool) -> Result<()> {
    let events: Api<Event> = Api::all(lab.client.clone());
    wait::until(what, SLOW, || async {
        let list = events.list(&ListParams::default()).await?;
        if list.items.iter().any(&is_it) { Ok(Some(())) } else { bail!("{} Events, none of them", list.items.len()) }
    })
    .await
}

async fn await_gone(lab: &Lab, kind: &str, name: &str) -> Result<()> {
    wait::until(&format!("{kind} {name} to be gone"), SLOW, || async {
        Ok(lab.ours(kind, name).await?.is_none().then_some(()))
    })
    .await
}

/// `prune: false` keeps what is gone from git; `suspend: true` takes no commit; a PolicyRepository that is deleted
/// leaves its objects, which then belong to nobody.
pub async fn what_is_not_to_be_pruned_stays(lab: Lab) -> Result<Outcome> {
    let source = source(&lab, "git-keep").await?;
    source.repo.write("rules.yaml", GOOD)?;
    source.repo.write("extra.yaml", EXTRA)?;
    let first = source.repo.commit("with a list")?;
    let mut spec = source.spec("")?;
    spec["prune"] = json!(false);
    source.point(&spec).await?;
    source.await_applied(&first).await?;
    source.repo.remove("extra.yaml")?;
    let second = source.repo.commit("without")?;
    source.await_applied(&second).await?;
    for (kind, name) in [("RuleSet", "git-extra"), ("IPList", "git-list")] {
        ensure!(lab.ours(kind, name).await?.is_some(), "{kind} {name} was deleted in spite of prune: false");
    }
    spec["prune"] = json!(true);
    source.point(&spec).await?;
    for (kind, name) in [("RuleSet", "git-extra"), ("IPList", "git-list")] {
        await_gone(&lab, kind, name).await?;
    }

    spec["suspend"] = json!(true);
    source.point(&spec).await?;
    wait::until("the repository to be suspended", SLOW, || async {
        let condition = ready(&source.live().await?).filter(|condition| condition.current);
        Ok(condition.filter(|condition| condition.reason == "Suspended").map(drop))
    })
    .await?;
    source.repo.write("rules.yaml", &GOOD.replace("5432", "5433"))?;
    let third = source.repo.commit("while suspended")?;
    source.notify(&third).await?;
    // Whoever takes in another spec of the repository, and says so, has seen the request of before as well.
    spec["interval"] = json!("3s");
    source.point(&spec).await?;
    wait::until("the repository's other spec to be seen", SLOW, || async {
        let condition = ready(&source.live().await?).filter(|condition| condition.current);
        Ok(condition.filter(|condition| condition.reason == "Suspended").map(drop))
    })
    .await?;
    ensure!(source.live().await?["status"]["appliedCommit"] == second.as_str(), "a commit was taken while suspended");
    ensure!(port(&lab).await? == 5432, "a commit came into force while suspended");
    spec["suspend"] = json!(false);
    source.point(&spec).await?;
    source.await_applied(&third).await?;
    ensure!(port(&lab).await? == 5433, "the commit is not in force");

    source.delete().await?;
    let orphan = lab.ours("RuleSet", "git-rules").await?.context("deleting the repository deleted its objects")?;
    ensure!(orphan["metadata"]["labels"][LABEL_REPOSITORY].is_null(), "it still belongs: {}", orphan["metadata"]);
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    Ok(Outcome::Passed)
}
