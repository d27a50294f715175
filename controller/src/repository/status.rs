//! The one place that writes the status of a PolicyRepository.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_compile::policy::ObjectKey;
use ringfence_compile::source::Problem;
use ringfence_crds::names::{API_VERSION, MANAGER_CONTROLLER};
use ringfence_crds::{PolicyRepository, PolicyRepositoryStatus};
use serde_json::json;

use super::events::Notice;
use super::kinds;
use super::refusal::Refusal;

/// How many problems the status lists.
const LISTED: usize = 100;
/// What a condition's message may hold.
const MESSAGE_LENGTH: usize = 4096;

/// How a round ended.
#[derive(Debug)]
pub(super) enum End {
    /// The commit is in force, as this many objects.
    InForce(usize),
    /// It is not.
    Refused(Refusal),
    /// Nothing was tried.
    Suspended,
}

/// What a round found.
#[derive(Debug)]
pub(super) struct Report {
    /// How it ended.
    pub(super) end: End,
    /// The commit looked at, if there was one.
    pub(super) commit: Option<String>,
    /// What is to be said about that commit.
    pub(super) problems: Vec<Problem>,
    /// The objects owned now.
    pub(super) inventory: Vec<ObjectKey>,
}

/// The status after a round.
pub(super) fn next(repository: &PolicyRepository, report: &Report, now: &Time) -> PolicyRepositoryStatus {
    let old = repository.status.clone().unwrap_or_default();
    let generation = repository.meta().generation;
    let mut status = PolicyRepositoryStatus { observed_generation: generation, ..old.clone() };
    let (ready, reason, message) = verdict(report, old.applied_commit.as_deref());
    let stalled = matches!(&report.end, End::Refused(refusal) if refusal.stalls());
    let make = |kind: &str, holds: bool| condition(&old, kind, holds, reason, &message, generation, now);
    status.conditions = vec![make("Ready", ready)];
    if stalled {
        status.conditions.push(make("Stalled", true));
    }
    if let Some(commit) = &report.commit {
        status.attempted_commit = Some(commit.clone());
        let problems = lines(report);
        status.problem_count = (!problems.is_empty()).then(|| i32::try_from(problems.len()).unwrap_or(i32::MAX));
        status.problems = problems.into_iter().take(LISTED).collect();
        if matches!(report.end, End::InForce(_)) {
            status.applied_commit = Some(commit.clone());
        }
    }
    status.inventory = report.inventory.iter().map(kinds::entry).collect();
    status.inventory.sort();
    status.inventory.dedup();
    status
}

fn lines(report: &Report) -> Vec<String> {
    match &report.end {
        End::Refused(Refusal::OwnedByAnother(conflicts)) => conflicts.iter().map(|one| one.text()).collect(),
        _ => report.problems.iter().map(ToString::to_string).collect(),
    }
}

fn verdict(report: &Report, applied: Option<&str>) -> (bool, &'static str, String) {
    match &report.end {
        End::InForce(objects) => {
            let commit = short(report.commit.as_deref().unwrap_or_default());
            let warnings = match report.problems.len() {
                0 => String::new(),
                n => format!(", with {}", counted(n, "warning")),
            };
            (true, "Applied", format!("commit {commit} is in force: {}{warnings}", counted(*objects, "object")))
        }
        End::Refused(refusal) => {
            let stays = applied.map_or_else(String::new, |commit| format!("; commit {} stays in force", short(commit)));
            (false, refusal.reason(), shortened(refusal.to_string(), &stays))
        }
        End::Suspended => {
            let stays = applied.map_or_else(String::new, |commit| format!(": commit {} stays in force", short(commit)));
            (applied.is_some(), "Suspended", format!("suspended{stays}"))
        }
    }
}

/// `1 object`, `2 objects`.
fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn shortened(mut message: String, end: &str) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_LENGTH - end.len()));
    message.push_str(end);
    message
}

/// The first digits of a commit's id, as people write it.
pub(super) fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}

fn condition(
    old: &PolicyRepositoryStatus,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let since = old.conditions.iter().find(|one| one.type_ == kind && one.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.map_or_else(|| now.clone(), |one| one.last_transition_time.clone()),
    }
}

/// Writes the status that a round led to, if it is another, and tells about the change.
pub(super) async fn finish(client: &Client, repository: &PolicyRepository, report: &Report) -> Result<(), kube::Error> {
    let status = next(repository, report, &Time(Timestamp::now()));
    let notice = notice(repository, &status);
    write(client, repository, &status).await?;
    if let Some(notice) = notice {
        notice.emit(client).await;
    }
    Ok(())
}

/// Writes the status, if it is another than the repository has.
pub(super) async fn write(
    client: &Client,
    repository: &PolicyRepository,
    status: &PolicyRepositoryStatus,
) -> Result<(), kube::Error> {
    if repository.status.as_ref() == Some(status) {
        return Ok(());
    }
    let namespace = repository.namespace().unwrap_or_default();
    let name = repository.name_any();
    let body = json!({
        "apiVersion": API_VERSION,
        "kind": "PolicyRepository",
        "metadata": { "name": name, "namespace": namespace },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER_CONTROLLER).force();
    let api = Api::<PolicyRepository>::namespaced(client.clone(), &namespace);
    api.patch_status(&name, &params, &Patch::Apply(&body)).await.map(drop)
}

/// An Event for a commit that came into force, and for a reason not to be ready that is new.
fn notice(repository: &PolicyRepository, status: &PolicyRepositoryStatus) -> Option<Notice> {
    let old = repository.status.clone().unwrap_or_default();
    let ready = status.conditions.first()?;
    let before = old.conditions.iter().find(|one| one.type_ == ready.type_);
    let same = before.is_some_and(|one| (&one.reason, &one.status) == (&ready.reason, &ready.status))
        && old.applied_commit == status.applied_commit
        && old.attempted_commit == status.attempted_commit;
    (!same).then(|| Notice {
        about: repository.object_ref(&()),
        warning: ready.status != "True" && ready.reason != "Suspended",
        reason: match ready.reason.as_str() {
            "Applied" => "CommitApplied",
            "Suspended" => "Suspended",
            _ => "CommitRefused",
        },
        action: "Reconcile",
        note: format!("{}: {}", ready.reason, ready.message),
    })
}
