//! Objects that are gone from git.

use std::collections::BTreeSet;

use kube::api::{DeleteParams, DynamicObject, Preconditions};
use kube::{Client, Resource, ResourceExt};
use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_crds::names::{CLUSTER, CREATED_BY_KUBELINK, LABEL_CREATED_BY, LABEL_REPOSITORY, MANAGER_KUBELINK};
use ringfence_crds::{ContainerClusterSpec, ContainerWorkloadProfileSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::content::ORIGIN;
use super::events::Notice;
use super::live::Live;
use super::refusal::Refusal;
use super::{kinds, managers};
use crate::kubelink::profiles;

/// What becomes of an object that is gone from git.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    /// It is gone already, or not ours any more.
    Forget,
    /// It stays, still ours.
    Keep,
    /// It is deleted.
    Delete,
    /// It stays, with this spec, and is discovery's again.
    HandBack(Value),
}

/// What prunes need to know.
pub(super) struct Prune<'p> {
    /// Value of the label that marks this repository's objects.
    pub(super) repository: &'p str,
    /// What lives.
    pub(super) live: &'p Live,
    /// The namespaces that live.
    pub(super) namespaces: &'p BTreeSet<String>,
    /// `spec.prune`.
    pub(super) wanted: bool,
}

impl Prune<'_> {
    /// Deletes what is gone from git, if it is still ours. Gives the objects that stay ours, and what to tell.
    pub(super) async fn all(
        &self,
        client: &Client,
        gone: &BTreeSet<ObjectKey>,
    ) -> Result<(Vec<ObjectKey>, Vec<Notice>), Refusal> {
        let mut kept = Vec::new();
        let mut notices = Vec::new();
        for key in gone {
            let Some(object) = self.live.get(key) else { continue };
            match self.fate(key, object) {
                Fate::Forget => {}
                Fate::Keep => kept.push(key.clone()),
                Fate::Delete => delete(client, key, object).await?,
                Fate::HandBack(spec) => {
                    hand_back(client, key, object, &spec).await?;
                    notices.extend(returned(key, object));
                }
            }
        }
        Ok((kept, notices))
    }

    fn fate(&self, key: &ObjectKey, object: &DynamicObject) -> Fate {
        if !self.is_ours(object) {
            return Fate::Forget;
        }
        if !self.wanted {
            return Fate::Keep;
        }
        match key.kind {
            // A namespace is never without a profile, nor the cluster without its object: not even for a moment.
            Kind::ContainerWorkloadProfile if self.namespaces.contains(&key.name) => {
                Fate::HandBack(json!(default_profile(self.live)))
            }
            Kind::ContainerCluster if key.name == CLUSTER => Fate::HandBack(json!(ContainerClusterSpec::default())),
            _ => Fate::Delete,
        }
    }

    /// Whether an object of the inventory is still ours. A label that somebody took away by hand does not change
    /// that, as long as git's fields show that it is the object which git made.
    fn is_ours(&self, object: &DynamicObject) -> bool {
        match object.labels().get(LABEL_REPOSITORY) {
            Some(label) => label == self.repository,
            None => managers::has_git(object),
        }
    }
}

async fn delete(client: &Client, key: &ObjectKey, object: &DynamicObject) -> Result<(), Refusal> {
    let params = DeleteParams::default().preconditions(Preconditions { uid: object.uid(), ..Preconditions::default() });
    match kinds::api_of(client, key).delete(&key.name, &params).await {
        Ok(_) => tracing::info!(object = %key, "deleted: it is gone from git"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Refusal::Cluster("delete what is gone from git", error)),
    }
    Ok(())
}

async fn hand_back(client: &Client, key: &ObjectKey, object: &DynamicObject, spec: &Value) -> Result<(), Refusal> {
    kinds::patch(client, key, MANAGER_KUBELINK, handing_back(object, spec), false)
        .await
        .map_err(|error| Refusal::Cluster("give back what is gone from git", error))?;
    tracing::info!(object = %key, "returned to the default: it is gone from git");
    Ok(())
}

/// The JSON Patch that makes an object discovery's, with this spec. It removes nothing that is not there: the
/// apiserver would refuse that.
fn handing_back(object: &DynamicObject, spec: &Value) -> Vec<Value> {
    let remove = |map: &str, key: &str| json!({ "op": "remove", "path": kinds::pointer(map, key) });
    let add = |path: &str, value: Value| json!({ "op": "add", "path": path, "value": value });
    let mut operations = vec![json!({ "op": "test", "path": "/metadata/uid", "value": object.uid() })];
    if object.labels().is_empty() {
        operations.push(add("/metadata/labels", json!({})));
    }
    if object.labels().contains_key(LABEL_REPOSITORY) {
        operations.push(remove("/metadata/labels", LABEL_REPOSITORY));
    }
    operations.extend([
        add(&kinds::pointer("/metadata/labels", LABEL_CREATED_BY), json!(CREATED_BY_KUBELINK)),
        add("/spec", spec.clone()),
        add("/metadata/managedFields", without_writers(object)),
    ]);
    let origin = ORIGIN.iter().filter(|annotation| object.annotations().contains_key(**annotation));
    operations.extend(origin.map(|annotation| remove("/metadata/annotations", annotation)));
    operations
}

/// The field managers of the status. Those of the spec go: a field that reads the same before and after would stay
/// git's, and the object would count as somebody's.
fn without_writers(object: &DynamicObject) -> Value {
    let status = object.managed_fields().iter().filter(|entry| entry.subresource.as_deref() == Some("status"));
    let status: Vec<Value> = status.map(|entry| json!(entry)).collect();
    // An empty list would leave the managers as they are; one empty entry clears them.
    if status.is_empty() { json!([{}]) } else { json!(status) }
}

/// What a namespace gets that nobody wrote a profile for.
fn default_profile(live: &Live) -> ContainerWorkloadProfileSpec {
    let cluster = live.first_cluster();
    let spec = cluster.and_then(|object| ContainerClusterSpec::deserialize(object.data.get("spec")?).ok());
    profiles::default_spec(&spec.unwrap_or_default().default_profile)
}

fn returned(key: &ObjectKey, object: &DynamicObject) -> Option<Notice> {
    (key.kind == Kind::ContainerWorkloadProfile).then(|| Notice {
        about: object.object_ref(&kinds::resource(key.kind)),
        warning: true,
        reason: "ProfilePruned",
        action: "ReturnToDefault",
        note: format!("the profile of namespace {} is gone from git: the cluster's default applies", key.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "team.policy";

    fn object(kind: &str, metadata: Value, spec: Value) -> DynamicObject {
        let object =
            json!({ "apiVersion": "ringfence.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec });
        serde_json::from_value(object).expect("an object")
    }

    fn written_by(manager: &str) -> Value {
        json!([{ "manager": manager, "operation": "Apply", "apiVersion": "ringfence.dev/v1alpha1",
                 "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:rules": {} } } }])
    }

    fn fate(key: &ObjectKey, object: &DynamicObject, live: &Live, wanted: bool) -> Fate {
        let namespaces = BTreeSet::from(["shop".to_owned()]);
        Prune { repository: US, live, namespaces: &namespaces, wanted }.fate(key, object)
    }

    #[test]
    fn only_the_label_of_somebody_else_or_another_maker_takes_an_object_away() {
        let key = ObjectKey::cluster_wide(Kind::RuleSet, "x");
        let fate = |labels: Value, manager: &str, wanted: bool| {
            let metadata = json!({ "name": "x", "labels": labels, "managedFields": written_by(manager) });
            fate(&key, &object("RuleSet", metadata, json!({})), &Live::default(), wanted)
        };
        let labelled = |by: &str| json!({ "policy.ringfence.dev/repository": by });
        assert_eq!(fate(labelled(US), "ringfence-git", true), Fate::Delete);
        assert_eq!(fate(labelled("team.other"), "ringfence-git", true), Fate::Forget);
        assert_eq!(fate(json!({}), "ringfence-git", true), Fate::Delete, "a label taken away by hand");
        assert_eq!(fate(json!({}), "ringfence-git", false), Fate::Keep);
        assert_eq!(fate(json!({}), "argocd-controller", true), Fate::Forget, "made anew by somebody else");
    }

    #[test]
    fn a_profile_returns_to_a_default_that_the_apiserver_accepts() {
        let cluster = |name: &str, made: &str, default: Value| {
            let metadata = json!({ "name": name, "creationTimestamp": made });
            let spec = json!({ "defaultProfile": default });
            (ObjectKey::cluster_wide(Kind::ContainerCluster, name), object("ContainerCluster", metadata, spec))
        };
        let oldest =
            json!({ "managed": false, "policyState": "VisibilityOnly", "labels": { "env": { "value": "a" } } });
        let second = json!({ "managed": true, "policyState": "Idle" });
        let live = Live(
            [cluster("prod", "2026-01-01T00:00:00Z", oldest), cluster("this", "2026-01-02T00:00:00Z", second)].into(),
        );
        let key = ObjectKey::cluster_wide(Kind::ContainerWorkloadProfile, "shop");
        let metadata = json!({ "name": "shop", "labels": { "policy.ringfence.dev/repository": US } });
        let profile = object("ContainerWorkloadProfile", metadata, json!({ "managed": true, "policyState": "Idle" }));
        let Fate::HandBack(spec) = fate(&key, &profile, &live, true) else { panic!("it is handed back") };
        assert_eq!(spec["managed"], json!(false));
        assert_eq!(spec.get("policyState"), None, "an unmanaged namespace has no state");
        assert_eq!(spec["labels"]["env"]["value"], json!("a"), "of the oldest ContainerCluster");
    }

    #[test]
    fn handing_back_removes_only_what_is_there() {
        let paths = |metadata: Value| {
            let operations = handing_back(&object("ContainerWorkloadProfile", metadata, json!({})), &json!({}));
            let text = |operation: &Value, field: &str| operation[field].as_str().unwrap_or_default().to_owned();
            let line = |operation: &Value| format!("{} {}", text(operation, "op"), text(operation, "path"));
            operations.iter().map(line).collect::<Vec<_>>()
        };
        let whole = json!({
            "name": "shop",
            "labels": { "policy.ringfence.dev/repository": US },
            "annotations": { "policy.ringfence.dev/file": "a.yaml", "mine": "x" },
        });
        let same =
            ["add /metadata/labels/policy.ringfence.dev~1created-by", "add /spec", "add /metadata/managedFields"];
        let expected = [
            &["test /metadata/uid", "remove /metadata/labels/policy.ringfence.dev~1repository"][..],
            &same,
            &["remove /metadata/annotations/policy.ringfence.dev~1file"],
        ];
        assert_eq!(paths(whole), expected.concat());
        let bare = [&["test /metadata/uid", "add /metadata/labels"][..], &same].concat();
        assert_eq!(paths(json!({ "name": "shop" })), bare, "every label was taken away by hand");
    }
}
