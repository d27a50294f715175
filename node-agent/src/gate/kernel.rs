//! The gate in the kernel: brought to what is wanted, in the node's network namespace, which the calling thread is in.
//!
//! Who is let in by a set is in it before a rule names the set, and out of it after no rule does. What is there already is
//! not written again, also after a restart; what belongs to others is only read.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_dataplane::gate::{GatePolicy, RenderedGate, names};
use ringfence_dataplane::sets::{self, Member, SetChange, SetDef};
use ringfence_dataplane::{Family, Installed, Readback};

use super::flows;
use crate::apply::{ApplyError, destroy};
use crate::ipset::{Found, Sets};
use crate::tools::Backend;

/// What the kernel holds of the gate, as far as known.
#[derive(Debug, Default)]
pub enum Known {
    /// It has not been read.
    #[default]
    Unread,
    /// This.
    Held(Box<Held>),
}

/// A gate that is in the kernel's hands; nothing of it, if it has no doors.
#[derive(Debug)]
pub struct Held {
    policy: Arc<GatePolicy>,
    sets: Vec<SetDef>,
    v4: Installed,
    v6: Installed,
    /// Flows may be there that the gate decides otherwise than when they were last looked at.
    flows_due: bool,
    /// Sets that no rule names any more, and that the kernel still holds.
    unused: BTreeSet<String>,
    /// The number of the rules when they were last read.
    generation: Option<u32>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing: it was right already.
    Nothing,
    /// Left alone, since something is there and only an empty namespace was to be filled.
    Left,
    /// Members of sets came and went.
    Members,
    /// Rules were written.
    Rules,
}

impl Known {
    /// Whether it is this gate.
    pub fn is(&self, wanted: &Arc<GatePolicy>) -> bool {
        matches!(self, Self::Held(held) if Arc::ptr_eq(&held.policy, wanted) || held.policy == *wanted)
    }

    /// Whether something is left to be done: flows to be looked at, sets to go.
    pub fn is_due(&self) -> bool {
        matches!(self, Self::Held(held) if held.flows_due || !held.unused.is_empty())
    }
}

/// Brings the gate to what is wanted; where it was not read yet and `only_if_empty`, only if nothing of it is there.
///
/// # Errors
/// When the kernel or a program refuses. What is there is then not known any more.
pub fn bring(
    backend: Backend,
    wanted: &Arc<GatePolicy>,
    known: Known,
    only_if_empty: bool,
) -> Result<(Known, Done), ApplyError> {
    let mut held = match known {
        Known::Held(held) => held,
        Known::Unread => Box::new(read(backend)?),
    };
    let untouched = held.v4.is_empty() && held.v6.is_empty();
    if only_if_empty && !untouched && held.policy != *wanted {
        return Ok((Known::Unread, Done::Left));
    }
    let rendered = RenderedGate::of(wanted);
    let changes = held.fill(&rendered.sets)?;
    let mut done = if changes.is_empty() { Done::Nothing } else { Done::Members };
    for family in Family::ALL {
        let text = rendered.restore_text(family, held.family(family));
        if !text.is_empty() {
            backend.restore(family, &text)?;
            *held.family(family) = rendered.installed(family);
            done = Done::Rules;
        }
    }
    if done == Done::Rules {
        held.read_back(backend, &rendered)?;
    }
    held.empty(changes)?;
    let names: BTreeSet<&String> = rendered.sets.iter().map(|set| &set.name).collect();
    held.unused.extend(held.sets.iter().map(|set| set.name.clone()));
    held.unused.retain(|name| !names.contains(name));
    if rendered.sets.is_empty() {
        flows::forgive(&pods_of(&held.sets))?;
        held.flows_due = false;
    } else {
        held.flows_due |= held.policy != *wanted;
    }
    held.sets = rendered.sets;
    held.policy = wanted.clone();
    Ok((Known::Held(held), done))
}

/// Does what new connections need not wait for: existing flows follow, and sets that no rule names go.
///
/// # Errors
/// When the kernel refuses; the rules hold all the same.
pub fn clean_up(known: &mut Known) -> Result<(), ApplyError> {
    let Known::Held(held) = known else { return Ok(()) };
    if held.flows_due {
        flows::settle(&held.policy)?;
        held.flows_due = false;
    }
    held.unused = destroy(&mut Sets::open()?, std::mem::take(&mut held.unused))?;
    Ok(())
}

/// Looks whether the rules are still there, and puts them back where somebody has taken them away. Says whether that was so.
///
/// # Errors
/// When the kernel or a program refuses. What is there is then not known any more.
pub fn check(backend: Backend, known: Known) -> Result<(Known, bool), ApplyError> {
    let Known::Held(held) = known else { return Ok((known, false)) };
    let generation = backend.generation();
    if held.sets.is_empty() || (generation.is_some() && generation == held.generation) {
        return Ok((Known::Held(held), false));
    }
    let mut there = Box::new(read(backend)?);
    let rendered = RenderedGate::of(&held.policy);
    let right = |family: &Family| rendered.verify(*family, there.installed(*family)) == Readback::Ok;
    if Family::ALL.iter().all(right) {
        there = Box::new(Held { generation, v4: there.v4, v6: there.v6, ..*held });
        return Ok((Known::Held(there), false));
    }
    let wanted = held.policy.clone();
    let (known, _) = bring(backend, &wanted, Known::Held(there), false)?;
    Ok((known, true))
}

/// What the kernel holds. Whose rules these are nobody knows: of no policy in particular.
fn read(backend: Backend) -> Result<Held, ApplyError> {
    let generation = backend.generation();
    let installed = |family| {
        let save = backend.save_table(family, "mangle")? + &backend.save_table(family, "filter")?;
        Ok::<_, ApplyError>(Installed::parse_of(names::CHAIN_PREFIX, &save))
    };
    let (v4, v6) = (installed(Family::V4)?, installed(Family::V6)?);
    let Found { sets, odd } = Found::read_named(&names::SETS)?;
    Ok(Held { policy: Arc::default(), sets, v4, v6, flows_due: false, unused: odd, generation })
}

/// The Pods that sets of a gate name.
fn pods_of(sets: &[SetDef]) -> BTreeSet<std::net::IpAddr> {
    let members = sets.iter().filter(|set| set.name == names::pods(set.family)).flat_map(SetDef::members);
    members.filter_map(|member| if let Member::Net(net) = member { Some(net.addr()) } else { None }).collect()
}

impl Held {
    fn family(&mut self, family: Family) -> &mut Installed {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn installed(&self, family: Family) -> &Installed {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Makes the sets that are not there and adds to those that are; what is still to be deleted, and whether anything
    /// was to be done, is in the answer.
    fn fill(&self, wanted: &[SetDef]) -> Result<Vec<SetChange>, ApplyError> {
        let find = |set: &SetDef| self.sets.iter().find(|own| own.name == set.name && own.kind() == set.kind());
        let (present, new): (Vec<_>, Vec<_>) = wanted.iter().cloned().partition(|set| find(set).is_some());
        let before: Vec<SetDef> = present.iter().filter_map(|set| find(set).cloned()).collect();
        let mut sets = Sets::open()?;
        sets.create(&new)?;
        let changes = sets::changes(&before, &present);
        let additions: Vec<SetChange> =
            changes.iter().map(|change| SetChange { del: Vec::new(), ..change.clone() }).collect();
        sets.change(&additions)?;
        Ok(changes)
    }

    /// Deletes those who are to go.
    fn empty(&self, changes: Vec<SetChange>) -> Result<(), ApplyError> {
        let deletions: Vec<SetChange> =
            changes.into_iter().map(|change| SetChange { add: Vec::new(), ..change }).collect();
        Ok(Sets::open()?.change(&deletions)?)
    }

    fn read_back(&mut self, backend: Backend, rendered: &RenderedGate) -> Result<(), ApplyError> {
        let now = read(backend)?;
        for family in Family::ALL {
            match rendered.verify(family, now.installed(family)) {
                Readback::Ok => {}
                wrong => return Err(ApplyError::ReadBack(wrong)),
            }
        }
        (self.v4, self.v6, self.generation) = (now.v4, now.v6, now.generation);
        Ok(())
    }
}
