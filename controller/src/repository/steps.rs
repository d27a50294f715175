//! One round of one repository, as a list of steps. Until [`apply::carry_out`] nothing is written.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ringfence_compile::policy::{Kind, ObjectKey};
use ringfence_compile::source::{self, LiveNames, Parsed, Problem, Severity};
use ringfence_crds::{PolicyRepository, PolicyRepositoryStatus};
use tracing::Span;

use super::content::Desired;
use super::live::Live;
use super::plan::{self, Round};
use super::prune::Prune;
use super::refusal::Refusal;
use super::status::{self, End, Report};
use super::{Context, Error, apply, hold, kinds, release, safety, settings};
use crate::git::{Commit, Remote};

/// The longest wait after a round that failed for a reason that may pass by itself.
const SOON: Duration = Duration::from_secs(15);

/// Does a round and says when the next is due.
pub(super) async fn reconcile(context: &Context, repository: &PolicyRepository) -> Result<Duration, Error> {
    let started = Instant::now();
    let mut attempt = Attempt::new(context, repository);
    let end = if repository.spec.suspend {
        End::Suspended
    } else {
        match attempt.run().await {
            Ok(objects) => End::InForce(objects),
            Err(refusal) => End::Refused(refusal),
        }
    };
    let interval = settings::interval(&repository.spec);
    let wait = match &end {
        End::Refused(refusal) if !refusal.stalls() => interval.min(SOON),
        _ => interval,
    };
    log(&end, started);
    if matches!(end, End::Refused(_)) && !attempt.writing {
        hold::last_good(context, repository, &attempt.owned).await;
    }
    let report = attempt.report(end);
    status::finish(&context.client, repository, &report)
        .await
        .map_err(|error| Error::Cluster("write the status", error))?;
    Ok(wait)
}

fn log(end: &End, started: Instant) {
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match end {
        End::InForce(objects) => tracing::info!(objects, milliseconds, "the commit is in force"),
        End::Refused(refusal) => tracing::warn!(reason = refusal.reason(), milliseconds, "{refusal}"),
        End::Suspended => tracing::debug!("suspended"),
    }
}

/// A round under way, and what it has found so far.
struct Attempt<'a> {
    context: &'a Context,
    repository: &'a PolicyRepository,
    status: PolicyRepositoryStatus,
    commit: Option<String>,
    problems: Vec<Problem>,
    owned: BTreeSet<ObjectKey>,
    /// Whether the commit is accepted and is being written: from then on the older one is not to be put back.
    writing: bool,
}

impl<'a> Attempt<'a> {
    fn new(context: &'a Context, repository: &'a PolicyRepository) -> Self {
        let status = repository.status.clone().unwrap_or_default();
        let owned = status.inventory.iter().filter_map(kinds::key).collect();
        Self { context, repository, status, commit: None, problems: Vec::new(), owned, writing: false }
    }

    /// The steps. Gives the number of objects in force.
    async fn run(&mut self) -> Result<usize, Refusal> {
        let client = &self.context.client;
        let label = settings::owner(self.repository)?;
        let remote = settings::remote(client, self.repository).await?;

        let commit = self.fetch(remote).await?;

        let live = Live::read(client).await.map_err(|error| Refusal::Cluster("read the policy objects", error))?;
        let parsed = commit.parse();
        self.check(&parsed, &live, &label)?;
        let desired = Desired::all(&parsed, &label);
        let keys: BTreeSet<ObjectKey> = desired.iter().map(|object| object.key.clone()).collect();

        let gone: BTreeSet<ObjectKey> = self.owned.difference(&keys).cloned().collect();
        let namespaces = self.namespaces(&gone).await?;
        safety::not_empty(keys.len(), self.owned.len())?;
        if self.repository.spec.prune {
            safety::not_enforcing(&gone, &live, &namespaces)?;
        }

        let applied = self.status.applied_commit.as_deref();
        let round = Round { repository: &label, commit: &commit.id, applied, owned: &self.owned };
        let writes = plan::plan(desired, &live, &round)?;
        let writes = apply::rehearse(client, writes).await?;

        self.claim(&keys).await?;
        self.context.commits.note(&label, &commit.id);
        self.writing = true;
        let mut notices = apply::carry_out(client, writes).await?;
        let wanted = self.repository.spec.prune;
        let prune = Prune { repository: &label, live: &live, namespaces: &namespaces, wanted };
        let (kept, returned) = prune.all(client, &gone).await?;
        self.owned = keys.iter().cloned().chain(kept).collect();

        notices.extend(returned);
        for notice in notices {
            notice.emit(client).await;
        }
        Ok(keys.len())
    }

    async fn fetch(&mut self, remote: Remote) -> Result<Commit, Refusal> {
        let result = self.context.fetcher.fetch(self.repository, remote).await;
        self.commit = match &result {
            Ok(commit) => Some(commit.id.clone()),
            Err(Refusal::Fetch(error)) => error.commit().map(str::to_owned),
            Err(_) => None,
        };
        if let Some(commit) = &self.commit {
            Span::current().record("commit", commit.as_str());
        }
        result
    }

    /// Collects every problem; any error refuses the commit.
    fn check(&mut self, parsed: &Parsed, live: &Live, label: &str) -> Result<(), Refusal> {
        let keys = live.beside_commit(label, &self.owned, self.repository.spec.prune);
        let names = LiveNames { lists_with_names: live.lists_with_names(&keys), keys };
        let mut problems = parsed.problems.clone();
        problems.extend(source::check(parsed, &names));
        problems.sort();
        problems.dedup();
        self.problems.clone_from(&problems);
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(Refusal::Invalid(problems));
        }
        Ok(())
    }

    /// The namespaces that live; needed only when a profile is gone.
    async fn namespaces(&self, gone: &BTreeSet<ObjectKey>) -> Result<BTreeSet<String>, Refusal> {
        if gone.iter().any(|key| key.kind == Kind::ContainerWorkloadProfile) {
            release::namespaces(&self.context.client).await
        } else {
            Ok(BTreeSet::new())
        }
    }

    /// Writes down what will be ours before it is: a controller that dies in between must still know it.
    async fn claim(&mut self, keys: &BTreeSet<ObjectKey>) -> Result<(), Refusal> {
        if keys.is_subset(&self.owned) {
            return Ok(());
        }
        self.owned.extend(keys.iter().cloned());
        let status =
            PolicyRepositoryStatus { inventory: self.owned.iter().map(kinds::entry).collect(), ..self.status.clone() };
        status::write(&self.context.client, self.repository, &status)
            .await
            .map_err(|error| Refusal::Cluster("write the inventory", error))
    }

    fn report(self, end: End) -> Report {
        let problems = match &end {
            End::Refused(Refusal::Invalid(problems)) => problems.clone(),
            _ => self.problems,
        };
        Report { end, commit: self.commit, problems, inventory: self.owned.into_iter().collect() }
    }
}
