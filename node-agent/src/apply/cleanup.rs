//! What can wait until every namespace has its rules.

use std::collections::BTreeSet;
use std::sync::Once;

use ringfence_dataplane::{Family, Installed, NetnsPolicy, Readback};

use super::ApplyError;
use super::state::{Done, Due, InForce, Known, Outcome};
use crate::flows::{self, FlowError};
use crate::ipset::{SetError, Sets};
use crate::readings::{Readings, Verdict};
use crate::tools::Backend;

/// How often a set that the kernel still holds is tried again, a few milliseconds apart, before it is left for later.
const DESTROY_TRIES: u32 = 10;

/// Does what can wait until every namespace has its rules. What could not be done stays due, and is the problem of the
/// outcome: rules that nobody has seen to be wrong are in force all the same, and are not written again for it.
///
/// # Errors
/// When the rules are not what was written. What is there has to be read anew.
pub fn clean_up(backend: Backend, known: Known) -> Result<Outcome, ApplyError> {
    clean_up_with(backend, known, flows::settle)
}

/// The same, where flows follow by `settle`.
pub(super) fn clean_up_with(
    backend: Backend,
    known: Known,
    settle: impl FnOnce(&NetnsPolicy) -> Result<bool, FlowError>,
) -> Result<Outcome, ApplyError> {
    let Known::Policy(mut present) = known else { return Ok(Outcome::new(known, Done::CleanedUp)) };
    let Due { flows, read_back, sets, first } = std::mem::take(&mut present.due);
    let mut problems = Vec::new();
    if flows {
        match settle(&present.policy) {
            Ok(left) => present.ended_flows = left,
            Err(error) => {
                present.due.flows = true;
                problems.push(ApplyError::Flows(error));
            }
        }
    }
    if !read_back.is_empty() {
        match present.read_back(backend) {
            Err(ApplyError::Tool(error)) => {
                present.due.read_back = read_back;
                problems.push(ApplyError::Tool(error));
            }
            done => done?,
        }
    }
    // One that stays is destroyed another time, and does no harm until then.
    present.due.sets = destroy(&mut present.sets, sets.clone()).unwrap_or_else(|error| {
        problems.push(ApplyError::Sets(error));
        sets
    });
    if first {
        check_visible(backend);
    }
    if present.due.read_back.is_empty() {
        present.forget_texts();
    }
    let problem = problems.first().map(ToString::to_string);
    Ok(Outcome { problem, ..present.outcome(Done::CleanedUp) })
}

impl InForce {
    /// Forgets what was needed to read the rules back.
    fn forget_texts(&mut self) {
        self.rendered = std::mem::take(&mut self.rendered).without_texts();
        for family in Family::ALL {
            let present = self.family(family);
            *present = std::mem::take(present).without_texts();
        }
    }

    /// Reads both families back: what was written lately, to remember it; what was not, to see that it is still the same.
    fn read_back(&mut self, backend: Backend) -> Result<(), ApplyError> {
        let before = backend.generation();
        for family in Family::ALL {
            let save = backend.save(self.policy.place, family)?;
            let installed = Installed::parse_at(self.policy.place, &save);
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
        self.readings.read_at(before, backend.generation());
        Ok(())
    }
}

/// After the first rules of all: warns when people who look with plain `iptables` would see none. That is the same in
/// every network namespace.
fn check_visible(backend: Backend) {
    static CHECKED: Once = Once::new();
    CHECKED.call_once(|| {
        if !Backend::shows_to_people("RF-IN") {
            let backend = backend.as_str();
            tracing::warn!(backend, "plain iptables does not show the rules: look with the programs of this back end");
        }
    });
}

/// Destroys sets that no rule names any more, and says which of them the kernel still holds: it lets go of them a
/// little after a restore has returned.
pub fn destroy(sets: &mut Sets, names: BTreeSet<String>) -> Result<BTreeSet<String>, SetError> {
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
