//! Input that nobody would write by hand: enormous, deep, in circles, out of bounds. Each case ends, in little memory, with
//! an error that names the object and its place; and nothing that is too much lets more through. Unbounded, each would take
//! minutes or more memory than there is: that it ends is what is tested.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fmt::Write as _;

use ringfence_compile::cluster::{
    EndpointInfo, EndpointSliceInfo, ServiceInfo, ServicePortInfo, SlicePortInfo, TargetPortInfo,
};
use ringfence_compile::source::{LiveNames, Problem, Severity, check, parse};
use ringfence_model::{Decision as D, Protocol, Verdict as V};
use rstest::rstest;
use support::source::{all_problems, files, object, rule};
use support::{Lab, key, pair};

const RULE: &str = "consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], allServices: true}";

fn shown(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// The problems that refuse a source.
fn errors(text: &str) -> Vec<Problem> {
    let mut problems = all_problems(&[("a.yaml", text)]);
    problems.retain(|problem| problem.severity == Severity::Error);
    problems
}

/// One error, in few words, that holds a piece; and nothing of the source is taken.
#[track_caller]
fn refused(text: &str, piece: &str) {
    let parsed = parse(&files(&[("a.yaml", text)]));
    let problems = errors(text);
    assert_eq!(problems.len(), 1, "{:#?}", shown(&problems[..problems.len().min(5)]));
    assert_eq!((problems[0].path.as_str(), problems[0].severity), ("a.yaml", Severity::Error));
    assert!(problems[0].message.contains(piece) && problems[0].message.len() < 1_100, "{}", problems[0]);
    assert!(parsed.objects.is_empty());
}

fn list(make: impl Fn(usize) -> String, count: usize) -> String {
    (0..count).map(make).collect::<Vec<_>>().join(", ")
}

// --- Files -------------------------------------------------------------------------------------------------------------

#[test]
fn a_million_rules_in_one_file() {
    let rules = "- {}\n".repeat(1_000_000);
    refused(&object("RuleSet", "r", &format!("  scopes: [{{}}]\n  rules:\n{rules}")), "not readable as YAML");
}

#[test]
fn more_rules_than_a_rule_set_takes() {
    let rules: String = (0..5_000).map(|number| format!("  - {{name: r{number}, {RULE}\n")).collect();
    let text = object("RuleSet", "r", &format!("  scopes: [{{}}]\n  rules:\n{rules}"));
    refused(&text, "5000 entries are too many: at most 256, split the object");
}

#[test]
fn scopes_times_rules() {
    let scopes = list(|number| format!("{{labels: {{app: [a{number}]}}}}"), 64);
    let rules = list(|number| format!("{{name: r{number}, {RULE}"), 65);
    refused(&object("RuleSet", "r", &format!("  scopes: [{scopes}]\n  rules: [{rules}]\n")), "scopes times rules");
}

#[test]
fn ten_thousand_values_and_dimensions() {
    let values = list(|number| format!("v{number}"), 10_000);
    let dimensions = list(|number| format!("d{number}: [a]"), 10_000);
    let scope = |labels: &str| object("RuleSet", "r", &format!("  scopes: [{{labels: {{{labels}}}}}]\n  rules: []\n"));
    refused(&scope(&format!("app: [{values}]")), "10000 entries are too many: at most 256");
    refused(&scope(&dimensions), "10000 entries are too many: at most 16");
    let actor = |labels: &str| {
        rule(&format!(
            "  - name: a\n    consumers: [{{{labels}}}]\n    providers: [{{allWorkloads: true}}]\n    allServices: true\n"
        ))
    };
    refused(&actor(&format!("labels: {{app: [{values}]}}")), "10000 entries are too many: at most 256");
    refused(&actor(&format!("not: {{{dimensions}}}")), "10000 entries are too many: at most 16");
    let group = object("LabelGroup", "g", &format!("  dimension: app\n  values: [{values}]\n"));
    refused(&group, "10000 entries are too many: at most 1024");
}

#[test]
fn long_keys_and_values() {
    let long = "a".repeat(128 << 10);
    let group = |values: &str| object("LabelGroup", "g", &format!("  dimension: app\n  values: [{values}]\n"));
    refused(&group(&long), "131072 characters are too many: at most 63");
    refused(&object("LabelGroup", &long, "  dimension: app\n  values: [a]\n"), "is no name");
    let key = format!("  scopes:\n  - labels:\n      ? \"{long}\"\n      : [a]\n  rules: []\n");
    refused(&object("RuleSet", "r", &key), "has 131072 bytes and at most 317 are possible");
    refused(&format!("? \"{long}\"\n: x\n"), "has 131072 bytes");
}

/// The path of each of the items would hold all of the keys around it.
#[test]
fn long_keys_around_many_items() {
    let key = "k".repeat(300);
    let depth = 50;
    let open: String = (0..depth).map(|_| format!("{{? \"{key}\" : ")).collect();
    let items = "1,".repeat(100_000);
    let text = object("RuleSet", "r", &format!("  x: {open}[{items}]{}\n", "}".repeat(depth)));
    assert!(all_problems(&[("a.yaml", &text)]).len() < 10);
}

#[test]
fn many_keys_once_and_twice() {
    let unknown = list(|number| format!("x{number}: 1"), 50_000);
    let twice = list(|_| "a: 1".to_owned(), 50_000);
    for spec in [&unknown, &twice] {
        let problems = all_problems(&[("a.yaml", &object("RuleSet", "r", &format!("  {{{spec}}}\n")))]);
        assert!((2..=201).contains(&problems.len()), "{}", problems.len());
        assert!(problems.iter().any(|problem| problem.message.contains("further problems of this document")));
    }
    let problems = all_problems(&[("a.yaml", &format!("{{{unknown}}}"))]);
    assert!((1..=201).contains(&problems.len()), "{}", problems.len());
}

#[test]
fn many_documents_with_an_error() {
    let problems = all_problems(&[("a.yaml", &"--- x\n".repeat(50_000))]);
    assert_eq!(problems.len(), 1_001);
    assert!(problems.iter().any(|problem| problem.message.contains("the rest of the file was not read")));
}

#[test]
fn deep_nesting() {
    refused(&"[".repeat(100_000), "not readable as YAML");
    refused(&format!("a: {}{}", "{a: ".repeat(1_000), "}".repeat(1_000)), "not readable as YAML");
}

#[rstest]
#[case("{protocol: TCP, port: 0}")]
#[case("{protocol: TCP, port: 65536}")]
#[case("{protocol: TCP, port: -1}")]
#[case("{protocol: TCP, port: 4294967376}")]
#[case("{protocol: TCP, port: 18446744073709551696}")]
#[case("{protocol: TCP, port: 1, endPort: 65536}")]
#[case("{protocol: TCP, port: 1, endPort: 4294967297}")]
#[case("{protocol: TCP, port: 443, endPort: 80}")]
#[case("{protocol: TCP, endPort: 80}")]
#[case("{protocol: TCP, port: 80.5}")]
#[case("{protocol: ICMP, icmpType: 256}")]
#[case("{protocol: ICMP, icmpType: -1}")]
#[case("{protocol: ICMP, icmpType: 8, icmpCode: 256}")]
#[case("{protocol: \"256\"}")]
#[case("{protocol: \"-1\"}")]
#[case("{protocol: \"999\"}")]
fn numbers_out_of_bounds(#[case] port: &str) {
    let text = object("ServiceDefinition", "d", &format!("  ports: [{port}]\n"));
    assert!(parse(&files(&[("a.yaml", &text)])).objects.is_empty());
    assert!(all_problems(&[("a.yaml", &text)]).iter().any(|problem| problem.line == 5 || problem.line == 6), "{text}");
}

#[test]
fn every_port_is_a_range() {
    let text = object("ServiceDefinition", "d", "  ports: [{protocol: TCP, port: 1, endPort: 65535}]\n");
    assert_eq!(all_problems(&[("a.yaml", &text)]), []);
}

// --- Objects that refer to each other ----------------------------------------------------------------------------------

fn groups(count: usize, inner: impl Fn(usize) -> Option<usize>) -> String {
    let mut text = String::new();
    for number in 0..count {
        let groups = inner(number).map(|inner| format!("g{inner:05}")).unwrap_or_default();
        let spec = format!("spec: {{dimension: app, groups: [{groups}]}}");
        let head = "apiVersion: ringfence.dev/v1alpha1\nkind: LabelGroup\n";
        writeln!(text, "---\n{head}metadata: {{name: g{number:05}}}\n{spec}").unwrap();
    }
    text
}

#[test]
fn a_long_chain_of_groups() {
    let text = groups(3_000, |number| (number + 1 < 3_000).then_some(number + 1));
    let problems = all_problems(&[("a.yaml", &text)]);
    assert_eq!(problems.len(), 2_999);
    assert!(problems.iter().all(|problem| problem.message.ends_with("is empty and selects nothing")));
}

#[test]
fn a_long_circle_of_groups() {
    let text = groups(3_000, |number| Some((number + 1) % 3_000));
    let parsed = parse(&files(&[("a.yaml", &text)]));
    let problems = check(&parsed, &LiveNames::default());
    let circles: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert_eq!(circles.len(), 1, "{:#?}", shown(&problems[..3]));
    assert_eq!(circles[0].line, 5);
    assert!(circles[0].message.starts_with("LabelGroups contain each other: g00000 > g00001 > "), "{}", circles[0]);
    assert!(circles[0].message.ends_with("> g00000; take one out of another's groups"), "{}", circles[0]);
}

/// Addresses, no two of which are in one /64.
fn scattered(count: usize) -> String {
    list(|number| format!("\"0:0:0:{:x}::\"", number + 1), count)
}

#[test]
fn holes_in_every_address() {
    let list = |ranges: &str, exclusions: &str| {
        object("IPList", "l", &format!("  ranges: [{ranges}]\n  exclusions: [{exclusions}]\n"))
    };
    refused(&list("0.0.0.0/0, \"::/0\"", &scattered(10_000)), "more than 65536 prefixes");
    assert_eq!(errors(&list("0.0.0.0/0, \"::/0\"", &scattered(500))), []);
    // Ten thousand times the same hole is one.
    let same = vec!["\"2001:db8::1\""; 10_000].join(", ");
    assert_eq!(errors(&list("\"::/0\"", &same)), []);
}

// --- What comes to too much only when objects meet -----------------------------------------------------------------------

#[test]
fn a_list_that_comes_to_too_much() {
    let spec = format!("{{ranges: [\"::/0\", 10.0.0.0/8], exclusions: [{}, 10.0.0.2]}}", scattered(10_000));
    let rules = |action: &str| {
        format!(
            "[{{name: x, action: {action}, consumers: [{{labels: {{app: [a]}}}}], providers: [{{ipList: l}}], allServices: true}}]"
        )
    };
    let mut lab = pair("Full", "Idle");
    lab.ip_list("l", &spec).rules("r", &rules("Allow"));
    assert_eq!(lab.verdict("pod/a/a", "10.0.0.9", "80/tcp"), V::Blocked, "it opens nothing");
    let warnings = lab.compile().warnings.remove("r").unwrap();
    assert!(warnings.iter().any(|text| text.contains("IPList l comes to more than 65536 prefixes")), "{warnings:?}");
    for action in ["Deny", "OverrideDeny"] {
        let mut lab = pair("Selective", "Idle");
        lab.ip_list("l", &spec).rules("r", &rules(action));
        assert_eq!(lab.verdict("pod/a/a", "10.0.0.9", "80/tcp"), V::Blocked);
        assert_eq!(lab.verdict("pod/a/a", "10.0.0.2", "80/tcp"), V::Blocked, "what may be in it");
        assert_eq!(lab.verdict("pod/a/a", "192.0.2.1", "80/tcp"), V::PotentiallyBlocked, "what cannot be in it");
    }
}

#[test]
fn a_group_that_comes_to_too_much() {
    let group = |lab: &mut Lab, name: &str, values: &str, groups: &str| {
        let spec = support::yaml(&format!("{{dimension: app, values: [{values}], groups: [{groups}]}}"));
        lab.policy.label_groups.insert(name.to_owned(), spec);
    };
    let rules = |action: &str| {
        format!(
            "[{{name: x, action: {action}, consumers: [{{labelGroups: [g]}}], providers: [{{ipList: any}}], allServices: true}}]"
        )
    };
    for (state, action, expected) in
        [("Full", "Allow", (D::Default, V::Blocked)), ("Selective", "Deny", (D::Deny, V::Blocked))]
    {
        let mut lab = pair(state, "Idle");
        lab.ip_list("any", "{ranges: [0.0.0.0/0]}").rules("r", &rules(action));
        group(&mut lab, "g", "a", &list(|number| format!("g{number}"), 5));
        (0..5).for_each(|part| group(&mut lab, &format!("g{part}"), &list(|n| format!("v{part}-{n}"), 1_000), ""));
        let answer = lab.explain("pod/a/a", "192.0.2.1", "80/tcp");
        assert_eq!((answer.source.decision, answer.verdict), expected);
        let warnings = lab.compile().warnings.remove("r").unwrap();
        assert!(warnings.iter().any(|text| text.contains("LabelGroup g comes to 5001 values")), "{warnings:?}");
    }
}

#[test]
fn a_rule_set_that_comes_to_too_much() {
    let scopes = list(|number| format!("{{labels: {{env: [prod, e{number}]}}}}"), 64);
    let allow = "consumers: [{labels: {app: [a]}}], providers: [{ipList: l}], allServices: true}";
    let rules = list(|number| format!("{{name: r{number}, {allow}"), 63);
    let deny = "{name: d, action: Deny, consumers: [{labels: {app: [x]}}], providers: [{ipList: l}], \
                services: [{protocol: TCP, port: 445}]}";
    let addresses = list(|number| format!("10.9.{}.{}", number / 100, number % 100 * 2), 300);
    let mut lab = pair("Full", "Idle");
    lab.ip_list("l", &format!("{{ranges: [{addresses}]}}"));
    lab.rule_set("r", &format!("{{scopes: [{scopes}], rules: [{rules}, {deny}]}}"));
    assert_eq!(lab.verdict("pod/a/a", "10.9.0.2", "80/tcp"), V::Blocked, "what it allows is not opened");
    let computed = lab.compile();
    assert_eq!(computed.workload_policies.len(), 1);
    let warnings = &computed.warnings["r"];
    assert!(warnings.iter().any(|text| text.contains("it comes to more than 1000000 rules")), "{warnings:?}");
    // What it denies is, for everybody whom it may mean.
    lab.namespace("a", "Selective", "a", "prod");
    assert_eq!(lab.decisions("pod/a/a", "192.0.2.1", "445/tcp").0, D::Deny);
    assert_eq!(lab.verdict("pod/a/a", "192.0.2.1", "446/tcp"), V::PotentiallyBlocked);
    // With a scope less than half as many it is what is written.
    let scopes = list(|number| format!("{{labels: {{env: [prod, e{number}]}}}}"), 8);
    lab.rule_set("r", &format!("{{scopes: [{scopes}], rules: [{rules}, {deny}]}}"));
    assert_eq!(lab.verdict("pod/a/a", "10.9.0.2", "80/tcp"), V::Allowed);
    assert_eq!(lab.compile().warnings.get("r"), None);
}

/// A commit is refused for the same reasons, so that it comes to none of that.
#[test]
fn what_comes_to_too_much_is_refused_in_a_commit() {
    let addresses = list(|number| format!("10.9.{}.{}", number / 100, number % 100 * 2), 300);
    let lists = object("IPList", "l", &format!("  ranges: [{addresses}]\n"));
    let set = |name: &str, scopes: usize, rules: usize| {
        let scopes = list(|number| format!("{{labels: {{env: [e{number}]}}}}"), scopes);
        let allow = "consumers: [{allWorkloads: true}], providers: [{ipList: l}], allServices: true}";
        let rules = list(|number| format!("{{name: r{number}, {allow}"), rules);
        object("RuleSet", name, &format!("  scopes: [{scopes}]\n  rules: [{rules}]\n"))
    };
    let problems = all_problems(&[("a.yaml", &lists), ("b.yaml", &set("one", 64, 63))]);
    assert_eq!(problems.len(), 1, "{:#?}", shown(&problems));
    assert_eq!((problems[0].path.as_str(), problems[0].line, problems[0].severity), ("b.yaml", 6, Severity::Error));
    assert!(problems[0].message.contains("it comes to more than 1000000 rules"), "{}", problems[0]);
    // Each of these comes to 900,000.
    let many: Vec<String> = (0..7).map(|number| set(&format!("many{number}"), 50, 60)).collect();
    let five: Vec<(&str, &str)> = many[..5].iter().map(|text| ("b.yaml", text.as_str())).collect();
    assert_eq!(all_problems(&[vec![("a.yaml", lists.as_str())], five].concat()), []);
    let seven: Vec<(&str, &str)> = many.iter().map(|text| ("b.yaml", text.as_str())).collect();
    let problems = all_problems(&[vec![("a.yaml", lists.as_str())], seven].concat());
    assert_eq!(problems.len(), 1, "{:#?}", shown(&problems));
    assert!(problems[0].message.starts_with("with it, the RuleSets come to more than 5000000"), "{}", problems[0]);
    // Groups.
    let part = |number: usize| {
        let values = list(|value| format!("v{number}-{value}"), 1_000);
        object("LabelGroup", &format!("g{number}"), &format!("  dimension: app\n  values: [{values}]\n"))
    };
    let inner = list(|number| format!("g{number}"), 5);
    let whole = object("LabelGroup", "g", &format!("  dimension: app\n  groups: [{inner}]\n"));
    let user =
        rule("  - {name: a, consumers: [{labelGroups: [g]}], providers: [{allWorkloads: true}], allServices: true}\n");
    let mut texts: Vec<String> = (0..5).map(part).collect();
    texts.extend([whole, user]);
    let sources: Vec<(&str, &str)> = texts.iter().map(|text| ("a.yaml", text.as_str())).collect();
    let problems = all_problems(&sources);
    assert_eq!(problems.len(), 1, "{:#?}", shown(&problems));
    assert!(
        problems[0].message.contains("LabelGroup g comes to 5000 values and at most 4096 count"),
        "{}",
        problems[0]
    );
}

/// As many as a busy cluster has, and some more: what they take grows as they do.
#[test]
fn many_rules_in_many_rule_sets() {
    let mut lab = pair("Full", "Full");
    let rules = list(
        |number| {
            format!(
                "{{name: r{number}, consumers: [{{labels: {{app: [a]}}}}], providers: [{{labels: {{app: [b]}}}}], \
                 services: [{{protocol: TCP, port: {}}}]}}",
                number + 1
            )
        },
        256,
    );
    lab.rules("r", &format!("[{rules}]"));
    let spec = lab.policy.rule_sets["r"].clone();
    (0..40).for_each(|number| _ = lab.policy.rule_sets.insert(format!("r{number}"), spec.clone()));
    let computed = lab.compile();
    assert_eq!(computed.workload_policies.values().map(|policy| policy.rules.len()).sum::<usize>(), 41 * 256 * 2);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "256/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "257/tcp"), V::Blocked);
}

// --- The cluster -------------------------------------------------------------------------------------------------------

/// The Service `b/db` with so many ports, and a slice of these addresses.
fn service(lab: &mut Lab, ports: u16, addresses: impl Iterator<Item = String>) {
    let name = |port: u16| format!("p{port}");
    let ports = 1..=ports;
    let own = ports.clone().map(|port| ServicePortInfo {
        name: name(port),
        protocol: Protocol::TCP,
        port,
        target_port: TargetPortInfo::Number(port),
        node_port: None,
    });
    let led = ports.map(|port| SlicePortInfo { name: name(port), protocol: Protocol::TCP, port });
    let info = ServiceInfo {
        selector: support::strings(&[("app", "db")]),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        ports: own.collect(),
        ..ServiceInfo::default()
    };
    let endpoints = addresses
        .map(|address| EndpointInfo { addresses: vec![address.parse().unwrap()], target_pod: Some(key("b/b")) });
    let slice =
        EndpointSliceInfo { service: Some("db".to_owned()), endpoints: endpoints.collect(), ports: led.collect() };
    lab.cluster.services.insert(key("b/db"), info);
    lab.cluster.endpoint_slices.insert(key("b/db"), slice);
}

const TO_SERVICE: &str =
    "[{name: x, consumers: [{labels: {app: [a]}}], providers: [{virtualService: b/db}], useVirtualServicePorts: true}]";

#[test]
fn a_service_of_65000_ports() {
    let mut lab = pair("Full", "Full");
    service(&mut lab, 65_000, std::iter::once("10.0.0.2".to_owned()));
    lab.rules("r", TO_SERVICE);
    assert_eq!(lab.verdict("pod/a/a", "10.96.0.1", "65000/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "pod/b/b", "65001/tcp"), V::Blocked);
}

#[test]
fn slices_of_100000_addresses() {
    let mut lab = pair("Full", "Full");
    let foreign =
        (0..100_000).map(|number| format!("10.{}.{}.{}", 100 + number / 10_000, number / 100 % 100, number % 100));
    service(&mut lab, 2, std::iter::once("10.0.0.2".to_owned()).chain(foreign));
    lab.rules("r", TO_SERVICE);
    let computed = lab.compile();
    let warnings = &computed.service_warnings[&key("b/db")];
    assert!(warnings.len() <= 101, "{}", warnings.len());
    assert!(warnings[0].contains("more than 100000 addresses times ports"), "{}", warnings[0]);
    let ends = computed.address_groups.values().find_map(|group| group.service.as_ref()).unwrap();
    assert!(ends.front_ends.is_empty(), "nobody knows where it leads");
}

#[test]
fn a_pod_of_10000_annotations_and_addresses() {
    let mut lab = pair("Full", "Full");
    let pod = lab.pod_mut("b/b");
    pod.annotations.extend((0..10_000).map(|number| (format!("ringfence.dev/d{number}"), "x".repeat(20))));
    pod.ips.extend((0..10_000).map(|n| format!("10.7.{}.{}", n / 100, n % 100).parse::<std::net::IpAddr>().unwrap()));
    lab.rules("r", "[{name: x, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 80}]}]");
    assert_eq!(lab.verdict("pod/a/a", "10.7.99.99", "80/tcp"), V::Allowed);
    assert_eq!(lab.verdict("pod/a/a", "10.7.99.99", "81/tcp"), V::Blocked);
}
