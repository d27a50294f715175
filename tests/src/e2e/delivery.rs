//! Policy that Argo CD and Flux deliver: applied as they would, adopted, Ready, and left alone by a second apply.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::lab::{Lab, SLOW};
use crate::manifests::OURS;
use crate::testbed::root;
use crate::wait;

/// A delivery tool: the field manager it applies with, and how it marks what it delivers.
struct Tool {
    manager: &'static str,
    mark: fn(&mut Value),
}

/// Argo CD, whose tracking method `annotation+label` sets both.
const ARGO_CD: Tool = Tool {
    manager: "argocd-controller",
    mark: |object| {
        let (kind, name) = (object["kind"].as_str().unwrap_or_default(), &object["metadata"]["name"]);
        let id = format!("policy:ringfence.dev/{kind}:/{}", name.as_str().unwrap_or_default());
        object["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] = json!(id);
        object["metadata"]["labels"]["app.kubernetes.io/instance"] = json!("policy");
    },
};

/// Flux's kustomize-controller.
const FLUX: Tool = Tool {
    manager: "kustomize-controller",
    mark: |object| {
        object["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] = json!("policy");
        object["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/namespace"] = json!("ringfence-system");
    },
};

/// `examples/argo-cd`.
pub async fn argo_cd_delivers_the_example(lab: Lab) -> Result<Outcome> {
    delivered(&lab, &ARGO_CD).await
}

/// `examples/flux`.
pub async fn flux_delivers_the_example(lab: Lab) -> Result<Outcome> {
    delivered(&lab, &FLUX).await
}

async fn delivered(lab: &Lab, tool: &Tool) -> Result<Outcome> {
    let shop = root().join("examples/shop").display().to_string();
    lab.kubectl(&["apply", "-k", &shop], &[])?;
    let objects = example(tool)?;
    let outcome = walk(lab, tool, &objects).await;
    for object in objects.iter().rev() {
        lab.delete(OURS, &text(object, "/kind")?, None, &text(object, "/metadata/name")?).await?;
    }
    lab.kubectl(&["delete", "-k", &shop, "--wait=false", "--grace-period=1"], &[])?;
    outcome?;
    for space in profiles(&objects)? {
        wait::until(&format!("namespace {space} to be gone"), SLOW, || async {
            Ok(lab.get("v1", "Namespace", None, &space).await?.is_none().then_some(()))
        })
        .await?;
    }
    Ok(Outcome::Passed)
}

async fn walk(lab: &Lab, tool: &Tool, objects: &[Value]) -> Result<()> {
    let profiles = profiles(objects)?;
    for name in &profiles {
        wait::until(&format!("Kubelink's profile of {name}"), SLOW, || lab.ours("ContainerWorkloadProfile", name))
            .await?;
    }
    for object in objects {
        lab.apply_as(tool.manager, object).await?;
    }
    for object in objects {
        lab.await_ready(&text(object, "/kind")?, None, &text(object, "/metadata/name")?).await?;
    }
    for name in &profiles {
        adopted(lab, tool, objects, name).await?;
    }
    // Content first: a second apply is no new generation. The apiserver once books a first re-apply of lists with defaulted
    // fields as another time in managedFields; after that an apply writes nothing at all.
    let before = await_settled(lab, objects).await?;
    let second = apply_again(lab, tool, objects).await?;
    let third = apply_again(lab, tool, objects).await?;
    for (index, object) in objects.iter().enumerate() {
        let (kind, name) = (text(object, "/kind")?, text(object, "/metadata/name")?);
        let (first, second, third) = (&before[index], &second[index], &third[index]);
        ensure!(first.1 == second.1, "a second apply changed the content of {kind} {name}: {first:?} is {second:?}");
        ensure!(second == third, "a further apply wrote {kind} {name}: (version, generation) {second:?} is {third:?}");
    }
    Ok(())
}

async fn apply_again(lab: &Lab, tool: &Tool, objects: &[Value]) -> Result<Vec<(String, i64)>> {
    for object in objects {
        lab.apply_as(tool.manager, object).await?;
    }
    versions(lab, objects).await
}

/// The example's objects as the tool would apply them.
fn example(tool: &Tool) -> Result<Vec<Value>> {
    let folder = root().join("examples/policy-repo/clusters/demo");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("failed to read {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let mut objects = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(file)?)
            .with_context(|| format!("failed to read {}", file.display()))?;
        for mut document in documents.into_iter().filter(|document| !document.is_null()) {
            (tool.mark)(&mut document);
            objects.push(document);
        }
    }
    ensure!(objects.len() > 5, "the example holds only {} objects", objects.len());
    Ok(objects)
}

fn text(object: &Value, pointer: &str) -> Result<String> {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("no {pointer} in {object}"))
}

fn profiles(objects: &[Value]) -> Result<Vec<String>> {
    let profiles = objects.iter().filter(|object| object["kind"] == "ContainerWorkloadProfile");
    profiles.map(|object| text(object, "/metadata/name")).collect()
}

/// The profile that Kubelink made is the tool's now: it says what the tool applied, and Kubelink leaves it so.
async fn adopted(lab: &Lab, tool: &Tool, objects: &[Value], name: &str) -> Result<()> {
    let wanted = objects
        .iter()
        .find(|object| object["kind"] == "ContainerWorkloadProfile" && object["metadata"]["name"] == name);
    let wanted = wanted.with_context(|| format!("the example has no profile {name}"))?;
    let live = lab.ours("ContainerWorkloadProfile", name).await?.with_context(|| format!("no profile {name}"))?;
    ensure!(live["spec"]["managed"] == wanted["spec"]["managed"], "profile {name} is {}", live["spec"]);
    ensure!(live["spec"]["policyState"] == wanted["spec"]["policyState"], "profile {name} is {}", live["spec"]);
    let managers = live["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let owns = managers
        .iter()
        .any(|entry| entry["manager"] == tool.manager && !entry["fieldsV1"]["f:spec"]["f:managed"].is_null());
    ensure!(owns, "{} does not own the spec of profile {name}", tool.manager);
    let enforced = &live["status"]["enforcedState"];
    ensure!(*enforced == wanted["spec"]["policyState"], "the enforced state of {name} is {enforced}");
    Ok(())
}

/// resourceVersion and generation of every object.
async fn versions(lab: &Lab, objects: &[Value]) -> Result<Vec<(String, i64)>> {
    let mut found = Vec::new();
    for object in objects {
        let (kind, name) = (text(object, "/kind")?, text(object, "/metadata/name")?);
        let live = lab.ours(&kind, &name).await?.with_context(|| format!("{kind} {name} is gone"))?;
        let generation = live["metadata"]["generation"].as_i64().context("no generation")?;
        found.push((text(&live, "/metadata/resourceVersion")?, generation));
    }
    Ok(found)
}

/// Awaits that no status is written any more (the shop's Pods may still be starting).
async fn await_settled(lab: &Lab, objects: &[Value]) -> Result<Vec<(String, i64)>> {
    wait::until("two seconds without a change of the delivered objects", SLOW, || async {
        let before = versions(lab, objects).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = versions(lab, objects).await?;
        if before == after { Ok(Some(after)) } else { bail!("they still change") }
    })
    .await
}
