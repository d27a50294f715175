//! What stands in for a policy of Full that the kernel refuses, where nothing else of ours decides: a Pod in Full is
//! never left open when a simpler policy can be loaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_dataplane::render::closing_text;
use ringfence_dataplane::{Enforcement, Family, NetnsPolicy, Place, Side};

use super::kernel::Kernel;
use super::state::{Done, Known, Outcome};
use super::{ApplyError, replace};
use crate::ipset::Found;
use crate::readings::Readings;
use crate::tools::{Backend, ToolError};

/// Loads the first simpler policy that the kernel takes, unless rules of ours are there: those stay. A family that nothing
/// of ours decides even then is closed by itself. The outcome still says what was `refused`.
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
    match close_undecided(backend) {
        Ok(closed) if !closed.is_empty() => {
            let problem = Some(format!("{refused}; until that succeeds, nothing passes of {closed:?}"));
            // What is in force of the other family is whole, but not the policy that is known as a whole.
            Ok(Outcome { known: Known::Unread, done: Done::Closed, problem })
        }
        Ok(_) => Err(refused),
        Err(error) => {
            tracing::warn!("failed to close a family that has no rules: {error}");
            Err(refused)
        }
    }
}

/// Closes each family that nothing of ours decides: one was refused after the other was put in force, say.
fn close_undecided(backend: Backend) -> Result<Vec<Family>, ToolError> {
    let kernel = Kernel::read_rules(backend, Place::Pod)?;
    let open: Vec<Family> = Family::ALL.into_iter().filter(|family| !kernel.decides(*family)).collect();
    for family in &open {
        backend.restore(Place::Pod, *family, &closing_text(*family, kernel.family(*family)))?;
    }
    Ok(open)
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
    let mut kernel = Kernel::read_rules(backend, Place::Pod)?;
    if Family::ALL.iter().any(|family| kernel.decides(*family)) {
        return Ok(None);
    }
    // What a refused restore left behind is nothing to rely on.
    kernel.readings = Readings::default();
    // Where sets are the trouble, a policy without any can still be loaded.
    let kernel = kernel.with_sets(Found::read(Place::Pod).unwrap_or_default());
    replace(backend, &Arc::new(policy), kernel, true, BTreeSet::new()).map(Some)
}
