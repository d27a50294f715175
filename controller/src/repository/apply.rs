//! Writing objects: first a rehearsal on the apiserver, then for real.
//!
//! Server-side apply puts our fields in force and leaves fields that others added, which on an object from git would
//! let anybody widen it by hand. So where something would be left over, the spec is replaced before it is applied.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use ringfence_compile::policy::Kind;
use ringfence_compile::source::{Problem, Severity};
use ringfence_crds::names::{LABEL_CREATED_BY, MANAGER_GIT};
use serde_json::json;

use super::content::Difference;
use super::events::Notice;
use super::kinds;
use super::plan::{Reverted, Write};
use super::refusal::Refusal;

/// How many objects are written at the same time.
const CONCURRENCY: usize = 8;

/// How an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Apply,
    ReplaceAndApply,
}

/// A write that the apiserver has accepted in rehearsal.
#[derive(Debug)]
pub(super) struct Rehearsed {
    write: Write,
    way: Way,
}

/// Lets the apiserver judge every write without doing any.
///
/// # Errors
/// Every problem that the apiserver has with them, or that it cannot be asked.
pub(super) async fn rehearse(client: &Client, writes: Vec<Write>) -> Result<Vec<Rehearsed>, Refusal> {
    let results: Vec<Result<Rehearsed, Problem>> = stream::iter(writes)
        .map(|write| rehearse_one(client, write))
        .buffered(CONCURRENCY)
        .try_collect()
        .await
        .map_err(|error| Refusal::Cluster("rehearse the commit on the apiserver", error))?;
    let (accepted, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let mut problems: Vec<Problem> = refused.into_iter().filter_map(Result::err).collect();
    problems.sort();
    if problems.is_empty() { Ok(accepted.into_iter().flatten().collect()) } else { Err(Refusal::Invalid(problems)) }
}

async fn rehearse_one(client: &Client, write: Write) -> Result<Result<Rehearsed, Problem>, kube::Error> {
    if write.difference == Difference::Place {
        return Ok(Ok(Rehearsed { write, way: Way::Apply }));
    }
    let applied = apply(client, &write, true).await;
    let suffices = applied.as_ref().is_ok_and(|object| {
        write.desired.spec_is(object.data.get("spec")) && !object.labels().contains_key(LABEL_CREATED_BY)
    });
    if suffices || write.difference == Difference::Missing {
        return sort_out(applied, write, Way::Apply);
    }
    let replaced = replace(client, &write, true).await;
    sort_out(replaced, write, Way::ReplaceAndApply)
}

/// Tells what is wrong with the object from what is wrong with the apiserver.
fn sort_out(
    result: Result<DynamicObject, kube::Error>,
    write: Write,
    way: Way,
) -> Result<Result<Rehearsed, Problem>, kube::Error> {
    match result {
        Ok(_) => Ok(Ok(Rehearsed { write, way })),
        // Not valid, no such namespace, or refused by an admission webhook.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404 | 422) => Ok(Err(Problem {
            path: write.desired.file.clone(),
            line: write.desired.line,
            column: 1,
            message: format!("the apiserver refuses {}: {}", write.desired.key, status.message),
            severity: Severity::Error,
        })),
        Err(error) => Err(error),
    }
}

/// Does every write, kind by kind. Gives what to tell about changes that were put back.
///
/// # Errors
/// When the apiserver did not do as asked. What is already written stays and the next round goes on from there.
pub(super) async fn carry_out(client: &Client, writes: Vec<Rehearsed>) -> Result<Vec<Notice>, Refusal> {
    let mut by_kind: BTreeMap<Kind, Vec<Rehearsed>> = BTreeMap::new();
    for write in writes {
        by_kind.entry(write.write.desired.key.kind).or_default().push(write);
    }
    let mut notices = Vec::new();
    for kind in kinds::ORDER {
        let of_kind = stream::iter(by_kind.remove(&kind).unwrap_or_default());
        let told: Vec<Option<Notice>> = of_kind
            .map(|write| carry_out_one(client, write))
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
            .map_err(|error| Refusal::Cluster("write the objects of the commit", error))?;
        notices.extend(told.into_iter().flatten());
    }
    Ok(notices)
}

async fn carry_out_one(client: &Client, Rehearsed { write, way }: Rehearsed) -> Result<Option<Notice>, kube::Error> {
    if way == Way::ReplaceAndApply {
        replace(client, &write, false).await?;
    }
    let object = apply(client, &write, false).await?;
    tracing::info!(object = %write.desired.key, difference = ?write.difference, "written");
    Ok(write.reverted.as_ref().map(|reverted| notice(&write, reverted, &object)))
}

async fn apply(client: &Client, write: &Write, dry_run: bool) -> Result<DynamicObject, kube::Error> {
    let body = write.desired.body(&write.commit);
    let mut params = PatchParams::apply(MANAGER_GIT).force().validation_strict();
    params.dry_run = dry_run;
    kinds::api_of(client, &write.desired.key).patch(&write.desired.key.name, &params, &Patch::Apply(&body)).await
}

/// Puts our spec in place of the one that lives, and takes the object over from discovery.
async fn replace(client: &Client, write: &Write, dry_run: bool) -> Result<DynamicObject, kube::Error> {
    let mut operations = vec![json!({ "op": "add", "path": "/spec", "value": write.desired.spec() })];
    if write.adopts {
        operations.push(json!({ "op": "remove", "path": kinds::pointer("/metadata/labels", LABEL_CREATED_BY) }));
    }
    kinds::patch(client, &write.desired.key, MANAGER_GIT, operations, dry_run).await
}

fn notice(write: &Write, reverted: &Reverted, object: &DynamicObject) -> Notice {
    let what = match reverted {
        Reverted::Deleted => "it was deleted, and is made again".to_owned(),
        Reverted::Changed(by) if by.is_empty() => {
            "a change by hand was put back (no field manager recorded)".to_owned()
        }
        Reverted::Changed(by) => {
            format!("a change by {} was put back", by.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        }
    };
    let about = object.object_ref(&kinds::resource(write.desired.key.kind));
    Notice {
        about,
        warning: true,
        reason: "Reverted",
        action: "PutBack",
        note: format!("{what}: {} comes from git ({}); change it there", write.desired.key, write.desired.place()),
    }
}
