//! A change of the node's rules that is confirmed or taken back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_dataplane::NetnsPolicy;

use super::Keeper;
use super::marker::Unconfirmed;
use super::probe::{Answered, probe, still_answers};
use crate::apply::{self, ApplyError, Done, Known, Outcome, Terms, Texts, apply, bring_back, texts_of_host};
use crate::machine;

/// How long to wait for answers.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For what answered before to answer again: with what writing rules takes, well below 10 s.
    pub confirm: Duration,
    /// For the same once the rules of before are back, to know whether the change was to blame.
    pub blame: Duration,
    /// Between two looks whether what was confirmed is still there.
    pub look: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { confirm: Duration::from_secs(5), blame: Duration::from_secs(5), look: Duration::from_secs(10) }
    }
}

/// Why a change is not in force.
#[derive(Debug)]
pub enum Failure {
    /// It was taken back, and is not to be tried again.
    TakenBack(String),
    /// Anything else, to follow "failed to"; to be tried again.
    Other(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.to_string())
    }
}

impl Keeper {
    /// Changes the rules, unless they are right already. What is not confirmed is taken back.
    pub(super) fn change(
        &mut self,
        policy: &Arc<NetnsPolicy>,
        witnesses: &[IpAddr],
        print: &str,
        known: Known,
    ) -> Result<Outcome, Failure> {
        let answered = probe(self.apiserver.as_ref(), witnesses);
        if self.apiserver.is_some() && !answered.apiserver {
            // Nobody could tell afterwards whether the change is to blame.
            let problem = "change its rules: the apiserver does not answer, so that no change could be confirmed";
            self.known = known;
            return Err(Failure::Other(problem.to_owned()));
        }
        // By this the rules of before are known again once they are back.
        if let Some(readings) = known.readings().filter(|readings| !readings.is_empty()) {
            self.remembered = readings;
        }
        let noted = self.note(print, &answered);
        let before = match noted {
            Ok(before) => before,
            // Nothing was done.
            Err(failure) => {
                self.known = known;
                return Err(failure);
            }
        };
        let begun = Instant::now();
        let wanted = apply::Wanted::Policy(Arc::clone(policy));
        // What a Pod in Full gets when its policy is refused is no good for a node: it stays as it is.
        let terms = Terms { may_close: false, anew: true, ..self.terms() };
        let outcome = match apply(self.backend, &wanted, known, &terms) {
            Ok(outcome) => outcome,
            Err(refused) => {
                // One family may be written and the other not.
                self.take_back(&before);
                self.notes.end();
                return Err(refused.into());
            }
        };
        let written = matches!(outcome.done, Done::Rules);
        let lost =
            if written { still_answers(self.apiserver.as_ref(), &answered, self.patience.confirm) } else { Ok(()) };
        match lost {
            Ok(()) => {
                self.notes.end();
                if written {
                    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(ms, state = ?policy.state, "the policy of the node itself is in force and confirmed");
                }
                Ok(outcome)
            }
            Err(lost) => {
                drop(outcome);
                self.take_back(&before);
                let after = begun.elapsed();
                Err(self.blame(print, &answered, &lost, after))
            }
        }
    }

    /// Notes a change before it is made; gives the rules of before.
    fn note(&mut self, print: &str, answered: &Answered) -> Result<Texts, Failure> {
        let before = texts_of_host(self.backend)?;
        self.notes.begin(Unconfirmed {
            fingerprint: print.to_owned(),
            before: before.clone(),
            answered: answered.clone(),
            boot: machine::boot_id(),
        })?;
        Ok(before)
    }

    /// What an agent before this one has written and not confirmed is confirmed now, or taken back.
    pub(super) fn settle_unconfirmed(&mut self) -> Result<(), String> {
        let Some(Unconfirmed { fingerprint, before, answered, boot }) = self.notes.unconfirmed().cloned() else {
            return Ok(());
        };
        if boot != machine::boot_id() {
            self.notes.end();
            return Ok(());
        }
        tracing::warn!(
            "an agent has ended before it confirmed a policy of the node itself: looking whether it is good"
        );
        match still_answers(self.apiserver.as_ref(), &answered, self.patience.confirm) {
            Ok(()) => self.notes.end(),
            Err(lost) => {
                self.take_back(&before);
                match self.blame(&fingerprint, &answered, &lost, Duration::ZERO) {
                    Failure::TakenBack(problem) => tracing::warn!("{problem}"),
                    Failure::Other(problem) => return Err(problem),
                }
            }
        }
        Ok(())
    }

    /// With the rules of before in force: was the policy to blame?
    fn blame(&mut self, print: &str, answered: &Answered, lost: &str, after: Duration) -> Failure {
        let guilty = still_answers(self.apiserver.as_ref(), answered, self.patience.blame);
        // Whatever comes now, the rules of before are back.
        self.notes.end();
        match guilty {
            Ok(()) => {
                let seconds = after.as_secs_f32();
                let problem = format!(
                    "the policy of the node itself was taken back {seconds:.1} s after it was written: {lost}; the rules of \
                     before hold, and it is not tried again until it changes"
                );
                self.notes.refuse(print, &problem);
                Failure::TakenBack(problem)
            }
            Err(still) => Failure::Other(format!(
                "confirm a change of its rules: {lost}; with the rules of before: {still}; so something else is broken, and the \
                 change is tried again later"
            )),
        }
    }

    /// Brings the rules of before back. If even that fails, there are none: a node that can be reached is worth more.
    fn take_back(&mut self, before: &Texts) {
        self.known = Known::Unread;
        let error = match bring_back(self.backend, before) {
            Ok(()) => return,
            // The rules are back; what is left over harms nobody.
            Err(error @ (ApplyError::SetsLeft(_) | ApplyError::Sets(_))) => return tracing::warn!("failed to {error}"),
            Err(error) => error,
        };
        tracing::error!("failed to bring back the rules of the node itself: {error}: taking all of them away");
        if let Err(error) = apply(self.backend, &apply::Wanted::Nothing, Known::Unread, &self.terms()) {
            tracing::error!("failed to take the rules of the node itself away: {error}");
        }
    }
}
