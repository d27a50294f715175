//! Ringfence through Helm: an upgrade from the chart of the previous commit.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::lab::{Lab, pod_ip};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set};
use crate::probe::Seen;
use crate::source::SYSTEM;
use crate::testbed::root;

/// The chart, in the work tree and in every commit that has one.
pub const CHART: &str = "charts/ringfence";
/// Name of the release (scripts/lib.sh).
pub const RELEASE: &str = "ringfence";

/// Runs helm in Ringfence's namespace with the admin's rights, and gives what it prints.
///
/// # Errors
/// When it fails.
pub fn helm(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let output = Command::new(lab.bed.bin()?.join("helm"))
        .args(["--namespace", SYSTEM])
        .args(arguments)
        .env("KUBECONFIG", &lab.kubeconfig)
        .output()
        .context("failed to run helm")?;
    if !output.status.success() {
        bail!("helm {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The values that the release was installed with, in a file.
///
/// # Errors
/// When there is no release.
pub fn release_values(lab: &Lab) -> Result<String> {
    let file = std::env::temp_dir().join(format!("ringfence-values-{}.yaml", lab.bed.name()));
    std::fs::write(&file, helm(lab, &["get", "values", RELEASE, "--output", "yaml"])?)?;
    Ok(file.display().to_string())
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").arg("-C").arg(root()).args(arguments).output().context("failed to run git")?;
    if !output.status.success() {
        bail!("git {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The chart as it was before: of the last commit while the work tree's differs from it, else of the one before that.
/// The reason, if there is no such thing.
fn previous_chart(folder: &Path) -> Result<std::result::Result<PathBuf, String>> {
    let Ok(changed) = git(&["status", "--porcelain", "--", CHART]) else {
        return Ok(Err("the work tree is no git repository".to_owned()));
    };
    let commit = if changed.is_empty() { "HEAD~1" } else { "HEAD" };
    if git(&["cat-file", "-e", &format!("{commit}:{CHART}/Chart.yaml")]).is_err() {
        return Ok(Err(format!("{commit} has no {CHART}, or is not in this clone")));
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).context("failed to empty a folder")?;
    }
    std::fs::create_dir_all(folder).context("failed to make a folder")?;
    let mut archive = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["archive", commit, "--", CHART])
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run git archive")?;
    let tar = archive.stdout.take().context("git archive has no output")?;
    let unpacked =
        Command::new("tar").arg("-x").arg("-C").arg(folder).stdin(tar).status().context("failed to run tar")?;
    ensure!(archive.wait()?.success() && unpacked.success(), "failed to unpack the chart of {commit}");
    Ok(Ok(folder.join(CHART)))
}

/// A field of ContainerWorkloadProfile that no validation rule speaks of.
const NEWER: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/visibility";

/// Takes a field out of a definition of the chart, as if it were of the time before the field.
fn age(chart: &Path) -> Result<()> {
    let file = chart.join("files/crds/containerworkloadprofiles.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let mut definition: Value = serde_saphyr::from_str(&text)?;
    let (parent, name) = NEWER.rsplit_once('/').context("a pointer has a slash")?;
    let fields =
        definition.pointer_mut(parent).and_then(Value::as_object_mut).context("no fields in the definition")?;
    fields.remove(name).with_context(|| format!("the definition has no {name}"))?;
    std::fs::write(&file, definition.to_string()).with_context(|| format!("failed to write {}", file.display()))
}

/// Whether the cluster's definition of profiles has the newer field.
fn is_new(lab: &Lab) -> Result<bool> {
    let text = lab.kubectl(&["get", "crd", "containerworkloadprofiles.ringfence.dev", "-o", "json"], &[])?;
    let definition: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
    Ok(definition.pointer(NEWER).is_some())
}

/// What policy there is and which object each one is, so that one made anew is told from one that stayed.
fn identities(lab: &Lab, name: &str) -> Result<Value> {
    let get = |resource: &str| -> Result<Value> {
        let text = lab.kubectl(&["get", resource, name, "-o", "json"], &[])?;
        let object: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
        Ok(json!({"uid": object["metadata"]["uid"], "spec": object["spec"]}))
    };
    Ok(json!([get("rulesets.ringfence.dev")?, get("containerworkloadprofiles.ringfence.dev")?]))
}

/// From the previous commit's chart to this one by `helm upgrade`: definitions are brought up to date, policy survives,
/// and every Pod becomes ready.
pub async fn helm_upgrades_from_the_previous_commit(lab: Lab) -> Result<Outcome> {
    let folder = std::env::temp_dir().join(format!("ringfence-previous-{}", lab.bed.name()));
    let previous = match previous_chart(&folder)? {
        Ok(chart) => {
            age(&chart)?;
            chart.display().to_string()
        }
        Err(why) => return Ok(Outcome::NotRun(why)),
    };
    let values = release_values(&lab)?;
    let current = root().join(CHART).display().to_string();
    let upgrade = |chart: &str, more: &[&str]| {
        let mut arguments = vec!["upgrade", "--install", RELEASE, chart, "--reset-values", "--values", &values];
        arguments.extend(more);
        helm(&lab, &arguments).map(drop)
    };
    let wait = ["--wait", "--timeout=120s"];
    helm(&lab, &["uninstall", RELEASE, "--wait", "--timeout=120s"])?;
    // Not awaited: whether today's programs run under yesterday's chart is not the question.
    let outcome = match upgrade(&previous, &["--take-ownership"]) {
        Ok(()) => survives(&lab, || upgrade(&current, &wait)).await,
        Err(error) => Err(error.context("the previous chart could not be installed")),
    };
    if outcome.is_err() {
        // Whatever went wrong, the tests that follow find Ringfence as they need it.
        upgrade(&current, &wait)?;
    }
    outcome?;
    std::fs::remove_dir_all(&folder).context("failed to remove a folder")?;
    Ok(Outcome::Passed)
}

async fn survives(lab: &Lab, upgrade: impl FnOnce() -> Result<()>) -> Result<()> {
    let name = "up-space";
    lab.apply(&namespace(name)).await?;
    lab.apply(&profile(name, "Full", &["client", "server"])).await?;
    lab.apply(&rule_set(name, &[rule("client-to-server", "Allow", (name, "client"), (name, "server"))])).await?;
    for pod_name in ["client", "server"] {
        lab.apply(&pod(name, pod_name, pod_name, None)).await?;
    }
    let before = identities(lab, name)?;
    ensure!(!is_new(lab)?, "the previous chart did not bring its own definitions");
    upgrade()?;
    ensure!(is_new(lab)?, "the upgrade left the previous chart's definitions in place");
    let after = identities(lab, name)?;
    ensure!(before == after, "the upgrade changed policy: {before} became {after}");

    lab.await_pods(SYSTEM, "app.kubernetes.io/component=agent", 3).await?;
    lab.await_pods(SYSTEM, "app.kubernetes.io/component=controller", 1).await?;
    let target = std::net::SocketAddr::new(pod_ip(&lab.await_pod(name, "server").await?)?, 8080);
    lab.await_pod(name, "client").await?;
    lab.await_ready("ContainerWorkloadProfile", None, name).await?;
    lab.await_ready("RuleSet", None, name).await?;
    lab.await_seen(&lab.netns(name, "client")?, target, Seen::Open, crate::lab::SLOW).await?;
    lab.await_seen(&lab.bed.client_netns(), target, Seen::Dropped, Duration::ZERO).await?;
    lab.delete("v1", "Namespace", None, name).await?;
    lab.delete(OURS, "ContainerWorkloadProfile", None, name).await?;
    lab.delete(OURS, "RuleSet", None, name).await
}
