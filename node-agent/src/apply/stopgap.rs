//! What stands in for a policy of Full that the kernel refuses, where nothing else of ours decides: a Pod in Full is
//! never left open when a simpler policy can be loaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_dataplane::{Enforcement, NetnsPolicy, Side, sets};

use super::kernel::Kernel;
use super::state::{Done, Outcome};
use super::{ApplyError, replace};
use crate::readings::Readings;
use crate::tools::{Backend, ipset_save};

/// Loads the first simpler policy that the kernel takes, unless rules of ours are there: those stay. The outcome still
/// says what was `refused`.
///
/// # Errors
/// What was `refused`, if nothing was loaded.
pub(super) fn close(backend: Backend, policy: &NetnsPolicy, refused: ApplyError) -> Result<Outcome, ApplyError> {
    for (simpler, passes) in simpler(policy) {
        match load(backend, simpler) {
            Ok(Some(outcome)) => {
                let problem = Some(format!("{refused}; until that succeeds, {passes} passes"));
                return Ok(Outcome { done: Done::Closed, problem, ..outcome });
            }
            Ok(None) => break,
            Err(error) => tracing::warn!("failed to let {passes} pass meanwhile: {error}"),
        }
    }
    Err(refused)
}

/// Simpler policies and what they let pass, the simplest last: it needs neither a set nor a match on a protocol.
fn simpler(policy: &NetnsPolicy) -> [(NetnsPolicy, &'static str); 2] {
    let essential = |side: &Side| Side { essential: side.essential.clone(), ..Side::default() };
    let bare = NetnsPolicy { own: policy.own.clone(), ..NetnsPolicy::new(Enforcement::Full) };
    let essentials =
        NetnsPolicy { inbound: essential(&policy.inbound), outbound: essential(&policy.outbound), ..bare.clone() };
    [(essentials, "essential traffic alone"), (bare, "loopback alone")]
}

fn load(backend: Backend, policy: NetnsPolicy) -> Result<Option<Outcome>, ApplyError> {
    let mut kernel = Kernel::read_rules(backend)?;
    if kernel.decides() {
        return Ok(None);
    }
    // What a refused restore left behind is nothing to rely on.
    kernel.readings = Readings::default();
    // Where sets are the trouble, a policy without any can still be loaded.
    kernel.sets = ipset_save().map(|text| sets::parse_save(&text)).unwrap_or_default();
    replace(backend, &Arc::new(policy), kernel, true, BTreeSet::new()).map(Some)
}
