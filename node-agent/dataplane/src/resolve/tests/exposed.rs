//! Pods that are exposed on other nodes: what they let in, and what other nodes know of them.

use ringfence_crds::AddressGroupSpec;
use ringfence_crds::address_group::{Exposed as Written, ExposedPod, ExposedPods, TargetPort};
use ringfence_crds::common::NetworkAddress;
use ringfence_crds::names::service_class;

use super::*;
use crate::gate::Exposed;
use crate::policy::Match;

const OTHER_NODE: &str = "172.30.0.12";
const AWAY: &str = "10.244.2.9";
const CLIENT: &str = "192.0.2.7";

/// Service shop/front exposes Pods that are app=web, of which one on another node is known. The client may reach role=web on port
/// 80; gates of the two nodes seal.
fn exposing() -> ObjectStore {
    let mut store = store();
    add_rule(&mut store, rule(Direction::Inbound, Action::Allow, list(&[CLIENT])));
    let address = NetworkAddress { network: NETWORK.into(), address: AWAY.into() };
    let alike = ExposedPods {
        labels: map(&[("app", "shop"), ("role", "web")]),
        pod_labels: map(&[("app", "web")]),
        named_ports: vec![TargetPort { protocol: "TCP".to_owned(), port: Some(8000), name: Some("http".to_owned()) }],
        pods: vec![ExposedPod { name: "web-2".to_owned(), addresses: vec![address] }],
    };
    let exposed = Written {
        namespace: "shop".to_owned(),
        name: "front".to_owned(),
        selector: map(&[("app", "web")]),
        target_pods: texts(&["named"]),
        pods: vec![alike],
    };
    let spec = AddressGroupSpec { exposed: Some(Box::new(exposed)), ..AddressGroupSpec::default() };
    store.address_groups.insert("x-1-0".to_owned(), spec);
    add_slice(&mut store, "gates", 0, Some(1), &[NODE, OTHER_NODE], "");
    store
}

fn written(store: &mut ObjectStore) -> &mut Written {
    let group = store.address_groups.get_mut("x-1-0").and_then(|group| group.exposed.as_mut());
    group.expect("it is there")
}

fn sealed(store: &ObjectStore, pod: &LocalPod) -> Resolution {
    Resolver::new(store).looking_for_seals(true).resolve(pod, &[ip(NODE)])
}

/// From which nodes a Pod demands a seal.
fn demanded(resolution: Resolution) -> Option<Vec<IpAddr>> {
    let Resolution::Enforce(policy) = resolution else { panic!("no policy: {resolution:?}") };
    policy.inbound.override_deny.iter().find_map(|entry| match &entry.matching {
        Match::Unsealed { nodes } => Some(nodes.nets.iter().map(|net| net.addr()).collect()),
        _ => None,
    })
}

fn exposed(store: &ObjectStore) -> Option<Vec<Exposed>> {
    Resolver::new(store).looking_for_seals(true).exposed()
}

#[test]
fn a_pod_behind_the_service_demands_seals_of_other_nodes() {
    let mut store = exposing();
    let other = Some(vec![ip(OTHER_NODE)]);
    assert_eq!(demanded(sealed(&store, &pod())), other, "though it is not listed yet, and not of its own node");
    let named = LocalPod { labels: map(&[]), name: "named".to_owned(), ..pod() };
    assert_eq!(demanded(sealed(&store, &named)), other);
    let another = LocalPod { labels: map(&[("app", "db")]), ..pod() };
    assert_eq!(demanded(sealed(&store, &another)), None);
    assert_eq!(demanded(resolve(&store, &pod(), &[ip(NODE)])), None, "its node cannot look for seals");
    written(&mut store).selector.clear();
    assert_eq!(demanded(sealed(&store, &pod())), None, "an empty selector selects nothing");
}

#[test]
fn without_the_gates_nothing_changes() {
    let mut store = exposing();
    store.address_groups.remove("gates-0");
    let Resolution::Incomplete { missing, .. } = sealed(&store, &pod()) else { panic!("the gates are missing") };
    assert_eq!(missing, [Missing::Class("gates".to_owned())]);
}

#[test]
fn a_pod_of_another_node_is_judged_as_it_judges_itself() {
    let store = exposing();
    let found = exposed(&store).expect("a Pod is exposed");
    let [Exposed { name, pods, policy: Some(policy) }] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(name, "shop/web-2");
    assert_eq!(pods.iter().copied().collect::<Vec<_>>(), [ip(AWAY)]);
    assert_eq!((inbound(policy, CLIENT, 80), inbound(policy, CLIENT, 81)), (Decision::Allow, Decision::Default));
    assert_eq!(inbound(policy, OTHER_NODE, 80), Decision::Default, "no rule names nodes");

    // What a rule refers to is of interest, and as long as it is missing nothing is known.
    let mut partly = store.clone();
    add_rule(&mut partly, rule(Direction::Inbound, Action::Allow, group("p-1")));
    let mut resolver = Resolver::new(&partly).looking_for_seals(true);
    let found = resolver.exposed().expect("a Pod is exposed");
    assert!(matches!(found.as_slice(), [Exposed { policy: None, .. }]), "{found:?}");
    assert!(resolver.into_interest().peer_groups.holds("p-1"));

    assert_eq!(exposed(&super::store()), None);
    let mut idle = store;
    let profile = idle.profiles.get_mut("shop").expect("it is there");
    profile.enforced_state = Some(PolicyState::Idle);
    let found = exposed(&idle).expect("a Pod is exposed");
    let [Exposed { policy: Some(policy), .. }] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((policy.state, inbound(policy, CLIENT, 80)), (Enforcement::VisibilityOnly, Decision::Allow));
    idle.profiles.get_mut("shop").expect("it is there").spec.managed = false;
    assert_eq!(exposed(&idle), Some(vec![]), "it is none of ours");
}

/// Its labels are those that the controller has derived: without one that cannot be read, another rule might open it.
#[test]
fn a_label_that_is_none_opens_nothing() {
    let mut store = exposing();
    written(&mut store).pods[0].labels.insert("loc".to_owned(), "no label!".to_owned());
    assert_eq!(exposed(&store), Some(vec![]));
}

#[test]
fn a_virtual_service_opens_its_ports_on_exposed_pods_too() {
    let mut store = exposing();
    add_service(&mut store, &service_class("shop/front"), &[]);
    let mut opened = rule(Direction::Inbound, Action::Allow, list(&["198.51.100.1"]));
    opened.subjects = vec![Subject { virtual_service: Some("shop/front".to_owned()), ..Subject::default() }];
    (opened.services, opened.virtual_service_ports) = (Vec::new(), true);
    add_rule(&mut store, opened);
    let found = exposed(&store).expect("a Pod is exposed");
    let [Exposed { policy: Some(policy), .. }] = found.as_slice() else { panic!("{found:?}") };
    let at = |port| inbound(policy, "198.51.100.1", port);
    assert_eq!((at(80), at(8000), at(8080)), (Decision::Allow, Decision::Allow, Decision::Default));
}
