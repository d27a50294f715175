//! The gate in the kernel: brought to what is wanted, in the node's network namespace, which the calling thread is in.
//!
//! Who is let in by a set is in it before a rule names the set, and out of it after no rule does. What is there already is
//! not written again, also after a restart; what belongs to others is only read.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_dataplane::gate::{Door, GatePolicy, RenderedGate, names};
use ringfence_dataplane::sets::{self, Member, SetChange, SetDef};
use ringfence_dataplane::{Family, Installed, Place, Readback};

use super::flows;
use crate::apply::{ApplyError, Done, destroy};
use crate::flows::tightening::side_may_tighten;
use crate::ipset::{Found, Sets};
use crate::tools::{Backend, ToolError};

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
    rendered: RenderedGate,
    sets: Vec<SetDef>,
    v4: Installed,
    v6: Installed,
    /// Some Pods are closed, since their rules were refused.
    closed: bool,
    /// Flows may be there that the gate decides otherwise than when they were last looked at.
    flows_due: bool,
    /// Flows are left that were ended, and that another policy may let go on.
    ended_left: bool,
    /// Sets that no rule names any more, and that the kernel still holds.
    unused: BTreeSet<String>,
    /// The number of the rules when they were last read.
    generation: Option<u32>,
}

impl Known {
    /// Whether it is this gate, and all of it.
    pub fn is(&self, wanted: &Arc<GatePolicy>) -> bool {
        matches!(self, Self::Held(held) if !held.closed && (Arc::ptr_eq(&held.policy, wanted) || held.policy == *wanted))
    }

    /// Whether it seals what goes on to exposed Pods of other nodes, if it is known what it does.
    pub fn seals(&self) -> Option<bool> {
        match self {
            Self::Unread => None,
            Self::Held(held) => Some(held.rendered.seals()),
        }
    }

    /// Whether it was to do so, and the kernel refuses.
    pub fn cannot_seal(&self) -> bool {
        matches!(self, Self::Held(held) if held.policy.away.is_some() && !held.rendered.seals())
    }

    /// Whether something is left to be done: flows to be looked at, sets to go.
    pub fn is_due(&self) -> bool {
        matches!(self, Self::Held(held) if held.flows_due || !held.unused.is_empty())
    }
}

/// What a gate is now, and how it became so.
#[derive(Debug)]
pub struct Brought {
    /// What the kernel holds.
    pub known: Known,
    /// What was done.
    pub done: Done,
    /// What went wrong all the same, to follow "failed to".
    pub problem: Option<String>,
}

/// Brings the gate to what is wanted; where it was not read yet and `only_if_empty`, only if nothing of it is there. Rules
/// that the kernel refuses close their Pods and no others.
///
/// # Errors
/// When the kernel or a program refuses. What is there is then not known any more.
pub fn bring(
    backend: Backend,
    wanted: &Arc<GatePolicy>,
    known: Known,
    only_if_empty: bool,
) -> Result<Brought, ApplyError> {
    let mut held = match known {
        Known::Held(held) => held,
        Known::Unread => Box::new(read(backend)?),
    };
    let untouched = held.v4.is_empty() && held.v6.is_empty();
    if only_if_empty && !untouched && held.policy != *wanted {
        return Ok(Brought { known: Known::Unread, done: Done::Left, problem: None });
    }
    let mut rendered = RenderedGate::of(wanted);
    let mut written = held.put(backend, &rendered);
    let mut problem = None;
    if let Err(ApplyError::Tool(error)) = &written {
        let refused = refused(backend, &rendered, &held);
        if !refused.is_empty() {
            problem = Some(format!("load rules, whose Pods are closed to what they judge: {error}"));
            // What came of the tries is looked up and not foreseen.
            let Held { v4, v6, sets, unused, .. } = read(backend)?;
            (held.v4, held.v6, held.sets) = (v4, v6, sets);
            held.unused.extend(unused);
            rendered = RenderedGate::without(wanted, &refused);
            written = held.put(backend, &rendered);
        }
    }
    let done = written?;
    held.flows_due =
        !rendered.sets.is_empty() && (held.flows_due || held.ended_left || may_tighten(&held.policy, wanted));
    if rendered.sets.is_empty() {
        flows::forgive(&pods_of(&held.sets))?;
    }
    held.closed = problem.is_some();
    held.sets = rendered.sets.clone();
    held.rendered = rendered;
    held.policy = wanted.clone();
    Ok(Brought { known: Known::Held(held), done, problem })
}

/// The chains that the kernel does not take, each tried alone.
fn refused(backend: Backend, rendered: &RenderedGate, held: &Held) -> BTreeSet<String> {
    let of = |family: Family| {
        let tried =
            rendered.judging(family).into_iter().filter(move |(name, _)| !held.installed(family).has_chain(name));
        // A program that could not be run says nothing of the rules.
        tried.filter(move |(_, text)| {
            matches!(backend.restore(Place::Host, family, text), Err(ToolError::Failed { .. }))
        })
    };
    Family::ALL.into_iter().flat_map(of).map(|(name, _)| name).collect()
}

/// Whether something that passed may be blocked now: towards a Pod that is behind the gate from now on, or by other rules.
fn may_tighten(before: &GatePolicy, after: &GatePolicy) -> bool {
    let stricter = |old: &Door, new: &Door| new.state > old.state || side_may_tighten(&old.inbound, &new.inbound);
    after.every_door().any(|door| {
        let mut olds = door.pods.iter().map(|pod| before.door(*pod));
        // Pods that were behind one door mostly are again.
        let mut compared: Vec<&Door> = Vec::new();
        olds.any(|old| match old {
            None => true,
            Some(old) if compared.iter().any(|done| std::ptr::eq(*done, old)) => false,
            Some(old) => {
                compared.push(old);
                stricter(old, door)
            }
        })
    })
}

/// Does what new connections need not wait for: existing flows follow, and sets that no rule names go. What could not be
/// done stays due.
///
/// # Errors
/// When the kernel refuses; the rules hold all the same.
pub fn clean_up(known: &mut Known) -> Result<(), ApplyError> {
    let Known::Held(held) = known else { return Ok(()) };
    if held.flows_due {
        held.ended_left = flows::settle(&held.policy)?;
        held.flows_due = false;
    }
    held.unused = destroy(&mut Sets::open()?, std::mem::take(&mut held.unused))?;
    match held.unused.is_empty() {
        true => Ok(()),
        false => Err(ApplyError::SetsLeft(held.unused.iter().cloned().collect())),
    }
}

/// Looks whether rules and members are still there, and puts them back where somebody has taken them away. Says whether that
/// was so.
///
/// # Errors
/// When the kernel or a program refuses. What is there is then not known any more.
pub fn check(backend: Backend, known: Known) -> Result<(Known, bool), ApplyError> {
    let Known::Held(mut held) = known else { return Ok((known, false)) };
    if held.sets.is_empty() {
        return Ok((Known::Held(held), false));
    }
    let generation = backend.generation();
    let Found { sets, .. } = Found::read_named(&names::SETS)?;
    let has = |set: &SetDef| sets.iter().any(|there| there == set);
    let members = held.sets.iter().all(has);
    let same = generation.is_some() && generation == held.generation;
    if members && same {
        return Ok((Known::Held(held), false));
    }
    let there = read(backend)?;
    let right = |family: &Family| held.rendered.verify(*family, there.installed(*family)) == Readback::Ok;
    if members && Family::ALL.iter().all(right) {
        held.generation = generation;
        return Ok((Known::Held(held), false));
    }
    let wanted = held.policy.clone();
    Ok((bring(backend, &wanted, Known::Held(Box::new(there)), false)?.known, true))
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
    let (policy, rendered) = (Arc::default(), RenderedGate::default());
    Ok(Held {
        policy,
        rendered,
        sets,
        v4,
        v6,
        closed: false,
        flows_due: false,
        ended_left: true,
        unused: odd,
        generation,
    })
}

/// The Pods that sets of a gate name.
fn pods_of(sets: &[SetDef]) -> BTreeSet<std::net::IpAddr> {
    let pods = sets.iter().filter(|set| [names::pods(set.family), names::away(set.family)].contains(&set.name));
    let members = pods.flat_map(SetDef::members);
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

    /// Writes sets and rules. Who is let in by a set is in it before a rule names it; a Pod is behind the gate only when its
    /// rules are; and who is to go does so whatever becomes of the rules.
    fn put(&mut self, backend: Backend, rendered: &RenderedGate) -> Result<Done, ApplyError> {
        let find = |set: &SetDef| self.sets.iter().find(|own| own.name == set.name && own.kind() == set.kind());
        let (present, new): (Vec<_>, Vec<_>) = rendered.sets.iter().cloned().partition(|set| find(set).is_some());
        let before: Vec<SetDef> = present.iter().filter_map(|set| find(set).cloned()).collect();
        let changes = sets::changes(&before, &present);
        let joins = |change: &SetChange| {
            let of = |family: &Family| [names::pods(*family), names::away(*family), names::rejecting(*family)];
            Family::ALL.iter().any(|family| of(family).contains(&change.set))
        };
        let additions = |of: &dyn Fn(&SetChange) -> bool| -> Vec<SetChange> {
            let these = changes.iter().filter(|change| of(change));
            these.map(|change| SetChange { del: Vec::new(), ..change.clone() }).collect()
        };
        let deletions: Vec<SetChange> =
            changes.iter().map(|change| SetChange { add: Vec::new(), ..change.clone() }).collect();
        let mut sets = Sets::open()?;
        sets.create(&new)?;
        sets.change(&additions(&|change| !joins(change)))?;
        let written = self.write_rules(backend, rendered);
        if written.is_ok() {
            sets.change(&additions(&|change| joins(change)))?;
        }
        sets.change(&deletions)?;
        let wrote = written?;
        let wanted: BTreeSet<&String> = rendered.sets.iter().map(|set| &set.name).collect();
        self.unused.extend(self.sets.iter().map(|set| set.name.clone()));
        self.unused.retain(|name| !wanted.contains(name));
        Ok(match (wrote, changes.is_empty() && new.is_empty()) {
            (true, _) => Done::Rules,
            (false, true) => Done::Nothing,
            (false, false) => Done::Members,
        })
    }

    /// Says whether there was anything to write.
    fn write_rules(&mut self, backend: Backend, rendered: &RenderedGate) -> Result<bool, ApplyError> {
        let mut wrote = false;
        for family in Family::ALL {
            let text = rendered.restore_text(family, self.family(family));
            if !text.is_empty() {
                backend.restore(Place::Host, family, &text)?;
                *self.family(family) = rendered.installed(family);
                wrote = true;
            }
        }
        if wrote {
            self.read_back(backend, rendered)?;
        }
        Ok(wrote)
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
