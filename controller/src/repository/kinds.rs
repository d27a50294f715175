//! The kinds that may come from git, as the apiserver knows them.

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_crds as crds;
use ringfence_crds::names::{GROUP, VERSION};
use ringfence_crds::policy_repository::InventoryEntry;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The kinds in the order they are applied: what is referred to comes before what refers to it, and the rules before
/// the profiles, whose states enforce them. A PolicyRepository is not among them: whoever writes to a repository must
/// not thereby name Secrets and addresses for the controller.
pub(super) const ORDER: [Kind; 8] = [
    Kind::LabelGroup,
    Kind::IpList,
    Kind::ServiceDefinition,
    Kind::Workload,
    Kind::ContainerCluster,
    Kind::VirtualService,
    Kind::RuleSet,
    Kind::ContainerWorkloadProfile,
];

/// How the apiserver names the kind.
pub(super) fn resource(kind: Kind) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind.as_str()), kind.plural())
}

/// The interface to objects of the kind, in the namespace if the kind has any.
pub(super) fn api(client: &Client, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(kind)),
        None => Api::all_with(client.clone(), &resource(kind)),
    }
}

/// The interface to one object.
pub(super) fn api_of(client: &Client, key: &ObjectKey) -> Api<DynamicObject> {
    api(client, key.kind, key.namespace.as_deref())
}

/// Changes an object by JSON Patch, in the name of a field manager.
pub(super) async fn patch(
    client: &Client,
    key: &ObjectKey,
    manager: &str,
    operations: Vec<Value>,
    dry_run: bool,
) -> Result<DynamicObject, kube::Error> {
    let patch = serde_json::from_value(Value::Array(operations)).map_err(kube::Error::SerdeError)?;
    let params = PatchParams { field_manager: Some(manager.to_owned()), dry_run, ..PatchParams::default() };
    api_of(client, key).patch(&key.name, &params, &Patch::Json::<()>(patch)).await
}

/// The JSON pointer to a key of a map.
pub(super) fn pointer(map: &str, key: &str) -> String {
    format!("{map}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// A spec with every default filled in and nothing that says nothing, so that two of them can be compared; none when
/// it is no spec of that kind.
pub(super) fn normal(kind: Kind, spec: &Value) -> Option<Value> {
    match kind {
        Kind::ContainerCluster => through::<crds::ContainerClusterSpec>(spec),
        Kind::ContainerWorkloadProfile => through::<crds::ContainerWorkloadProfileSpec>(spec),
        Kind::VirtualService => through::<crds::VirtualServiceSpec>(spec),
        Kind::Workload => through::<crds::WorkloadSpec>(spec),
        Kind::RuleSet => through::<crds::RuleSetSpec>(spec),
        Kind::IpList => through::<crds::IpListSpec>(spec),
        Kind::LabelGroup => through::<crds::LabelGroupSpec>(spec),
        Kind::ServiceDefinition => through::<crds::ServiceDefinitionSpec>(spec),
        Kind::PolicyRepository => through::<crds::PolicyRepositorySpec>(spec),
    }
}

fn through<S: Serialize + DeserializeOwned>(spec: &Value) -> Option<Value> {
    serde_json::to_value(S::deserialize(spec).ok()?).ok()
}

/// The entry of an inventory.
pub(super) fn entry(key: &ObjectKey) -> InventoryEntry {
    InventoryEntry { kind: key.kind.as_str().to_owned(), namespace: key.namespace.clone(), name: key.name.clone() }
}

/// The object that an inventory's entry names; none for a kind that no longer exists.
pub(super) fn key(entry: &InventoryEntry) -> Option<ObjectKey> {
    let kind = ORDER.into_iter().find(|kind| kind.as_str() == entry.kind)?;
    Some(ObjectKey { kind, namespace: entry.namespace.clone(), name: entry.name.clone() })
}
