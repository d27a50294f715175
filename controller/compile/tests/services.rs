//! Services, written by hand from the policy model ("Virtual services and Kubernetes services").
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ringfence_compile::cluster::{
    EndpointInfo, EndpointSliceInfo, OwnerKey, ServiceInfo, SlicePortInfo, TargetPortInfo,
};
use ringfence_model::{Decision as D, Protocol, Verdict as V};
use support::{Lab, key, pair, yaml};

const BY_LABEL: &str = "[{name: x, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 8080}]}]";
const BY_SERVICE: &str =
    "[{name: x, consumers: [{labels: {app: [a]}}], providers: [{virtualService: b/db}], useVirtualServicePorts: true}]";

fn with_service(ports: &[&str]) -> Lab {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", ports);
    lab
}

#[test]
fn labels_reach_through_the_services_in_front() {
    let mut lab = with_service(&["80:8080/tcp", "81:8081/tcp"]);
    lab.rules("r", BY_LABEL);
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "10.96.0.5", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "8080/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "81/tcp"), V::Blocked, "8081 is none of the rule's ports");
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), V::Blocked, "80 is the Service's port, not the Pod's");
}

#[test]
fn a_virtual_service_opens_exact_pairs() {
    let mut lab = with_service(&["80:8080/tcp", "53:5353/udp"]);
    lab.rules("r", BY_SERVICE);
    for (to, on, expected) in [
        ("svc/b/db", "80/tcp", V::Allowed),
        ("svc/b/db", "53/udp", V::Allowed),
        ("pod/b/b", "8080/tcp", V::Allowed),
        ("pod/b/b", "5353/udp", V::Allowed),
        // Never the cross product.
        ("pod/b/b", "8080/udp", V::Blocked),
        ("pod/b/b", "5353/tcp", V::Blocked),
        ("pod/b/b", "80/tcp", V::Blocked),
        ("10.96.0.5", "80/udp", V::PotentiallyBlocked),
    ] {
        // The last has no listener whose policy could block: only the source is judged.
        if expected == V::PotentiallyBlocked {
            assert_eq!(lab.decisions("pod/a/a", to, on).0, D::Default);
        } else {
            assert_eq!(lab.verdict("pod/a/a", to, on), expected, "{to} {on}");
        }
    }
    // Another Pod with the same labels that is not behind the Service.
    lab.pod("b/other", "10.0.0.3", "api");
    assert_eq!(lab.verdict("pod/a/a", "pod/b/other", "8080/tcp"), V::Blocked);
}

#[test]
fn services_given_narrow_a_virtual_service() {
    let mut lab = with_service(&["80:8080/tcp", "81:8081/tcp"]);
    lab.rules("r", "[{name: x, consumers: [{labels: {app: [a]}}], providers: [{virtualService: b/db}], services: [{protocol: TCP, port: 8081}, {protocol: TCP, port: 9999}]}]");
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "81/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Blocked);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "9999/tcp"), V::Blocked, "none of the Service's ports");
}

#[test]
fn named_target_ports_are_those_of_the_pod() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ports[0].target_port = TargetPortInfo::Name("http".to_owned());
    lab.rules("r", BY_SERVICE);
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "8080/tcp"), V::Allowed);
}

#[test]
fn a_headless_service_is_its_back_ends() {
    let mut lab = with_service(&["8080:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().cluster_ips.clear();
    lab.rules("r", BY_SERVICE);
    let answer = lab.explain("pod/a/a", "svc/b/db", "8080/tcp");
    assert_eq!(answer.verdict, V::Allowed);
    assert_eq!(answer.backends.unwrap()[0].endpoint, "pod/b/b");
}

#[test]
fn the_worst_back_end_speaks_for_a_service() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.pod("b/two", "10.0.0.3", "db");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.rules("r", BY_SERVICE);
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Allowed);
    lab.pod_mut("b/two").annotations.clear();
    lab.rules("q", "[{name: quarantine, action: OverrideDeny, consumers: [{allWorkloads: true}], providers: [{labels: {role: [db]}}], allServices: true}]");
    let answer = lab.explain("pod/a/a", "svc/b/db", "80/tcp");
    assert_eq!(answer.verdict, V::Blocked);
    assert_eq!(answer.destination.labels["role"], "db");
    let backends = answer.backends.unwrap();
    // The Service is mixed: the consumer's end lets it pass, and each provider judges for itself.
    let decisions: Vec<_> =
        backends.iter().map(|b| (b.endpoint.as_str(), b.source.decision, b.destination.decision)).collect();
    assert_eq!(decisions, [("pod/b/b", D::Allow, D::OverrideDeny), ("pod/b/two", D::Allow, D::Allow)]);
}

#[test]
fn a_deny_closes_front_ends_that_lead_nowhere_else() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.rules("r", BY_SERVICE);
    lab.rules("q", "[{name: quarantine, action: OverrideDeny, consumers: [{allWorkloads: true}], providers: [{labels: {role: [db]}}], allServices: true}]");
    assert_eq!(lab.decisions("pod/a/a", "svc/b/db", "80/tcp"), (D::OverrideDeny, D::OverrideDeny));
}

#[test]
fn a_virtual_service_outside_the_scope_selects_nothing() {
    let rules = "rules: [{name: x, extraScope: true, consumers: [{labels: {app: [a]}}], providers: [{virtualService: b/db}], useVirtualServicePorts: true}]";
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.rule_set("r", &format!("{{scopes: [{{labels: {{app: [a]}}}}], {rules}}}"));
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Blocked);
    assert!(lab.compile().warnings["r"][0].contains("VirtualService b/db lies outside"));
    // It is enough that it lies in one of the scopes.
    lab.rule_set("r", &format!("{{scopes: [{{labels: {{app: [a]}}}}, {{labels: {{app: [b]}}}}], {rules}}}"));
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Allowed);
    assert!(lab.compile().warnings.is_empty());
}

#[test]
fn back_ends_of_others_are_not_opened() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.namespace("c", "Idle", "c", "prod").pod("c/victim", "10.0.0.9", "web");
    let slice = EndpointSliceInfo {
        service: Some("db".to_owned()),
        endpoints: vec![EndpointInfo { addresses: vec!["10.0.0.9".parse().unwrap()], target_pod: None }],
        ports: vec![SlicePortInfo { name: "p80-tcp".to_owned(), protocol: Protocol::TCP, port: 8080 }],
    };
    lab.cluster.endpoint_slices.insert(key("b/stolen"), slice);
    lab.rules("r", BY_SERVICE);
    assert_eq!(lab.verdict("pod/a/a", "pod/c/victim", "8080/tcp"), V::Blocked);
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Blocked, "the node would lead there");
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "8080/tcp"), V::Allowed);
    let computed = lab.compile();
    assert!(computed.service_warnings[&key("b/db")][0].contains("10.0.0.9"));
    let ends = computed.address_groups.values().find_map(|group| group.service.as_ref()).unwrap();
    assert!(ends.front_ends.is_empty());
    assert_eq!(ends.back_ends.len(), 1);
    // A declared machine is another matter.
    lab.cluster.pods.remove(&key("c/victim"));
    lab.policy.workloads.insert("old".to_owned(), yaml("{addresses: [10.0.0.9]}"));
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Allowed);
    assert!(!lab.compile().service_warnings.contains_key(&key("b/db")));
}

#[test]
fn a_service_without_a_selector_opens_the_pods_that_its_slices_name() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().selector.clear();
    lab.rules("r", BY_SERVICE);
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Allowed);
    let computed = lab.compile();
    let ends = computed.address_groups.values().find_map(|group| group.service.as_ref()).unwrap();
    assert_eq!(ends.target_pods, ["b"]);
    assert!(ends.selector.is_empty());
}

#[test]
fn external_ips_count_within_the_allowed_ranges() {
    let mut lab = with_service(&["80:8080/tcp"]);
    let service = lab.cluster.services.get_mut(&key("b/db")).unwrap();
    service.external_ips = ["198.51.100.1".parse().unwrap(), "192.0.2.1".parse().unwrap()].into();
    service.ingress_ips = ["203.0.113.1".parse().unwrap()].into();
    service.ports[0].node_port = Some(30080);
    lab.policy.cluster = yaml("{externalIpRanges: [198.51.100.0/24]}");
    lab.rules("r", BY_SERVICE);
    let computed = lab.compile();
    let ends = computed.address_groups.values().find_map(|group| group.service.as_ref()).unwrap();
    let fronts: Vec<String> = ends.front_ends.iter().map(|end| format!("{}:{}", end.address, end.port)).collect();
    assert_eq!(
        fronts,
        [
            "10.96.0.5:80",
            "172.30.0.10:30080",
            "172.30.0.11:30080",
            "172.30.0.12:30080",
            "198.51.100.1:80",
            "203.0.113.1:80"
        ]
    );
    let warnings = &computed.service_warnings[&key("b/db")];
    assert!(warnings.iter().any(|text| text.contains("192.0.2.1")));
    let hidden = &computed.hidden_sources[&key("b/db")];
    assert!(hidden.contains("nodePort 30080") && hidden.contains("externalTrafficPolicy: Local"), "{hidden}");
}

#[test]
fn a_hidden_source_is_nobody_and_local_keeps_it() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ports[0].node_port = Some(30080);
    lab.ip_list("office", "{ranges: [203.0.113.0/24]}");
    lab.rules("r", "[{name: x, consumers: [{ipList: office}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 8080}]}]");
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.11", "30080/tcp"), V::Blocked);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().external_policy_local = true;
    assert_eq!(lab.verdict("203.0.113.7", "172.30.0.11", "30080/tcp"), V::Allowed);
    assert_eq!(lab.verdict("203.0.114.7", "172.30.0.11", "30080/tcp"), V::Blocked);
    assert!(lab.compile().hidden_sources.is_empty());
}

#[test]
fn a_source_is_hidden_only_from_pods_in_full_and_by_ways_in_from_outside() {
    let mut lab = with_service(&["80:8080/tcp"]);
    assert!(lab.compile().hidden_sources.is_empty(), "only from inside");
    // A load balancer may do without node ports.
    lab.cluster.services.get_mut(&key("b/db")).unwrap().ingress_ips.insert("203.0.113.7".parse().unwrap());
    let computed = lab.compile();
    let hidden = &computed.hidden_sources[&key("b/db")];
    assert!(hidden.contains("load balancer 203.0.113.7"), "{hidden}");
    assert!(computed.service_warnings.is_empty(), "said once");
    lab.namespace("b", "Selective", "b", "prod");
    assert!(lab.compile().hidden_sources.is_empty(), "nobody in Full");
}

#[test]
fn a_pod_that_reaches_itself_through_its_own_service_needs_a_rule_to_send() {
    // The consumer's end cannot know where the node will lead, whoever is behind it now.
    let lab = with_service(&["80:8080/tcp"]);
    assert_eq!(lab.decisions("pod/b/b", "svc/b/db", "80/tcp"), (D::Default, D::Essential));
    assert_eq!(lab.decisions("pod/b/b", "pod/b/b", "8080/tcp"), (D::Essential, D::Essential));
}

#[test]
fn a_service_with_nobody_behind_it_is_not_known() {
    let mut lab = pair("VisibilityOnly", "Full");
    lab.service("b/none", "10.96.0.7", "nobody", &["80:8080/tcp"]);
    let answer = lab.explain("pod/a/a", "svc/b/none", "80/tcp");
    assert_eq!((answer.verdict, answer.backends.unwrap().len()), (V::Unknown, 0));
}

#[test]
fn labels_of_virtual_services_stay_within_what_the_profile_fixes() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.policy.virtual_services.insert(key("b/db"), yaml("{labels: {app: evil, role: api, loc: eu}}"));
    let computed = lab.compile();
    assert_eq!(computed.virtual_services[&key("b/db")].label_text.as_deref(), Some("app=b,env=prod,loc=eu,role=api"));
    assert!(computed.service_warnings[&key("b/db")][0].contains("app=evil"));
}

#[test]
fn every_listed_controller_shows_up() {
    for kind in OwnerKey::LISTED {
        let mut lab = with_service(&["80:8080/tcp"]);
        let owner = OwnerKey { kind: kind.to_owned(), namespace: "b".to_owned(), name: "db-1".to_owned() };
        lab.pod_mut("b/b").owner = Some(owner.clone());
        lab.cluster.owners.insert(owner, None);
        let computed = lab.compile();
        assert_eq!(computed.virtual_services[&key("b/db")].backend_text, Some(format!("{kind}/db-1 (1)")));
    }
}

#[test]
fn services_of_unmanaged_namespaces_are_no_virtual_services() {
    let mut lab = with_service(&["80:8080/tcp"]);
    lab.policy.profiles.remove("b");
    lab.rules("r", BY_SERVICE);
    let computed = lab.compile();
    assert!(computed.virtual_services.is_empty());
    assert!(computed.address_groups.values().all(|group| group.service.is_none()));
    assert_eq!(lab.verdict("pod/a/a", "svc/b/db", "80/tcp"), V::Blocked);
}

#[test]
fn an_external_name_opens_nothing() {
    let mut lab = pair("Full", "Full");
    let service = ServiceInfo {
        external_name: true,
        external_ips: ["10.0.0.2".parse().unwrap()].into(),
        ..ServiceInfo::default()
    };
    lab.cluster.services.insert(key("b/out"), service);
    let computed = lab.compile();
    let ends = computed.address_groups.values().find_map(|group| group.service.as_ref()).unwrap();
    assert!(ends.front_ends.is_empty() && ends.back_ends.is_empty());
}
