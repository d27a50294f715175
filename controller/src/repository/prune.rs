//! Objects that are gone from git.

use std::collections::BTreeSet;

use kube::api::{DeleteParams, DynamicObject, Preconditions};
use kube::{Client, Resource, ResourceExt};
use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_crds::container_cluster::DefaultProfile;
use ringfence_crds::names::{CLUSTER, CREATED_BY_KUBELINK, LABEL_CREATED_BY, LABEL_REPOSITORY, MANAGER_KUBELINK};
use ringfence_crds::{ContainerClusterSpec, ContainerWorkloadProfileSpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::content::ORIGIN;
use super::events::Notice;
use super::kinds;
use super::live::Live;
use super::refusal::Refusal;

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
    /// The apiserver.
    pub(super) client: &'p Client,
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
    pub(super) async fn all(&self, gone: &BTreeSet<ObjectKey>) -> Result<(Vec<ObjectKey>, Vec<Notice>), Refusal> {
        let mut kept = Vec::new();
        let mut notices = Vec::new();
        for key in gone {
            let Some(object) = self.live.get(key) else { continue };
            match self.fate(key, object) {
                Fate::Forget => {}
                Fate::Keep => kept.push(key.clone()),
                Fate::Delete => self.delete(key, object).await?,
                Fate::HandBack(spec) => {
                    self.hand_back(key, object, &spec).await?;
                    notices.extend(returned(key, object));
                }
            }
        }
        Ok((kept, notices))
    }

    fn fate(&self, key: &ObjectKey, object: &DynamicObject) -> Fate {
        if object.labels().get(LABEL_REPOSITORY).is_none_or(|label| label != self.repository) {
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

    async fn delete(&self, key: &ObjectKey, object: &DynamicObject) -> Result<(), Refusal> {
        let params =
            DeleteParams::default().preconditions(Preconditions { uid: object.uid(), ..Preconditions::default() });
        match kinds::api_of(self.client, key).delete(&key.name, &params).await {
            Ok(_) => tracing::info!(object = %key, "deleted: it is gone from git"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Refusal::Cluster("delete what is gone from git", error)),
        }
        Ok(())
    }

    async fn hand_back(&self, key: &ObjectKey, object: &DynamicObject, spec: &Value) -> Result<(), Refusal> {
        let labels = |label| kinds::pointer("/metadata/labels", label);
        let mut operations = vec![
            json!({ "op": "test", "path": "/metadata/uid", "value": object.uid() }),
            json!({ "op": "remove", "path": labels(LABEL_REPOSITORY) }),
            json!({ "op": "add", "path": labels(LABEL_CREATED_BY), "value": CREATED_BY_KUBELINK }),
            json!({ "op": "add", "path": "/spec", "value": spec }),
        ];
        operations.push(json!({ "op": "add", "path": "/metadata/managedFields", "value": without_writers(object) }));
        let origin = ORIGIN.iter().filter(|annotation| object.annotations().contains_key(**annotation));
        operations.extend(
            origin.map(
                |annotation| json!({ "op": "remove", "path": kinds::pointer("/metadata/annotations", annotation) }),
            ),
        );
        kinds::patch(self.client, key, MANAGER_KUBELINK, operations, false)
            .await
            .map_err(|error| Refusal::Cluster("give back what is gone from git", error))?;
        tracing::info!(object = %key, "returned to the default: it is gone from git");
        Ok(())
    }
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
    let cluster = live.get(&ObjectKey::cluster_wide(Kind::ContainerCluster, CLUSTER));
    let spec = cluster.and_then(|object| ContainerClusterSpec::deserialize(object.data.get("spec")?).ok());
    let DefaultProfile { managed, policy_state, labels } = spec.unwrap_or_default().default_profile;
    ContainerWorkloadProfileSpec { managed, policy_state, labels, visibility: None }
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
