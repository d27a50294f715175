//! Which Pods wait for an answer, and when there is one.
//!
//! 1. A Pod may start when what is wanted is in its network namespace, or something stricter is; the rest may follow.
//! 2. What an agent before this one has left on disk may be less strict than what has been published since. So after its start an
//!    agent waits for the apiserver before it goes by that, but not for long.
//! 3. When the time is over, its profile decides. As long as nothing has been read, what an agent before this one has left
//!    for when there is none decides; without that, nobody starts.

use std::collections::BTreeMap;
use std::time::Duration;

use ringfence_cni::{Answer, Fallback, Start};
use ringfence_crds::container_workload_profile::UnprotectedStart;
use ringfence_dataplane::{ObjectStore, Profile};
use ringfence_model::PolicyState;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::slot::Slot;

/// A Pod that waits.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    until: Instant,
    answer: oneshot::Sender<Answer>,
}

/// See the module.
#[derive(Debug)]
pub struct Admissions {
    waiting: BTreeMap<String, Waiting>,
    /// For how long a Pod may wait.
    wait: Duration,
    /// The namespace of our own Pods, which must never wait for themselves.
    own_namespace: Option<String>,
    /// What holds as long as nothing has been read.
    before: Option<Fallback>,
    /// From when on what was left on disk is good enough.
    ledger_counts_at: Instant,
}

/// What is known, for a decision.
pub struct Knowledge<'a> {
    /// What was read; nothing as long as none of it counts.
    pub store: Option<&'a ObjectStore>,
    /// Whether that is more than what was left on disk.
    pub fresh: bool,
    /// The sandboxes.
    pub slots: &'a BTreeMap<String, Slot>,
    /// The time.
    pub now: Instant,
}

impl Admissions {
    /// Nobody waits yet; the agent has just begun. `ledger_wait` is for how long it does not go by what was left on disk alone.
    pub fn new(wait: Duration, ledger_wait: Duration, own_namespace: Option<String>, before: Option<Fallback>) -> Self {
        let ledger_counts_at = Instant::now() + ledger_wait.min(wait);
        Self { waiting: BTreeMap::new(), wait, own_namespace, before, ledger_counts_at }
    }

    /// Somebody waits for an answer about a sandbox. Who waited for it before has given up.
    pub fn add(&mut self, sandbox: String, answer: oneshot::Sender<Answer>, now: Instant) {
        self.waiting.insert(sandbox, Waiting { since: now, until: now + self.wait, answer });
    }

    /// A sandbox is gone.
    pub fn forget(&mut self, sandbox: &str) {
        self.waiting.remove(sandbox);
    }

    /// When the first wait is over that is not over at `now`.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let first = self.waiting.values().map(|waiting| waiting.until).min()?;
        Some(if self.ledger_counts_at > now { first.min(self.ledger_counts_at) } else { first })
    }

    /// Answers whoever can be answered.
    pub fn settle(&mut self, known: &Knowledge<'_>) {
        // A sandbox that is gone starts no more.
        self.waiting.retain(|id, _| known.slots.contains_key(id));
        let decided: Vec<(String, Answer)> = self
            .waiting
            .iter()
            .filter_map(|(id, waiting)| Some((id.clone(), self.decide(known, known.slots.get(id)?, waiting)?)))
            .collect();
        for (id, answer) in decided {
            let (Some(waiting), Some(slot)) = (self.waiting.remove(&id), known.slots.get(&id)) else { continue };
            let (pod, ms) = (slot.pod(), known.now.duration_since(waiting.since).as_secs_f64() * 1000.0);
            match &answer.problem {
                None => tracing::debug!(%pod, ms, "protected before its start"),
                Some(problem) => tracing::warn!(%pod, ms, start = ?answer.start, "failed to {problem}"),
            }
            // Nobody listens if the runtime has given up.
            let _ = waiting.answer.send(answer);
        }
    }

    fn decide(&self, known: &Knowledge<'_>, slot: &Slot, waiting: &Waiting) -> Option<Answer> {
        let namespace = &slot.sandbox.namespace;
        let own = self.own_namespace.as_ref() == Some(namespace);
        let counts = known.fresh || own || known.now >= self.ledger_counts_at;
        if counts && slot.is_protected() {
            return Some(Answer::protected());
        }
        if known.now < waiting.until {
            return None;
        }
        let start = match known.store {
            _ if own => Start::Allow,
            Some(store) => start(store, namespace),
            None => self.before.as_ref().map_or(Start::Refuse, |before| before.start(namespace)),
        };
        let seconds = self.wait.as_secs_f32();
        let why = slot.problem().map(|problem| format!(": {problem}")).unwrap_or_default();
        Some(Answer { start, problem: Some(format!("protect {} within {seconds} s{why}", slot.pod())) })
    }

    /// What holds without an agent.
    pub fn fallback(&self, store: &ObjectStore) -> Fallback {
        let namespaces = store.profiles.keys().filter(|name| self.own_namespace.as_ref() != Some(*name));
        Fallback { refuse: namespaces.filter(|name| start(store, name) == Start::Refuse).cloned().collect() }
    }
}

/// Whether Pods of a namespace may start without their policy. One that has no profile yet has no policy either: a
/// controller that is away is in nobody's way.
fn start(store: &ObjectStore, namespace: &str) -> Start {
    let Some(Profile { spec, enforced_state }) = store.profiles.get(namespace) else { return Start::Allow };
    match (enforced_state.filter(|_| spec.managed), spec.unprotected_start) {
        (None | Some(PolicyState::Idle), _) => Start::Allow,
        (Some(_), Some(UnprotectedStart::Refuse)) => Start::Refuse,
        (Some(_), Some(UnprotectedStart::Allow)) => Start::Allow,
        (Some(PolicyState::Full), None) => Start::Refuse,
        (Some(PolicyState::Selective | PolicyState::VisibilityOnly), None) => Start::Allow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_crds::ContainerWorkloadProfileSpec;

    fn profile(managed: bool, enforced_state: Option<PolicyState>) -> Profile {
        let spec = ContainerWorkloadProfileSpec { managed, ..ContainerWorkloadProfileSpec::default() };
        Profile { spec, enforced_state }
    }

    #[test]
    fn without_an_agent_pods_of_namespaces_in_full_do_not_start() {
        let mut store = ObjectStore::default();
        for (name, managed, state) in [
            ("full", true, Some(PolicyState::Full)),
            ("selective", true, Some(PolicyState::Selective)),
            ("idle", true, Some(PolicyState::Idle)),
            ("unmanaged", false, Some(PolicyState::Full)),
            ("waiting", true, None),
            ("ringfence-system", true, Some(PolicyState::Full)),
        ] {
            store.profiles.insert(name.to_owned(), profile(managed, state));
        }
        let admissions = Admissions::new(Duration::ZERO, Duration::ZERO, Some("ringfence-system".to_owned()), None);
        assert_eq!(admissions.fallback(&store), Fallback { refuse: ["full".to_owned()].into() });
    }
}
