//! The node's own network namespace: its policy, put in force so that it can be taken back.
//!
//! ```text
//! engine ── wanted ──► follow ──► probe ─ marker ─ rules ─ probe ──► confirmed, or taken back and refused
//!        ◄── said ────
//! ```
//!
//! 1. A change of rules is confirmed or taken back (commit-confirm, [`change`]): with new connections the apiserver must answer
//!    as before, and so must other nodes over the Pod network ([`probe`]). If not, the rules that were there are brought back at
//!    once, and the policy is not tried again until it changes, over a restart of the agent too ([`marker`]).
//! 2. Who is to blame is found out: if what failed fails with the old rules too, something else is broken, and the policy is tried
//!    again later.
//! 3. An agent that ends between writing and confirming has left a note before it wrote: the next one begins with that.
//! 4. Members of groups come and go without all this: they change no rule.
//! 5. What was confirmed is looked at again and again, and put back if somebody has changed it or taken it away.
//! 6. Whatever the kubelet is connected to as it reaches the apiserver stays open ([`kubelet`]).
//! 7. Connections of the node that exist live on, whatever the policy: the session in which it was written is one of them.
//!
//! The rules hang in INPUT and OUTPUT, and what is forwarded for Pods never comes by.

mod change;
mod kubelet;
mod marker;
mod probe;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringfence_dataplane::host::{fingerprint, with_members_of};
use ringfence_dataplane::{NetnsPolicy, Place};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::apply::{self, Done, Followed, Known, Outcome, Terms, clean_up, follow_members};
use crate::clock::sleep_until;
use crate::lasting::of_thread;
use crate::machine;
use crate::netns::{self, Cookie, Location};
use crate::readings::Readings;
use crate::retry::Retry;
use crate::tools::Backend;
pub use change::Patience;
use kubelet::Ways;
use marker::Notes;
pub use probe::Apiserver;

/// Wait after a failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is said once when rules of the node were not as they were.
const PUT_BACK: &str = "failed to keep the rules of the node itself: somebody else has changed them or taken them away; they were put back";

/// What the node's network namespace is to hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Wanted {
    /// What it holds: nothing better is known.
    #[default]
    Keep,
    /// Nothing of ours.
    Nothing,
    /// A policy. The addresses are those of other nodes on the Pod network.
    Policy(Arc<NetnsPolicy>, Vec<IpAddr>),
}

/// What is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// Nothing of ours.
    Nothing,
    /// The policy that is wanted.
    InForce,
    /// The rules of before: the policy was taken back.
    TakenBack,
    /// It could not be brought about, and is tried again.
    Failed,
}

/// What is said of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// For what this is the answer.
    pub to: Wanted,
    /// What is in force.
    pub state: State,
    /// What is wrong, for people.
    pub problem: Option<String>,
    /// The network namespace, and what was read back in it.
    pub readings: Option<(Cookie, Readings)>,
}

impl Said {
    /// Whether the same is said: that somebody has written other rules beside ours is no news.
    fn says_as(&self, other: &Self) -> bool {
        let readings =
            |said: &Self| said.readings.clone().map(|(cookie, readings)| (cookie, readings.without_number()));
        let said = |said: &Self| (said.to.clone(), said.state, said.problem.clone(), readings(said));
        said(self) == said(other)
    }

    /// Whether nothing more is to be done for what is wanted.
    pub fn settles(&self, wanted: &Wanted) -> bool {
        *wanted == Wanted::Keep
            || (self.to == *wanted && matches!(self.state, State::Nothing | State::InForce | State::TakenBack))
    }
}

/// The node's network namespace, and how to know whether a change of it is good.
#[derive(Debug)]
pub struct Keeper {
    backend: Backend,
    location: Location,
    apiserver: Option<Apiserver>,
    patience: Patience,
    notes: Notes,
    /// What an agent before this one has read back, until it was looked at.
    remembered: Readings,
    known: Known,
    /// The policy that is in force, with what it is known by.
    confirmed: Option<(Arc<NetnsPolicy>, String)>,
    /// By which ways the kubelet reaches the apiserver.
    ways: Ways,
}

/// What came of a try.
struct Came {
    state: State,
    problem: Option<String>,
    /// Whether to look again without news.
    again: bool,
}

impl Came {
    fn good(state: State) -> Self {
        Self { state, problem: None, again: false }
    }
}

impl Keeper {
    /// A keeper of a network namespace. `state_dir`: where it notes what must outlive it, if anywhere.
    pub fn new(backend: Backend, location: Location, state_dir: Option<&Path>) -> Self {
        Self {
            backend,
            location,
            apiserver: None,
            patience: Patience::default(),
            notes: Notes::in_folder(state_dir),
            remembered: Readings::default(),
            known: Known::Unread,
            confirmed: None,
            ways: Ways::default(),
        }
    }

    /// The same, for which the apiserver must be reached.
    #[must_use]
    pub fn reaching(self, apiserver: Option<Apiserver>) -> Self {
        Self { apiserver, ..self }
    }

    /// The same, with what an agent before it has read back.
    #[must_use]
    pub fn remembering(self, readings: Option<Readings>) -> Self {
        Self { remembered: readings.unwrap_or_default(), ..self }
    }

    /// Brings about what is wanted, and says what came of it.
    fn bring(&mut self, wanted: &Wanted) -> (Came, Option<Cookie>) {
        let location = self.location.clone();
        let entered = netns::run_in(&location, |cookie| (self.bring_here(wanted), cookie));
        match entered {
            Ok((came, cookie)) => (came, Some(cookie)),
            Err(error) => (failed(error), None),
        }
    }

    /// In the namespace itself.
    fn bring_here(&mut self, wanted: &Wanted) -> Came {
        if let Err(problem) = self.settle_unconfirmed() {
            return failed(problem);
        }
        match wanted {
            Wanted::Keep => Came::good(State::Unknown),
            Wanted::Nothing => self.remove(),
            Wanted::Policy(policy, witnesses) => self.put(policy, witnesses),
        }
    }

    /// Looks whether what was confirmed is still there, and puts it back if not: rules and sets. Where nobody has written a rule since,
    /// no program is run.
    fn look(&mut self, last: &Said) -> (Came, Option<Cookie>) {
        let location = self.location.clone();
        match netns::run_in(&location, |cookie| (self.look_here(last), cookie)) {
            Ok((came, cookie)) => (came, Some(cookie)),
            Err(error) => (failed(error), None),
        }
    }

    /// In the namespace itself.
    fn look_here(&mut self, last: &Said) -> Came {
        if machine::translates_by_ipvs() {
            return self.give_way();
        }
        let refused = self.notes.refusal().filter(|_| last.state == State::TakenBack).map(str::to_owned);
        match self.put_back() {
            Ok(put_back) => Came { problem: put_back.or(refused), ..Came::good(last.state) },
            Err(problem) => failed(problem),
        }
    }

    /// Says so if something had to be put back.
    fn put_back(&mut self) -> Result<Option<String>, String> {
        let Some((confirmed, print)) = self.confirmed.clone() else { return Ok(None) };
        let policy = self.with_ways_of_kubelet(&confirmed);
        let follows = policy != confirmed;
        let wanted = apply::Wanted::Policy(Arc::clone(&policy));
        let outcome = self.read_and_bring(&wanted)?;
        let was_right = outcome.done == Done::Nothing || (outcome.done == Done::Members && follows);
        let put_back = (!was_right).then(|| PUT_BACK.to_owned());
        self.confirm(&policy, print);
        let left = self.clean_up(Outcome { problem: None, ..outcome })?;
        Ok(left.or(put_back))
    }

    /// Brings about what is wanted from what is there, and not from what was there when it was last looked at.
    fn read_and_bring(&mut self, wanted: &apply::Wanted) -> Result<Outcome, String> {
        if let Some(readings) = self.known.readings().filter(|readings| !readings.is_empty()) {
            self.remembered = readings;
        }
        self.known = Known::Unread;
        apply::apply(self.backend, wanted, Known::Unread, &self.terms()).map_err(|error| error.to_string())
    }

    /// The policy with the ways that the kubelet is known to reach the apiserver by.
    fn with_ways_of_kubelet(&mut self, policy: &NetnsPolicy) -> Arc<NetnsPolicy> {
        let noted = || self.notes.confirmed().map(|policy| kubelet::ways_in(policy)).unwrap_or_default();
        self.ways.look(policy, noted);
        Arc::new(kubelet::reaching(policy, self.ways.known()))
    }

    fn remove(&mut self) -> Came {
        let known = std::mem::take(&mut self.known);
        match apply::apply(self.backend, &apply::Wanted::Nothing, known, &self.terms()) {
            Ok(Outcome { known, done, .. }) => {
                self.known = known;
                self.confirmed = None;
                self.notes.forget_all();
                if done == Done::Removed {
                    tracing::info!("nothing of ours is in force on the node itself any more");
                }
                Came::good(State::Nothing)
            }
            Err(error) => failed(error),
        }
    }

    fn put(&mut self, policy: &NetnsPolicy, witnesses: &[IpAddr]) -> Came {
        if machine::translates_by_ipvs() {
            return self.give_way();
        }
        let policy = &self.with_ways_of_kubelet(policy);
        let print = fingerprint(policy);
        if let Some(problem) = self.notes.refused(&print) {
            let kept =
                self.keep_members(policy).err().map(|error| format!("{problem}; failed to follow members: {error}"));
            return Came { problem: Some(kept.unwrap_or(problem)), ..Came::good(State::TakenBack) };
        }
        let wanted = apply::Wanted::Policy(Arc::clone(policy));
        // What people have written is confirmed, also where it is members of sets alone.
        let is_another = self.confirmed.as_ref().is_some_and(|(_, confirmed)| *confirmed != print);
        let known = std::mem::take(&mut self.known);
        let followed = if is_another { Followed::NotAlone(known) } else { follow_members(&wanted, known) };
        let outcome = match followed {
            Followed::Members(done) => done.map_err(|error| error.to_string()),
            Followed::NotAlone(known) => match self.change(policy, witnesses, &print, known) {
                Ok(outcome) => Ok(outcome),
                Err(change::Failure::TakenBack(problem)) => {
                    return Came { problem: Some(problem), ..Came::good(State::TakenBack) };
                }
                Err(change::Failure::Other(problem)) => Err(problem),
            },
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(problem) => {
                let kept = self.keep_members(policy).err().map(|error| format!("; failed to follow members: {error}"));
                return failed(problem + &kept.unwrap_or_default());
            }
        };
        // Whatever becomes of what can wait.
        self.confirm(policy, print);
        match self.clean_up(outcome) {
            Ok(problem) => Came { again: self.known.is_due(), problem, state: State::InForce },
            Err(problem) => failed(problem),
        }
    }

    /// This is in force, and good. It is noted where another agent would have to know: that another policy is, or another way of the
    /// kubelet's.
    fn confirm(&mut self, policy: &Arc<NetnsPolicy>, print: String) {
        let ways = |policy: &NetnsPolicy| kubelet::ways_in(policy);
        let known = |(before, known): &(Arc<NetnsPolicy>, String)| *known == print && ways(before) == ways(policy);
        if !self.confirmed.as_ref().is_some_and(known) {
            self.notes.confirm(policy);
        }
        self.confirmed = Some((Arc::clone(policy), print));
    }

    /// Where IPVS translates Services, what is for Pods comes by as the node's own traffic, which rules of the node would block.
    fn give_way(&mut self) -> Came {
        let removed = self.remove();
        let why = "Services are translated by IPVS, which leads what is for Pods through the node's own traffic";
        if removed.again { removed } else { failed(why) }
    }

    /// Where another policy was taken back, the one of before goes on with the members of now: Pods and nodes come all the same.
    fn keep_members(&mut self, newer: &NetnsPolicy) -> Result<(), String> {
        let noted = || self.notes.confirmed().map(|policy| (Arc::clone(policy), fingerprint(policy)));
        let Some((confirmed, print)) = self.confirmed.clone().or_else(noted) else { return Ok(()) };
        let followed = Arc::new(with_members_of(&confirmed, newer));
        let outcome = self.read_and_bring(&apply::Wanted::Policy(Arc::clone(&followed)))?;
        self.clean_up(outcome)?;
        self.confirmed = Some((followed, print));
        Ok(())
    }

    /// What can wait until a change is confirmed: it is read back, and the sets of before go.
    fn clean_up(&mut self, outcome: Outcome) -> Result<Option<String>, String> {
        let said = outcome.problem;
        let cleaned = clean_up(self.backend, outcome.known).map_err(|error| error.to_string())?;
        self.known = cleaned.known;
        Ok(cleaned.problem.or(said).map(|problem| format!("failed to {problem}")))
    }

    fn terms(&self) -> Terms {
        Terms { place: Place::Host, readings: self.remembered.clone(), ..Terms::default() }
    }

    fn readings(&self, cookie: Option<Cookie>) -> Option<(Cookie, Readings)> {
        let readings = self.known.readings().unwrap_or_else(|| self.remembered.clone());
        cookie.filter(|_| !readings.is_empty()).map(|cookie| (cookie, readings))
    }
}

fn failed(problem: impl std::fmt::Display) -> Came {
    let problem = Some(format!("failed to keep the policy of the node itself: {problem}"));
    Came { state: State::Failed, problem, again: true }
}

/// Keeps the node's network namespace until nobody wants anything any more. What is in force stays then.
pub async fn follow(keeper: Keeper, mut wanted: watch::Receiver<Wanted>, said: watch::Sender<Said>) {
    let mut keeper = Some(keeper);
    let (mut retry, mut woken) = (Retry::new(FIRST_WAIT, LONGEST_WAIT), false);
    while let Some(mut own) = keeper.take() {
        let now = wanted.borrow_and_update().clone();
        let (asked, last) = (now.clone(), said.borrow().clone());
        // What has come since is not to wait for a look.
        let looks = std::mem::take(&mut woken) && last.to == now;
        let done = tokio::task::spawn_blocking(move || {
            let (came, cookie) = if looks { own.look(&last) } else { own.bring(&asked) };
            (own, came, cookie)
        });
        let Some((own, came, cookie)) = of_thread(done).await else { return };
        let Came { mut state, mut problem, again } = came;
        if now == Wanted::Keep && state == State::Unknown {
            // What was said of it holds.
            (state, problem) = (said.borrow().state, said.borrow().problem.clone());
        }
        if let Some(problem) = problem.as_ref().filter(|text| said.borrow().problem.as_ref() != Some(*text)) {
            tracing::warn!("{problem}");
        }
        let readings = own.readings(cookie);
        let look_at = own.confirmed.is_some().then(|| Instant::now() + own.patience.look);
        let new = Said { to: now, state, problem, readings };
        said.send_if_modified(|said| !std::mem::replace(said, new.clone()).says_as(&new));
        keeper = Some(own);
        if again {
            retry.failed(Instant::now());
        } else {
            retry.succeeded();
        }
        tokio::select! {
            told = wanted.changed() => if told.is_err() { return },
            () = sleep_until(retry.at().or(look_at)) => woken = !again,
        }
    }
}
