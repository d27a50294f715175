//! Expectations from the architecture: no half-loaded view counts, and policy never goes back by itself.

use super::*;
use ringfence_crds::{NodePolicyStatus, PeerGroupSpec, WorkloadPolicySpec};

use ringfence_dataplane::Profile;
use ringfence_model::PolicyState;

use crate::feed::NodeEntry;

fn marker(epoch: i64, number: i64) -> (String, Object) {
    let spec = WorkloadPolicySpec { revision: Revision { epoch, number }, ..WorkloadPolicySpec::default() };
    (MARKER.to_owned(), Object::WorkloadPolicy(spec))
}

fn all(kind: Kind, objects: impl IntoIterator<Item = (String, Object)>) -> Change {
    Change::All { kind, objects: objects.into_iter().collect() }
}

fn confirmed(epoch: i64) -> Change {
    let spec = ContainerClusterSpec { policy_epoch: Some(epoch), ..ContainerClusterSpec::default() };
    Change::Put { name: "this".to_owned(), object: Object::Cluster(ClusterEntry::new(1, spec, None)) }
}

/// A view that has read everything, closed by revision 0.`number`.
fn loaded(number: i64) -> View {
    let mut view = View::new(None);
    for kind in Kind::ALL {
        let objects = (kind == Kind::WorkloadPolicy).then(|| marker(0, number));
        view.take(all(kind, objects));
    }
    view
}

#[test]
fn a_half_loaded_view_does_not_count() {
    let mut view = View::new(None);
    for kind in Kind::ALL.into_iter().skip(1) {
        assert!(!view.take(all(kind, None)), "{kind:?}");
    }
    assert!(!view.counts());
    assert_eq!(view.held(), Some(Held::Loading(vec![Kind::NodePolicy])));
    assert!(view.take(all(Kind::NodePolicy, None)));
    assert!(view.counts());
    assert_eq!(view.held(), None);
}

#[test]
fn the_ledger_counts_until_everything_is_read() {
    let mut store = ObjectStore::default();
    let (name, Object::WorkloadPolicy(spec)) = marker(0, 7) else { panic!("a marker") };
    store.workload_policies.insert(name, spec);
    let mut view = View::new(Some((store, BTreeMap::new())));
    assert!(view.counts() && !view.is_loaded());
    view.take(all(Kind::WorkloadPolicy, None));
    assert_eq!(view.revision(), Revision { epoch: 0, number: 7 });
}

#[test]
fn an_older_revision_is_held_back_until_it_has_caught_up() {
    let mut view = loaded(7);
    assert!(!view.take(all(Kind::WorkloadPolicy, [marker(0, 5)])));
    assert_eq!(view.revision().number, 7);
    assert!(matches!(view.held(), Some(Held::WentBack { published, .. }) if published.number == 5));
    let (name, object) = marker(0, 8);
    assert!(view.take(Change::Put { name, object }));
    assert_eq!(view.revision().number, 8);
    assert_eq!(view.held(), None);
}

/// After etcd was restored every watch lists anew on its own, in whatever order.
#[test]
fn a_list_of_any_kind_from_before_is_held_back_with_its_marker() {
    let full = || {
        let profile = Profile { enforced_state: Some(PolicyState::Full), ..Profile::default() };
        ("shop".to_owned(), Object::Profile(profile))
    };
    for first in Kind::ALL.into_iter().filter(|kind| ![Kind::Pod, Kind::WorkloadPolicy].contains(kind)) {
        let mut view = loaded(7);
        let (name, object) = full();
        assert!(view.take(Change::Put { name, object }));
        let (before, (_, Object::WorkloadPolicy(older))) = (view.store().clone(), marker(0, 5)) else {
            panic!("a marker")
        };
        assert!(!view.take(Change::Marker(Some(older))));
        for kind in [first].into_iter().chain(Kind::ALL) {
            let objects = (kind == Kind::WorkloadPolicy).then(|| marker(0, 5));
            assert!(!view.take(all(kind, objects)), "{kind:?} after {first:?}");
            assert_eq!(*view.store(), before, "{kind:?} after {first:?}");
        }
        assert!(matches!(view.held(), Some(Held::WentBack { published, .. }) if published.number == 5));
        assert!(view.take(all(Kind::WorkloadPolicy, [marker(0, 8)])), "it has caught up");
        assert!(view.store().profiles.is_empty() && view.held().is_none());
    }
    // A gap is not always that.
    let mut view = loaded(7);
    let (_, Object::WorkloadPolicy(same)) = marker(0, 7) else { panic!("a marker") };
    view.take(Change::Marker(Some(same)));
    assert!(view.take(all(Kind::Profile, [full()])));
    assert_eq!(view.held(), None);
    view.take(Change::Marker(None));
    assert!(!view.take(all(Kind::Profile, None)), "where there is no marker any more, everything is older");
}

/// The marker was read, and a publication came on its own watch before that was told.
#[test]
fn a_marker_that_was_overtaken_holds_nothing_back_for_long() {
    let of = |number| match marker(0, number) {
        (_, Object::WorkloadPolicy(spec)) => Change::Marker(Some(spec)),
        _ => panic!("a marker"),
    };
    let group = |revision: i64| {
        Object::PeerGroup(PeerGroupSpec { classes: vec![format!("c-{revision}")], ..PeerGroupSpec::default() })
    };
    let mut view = loaded(8);
    assert!(!view.take(of(7)));
    assert!(!view.take(all(Kind::PeerGroup, [("p".to_owned(), group(8))])));
    assert!(view.take(of(8)));
    assert_eq!((view.held(), view.revision().number, view.store().peer_groups.len()), (None, 8, 1));

    // Where the policies are older too, they wait for their own marker, whatever is read beside them.
    let mut view = loaded(8);
    let older = ("r".to_owned(), Object::WorkloadPolicy(WorkloadPolicySpec::default()));
    assert!(!view.take(all(Kind::WorkloadPolicy, [marker(0, 7), older])));
    assert!(!view.take(of(9)));
    assert_eq!((view.revision().number, view.store().workload_policies.len()), (8, 1));
    let (name, object) = marker(0, 9);
    assert!(view.take(Change::Put { name, object }));
    assert_eq!((view.held(), view.store().workload_policies.len()), (None, 2));
}

#[test]
fn a_list_without_a_marker_is_older_than_one_with() {
    let mut view = loaded(7);
    assert!(!view.take(all(Kind::WorkloadPolicy, None)));
    assert_eq!(view.revision().number, 7);
}

#[test]
fn a_new_epoch_needs_an_operator() {
    let mut view = loaded(7);
    assert!(!view.take(all(Kind::WorkloadPolicy, [marker(1, 2)])));
    assert_eq!(view.revision(), Revision { epoch: 0, number: 7 });
    assert!(view.take(confirmed(1)));
    assert_eq!(view.revision(), Revision { epoch: 1, number: 2 });
}

#[test]
fn a_revision_has_its_peer_groups_once_their_marker_is_seen() {
    let mut view = loaded(7);
    assert!(view.has_peer_groups(), "a controller that knows no marker of PeerGroups");
    let number = |number| Revision { epoch: 0, number };
    let closes = |revision: i64, peer_groups: i64| {
        let spec = WorkloadPolicySpec {
            revision: number(revision),
            peer_group_revision: Some(number(peer_groups)),
            ..WorkloadPolicySpec::default()
        };
        Change::Put { name: MARKER.to_owned(), object: Object::WorkloadPolicy(spec) }
    };
    let groups = |name: &str, revision: i64| {
        let spec = PeerGroupSpec { revision: number(revision), ..PeerGroupSpec::default() };
        Change::Put { name: name.to_owned(), object: Object::PeerGroup(spec) }
    };
    view.take(closes(8, 8));
    assert!(!view.has_peer_groups(), "nothing was seen of it");
    view.take(groups("p-1", 8));
    assert!(!view.has_peer_groups(), "others may be on their way");
    view.take(groups(MARKER, 7));
    assert!(!view.has_peer_groups());
    view.take(groups(MARKER, 8));
    assert!(view.has_peer_groups());
    view.take(closes(9, 8));
    assert!(view.has_peer_groups(), "no PeerGroup has changed since");
    view.take(groups(MARKER, 11));
    assert!(view.has_peer_groups(), "those of a later publication come first");
    view.take(Change::Gone { kind: Kind::PeerGroup, name: MARKER.to_owned() });
    assert!(!view.has_peer_groups());
}

#[test]
fn a_list_replaces_its_kind_and_is_a_change_only_if_it_differs() {
    let mut view = loaded(7);
    let group = |name: &str, class: &str| {
        let spec = PeerGroupSpec { classes: vec![class.to_owned()], ..PeerGroupSpec::default() };
        (name.to_owned(), Object::PeerGroup(spec))
    };
    let two = || all(Kind::PeerGroup, [group("p-1", "c-1"), group("p-2", "c-2")]);
    assert!(view.take(two()));
    assert!(!view.take(two()));
    assert!(view.take(all(Kind::PeerGroup, [group("p-1", "c-1"), group("p-2", "c-3")])));
    assert!(view.take(all(Kind::PeerGroup, [group("p-1", "c-1")])));
    assert!(view.store().peer_groups.keys().eq(["p-1"]));
    let node = || {
        let entry = NodeEntry { generation: Some(1), ..NodeEntry::default() };
        all(Kind::NodePolicy, [("n1".to_owned(), Object::NodePolicy(entry))])
    };
    assert!(view.take(node()));
    assert!(!view.take(node()));
    assert!(view.take(all(Kind::NodePolicy, None)));
    assert_eq!(view.store().node_policy, None);
}

#[test]
fn what_is_reported_of_the_node_is_known_and_is_no_policy() {
    let mut view = loaded(7);
    let put = |status| {
        let entry = NodeEntry { generation: Some(1), status, ..NodeEntry::default() };
        Change::Put { name: "n1".to_owned(), object: Object::NodePolicy(entry) }
    };
    view.take(put(None));
    let status = Arc::new(NodePolicyStatus { pods_enforced: Some(3), ..NodePolicyStatus::default() });
    assert!(!view.take(put(Some(status.clone()))), "what is to be in force is as it was");
    assert_eq!(view.node_status(), Some(&status));
    view.take(Change::Gone { kind: Kind::NodePolicy, name: "n1".to_owned() });
    assert_eq!((view.node_status(), view.node_generation()), (None, None));
}

/// The Pod shop/web with the uid u, as the container runtime has it.
fn sandbox() -> Sandbox {
    serde_json::from_value(serde_json::json!({
        "id": "s", "uid": "u", "namespace": "shop", "name": "web", "labels": {"app": "web"}, "annotations": {},
        "created_at": 0, "host_network": false, "netns": {}, "ips": [], "dns_servers": []
    }))
    .expect("a sandbox")
}

/// A Pod of the apiserver that says it has the uid u, with the label that tells it from the sandbox.
fn claims_u(namespace: &str, name: &str) -> (String, Object) {
    let pod = LocalPod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: "u".to_owned(),
        labels: FromIterator::from_iter([("from".to_owned(), "apiserver".to_owned())]),
        ..LocalPod::default()
    };
    (crate::feed::pods::key(&pod), Object::Pod(pod))
}

fn put_pod(view: &mut View, (name, object): (String, Object)) {
    view.take(Change::Put { name, object });
}

fn is_known(view: &View) -> bool {
    view.pod_in(&sandbox()).labels.contains_key("from")
}

#[test]
fn a_pod_that_is_gone_is_known_while_its_sandbox_is_there() {
    let mut view = loaded(1);
    put_pod(&mut view, claims_u("shop", "web"));
    view.take(Change::Gone { kind: Kind::Pod, name: claims_u("shop", "web").0 });
    view.forget_departed([sandbox()].iter());
    assert!(is_known(&view));
    view.forget_departed([].iter());
    assert!(!is_known(&view));
}

#[test]
fn a_pod_that_claims_the_uid_of_another_does_not_take_its_place() {
    let mut view = loaded(1);
    for forged in [claims_u("elsewhere", "web"), claims_u("shop", "other")] {
        put_pod(&mut view, forged.clone());
        let alone = view.pod_in(&sandbox());
        assert_eq!((alone.namespace.as_str(), alone.name.as_str()), ("shop", "web"), "the sandbox knows better");
        assert_eq!(alone.labels, sandbox().labels.into_iter().collect());

        put_pod(&mut view, claims_u("shop", "web"));
        put_pod(&mut view, forged.clone());
        let both = view.pod_in(&sandbox());
        assert_eq!((both.namespace.as_str(), both.name.as_str()), ("shop", "web"));
        assert!(is_known(&view), "the one that is called as the sandbox says counts");

        view.take(Change::Gone { kind: Kind::Pod, name: forged.0.clone() });
        view.forget_departed([sandbox()].iter());
        assert!(!view.pods().contains_key(&forged.0), "it has no sandbox that would keep it");
        assert!(is_known(&view), "nor does it take the other with it");
        view.take(all(Kind::Pod, None));
        view.forget_departed([].iter());
    }
}
