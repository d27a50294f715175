//! Services of managed namespaces become VirtualServices.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_compile::compile::Computed;
use ringfence_crds::{VirtualService, VirtualServiceSpec, VirtualServiceStatus};
use serde_json::json;

use super::owner;
use crate::engine::world::World;
use crate::status::Ready;
use crate::write::{Operation, Target, Write};

/// VirtualServices to make, to report on, and to delete with their Service or when their namespace is not managed any
/// more.
pub fn plan(world: &World, computed: &Computed, now: &Time) -> Vec<Write> {
    let mut writes = Vec::new();
    for key in computed.virtual_services.keys() {
        let leaving = world.cluster.namespaces.get(&key.namespace).is_none_or(|info| info.terminating);
        if !leaving && !world.virtual_services.contains_key(key) {
            let operation = owner::create(json!(VirtualServiceSpec::default()));
            writes.push(Write { target: Target::VirtualService, key: key.clone(), operation });
        }
    }
    for (key, service) in &world.virtual_services {
        let found = computed.virtual_services.get(key);
        let operation = if found.is_none() && owner::is_kubelinks(service) {
            Some(owner::delete(service))
        } else {
            let warnings = computed.service_warnings.get(key).map_or(&[][..], Vec::as_slice);
            let status = status(service, found, warnings, now);
            (service.status.as_ref() != Some(&status)).then(|| Operation::Status(json!(status)))
        };
        writes.extend(operation.map(|operation| Write { target: Target::VirtualService, key: key.clone(), operation }));
    }
    writes
}

fn status(
    service: &VirtualService,
    found: Option<&VirtualServiceStatus>,
    warnings: &[String],
    now: &Time,
) -> VirtualServiceStatus {
    let ready = match (found, warnings) {
        (None, _) => Ready::no("NoService", "there is no such Service in a managed namespace"),
        (Some(_), []) => Ready::yes("Linked", "linked with its Service"),
        (Some(_), warnings) => Ready::yes("Linked", warnings.join("; ")),
    };
    let previous = service.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = service.metadata.generation;
    VirtualServiceStatus {
        observed_generation: generation,
        conditions: ready.conditions(previous, generation, now),
        ..found.cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_compile::cluster::NamespaceInfo;
    use ringfence_crds::common::NamespacedName;
    use ringfence_crds::names;

    fn key(name: &str) -> NamespacedName {
        NamespacedName { namespace: "shop".to_owned(), name: name.to_owned() }
    }
    fn add(world: &mut World, name: &str, made_by_kubelink: bool) {
        let mut service = VirtualService::new(name, VirtualServiceSpec::default());
        if made_by_kubelink {
            let label = (names::LABEL_CREATED_BY.to_owned(), names::CREATED_BY_KUBELINK.to_owned());
            service.metadata.labels = Some([label].into());
        }
        world.virtual_services.insert(key(name), service);
    }

    #[test]
    fn they_come_and_go_with_their_services() {
        let mut world = World::default();
        world.cluster.namespaces.insert("shop".to_owned(), NamespaceInfo::default());
        let mut computed = Computed::default();
        computed.virtual_services.insert(key("new"), VirtualServiceStatus::default());
        computed.virtual_services.insert(key("known"), VirtualServiceStatus::default());
        add(&mut world, "known", true);
        add(&mut world, "gone", true);
        add(&mut world, "written-by-hand", false);
        let now = Time(Timestamp::UNIX_EPOCH);
        let steps: Vec<String> = plan(&world, &computed, &now).iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "create VirtualService shop/new",
                "delete VirtualService shop/gone",
                "report VirtualService shop/known",
                "report VirtualService shop/written-by-hand"
            ]
        );
        world.cluster.namespaces.insert("shop".to_owned(), NamespaceInfo { terminating: true, ..Default::default() });
        let steps = plan(&world, &computed, &now);
        assert!(!steps.iter().any(|write| write.key.name == "new"), "a leaving namespace takes nothing new");
    }

    #[test]
    fn one_without_a_service_is_not_ready() {
        let service = VirtualService::new("x", VirtualServiceSpec::default());
        let status = status(&service, None, &[], &Time(Timestamp::UNIX_EPOCH));
        assert_eq!(status.conditions[0].reason, "NoService");
    }
}
