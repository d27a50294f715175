//! Verdicts, written by hand from the policy model.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ringfence_compile::evaluate::{Endpoint, ExplainError, explain};
use ringfence_model::{Decision as D, EndState, PolicyState, Protocol, Verdict as V};
use rstest::rstest;
use support::{Lab, key, pair, yaml};

const ANY_TO_B: &str =
    "[{name: any-to-b, consumers: [{ipList: any}], providers: [{labels: {app: [b]}}], allServices: true}]";

fn any(lab: &mut Lab) -> &mut Lab {
    lab.ip_list("any", "{ranges: [0.0.0.0/0]}")
}

// The golden cases of the policy model.

#[test]
fn golden_visibility_only_to_full_with_any() {
    let mut lab = pair("VisibilityOnly", "Full");
    any(&mut lab).rules("r", ANY_TO_B);
    let answer = lab.explain("pod/a/a", "pod/b/b", "80/tcp");
    assert_eq!(answer.verdict, V::PotentiallyBlocked);
    assert_eq!((answer.source.decision, answer.destination.decision), (D::Default, D::Allow));
    assert_eq!(answer.source.rule, None);
    assert_eq!(answer.destination.rule.unwrap().name, "any-to-b");
}

#[test]
fn golden_full_to_full_with_any() {
    let mut lab = pair("Full", "Full");
    any(&mut lab).rules("r", ANY_TO_B);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), V::Blocked);
    assert_eq!(lab.decisions("pod/a/a", "pod/b/b", "80/tcp"), (D::Default, D::Allow));
}

#[test]
fn golden_selective_with_a_deny() {
    let mut lab = pair("Selective", "Idle");
    lab.rules("r", "[{name: no-smb, action: Deny, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 445}]}]");
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "445/tcp"), V::Blocked);
    assert_eq!(lab.decisions("pod/a/a", "pod/b/b", "445/tcp"), (D::Deny, D::Idle));
}

#[test]
fn golden_both_full_and_a_rule_that_names_both() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", "[{name: ab, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 80}]}]");
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), V::Allowed);
    assert_eq!(lab.decisions("pod/a/a", "pod/b/b", "80/tcp"), (D::Allow, D::Allow));
    // b also listens on 443: blocked at both ends.
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "443/tcp"), V::Blocked);
    assert_eq!(lab.decisions("pod/a/a", "pod/b/b", "443/tcp"), (D::Default, D::Default));
    let answer = lab.explain("pod/a/a", "pod/b/b", "443/tcp");
    assert_eq!(answer.destination.nearest.unwrap().missed, "services");
}

#[test]
fn golden_unmanaged_to_full_by_ip_list() {
    let mut lab = pair("Full", "Full");
    lab.policy.profiles.remove("a");
    lab.ip_list("net", "{ranges: [10.0.0.0/29]}");
    lab.rules(
        "r",
        "[{name: net-to-b, consumers: [{ipList: net}], providers: [{labels: {app: [b]}}], allServices: true}]",
    );
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), V::Allowed);
    let answer = lab.explain("pod/a/a", "pod/b/b", "80/tcp");
    assert_eq!((answer.source.state, answer.source.decision), (EndState::Unmanaged, D::Unmanaged));
    assert!(answer.source.labels.is_empty());
}

/// What each state makes of each action, both at the consumer and at the provider. The other end is unmanaged.
#[rstest]
#[case("Idle", None, V::Allowed)]
#[case("Idle", Some("OverrideDeny"), V::Allowed)]
#[case("VisibilityOnly", None, V::PotentiallyBlocked)]
#[case("VisibilityOnly", Some("Allow"), V::Allowed)]
#[case("VisibilityOnly", Some("Deny"), V::PotentiallyBlocked)]
#[case("VisibilityOnly", Some("OverrideDeny"), V::PotentiallyBlocked)]
#[case("Selective", None, V::PotentiallyBlocked)]
#[case("Selective", Some("Allow"), V::Allowed)]
#[case("Selective", Some("Deny"), V::Blocked)]
#[case("Selective", Some("OverrideDeny"), V::Blocked)]
#[case("Full", None, V::Blocked)]
#[case("Full", Some("Allow"), V::Allowed)]
#[case("Full", Some("Deny"), V::Blocked)]
#[case("Full", Some("OverrideDeny"), V::Blocked)]
fn every_state_and_action(#[case] state: &str, #[case] action: Option<&str>, #[case] expected: V) {
    for managed_is_consumer in [true, false] {
        let mut lab = pair(state, state);
        let unmanaged = if managed_is_consumer { "b" } else { "a" };
        lab.policy.profiles.remove(unmanaged);
        lab.ip_list("other", if managed_is_consumer { "{ranges: [10.0.0.2]}" } else { "{ranges: [10.0.0.1]}" });
        let (consumer, provider) = if managed_is_consumer {
            ("labels: {app: [a]}", "ipList: other")
        } else {
            ("ipList: other", "labels: {app: [b]}")
        };
        if let Some(action) = action {
            lab.rules("r", &format!("[{{name: x, action: {action}, consumers: [{{{consumer}}}], providers: [{{{provider}}}], allServices: true}}]"));
        }
        assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), expected, "consumer managed: {managed_is_consumer}");
    }
}

#[test]
fn precedence_is_override_deny_allow_deny_whatever_the_order() {
    let rule = |name: &str, action: &str| {
        format!(
            "{{name: {name}, action: {action}, consumers: [{{labels: {{app: [a]}}}}], providers: [{{labels: {{app: [b]}}}}], allServices: true}}"
        )
    };
    for (rules, expected) in [
        (["Allow", "Deny"], D::Allow),
        (["Deny", "Allow"], D::Allow),
        (["OverrideDeny", "Allow"], D::OverrideDeny),
        (["Allow", "OverrideDeny"], D::OverrideDeny),
        (["Deny", "OverrideDeny"], D::OverrideDeny),
    ] {
        let mut lab = pair("Selective", "Selective");
        lab.rules("r", &format!("[{}, {}]", rule("one", rules[0]), rule("two", rules[1])));
        assert_eq!(lab.decisions("pod/a/a", "pod/b/b", "80/tcp"), (expected, expected), "{rules:?}");
        // The same over two RuleSets.
        let mut lab = pair("Selective", "Selective");
        lab.rules("z", &format!("[{}]", rule("one", rules[0]))).rules("a", &format!("[{}]", rule("two", rules[1])));
        assert_eq!(lab.decisions("pod/a/a", "pod/b/b", "80/tcp"), (expected, expected), "{rules:?}");
    }
}

#[test]
fn disabled_rules_and_rule_sets_have_no_effect() {
    let ab = "consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], allServices: true";
    let mut lab = pair("Full", "Full");
    lab.rules("r", &format!("[{{name: off, enabled: false, {ab}}}]"));
    lab.rule_set("s", &format!("{{enabled: false, scopes: [{{}}], rules: [{{name: on, {ab}}}]}}"));
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), V::Blocked);
    assert!(lab.compile().workload_policies.is_empty());
}

#[test]
fn a_pod_reaches_itself() {
    let lab = pair("Full", "Full");
    assert_eq!(lab.verdict("pod/a/a", "pod/a/a", "80/tcp"), V::Allowed);
    assert_eq!(lab.decisions("pod/a/a", "10.0.0.1", "80/tcp"), (D::Essential, D::Essential));
}

#[test]
fn probes_from_the_own_node_pass_on_exactly_their_ports() {
    let mut lab = pair("Full", "Full");
    lab.pod_mut("b/b").probe_ports.insert((Protocol::TCP, 9000));
    assert_eq!(lab.decisions("node/n2", "pod/b/b", "9000/tcp"), (D::Idle, D::Essential));
    assert_eq!(lab.verdict("node/n2", "pod/b/b", "9001/tcp"), V::Blocked);
    assert_eq!(lab.verdict("node/n1", "pod/b/b", "9000/tcp"), V::Blocked, "another node");
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "9000/tcp"), V::Blocked, "a Pod");
}

#[test]
fn dns_is_essential_at_both_ends() {
    let mut lab = pair("Full", "Full");
    lab.namespace("kube-system", "Full", "dns", "prod").pod("kube-system/coredns", "10.0.0.53", "db");
    lab.service("kube-system/kube-dns", "10.96.0.10", "db", &["53:1053/udp", "53:1053/tcp", "9153:9153/tcp"]);
    for protocol in ["udp", "tcp"] {
        let on = format!("53/{protocol}");
        assert_eq!(lab.verdict("pod/a/a", "svc/kube-system/kube-dns", &on), V::Allowed);
        assert_eq!(lab.decisions("pod/a/a", "10.96.0.10", &on), (D::Essential, D::Essential));
    }
    assert_eq!(lab.verdict("pod/a/a", "svc/kube-system/kube-dns", "9153/tcp"), V::Blocked);
    // Past the resolver, only the provider's end is essential.
    assert_eq!(lab.decisions("pod/a/a", "pod/kube-system/coredns", "1053/udp"), (D::Default, D::Essential));
    assert_eq!(lab.decisions("203.0.113.9", "pod/kube-system/coredns", "9153/tcp"), (D::External, D::Default));
}

#[test]
fn the_apiserver_reaches_its_webhooks() {
    let mut lab = pair("Full", "Full");
    lab.service("b/hook", "10.96.0.20", "db", &["443:8443/tcp", "80:8080/tcp"]);
    lab.cluster.webhook_services.entry(key("b/hook")).or_default().insert(443);
    assert_eq!(lab.decisions("172.30.0.10", "pod/b/b", "8443/tcp"), (D::Idle, D::Essential));
    assert_eq!(lab.verdict("172.30.0.10", "pod/b/b", "8080/tcp"), V::Blocked, "a port that no webhook names");
    assert_eq!(lab.verdict("172.30.0.11", "pod/b/b", "8443/tcp"), V::Blocked, "not the apiserver");
}

#[test]
fn a_host_network_pod_is_its_node() {
    let mut lab = pair("Full", "Full");
    lab.pod("a/agent", "172.30.0.11", "web");
    lab.pod_mut("a/agent").host_network = true;
    lab.policy.workloads.insert("n1".to_owned(), yaml("{labels: {role: node}}"));
    lab.rules("r", "[{name: nodes-to-b, consumers: [{labels: {role: [node]}}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 80}]}]");
    let answer = lab.explain("pod/a/agent", "pod/b/b", "80/tcp");
    assert_eq!((answer.verdict, answer.source.state), (V::Allowed, EndState::Idle));
    assert_eq!(answer.source.labels, support::strings(&[("role", "node")]));
    assert_eq!(lab.verdict("pod/a/agent", "pod/b/b", "81/tcp"), V::Blocked);
    let computed = lab.compile();
    let shown = &computed.container_workloads[&key("a/agent")];
    assert!(shown.host_network && shown.state.is_none() && shown.labels.labels.is_empty());
}

#[test]
fn masters_are_no_workloads_in_the_cloud() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", "[{name: hosts, extraScope: true, consumers: [{containerHosts: true}], providers: [{labels: {app: [b]}}], allServices: true}]");
    assert_eq!(lab.verdict("node/cp", "pod/b/b", "80/tcp"), V::Allowed);
    lab.policy.cluster = yaml("{management: cloud}");
    assert_eq!(lab.verdict("node/n1", "pod/b/b", "80/tcp"), V::Allowed);
    let answer = lab.explain("node/cp", "pod/b/b", "80/tcp");
    assert_eq!((answer.verdict, answer.source.state), (V::Blocked, EndState::External));
    let computed = lab.compile();
    assert_eq!(computed.node_policies.keys().collect::<Vec<_>>(), ["n1", "n2"]);
    assert_eq!(computed.workloads.keys().collect::<Vec<_>>(), ["n1", "n2"]);
}

#[test]
fn two_pods_with_one_address_are_no_peers() {
    let mut lab = pair("Full", "Full");
    let ab = "[{name: ab, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], allServices: true}]";
    lab.rules("r", ab);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), V::Allowed);
    lab.pod("b/other", "10.0.0.1", "db");
    assert_eq!(lab.decisions("pod/a/a", "pod/b/b", "80/tcp"), (D::Allow, D::Default), "b does not know who that is");
    assert_eq!(lab.verdict("pod/b/b", "10.0.0.1", "80/tcp"), V::Blocked);
    let computed = lab.compile();
    let told = computed.address_groups.values().flat_map(|group| &group.members);
    assert!(!told.into_iter().any(|member| member.address == "10.0.0.1"));
    assert_eq!(computed.cluster_warnings.len(), 2);
    // One that has ended does not count.
    lab.pod_mut("b/other").ended = true;
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "80/tcp"), V::Allowed);
    assert!(lab.compile().cluster_warnings.is_empty());
}

#[test]
fn the_policy_of_a_disputed_address_is_not_known() {
    let mut lab = pair("VisibilityOnly", "Full");
    lab.pod("b/other", "10.0.0.2", "db");
    assert_eq!(lab.verdict("pod/a/a", "10.0.0.2", "80/tcp"), V::Unknown);
}

#[test]
fn a_pod_cannot_claim_the_address_of_a_node_or_service() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:80/tcp"]);
    lab.pod("a/liar", "172.30.0.12", "web").pod("a/other", "10.96.0.5", "web");
    let computed = lab.compile();
    for name in ["a/liar", "a/other"] {
        assert_eq!(computed.container_workloads[&key(name)].problems.len(), 1, "{name}");
    }
    let nodes = computed.address_groups.values().filter(|group| group.class_text.ends_with("|node n2"));
    assert_eq!(nodes.flat_map(|group| &group.members).count(), 1, "the node keeps its address");
}

#[test]
fn an_unmanaged_machine_is_known_by_its_address() {
    let mut lab = pair("Full", "Full");
    lab.policy.workloads.insert("old".to_owned(), yaml("{addresses: [192.0.2.10], labels: {app: ledger, env: prod}}"));
    lab.rules("r", "[{name: ledger, consumers: [{labels: {app: [ledger]}}], providers: [{labels: {app: [b]}}], allServices: true}]");
    let answer = lab.explain("192.0.2.10", "pod/b/b", "80/tcp");
    assert_eq!((answer.verdict, answer.source.state), (V::Allowed, EndState::Unmanaged));
    assert_eq!(answer.source.labels["app"], "ledger");
    assert_eq!(lab.verdict("192.0.2.11", "pod/b/b", "80/tcp"), V::Blocked);
}

#[test]
fn what_does_not_exist_is_bad_input() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:80/tcp"]);
    lab.pod_mut("a/a").ended = true;
    let ask = |from: &str, to: &str| {
        let ends: (Endpoint, Endpoint) = (from.parse().unwrap(), to.parse().unwrap());
        explain(&lab.policy, &lab.cluster, &ends.0, &ends.1, Protocol::TCP, 81)
    };
    assert!(matches!(ask("pod/a/none", "pod/b/b"), Err(ExplainError::NotFound(_))));
    assert!(matches!(ask("pod/b/b", "node/none"), Err(ExplainError::NotFound(_))));
    assert!(matches!(ask("pod/a/a", "pod/b/b"), Err(ExplainError::Ended(_))));
    assert!(matches!(ask("svc/b/db", "pod/b/b"), Err(ExplainError::ServiceConnects(_))));
    assert!(matches!(ask("pod/b/b", "svc/b/db"), Err(ExplainError::NoSuchPort { .. })));
    for bad in ["pod/a", "pod//a", "svc/a/b/c", "somewhere", "", "10.0.0.256"] {
        assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
    }
}

#[test]
fn namespaces_without_a_profile_follow_the_default() {
    let mut lab = pair("Full", "Full");
    lab.policy.profiles.clear();
    assert_eq!(lab.explain("pod/a/a", "pod/b/b", "80/tcp").source.state, EndState::Unmanaged);
    lab.policy.cluster = yaml("{defaultProfile: {managed: true, policyState: Full, labels: {env: {value: new}}}}");
    let answer = lab.explain("pod/a/a", "pod/b/b", "80/tcp");
    assert_eq!((answer.verdict, answer.source.state), (V::Blocked, EndState::Full));
    assert_eq!(answer.source.labels, support::strings(&[("env", "new")]));
    assert_eq!(lab.compile().container_workloads[&key("a/a")].state, Some(PolicyState::Full));
}

#[test]
fn the_answer_has_the_fields_of_the_fixed_interface() {
    let mut lab = pair("Full", "VisibilityOnly");
    lab.rules(
        "shop",
        "[{name: ab, consumers: [{labels: {app: [a]}}], providers: [{labels: {role: [web]}}], allServices: true}]",
    );
    let json = serde_json::to_value(lab.explain("pod/a/a", "pod/b/b", "80/tcp")).unwrap();
    assert_eq!(json["verdict"], "blocked");
    assert_eq!(json["source"]["state"], "full");
    assert_eq!(json["source"]["decision"], "default");
    assert_eq!(json["source"]["labels"]["role"], "web");
    assert!(json["source"]["rule"].is_null());
    assert_eq!(json["destination"]["state"], "visibilityOnly");
}

/// What one Pod writes into a value must not read like the annotations of another: labels are derived once for Pods that
/// are alike.
#[test]
fn no_value_of_one_pod_reads_like_the_annotations_of_another() {
    let mut lab = pair("Full", "Full");
    let profile = "{managed: true, policyState: Full, labels: {app: {allowed: [web]}, role: {allowed: [db]}}}";
    lab.policy.profiles.insert("a".to_owned(), yaml(profile));
    let forged = [
        ("ringfence.dev/app", "web\0aringfence.dev/role\0db"),
        ("ringfence.dev/app", "web\0a\0ringfence.dev/role\0db\0"),
    ];
    for (number, (key, value)) in forged.into_iter().enumerate() {
        let name = format!("a/a{number}");
        lab.pod(&name, &format!("10.0.0.{}", 10 + number), "web");
        lab.pod_mut(&name).annotations = support::strings(&[(key, value)]);
    }
    lab.pod("a/honest", "10.0.0.20", "web");
    lab.pod_mut("a/honest").annotations =
        support::strings(&[("ringfence.dev/app", "web"), ("ringfence.dev/role", "db")]);
    let computed = lab.compile();
    let labels = |name: &str| computed.container_workloads[&key(name)].labels.labels.to_string();
    assert_eq!((labels("a/a0"), labels("a/a1")), (String::new(), String::new()));
    assert_eq!(labels("a/honest"), "app=web,role=db");
}

/// Both have an address of each family. IP lists name one of them.
#[rstest]
#[case::v4_list("10.0.0.1/32", [V::Allowed, V::Blocked])]
#[case::v6_list("fd00:10::1/128", [V::Blocked, V::Allowed])]
#[case::every_v4("0.0.0.0/0", [V::Allowed, V::Blocked])]
#[case::every_v6("::/0", [V::Blocked, V::Allowed])]
fn a_connection_to_an_address_runs_over_its_family(#[case] list: &str, #[case] expected: [V; 2]) {
    let mut lab = pair("Idle", "Full");
    for (name, address) in [("a/a", "fd00:10::1"), ("b/b", "fd00:10::2")] {
        lab.pod_mut(name).ips.push(address.parse().unwrap());
    }
    lab.ip_list("office", &format!("{{ranges: ['{list}']}}"));
    lab.rules(
        "allow",
        "[{name: office, consumers: [{ipList: office}], providers: [{labels: {app: [b]}}], allServices: true}]",
    );
    for (own, other, expected) in [("10.0.0.1", "10.0.0.2", expected[0]), ("fd00:10::1", "fd00:10::2", expected[1])] {
        assert_eq!(lab.verdict("pod/a/a", other, "80/tcp"), expected, "to {other}");
        assert_eq!(lab.verdict(own, "pod/b/b", "80/tcp"), expected, "from {own}");
    }
}

/// Who connects by an IPv4 address asks for an IPv4 address of the Service's back ends.
#[test]
fn a_service_is_used_over_the_family_of_who_connects() {
    let mut lab = pair("Idle", "Full");
    for (name, address) in [("a/a", "fd00:10::1"), ("b/b", "fd00:10::2")] {
        lab.pod_mut(name).ips.push(address.parse().unwrap());
    }
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().cluster_ips.clear();
    lab.ip_list("office", "{ranges: ['10.0.0.0/8']}");
    lab.rules(
        "allow",
        "[{name: office, consumers: [{ipList: office}], providers: [{labels: {app: [b]}}], allServices: true}]",
    );
    for (from, expected) in [("10.0.0.1", V::Allowed), ("fd00:10::1", V::Blocked)] {
        let answer = lab.explain(from, "svc/b/db", "80/tcp");
        assert_eq!((answer.verdict, answer.backends.unwrap().len()), (expected, 1), "{from}");
    }
}

#[test]
fn a_rule_by_label_holds_over_both_families() {
    let mut lab = pair("Full", "Full");
    for (name, address) in [("a/a", "fd00:10::1"), ("b/b", "fd00:10::2")] {
        lab.pod_mut(name).ips.push(address.parse().unwrap());
    }
    assert_eq!(lab.verdict("pod/a/a", "fd00:10::2", "80/tcp"), V::Blocked);
    lab.rules("ab", "[{name: ab, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 80}]}]");
    for to in ["pod/b/b", "10.0.0.2", "fd00:10::2"] {
        assert_eq!(lab.verdict("pod/a/a", to, "80/tcp"), V::Allowed, "{to}");
        assert_eq!(lab.verdict("pod/a/a", to, "81/tcp"), V::Blocked, "{to}");
    }
    lab.rules("never", "[{name: never, action: OverrideDeny, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], allServices: true}]");
    assert_eq!(lab.verdict("pod/a/a", "fd00:10::2", "80/tcp"), V::Blocked);
    // What no policy touches: a neighbour solicitation, and no echo.
    assert_eq!(lab.verdict("pod/a/a", "fd00:10::2", "135/icmpv6"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "fd00:10::2", "128/icmpv6"), V::Blocked);
}
