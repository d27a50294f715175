//! The offline commands, run as a user runs them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn ringfence(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringfence")).args(arguments).current_dir(folder).output().expect("it runs")
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    folder
}

const PROFILE: &str = "\
apiVersion: ringfence.dev/v1alpha1
kind: ContainerWorkloadProfile
metadata: {name: shop}
spec:
  managed: true
  policyState: Full
  labels:
    app: {value: shop}
    role: {allowed: [web, db]}
";

const RULES: &str = "\
apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata: {name: shop}
spec:
  scopes: [{labels: {app: [shop]}}]
  rules:
  - name: web-to-db
    consumers: [{labels: {role: [web]}}]
    providers: [{labels: {role: [db]}}]
    services: [{protocol: TCP, port: 5432}]
";

const CLUSTER: &str = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: kube-system, uid: 11111111-1111-1111-1111-111111111111}}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, uid: 22222222-2222-2222-2222-222222222222}}
- apiVersion: v1
  kind: Node
  metadata: {name: n1}
  status: {addresses: [{type: InternalIP, address: 192.0.2.1}], nodeInfo: {machineID: abc}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: shop, uid: a, annotations: {ringfence.dev/role: web}}
  spec: {nodeName: n1, containers: [{name: c}]}
  status: {phase: Running, podIP: 10.244.0.5, podIPs: [{ip: 10.244.0.5}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: shop, uid: b, annotations: {ringfence.dev/role: db}}
  spec: {nodeName: n1, containers: [{name: c}]}
  status: {phase: Running, podIP: 10.244.0.6, podIPs: [{ip: 10.244.0.6}]}
";

fn shop() -> TempDir {
    folder(&[("policy/profile.yaml", PROFILE), ("policy/rules/shop.yml", RULES), ("cluster.yaml", CLUSTER)])
}

#[test]
fn check_is_content_with_good_policy() {
    let output = ringfence(&["check", "policy"], shop().path());
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "0 errors, 0 warnings in 2 files\n"));
}

#[test]
fn check_shows_every_problem_with_its_place() {
    let bad = RULES.replace("consumers:", "consumer:").replace("5432", "0");
    let shop = folder(&[("a.yaml", PROFILE), ("b/c.yaml", &bad), (".git/x.yaml", "no policy"), ("x.txt", "no policy")]);
    let output = ringfence(&["check", "."], shop.path());
    let expected = "\
b/c.yaml:7:5: error: 'consumers' is missing: Who opens connections: an OR of terms.
    7 |   - name: web-to-db
      |     ^
b/c.yaml:8:5: error: unknown field 'consumer': did you mean 'consumers'?
    8 |     consumer: [{labels: {role: [web]}}]
      |     ^
b/c.yaml:10:38: error: 0 is out of range: give 1 to 65535
   10 |     services: [{protocol: TCP, port: 0}]
      |                                      ^
3 errors, 0 warnings in 2 files
";
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), expected));

    let output = ringfence(&["check", ".", "-o", "json"], shop.path());
    let json: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&json["errors"], &json["files"]), (&3.into(), &2.into()));
    assert_eq!(json["problems"][2]["file"], "b/c.yaml");
    assert_eq!((&json["problems"][2]["line"], &json["problems"][2]["column"]), (&10.into(), &38.into()));
    assert_eq!(json["problems"][2]["severity"], "error");
}

#[test]
fn check_passes_over_what_begins_with_a_dot() {
    let shop = folder(&[("a.yaml", PROFILE), (".draft.yaml", "no policy"), (".github/workflows/x.yaml", "no policy")]);
    std::os::unix::fs::symlink("a.yaml", shop.path().join(".link.yaml")).expect("made");
    let output = ringfence(&["check", "."], shop.path());
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "0 errors, 0 warnings in 1 files\n"));
}

#[test]
fn check_refuses_links_and_repositories_within_as_the_importer_does() {
    let shop = folder(&[("a.yaml", PROFILE), ("sub/.git/config", ""), ("sub/b.yaml", "no policy")]);
    std::os::unix::fs::symlink("a.yaml", shop.path().join("b.yaml")).expect("made");
    std::os::unix::fs::symlink("..", shop.path().join("loop")).expect("made");
    let output = ringfence(&["check", "."], shop.path());
    let advice = "and policy is read from plain files only: replace it by a copy or remove it";
    let expected = format!(
        "b.yaml:1:1: error: 'b.yaml' is a symbolic link, {advice}\n\
         loop:1:1: error: 'loop' is a symbolic link, {advice}\n\
         sub:1:1: error: 'sub' is a submodule, {advice}\n\
         3 errors, 0 warnings in 1 files\n"
    );
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), expected));
}

#[test]
fn check_refuses_what_the_importer_would_not_read() {
    let shop = folder(&[("a.yaml", PROFILE), ("big.yaml", &" ".repeat(2 * 1024 * 1024 + 1))]);
    fs::write(shop.path().join("latin1.yaml"), b"# caf\xe9\n").expect("written");
    let output = ringfence(&["check", "."], shop.path());
    let expected = "\
big.yaml:1:1: error: 'big.yaml' has 2097153 bytes and 2097152 are allowed: split it
latin1.yaml:1:1: error: 'latin1.yaml' is not UTF-8 text: save it as UTF-8
2 errors, 0 warnings in 1 files
";
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), expected));
}

#[test]
fn a_policy_repository_among_the_policy_is_left_out_with_a_warning() {
    let repository = "\
apiVersion: ringfence.dev/v1alpha1
kind: PolicyRepository
metadata: {name: policy, namespace: ringfence-system}
spec: {url: 'https://git.example.com/policy.git', ref: {branch: main}}
";
    let shop = shop();
    fs::write(shop.path().join("policy/repository.yaml"), repository).expect("written");
    let output = ringfence(&["check", "policy"], shop.path());
    assert_eq!(output.status.code(), Some(0));
    let expected = "repository.yaml:1:1: warning: PolicyRepository ringfence-system/policy is left out";
    assert!(stdout(&output).starts_with(expected), "{}", stdout(&output));
    let arguments =
        "explain --policy policy --cluster cluster.yaml --from pod/shop/web --to pod/shop/db --port 5432/tcp";
    assert_eq!(ringfence(&words(arguments), shop.path()).status.code(), Some(0));
}

#[test]
fn a_warning_is_no_failure() {
    let rules = RULES.replace("{labels: {role: [web]}}", "{workload: old-mainframe}");
    let output = ringfence(&["check", "."], folder(&[("a.yaml", &rules)]).path());
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).ends_with("0 errors, 1 warnings in 1 files\n"), "{}", stdout(&output));
}

#[test]
fn what_cannot_run_exits_with_2() {
    let shop = shop();
    for arguments in [
        "check missing",
        "check",
        "compile --policy policy --cluster missing --out out",
        "compile --policy policy --cluster policy/profile.yaml --out out",
        "explain --policy policy --cluster cluster.yaml --from pod/shop/web --to nonsense --port 1/tcp",
        "explain --policy policy --cluster cluster.yaml --from pod/shop/gone --to pod/shop/db --port 1/tcp",
        "explain --policy policy --cluster cluster.yaml --from pod/shop/web --to pod/shop/db --port 1",
    ] {
        let output = ringfence(&words(arguments), shop.path());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stdout(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?} says why");
    }
}

#[test]
fn bad_policy_is_not_explained() {
    let shop = folder(&[("policy/a.yaml", "kind: What\n"), ("cluster.yaml", CLUSTER)]);
    let arguments = "explain --policy policy --cluster cluster.yaml --from pod/shop/web --to pod/shop/db --port 1/tcp";
    let output = ringfence(&words(arguments), shop.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a.yaml:1:1: error: "));
}

/// Every file below a folder, with its text.
fn tree(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("text")));
        }
    }
    found.sort();
    found
}

#[test]
fn compile_writes_the_same_files_each_time_and_removes_its_own_stale_ones_only() {
    let shop = shop();
    let arguments = words("compile --policy policy --cluster cluster.yaml --out out");
    let output = ringfence(&arguments, shop.path());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let out = shop.path().join("out");
    let first = tree(&out);
    let profile = fs::read_to_string(out.join("containerworkloadprofiles/shop.yaml")).expect("written");
    assert!(profile.contains("enforcedState: Full"), "{profile}");
    for path in ["containerclusters/this.yaml", "nodepolicies/n1.yaml", "workloadpolicies/marker.yaml"] {
        assert!(out.join(path).is_file(), "{path}: {first:#?}");
    }

    let stale = fs::read_to_string(out.join("nodepolicies/n1.yaml")).expect("written");
    fs::write(out.join("nodepolicies/n2.yaml"), stale).expect("written");
    fs::write(out.join("nodepolicies/mine.yaml"), "mine: true\n").expect("written");
    assert_eq!(ringfence(&arguments, shop.path()).status.code(), Some(0));
    assert!(out.join("nodepolicies/mine.yaml").is_file());
    fs::remove_file(out.join("nodepolicies/mine.yaml")).expect("removed");
    assert_eq!(tree(&out), first);
}

#[test]
fn explain_answers_in_the_fixed_form() {
    let shop = shop();
    let explain = |to: &str, port: &str| {
        let arguments = "explain --policy policy --cluster cluster.yaml -o json --from pod/shop/web";
        let output = ringfence(&[words(arguments), vec!["--to", to, "--port", port]].concat(), shop.path());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str::<Value>(&stdout(&output)).expect("JSON")
    };
    let allowed = explain("pod/shop/db", "5432/tcp");
    let rule = serde_json::json!({"ruleSet": "shop", "name": "web-to-db", "file": "rules/shop.yml", "line": 7});
    assert_eq!(allowed["verdict"], "allowed");
    let expected = serde_json::json!({
        "state": "full", "labels": {"app": "shop", "role": "db"}, "decision": "allow", "rule": rule
    });
    assert_eq!(allowed["destination"], expected);
    assert_eq!(allowed["source"]["rule"], rule);

    let blocked = explain("pod/shop/db", "5433/tcp");
    assert_eq!(blocked["verdict"], "blocked");
    assert_eq!((&blocked["source"]["decision"], &blocked["source"]["rule"]), (&"default".into(), &Value::Null));
    let near = serde_json::json!({
        "rule": rule, "missed": "services", "why": ["port 5433/TCP is not among 5432/TCP"]
    });
    assert_eq!((&blocked["source"]["nearest"], &blocked["destination"]["nearest"]), (&near, &near));
    let outside = explain("198.51.100.1", "443/tcp");
    assert_eq!((&outside["verdict"], &outside["destination"]["state"]), (&"blocked".into(), &"external".into()));
}

#[test]
fn explain_for_people_names_the_rule_and_where_it_is_written() {
    let arguments = "explain --policy policy --cluster cluster.yaml --from pod/shop/web --to pod/shop/db --port";
    let output = ringfence(&[words(arguments), vec!["5432/tcp"]].concat(), shop().path());
    let expected = "\
allowed
  from pod/shop/web: full, app=shop,role=web, allow by shop/web-to-db at rules/shop.yml:7
  to   pod/shop/db: full, app=shop,role=db, allow by shop/web-to-db at rules/shop.yml:7
";
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), expected));
}

#[test]
fn explain_for_people_names_what_hits_too_and_what_nearly_did() {
    let twice = "
  - name: shop-to-db
    consumers: [{allWorkloads: true}]
    providers: [{labels: {role: [db]}}]
    services: [{protocol: TCP, port: 5432}]
  - name: never
    action: Deny
    consumers: [{allWorkloads: true}]
    providers: [{labels: {role: [db]}}]
    services: [{protocol: TCP, port: 5432}]
";
    let rules = format!("{}{}", RULES.trim_end(), twice);
    let shop = folder(&[("policy/a.yaml", PROFILE), ("policy/b.yaml", &rules), ("cluster.yaml", CLUSTER)]);
    let explain = |from: &str, port: &str| {
        let arguments = "explain --policy policy --cluster cluster.yaml --to pod/shop/db";
        let output = ringfence(&[words(arguments), vec!["--from", from, "--port", port]].concat(), shop.path());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    let expected = "\
allowed
  from pod/shop/web: full, app=shop,role=web, allow by shop/shop-to-db at b.yaml:11
       hits too: shop/web-to-db at b.yaml:7 (Allow)
       hits too: shop/never at b.yaml:15 (Deny)
  to   pod/shop/db: full, app=shop,role=db, allow by shop/shop-to-db at b.yaml:11
       hits too: shop/web-to-db at b.yaml:7 (Allow)
       hits too: shop/never at b.yaml:15 (Deny)
";
    assert_eq!(explain("pod/shop/web", "5432/tcp"), expected);
    let expected = "\
blocked
  from 198.51.100.1: external, no labels, external
  to   pod/shop/db: full, app=shop,role=db, default
       no rule hits; the nearest Allow is shop/shop-to-db at b.yaml:11, which misses:
       - the consumer is no workload: address 198.51.100.1 is in no IP list of the rule
";
    assert_eq!(explain("198.51.100.1", "5432/tcp"), expected);
}

/// Every problem of text that can be read, of each kind of check, is shown with the line that it is on and a caret.
#[test]
fn check_shows_a_caret_below_every_problem() {
    let object = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: ringfence.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    let any = "providers: [{allWorkloads: true}], allServices: true";
    let rule =
        |consumers: &str| format!("\n  scopes: [{{}}]\n  rules:\n  - {{name: r, consumers: [{consumers}], {any}}}");
    let documents = [
        // Text and frame.
        "kind: [".to_owned(),
        "a: 'no end\n\n".to_owned(),
        "- 1\n".to_owned(),
        "kind: Ruleset\napiVersion: ringfence.dev/v1\n".to_owned(),
        "apiVersion: ringfence.dev/v1alpha1\nkind: IPList\nmetadata: {name: none}\n".to_owned(),
        // Schema, rules about fields, and what fields mean.
        object("IPList", "field", "{range: [10.0.0.0/8]}"),
        object("IPList", "names", "{fqdns: [example]}"),
        object("IPList", "bits", "{ranges: [10.0.0.1/8]}"),
        object("ServiceDefinition", "zero", "{ports: [{protocol: '0'}]}"),
        object("ContainerWorkloadProfile", "visible", "{managed: true, visibility: Off}"),
        object("Workload", "outside", "{addresses: [192.0.2.7], policyState: Full}"),
        object("ServiceDefinition", "port", "{ports: [{protocol: ICMP, port: 8}]}"),
        // One object against the others.
        object("IPList", "twice", "{ranges: [10.0.0.0/8]}"),
        object("IPList", "twice", "{ranges: [10.0.0.0/8]}"),
        object("IPList", "empty", "{}"),
        object("LabelGroup", "a", "{dimension: env, values: [x], groups: [b]}"),
        object("LabelGroup", "b", "{dimension: env, values: [y], groups: [a]}"),
        object("LabelGroup", "c", "{dimension: app, groups: [a]}"),
        object("RuleSet", "list", &rule("{ipList: gone}")),
        object("RuleSet", "group", &rule("{labelGroups: [gone]}")),
        object("RuleSet", "nobody", &rule("{ipList: empty}")),
        object("RuleSet", "machine", &rule("{workload: gone}")),
        object("ContainerCluster", "one", "{}"),
        object("ContainerCluster", "two", "{}"),
    ];
    let names: Vec<String> = (0..documents.len()).map(|number| format!("{number:02}.yaml")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(documents.iter().map(String::as_str)).collect();
    let output = ringfence(&["check", "."], folder(&files).path());
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    let mut lines = text.lines().peekable();
    let mut with_problems = Vec::new();
    while let Some(line) = lines.next().filter(|_| lines.peek().is_some()) {
        let mut parts = line.splitn(4, ':');
        let file = parts.next().unwrap_or_default();
        let number: usize = parts.next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line}: {text}"));
        let column: usize = parts.next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line}: {text}"));
        let written = files.iter().find(|(name, _)| *name == file).and_then(|(_, text)| text.lines().nth(number - 1));
        assert_eq!(
            lines.next(),
            Some(format!("{number:>5} | {}", written.expect("the line is there")).as_str()),
            "{line}"
        );
        assert_eq!(lines.next(), Some(format!("{:>5} | {:>column$}", "", "^").as_str()), "{line}");
        with_problems.push(file.to_owned());
    }
    with_problems.dedup();
    // The first of two is good, and so is an empty list that nobody refers to; a cycle is told once.
    let good = ["12.yaml", "14.yaml", "16.yaml", "22.yaml"];
    let expected: Vec<&String> = names.iter().filter(|name| !good.contains(&name.as_str())).collect();
    assert_eq!(with_problems.iter().collect::<Vec<_>>(), expected, "{text}");
}
