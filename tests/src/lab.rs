//! What the demo and the real-cluster tests do with a cluster: apply objects, find Pods, open connections, await.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::Discovery;
use kube::discovery::Scope;
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

use crate::probe::{self, Seen};
use crate::testbed::Testbed;
use crate::wait;

/// How long the cluster may take for what it does by itself (start a Pod, notice a namespace).
pub const SLOW: Duration = Duration::from_secs(90);

/// A cluster with Ringfence on it.
#[derive(Clone)]
pub struct Lab {
    /// The test bed.
    pub bed: Testbed,
    /// Its admin kubeconfig.
    pub kubeconfig: PathBuf,
    /// A client with the admin's rights.
    pub client: Client,
    discovery: std::sync::Arc<Discovery>,
}

impl Lab {
    /// Connects to a cluster on which Ringfence is installed.
    ///
    /// # Errors
    /// When the apiserver does not answer.
    pub async fn connect(bed: Testbed, kubeconfig: PathBuf) -> Result<Self> {
        let file = Kubeconfig::read_from(&kubeconfig).context("failed to read the kubeconfig")?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let discovery = Discovery::new(client.clone()).run().await.context("failed to discover the API")?;
        Ok(Self { bed, kubeconfig, client, discovery: std::sync::Arc::new(discovery) })
    }

    /// The same cluster with the rights of somebody else, such as a service account.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn acting_as(&self, user: &str) -> Result<Self> {
        let file = Kubeconfig::read_from(&self.kubeconfig).context("failed to read the kubeconfig")?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        Ok(Self { client: Client::try_from(config)?, ..self.clone() })
    }

    fn api(&self, object: &Value) -> Result<Api<DynamicObject>> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind").context("the object has no kind")?;
        let version = text("/apiVersion").context("the object has no apiVersion")?;
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) =
            self.discovery.resolve_gvk(&gvk).with_context(|| format!("the apiserver does not know {kind}"))?;
        Ok(match (capabilities.scope, text("/metadata/namespace")) {
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            (Scope::Namespaced, None) => Api::default_namespaced_with(self.client.clone(), &resource),
            (Scope::Cluster, _) => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// Server-side applies an object as `manager`.
    ///
    /// # Errors
    /// What the apiserver refuses.
    pub async fn apply_as(&self, manager: &str, object: &Value) -> Result<DynamicObject> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).context("the object has no name")?;
        let parameters = PatchParams::apply(manager).force();
        self.api(object)?
            .patch(name, &parameters, &Patch::Apply(object))
            .await
            .with_context(|| format!("failed to apply {} {name}", object["kind"]))
    }

    /// Server-side applies an object as a person with kubectl would.
    ///
    /// # Errors
    /// What the apiserver refuses.
    pub async fn apply(&self, object: &Value) -> Result<DynamicObject> {
        self.apply_as("kubectl", object).await
    }

    /// Applies every document of a YAML text.
    ///
    /// # Errors
    /// When the text is no YAML, or the apiserver refuses one of them.
    pub async fn apply_yaml(&self, manager: &str, text: &str) -> Result<Vec<DynamicObject>> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("failed to read the YAML")?;
        let mut applied = Vec::new();
        for document in documents.iter().filter(|document| !document.is_null()) {
            applied.push(self.apply_as(manager, document).await?);
        }
        Ok(applied)
    }

    /// The object as it lives; nothing if there is none.
    ///
    /// # Errors
    /// When the apiserver does not answer.
    pub async fn get(&self, version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Result<Option<Value>> {
        let reference = reference(version, kind, namespace, name);
        let object = self.api(&reference)?.get_opt(name).await?;
        object.map(|object| serde_json::to_value(object).map_err(Into::into)).transpose()
    }

    /// A Ringfence object as it lives.
    ///
    /// # Errors
    /// When the apiserver does not answer.
    pub async fn ours(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        self.get("ringfence.dev/v1alpha1", kind, None, name).await
    }

    /// Deletes an object, if it is there.
    ///
    /// # Errors
    /// When the apiserver does not answer.
    pub async fn delete(&self, version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Result<()> {
        let api = self.api(&reference(version, kind, namespace, name))?;
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        match api.delete(name, &now).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop).with_context(|| format!("failed to delete {kind} {name}")),
        }
    }

    /// Awaits that a Ringfence object says `Ready` of its newest generation.
    ///
    /// # Errors
    /// When it does not within the limit; the message holds what it says instead.
    pub async fn await_ready(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<Value> {
        self.await_condition(kind, namespace, name, "True").await
    }

    /// Awaits that the `Ready` condition of the newest generation has a status.
    ///
    /// # Errors
    /// When it has not within the limit.
    pub async fn await_condition(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        status: &str,
    ) -> Result<Value> {
        let what = format!("{kind} {name} to be Ready={status}");
        wait::until(&what, SLOW, || async {
            let object = self
                .get("ringfence.dev/v1alpha1", kind, namespace, name)
                .await?
                .with_context(|| format!("there is no {kind} {name}"))?;
            let ready = ready(&object);
            match ready {
                Some(condition) if condition.status == status && condition.current => Ok(Some(object)),
                Some(condition) => bail!("Ready={} {}: {}", condition.status, condition.reason, condition.message),
                None => bail!("no Ready condition"),
            }
        })
        .await
    }

    /// Awaits a Pod that is ready, and gives it.
    ///
    /// # Errors
    /// When it is not within the limit.
    pub async fn await_pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        wait::until(&format!("Pod {namespace}/{name} to be ready"), SLOW, || async {
            let pod = pods.get_opt(name).await?;
            Ok(pod.filter(is_ready))
        })
        .await
    }

    /// The ready Pods that a label selector selects, once there are `count`.
    ///
    /// # Errors
    /// When there are not that many within the limit.
    pub async fn await_pods(&self, namespace: &str, selector: &str, count: usize) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = kube::api::ListParams::default().labels(selector);
        wait::until(&format!("{count} ready Pods {selector} in {namespace}"), SLOW, || async {
            let mut found = pods.list(&parameters).await?.items;
            found.retain(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
            found.sort_by_key(ResourceExt::name_any);
            Ok((found.len() == count).then_some(found))
        })
        .await
    }

    /// The network namespace of a running Pod.
    ///
    /// # Errors
    /// When it does not run.
    pub fn netns(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.bed
            .sandboxes()?
            .into_iter()
            .find(|sandbox| sandbox.namespace == namespace && sandbox.name == name)
            .map(|sandbox| sandbox.netns)
            .with_context(|| format!("no sandbox of Pod {namespace}/{name} is running"))
    }

    /// The first ClusterIP of a Service.
    ///
    /// # Errors
    /// When it has none.
    pub async fn cluster_ip(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        self.cluster_ips(namespace, name).await?.first().copied().context("the Service has no ClusterIP")
    }

    /// Every ClusterIP of a Service, one of each of its families.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn cluster_ips(&self, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let spec = services.get(name).await?.spec.unwrap_or_default();
        spec.cluster_ips.unwrap_or_default().iter().map(|address| parsed(address)).collect()
    }

    /// Awaits that a TCP connection is seen so; the last thing seen is in the error.
    ///
    /// # Errors
    /// When it is not within `limit`.
    pub async fn await_seen(&self, netns: &Path, target: SocketAddr, seen: Seen, limit: Duration) -> Result<()> {
        wait::until(&format!("a connection to {target} to be {seen}"), limit, || async {
            let netns = netns.to_owned();
            let now = tokio::task::spawn_blocking(move || probe::tcp(&netns, target)).await??;
            if now == seen { Ok(Some(())) } else { bail!("it is {now}") }
        })
        .await
    }

    /// Runs kubectl with the admin's rights, and gives what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
        let output = std::process::Command::new(self.bed.bin()?.join("kubectl"))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(environment.iter().copied())
            .output()
            .context("failed to run kubectl")?;
        if !output.status.success() {
            bail!("kubectl {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A `Ready` condition.
pub struct Ready {
    /// True, False or Unknown.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Whether it speaks of the newest generation.
    pub current: bool,
}

/// The `Ready` condition of an object.
pub fn ready(object: &Value) -> Option<Ready> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let observed = condition
        .get("observedGeneration")
        .or_else(|| object.pointer("/status/observedGeneration"))
        .and_then(Value::as_i64);
    let current = observed == object.pointer("/metadata/generation").and_then(Value::as_i64);
    Some(Ready { status: text("status"), reason: text("reason"), message: text("message"), current })
}

fn reference(version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

/// Whether a Pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The address of a Pod.
///
/// # Errors
/// When it has none.
pub fn pod_ip(pod: &Pod) -> Result<IpAddr> {
    let text = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("the Pod has no address")?;
    parsed(text)
}

/// Every address of a Pod, one of each family.
///
/// # Errors
/// When one of them is none.
pub fn pod_ips(pod: &Pod) -> Result<Vec<IpAddr>> {
    let status = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    status.into_iter().flatten().map(|address| parsed(&address.ip)).collect()
}

fn parsed(address: &str) -> Result<IpAddr> {
    address.parse().with_context(|| format!("'{address}' is no address"))
}
