//! Keeping the last good commit in force while the newest is refused or cannot be fetched: what was changed by hand
//! meanwhile is put back all the same.

use std::collections::BTreeSet;

use kube::ResourceExt;
use ringfence_compile::policy::ObjectKey;
use ringfence_compile::source;
use ringfence_crds::PolicyRepository;
use ringfence_crds::names::ANNOTATION_FILE;

use super::content::Desired;
use super::live::Live;
use super::plan::{self, Round};
use super::refusal::Refusal;
use super::{Context, apply, settings};
use crate::git::{Reference, Remote};

/// Puts back what differs from the commit in force. Failing to do so is no news: the status already says why the
/// repository is not ready.
pub(super) async fn last_good(context: &Context, repository: &PolicyRepository, owned: &BTreeSet<ObjectKey>) {
    let applied = repository.status.as_ref().and_then(|status| status.applied_commit.clone());
    if let Some(commit) = applied
        && let Err(refusal) = hold(context, repository, &commit, owned).await
    {
        tracing::debug!(%refusal, "the last good commit was not looked at");
    }
}

async fn hold(
    context: &Context,
    repository: &PolicyRepository,
    commit: &str,
    owned: &BTreeSet<ObjectKey>,
) -> Result<(), Refusal> {
    let client = &context.client;
    let label = settings::owner(repository)?;
    let remote = settings::remote(client, repository).await?;
    // It is in the cache nearly always, and then the remote is not asked.
    let remote = Remote { reference: Reference::Commit(commit.to_owned()), ..remote };
    let files = context.fetcher.fetch(repository, remote).await?.files;
    let live = Live::read(client).await.map_err(|error| Refusal::Cluster("read the policy objects", error))?;
    let parsed = source::parse(&files);
    let desired: Vec<Desired> = parsed.objects.iter().map(|object| Desired::new(object, &label)).collect();
    if !is_what_was_applied(&desired, &live, owned) {
        return Ok(());
    }
    let round = Round { repository: &label, commit, applied: Some(commit), owned };
    let writes = plan::plan(desired, &live, &round)?;
    let writes = apply::rehearse(client, writes).await?;
    for notice in apply::carry_out(client, writes).await? {
        notice.emit(client).await;
    }
    Ok(())
}

/// Whether these objects are those that were applied. When `spec.path` has changed since, the commit in force reads
/// differently, and what it says under the new path was never accepted.
fn is_what_was_applied(desired: &[Desired], live: &Live, owned: &BTreeSet<ObjectKey>) -> bool {
    let keys: BTreeSet<ObjectKey> = desired.iter().map(|object| object.key.clone()).collect();
    let same_file = |object: &Desired| {
        let file = live.get(&object.key).and_then(|lives| lives.annotations().get(ANNOTATION_FILE));
        file.is_none_or(|file| *file == object.file)
    };
    keys == *owned && desired.iter().all(same_file)
}
