//! A change of members alone. It goes over the socket that is kept beside what is in force: from any thread, without a
//! child and without entering the network namespace.

use ringfence_dataplane::sets;

use super::state::{Done, Due, InForce, Known, Outcome, Wanted};
use super::{ApplyError, follow};
use crate::flows::tightening::may_tighten;

/// What came of a try.
#[derive(Debug)]
pub enum Followed {
    /// Members were all that differs, and were written.
    Members(Result<Outcome, ApplyError>),
    /// The rules differ too, or nobody knows: this is what is known.
    NotAlone(Known),
}

/// Brings members to what is wanted, if nothing else differs.
pub fn follow_members(wanted: &Wanted, known: Known) -> Followed {
    let (policy, mut present) = match (wanted, known) {
        (Wanted::Policy(policy), Known::Policy(present)) => (policy, present),
        (_, known) => return Followed::NotAlone(known),
    };
    let Some(sets) = present.rendered.sets_of(&present.policy, policy) else {
        return Followed::NotAlone(Known::Policy(present));
    };
    let changes = sets::changes(&present.rendered.sets, &sets);
    if let Err(error) = present.sets.change(&changes) {
        return Followed::Members(Err(error.into()));
    }
    let flows = follow(policy) && (present.due.flows || present.ended_flows || may_tighten(&present.policy, policy));
    let due = Due { flows, ..present.due };
    present.rendered.sets = sets;
    let done = if changes.is_empty() { Done::Nothing } else { Done::Members };
    Followed::Members(Ok(InForce { policy: policy.clone(), due, ..*present }.outcome(done)))
}
