//! Room 2 on objects that are judged by each other. Places and messages are written by hand, from the text beside them.

mod support;

use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_compile::source::{LiveNames, Parsed, Severity, check, parse, to_policy};
use rstest::rstest;
use support::source::{all_problems, assert_only, files, object, places, rule};

#[rstest]
#[case::list(
    "  - {name: a, consumers: [{ipList: x}], providers: [{allWorkloads: true}], allServices: true}\n",
    "7:36",
    "error: there is no IPList x"
)]
#[case::group(
    "  - {name: a, consumers: [{labelGroups: [x]}], providers: [{allWorkloads: true}], allServices: true}\n",
    "7:42",
    "error: there is no LabelGroup x"
)]
#[case::service(
    "  - {name: a, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], services: [{name: x}]}\n",
    "7:103",
    "error: there is no ServiceDefinition x"
)]
#[case::workload(
    "  - {name: a, consumers: [{workload: x}], providers: [{allWorkloads: true}], allServices: true}\n",
    "7:38",
    "warning: Workload x is not known here"
)]
#[case::virtual_service(
    "  - {name: a, consumers: [{allWorkloads: true}], providers: [{virtualService: n/x}], useVirtualServicePorts: true}\n",
    "7:79",
    "warning: VirtualService n/x is not known here"
)]
fn a_dangling_reference_is_told(#[case] block: &str, #[case] place: &str, #[case] fragment: &str) {
    assert_only(&rule(block), place, fragment);
}

/// A name stands where a Pod connects to, and there only.
#[rstest]
#[case::deny("action: Deny, consumers: [{allWorkloads: true}], providers: [{ipList: x}]", &["b.yaml:7:85 error"], "cannot be blocked")]
#[case::override_deny(
    "action: OverrideDeny, consumers: [{allWorkloads: true}], providers: [{ipList: x}]",
    &["b.yaml:7:93 error"],
    "cannot be blocked"
)]
#[case::deny_from("action: Deny, consumers: [{ipList: x}], providers: [{allWorkloads: true}]", &["b.yaml:7:50 error"], "cannot be blocked")]
#[case::from("consumers: [{ipList: x}], providers: [{allWorkloads: true}]", &["b.yaml:7:36 error"], "known by address")]
#[case::to("consumers: [{allWorkloads: true}], providers: [{ipList: x}]", &[], "")]
fn names_stand_where_a_pod_connects_to(#[case] sides: &str, #[case] expected: &[&str], #[case] fragment: &str) {
    let list = object("IPList", "x", "  ranges: [192.0.2.0/24]\n  fqdns: [db.example.com]\n");
    let rule = rule(&format!("  - {{name: a, {sides}, allServices: true}}\n"));
    let found = all_problems(&[("a.yaml", &list), ("b.yaml", &rule)]);
    assert_eq!(places(&found), expected, "{found:#?}");
    assert!(found.iter().all(|problem| problem.message.contains(fragment)), "{found:#?}");
    assert!(found.iter().all(|problem| problem.message.contains("list addresses under ranges")), "{found:#?}");

    // The same list in the cluster, beside the commit.
    let parsed = parse(&files(&[("b.yaml", &rule)]));
    let live = LiveNames {
        keys: [ObjectKey::cluster_wide(Kind::IpList, "x")].into(),
        lists_with_names: ["x".to_owned()].into(),
    };
    assert_eq!(places(&check(&parsed, &live)), expected);
}

#[test]
fn an_object_is_written_once() {
    let a = object("IPList", "a", "  ranges: []\n");
    let found = all_problems(&[("a.yaml", &a), ("b.yaml", &a)]);
    assert_eq!(places(&found), ["b.yaml:3:18 error"]);
    assert!(found[0].message.contains("IPList a is already written in a.yaml:3"), "{found:#?}");
}

#[test]
fn a_broken_object_is_written_once_too() {
    let (good, broken) = (object("IPList", "a", "  ranges: []\n"), object("IPList", "a", "  ranges: [nonsense]\n"));
    for (first, second, expected) in [
        (&good, &broken, ["b.yaml:3:18 error", "b.yaml:5:12 error"]),
        (&broken, &good, ["a.yaml:5:12 error", "b.yaml:3:18 error"]),
    ] {
        let found = all_problems(&[("a.yaml", first), ("b.yaml", second)]);
        assert_eq!(places(&found), expected, "{found:#?}");
        assert!(found.iter().any(|problem| problem.message.contains("already written in a.yaml:3")), "{found:#?}");
    }
}

#[test]
fn objects_that_lack_their_namespace_are_not_called_the_same() {
    let service = object("VirtualService", "db", "  serviceName: db\n");
    let found = all_problems(&[("a.yaml", &service), ("b.yaml", &service)]);
    assert!(found.iter().all(|problem| !problem.message.contains("already written")), "{found:#?}");
}

#[test]
fn what_a_broken_object_refers_to_must_be_there() {
    let block = "  - name: a\n    consumers: [{ipList: nowhere}]\n    providers: [{labelGroups: [no-group]}]\n    services: [{protocol: TCP, port: 0}, {name: no-service}]\n";
    let expected = ["a.yaml:8:26 error", "a.yaml:9:32 error", "a.yaml:10:38 error", "a.yaml:10:49 error"];
    let found = all_problems(&[("a.yaml", &rule(block))]);
    assert_eq!(places(&found), expected, "{found:#?}");
    let nameless = rule(block).replace("{name: r}", "{}");
    let found = all_problems(&[("a.yaml", &nameless)]);
    assert_eq!(places(&found), [&["a.yaml:3:11 error"], &expected[..]].concat(), "{found:#?}");
}

#[rstest]
#[case::no_text("[{ipList: 5}]", "8:26")]
#[case::no_list("[{labelGroups: x}]", "8:31")]
#[case::no_item("[{labelGroups: [5]}]", "8:32")]
#[case::no_term("[5]", "8:17")]
fn what_cannot_be_read_refers_to_nothing(#[case] consumers: &str, #[case] place: &str) {
    let block = format!(
        "  - name: a\n    consumers: {consumers}\n    providers: [{{allWorkloads: true}}]\n    allServices: true\n"
    );
    assert_only(&rule(&block), place, "cannot stand here");
}

/// One mistake is one problem: the object is there, and only written wrongly.
#[rstest]
#[case::kind("apiVersion: ringfence.dev/v1alpha1\nkind: IPlist\nmetadata: {name: x}\nspec: {}\n", "2:7")]
#[case::version("apiVersion: ringfence.dev/v1\nkind: IPList\nmetadata: {name: x}\nspec: {}\n", "1:13")]
#[case::no_spec("apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: x}\n", "1:1")]
#[case::no_range("apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: x}\nspec: {ranges: 5}\n", "4:16")]
fn a_reference_to_a_broken_object_does_not_dangle(#[case] list: &str, #[case] place: &str) {
    let text = rule("  - {name: a, consumers: [{ipList: x}], providers: [{allWorkloads: true}], allServices: true}\n");
    let found = all_problems(&[("a.yaml", &text), ("b.yaml", list)]);
    assert_eq!(places(&found), [format!("b.yaml:{place} error")], "{found:#?}");
}

#[test]
fn what_is_not_ours_is_not_there_to_refer_to() {
    let text =
        rule("  - {name: a, consumers: [{workload: x}], providers: [{allWorkloads: true}], allServices: true}\n");
    let foreign = "apiVersion: kueue.x-k8s.io/v1beta1\nkind: Workload\nmetadata: {name: x}\n";
    let found = all_problems(&[("a.yaml", &text), ("b.yaml", foreign)]);
    assert_eq!(places(&found), ["a.yaml:7:38 warning", "b.yaml:1:13 error"], "{found:#?}");
}

#[test]
fn label_groups_are_judged_by_what_is_readable_of_them() {
    let group = |name, dimension, values, nested| {
        object("LabelGroup", name, &format!("  {dimension}: env\n  values: [{values}]\n  groups: [{nested}]\n"))
    };
    let cycle = all_problems(&[
        ("a.yaml", &group("a", "dimension", "x", "b")),
        ("b.yaml", &group("b", "dimension", "'-'", "a")),
    ]);
    assert_eq!(places(&cycle), ["a.yaml:7:12 error", "b.yaml:6:12 error"], "{cycle:#?}");
    let unknown =
        all_problems(&[("a.yaml", &group("a", "dimension", "x", "b")), ("b.yaml", &group("b", "dimensio", "x", ""))]);
    assert_eq!(places(&unknown), ["b.yaml:4:1 error", "b.yaml:5:3 error"], "{unknown:#?}");
}

#[test]
fn there_is_one_cluster() {
    let cluster = |name| object("ContainerCluster", name, "  management: self\n");
    let found = all_problems(&[("a.yaml", &cluster("this")), ("b.yaml", &cluster("that"))]);
    assert_eq!(places(&found), ["b.yaml:3:18 error"]);
    assert!(found[0].message.contains("this is in a.yaml:3"), "{found:#?}");
}

#[test]
fn cycles_of_label_groups_are_named_once() {
    let group =
        |name, nested| object("LabelGroup", name, &format!("  dimension: env\n  values: [x]\n  groups: [{nested}]\n"));
    let found =
        all_problems(&[("a.yaml", &group("a", "b")), ("b.yaml", &group("b", "c")), ("c.yaml", &group("c", "a"))]);
    assert_eq!(places(&found), ["a.yaml:7:12 error"], "{found:#?}");
    assert!(found[0].message.contains("a > b > c > a"), "{found:#?}");
    let own = all_problems(&[("a.yaml", &group("a", "a"))]);
    assert!(own.len() == 1 && own[0].message.contains("a > a"), "{own:#?}");
}

#[test]
fn nested_groups_are_of_one_dimension() {
    let outer = object("LabelGroup", "a", "  dimension: env\n  groups: [b]\n");
    let inner = object("LabelGroup", "b", "  dimension: role\n  values: [x]\n");
    let found = all_problems(&[("a.yaml", &outer), ("b.yaml", &inner)]);
    assert_eq!(places(&found), ["a.yaml:6:12 error"]);
}

#[test]
fn what_selects_nothing_is_told_where_it_is_used() {
    let used = rule(
        "  - name: a\n    consumers: [{ipList: gone}, {labelGroups: [hollow]}]\n    providers: [{allWorkloads: true}]\n    services: [{name: none}]\n",
    );
    let found = all_problems(&[
        ("a.yaml", &used),
        ("b.yaml", &object("IPList", "gone", "  ranges: [10.0.0.0/9, 10.128.0.0/9]\n  exclusions: [10.0.0.0/8]\n")),
        ("c.yaml", &object("LabelGroup", "hollow", "  dimension: env\n  values: []\n")),
        ("d.yaml", &object("ServiceDefinition", "none", "  ports: []\n")),
    ]);
    assert_eq!(places(&found), ["a.yaml:8:26 warning", "a.yaml:8:48 warning", "a.yaml:10:23 warning"], "{found:#?}");
}

#[test]
fn what_lives_in_the_cluster_or_is_merely_broken_does_not_dangle() {
    let text = rule("  - {name: a, consumers: [{ipList: x}], providers: [{workload: n}], allServices: true}\n");
    let parsed = parse(&files(&[("a.yaml", &text)]));
    let keys = [ObjectKey::cluster_wide(Kind::IpList, "x"), ObjectKey::cluster_wide(Kind::Workload, "n")];
    assert_eq!(check(&parsed, &LiveNames { keys: keys.into(), ..LiveNames::default() }), []);
    let broken = object("IPList", "x", "  ranges: [nonsense]\n");
    let found = all_problems(&[("a.yaml", &text), ("b.yaml", &broken)]);
    assert_eq!(places(&found), ["a.yaml:7:64 warning", "b.yaml:5:12 error"], "{found:#?}");
}

#[test]
fn a_label_that_the_profile_fixes_otherwise_has_no_effect() {
    let profile = object("ContainerWorkloadProfile", "shop", "  managed: true\n  labels: {app: {value: shop}}\n");
    let service = "apiVersion: ringfence.dev/v1alpha1\nkind: VirtualService\nmetadata: {name: db, namespace: shop}\nspec:\n  labels: {app: other, role: db}\n";
    let found = all_problems(&[("a.yaml", &profile), ("b.yaml", service)]);
    assert_eq!(places(&found), ["b.yaml:5:17 warning"], "{found:#?}");
}

fn sample() -> Parsed {
    parse(&files(&[("policy-sample.yaml", include_str!("policy-sample.yaml"))]))
}

#[test]
fn the_sample_is_good() {
    let parsed = sample();
    let expected = ["11:12 warning", "20:15 warning"].map(|place| format!("policy-sample.yaml:{place}"));
    assert_eq!(places(&parsed.problems), expected, "{:?}", parsed.problems);
    assert!(parsed.problems[1].message.starts_with("visibility has no effect yet"), "{:?}", parsed.problems);
    let problem = &parsed.problems[0];
    assert_eq!((problem.line, problem.column, problem.severity), (11, 12, Severity::Warning));
    assert!(
        problem.message.contains("'topology.kubernetes.io/region' has no effect: a kubelet can set it"),
        "{problem}"
    );
    let kinds: Vec<&str> = parsed.objects.iter().map(|object| object.key.kind.as_str()).collect();
    let expected = [
        "ContainerCluster",
        "ContainerWorkloadProfile",
        "LabelGroup",
        "IPList",
        "ServiceDefinition",
        "Workload",
        "RuleSet",
        "PolicyRepository",
    ];
    assert_eq!(kinds, expected);
    let found = check(&parsed, &LiveNames::default());
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found.iter().all(|problem| problem.severity == Severity::Warning));
    assert!(found[0].message.contains("VirtualService shop/db"), "{found:#?}");
    assert!(found[1].message.contains("PolicyRepository ringfence-system/policy is left out"), "{found:#?}");
}

#[test]
fn policy_knows_where_it_was_written() {
    let policy = to_policy(&sample());
    assert_eq!(policy.rule_sets["shop"].rules.len(), 6);
    assert_eq!(policy.cluster.annotation_prefixes, ["ringfence.dev/"]);
    let origin = &policy.origins[&ObjectKey::cluster_wide(Kind::RuleSet, "shop")];
    assert_eq!((origin.file.as_str(), origin.line), ("policy-sample.yaml", 49));
    assert_eq!(origin.rule_lines["web-to-api"], 58);
    assert_eq!(origin.rule_lines["backup"], 81);
    assert_eq!(policy.origins[&ObjectKey::cluster_wide(Kind::ContainerCluster, "this")].line, 3);
}
