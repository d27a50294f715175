//! IPv6, for which agents program no rules yet: what becomes of it follows from the states alone.
//!
//! A Pod in Full lets nothing of it pass but what keeps its interface alive; in every other state all of it passes. The
//! answers are as the kernel is, so that nobody takes a rule for enforced that is not.

use std::net::IpAddr;

use ringfence_model::{Decision, EndState, Verdict};

use super::Endpoint;
use super::answer::{BackendExplanation, Explanation, Side};
use super::ends::End;
use super::service::badness;

const REASON: &str = "rules are programmed for IPv4 only: a Pod in Full drops IPv6, and in any other state it passes";

/// Whether an end is reached over IPv6: it is named by such an address, or has no other.
pub fn is_ipv6(named: &Endpoint, end: &End<'_>) -> bool {
    match named {
        Endpoint::Address(address) => address.is_ipv6(),
        _ => !end.addresses.is_empty() && end.addresses.iter().all(IpAddr::is_ipv6),
    }
}

/// What becomes of a connection over IPv6, of which this would become what the rules say.
pub fn as_programmed(said: Explanation) -> Explanation {
    let Some(backends) = said.backends else {
        let (verdict, reason, source, destination) = ends(said.verdict, said.reason, said.source, said.destination);
        return Explanation { verdict, reason, source, destination, backends: None };
    };
    let backends: Vec<BackendExplanation> = backends.into_iter().map(back_end).collect();
    let (verdict, reason, source, destination) = match backends.iter().max_by_key(|end| badness(end.verdict)).cloned() {
        Some(worst) => (worst.verdict, worst.reason, worst.source, worst.destination),
        None => ends(said.verdict, said.reason, said.source, said.destination),
    };
    Explanation { verdict, reason, source, destination, backends: Some(backends) }
}

fn back_end(said: BackendExplanation) -> BackendExplanation {
    let (verdict, reason, source, destination) = ends(said.verdict, said.reason, said.source, said.destination);
    BackendExplanation { verdict, reason, source, destination, ..said }
}

fn ends(
    said: Verdict,
    reason: Option<String>,
    source: Side,
    destination: Side,
) -> (Verdict, Option<String>, Side, Side) {
    let enforced = |side: &Side| !matches!(side.state, EndState::External | EndState::Unmanaged | EndState::Idle);
    if !enforced(&source) && !enforced(&destination) {
        return (said, reason, source, destination);
    }
    let by_state = |side: Side| match enforced(&side) {
        true => Side { decision: Decision::Default, rule: None, others: Vec::new(), nearest: None, ..side },
        false => side,
    };
    let (source, destination) = (by_state(source), by_state(destination));
    let outcome = |side: &Side| side.decision.outcome(side.state);
    match Verdict::of(outcome(&source), outcome(&destination)) {
        verdict if said != Verdict::Unknown || verdict == Verdict::Blocked => {
            (verdict, Some(REASON.to_owned()), source, destination)
        }
        _ => (Verdict::Unknown, reason, source, destination),
    }
}
