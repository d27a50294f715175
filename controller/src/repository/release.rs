//! A PolicyRepository is being deleted: what becomes of its objects.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use ringfence_compile::policy::ObjectKey;
use ringfence_crds::PolicyRepository;
use ringfence_crds::names::{LABEL_REPOSITORY, MANAGER_GIT};
use ringfence_crds::policy_repository::DeletionPolicy;
use serde_json::{Value, json};

use super::content::ORIGIN;
use super::live::Live;
use super::prune::Prune;
use super::refusal::Refusal;
use super::{Context, Error, kinds, settings};

/// Releases or deletes every object of the repository.
pub(super) async fn all(context: &Context, repository: &PolicyRepository) -> Result<(), Error> {
    release(context, repository).await.map_err(|refusal| match refusal {
        Refusal::Cluster(what, error) => Error::Cluster(what, error),
        other => Error::Release(other.to_string()),
    })?;
    context.fetcher.forget(repository);
    Ok(())
}

async fn release(context: &Context, repository: &PolicyRepository) -> Result<(), Refusal> {
    let client = &context.client;
    let label = settings::label(repository);
    let live = Live::read(client).await.map_err(|error| Refusal::Cluster("read the policy objects", error))?;
    if repository.spec.deletion_policy == DeletionPolicy::Delete {
        let inventory = repository.status.iter().flat_map(|status| &status.inventory);
        let owned: BTreeSet<ObjectKey> = inventory.filter_map(kinds::key).collect();
        let namespaces = namespaces(client).await?;
        let prune = Prune { repository: &label, live: &live, namespaces: &namespaces, wanted: true };
        let (_, notices) = prune.all(client, &owned).await?;
        for notice in notices {
            notice.emit(client).await;
        }
        return Ok(());
    }
    let ours = live.0.iter().filter(|(_, object)| object.labels().get(LABEL_REPOSITORY) == Some(&label));
    for (key, _) in ours {
        orphan(client, key).await?;
    }
    Ok(())
}

/// Takes away what marks the object as ours; what it says stays in force.
async fn orphan(client: &Client, key: &ObjectKey) -> Result<(), Refusal> {
    let annotations: serde_json::Map<String, Value> =
        ORIGIN.iter().map(|annotation| ((*annotation).to_owned(), Value::Null)).collect();
    let patch = json!({ "metadata": { "labels": { LABEL_REPOSITORY: Value::Null }, "annotations": annotations } });
    let params = PatchParams { field_manager: Some(MANAGER_GIT.to_owned()), ..PatchParams::default() };
    match kinds::api_of(client, key).patch(&key.name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Refusal::Cluster("release the objects of the repository", error)),
    }
}

/// The names of the namespaces that live.
pub(super) async fn namespaces(client: &Client) -> Result<BTreeSet<String>, Refusal> {
    let list = Api::<Namespace>::all(client.clone()).list_metadata(&ListParams::default()).await;
    let list = list.map_err(|error| Refusal::Cluster("read the namespaces", error))?;
    Ok(list.into_iter().filter(|one| one.metadata.deletion_timestamp.is_none()).map(|one| one.name_any()).collect())
}
