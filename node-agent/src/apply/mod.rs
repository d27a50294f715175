//! Room 8: puts a policy into the network namespace that the calling thread is in, and reads it back.
//!
//! A change of members alone is a delta on the sets, which [`follow_members`] makes from anywhere. Anything else makes new sets and replaces the rules by one atomic
//! restore per table and family. What the kernel held before the agent started is kept where it is already right.
//!
//! [`apply`] does what new connections wait for. [`clean_up`] does the rest, when every namespace has its rules: existing
//! flows follow the policy, what was written is read back, and sets that no rule names any more go.

mod cleanup;
mod kernel;
mod members;
mod state;
mod stopgap;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_dataplane::render::filter_text;
use ringfence_dataplane::sets::{Members, SetChange, SetDef};
use ringfence_dataplane::{
    Enforcement, Family, Installed, NetnsPolicy, Place, Readback, Rendered, removal, render, restoring_text,
};

use crate::flows::{self, FlowError, tightening::may_tighten};
use crate::ipset::{Found, SetError, Sets};
use crate::readings::Readings;
use crate::tools::{Backend, ToolError};
pub use cleanup::clean_up;
pub use cleanup::destroy;
use kernel::Kernel;
pub use members::{Followed, follow_members};
pub use state::{Done, Known, Outcome, Terms, Wanted};
use state::{Due, InForce};

/// Why a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Sets could not be written.
    #[error(transparent)]
    Sets(#[from] SetError),
    /// Flows could not be looked at or ended.
    #[error("let flows follow the policy: {0}")]
    Flows(#[from] FlowError),
    /// What was written is not what is there.
    #[error("put the rules in force: read back, they are {0:?}")]
    ReadBack(Readback),
    /// What was read back once is not what is there now.
    #[error("keep the rules in force: somebody else has changed those of {0:?}")]
    Touched(Vec<Family>),
    /// The kernel does not let go of sets.
    #[error("destroy sets that are no longer used: {0:?}")]
    SetsLeft(Vec<String>),
}

/// The rules of a family each, as they are in the kernel.
pub type Texts = [String; 2];

/// What is in force in a node's network namespace, as what brings it back.
///
/// # Errors
/// When the rules cannot be read.
pub fn texts_of_host(backend: Backend) -> Result<Texts, ApplyError> {
    let kernel = Kernel::read_rules(backend, Place::Host)?;
    Ok(Family::ALL.map(|family| kernel.family(family).own_text()))
}

/// Brings back the rules of a node as they were, while the sets that they name are still there: before anything is cleaned up.
///
/// # Errors
/// When the kernel refuses, or a program does.
pub fn bring_back(backend: Backend, texts: &Texts) -> Result<(), ApplyError> {
    let kernel = Kernel::read_rules(backend, Place::Host)?;
    for (family, before) in Family::ALL.into_iter().zip(texts) {
        let text = restoring_text(Place::Host, before, kernel.family(family));
        if !text.is_empty() {
            backend.restore(Place::Host, family, &text)?;
        }
    }
    // What they do not name was made for what they replace.
    let named = |name: &String| texts.iter().any(|text| text.split(' ').any(|word| word == name));
    let unnamed =
        Kernel::default().with_sets(Found::read(Place::Host)?).set_names().into_iter().filter(|name| !named(name));
    match destroy(&mut Sets::open()?, unnamed.collect())? {
        left if left.is_empty() => Ok(()),
        left => Err(ApplyError::SetsLeft(left.into_iter().collect())),
    }
}

/// Brings the network namespace from what it is known to hold to what is wanted.
///
/// # Errors
/// When the kernel or a program refuses. What is in force is then not known any more, and never wider than before or
/// after.
pub fn apply(backend: Backend, wanted: &Wanted, known: Known, terms: &Terms) -> Result<Outcome, ApplyError> {
    let followed = if terms.anew { Followed::NotAlone(known) } else { follow_members(wanted, known) };
    let done = match followed {
        Followed::Members(done) => done,
        Followed::NotAlone(known) => bring(backend, wanted, known, terms),
    };
    match (done, wanted) {
        (Err(refused), Wanted::Policy(policy)) if terms.may_close && policy.state == Enforcement::Full => {
            stopgap::close(backend, policy, refused)
        }
        (done, _) => done,
    }
}

fn bring(backend: Backend, wanted: &Wanted, known: Known, terms: &Terms) -> Result<Outcome, ApplyError> {
    match (wanted, known) {
        (Wanted::Nothing, Known::Nothing) => Ok(Outcome::new(Known::Nothing, Done::Nothing)),
        (_, Known::Unread) if terms.only_if_empty && holds_rules(backend, wanted, terms.place)? => {
            Ok(Outcome::new(Known::Unread, Done::Left))
        }
        (Wanted::Nothing, _) => remove(backend, terms.place),
        (Wanted::Policy(policy), Known::Policy(present)) => change(backend, policy, *present),
        (Wanted::Policy(policy), Known::Nothing) => {
            replace(backend, policy, Kernel::nothing_at(policy.place), true, BTreeSet::new())
        }
        (Wanted::Policy(policy), Known::Unread) => take_over(backend, policy, &terms.readings),
    }
}

/// Whether anything is there that what is wanted might widen.
fn holds_rules(backend: Backend, wanted: &Wanted, place: Place) -> Result<bool, ApplyError> {
    let kernel = Kernel::read(backend, place)?;
    Ok(match wanted {
        Wanted::Nothing => !kernel.is_empty(),
        // Half a policy is none: what was cut off between the families is finished.
        Wanted::Policy(_) => Family::ALL.iter().all(|family| kernel.decides(*family)),
    })
}

fn remove(backend: Backend, place: Place) -> Result<Outcome, ApplyError> {
    let kernel = Kernel::read(backend, place)?;
    if kernel.is_empty() {
        return Ok(Outcome::new(Known::Nothing, Done::Nothing));
    }
    for family in Family::ALL {
        let text = removal(kernel.family(family));
        if !text.is_empty() {
            backend.restore(place, family, &text)?;
        }
    }
    if place == Place::Pod {
        flows::forgive_all()?;
    }
    let left = destroy(&mut Sets::open()?, kernel.set_names())?;
    if !left.is_empty() {
        return Err(ApplyError::SetsLeft(left.into_iter().collect()));
    }
    Ok(Outcome::new(Known::Nothing, Done::Removed))
}

/// Whether existing flows follow a policy. Those of a node live on: marks of its connections are its network plugin's, and nobody
/// loses the session in which a policy was written.
fn follow(policy: &NetnsPolicy) -> bool {
    policy.place == Place::Pod
}

fn names(sets: &[SetDef]) -> BTreeSet<String> {
    sets.iter().map(|set| set.name.clone()).collect()
}

/// From the rules of a policy that is in force to those of another.
fn change(backend: Backend, policy: &Arc<NetnsPolicy>, present: InForce) -> Result<Outcome, ApplyError> {
    // What was due stays due.
    let flows = follow(policy) && (present.due.flows || present.ended_flows || may_tighten(&present.policy, policy));
    let InForce { rendered, v4, v6, readings, due, .. } = present;
    // Of those that are left only the names count.
    let gone = |name| SetDef { name, family: Family::V4, members: Members::Nets(Arc::default()) };
    let sets = rendered.sets.into_iter().chain(due.sets.into_iter().map(gone)).collect();
    let kernel = Kernel { v4, v6, readings, sets, odd_sets: BTreeSet::new() };
    replace(backend, policy, kernel, flows, due.read_back)
}

/// First contact: what is in the kernel is kept if it is right, down to the single rule. Where nobody can tell, it is
/// written anew.
fn take_over(backend: Backend, policy: &Arc<NetnsPolicy>, before: &Readings) -> Result<Outcome, ApplyError> {
    let sets = Found::read(policy.place)?;
    if let Some((kernel, rendered)) = Kernel::unchanged(backend, policy, before, &sets)
        && let Some(changes) = rendered.delta_from(&kernel.sets)
    {
        return keep(policy, kernel, rendered, &changes);
    }
    let mut kernel = Kernel::read_rules(backend, policy.place)?.with_sets(sets);
    let touched = kernel.compare(before);
    let outcome = match right(policy, &kernel) {
        Some((rendered, changes)) => keep(policy, kernel, rendered, &changes)?,
        None => replace(backend, policy, kernel, true, BTreeSet::new())?,
    };
    let problem = (!touched.is_empty()).then(|| format!("{}; they were written anew", ApplyError::Touched(touched)));
    Ok(Outcome { problem, ..outcome })
}

/// The policy as it is in the kernel and what its sets lack, if every rule is right.
fn right(policy: &NetnsPolicy, kernel: &Kernel) -> Option<(Rendered, Vec<SetChange>)> {
    let rendered = render(policy, kernel.generation().unwrap_or_default());
    let right = |family: &Family| {
        kernel.readings.has(*family) && rendered.verify(*family, kernel.family(*family)) == Readback::Ok
    };
    let changes = rendered.delta_from(&kernel.sets).filter(|_| Family::ALL.iter().all(right))?;
    Some((rendered, changes))
}

/// Leaves the rules as they are and brings the members of sets up to date.
fn keep(
    policy: &Arc<NetnsPolicy>,
    kernel: Kernel,
    rendered: Rendered,
    changes: &[SetChange],
) -> Result<Outcome, ApplyError> {
    let mut sets = Sets::open()?;
    sets.change(changes)?;
    let done = if changes.is_empty() { Done::Nothing } else { Done::Members };
    let unused = kernel.set_names().difference(&names(&rendered.sets)).cloned().collect();
    let due = Due { flows: follow(policy), sets: unused, ..Due::default() };
    let Kernel { v4, v6, readings, .. } = kernel;
    Ok(InForce { policy: policy.clone(), rendered, sets, v4, v6, readings, ended_flows: false, due }.outcome(done))
}

/// Replaces all rules and sets. `flows` says whether existing flows have to be looked at; `read_back` what is to be read
/// back in any case.
fn replace(
    backend: Backend,
    policy: &Arc<NetnsPolicy>,
    kernel: Kernel,
    flows: bool,
    read_back: BTreeSet<Family>,
) -> Result<Outcome, ApplyError> {
    let rendered = render(policy, kernel.free_generation());
    let (flows, first) = (flows && follow(policy), kernel.is_empty() && policy.place == Place::Pod);
    let due = Due { flows, read_back, sets: kernel.set_names(), first };
    let Kernel { v4, v6, readings, .. } = kernel;
    let sets = Sets::open()?;
    let mut in_force = InForce { policy: policy.clone(), rendered, sets, v4, v6, readings, ended_flows: false, due };
    if let Err(error) = in_force.put(backend) {
        // Sets that no rule names, new ones or old ones, must not pile up with every try. What is in use refuses to go, and
        // would keep those behind it.
        // Those of a node's rules of before are needed to bring these back.
        let old = if policy.place == Place::Pod { in_force.due.sets.clone() } else { BTreeSet::new() };
        for name in names(&in_force.rendered.sets).union(&old) {
            let _ = in_force.sets.destroy(name);
        }
        return Err(error);
    }
    Ok(in_force.outcome(Done::Rules))
}

impl InForce {
    /// Writes sets and rules.
    fn put(&mut self, backend: Backend) -> Result<(), ApplyError> {
        self.sets.create(&self.rendered.sets)?;
        if backend == Backend::Nft && self.v4.is_empty() && self.v6.is_empty() {
            return self.put_first(backend);
        }
        for family in Family::ALL {
            let present = self.family(family).clone();
            let doubtful = self.is_doubtful(family);
            // What changes for one family need not for the other, as a rule on ICMP does not.
            if !doubtful && self.rendered.verify(family, &present) == Readback::Ok {
                continue;
            }
            let text = self.rendered.restore_text(family, &present);
            // Table filter is in it only if it looks wrong: it is written all the same where looks may deceive.
            let filter = if doubtful && self.rendered.needs_filter(family, &present) {
                filter_text(family)
            } else {
                String::new()
            };
            self.readings.forget(family);
            backend.restore(self.policy.place, family, &(filter + &text))?;
            *self.family(family) = self.rendered.installed_after(family, present);
            self.due.read_back.insert(family);
        }
        Ok(())
    }

    /// Writes the rules of both families at a time, where there are none: it matters in which order one replaces another,
    /// and here nothing is replaced. A Pod that starts waits for this.
    fn put_first(&mut self, backend: Backend) -> Result<(), ApplyError> {
        let place = self.policy.place;
        let restore =
            |family, present: &Installed| backend.restore(place, family, &self.rendered.restore_text(family, present));
        let (v4, v6) = std::thread::scope(|scope| {
            let v6 = scope.spawn(|| restore(Family::V6, &self.v6));
            (restore(Family::V4, &self.v4), v6.join())
        });
        let v6 = v6.unwrap_or(Err(ToolError::Thread));
        let [after_v4, after_v6] = [(Family::V4, &self.v4), (Family::V6, &self.v6)]
            .map(|(family, present)| self.rendered.installed_after(family, present.clone()));
        if v4.is_err() && v6.is_ok() {
            // As if one had come after the other: what stands in for the policy then is the same for both.
            let _ = backend.restore(place, Family::V6, &removal(&after_v6));
        }
        v4.and(v6)?;
        (self.v4, self.v6) = (after_v4, after_v6);
        self.due.read_back.extend(Family::ALL);
        Ok(())
    }

    /// Whether rules are there that may not be as they were written.
    fn is_doubtful(&self, family: Family) -> bool {
        let present = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        !(present.is_empty() || self.readings.has(family) || self.due.read_back.contains(&family))
    }
}
