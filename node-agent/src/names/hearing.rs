//! What one sandbox hears, and has learned by that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ringfence_dataplane::names::MOST;
use ringfence_dataplane::{Answer, Learned, NetnsPolicy, Nets, Resolution};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::listen::{Named, listen};
use super::{Ear, EarError, Heard};

/// An ear that could not be opened is tried again so much later.
const AGAIN: Duration = Duration::from_secs(10);
/// An address that connections use is looked at again so many seconds later.
const HELD: u64 = 30;
/// Connections are looked for this often at most: to do so the kernel walks those of the whole machine.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Hearing {
    learned: Learned,
    /// What was resolved, as long as there are names in it, and whether the Pod may be closed for what is missing.
    resolved: Option<(Resolution, bool)>,
    ear: State,
    /// When to look for connections, if a time is over then; none while that is being done.
    look_at: Option<Instant>,
    looking: bool,
    looked_at: Option<Instant>,
    /// Some answer found no room.
    is_full: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Deaf,
    Listening {
        named: watch::Sender<Named>,
        task: AbortHandle,
    },
    Failed {
        problem: String,
        retry_at: Instant,
    },
}

impl Drop for State {
    fn drop(&mut self) {
        if let Self::Listening { task, .. } = self {
            task.abort();
        }
    }
}

impl Hearing {
    /// Of a sandbox that has learned this before the agent began.
    pub fn remembering(learned: Learned, now: u64) -> Self {
        let mut hearing = Self { learned, ..Self::default() };
        hearing.learned.awake(now);
        hearing.plan(now);
        hearing
    }

    /// What it has learned.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// What is to be in force, with what was learned.
    pub fn fill(&mut self, resolution: Resolution, may_close: bool, reserved: &Nets) -> Resolution {
        if matches!(resolution, Resolution::Incomplete { closed: None, .. }) {
            // Nobody knows which names there are, and what was in force stays.
            return resolution;
        }
        let named = named_in(&resolution);
        if named.is_empty() {
            self.rest();
            return resolution;
        }
        if let State::Listening { named: told, .. } = &self.ear {
            told.send_replace(named);
        }
        let filled = resolution.clone().knowing(&self.learned, reserved);
        self.resolved = Some((resolution, may_close));
        filled
    }

    /// Names are of no interest any more.
    pub fn rest(&mut self) {
        self.resolved = None;
        self.ear = State::Deaf;
    }

    /// Whether an ear is to be opened.
    pub fn wants_ear(&self, now: Instant) -> bool {
        let may = match &self.ear {
            State::Deaf => true,
            State::Listening { .. } => false,
            State::Failed { retry_at, .. } => *retry_at <= now,
        };
        may && self.resolved.is_some()
    }

    /// Takes in an ear that was opened for it, and listens; or why there is none.
    pub fn opened(&mut self, id: &str, ear: Result<Ear, EarError>, tell: &Sender<Heard>, now: Instant) {
        let Some((resolution, _)) = &self.resolved else { return };
        match ear {
            Ok(ear) => {
                let (named, told) = watch::channel(named_in(resolution));
                let task = tokio::spawn(listen(id.to_owned(), ear, told, tell.clone())).abort_handle();
                self.ear = State::Listening { named, task };
            }
            Err(error) => self.deaf(error.to_string(), now),
        }
    }

    /// The ear hears nothing any more.
    pub fn deaf(&mut self, problem: String, now: Instant) {
        self.ear = State::Failed { problem, retry_at: now + AGAIN };
    }

    /// Takes in an answer; says whether it teaches anything.
    pub fn hear(&mut self, answer: &Answer, now: u64) -> bool {
        let taken = self.learned.learn(answer, now);
        self.is_full |= taken.refused > 0;
        self.plan(now);
        taken.new > 0
    }

    /// What is to be in force now, and whether the Pod may be closed for what is missing; nothing where no names are.
    pub fn filled(&self, reserved: &Nets) -> Option<(Resolution, bool)> {
        let (resolution, may_close) = self.resolved.as_ref()?;
        Some((resolution.clone().knowing(&self.learned, reserved), *may_close))
    }

    /// The addresses whose time is over, if connections are to be looked for now.
    pub fn begin_look(&mut self, now: Instant, unix: u64) -> Option<BTreeSet<IpAddr>> {
        self.look_at.filter(|at| !self.looking && *at <= now)?;
        let expired = self.learned.expired(unix);
        self.looking = !expired.is_empty();
        if !self.looking {
            self.plan(unix);
        }
        (!expired.is_empty()).then_some(expired)
    }

    /// Lets go what no connection uses; says whether anything is gone. Where nobody knows, everything stays.
    pub fn looked(&mut self, in_use: Result<BTreeSet<IpAddr>, String>, unix: u64) -> bool {
        self.looking = false;
        self.looked_at = Some(Instant::now());
        let in_use = in_use.unwrap_or_else(|problem| {
            tracing::warn!("failed to {problem}: what was learned of names stays");
            self.learned.expired(unix)
        });
        let gone = self.learned.expire(&in_use, unix, unix + HELD);
        self.is_full &= self.learned.len() >= MOST;
        self.plan(unix);
        gone
    }

    fn plan(&mut self, unix: u64) {
        self.learned.bound(unix);
        let not_before = self.looked_at.map(|at| at + BETWEEN_LOOKS);
        let at = |next: u64| Instant::now() + Duration::from_secs(next.saturating_sub(unix));
        self.look_at = self.learned.next_expiry().map(|next| not_before.map_or(at(next), |least| at(next).max(least)));
    }

    /// When it wants to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        let retry = match &self.ear {
            State::Failed { retry_at, .. } => Some(*retry_at),
            _ => None,
        };
        retry.into_iter().chain(self.look_at.filter(|_| !self.looking)).min()
    }

    /// What is not as it should be, for people.
    pub fn problem(&self) -> Option<String> {
        match &self.ear {
            State::Failed { problem, .. } => Some(format!("failed to {problem}")),
            _ => self.is_full.then(|| {
                format!(
                    "failed to learn every address of its names: {MOST} are the most, and its resolvers answer more"
                )
            }),
        }
    }
}

fn named_in(resolution: &Resolution) -> Named {
    let named = |policy: &NetnsPolicy| policy.names().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    match resolution {
        Resolution::Enforce(policy) => named(policy),
        Resolution::Incomplete { closed: Some(policy), .. } => named(policy),
        _ => Named::new(),
    }
}
