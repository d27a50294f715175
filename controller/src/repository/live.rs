//! The policy objects that live in the cluster, read once per round.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use kube::api::{DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_crds::names::LABEL_REPOSITORY;

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

    /// The ContainerCluster that counts: the oldest one, as for the engine.
    pub(super) fn first_cluster(&self) -> Option<&DynamicObject> {
        let clusters = self.0.iter().filter(|(key, _)| key.kind == Kind::ContainerCluster);
        clusters.map(|(_, object)| object).min_by_key(|object| (object.creation_timestamp(), object.name_any()))
    }

    /// What a commit may refer to although it does not hold it: what is not this repository's, and, unless that is
    /// pruned, what is and stays when it is gone from git.
    pub(super) fn beside_commit(
        &self,
        repository: &str,
        owned: &BTreeSet<ObjectKey>,
        prunes: bool,
    ) -> BTreeSet<ObjectKey> {
        let labelled =
            |object: &DynamicObject| object.labels().get(LABEL_REPOSITORY).is_some_and(|by| by == repository);
        let stays = |key: &ObjectKey, object: &DynamicObject| !prunes || !(labelled(object) || owned.contains(key));
        self.0.iter().filter(|(key, object)| stays(key, object)).map(|(key, _)| key.clone()).collect()
    }

    /// The IPLists of these that have names.
    pub(super) fn lists_with_names(&self, keys: &BTreeSet<ObjectKey>) -> BTreeSet<String> {
        let named = |key: &&ObjectKey| {
            let names = self.get(key).and_then(|object| object.data.pointer("/spec/fqdns")?.as_array());
            key.kind == Kind::IpList && names.is_some_and(|names| !names.is_empty())
        };
        keys.iter().filter(named).map(|key| key.name.clone()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(name: &str) -> ObjectKey {
        ObjectKey::cluster_wide(Kind::IpList, name)
    }

    #[test]
    fn a_commit_may_refer_to_what_stays_beside_it() {
        let object = |name: &str, labels: &[(&str, &str)]| {
            let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
            let object = json!({ "apiVersion": "ringfence.dev/v1alpha1", "kind": "IPList",
                "metadata": { "name": name, "labels": labels }, "spec": {} });
            (list(name), serde_json::from_value(object).expect("an object"))
        };
        let live = Live(
            [
                object("free", &[]),
                object("theirs", &[("policy.ringfence.dev/repository", "team.other")]),
                object("ours", &[("policy.ringfence.dev/repository", "team.policy")]),
                object("unlabelled", &[]),
            ]
            .into(),
        );
        let owned = BTreeSet::from([list("ours"), list("unlabelled"), list("not-alive")]);
        let beside = |prunes| live.beside_commit("team.policy", &owned, prunes);
        assert_eq!(beside(true), BTreeSet::from(["free", "theirs"].map(list)));
        assert_eq!(beside(false), BTreeSet::from(["free", "theirs", "ours", "unlabelled"].map(list)), "it is kept");
    }

    #[test]
    fn lists_with_names_are_told_from_others() {
        let object = |name: &str, fqdns: &[&str]| {
            let object = json!({ "apiVersion": "ringfence.dev/v1alpha1", "kind": "IPList",
                "metadata": { "name": name }, "spec": { "fqdns": fqdns } });
            (list(name), serde_json::from_value(object).expect("an object"))
        };
        let live = Live(
            [object("named", &["a.example.com"]), object("other", &["b.example.com"]), object("plain", &[])].into(),
        );
        let asked = BTreeSet::from(["named", "plain", "gone"].map(list));
        assert_eq!(live.lists_with_names(&asked), BTreeSet::from(["named".to_owned()]));
    }
}
