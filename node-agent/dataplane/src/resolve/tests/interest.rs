//! What of the groups has to be read: what rules that apply to local Pods refer to, and nothing else.

use ringfence_crds::PeerGroupSpec;
use ringfence_crds::names::service_class;

use super::*;
use crate::Interest;

/// The interest of the Pod of the fixture.
fn interest(store: &ObjectStore) -> Interest {
    let mut resolver = Resolver::new(store);
    resolver.resolve(&pod(), &[]);
    resolver.into_interest()
}

fn expect(store: &ObjectStore, peer_groups: &[&str], classes: &[&str]) {
    let mut expected = Interest::default();
    peer_groups.iter().for_each(|name| expected.peer_groups.insert(name));
    classes.iter().for_each(|class| expected.address_groups.insert(class));
    assert_eq!(interest(store), expected);
}

#[test]
fn it_follows_from_rules_to_groups_to_classes_as_they_arrive() {
    let mut store = store();
    add_rule(&mut store, rule(Direction::Outbound, Action::Allow, group("p-1")));
    expect(&store, &["p-1"], &[]);
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &["s-1"]);
    expect(&store, &["p-1"], &["c-1", "s-1"]);
    store.address_groups.clear();
    expect(&store, &["p-1"], &["c-1", "s-1"]);
}

#[test]
fn what_concerns_other_pods_only_is_not_of_interest() {
    let mut store = store();
    let mut other = rule(Direction::Inbound, Action::Allow, group("p-2"));
    other.subjects = vec![Subject { labels: Some(selector(&[("role", "db")])), ..Subject::default() }];
    add_rule(&mut store, other);
    add_group(&mut store, "p-2", "c-2", &["10.244.1.6"], &[]);
    expect(&store, &[], &[]);
    // Nor is what no rule is enforced at.
    add_rule(&mut store, rule(Direction::Inbound, Action::Allow, group("p-2")));
    expect(&store, &["p-2"], &["c-2"]);
    store.profiles.values_mut().for_each(|profile| profile.enforced_state = Some(PolicyState::Idle));
    expect(&store, &[], &[]);
}

#[test]
fn services_are_of_interest_at_both_ends() {
    let mut store = store();
    add_rule(&mut store, rule(Direction::Outbound, Action::Allow, service_peer("s-1")));
    expect(&store, &[], &["s-1"]);
    let mut served = rule(Direction::Inbound, Action::Allow, group("p-1"));
    let behind = |service: &str| Subject { virtual_service: Some(service.to_owned()), ..Subject::default() };
    served.subjects = vec![behind("shop/front"), behind("elsewhere/front")];
    add_rule(&mut store, served);
    expect(&store, &[], &["s-1", &service_class("shop/front")]);
    add_service(&mut store, &service_class("shop/front"), &[]);
    expect(&store, &["p-1"], &["s-1", &service_class("shop/front")]);
}

/// A namespace in Full with a label of its own, and rules for its Pods.
fn add_namespace(store: &mut ObjectStore, name: &str, peer_group: &str) {
    let mut profile = store.profiles["shop"].clone();
    let fixed = DimensionLabels { value: Some(name.to_owned()), ..DimensionLabels::default() };
    profile.spec.labels = [("app".to_owned(), fixed)].into();
    store.profiles.insert(name.to_owned(), profile);
    let mut rule = rule(Direction::Outbound, Action::Allow, group(peer_group));
    rule.subjects = vec![Subject { labels: Some(selector(&[("app", name)])), ..Subject::default() }];
    add_rule(store, rule);
}

#[test]
fn a_static_pod_of_any_namespace_is_foreseen_in_a_small_cluster_only() {
    let mut store = store();
    add_rule(&mut store, rule(Direction::Outbound, Action::Allow, group("p-1")));
    add_namespace(&mut store, "other", "p-2");
    add_group(&mut store, "p-2", "c-2", &["10.244.1.6"], &[]);
    expect(&store, &["p-1", "p-2"], &["c-2"]);
    // A group of as many classes as many nodes would be.
    let classes: Vec<String> = (0..100).map(|number| format!("c-{number}")).collect();
    store.peer_groups.insert("p-2".to_owned(), PeerGroupSpec { classes, ..PeerGroupSpec::default() });
    expect(&store, &["p-1"], &[]);
}
