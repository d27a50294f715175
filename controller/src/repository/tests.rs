//! The decisions of the reconciler, without an apiserver. Objects are written as the apiserver would show them.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_compile::source::{self, Problem, Severity, SourceFile};
use ringfence_crds::PolicyRepository;
use serde_json::{Value, json};

use super::content::{Desired, Difference};
use super::live::Live;
use super::owner::{self, Owner};
use super::plan::{Reverted, Round, Write, plan};
use super::refusal::Refusal;
use super::safety;
use super::schedule::Schedule;
use super::status::{End, Report, next};

const US: &str = "ringfence-system.policy";

fn rule_set() -> ObjectKey {
    ObjectKey::cluster_wide(Kind::RuleSet, "shop")
}

fn spec() -> Value {
    json!({ "scopes": [{}], "rules": [] })
}

/// The RuleSet as in git, at this line.
fn desired(spec: Value, line: usize) -> Desired {
    let document = json!({
        "apiVersion": "ringfence.dev/v1alpha1",
        "kind": "RuleSet",
        "metadata": { "name": "shop", "labels": { "team": "a" }, "annotations": { "phone": "1" } },
        "spec": spec,
    });
    let text = format!("{}{document}", "\n".repeat(line - 1));
    let parsed = source::parse(&[SourceFile { path: "rules/shop.yaml".to_owned(), text }]);
    assert_eq!((parsed.objects.len(), parsed.problems), (1, Vec::new()));
    Desired::new(&parsed.objects[0], US)
}

/// Fields of the spec that a manager owns.
fn manager(name: &str, operation: &str, fields: Value) -> Value {
    json!({
        "manager": name, "operation": operation, "apiVersion": "ringfence.dev/v1alpha1",
        "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": fields },
    })
}

/// Fields of the whole object that a manager has updated.
fn update(manager: &str, fields: Value) -> Value {
    json!({
        "manager": manager, "operation": "Update", "apiVersion": "ringfence.dev/v1alpha1",
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    })
}

fn object(metadata: &Value, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "ringfence.dev/v1alpha1", "kind": "RuleSet", "metadata": metadata, "spec": spec,
    }))
    .expect("an object")
}

/// The RuleSet as it lives after commit `c1`.
fn applied() -> DynamicObject {
    let metadata = json!({
        "name": "shop",
        "resourceVersion": "7",
        "labels": { "team": "a", "policy.ringfence.dev/repository": US },
        "annotations": {
            "phone": "1",
            "policy.ringfence.dev/commit": "c1",
            "policy.ringfence.dev/file": "rules/shop.yaml",
            "policy.ringfence.dev/line": "3",
        },
        "managedFields": [manager("ringfence-git", "Apply", json!({ "f:scopes": {}, "f:rules": {} }))],
    });
    object(&metadata, &json!({ "enabled": true, "scopes": [{}], "rules": [] }))
}

fn live(object: DynamicObject) -> Live {
    Live([(rule_set(), object)].into())
}

fn writes(desired: Desired, live: &Live, commit: &str, applied: Option<&str>) -> Result<Vec<Write>, Refusal> {
    let owned: BTreeSet<ObjectKey> = applied.iter().map(|_| rule_set()).collect();
    plan(vec![desired], live, &Round { repository: US, commit, applied, owned: &owned })
}

fn owner(labels: Value, managers: &[Value], owned: bool) -> Owner {
    let metadata = json!({ "name": "shop", "labels": labels, "managedFields": managers });
    owner::of(&object(&metadata, &spec()), US, owned)
}

#[test]
fn the_label_says_whose_an_object_is() {
    assert_eq!(owner(json!({ "policy.ringfence.dev/repository": US }), &[], false), Owner::Ours);
    let other = owner(json!({ "policy.ringfence.dev/repository": "team.other" }), &[], true);
    assert_eq!(other, Owner::Other("PolicyRepository team/other".to_owned()));
    let by_kubectl = [manager("kubectl-create", "Update", json!({ "f:rules": {} }))];
    assert_eq!(owner(json!({}), &by_kubectl, false), Owner::Other("kubectl-create".to_owned()));
    assert_eq!(owner(json!({}), &by_kubectl, true), Owner::Ours, "a label taken away by hand");
}

#[test]
fn what_discovery_made_is_free_until_somebody_applies_it() {
    let made = json!({ "policy.ringfence.dev/created-by": "kubelink" });
    let kubelink = manager("ringfence-kubelink", "Apply", json!({ "f:rules": {} }));
    let edit = manager("kubectl-edit", "Update", json!({ "f:rules": {} }));
    let argo = manager("argocd-controller", "Apply", json!({ "f:rules": {} }));
    assert_eq!(owner(made.clone(), std::slice::from_ref(&kubelink), false), Owner::Free);
    assert_eq!(owner(made.clone(), &[kubelink.clone(), edit], false), Owner::Free);
    assert_eq!(owner(made, &[kubelink, argo], false), Owner::Other("argocd-controller".to_owned()));
}

#[test]
fn what_a_deleted_repository_left_behind_is_free() {
    let git = manager("ringfence-git", "Apply", json!({ "f:rules": {} }));
    let edit = manager("kubectl-edit", "Update", json!({ "f:rules": {} }));
    assert_eq!(owner(json!({}), std::slice::from_ref(&git), false), Owner::Free);
    assert_eq!(owner(json!({}), &[git, edit], false), Owner::Other("kubectl-edit".to_owned()));
    assert_eq!(owner(json!({}), &[], false), Owner::Other("nobody who is known".to_owned()));
}

#[test]
fn defaults_of_the_apiserver_are_no_difference() {
    assert_eq!(desired(spec(), 3).difference(Some(&applied())), Difference::None);
    let written_out = json!({ "enabled": true, "scopes": [{}], "rules": [] });
    assert_eq!(desired(written_out, 3).difference(Some(&applied())), Difference::None);
}

#[test]
fn a_line_that_moved_is_no_content() {
    let moved = desired(spec(), 4);
    assert_eq!(moved.difference(Some(&applied())), Difference::Place);
    let planned = writes(moved, &live(applied()), "c2", Some("c1")).expect("ours");
    assert_eq!(
        (planned[0].commit.as_str(), &planned[0].reverted),
        ("c1", &None),
        "the commit that changed what it says"
    );
}

#[test]
fn what_others_label_is_theirs_and_what_git_labelled_is_not() {
    let mut object = applied();
    object.labels_mut().insert("tracking".to_owned(), "x".to_owned());
    assert_eq!(desired(spec(), 3).difference(Some(&object)), Difference::None);
    let fields = json!({ "f:metadata": { "f:labels": { "f:tracking": {} } } });
    let mut managed = serde_json::to_value(object.meta().managed_fields.clone()).expect("fields");
    managed[0]["fieldsV1"] = fields;
    object.meta_mut().managed_fields = serde_json::from_value(managed).expect("fields");
    assert_eq!(desired(spec(), 3).difference(Some(&object)), Difference::Content, "gone from git");
    object.labels_mut().remove("team");
    assert_eq!(desired(spec(), 3).difference(Some(&object)), Difference::Content, "taken away");
}

#[test]
fn a_change_of_git_is_written_under_its_commit() {
    let changed = desired(json!({ "enabled": false, "scopes": [{}] }), 3);
    let planned = writes(changed, &live(applied()), "c2", Some("c1")).expect("ours");
    assert_eq!(planned.len(), 1);
    assert_eq!((planned[0].difference, planned[0].commit.as_str()), (Difference::Content, "c2"));
    assert_eq!(planned[0].reverted, None, "nobody else changed it");
    let made = writes(desired(spec(), 3), &Live::default(), "c2", Some("c1")).expect("new");
    assert_eq!((made[0].difference, &made[0].reverted), (Difference::Missing, &None));
    assert!(writes(desired(spec(), 3), &live(applied()), "c2", Some("c1")).expect("ours").is_empty(), "unchanged");
}

#[test]
fn a_change_by_hand_is_put_back_and_its_manager_named() {
    let mut edited = applied();
    edited.data["spec"]["enabled"] = json!(false);
    let edit = manager("kubectl-edit", "Update", json!({ "f:enabled": {} }));
    let elsewhere = manager("somebody", "Update", json!({ "f:scopes": {} }));
    let managers = serde_json::from_value(json!([edit, elsewhere])).expect("fields");
    edited.meta_mut().managed_fields = Some(managers);
    for commit in ["c1", "c2"] {
        let planned = writes(desired(spec(), 3), &live(edited.clone()), commit, Some("c1")).expect("ours");
        let by = BTreeSet::from(["kubectl-edit".to_owned()]);
        assert_eq!(planned[0].reverted, Some(Reverted::Changed(by)), "{commit}");
    }
    let same = writes(desired(spec(), 3), &live(edited), "c1", Some("c1")).expect("ours");
    assert_eq!(same[0].commit, "c1");
    let deleted = writes(desired(spec(), 3), &Live::default(), "c1", Some("c1")).expect("ours");
    assert_eq!(deleted[0].reverted, Some(Reverted::Deleted));
}

#[test]
fn who_changed_a_label_or_annotation_of_git_is_named_too() {
    let by = |manager: &str| Some(Reverted::Changed(BTreeSet::from([manager.to_owned()])));
    let put_back = |mut edited: DynamicObject, desired: Desired, commit: &str| {
        let fields = json!({ "f:metadata": {
            "f:labels": { "f:team": {}, "f:policy.ringfence.dev/created-by": {} },
            "f:annotations": { "f:phone": {} },
        } });
        let elsewhere = json!({ "f:metadata": { "f:labels": { "f:tracking": {} } } });
        let managers = json!([update("kubectl-label", fields), update("somebody", elsewhere)]);
        edited.meta_mut().managed_fields = Some(serde_json::from_value(managers).expect("fields"));
        let planned = writes(desired, &live(edited), commit, Some("c1")).expect("ours");
        (planned[0].commit.clone(), planned[0].reverted.clone())
    };
    let (mut relabelled, mut annotated, mut marked) = (applied(), applied(), applied());
    relabelled.labels_mut().insert("team".to_owned(), "b".to_owned());
    annotated.annotations_mut().insert("phone".to_owned(), "2".to_owned());
    marked.labels_mut().insert("policy.ringfence.dev/created-by".to_owned(), "kubelink".to_owned());
    for edited in [relabelled.clone(), annotated, marked] {
        assert_eq!(put_back(edited, desired(spec(), 3), "c1"), ("c1".to_owned(), by("kubectl-label")));
    }
    let changed = desired(json!({ "enabled": false, "scopes": [{}] }), 3);
    let beside_a_commit = put_back(relabelled, changed, "c2");
    assert_eq!(beside_a_commit, ("c2".to_owned(), by("kubectl-label")), "a commit in the same round");
}

#[test]
fn an_object_of_somebody_else_refuses_the_whole_commit() {
    let mut theirs = applied();
    theirs.labels_mut().insert("policy.ringfence.dev/repository".to_owned(), "team.other".to_owned());
    let refusal = writes(desired(spec(), 3), &live(theirs), "c2", None).expect_err("not ours");
    assert_eq!(refusal.reason(), "OwnedByAnother");
    assert_eq!(
        refusal.to_string(),
        "rules/shop.yaml:3: RuleSet shop belongs to PolicyRepository team/other: remove it from one of the two"
    );
}

#[test]
fn a_commit_may_not_lose_everything_nor_an_enforcing_profile() {
    assert!(safety::not_empty(0, 0).is_ok() && safety::not_empty(1, 9).is_ok());
    assert_eq!(safety::not_empty(0, 9).expect_err("lost").reason(), "EmptySource");
    let key = ObjectKey::cluster_wide(Kind::ContainerWorkloadProfile, "shop");
    let check = |spec: Value, namespaces: &[&str]| {
        let live = Live([(key.clone(), object(&json!({ "name": "shop" }), &spec))].into());
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        safety::not_enforcing(&BTreeSet::from([key.clone()]), &live, &namespaces)
    };
    for state in ["Full", "Selective"] {
        let spec = json!({ "managed": true, "policyState": state });
        assert_eq!(check(spec.clone(), &["shop"]).expect_err(state).reason(), "ProfileStillEnforcing");
        assert!(check(spec, &["other"]).is_ok(), "no such namespace");
    }
    for state in ["Idle", "VisibilityOnly"] {
        assert!(check(json!({ "managed": true, "policyState": state }), &["shop"]).is_ok(), "{state}");
    }
    assert!(check(json!({ "managed": false }), &["shop"]).is_ok());
    assert!(check(json!({ "managed": "?" }), &["shop"]).is_err(), "unreadable counts as enforcing");
}

fn repository(status: Value) -> PolicyRepository {
    serde_json::from_value(json!({
        "apiVersion": "ringfence.dev/v1alpha1", "kind": "PolicyRepository",
        "metadata": { "name": "policy", "namespace": "ringfence-system", "uid": "u", "generation": 4 },
        "spec": { "url": "https://git.example.org/policy.git" },
        "status": status,
    }))
    .expect("a repository")
}

fn problem(line: u64) -> Problem {
    let message = "no such kind".to_owned();
    Problem { path: "a.yaml".to_owned(), line, column: 1, message, severity: Severity::Error }
}

#[test]
fn a_refused_commit_leaves_the_last_good_one_in_force() {
    let now = Time(Timestamp::UNIX_EPOCH);
    let inventory = json!([{ "kind": "RuleSet", "name": "shop" }]);
    let good =
        repository(json!({ "appliedCommit": "1111111111", "attemptedCommit": "1111111111", "inventory": inventory }));
    let problems: Vec<Problem> = (1..=150).map(problem).collect();
    let report = Report {
        end: End::Refused(Refusal::Invalid(problems.clone())),
        commit: Some("2222222222".to_owned()),
        problems,
        inventory: vec![rule_set()],
    };
    let status = next(&good, &report, &now);
    assert_eq!(status.applied_commit.as_deref(), Some("1111111111"));
    assert_eq!(status.attempted_commit.as_deref(), Some("2222222222"));
    assert_eq!((status.problems.len(), status.problem_count), (100, Some(150)));
    assert_eq!(status.problems[0], "a.yaml:1:1: error: no such kind");
    let ready = &status.conditions[0];
    assert_eq!(
        (ready.type_.as_str(), ready.status.as_str(), ready.reason.as_str()),
        ("Ready", "False", "InvalidPolicy")
    );
    assert_eq!(
        ready.message,
        "150 problems, the first: a.yaml:1:1: error: no such kind; commit 11111111 stays in force"
    );
    assert_eq!((ready.observed_generation, status.observed_generation), (Some(4), Some(4)));
    assert_eq!(status.conditions[1].type_, "Stalled");
    assert_eq!(status.inventory.len(), 1);
}

#[test]
fn a_good_commit_clears_what_was_wrong() {
    let now = Time(Timestamp::UNIX_EPOCH);
    let bad = repository(json!({
        "appliedCommit": "1111111111", "attemptedCommit": "2222222222", "problems": ["x"], "problemCount": 1,
        "conditions": [{ "type": "Ready", "status": "False", "reason": "InvalidPolicy", "message": "x",
                         "lastTransitionTime": "2020-01-01T00:00:00Z" }],
    }));
    let commit = Some("3333333333".to_owned());
    let report = Report { end: End::InForce(1), commit, problems: Vec::new(), inventory: vec![rule_set()] };
    let status = next(&bad, &report, &now);
    assert_eq!(status.applied_commit.as_deref(), Some("3333333333"));
    assert!(status.problems.is_empty() && status.problem_count.is_none());
    assert_eq!(status.conditions.len(), 1);
    assert_eq!(status.conditions[0].message, "commit 33333333 is in force: 1 object");
    assert_eq!(status.conditions[0].last_transition_time, now);
    let again = repository(serde_json::to_value(&status).expect("a status"));
    let later = Time(Timestamp::MAX);
    assert_eq!(next(&again, &report, &later), status, "nothing changes when nothing changed");
}

#[test]
fn what_the_reconciler_writes_itself_starts_no_round() {
    let schedule = Schedule::default();
    let mut repository = repository(json!({}));
    assert_eq!(schedule.wait(&repository), None, "never seen");
    schedule.done(&repository, Duration::from_secs(60));
    assert!(schedule.wait(&repository).is_some_and(|wait| wait <= Duration::from_secs(60)));
    let request = ("ringfence.dev/reconcile-requested-at".to_owned(), "now".to_owned());
    repository.annotations_mut().extend([request]);
    assert_eq!(schedule.wait(&repository), None, "asked for");
    schedule.done(&repository, Duration::ZERO);
    assert_eq!(schedule.wait(&repository), None, "due");
}
