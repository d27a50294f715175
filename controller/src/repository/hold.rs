//! Keeping the last good commit in force while the newest is refused or cannot be fetched: what was changed by hand
//! meanwhile is put back all the same.

use std::collections::BTreeSet;

use kube::ResourceExt;
use ringfence_compile::policy::ObjectKey;
use ringfence_compile::source::{self, SourceFile};
use ringfence_crds::PolicyRepository;
use ringfence_crds::names::ANNOTATION_FILE;

use super::content::Desired;
use super::live::Live;
use super::plan::{self, Round, Write};
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
    let files = files(context, repository, commit).await?;
    let live = Live::read(client).await.map_err(|error| Refusal::Cluster("read the policy objects", error))?;
    let round = Round { repository: &label, commit, applied: Some(commit), owned };
    let writes = apply::rehearse(client, writes(&files, &live, &round)?).await?;
    for notice in apply::carry_out(client, writes).await? {
        notice.emit(client).await;
    }
    Ok(())
}

/// The files of the commit in force. They are in the cache nearly always, and then neither the Secret nor the remote
/// is asked for: what is wrong with those may be why the newest commit is not in force.
async fn files(context: &Context, repository: &PolicyRepository, commit: &str) -> Result<Vec<SourceFile>, Refusal> {
    if let Some(commit) = context.fetcher.cached(repository, commit).await {
        return Ok(commit.files);
    }
    let remote = settings::remote(&context.client, repository).await?;
    let remote = Remote { reference: Reference::Commit(commit.to_owned()), ..remote };
    Ok(context.fetcher.fetch(repository, remote).await?.files)
}

/// The writes that put the commit in force back.
fn writes(files: &[SourceFile], live: &Live, round: &Round<'_>) -> Result<Vec<Write>, Refusal> {
    let desired = Desired::all(&source::parse(files), round.repository);
    if is_what_was_applied(&desired, live, round.owned) { plan::plan(desired, live, round) } else { Ok(Vec::new()) }
}

/// Whether these objects were applied. When `spec.path` has changed since, the commit in force reads differently, and
/// what it says under the new path was never accepted. There may be more that we own: what `prune: false` has kept.
fn is_what_was_applied(desired: &[Desired], live: &Live, owned: &BTreeSet<ObjectKey>) -> bool {
    let same_file = |object: &Desired| {
        let file = live.get(&object.key).and_then(|lives| lives.annotations().get(ANNOTATION_FILE));
        file.is_none_or(|file| *file == object.file)
    };
    desired.iter().all(|object| owned.contains(&object.key) && same_file(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::plan::Reverted;
    use ringfence_compile::policy::Kind;
    use serde_json::json;

    const US: &str = "ringfence-system.policy";
    const RULE_SET: &str = r#"{"apiVersion": "ringfence.dev/v1alpha1", "kind": "RuleSet",
        "metadata": {"name": "shop"}, "spec": {"scopes": [{}], "rules": []}}"#;
    const REPOSITORY: &str = r#"{"apiVersion": "ringfence.dev/v1alpha1", "kind": "PolicyRepository",
        "metadata": {"name": "other", "namespace": "shop"}, "spec": {"url": "https://git.example.org/other.git"}}"#;

    fn rule_set() -> ObjectKey {
        ObjectKey::cluster_wide(Kind::RuleSet, "shop")
    }

    fn commit(documents: &[&str], path: &str) -> Vec<SourceFile> {
        vec![SourceFile { path: path.to_owned(), text: documents.join("\n---\n") }]
    }

    /// The RuleSet as applied from `rules/shop.yaml`, and disabled by hand since.
    fn disabled() -> Live {
        let object = serde_json::from_value(json!({
            "apiVersion": "ringfence.dev/v1alpha1", "kind": "RuleSet",
            "metadata": {
                "name": "shop",
                "labels": { "policy.ringfence.dev/repository": US },
                "annotations": {
                    "policy.ringfence.dev/commit": "c1",
                    "policy.ringfence.dev/file": "rules/shop.yaml",
                    "policy.ringfence.dev/line": "1",
                },
            },
            "spec": { "enabled": false, "scopes": [{}], "rules": [] },
        }));
        Live([(rule_set(), object.expect("an object"))].into())
    }

    /// What is put back, by key.
    fn put_back(files: &[SourceFile], live: &Live, owned: &[ObjectKey]) -> Vec<(ObjectKey, Option<Reverted>)> {
        let owned = owned.iter().cloned().collect();
        let round = Round { repository: US, commit: "c1", applied: Some("c1"), owned: &owned };
        let writes = writes(files, live, &round).expect("ours");
        writes.into_iter().map(|write| (write.desired.key, write.reverted)).collect()
    }

    #[test]
    fn a_change_by_hand_is_put_back_also_beside_a_repository_among_the_policy() {
        let enabled = [(rule_set(), Some(Reverted::Changed(BTreeSet::new())))];
        for documents in [&[RULE_SET][..], &[RULE_SET, REPOSITORY]] {
            let files = commit(documents, "rules/shop.yaml");
            assert_eq!(put_back(&files, &disabled(), &[rule_set()]), enabled, "{documents:?}");
        }
    }

    #[test]
    fn what_was_deleted_by_hand_is_made_again() {
        let files = commit(&[RULE_SET], "rules/shop.yaml");
        assert_eq!(put_back(&files, &Live::default(), &[rule_set()]), [(rule_set(), Some(Reverted::Deleted))]);
    }

    #[test]
    fn what_is_kept_without_being_in_git_holds_nothing_up() {
        let files = commit(&[RULE_SET], "rules/shop.yaml");
        let kept = ObjectKey::cluster_wide(Kind::IpList, "kept");
        assert_eq!(put_back(&files, &disabled(), &[rule_set(), kept]).len(), 1);
    }

    #[test]
    fn what_the_commit_says_under_another_path_was_never_accepted() {
        assert_eq!(put_back(&commit(&[RULE_SET], "other/shop.yaml"), &disabled(), &[rule_set()]), []);
        assert_eq!(put_back(&commit(&[RULE_SET], "rules/shop.yaml"), &disabled(), &[]), []);
    }
}
