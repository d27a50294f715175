//! The PolicyRepository reconciler: a commit becomes policy objects in the apiserver, whole or not at all.
//!
//! ```text
//! settings → fetch → parse, check → read the cluster → owners, safety → plan → rehearse → apply → prune → status
//! ```
//!
//! Goals, and how they are met:
//! 1. A commit is taken whole or not at all: everything that can be refused is refused before the first write
//!    ([`steps`]), the last by a rehearsal on the apiserver itself ([`apply`]).
//! 2. What did not change is not written: desired and live content are compared in one normal form ([`content`]).
//! 3. What somebody changed by hand is put back and they are named ([`managers`]).
//! 4. No object has two owners ([`owner`]), and nothing that this repository does not own is ever deleted ([`prune`]).
//! 5. Every round ends in one place that writes the status ([`status`]).

mod apply;
mod content;
mod events;
mod fetcher;
mod hold;
mod kinds;
mod live;
mod managers;
mod owner;
mod plan;
mod prune;
mod refusal;
mod release;
mod safety;
mod schedule;
mod settings;
mod status;
mod steps;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crds::PolicyRepository;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::engine::Commits;
use crate::kubelink::watch::patience;
use fetcher::Fetcher;
use schedule::Schedule;

/// Keeps a PolicyRepository that is being deleted until its objects are released.
const FINALIZER: &str = "ringfence.dev/repository";
/// How many repositories are reconciled at the same time.
const CONCURRENCY: u16 = 4;
/// Wait after an error that is not the repository's.
const RETRY: Duration = Duration::from_secs(5);
/// Where fetched repositories are kept, unless `RINGFENCE_CACHE_DIR` says otherwise.
const CACHE: &str = "/var/cache/ringfence";

/// Why the reconciler could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The apiserver.
    #[error("failed to {0}: {1}")]
    Cluster(&'static str, #[source] kube::Error),
    /// Adding or removing the finalizer, or what is done in between.
    #[error(transparent)]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<Error>>),
    /// The repository's objects could not be let go.
    #[error("failed to release the objects of the repository: {0}")]
    Release(String),
    /// A directory for fetched repositories.
    #[error("failed to make the cache directory {0}: {1}")]
    Cache(PathBuf, #[source] std::io::Error),
}

/// What all rounds share.
struct Context {
    client: Client,
    fetcher: Fetcher,
    schedule: Schedule,
    /// Where the engine learns which commit each repository is at.
    commits: Commits,
}

/// Reconciles every PolicyRepository until `shutdown`. Only one controller may do so at a time.
///
/// # Errors
/// When there is no place for fetched repositories. Everything later is retried and reported in the status.
pub async fn run(client: Client, commits: Commits, shutdown: CancellationToken) -> Result<(), Error> {
    let context = Arc::new(Context {
        client: client.clone(),
        fetcher: Fetcher::new(cache_directory()?),
        schedule: Schedule::default(),
        commits,
    });
    Controller::new(Api::<PolicyRepository>::all(client), watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .trigger_backoff(patience())
        .graceful_shutdown_on(async move { shutdown.cancelled().await })
        .run(reconcile, retry, context)
        .for_each(async |result| {
            if let Err(error) = result {
                tracing::debug!(%error, "a round ended early");
            }
        })
        .await;
    Ok(())
}

/// The first of the configured, the usual and the temporary directory that can be written.
fn cache_directory() -> Result<PathBuf, Error> {
    let usual = std::env::var_os("RINGFENCE_CACHE_DIR").map_or_else(|| PathBuf::from(CACHE), PathBuf::from);
    let writable = |path: &PathBuf| std::fs::create_dir_all(path).and_then(|()| tempfile::tempdir_in(path).map(drop));
    if writable(&usual).is_ok() {
        return Ok(usual);
    }
    let temporary = std::env::temp_dir().join("ringfence");
    writable(&temporary).map_err(|error| Error::Cache(temporary.clone(), error))?;
    tracing::warn!(wanted = %usual.display(), used = %temporary.display(), "the git cache is in another place");
    Ok(temporary)
}

async fn reconcile(repository: Arc<PolicyRepository>, context: Arc<Context>) -> Result<Action, Error> {
    if let Some(wait) = context.schedule.wait(&repository) {
        return Ok(Action::requeue(wait));
    }
    let name = format!("{}/{}", repository.namespace().unwrap_or_default(), repository.name_any());
    let span = tracing::info_span!("repository", name, commit = tracing::field::Empty);
    let api = Api::<PolicyRepository>::namespaced(context.client.clone(), &repository.namespace().unwrap_or_default());
    let round = finalizer(&api, FINALIZER, repository, async |event| match event {
        Event::Apply(repository) => {
            let wait = steps::reconcile(&context, &repository).await?;
            context.schedule.done(&repository, wait);
            Ok(Action::requeue(wait))
        }
        Event::Cleanup(repository) => {
            release::all(&context, &repository).await?;
            context.schedule.forget(&repository);
            Ok(Action::await_change())
        }
    });
    round.instrument(span).await.map_err(|error| Error::Finalizer(Box::new(error)))
}

fn retry(repository: Arc<PolicyRepository>, error: &Error, _: Arc<Context>) -> Action {
    let reference = repository.object_ref(&());
    tracing::warn!(%error, namespace = reference.namespace, name = reference.name, "trying again");
    Action::requeue(RETRY)
}
