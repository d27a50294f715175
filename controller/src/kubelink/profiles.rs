//! Namespaces become ContainerWorkloadProfiles.

use ringfence_crds::ContainerWorkloadProfileSpec;
use ringfence_crds::container_cluster::DefaultProfile;
use serde_json::json;

use super::owner;
use crate::engine::world::{World, cluster_wide};
use crate::write::{Operation, Target, Write};

/// What a namespace gets that nobody wrote a profile for.
pub(crate) fn default_spec(default: &DefaultProfile) -> ContainerWorkloadProfileSpec {
    ContainerWorkloadProfileSpec {
        managed: default.managed,
        // An unmanaged namespace has no state: the apiserver would refuse one.
        policy_state: default.policy_state.filter(|_| default.managed),
        visibility: None,
        unprotected_start: None,
        labels: default.labels.clone(),
    }
}

/// Profiles to make, to bring to a changed default, and to delete with their namespace.
pub fn plan(world: &World) -> Vec<Write> {
    let default = world.first_cluster().map(|cluster| cluster.spec.default_profile.clone()).unwrap_or_default();
    let wanted = default_spec(&default);
    let write = |name: &str, operation: Operation| Write {
        target: Target::ContainerWorkloadProfile,
        key: cluster_wide(name),
        operation,
    };
    let missing = world
        .cluster
        .namespaces
        .iter()
        .filter(|(name, info)| !info.terminating && !world.profiles.contains_key(&cluster_wide(name.as_str())));
    let mut writes: Vec<Write> = missing.map(|(name, _)| write(name, owner::create(json!(wanted)))).collect();
    for (key, profile) in &world.profiles {
        if !world.cluster.namespaces.contains_key(&key.name) {
            // A namespace is there until its last Pod is gone, and so is its profile.
            if owner::is_kubelinks(profile) {
                writes.push(write(&key.name, owner::delete(profile)));
            }
        } else if profile.spec != wanted && owner::is_untouched(profile) {
            writes.push(write(&key.name, owner::replace(profile, json!(wanted))));
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
    use ringfence_compile::cluster::NamespaceInfo;
    use ringfence_crds::{ContainerCluster, ContainerClusterSpec, ContainerWorkloadProfile, names};
    use ringfence_model::PolicyState;

    fn world(namespaces: &[(&str, bool)], default: DefaultProfile) -> World {
        let mut world = World::default();
        for (name, terminating) in namespaces {
            let info = NamespaceInfo { uid: format!("uid-{name}"), terminating: *terminating };
            world.cluster.namespaces.insert((*name).to_owned(), info);
        }
        let spec = ContainerClusterSpec { default_profile: default, ..ContainerClusterSpec::default() };
        world.clusters.insert(cluster_wide("this"), ContainerCluster::new("this", spec));
        world
    }
    fn profile(world: &mut World, name: &str, managed: bool, made_by_kubelink: bool, others: &[(&str, &str)]) {
        let spec = ContainerWorkloadProfileSpec { managed, ..ContainerWorkloadProfileSpec::default() };
        let mut profile = ContainerWorkloadProfile::new(name, spec);
        if made_by_kubelink {
            let label = (names::LABEL_CREATED_BY.to_owned(), names::CREATED_BY_KUBELINK.to_owned());
            profile.metadata.labels = Some([label].into());
        }
        let entry = |(manager, operation): &(&str, &str)| ManagedFieldsEntry {
            manager: Some((*manager).to_owned()),
            operation: Some((*operation).to_owned()),
            ..ManagedFieldsEntry::default()
        };
        profile.metadata.managed_fields = Some(others.iter().map(entry).collect());
        world.profiles.insert(cluster_wide(name), profile);
    }
    fn steps(world: &World) -> Vec<String> {
        let verb = |operation: &Operation| match operation {
            Operation::Create(..) => "create",
            Operation::Replace(..) => "replace",
            Operation::Status(_) | Operation::StatusOf(..) => "status",
            Operation::Delete(_) => "delete",
        };
        plan(world).iter().map(|write| format!("{} {}", verb(&write.operation), write.key.name)).collect()
    }

    #[test]
    fn each_namespace_gets_one_and_what_is_there_stays() {
        let mut world = world(&[("a", false), ("b", false), ("leaving", true)], DefaultProfile::default());
        profile(&mut world, "b", true, false, &[("ringfence-git", "Apply")]);
        assert_eq!(steps(&world), ["create a"]);
    }

    #[test]
    fn with_the_namespace_goes_what_kubelink_made() {
        let mut world = world(&[], DefaultProfile::default());
        profile(&mut world, "made", false, true, &[]);
        profile(&mut world, "edited", false, true, &[("kubectl-edit", "Update")]);
        profile(&mut world, "applied", true, true, &[("argocd-controller", "Apply")]);
        profile(&mut world, "client-side", true, true, &[("kubectl-client-side-apply", "Update")]);
        profile(&mut world, "git", true, false, &[("ringfence-git", "Apply")]);
        assert_eq!(steps(&world), ["delete edited", "delete made"]);
    }

    #[test]
    fn a_changed_default_reaches_only_untouched_profiles() {
        let default = DefaultProfile { managed: true, policy_state: Some(PolicyState::Idle), ..Default::default() };
        let mut world = world(&[("a", false), ("b", false), ("c", false)], default);
        profile(&mut world, "a", false, true, &[]);
        profile(&mut world, "b", false, true, &[("kubectl-edit", "Update")]);
        profile(&mut world, "c", false, false, &[]);
        assert_eq!(steps(&world), ["replace a"]);
    }

    #[test]
    fn an_unmanaged_default_has_no_state() {
        let default = DefaultProfile { managed: false, policy_state: Some(PolicyState::Full), ..Default::default() };
        assert_eq!(default_spec(&default).policy_state, None);
    }
}
