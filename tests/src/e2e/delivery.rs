//! Policy that Argo CD and Flux deliver: applied as they would, adopted, Ready, and left alone by a second apply.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::lab::{Lab, SLOW};
use crate::testbed::root;
use crate::wait;

/// A delivery tool, as its example sets it up.
struct Tool {
    /// The field manager that it applies with.
    manager: &'static str,
    /// The folder of policy that it delivers.
    folder: PathBuf,
    /// Labels and annotations by which it knows again what it has delivered.
    mark: Box<dyn Fn(&mut Value)>,
    /// Whose rights it applies with; everybody's that there are when nobody is named.
    account: Option<String>,
    /// What of the example goes into the cluster beside it: the account and its rights.
    beside: Vec<Value>,
    /// Kinds that it may deliver, if the example says so.
    kinds: Option<BTreeSet<String>>,
}

/// The documents of a file of the examples.
fn documents(file: &str) -> Result<Vec<Value>> {
    read_documents(&root().join("examples").join(file))
}

fn read_documents(file: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The folder that a `path` of an example means, in the example's policy repository.
fn policy_folder(path: &str) -> PathBuf {
    root().join("examples/policy-repo").join(path.trim_start_matches("./"))
}

/// Argo CD with `examples/argo-cd`. It applies server-side only if told to; the tracking method `annotation+label` sets
/// both marks.
fn argo_cd() -> Result<Tool> {
    let applications = documents("argo-cd/application.yaml")?;
    let [application] = applications.as_slice() else { bail!("application.yaml holds more than an Application") };
    let options = application.pointer("/spec/syncPolicy/syncOptions").and_then(Value::as_array);
    let server_side = options.is_some_and(|options| options.iter().any(|option| option == "ServerSideApply=true"));
    ensure!(server_side, "the Application does not ask for a server-side apply");
    let projects = documents("argo-cd/project.yaml")?;
    let project = projects.first().context("project.yaml is empty")?;
    ensure!(application["spec"]["project"] == project["metadata"]["name"], "the Application is of another project");
    let allowed = ["/spec/clusterResourceWhitelist", "/spec/namespaceResourceWhitelist"];
    let kinds = allowed.iter().filter_map(|list| project.pointer(list)?.as_array()).flatten();
    let kinds = kinds.filter(|entry| entry["group"] == "ringfence.dev").map(|entry| text(entry, "/kind"));

    let name = text(application, "/metadata/name")?;
    let target = text(application, "/spec/destination/namespace")?;
    let mark = move |object: &mut Value| {
        let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        // An object without a namespace is booked under that of the destination.
        let id = format!("{name}:ringfence.dev/{}:{target}/{}", word("/kind"), word("/metadata/name"));
        object["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] = json!(id);
        object["metadata"]["labels"]["app.kubernetes.io/instance"] = json!(name);
    };
    Ok(Tool {
        manager: "argocd-controller",
        folder: policy_folder(&text(application, "/spec/source/path")?),
        mark: Box::new(mark),
        account: None,
        beside: Vec::new(),
        kinds: Some(kinds.collect::<Result<_>>()?),
    })
}

/// Flux's kustomize-controller with `examples/flux`, under the account that the example gives it.
fn flux() -> Result<Tool> {
    let (tools, beside): (Vec<Value>, Vec<Value>) =
        documents("flux/policy.yaml")?.into_iter().partition(|document| document["kind"] == "Kustomization");
    let [tool] = tools.as_slice() else { bail!("policy.yaml holds {} Kustomizations", tools.len()) };
    ensure!(tool["spec"]["wait"] == true, "the Kustomization does not wait until its objects are Ready");
    let (name, namespace) = (text(tool, "/metadata/name")?, text(tool, "/metadata/namespace")?);
    let account = format!("system:serviceaccount:{namespace}:{}", text(tool, "/spec/serviceAccountName")?);
    let mark = move |object: &mut Value| {
        object["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] = json!(name);
        object["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/namespace"] = json!(namespace);
    };
    Ok(Tool {
        manager: "kustomize-controller",
        folder: policy_folder(&text(tool, "/spec/path")?),
        mark: Box::new(mark),
        account: Some(account),
        beside,
        kinds: None,
    })
}

/// `examples/argo-cd`.
pub async fn argo_cd_delivers_the_example(lab: Lab) -> Result<Outcome> {
    delivered(&lab, &argo_cd()?).await
}

/// `examples/flux`.
pub async fn flux_delivers_the_example(lab: Lab) -> Result<Outcome> {
    delivered(&lab, &flux()?).await
}

async fn delivered(lab: &Lab, tool: &Tool) -> Result<Outcome> {
    let shop = root().join("examples/shop").display().to_string();
    lab.kubectl(&["apply", "-k", &shop], &[])?;
    let objects = example(tool)?;
    for object in &tool.beside {
        lab.apply(object).await?;
    }
    let outcome = walk(lab, tool, &objects).await;
    for object in objects.iter().chain(&tool.beside).rev() {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let (version, kind, name) =
            (text(object, "/apiVersion")?, text(object, "/kind")?, text(object, "/metadata/name")?);
        lab.delete(&version, &kind, namespace, &name).await?;
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
    let tools = match &tool.account {
        Some(account) => lab.acting_as(account).await?,
        None => lab.clone(),
    };
    apply(&tools, tool, objects).await?;
    for object in objects {
        lab.await_ready(&text(object, "/kind")?, None, &text(object, "/metadata/name")?).await?;
    }
    for name in &profiles {
        adopted(lab, tool, objects, name).await?;
    }
    await_settled(lab, objects).await?;
    let first = versions(lab, objects).await?;
    apply(&tools, tool, objects).await?;
    let second = versions(lab, objects).await?;
    ensure!(first == second, "a second apply wrote something: the resourceVersions {first:?} are now {second:?}");
    Ok(())
}

async fn apply(lab: &Lab, tool: &Tool, objects: &[Value]) -> Result<()> {
    for object in objects {
        lab.apply_as(tool.manager, object).await?;
    }
    Ok(())
}

/// The example's objects as the tool would apply them.
fn example(tool: &Tool) -> Result<Vec<Value>> {
    let mut files: Vec<_> = std::fs::read_dir(&tool.folder)
        .with_context(|| format!("failed to read {}", tool.folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    let mut objects = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        for mut document in read_documents(file)? {
            let kind = text(&document, "/kind")?;
            let allowed = tool.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind));
            ensure!(allowed, "the example does not let {} deliver a {kind}", tool.manager);
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

/// resourceVersion of every object.
async fn versions(lab: &Lab, objects: &[Value]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for object in objects {
        let (kind, name) = (text(object, "/kind")?, text(object, "/metadata/name")?);
        let live = lab.ours(&kind, &name).await?.with_context(|| format!("{kind} {name} is gone"))?;
        found.push(text(&live, "/metadata/resourceVersion")?);
    }
    Ok(found)
}

/// Awaits that no status is written any more (the shop's Pods may still be starting).
async fn await_settled(lab: &Lab, objects: &[Value]) -> Result<()> {
    wait::until("two seconds without a change of the delivered objects", SLOW, || async {
        let before = versions(lab, objects).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = versions(lab, objects).await?;
        if before == after { Ok(Some(())) } else { bail!("they still change") }
    })
    .await
}
