//! The Allow that came nearest where nothing hits, and why it missed. Expectations are written by hand.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ringfence_compile::evaluate::{NearMiss, Side};
use ringfence_model::Verdict;
use rstest::rstest;
use support::{Lab, pair, yaml};

/// `RULESET/RULE: missed: sentence; sentence`
fn text(near: Option<&NearMiss>) -> String {
    let Some(near) = near else { return "none".to_owned() };
    format!("{}/{}: {}: {}", near.rule.rule_set, near.rule.name, near.missed, near.why.join("; "))
}

fn ends(lab: &Lab, from: &str, to: &str, on: &str) -> (String, String) {
    let answer = lab.explain(from, to, on);
    let of = |side: &Side| text(side.nearest.as_ref());
    (of(&answer.source), of(&answer.destination))
}

/// A rule `ab` of RuleSet `r`, in the pair of `a/a` and `b/b`, asked for port 80 from one to the other.
fn missed(rule: &str) -> (String, String) {
    let mut lab = pair("Full", "Full");
    lab.ip_list("office", "{ranges: [10.0.0.0/30], exclusions: [10.0.0.1]}");
    lab.ip_list("far", "{ranges: [192.0.2.0/24]}");
    lab.policy.label_groups.insert("live".to_owned(), yaml("{dimension: env, values: [staging, dev]}"));
    lab.policy.workloads.insert("old".to_owned(), yaml("{addresses: [192.0.2.10], labels: {app: ledger}}"));
    lab.rules("r", &format!("[{{name: ab, {rule}}}]"));
    ends(&lab, "pod/a/a", "pod/b/b", "80/tcp")
}

fn same(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

const A: &str = "consumers: [{labels: {app: [a]}}]";
const B: &str = "providers: [{labels: {app: [b]}}]";

#[rstest]
#[case("services: [{protocol: TCP, port: 443}]", "port 80/TCP is not among 443/TCP")]
#[case(
    "services: [{protocol: UDP}, {protocol: TCP, port: 8000, endPort: 8080}, {protocol: ICMP, icmpType: 8}]",
    "port 80/TCP is not among ICMP type 8, 8000-8080/TCP, every port of UDP"
)]
#[case("services: [{name: postgres}]", "there is no ServiceDefinition postgres: it selects nothing")]
fn a_port_that_is_not_open(#[case] services: &str, #[case] why: &str) {
    assert_eq!(missed(&format!("{A}, {B}, {services}")), same(&format!("r/ab: services: {why}")));
}

#[rstest]
#[case("{labels: {env: [staging, dev]}}", "the consumer has env=prod, the rule wants env=dev or staging")]
#[case("{labelGroups: [live]}", "the consumer has env=prod, the rule wants env=dev or staging")]
#[case("{not: {env: [prod]}}", "the consumer has env=prod, the rule wants another env than prod")]
#[case(
    "{labels: {env: [dev], role: [api]}}",
    "the consumer has env=prod and role=web, the rule wants env=dev and role=api"
)]
#[case(
    "{labels: {loc: [eu]}}",
    "the consumer has no label loc, the rule wants loc=eu: it is in namespace a, whose profile has no label loc"
)]
#[case("{labelGroups: [gone]}", "there is no LabelGroup gone: the term selects nothing")]
#[case("{containerHosts: true}", "the consumer is no node")]
#[case("{workload: old}", "the consumer is not Workload old")]
#[case("{workload: none}", "there is no Workload none: it selects nothing")]
#[case("{ipList: far}", "address 10.0.0.1 is in no range of IPList far")]
#[case("{ipList: office}", "address 10.0.0.1 is among the exclusions of IPList office")]
#[case("{ipList: none}", "there is no IPList none: it selects nothing")]
#[case(
    "{labels: {app: [x], env: [dev]}}, {labels: {app: [a], role: [db]}}",
    "the consumer has role=web, the rule wants role=db (the nearest of 2 terms)"
)]
fn another_consumer(#[case] consumers: &str, #[case] why: &str) {
    let seen = missed(&format!("extraScope: true, consumers: [{consumers}], {B}, allServices: true"));
    assert_eq!(seen, same(&format!("r/ab: consumers: {why}")));
}

#[rstest]
#[case("{labels: {role: [web]}}", "the provider has role=db, the rule wants role=web")]
#[case("{virtualService: b/none}", "there is no VirtualService b/none: it selects nothing")]
fn another_provider(#[case] providers: &str, #[case] why: &str) {
    let seen = missed(&format!("{A}, providers: [{providers}], allServices: true"));
    assert_eq!(seen, same(&format!("r/ab: providers: {why}")));
}

#[test]
fn a_rule_or_rule_set_that_is_switched_off() {
    let off = "r/ab: enabled: the rule is disabled (enabled: false)";
    assert_eq!(missed(&format!("enabled: false, {A}, {B}, allServices: true")), same(off));
    let mut lab = pair("Full", "Full");
    let rule_set = format!("{{enabled: false, scopes: [{{}}], rules: [{{name: ab, {A}, {B}, allServices: true}}]}}");
    lab.rule_set("r", &rule_set);
    let off = "r/ab: enabled: the RuleSet is disabled (enabled: false)";
    assert_eq!(ends(&lab, "pod/a/a", "pod/b/b", "80/tcp"), same(off));
}

#[test]
fn a_scope_that_one_end_lies_outside_of() {
    let mut lab = pair("Full", "Full");
    lab.rule_set(
        "r",
        &format!("{{scopes: [{{labels: {{app: [b]}}}}], rules: [{{name: ab, {A}, {B}, allServices: true}}]}}"),
    );
    let why = "r/ab: scopes: the consumer has app=a, the scope wants app=b";
    assert_eq!(ends(&lab, "pod/a/a", "pod/b/b", "80/tcp"), same(why));
}

#[test]
fn a_virtual_service_outside_of_the_scope() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.policy.virtual_services.insert(support::key("b/db"), yaml("{labels: {role: web}}"));
    lab.rule_set(
        "r",
        "{scopes: [{labels: {role: [db]}}], rules: [{name: ab, extraScope: true, consumers: [{labels: {app: [a]}}], providers: [{virtualService: b/db}], useVirtualServicePorts: true}]}",
    );
    let (_, into) = ends(&lab, "pod/a/a", "pod/b/b", "8080/tcp");
    assert_eq!(into, "r/ab: scopes: VirtualService b/db lies outside of the scope role in (db)");
}

#[test]
fn ports_of_a_virtual_service() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp", "53:1053/udp"]);
    lab.rules(
        "r",
        &format!("[{{name: ab, {A}, providers: [{{virtualService: b/db}}], useVirtualServicePorts: true}}]"),
    );
    let why = "r/ab: services: port 81/TCP is none of the ports of VirtualService b/db (1053/UDP, 8080/TCP)";
    assert_eq!(ends(&lab, "pod/a/a", "pod/b/b", "81/tcp"), same(why));
}

#[test]
fn the_front_end_of_a_service() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.rules("r", &format!("[{{name: ab, {A}, {B}, services: [{{protocol: TCP, port: 80}}]}}]"));
    let (out, into) = ends(&lab, "pod/a/a", "svc/b/db", "80/tcp");
    assert_eq!(out, "r/ab: services: port 80/TCP of Service b/db leads to port 8080/TCP, which is not among 80/TCP");
    assert_eq!(into, "r/ab: services: port 8080/TCP is not among 80/TCP");
    lab.rules("r", &format!("[{{name: ab, {A}, providers: [{{labels: {{role: [web]}}}}], allServices: true}}]"));
    let (out, into) = ends(&lab, "pod/a/a", "svc/b/db", "80/tcp");
    assert_eq!(out, "r/ab: providers: what is behind the Service has role=db, the rule wants role=web");
    assert_eq!(into, "r/ab: providers: the provider has role=db, the rule wants role=web");
}

#[test]
fn a_service_of_a_namespace_that_is_not_managed() {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.policy.profiles.remove("b");
    lab.rules("r", &format!("[{{name: ab, {A}, {B}, allServices: true}}]"));
    let (out, into) = ends(&lab, "pod/a/a", "svc/b/db", "80/tcp");
    assert_eq!(out, "r/ab: providers: Service b/db is in a namespace that is not managed");
    assert_eq!(into, "none", "that end asks no rule");
}

#[test]
fn somebody_who_is_no_workload() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", &format!("[{{name: ab, {A}, {B}, allServices: true}}]"));
    let (_, into) = ends(&lab, "203.0.113.9", "pod/b/b", "80/tcp");
    assert_eq!(into, "r/ab: consumers: the consumer is no workload: address 203.0.113.9 is in no IP list of the rule");
    lab.ip_list("office", "{ranges: [203.0.113.0/29]}");
    lab.rules(
        "r",
        &format!("[{{name: ab, consumers: [{{labels: {{app: [a]}}}}, {{ipList: office}}], {B}, allServices: true}}]"),
    );
    let (_, into) = ends(&lab, "203.0.113.9", "pod/b/b", "80/tcp");
    assert_eq!(
        into,
        "r/ab: consumers: the consumer is no workload: address 203.0.113.9 is in no range of IPList office"
    );
    lab.policy.profiles.remove("a");
    let (out, into) = ends(&lab, "pod/a/a", "pod/b/b", "80/tcp");
    assert_eq!(out, "none");
    assert_eq!(
        into,
        "r/ab: consumers: the consumer has no labels (namespace a is not managed): address 10.0.0.1 is in no range of IPList office"
    );
}

#[test]
fn a_machine_that_is_not_managed() {
    let mut lab = pair("Full", "Full");
    lab.policy.workloads.insert("old".to_owned(), yaml("{addresses: [192.0.2.10], labels: {app: ledger}}"));
    lab.rules(
        "r",
        &format!("[{{name: ab, extraScope: true, consumers: [{{allWorkloads: true}}], {B}, allServices: true}}]"),
    );
    let (_, into) = ends(&lab, "192.0.2.10", "pod/b/b", "80/tcp");
    assert_eq!(
        into,
        "r/ab: consumers: the consumer is a machine that is not managed, and allWorkloads means managed ones here"
    );
}

#[test]
fn a_label_that_a_pod_asks_for_and_does_not_get() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", &format!("[{{name: ab, consumers: [{{labels: {{role: [api]}}}}], {B}, allServices: true}}]"));
    lab.pod_mut("a/a").annotations = support::strings(&[("ringfence.dev/role", "admin")]);
    let (out, _) = ends(&lab, "pod/a/a", "pod/b/b", "80/tcp");
    let begins = "r/ab: consumers: the consumer has no label role, the rule wants role=api: role=admin is not taken, ";
    assert!(out.starts_with(begins), "{out}");
    lab.pod_mut("a/a").annotations.clear();
    assert_eq!(
        ends(&lab, "pod/a/a", "pod/b/b", "80/tcp"),
        same(
            "r/ab: consumers: the consumer has no label role, the rule wants role=api: it has no annotation for role, which the profile of a lets it choose"
        )
    );
}

#[test]
fn an_address_that_two_pods_have() {
    let mut lab = pair("Full", "Full");
    lab.pod("b/other", "10.0.0.1", "db");
    lab.rules("r", &format!("[{{name: ab, {A}, {B}, allServices: true}}]"));
    let (out, into) = ends(&lab, "pod/a/a", "pod/b/b", "80/tcp");
    assert_eq!(out, "none", "the rule hits there");
    let begins = "r/ab: consumers: nobody knows the consumer by its labels (";
    assert!(into.starts_with(begins), "{into}");
}

/// Of ICMP the port is the type.
#[test]
fn a_type_of_icmp() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", &format!("[{{name: ab, {A}, {B}, services: [{{protocol: ICMP, icmpType: 8}}, {{protocol: ICMP, icmpType: 13, icmpCode: 1}}]}}]"));
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "8/icmp"), Verdict::Allowed);
    for kind in [0, 13] {
        let why = format!("r/ab: services: ICMP type {kind} is not among ICMP type 8, ICMP type 13 code 1");
        assert_eq!(ends(&lab, "pod/a/a", "pod/b/b", &format!("{kind}/icmp")), same(&why));
    }
    lab.rules("r", &format!("[{{name: ab, {A}, {B}, services: [{{protocol: ICMP}}, {{protocol: \"47\"}}]}}]"));
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "13/icmp"), Verdict::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "0/47"), Verdict::Allowed);
    assert_eq!(ends(&lab, "pod/a/a", "pod/b/b", "0/50"), same("r/ab: services: protocol 50 is not among ICMP, 47"));
}

/// Fewest respects first; then what is missed, in the order of the module; then by name.
#[test]
fn the_nearest_of_several() {
    let mut lab = pair("Full", "Full");
    let rule = |name: &str, consumer: &str, provider: &str, port: u16| {
        format!(
            "{{name: {name}, consumers: [{{labels: {{app: [{consumer}]}}}}], providers: [{{labels: {{app: [{provider}]}}}}], services: [{{protocol: TCP, port: {port}}}]}}"
        )
    };
    let nearest = |lab: &Lab| {
        let (out, into) = ends(lab, "pod/a/a", "pod/b/b", "80/tcp");
        let name = |text: String| text.split(':').next().unwrap().to_owned();
        (name(out), name(into))
    };
    let both = |name: &str| (name.to_owned(), name.to_owned());
    lab.rules("elsewhere", &format!("[{}]", rule("neither-end", "x", "y", 80)));
    assert_eq!(nearest(&lab), both("none"));
    lab.rules("two", &format!("[{}]", rule("port-and-consumer", "x", "b", 81)));
    assert_eq!(nearest(&lab), both("two/port-and-consumer"));
    lab.rules("one", &format!("[{}]", rule("consumer", "x", "b", 80)));
    assert_eq!(nearest(&lab), both("one/consumer"));
    lab.rules("port", &format!("[{}, {}]", rule("b", "a", "b", 82), rule("a", "a", "b", 81)));
    assert_eq!(nearest(&lab), both("port/a"), "the port is nearer than an end, and a comes before b");
    lab.rules("earlier", &format!("[{}]", rule("z", "a", "b", 83)));
    assert_eq!(nearest(&lab), both("earlier/z"), "by RuleSet before by rule");
    lab.rules("deny", "[{name: d, action: Deny, enabled: false, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], allServices: true}]");
    assert_eq!(nearest(&lab), both("earlier/z"), "a Deny opens nothing");
}
