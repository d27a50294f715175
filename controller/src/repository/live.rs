//! The policy objects that live in the cluster, read once per round.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use kube::api::{DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use ringfence_compile::policy::{Kind, ObjectKey};

use super::kinds;

/// Objects by key.
#[derive(Debug, Default)]
pub(super) struct Live(pub(super) BTreeMap<ObjectKey, DynamicObject>);

impl Live {
    /// Reads every object of every kind that may come from git.
    pub(super) async fn read(client: &Client) -> Result<Self, kube::Error> {
        let lists = kinds::ORDER.map(|kind| list(client, kind));
        Ok(Self(try_join_all(lists).await?.into_iter().flatten().collect()))
    }

    /// The object, if it lives.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&DynamicObject> {
        self.0.get(key)
    }
}

async fn list(client: &Client, kind: Kind) -> Result<Vec<(ObjectKey, DynamicObject)>, kube::Error> {
    let objects = kinds::api(client, kind, None).list(&ListParams::default()).await?;
    Ok(objects
        .into_iter()
        .map(|object| {
            let key = ObjectKey { kind, namespace: object.namespace(), name: object.name_any() };
            (key, object)
        })
        .collect())
}
