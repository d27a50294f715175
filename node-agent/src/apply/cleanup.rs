//! What can wait until every namespace has its rules.

use std::collections::BTreeSet;

use ringfence_dataplane::{Family, Installed, Readback};

use super::ApplyError;
use super::state::{Done, InForce, Known, Outcome};
use crate::flows;
use crate::ipset::{SetError, Sets};
use crate::readings::{Readings, Verdict};
use crate::tools::Backend;

/// How often a set that the kernel still holds is tried again, a few milliseconds apart, before it is left for later.
const DESTROY_TRIES: u32 = 10;

/// Does what can wait until every namespace has its rules.
///
/// # Errors
/// When the kernel or a program refuses, or the rules are not what was written. What is there has to be read anew.
pub fn clean_up(backend: Backend, known: Known) -> Result<Outcome, ApplyError> {
    let Known::Policy(mut present) = known else { return Ok(Outcome::new(known, Done::CleanedUp)) };
    let due = std::mem::take(&mut present.due);
    if due.flows {
        present.ended_flows = flows::settle(&present.policy)?;
    }
    if !due.read_back.is_empty() {
        present.read_back(backend)?;
    }
    // One that stays is destroyed another time, and does no harm until then.
    present.due.sets = destroy(&mut present.sets, due.sets)?;
    if due.first {
        check_visible(backend);
    }
    Ok(present.outcome(Done::CleanedUp))
}

impl InForce {
    /// Reads both families back: what was written lately, to remember it; what was not, to see that it is still the same.
    fn read_back(&mut self, backend: Backend) -> Result<(), ApplyError> {
        for family in Family::ALL {
            let save = backend.save(family)?;
            let installed = Installed::parse(&save);
            match self.rendered.verify(family, &installed) {
                Readback::Ok => {}
                wrong => return Err(ApplyError::ReadBack(wrong)),
            }
            let mut now = Readings::default();
            now.read(family, &save, &installed);
            if self.readings.judge(family, &now) == Verdict::Touched {
                return Err(ApplyError::Touched(vec![family]));
            }
            self.readings.read(family, &save, &installed);
            *self.family(family) = installed;
        }
        Ok(())
    }
}

/// After the first rules in a network namespace: warns when people who look with plain `iptables` would see none.
fn check_visible(backend: Backend) {
    if !Backend::shows_to_people("RF-IN") {
        let backend = backend.as_str();
        tracing::warn!(backend, "plain iptables does not show the rules: look with the programs of this back end");
    }
}

/// Destroys sets that no rule names any more, and says which of them the kernel still holds: it lets go of them a
/// little after a restore has returned.
pub(super) fn destroy(sets: &mut Sets, names: BTreeSet<String>) -> Result<BTreeSet<String>, SetError> {
    let mut left = destroy_once(sets, names)?;
    for _ in 0..DESTROY_TRIES {
        if left.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        left = destroy_once(sets, left)?;
    }
    Ok(left)
}

/// The names of those that are in use.
fn destroy_once(sets: &mut Sets, names: BTreeSet<String>) -> Result<BTreeSet<String>, SetError> {
    let mut left = BTreeSet::new();
    for name in names {
        if !sets.destroy(&name)? {
            left.insert(name);
        }
    }
    Ok(left)
}
