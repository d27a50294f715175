//! The objects that are written: the slices of a thousand classes of twenty Pods, and as many Pods of the usual size.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, CustomResourceExt, ResourceExt};
use ringfence_crds::{AddressGroup, names};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{CLASSES, Mode};
use crate::wait;

const SPACE: &str = "fan-out";
const MEMBERS: usize = 20;
/// How many writes go on at a time while objects are made.
const MAKING: usize = 16;
/// What the number of a write follows in its event.
const NUMBER: &[u8] = br#""fan-out":""#;
const VERSION: &[u8] = br#""resourceVersion":""#;

/// Everything that is written to.
pub struct Objects {
    written: usize,
    /// Resource versions of the slices, by class.
    slices: Arc<Vec<Mutex<Option<String>>>>,
}

/// A write to come.
pub struct Next {
    number: usize,
    mode: Mode,
    slices: Arc<Vec<Mutex<Option<String>>>>,
}

/// The class, by number, that a write is about. Neighbours in time are none in name.
pub fn class_of(number: usize) -> usize {
    number * 389 % CLASSES
}

/// The id of a class.
pub fn class_id(class: usize) -> String {
    format!("c-{}", names::short_hash(&class.to_string(), 12))
}

/// Where to watch.
pub fn path(mode: Mode) -> &'static str {
    match mode {
        Mode::Interest(_) => "/apis/ringfence.dev/v1alpha1/addressgroups",
        Mode::AllPods => "/api/v1/pods",
    }
}

/// The number of the write that an event tells.
pub fn number_in(line: &[u8]) -> Option<usize> {
    text_after(NUMBER, line)?.parse().ok()
}

/// The resource version of an event.
pub fn version_in(line: &[u8]) -> Option<String> {
    text_after(VERSION, line).map(str::to_owned)
}

fn text_after<'l>(what: &[u8], line: &'l [u8]) -> Option<&'l str> {
    let begin = line.windows(what.len()).position(|window| window == what)? + what.len();
    let rest = line.get(begin..)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

fn slice(class: usize, number: usize, version: Option<&str>) -> Result<AddressGroup> {
    let id = class_id(class);
    // A Pod comes and goes: one address differs each time.
    let member = |member: usize| {
        let host = if member == 0 { 100 + number % 100 } else { member };
        json!({"network": "6c1f0a3e-0000-4000-8000-000000000000/default",
            "address": format!("10.{}.{}.{host}", class / 250, class % 250)})
    };
    let members: Vec<Value> = (0..MEMBERS).map(member).collect();
    let object = json!({
        "apiVersion": names::API_VERSION, "kind": "AddressGroup",
        "metadata": {"name": format!("{id}-0"), "resourceVersion": version,
            "labels": {names::LABEL_BUCKET: names::bucket(&id).to_string()},
            "annotations": {"fan-out": number.to_string()}},
        "spec": {"class": id, "classText": format!("app=app-{class},env=prod,role=web|pods"), "slice": 0, "slices": 1,
            "revision": {"epoch": 0, "number": number}, "members": members},
    });
    Ok(serde_json::from_value(object)?)
}

/// A Pod that waits for a node, as large as Pods with a sidecar, a probe and mounts are.
fn pod(class: usize) -> Result<Pod> {
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example.org/shop/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef",
            "args": ["--listen=:8080", "--upstream=http://backend.shop.svc:8080", "--log-level=info"],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "livenessProbe": probe, "readinessProbe": probe,
            "volumeMounts": [{"name": "config", "mountPath": "/etc/web", "readOnly": true}]})
    };
    let object = json!({
        "metadata": {"name": format!("web-{class}"), "namespace": SPACE,
            "labels": {"app": format!("app-{class}"), "env": "prod", "role": "web"}, "annotations": {"fan-out": "0"}},
        "spec": {"containers": [container("web"), container("proxy")], "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "volumes": [{"name": "config", "configMap": {"name": "web"}}]},
    });
    Ok(serde_json::from_value(object)?)
}

impl Objects {
    /// Makes all of them on an empty apiserver.
    pub async fn make(client: &Client) -> Result<Self> {
        define_kinds(client).await?;
        let space: Namespace = serde_json::from_value(json!({"metadata": {"name": SPACE}}))?;
        create(&Api::all(client.clone()), &space).await?;
        // No controller runs that would make it.
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
        create(&Api::namespaced(client.clone(), SPACE), &account).await?;
        let slices: Arc<Vec<_>> = Arc::new((0..CLASSES).map(|_| Mutex::new(None)).collect());
        let make = |class: usize| {
            let (client, slices) = (client.clone(), slices.clone());
            async move {
                let made = create(&Api::all(client.clone()), &slice(class, 0, None)?).await?;
                set(&slices, class, made.resource_version());
                create(&Api::namespaced(client, SPACE), &pod(class)?).await.map(drop)
            }
        };
        stream::iter(0..CLASSES).map(make).buffer_unordered(MAKING).try_collect::<Vec<()>>().await?;
        Ok(Self { written: 1, slices })
    }

    /// The number of the next write.
    pub fn written(&self) -> usize {
        self.written
    }

    /// The next write.
    pub fn next(&mut self, mode: Mode) -> Next {
        self.written += 1;
        Next { number: self.written - 1, mode, slices: self.slices.clone() }
    }

    /// From where a watch is to begin.
    pub async fn version(&self, client: &Client, mode: Mode) -> Result<String> {
        let one = ListParams::default().limit(1);
        let version = match mode {
            Mode::Interest(_) => Api::<AddressGroup>::all(client.clone()).list(&one).await?.metadata.resource_version,
            Mode::AllPods => Api::<Pod>::all(client.clone()).list(&one).await?.metadata.resource_version,
        };
        version.context("the apiserver names no version")
    }
}

impl Next {
    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Carries it out: a slice as the controller writes it, a Pod as an update by its kubelet would be.
    pub async fn write(self, client: &Client) -> Result<()> {
        let class = class_of(self.number);
        match self.mode {
            Mode::Interest(_) => {
                let version = self.slices[class].lock().ok().and_then(|version| version.clone());
                let object = slice(class, self.number, version.as_deref())?;
                let parameters =
                    PostParams { field_manager: Some(names::MANAGER_CONTROLLER.to_owned()), ..PostParams::default() };
                let api = Api::<AddressGroup>::all(client.clone());
                let written =
                    api.replace(&object.name_any(), &parameters, &object).await.context("failed to write a slice")?;
                set(&self.slices, class, written.resource_version());
            }
            Mode::AllPods => {
                let patch = json!({"metadata": {"annotations": {"fan-out": self.number.to_string()}}});
                let api = Api::<Pod>::namespaced(client.clone(), SPACE);
                let name = format!("web-{class}");
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                    .await
                    .context("failed to write a Pod")?;
            }
        }
        Ok(())
    }
}

fn set(slices: &[Mutex<Option<String>>], class: usize, version: Option<String>) {
    if let Ok(mut known) = slices[class].lock() {
        *known = version;
    }
}

async fn create<K>(api: &Api<K>, object: &K) -> Result<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + DeserializeOwned,
{
    let made = api.create(&PostParams::default(), object).await;
    made.with_context(|| format!("failed to make {}", object.meta().name.as_deref().unwrap_or_default()))
}

async fn define_kinds(client: &Client) -> Result<()> {
    create(&Api::<CustomResourceDefinition>::all(client.clone()), &AddressGroup::crd()).await?;
    let groups = Api::<AddressGroup>::all(client.clone());
    wait::until("AddressGroups to be served", Duration::from_secs(30), || async {
        groups.list(&ListParams::default().limit(1)).await?;
        Ok(Some(()))
    })
    .await
}
