//! Who and what rules select, written by hand from the policy model.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ringfence_model::Verdict as V;
use support::{Lab, pair, yaml};

/// Namespaces `prod` and `dev` of one app in Full, each with `web` and `api`; and `tools`, another app in env=dev.
fn shop() -> Lab {
    let mut lab = Lab::new();
    for (number, env) in ["prod", "dev"].iter().enumerate() {
        lab.namespace(env, "Full", "shop", env);
        lab.pod(&format!("{env}/web"), &format!("10.0.{number}.1"), "web");
        lab.pod(&format!("{env}/api"), &format!("10.0.{number}.2"), "api");
    }
    lab.namespace("tools", "Full", "tools", "dev").pod("tools/web", "10.0.9.1", "web");
    lab
}

const WEB_TO_API: &str = "{name: web-to-api, consumers: [{labels: {role: [web]}}], providers: [{labels: {role: [api]}}], services: [{protocol: TCP, port: 8080}]}";

fn passes(lab: &Lab, from: &str, to: &str) -> bool {
    match lab.verdict(&format!("pod/{from}"), &format!("pod/{to}"), "8080/tcp") {
        V::Allowed => true,
        V::Blocked => false,
        other => panic!("{from} -> {to}: {other:?}"),
    }
}

#[test]
fn two_scopes_never_cross() {
    let mut lab = shop();
    lab.rule_set("shop", &format!("{{scopes: [{{labels: {{app: [shop], env: [prod]}}}}, {{labels: {{app: [shop], env: [dev]}}}}], rules: [{WEB_TO_API}]}}"));
    assert!(passes(&lab, "prod/web", "prod/api"));
    assert!(passes(&lab, "dev/web", "dev/api"));
    assert!(!passes(&lab, "dev/web", "prod/api"));
    assert!(!passes(&lab, "prod/web", "dev/api"));
    assert!(!passes(&lab, "tools/web", "dev/api"), "another app");
    assert_eq!(lab.compile().workload_policies.len(), 2);
}

#[test]
fn one_scope_with_two_values_does_cross() {
    let mut lab = shop();
    lab.rule_set(
        "shop",
        &format!("{{scopes: [{{labels: {{app: [shop], env: [prod, dev]}}}}], rules: [{WEB_TO_API}]}}"),
    );
    assert!(passes(&lab, "dev/web", "prod/api"));
    assert!(!passes(&lab, "tools/web", "dev/api"));
}

#[test]
fn a_scope_holds_for_the_providers_only_in_extra_scope() {
    let mut lab = shop();
    let rule = "{name: x, extraScope: true, consumers: [{labels: {app: [tools]}}], providers: [{allWorkloads: true}], services: [{protocol: TCP, port: 8080}]}";
    lab.rule_set("shop", &format!("{{scopes: [{{labels: {{app: [shop], env: [prod]}}}}], rules: [{rule}]}}"));
    assert!(passes(&lab, "tools/web", "prod/web"));
    assert!(passes(&lab, "tools/web", "prod/api"));
    assert!(!passes(&lab, "tools/web", "dev/api"), "outside the scope");
    assert!(!passes(&lab, "dev/web", "prod/api"), "not the consumer");
}

#[test]
fn all_workloads_is_the_scope_inside_and_the_managed_outside() {
    let mut lab = shop();
    let rule = |extra: bool| {
        format!(
            "{{name: x, extraScope: {extra}, consumers: [{{allWorkloads: true}}], providers: [{{labels: {{role: [api]}}}}], services: [{{protocol: TCP, port: 8080}}]}}"
        )
    };
    let scope = "scopes: [{labels: {env: [prod]}}]";
    lab.policy.workloads.insert("old".to_owned(), yaml("{addresses: [192.0.2.1], labels: {env: prod}}"));
    lab.rule_set("shop", &format!("{{{scope}, rules: [{}]}}", rule(false)));
    assert!(passes(&lab, "prod/web", "prod/api"));
    assert!(!passes(&lab, "dev/web", "prod/api"));
    assert_eq!(lab.verdict("192.0.2.1", "pod/prod/api", "8080/tcp"), V::Allowed, "a workload of the scope");
    lab.rule_set("shop", &format!("{{{scope}, rules: [{}]}}", rule(true)));
    assert!(passes(&lab, "dev/web", "prod/api"));
    assert!(!passes(&lab, "dev/web", "dev/api"));
    assert_eq!(lab.verdict("node/n2", "pod/prod/api", "8080/tcp"), V::Allowed);
    assert_eq!(lab.verdict("192.0.2.1", "pod/prod/api", "8080/tcp"), V::Blocked, "not managed");
    assert_eq!(lab.verdict("203.0.113.1", "pod/prod/api", "8080/tcp"), V::Blocked, "never an address outside");
}

#[test]
fn not_means_another_value() {
    let mut lab = shop();
    // No env at all.
    lab.policy
        .profiles
        .insert("bare".to_owned(), yaml("{managed: true, policyState: Full, labels: {app: {value: bare}}}"));
    lab.pod("bare/web", "10.0.8.1", "web");
    let open = "{name: open, extraScope: true, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], allServices: true}";
    let deny = "{name: not-prod, action: OverrideDeny, extraScope: true, consumers: [{not: {env: [prod]}}], providers: [{labels: {role: [api]}}], allServices: true}";
    lab.rules("r", &format!("[{open}, {deny}]"));
    assert!(!passes(&lab, "dev/web", "prod/api"), "dev is another env");
    assert!(passes(&lab, "prod/web", "prod/api"));
    assert!(passes(&lab, "bare/web", "prod/api"), "no env is not another env");
}

#[test]
fn values_or_and_dimensions_and() {
    let mut lab = shop();
    let rule = "{name: x, consumers: [{labels: {role: [web, db], env: [dev]}}], providers: [{labels: {role: [api]}}], services: [{protocol: TCP, port: 8080}]}";
    lab.rules("r", &format!("[{rule}]"));
    assert!(passes(&lab, "dev/web", "prod/api"));
    assert!(passes(&lab, "tools/web", "prod/api"));
    assert!(!passes(&lab, "prod/web", "prod/api"));
    assert!(!passes(&lab, "dev/api", "prod/api"));
}

#[test]
fn label_groups_nest_and_circles_end() {
    let mut lab = shop();
    let group = |spec: &str| yaml(spec);
    lab.policy.label_groups.insert("live".to_owned(), group("{dimension: env, values: [staging], groups: [inner]}"));
    lab.policy.label_groups.insert("inner".to_owned(), group("{dimension: env, values: [prod], groups: [live]}"));
    lab.policy.label_groups.insert("front".to_owned(), group("{dimension: role, values: [web]}"));
    let rule = "{name: x, consumers: [{labelGroups: [live, front]}], providers: [{labels: {role: [api]}}], services: [{protocol: TCP, port: 8080}]}";
    lab.rules("r", &format!("[{rule}]"));
    assert!(passes(&lab, "prod/web", "dev/api"));
    assert!(!passes(&lab, "dev/web", "dev/api"), "env is none of the group's");
    assert!(!passes(&lab, "prod/api", "dev/api"), "role is none of the group's");
    // Without the inner group nothing but staging is left.
    lab.policy.label_groups.remove("inner");
    assert!(!passes(&lab, "prod/web", "dev/api"));
    assert!(lab.compile().warnings["r"][0].contains("no LabelGroup inner"));
}

/// Whatever a rule refers to in vain selects nothing, and the RuleSet says so.
#[test]
fn nothing_empty_widens() {
    let cases = [
        "{name: x, consumers: [{labels: {role: []}}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{not: {role: []}}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{labelGroups: [none]}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{labelGroups: [hollow]}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{labels: {role: [web]}, labelGroups: [hollow]}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{ipList: none}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{ipList: hollow}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{ipList: excluded}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{ipList: unreadable}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{workload: none}], providers: [{allWorkloads: true}], allServices: true}",
        "{name: x, consumers: [{allWorkloads: true}], providers: [{virtualService: prod/none}], allServices: true}",
        "{name: x, consumers: [{allWorkloads: true}], providers: [{virtualService: prod/none}], useVirtualServicePorts: true}",
        "{name: x, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], services: [{name: none}]}",
        "{name: x, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], services: [{name: hollow}]}",
        "{name: x, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], services: []}",
    ];
    for rule in cases {
        let mut lab = shop();
        lab.policy.label_groups.insert("hollow".to_owned(), yaml("{dimension: env, values: []}"));
        lab.policy.service_definitions.insert("hollow".to_owned(), yaml("{ports: []}"));
        lab.ip_list("hollow", "{ranges: []}");
        lab.ip_list("excluded", "{ranges: [10.0.0.0/24], exclusions: [10.0.0.0/16]}");
        lab.ip_list("unreadable", "{ranges: [0.0.0.0/0], exclusions: [10.0.0.0/33]}");
        lab.rules("r", &format!("[{rule}]"));
        assert!(!passes(&lab, "prod/web", "prod/api"), "{rule}");
        let computed = lab.compile();
        assert!(!computed.warnings.get("r").is_none_or(Vec::is_empty), "{rule}");
        assert!(computed.workload_policies.is_empty(), "{rule}: {:?}", computed.workload_policies);
    }
}

#[test]
fn all_workloads_with_virtual_service_ports_open_nothing() {
    let mut lab = shop();
    lab.rules("r", "[{name: x, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], useVirtualServicePorts: true}]");
    assert!(!passes(&lab, "prod/web", "prod/api"));
    assert!(lab.compile().workload_policies.is_empty());
}

#[test]
fn an_empty_scope_list_selects_nothing() {
    let mut lab = shop();
    lab.rule_set("r", &format!("{{scopes: [], rules: [{WEB_TO_API}]}}"));
    assert!(!passes(&lab, "prod/web", "prod/api"));
    lab.rule_set("r", &format!("{{scopes: [{{labels: {{env: []}}}}], rules: [{WEB_TO_API}]}}"));
    assert!(!passes(&lab, "prod/web", "prod/api"));
    assert_eq!(lab.compile().warnings["r"].len(), 1);
}

#[test]
fn exclusions_are_taken_out_of_ip_lists() {
    let mut lab = pair("Full", "Full");
    lab.ip_list("office", "{ranges: [203.0.113.0/24, 198.51.100.10-198.51.100.20], exclusions: [203.0.113.128/25]}");
    lab.rules("r", "[{name: x, consumers: [{ipList: office}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 443}]}]");
    for (from, expected) in [
        ("203.0.113.1", V::Allowed),
        ("203.0.113.127", V::Allowed),
        ("203.0.113.128", V::Blocked),
        ("198.51.100.9", V::Blocked),
        ("198.51.100.10", V::Allowed),
        ("198.51.100.20", V::Allowed),
        ("198.51.100.21", V::Blocked),
    ] {
        assert_eq!(lab.verdict(from, "pod/b/b", "443/tcp"), expected, "{from}");
    }
    assert_eq!(lab.verdict("203.0.113.1", "pod/b/b", "80/tcp"), V::Blocked);
    let computed = lab.compile();
    let policy = computed.workload_policies.values().next().unwrap();
    assert_eq!(policy.rules.len(), 1, "programmed at the managed end only");
    let addresses = policy.rules[0].peers[0].addresses.as_ref().unwrap();
    assert_eq!(
        addresses,
        &["198.51.100.10/31", "198.51.100.12/30", "198.51.100.16/30", "198.51.100.20/32", "203.0.113.0/25"]
    );
}

#[test]
fn ranges_of_ports_and_protocols_are_exact() {
    let mut lab = pair("Full", "Full");
    lab.policy
        .service_definitions
        .insert("metrics".to_owned(), yaml("{ports: [{protocol: TCP, port: 9090, endPort: 9100}]}"));
    lab.rules("r", "[{name: x, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{name: metrics}, {protocol: UDP}]}]");
    for (on, expected) in [
        ("9089/tcp", V::Blocked),
        ("9090/tcp", V::Allowed),
        ("9100/tcp", V::Allowed),
        ("9101/tcp", V::Blocked),
        ("9101/udp", V::Allowed),
    ] {
        assert_eq!(lab.verdict("pod/a/a", "pod/b/b", on), expected, "{on}");
    }
}

#[test]
fn workloads_by_name_and_container_hosts() {
    let mut lab = pair("Full", "Full");
    lab.policy.workloads.insert("old".to_owned(), yaml("{addresses: [192.0.2.10], labels: {env: prod}}"));
    lab.rules("r", "[{name: x, consumers: [{workload: old}, {workload: n1}], providers: [{labels: {app: [b]}}], allServices: true}]");
    assert_eq!(lab.verdict("192.0.2.10", "pod/b/b", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("node/n1", "pod/b/b", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("node/n2", "pod/b/b", "80/tcp"), V::Blocked);
    lab.rules(
        "r",
        "[{name: x, consumers: [{containerHosts: true}], providers: [{labels: {app: [b]}}], allServices: true}]",
    );
    assert_eq!(lab.verdict("node/n2", "pod/b/b", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("192.0.2.10", "pod/b/b", "80/tcp"), V::Blocked);
    // An intra-scope rule takes only the hosts of the scope.
    lab.rule_set("r", "{scopes: [{labels: {env: [prod]}}], rules: [{name: x, consumers: [{containerHosts: true}], providers: [{labels: {app: [b]}}], allServices: true}]}");
    assert_eq!(lab.verdict("node/n2", "pod/b/b", "80/tcp"), V::Blocked);
    lab.policy.workloads.insert("n2".to_owned(), yaml("{labels: {env: prod}}"));
    assert_eq!(lab.verdict("node/n2", "pod/b/b", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("node/n1", "pod/b/b", "80/tcp"), V::Blocked);
}

#[test]
fn labels_come_from_the_profile_within_its_list() {
    let mut lab = shop();
    lab.rules("r", &format!("[{WEB_TO_API}]"));
    lab.pod("prod/admin", "10.0.0.9", "admin");
    let shown = &lab.compile().container_workloads[&support::key("prod/admin")];
    assert_eq!(shown.labels.labels.to_string(), "app=shop,env=prod");
    assert_eq!(shown.labels.refused.len(), 1);
    // A mirror Pod chooses nothing, since the kubelet alone writes it.
    lab.pod_mut("prod/web").mirror = true;
    assert!(!passes(&lab, "prod/web", "prod/api"));
}

#[test]
fn node_labels_count_from_keys_that_a_kubelet_cannot_set() {
    let mut lab = pair("Full", "Full");
    lab.policy.cluster = yaml(
        "{labelMap: [{from: node-restriction.kubernetes.io/place, to: loc, values: {eu-1: eu}}, {from: topology.kubernetes.io/region, to: app}]}",
    );
    let labels =
        support::strings(&[("node-restriction.kubernetes.io/place", "eu-1"), ("topology.kubernetes.io/region", "b")]);
    lab.cluster.nodes.get_mut("n1").unwrap().labels = labels;
    let computed = lab.compile();
    assert_eq!(computed.workloads["n1"].labels, support::strings(&[("loc", "eu")]));
    assert_eq!(computed.cluster_warnings.len(), 1);
    assert!(computed.cluster_warnings[0].contains("topology.kubernetes.io/region"));
}
