//! Services of managed namespaces become VirtualServices.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_compile::compile::Computed;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::{VirtualService, VirtualServiceSpec, VirtualServiceStatus};
use serde_json::json;

use super::owner;
use crate::engine::chores::due::seen;
use crate::engine::world::World;
use crate::status::Ready;
use crate::write::{Operation, Target, Write};

/// VirtualServices to make, to report on, and to delete with their Service; or when their namespace is not managed any
/// more, if nobody has written in them: that would be lost when it is managed again. Looked at are these, or all.
pub fn plan(world: &World, computed: &Computed, look: Option<&BTreeSet<NamespacedName>>, now: &Time) -> Vec<Write> {
    let mut writes = Vec::new();
    for (key, _) in seen(&computed.virtual_services, look) {
        let leaving = world.cluster.namespaces.get(&key.namespace).is_none_or(|info| info.terminating);
        if !leaving && !world.virtual_services.contains_key(key) {
            let operation = owner::create(json!(VirtualServiceSpec::default()));
            writes.push(Write { target: Target::VirtualService, key: key.clone(), operation });
        }
    }
    for (key, service) in seen(&world.virtual_services, look) {
        let found = computed.virtual_services.get(key);
        let useless = match (found, world.cluster.services.contains_key(key)) {
            (Some(_), _) => false,
            (None, false) => owner::is_kubelinks(service),
            (None, true) => owner::is_untouched(service),
        };
        let operation = if useless {
            Some(owner::delete(service))
        } else {
            let warnings = computed.service_warnings.get(key).map_or(&[][..], Vec::as_slice);
            let ready = ready(found, computed.hidden_sources.get(key), warnings);
            let status = status(service, found, &ready, now);
            (service.status.as_ref() != Some(&status)).then(|| Operation::Status(json!(status)))
        };
        writes.extend(operation.map(|operation| Write { target: Target::VirtualService, key: key.clone(), operation }));
    }
    writes
}

fn ready(found: Option<&VirtualServiceStatus>, hidden: Option<&String>, warnings: &[String]) -> Ready {
    if found.is_none() {
        return Ready::no("NoService", "there is no such Service in a managed namespace");
    }
    if let Some(hidden) = hidden {
        let all: Vec<&str> = [hidden].into_iter().chain(warnings).map(String::as_str).collect();
        return Ready::no("SourceHidden", all.join("; "));
    }
    match warnings {
        [] => Ready::yes("Linked", "linked with its Service"),
        warnings => Ready::yes("Linked", warnings.join("; ")),
    }
}

fn status(
    service: &VirtualService,
    found: Option<&VirtualServiceStatus>,
    ready: &Ready,
    now: &Time,
) -> VirtualServiceStatus {
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
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_compile::cluster::{NamespaceInfo, ServiceInfo};
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
        let steps: Vec<String> = plan(&world, &computed, None, &now).iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "create VirtualService shop/new",
                "delete VirtualService shop/gone",
                "report VirtualService shop/known",
                "report VirtualService shop/written-by-hand"
            ]
        );
        let one = BTreeSet::from([key("gone")]);
        let steps: Vec<String> = plan(&world, &computed, Some(&one), &now).iter().map(ToString::to_string).collect();
        assert_eq!(steps, ["delete VirtualService shop/gone"], "the others are not looked at");
        world.cluster.namespaces.insert("shop".to_owned(), NamespaceInfo { terminating: true, ..Default::default() });
        let steps = plan(&world, &computed, None, &now);
        assert!(!steps.iter().any(|write| write.key.name == "new"), "a leaving namespace takes nothing new");
    }

    #[test]
    fn one_without_a_service_is_not_ready() {
        assert_eq!(ready(None, None, &[]).reason, "NoService");
    }

    #[test]
    fn one_whose_outside_is_not_opened_is_not_ready_and_says_what_helps() {
        let found = VirtualServiceStatus::default();
        let hidden = "nodePort 30080 is not opened: set externalTrafficPolicy: Local".to_owned();
        let warnings = ["externalIP 192.0.2.1 is not opened".to_owned()];
        let ready = ready(Some(&found), Some(&hidden), &warnings);
        assert!(!ready.ready);
        assert_eq!(ready.reason, "SourceHidden");
        assert_eq!(ready.message, format!("{hidden}; {}", warnings[0]));
    }

    #[test]
    fn what_somebody_wrote_outlives_an_unmanaged_namespace_but_not_its_service() {
        let mut world = World::default();
        for name in ["untouched", "edited", "edited-gone"] {
            add(&mut world, name, true);
        }
        for name in ["edited", "edited-gone"] {
            let edit = ManagedFieldsEntry {
                manager: Some("kubectl-edit".to_owned()),
                operation: Some("Update".to_owned()),
                ..ManagedFieldsEntry::default()
            };
            let service = world.virtual_services.get_mut(&key(name)).expect("added above");
            service.metadata.managed_fields = Some(vec![edit]);
        }
        for name in ["untouched", "edited"] {
            world.cluster.services.insert(key(name), ServiceInfo::default());
        }
        let steps = plan(&world, &Computed::default(), None, &Time(Timestamp::UNIX_EPOCH));
        let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "report VirtualService shop/edited",
                "delete VirtualService shop/edited-gone",
                "delete VirtualService shop/untouched"
            ]
        );
    }
}
