//! A repository that asks for a name and a password, and what of it is taken: a branch, a tag, a commit.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Outcome;
use super::git::{GOOD, port, source};
use crate::lab::Lab;
use crate::manifests::OURS;
use crate::source::{PolicySource, SYSTEM};

/// The Secret with the login.
const LOGIN: &str = "git-login";

/// Credentials come from the Secret that the spec names; without them, or with wrong ones, nothing is taken.
pub async fn a_private_repository_needs_its_password(lab: Lab) -> Result<Outcome> {
    let source = source(&lab, "git-private").await?;
    source.repo.write("rules.yaml", GOOD)?;
    let tagged = source.repo.commit("first")?;
    source.repo.tag("v1")?;
    source.repo.write("rules.yaml", &GOOD.replace("5432", "5433"))?;
    let newest = source.repo.commit("second")?;

    let password = std::fs::read_to_string(lab.bed.run(&["git-server", lab.bed.name(), "password-file"])?)
        .context("failed to read the git server's password")?;
    // The Secret of the public address holds no login; the other is not there yet.
    await_reason(&source, &source.private_spec("", "git-ca")?, "AuthenticationFailed").await?;
    let spec = source.private_spec("", LOGIN)?;
    await_reason(&source, &spec, "InvalidSettings").await?;
    write_login(&lab, "wrong").await?;
    let mut again = spec.clone();
    again["interval"] = json!("1s");
    await_reason(&source, &again, "AuthenticationFailed").await?;
    ensure!(lab.ours("RuleSet", "git-rules").await?.is_none(), "policy came without the password");
    write_login(&lab, password.trim()).await?;
    source.await_applied(&newest).await?;
    ensure!(port(&lab).await? == 5433, "the newest commit of the branch is not in force");

    references(&lab, &source, &spec, &tagged, &newest).await?;
    source.delete().await?;
    lab.delete(OURS, "RuleSet", None, "git-rules").await?;
    lab.delete("v1", "Secret", Some(SYSTEM), LOGIN).await?;
    Ok(Outcome::Passed)
}

/// A tag and a commit's id, and such as are not there.
async fn references(lab: &Lab, source: &PolicySource, spec: &Value, tagged: &str, newest: &str) -> Result<()> {
    let with = |reference: Value| {
        let mut spec = spec.clone();
        spec["ref"] = reference;
        spec
    };
    source.point(&with(json!({"tag": "v1"}))).await?;
    source.await_applied(tagged).await?;
    ensure!(port(lab).await? == 5432, "the tag is not in force");
    source.point(&with(json!({"commit": newest}))).await?;
    source.await_applied(newest).await?;
    ensure!(port(lab).await? == 5433, "the commit is not in force");
    source.point(&with(json!({"commit": tagged}))).await?;
    source.await_applied(tagged).await?;
    ensure!(port(lab).await? == 5432, "the older commit is not in force");
    await_reason(source, &with(json!({"tag": "v2"})), "TagNotFound").await?;
    await_reason(source, &with(json!({"commit": "f".repeat(40)})), "CommitNotFound").await
}

async fn await_reason(source: &PolicySource, spec: &Value, reason: &str) -> Result<()> {
    source.point(spec).await?;
    let refused = source.await_refused(None).await?;
    ensure!(refused.reason == reason, "expected the reason {reason}: {}", refused.text);
    Ok(())
}

async fn write_login(lab: &Lab, password: &str) -> Result<()> {
    let authority = std::fs::read_to_string(lab.bed.run(&["git-server", lab.bed.name(), "ca"])?)
        .context("failed to read the git server's authority")?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": LOGIN, "namespace": SYSTEM},
        "stringData": {"username": "ringfence", "password": password, "ca.crt": authority},
    });
    lab.apply(&secret).await.map(drop)
}
