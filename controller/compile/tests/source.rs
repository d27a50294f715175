//! Room 2 on single documents, bad and good. Places and messages are written by hand, from the text beside them.

mod support;

use rstest::rstest;
use support::source::{all_problems, assert_only, object, places, rule};

#[rstest]
#[case::list("- 1\n", "1:1", "not a Ringfence object but a list")]
#[case::text("hello\n", "1:1", "not a Ringfence object but the text 'hello'")]
#[case::no_kind("apiVersion: ringfence.dev/v1alpha1\nmetadata: {name: a}\n", "1:1", "'kind' is missing")]
#[case::no_header("metadata: {name: a}\n", "1:1", "'apiVersion' and 'kind' are missing")]
#[case::config_map(
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
    "1:13",
    "not a Ringfence object but ConfigMap of v1"
)]
#[case::kustomization(
    "kind: Kustomization\napiVersion: kustomize.config.k8s.io/v1beta1\n",
    "2:13",
    "not a Ringfence object"
)]
#[case::old_version("apiVersion: ringfence.dev/v1\nkind: RuleSet\n", "1:13", "write ringfence.dev/v1alpha1")]
#[case::unknown_kind("apiVersion: ringfence.dev/v1alpha1\nkind: Ruleset\n", "2:7", "did you mean 'RuleSet'?")]
#[case::computed("apiVersion: ringfence.dev/v1alpha1\nkind: NodePolicy\n", "2:7", "computed by the controller")]
#[case::no_metadata("apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nspec: {}\n", "1:1", "'metadata' is missing")]
#[case::no_name(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {}\nspec: {}\n",
    "3:11",
    "'name' is missing"
)]
#[case::bad_name(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata:\n  name: Office\nspec: {}\n",
    "4:9",
    "'Office' is no name"
)]
#[case::number_name(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata:\n  name: 7\nspec: {}\n",
    "4:9",
    "in quotes"
)]
#[case::dotted_profile(
    "apiVersion: ringfence.dev/v1alpha1\nkind: ContainerWorkloadProfile\nmetadata: {name: a.b}\nspec: {}\n",
    "3:18",
    "'a.b' is no name"
)]
#[case::metadata_field(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a, uid: x}\nspec: {}\n",
    "3:21",
    "unknown field 'uid' in metadata"
)]
#[case::label_not_text(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a, labels: {x: 1}}\nspec: {}\n",
    "3:33",
    "the number 1 cannot stand here"
)]
#[case::needless_namespace(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a, namespace: b}\nspec: {}\n",
    "3:21",
    "cluster-wide: remove namespace"
)]
#[case::missing_namespace(
    "apiVersion: ringfence.dev/v1alpha1\nkind: VirtualService\nmetadata: {name: a}\nspec: {}\n",
    "3:11",
    "lives in a namespace"
)]
#[case::status(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a}\nspec: {}\nstatus: {}\n",
    "5:1",
    "status is written by the controller"
)]
#[case::top_level(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a}\nspec: {}\ndata: {}\n",
    "5:1",
    "unknown field 'data'"
)]
#[case::no_spec("apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a}\n", "1:1", "'spec' is missing")]
#[case::empty_spec(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a}\nspec:\n",
    "4:1",
    "nothing is written here"
)]
#[case::twice(
    "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a}\nspec: {}\nspec: {}\n",
    "5:1",
    "written twice, first on line 4"
)]
fn the_frame_of_an_object_is_checked(#[case] text: &str, #[case] place: &str, #[case] fragment: &str) {
    assert_only(text, place, fragment);
}

#[rstest]
#[case::unknown_field("IPList", "  range: [10.0.0.0/8]\n", "5:3", "did you mean 'ranges'?")]
#[case::not_a_list("IPList", "  ranges: 10.0.0.0/8\n", "5:11", "write [10.0.0.0/8]")]
#[case::no_address(
    "IPList",
    "  ranges:\n  - 10.0.0.0/8\n  - example.org\n",
    "7:5",
    "'example.org' is not valid: write an address (192.0.2.1)"
)]
#[case::host_bits("IPList", "  ranges: [10.0.0.1/8]\n", "5:12", "write 10.0.0.0/8")]
#[case::backwards(
    "IPList",
    "  ranges: [10.0.0.0/8]\n  exclusions: [10.0.0.9-10.0.0.1]\n",
    "6:16",
    "the lower one first"
)]
#[case::one_label("IPList", "  fqdns: [localhost]\n", "5:11", "write a whole domain name such as db.example.com")]
#[case::top_level("IPList", "  fqdns: ['*.com']\n", "5:11", "write a whole domain name such as db.example.com")]
#[case::letters("IPList", "  fqdns: [bücher.example]\n", "5:11", "in their ASCII form (xn--…)")]
#[case::no_name("IPList", "  fqdns: [a.example.com., 192.0.2.1]\n", "5:27", "addresses under ranges")]
#[case::state_word(
    "ContainerWorkloadProfile",
    "  managed: true\n  policyState: Fulll\n",
    "6:16",
    "did you mean 'Full'?"
)]
#[case::yes("ContainerWorkloadProfile", "  managed: yes\n", "5:12", "write true or false")]
#[case::unmanaged_full("ContainerWorkloadProfile", "  policyState: Full\n", "5:16", "set managed: true")]
#[case::two_ways(
    "ContainerWorkloadProfile",
    "  labels:\n    role: {value: a, allowed: [b]}\n",
    "6:19",
    "exactly one of value"
)]
#[case::number_label(
    "ContainerWorkloadProfile",
    "  labels:\n    role: {value: 1.10}\n",
    "6:19",
    "the number 1.1 cannot stand here"
)]
#[case::bad_value(
    "ContainerWorkloadProfile",
    "  labels:\n    role: {value: 'a b'}\n",
    "6:19",
    "a label value has 1 to 63"
)]
#[case::bad_dimension(
    "ContainerWorkloadProfile",
    "  labels:\n    Role: {value: a}\n",
    "6:5",
    "'Role' is no label dimension"
)]
#[case::workload_address(
    "Workload",
    "  addresses: [10.0.0.0/8]\n",
    "5:15",
    "'10.0.0.0/8' is not valid: write an address such as"
)]
#[case::workload_dimension("Workload", "  labels: {App: shop}\n", "5:12", "'App' is no label dimension")]
#[case::label_map_value(
    "ContainerCluster",
    "  labelMap: [{kind: Pod, from: a, to: loc, values: {x: '-'}}]\n",
    "5:56",
    "'-' is not valid"
)]
#[case::long_address("IPList", &format!("  ranges: ['{}']\n", "1".repeat(94)), "5:12", "94 characters are too many: at most 93")]
#[case::workload_label("Workload", "  labels: {app: ''}\n", "5:17", "'' is not valid: a label value has")]
#[case::machine_state(
    "Workload",
    "  addresses: [192.0.2.1]\n  policyState: Full\n",
    "6:16",
    "no agent runs on an unmanaged machine"
)]
#[case::no_dimension("LabelGroup", "  values: [a]\n", "4:1", "'dimension' is missing")]
#[case::port_zero(
    "ServiceDefinition",
    "  ports: [{protocol: TCP, port: 0}]\n",
    "5:33",
    "0 is out of range: give 1 to 65535"
)]
#[case::port_text("ServiceDefinition", "  ports: [{protocol: TCP, port: '80'}]\n", "5:33", "without quotes")]
#[case::protocol("ServiceDefinition", "  ports: [{protocol: tcp, port: 80}]\n", "5:22", "write TCP, UDP")]
#[case::protocol_number("ServiceDefinition", "  ports: [{protocol: '300'}]\n", "5:22", "'300' is no protocol")]
#[case::swapped("ServiceDefinition", "  ports: [{protocol: TCP, port: 9, endPort: 8}]\n", "5:45", "swap them")]
#[case::bad_cidr(
    "ContainerCluster",
    "  podNetworks: [{name: a, cidrs: [10.0.0.0/33]}]\n",
    "5:35",
    "'10.0.0.0/33' is not valid: write a prefix such as"
)]
fn the_fields_of_a_spec_are_checked(
    #[case] kind: &str,
    #[case] spec: &str,
    #[case] place: &str,
    #[case] fragment: &str,
) {
    assert_only(&object(kind, "a", spec), place, fragment);
}

#[rstest]
#[case::no_scopes("  scopes: []\n", "5:11", "scopes: [{}]")]
#[case::empty_term("  scopes: [{labels: {app: []}}]\n", "5:27", "warning: no value of app is listed")]
#[case::scope_typo("  scopes: [{label: {app: [a]}}]\n", "5:13", "did you mean 'labels'?")]
fn scopes_are_checked(#[case] spec: &str, #[case] place: &str, #[case] fragment: &str) {
    assert_only(&object("RuleSet", "a", spec), place, fragment);
}

#[rstest]
#[case::empty_actor(
    "  - {name: a, consumers: [{}], providers: [{allWorkloads: true}], allServices: true}\n",
    "7:27",
    "names exactly one of"
)]
#[case::no_services(
    "  - {name: a, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}]}\n",
    "7:5",
    "exactly one of services"
)]
#[case::no_consumers(
    "  - {name: a, consumers: [], providers: [{allWorkloads: true}], allServices: true}\n",
    "7:26",
    "consumers is empty"
)]
#[case::missing_providers(
    "  - {name: a, consumers: [{allWorkloads: true}], allServices: true}\n",
    "7:5",
    "'providers' is missing"
)]
#[case::reject_allow(
    "  - {name: a, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], allServices: true, reject: true}\n",
    "7:112",
    "reject belongs to Deny"
)]
#[case::action(
    "  - {name: a, action: allow, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], allServices: true}\n",
    "7:23",
    "did you mean 'Allow'?"
)]
#[case::icmp_port(
    "  - name: a\n    consumers: [{allWorkloads: true}]\n    providers: [{allWorkloads: true}]\n    services:\n    - {protocol: ICMP, port: 8}\n",
    "11:30",
    "only TCP, UDP and SCTP have ports"
)]
#[case::service_shape(
    "  - {name: a, consumers: [{allWorkloads: true}], providers: [{virtualService: db}], useVirtualServicePorts: true}\n",
    "7:79",
    "shop/db"
)]
#[case::label_value(
    "  - {name: a, consumers: [{labels: {role: [a, -b]}}], providers: [{allWorkloads: true}], allServices: true}\n",
    "7:47",
    "'-b' is not valid: a label value has"
)]
fn rules_are_checked(#[case] block: &str, #[case] place: &str, #[case] fragment: &str) {
    assert_only(&rule(block), place, fragment);
}

#[test]
fn a_rule_repeats_no_error_but_hides_none() {
    let text = rule(
        "  - {name: Bad Name, action: Allow, reject: true, consumers: [{allWorkloads: true}], providers: [{allWorkloadz: true}], allServices: true}\n",
    );
    let found = all_problems(&[("a.yaml", &text)]);
    // The name, the reject that an Allow may not have, and the misspelled field, which leaves its term empty.
    assert_eq!(places(&found), ["a.yaml:7:12 error", "a.yaml:7:45 error", "a.yaml:7:99 error"], "{found:#?}");
}

/// Each mistake shows up beside the other ones, and none of them twice.
#[rstest]
#[case::other_field("IPList", "  ranges: [10.0.0.1/8]\n  exclusions: 5\n", &["5:12", "6:15"])]
#[case::name("IPList", "  fqdns: [example]\n  ranges: [10.0.0.1/8]\n", &["5:11", "6:12"])]
#[case::parts_of_a_port("ServiceDefinition", "  ports: [{protocol: '300', port: 0}]\n", &["5:22", "5:35"])]
#[case::rule_within(
    "ContainerWorkloadProfile",
    "  managed: 1\n  labels: {role: {value: a, allowed: [b]}}\n",
    &["5:12", "6:26"]
)]
#[case::no_names(
    "ContainerCluster",
    "  podNetworks: [{cidrs: [10.0.0.0/8]}, {cidrs: [10.1.2.3/8]}]\n",
    &["5:17", "5:40", "5:49"]
)]
#[case::no_warning_of_a_guess(
    "ContainerCluster",
    "  labelMap: [{kind: Nod, from: topology.kubernetes.io/region, to: loc}]\n",
    &["5:21"]
)]
#[case::unknown_field("RuleSet", "  scopes: []\n  foo: 1\n", &["5:11", "6:3"])]
#[case::two_rules_of_one_thing(
    "RuleSet",
    "  scopes: [{}]\n  rules: [{name: a, consumers: [], providers: [], allServices: true}]\n",
    &["6:32", "6:47"]
)]
#[case::same_name_beside_none(
    "RuleSet",
    "  scopes: [{}]\n  rules:\n  - &a {name: a, consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], allServices: true}\n  - *a\n  - {consumers: [{allWorkloads: true}], providers: [{allWorkloads: true}], allServices: true}\n",
    &["6:3", "9:5"]
)]
#[case::wrong_all_over("RuleSet", "  scopes: 1\n  rules: [2, {name: 3, consumers: 4}]\n", &["5:11", "6:11", "6:14", "6:14", "6:21", "6:35"])]
fn a_mistake_hides_no_other(#[case] kind: &str, #[case] spec: &str, #[case] expected: &[&str]) {
    assert_places(&object(kind, "a", spec), expected);
}

#[rstest]
#[case::version_and_kind("apiVersion: ringfence.dev/v1\nkind: Ruleset\n", &["1:13", "2:7"])]
#[case::no_version("kind: IPList\nmetadata: {name: a}\nspec: {ranges: 5}\n", &["1:1", "3:16"])]
#[case::no_name("apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nspec: {ranges: 5}\n", &["1:1", "3:16"])]
fn a_mistake_of_the_frame_hides_no_other(#[case] text: &str, #[case] expected: &[&str]) {
    assert_places(text, expected);
}

/// Exactly these errors.
#[track_caller]
fn assert_places(text: &str, expected: &[&str]) {
    let found = all_problems(&[("a.yaml", text)]);
    let expected: Vec<String> = expected.iter().map(|place| format!("a.yaml:{place} error")).collect();
    assert_eq!(places(&found), expected, "{found:#?}");
}

#[test]
fn every_problem_of_every_document_and_file_is_reported() {
    let first = "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: a}\nspec: {ranges: [x, y], foo: 1}\n---\n---\n# nothing\n---\nkind: What\napiVersion: ringfence.dev/v1alpha1\n";
    let second = "apiVersion: v1\nkind: Secret\n";
    let found = all_problems(&[("b.yml", second), ("a.yaml", first), ("README.md", "no policy")]);
    let expected =
        ["a.yaml:4:17 error", "a.yaml:4:20 error", "a.yaml:4:24 error", "a.yaml:9:7 error", "b.yml:1:13 error"];
    assert_eq!(places(&found), expected, "{found:#?}");
}

#[test]
fn broken_yaml_ends_its_file_only() {
    let broken = "apiVersion: v1\nkind: Secret\n---\nkind: [\n---\nkind: IPList\n";
    let found = all_problems(&[("a.yaml", broken), ("b.yaml", "apiVersion: v1\nkind: Secret\n")]);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_eq!(places(&found[..1]), ["a.yaml:1:13 error"]);
    assert!(found[1].message.starts_with("not readable as YAML: "), "{found:#?}");
    assert!((4..=6).contains(&found[1].line), "{found:#?}");
    assert_eq!(places(&found[2..]), ["b.yaml:1:13 error"]);
}

#[rstest]
#[case::key_that_is_no_text("? [a, b]\n: c\n", "1:3")]
#[case::tag("a: !include secrets.yaml\n", "1:13")]
#[case::no_number("a: .nan\n", "1:4")]
#[case::recursion("a: &a {x: *a}\n", "1:11")]
#[case::tab("a:\n\t- b\n", "2:2")]
fn what_policy_has_no_use_for_is_refused(#[case] text: &str, #[case] place: &str) {
    assert_only(text, place, "not readable as YAML");
}

#[test]
fn an_unreadable_document_does_not_end_its_file() {
    let found = all_problems(&[("a.yaml", "a: .nan\n---\napiVersion: v1\nkind: Secret\n")]);
    assert_eq!(places(&found), ["a.yaml:1:4 error", "a.yaml:3:13 error"], "{found:#?}");
}

#[test]
fn aliases_cannot_blow_up() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in ["ab", "bc", "cd", "de", "ef", "fg", "gh"].map(|pair| pair.split_at(1)) {
        let copies = vec![format!("*{from}"); 10].join(", ");
        text.push_str(&format!("{to}: &{to} [{copies}]\n"));
    }
    let found = all_problems(&[("a.yaml", &text)]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].message.starts_with("not readable as YAML: "), "{found:#?}");
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!("a: {}{}\n", "[".repeat(1000), "]".repeat(1000));
    assert_eq!(all_problems(&[("a.yaml", &text)]).len(), 1);
}

#[test]
fn a_line_of_the_label_map_that_a_kubelet_can_write_warns() {
    let cluster = |from: &str, kind: &str| {
        object("ContainerCluster", "this", &format!("  labelMap:\n  - {{kind: {kind}, from: {from}, to: loc}}\n"))
    };
    let fragment = "'topology.kubernetes.io/region' has no effect: a kubelet can set it on its own node";
    assert_only(&cluster("topology.kubernetes.io/region", "Node"), "6:24", fragment);
    for (from, kind) in [("node-restriction.kubernetes.io/region", "Node"), ("topology.kubernetes.io/region", "Pod")] {
        assert_eq!(all_problems(&[("a.yaml", &cluster(from, kind))]), [], "{from} {kind}");
    }
}

#[test]
fn the_name_of_a_rule_set_leaves_room_for_those_of_what_is_compiled() {
    let rule_set = |length: usize| {
        let name = format!("{}.{}", "a".repeat(63), "b".repeat(63));
        let name = format!("{name}.{name}");
        object("RuleSet", &name[..length], "  scopes: [{}]\n")
    };
    assert_eq!(all_problems(&[("a.yaml", &rule_set(244))]), []);
    assert_only(&rule_set(245), "3:18", "at most 244 characters");
}

#[test]
fn ranges_are_taken_in_every_form() {
    let ranges = "[192.0.2.1, 192.0.2.0/24, 0.0.0.0/0, 192.0.2.10-192.0.2.20, '192.0.2.10 - 192.0.2.20', '::1', \
                  '2001:db8::/32', '::/0', '::ffff:192.0.2.1', '2001:DB8::1-2001:db8::9']";
    assert_eq!(all_problems(&[("a.yaml", &object("IPList", "x", &format!("  ranges: {ranges}\n")))]), []);
}

/// What can be written and is not programmed by any agent yet.
#[rstest]
#[case::visibility(
    "ContainerWorkloadProfile",
    "  managed: true\n  visibility: Blocked\n",
    "6:15",
    "visibility has no effect yet"
)]
#[case::protocol_0("ServiceDefinition", "  ports: [{protocol: '0'}]\n", "5:11", "protocol 0 cannot be programmed")]
#[case::icmp_255(
    "ServiceDefinition",
    "  ports: [{protocol: ICMP, icmpType: 255}]\n",
    "5:11",
    "ICMP type 255 cannot be programmed"
)]
fn what_has_no_effect_yet_warns(#[case] kind: &str, #[case] spec: &str, #[case] place: &str, #[case] fragment: &str) {
    assert_only(&object(kind, "a", spec), place, fragment);
    assert_only(&object(kind, "a", spec), place, "warning");
}
