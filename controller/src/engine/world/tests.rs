//! What changes make necessary.

use super::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_compile::cluster::{EndpointInfo, EndpointSliceInfo, NamespaceInfo, NodeInfo, PodInfo, ServiceInfo};
use ringfence_compile::compile::Input as Mark;
use ringfence_crds::container_workload_profile::ContainerWorkloadProfileStatus;
use ringfence_crds::{ContainerWorkloadProfile, ContainerWorkloadProfileSpec, WorkloadPolicy, WorkloadPolicySpec};

fn profile(version: u64, managed: bool) -> ContainerWorkloadProfile {
    let spec = ContainerWorkloadProfileSpec { managed, ..ContainerWorkloadProfileSpec::default() };
    let mut profile = ContainerWorkloadProfile::new("shop", spec);
    profile.metadata.resource_version = Some(version.to_string());
    profile
}
fn applied<T>(name: &str, value: T) -> Change<T> {
    Change::Applied(cluster_wide(name), value)
}
fn take_profile(world: &mut World, profile: ContainerWorkloadProfile) -> Effect {
    world.take(Input::Profile(applied("shop", profile)))
}

#[test]
fn a_spec_is_policy_and_a_status_is_not() {
    let mut world = World::default();
    assert_eq!(take_profile(&mut world, profile(1, false)), Effect::Compile);
    assert_eq!(take_profile(&mut world, profile(1, false)), Effect::Nothing);
    let mut reported = profile(2, false);
    reported.status = Some(ContainerWorkloadProfileStatus::default());
    assert_eq!(take_profile(&mut world, reported), Effect::Chores);
    assert_eq!(take_profile(&mut world, profile(3, true)), Effect::Compile);
    assert_eq!(world.take(Input::Profile(Change::Deleted(cluster_wide("shop")))), Effect::Compile);
    assert_eq!(world.take(Input::Profile(Change::Deleted(cluster_wide("shop")))), Effect::Nothing);
}

#[test]
fn a_watch_that_lags_behind_our_own_write_is_ignored() {
    let mut world = World::default();
    take_profile(&mut world, profile(100, true));
    assert_eq!(take_profile(&mut world, profile(99, false)), Effect::Nothing);
    assert!(world.profiles[&cluster_wide("shop")].spec.managed);
}

#[test]
fn a_computed_object_that_somebody_touches_is_published_again() {
    let mut world = World::default();
    let policy = |version: &str, scope: &str| {
        let spec = WorkloadPolicySpec { scope: scope.to_owned(), ..WorkloadPolicySpec::default() };
        let mut policy = WorkloadPolicy::new("shop-1", spec);
        policy.metadata.resource_version = Some(version.to_owned());
        policy
    };
    let take = |world: &mut World, change| world.take(Input::WorkloadPolicy(change));
    assert_eq!(take(&mut world, applied("shop-1", policy("1", "everything"))), Effect::Publish);
    assert_eq!(take(&mut world, applied("shop-1", policy("2", "everything"))), Effect::Chores);
    assert_eq!(take(&mut world, applied("shop-1", policy("3", "edited"))), Effect::Publish);
    let mut labelled = policy("4", "edited");
    labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    assert_eq!(take(&mut world, applied("shop-1", labelled)), Effect::Publish);
    assert_eq!(take(&mut world, Change::Deleted(cluster_wide("shop-1"))), Effect::Publish);
}

#[test]
fn a_pod_that_says_the_same_again_changes_nothing() {
    let mut world = World::default();
    let key = NamespacedName { namespace: "shop".to_owned(), name: "web".to_owned() };
    let pod = |address: &str| {
        let ips = vec![address.parse().expect("a literal of the test")];
        Input::Pod(Change::Applied(key.clone(), PodInfo { ips, ..PodInfo::default() }))
    };
    assert_eq!(world.take(pod("10.0.0.1")), Effect::Compile);
    assert_eq!(world.take(pod("10.0.0.1")), Effect::Nothing);
    assert_eq!(world.take(pod("10.0.0.2")), Effect::Compile);
    assert_eq!(world.take(Input::Pod(Change::Listed(BTreeMap::new()))), Effect::Compile, "missed deletions count");
}

/// What is not marked is not compiled again.
#[test]
fn whatever_is_to_be_compiled_is_marked() {
    let key = |name: &str| NamespacedName { namespace: "default".to_owned(), name: name.to_owned() };
    let slice = EndpointSliceInfo {
        service: Some("kubernetes".to_owned()),
        endpoints: vec![EndpointInfo { addresses: vec!["192.0.2.1".parse().expect("a literal")], target_pod: None }],
        ports: Vec::new(),
    };
    let mut node_policy = crds::NodePolicy::new("n1", crds::NodePolicySpec::default());
    let node_addresses = vec!["192.0.2.7".to_owned()];
    node_policy.status = Some(crds::NodePolicyStatus { node_addresses, ..Default::default() });
    let changes: Vec<(Input, Vec<Mark>)> = vec![
        (Input::Node(applied("n1", NodeInfo::default())), vec![Mark::Node("n1".to_owned())]),
        (Input::NodePolicy(applied("n1", node_policy)), vec![Mark::Node("n1".to_owned())]),
        (Input::Pod(Change::Applied(key("web"), PodInfo::default())), vec![Mark::Pod(key("web"))]),
        (Input::Pod(Change::Deleted(key("web"))), vec![Mark::Pod(key("web"))]),
        (Input::Service(Change::Applied(key("db"), ServiceInfo::default())), vec![Mark::Service(key("db"))]),
        (Input::EndpointSlice(Change::Applied(key("e"), slice)), vec![Mark::Apiserver, Mark::EndpointSlice(key("e"))]),
        (Input::Owner("ReplicaSet", Change::Applied(key("rs"), None)), vec![Mark::Owners("default".to_owned())]),
        (Input::Caller(Caller::ApiService, applied("x", vec![(key("hook"), 443)])), vec![Mark::WebhookServices]),
    ];
    let mut world = World::default();
    for (input, marks) in changes {
        let text = format!("{input:?}");
        assert_eq!(world.take(input), Effect::Compile, "{text}");
        let mut expected = Dirty::default();
        marks.into_iter().for_each(|mark| expected.mark(mark));
        assert_eq!(std::mem::take(&mut world.dirty), expected, "{text}");
        assert!(!world.policy_changed, "{text}");
    }
    take_profile(&mut world, profile(1, true));
    assert!(std::mem::take(&mut world.policy_changed));
    for input in [
        Input::Pod(Change::Listed(BTreeMap::from([(key("new"), PodInfo::default())]))),
        Input::ServiceRange(applied("kubernetes", vec!["10.96.0.0/16".to_owned()])),
    ] {
        world.take(input);
        assert_eq!(std::mem::take(&mut world.dirty), Dirty::everything());
    }
}

#[test]
fn the_cluster_is_known_by_kube_system() {
    let mut world = World::default();
    let info = NamespaceInfo { uid: "uid".to_owned(), terminating: false };
    world.take(Input::Namespace(applied(KUBE_SYSTEM, info)));
    assert_eq!(world.cluster.uid, "uid");
    assert!(!world.is_complete(), "nothing has been listed");
}

#[test]
fn services_that_the_apiserver_calls_are_collected_over_all_callers() {
    let mut world = World::default();
    let service = NamespacedName { namespace: "ops".to_owned(), name: "hook".to_owned() };
    let caller = |caller, port| Input::Caller(caller, applied("x", vec![(service.clone(), port)]));
    assert_eq!(world.take(caller(Caller::ValidatingWebhookConfiguration, 443)), Effect::Compile);
    assert_eq!(world.take(caller(Caller::MutatingWebhookConfiguration, 443)), Effect::Nothing);
    assert_eq!(world.take(caller(Caller::ApiService, 8443)), Effect::Compile);
    let gone = Input::Caller(Caller::ValidatingWebhookConfiguration, Change::Deleted(cluster_wide("x")));
    assert_eq!(world.take(gone), Effect::Nothing, "the mutating one still calls it");
    assert_eq!(world.cluster.webhook_services[&service], BTreeSet::from([443, 8443]));
}

#[test]
fn the_oldest_container_cluster_gives_the_settings() {
    let mut world = World::default();
    for (name, created, management) in [
        ("young", "2026-03-01T10:00:00Z", crds::container_cluster::Management::Cloud),
        ("zold", "2026-02-01T10:00:00Z", crds::container_cluster::Management::SelfManaged),
    ] {
        let spec = crds::ContainerClusterSpec { management, ..crds::ContainerClusterSpec::default() };
        let mut cluster = crds::ContainerCluster::new(name, spec);
        cluster.metadata.creation_timestamp = Some(Time(created.parse().expect("a literal of the test")));
        world.take(Input::Cluster(applied(name, cluster)));
    }
    assert_eq!(world.policy().cluster.management, crds::container_cluster::Management::SelfManaged);
}

fn written(repository: Option<&str>, commit: Option<&str>) -> ObjectMeta {
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    ObjectMeta {
        name: Some("office".to_owned()),
        labels: repository.map(|name| pair(names::LABEL_REPOSITORY, name)),
        annotations: commit.map(|commit| pair(names::ANNOTATION_COMMIT, commit)),
        ..ObjectMeta::default()
    }
}

#[test]
fn a_change_of_policy_is_known_by_its_commit() {
    let commits = Commits::default();
    let mut world = World::new(crds::container_cluster::Management::SelfManaged, commits.clone());
    let list = |repository, commit| {
        let mut list = crds::IpList::new("office", crds::IpListSpec::default());
        list.metadata = written(repository, commit);
        Input::IpList(applied("office", list))
    };
    world.take(list(Some("ops.policy"), Some("aaaa")));
    assert_eq!(world.commit.as_deref(), Some("aaaa"), "that of an IPList counts as much as that of a RuleSet");
    commits.note("ops.policy", "bbbb");
    world.take(Input::IpList(Change::Deleted(cluster_wide("office"))));
    assert_eq!(world.commit.as_deref(), Some("bbbb"), "what is gone went by the commit that its repository is at");
    world.commit = None;
    world.take(Input::IpList(Change::Deleted(cluster_wide("office"))));
    world.take(list(None, None));
    assert_eq!(world.commit, None, "nothing was there, and then it was written by hand");
}

fn reports(version: &str, addresses: &[&str]) -> Input {
    let mut policy = crds::NodePolicy::new("node1", crds::NodePolicySpec::default());
    policy.metadata.resource_version = Some(version.to_owned());
    let node_addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
    policy.status = Some(crds::NodePolicyStatus { node_addresses, ..crds::NodePolicyStatus::default() });
    Input::NodePolicy(applied("node1", policy))
}

#[test]
fn a_node_is_known_by_the_addresses_that_its_agent_reports() {
    let mut world = World::default();
    let node = || Input::Node(applied("node1", NodeInfo { machine_id: "1".to_owned(), ..NodeInfo::default() }));
    let known =
        |world: &World| world.cluster.nodes["node1"].reported.iter().map(ToString::to_string).collect::<Vec<_>>();
    world.take(node());
    assert_eq!(world.take(reports("1", &["10.244.0.1", "no address"])), Effect::Compile);
    assert_eq!(known(&world), ["10.244.0.1"]);
    assert_eq!(world.take(reports("2", &["10.244.0.1"])), Effect::Chores, "a report that says the same");
    assert_eq!(world.take(node()), Effect::Nothing, "Kubernetes says nothing about it");
    assert_eq!(world.take(reports("3", &["10.244.0.1", "10.244.0.0"])), Effect::Compile);
    world.take(Input::Node(Change::Listed([(cluster_wide("node1"), NodeInfo::default())].into())));
    assert_eq!(known(&world), ["10.244.0.0", "10.244.0.1"]);
    assert_eq!(world.take(Input::NodePolicy(Change::Deleted(cluster_wide("node1")))), Effect::Compile);
    assert!(known(&world).is_empty());
}

#[test]
fn a_node_seals_when_its_agent_says_so() {
    let mut world = World::default();
    world.take(says_of_its_gate("1", Some("first"), true));
    world.take(booted("first"));
    assert!(world.cluster.nodes["node1"].seals, "it had said so before the node was known");
    world.dirty = Dirty::default();
    assert_eq!(world.take(says_of_its_gate("2", Some("first"), false)), Effect::Compile);
    assert!(!world.cluster.nodes["node1"].seals);
    let mut expected = Dirty::default();
    expected.mark(Mark::Node("node1".to_owned()));
    assert_eq!(world.dirty, expected);
}

/// Rules do not outlive the kernel, and what an agent has said of them is still there.
#[test]
fn a_node_that_was_started_anew_does_not_seal_before_its_agent_says_so_again() {
    let mut world = World::default();
    let seals = |world: &World| world.cluster.nodes["node1"].seals;
    world.take(booted("first"));
    world.take(says_of_its_gate("1", Some("first"), true));
    assert!(seals(&world));
    assert_eq!(world.take(booted("second")), Effect::Compile);
    assert!(!seals(&world), "its agent is not there yet");
    world.take(says_of_its_gate("2", Some("second"), true));
    assert!(seals(&world));
    world.take(says_of_its_gate("3", None, true));
    assert!(!seals(&world), "nobody knows when it was");
    world.take(booted(""));
    world.take(says_of_its_gate("4", Some("second"), true));
    assert!(!seals(&world), "Kubernetes does not say which boot it is");
}

fn booted(boot_id: &str) -> Input {
    Input::Node(applied("node1", NodeInfo { boot_id: boot_id.to_owned(), ..NodeInfo::default() }))
}

fn says_of_its_gate(version: &str, boot_id: Option<&str>, seals: bool) -> Input {
    let mut policy = crds::NodePolicy::new("node1", crds::NodePolicySpec::default());
    policy.metadata.resource_version = Some(version.to_owned());
    let boot_id = boot_id.map(str::to_owned);
    policy.status = Some(crds::NodePolicyStatus { seals, boot_id, ..crds::NodePolicyStatus::default() });
    Input::NodePolicy(applied("node1", policy))
}

#[test]
fn that_a_node_is_ready_compiles_nothing() {
    let mut world = World::default();
    let node = |ready, machine_id: &str| {
        Input::Node(applied("node1", NodeInfo { ready, machine_id: machine_id.to_owned(), ..NodeInfo::default() }))
    };
    assert_eq!(world.take(node(true, "1")), Effect::Compile, "it is new");
    assert_eq!(world.take(node(true, "1")), Effect::Nothing, "a heartbeat");
    assert_eq!(world.take(node(false, "1")), Effect::Chores);
    assert!(!world.cluster.nodes["node1"].ready);
    assert_eq!(world.take(node(true, "2")), Effect::Compile);
}

#[test]
fn ranges_of_cluster_ips_are_known_to_the_compiler() {
    let mut world = World::default();
    let ranges = |text: &str| Input::ServiceRange(applied("kubernetes", vec![text.to_owned()]));
    assert_eq!(world.take(ranges("10.96.0.0/12")), Effect::Compile);
    assert_eq!(world.take(ranges("10.96.0.0/12")), Effect::Nothing);
    assert_eq!(world.cluster.service_ranges, ["10.96.0.0/12".parse().expect("a literal of the test")]);
}

/// What is not looked at is not published again.
#[test]
fn what_publishing_looks_at() {
    use crate::publish::Look;
    use ringfence_crds::node_policy::NodePolicyStatus;
    use ringfence_crds::{AddressGroup, AddressGroupSpec, NodePolicy, NodePolicySpec};

    let mut world = World::default();
    assert_eq!(world.look, Look::Everything, "after a start");
    let mut seen = |input: Input| {
        world.look = Look::nowhere();
        world.take(input);
        world.look.clone()
    };
    let at = |kind: fn(&mut crate::publish::look::Names) -> &mut BTreeSet<String>, name: &str| {
        let mut look = Look::nowhere();
        look.add(Some(&cluster_wide(name)), kind);
        look
    };
    let group = |class: &str| {
        let spec = AddressGroupSpec { class: class.to_owned(), ..AddressGroupSpec::default() };
        Input::AddressGroup(applied("c-1-0", AddressGroup::new("c-1-0", spec)))
    };
    let groups = at(|names| &mut names.address_groups, "c-1-0");
    assert_eq!(seen(group("c-1")), groups, "it is new");
    assert_eq!(seen(group("c-1")), Look::nowhere(), "the same again");
    assert_eq!(seen(group("edited")), groups);
    assert_eq!(seen(Input::AddressGroup(Change::Deleted(cluster_wide("c-1-0")))), groups);
    let node = |address: Option<&str>| {
        let mut node = NodePolicy::new("n1", NodePolicySpec::default());
        let node_addresses = address.map(str::to_owned).into_iter().collect();
        node.status = Some(NodePolicyStatus { node_addresses, ..NodePolicyStatus::default() });
        Input::NodePolicy(applied("n1", node))
    };
    assert_eq!(seen(node(None)), at(|names| &mut names.node_policies, "n1"));
    assert_eq!(seen(node(Some("10.244.0.1"))), Look::nowhere(), "what an agent reports");
    assert_eq!(seen(Input::Profile(applied("shop", profile(1, true)))), at(|names| &mut names.profiles, "shop"));
    let mut reported = profile(2, true);
    reported.status = Some(ContainerWorkloadProfileStatus::default());
    assert_eq!(seen(Input::Profile(applied("shop", reported))), at(|names| &mut names.profiles, "shop"));
    assert_eq!(seen(Input::NodePolicy(Change::Listed(BTreeMap::new()))), Look::Everything, "a list was read anew");
    assert_eq!(seen(Input::Pod(Change::Listed(BTreeMap::new()))), Look::nowhere(), "that is for the compiler");
}
