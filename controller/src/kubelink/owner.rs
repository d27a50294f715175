//! Whose an object is.

use kube::ResourceExt;
use ringfence_crds::names;
use serde_json::{Value, json};

use crate::write::Operation;

/// Field manager of `kubectl apply` without `--server-side`, which the apiserver records as an update.
const CLIENT_SIDE_APPLY: &str = "kubectl-client-side-apply";

/// Whether a field manager owns by intent what it has written: it applies, or is `kubectl apply`. An edit by hand
/// (`kubectl edit`, `kubectl patch`) makes nobody an owner.
pub fn by_intent(manager: &str, applies: bool) -> bool {
    applies || manager == CLIENT_SIDE_APPLY
}

/// Whether Kubelink made the object and nobody has taken it over: a git repository, or a tool that applies it
/// (kubectl apply, Argo, Flux).
pub fn is_kubelinks(object: &impl ResourceExt) -> bool {
    let labels = object.labels();
    let made = labels.get(names::LABEL_CREATED_BY).is_some_and(|by| by == names::CREATED_BY_KUBELINK);
    let applied = others(object).any(|entry| {
        by_intent(entry.manager.as_deref().unwrap_or_default(), entry.operation.as_deref() == Some("Apply"))
    });
    made && !labels.contains_key(names::LABEL_REPOSITORY) && !applied
}

/// Whether Kubelink made the object and nobody has written its spec since, not even by `kubectl edit`.
pub fn is_untouched(object: &impl ResourceExt) -> bool {
    is_kubelinks(object) && others(object).next().is_none()
}

/// Who else has written the spec; the engine keeps no other entries of the managed fields.
fn others(
    object: &impl ResourceExt,
) -> impl Iterator<Item = &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry> {
    let ours = |manager: Option<&str>| manager == Some(names::MANAGER_KUBELINK);
    object.managed_fields().iter().filter(move |entry| !ours(entry.manager.as_deref()))
}

/// Makes an object with this spec, marked as Kubelink's.
pub fn create(spec: Value) -> Operation {
    let labels = json!({ names::LABEL_CREATED_BY: names::CREATED_BY_KUBELINK });
    Operation::Create(names::MANAGER_KUBELINK, json!({ "metadata": { "labels": labels }, "spec": spec }))
}

/// Gives an object another spec and keeps its labels and annotations.
pub fn replace(object: &impl ResourceExt, spec: Value) -> Operation {
    let metadata = json!({
        "labels": object.labels(),
        "annotations": object.annotations(),
        "resourceVersion": object.resource_version(),
    });
    Operation::Replace(names::MANAGER_KUBELINK, json!({ "metadata": metadata, "spec": spec }))
}

/// Deletes exactly this object.
pub fn delete(object: &impl ResourceExt) -> Operation {
    Operation::Delete(object.uid().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
    use ringfence_crds::{VirtualService, VirtualServiceSpec};

    /// Whether an object is still Kubelink's, and untouched, after somebody else has written its spec.
    fn made_and_then(manager: &str, operation: &str) -> (bool, bool) {
        let mut object = VirtualService::new("x", VirtualServiceSpec::default());
        let label = (names::LABEL_CREATED_BY.to_owned(), names::CREATED_BY_KUBELINK.to_owned());
        object.metadata.labels = Some([label].into());
        let entry = |(manager, operation): (&str, &str)| ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            ..ManagedFieldsEntry::default()
        };
        let entries = [(names::MANAGER_KUBELINK, "Update"), (manager, operation)];
        object.metadata.managed_fields = Some(entries.into_iter().map(entry).collect());
        (is_kubelinks(&object), is_untouched(&object))
    }

    #[test]
    fn who_applies_takes_over_and_who_edits_does_not() {
        assert_eq!(made_and_then("argocd-controller", "Apply"), (false, false));
        assert_eq!(made_and_then("kubectl", "Apply"), (false, false));
        assert_eq!(made_and_then("kubectl-client-side-apply", "Update"), (false, false));
        assert_eq!(made_and_then("kubectl-edit", "Update"), (true, false));
        assert_eq!(made_and_then(names::MANAGER_KUBELINK, "Update"), (true, true));
    }
}
