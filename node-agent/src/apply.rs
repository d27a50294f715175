//! Room 8: puts a policy into the network namespace that the calling thread is in, and reads it back.
//!
//! A change of members alone is a delta on the sets. Anything else makes new sets and replaces the rules by one atomic
//! restore per table and family. What the kernel held before the agent started is kept where it is already right.
//!
//! [`apply`] does what new connections wait for. [`clean_up`] does the rest, when every namespace has its rules: existing
//! flows follow the policy, what was written is read back, and sets that no rule names any more go.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_dataplane::sets::{self, SetDef, SetKind};
use ringfence_dataplane::{Family, Installed, NetnsPolicy, Readback, Rendered, removal, render};

use crate::flows::{self, FlowError, tightening::may_tighten};
use crate::tools::{Backend, ToolError, ipset_restore, ipset_save};

/// Both address families, in the order in which they switch.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// How often a set that the kernel still holds is tried again, a few milliseconds apart, before it is left for later.
const DESTROY_TRIES: u32 = 10;

/// Why a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Flows could not be looked at or ended.
    #[error("let flows follow the policy: {0}")]
    Flows(#[from] FlowError),
    /// What was written is not what is there.
    #[error("put the rules in force: read back, they are {0:?}")]
    ReadBack(Readback),
    /// The kernel does not let go of sets.
    #[error("destroy sets that are no longer used: {0:?}")]
    SetsLeft(Vec<String>),
}

/// What a network namespace is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing of ours.
    Nothing,
    /// The rules of a policy.
    Policy(Arc<NetnsPolicy>),
}

/// What a network namespace holds, as far as known.
#[derive(Debug, Clone, Default)]
pub enum Known {
    /// It has not been read.
    #[default]
    Unread,
    /// Nothing of ours.
    Nothing,
    /// A policy of ours.
    Policy(Box<InForce>),
}

/// A policy that is in the kernel's hands.
#[derive(Debug, Clone)]
pub struct InForce {
    policy: Arc<NetnsPolicy>,
    rendered: Rendered,
    v4: Installed,
    v6: Installed,
    /// Whether flows may be there that carry our bit.
    ended_flows: bool,
    due: Due,
}

/// What is left for [`clean_up`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Due {
    /// Flows may be there that the policy decides otherwise than when they were last looked at.
    flows: bool,
    /// Families whose rules were written and not read back.
    read_back: BTreeSet<Family>,
    /// Sets that no rule names any more.
    sets: BTreeSet<String>,
    /// These are the first rules in the namespace.
    first: bool,
}

impl Known {
    /// Whether it is what is wanted.
    pub fn is(&self, wanted: &Wanted) -> bool {
        match (self, wanted) {
            (Self::Nothing, Wanted::Nothing) => true,
            // Mostly the same one: comparing them is then comparing where they are.
            (Self::Policy(present), Wanted::Policy(policy)) => present.policy == *policy,
            _ => false,
        }
    }

    /// Whether [`clean_up`] has something to do.
    pub fn is_due(&self) -> bool {
        matches!(self, Self::Policy(present) if present.due != Due::default())
    }

    /// Whether rules of ours are there.
    pub fn has_rules(&self) -> bool {
        matches!(self, Self::Policy(_))
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing: it was right already.
    Nothing,
    /// Left alone, since it holds rules and the caller only wanted to fill empty ones.
    Left,
    /// Members of sets came and went.
    Members,
    /// The rules were replaced.
    Rules,
    /// The rules were taken away.
    Removed,
    /// What was left for later was done, but for what the outcome still says is due.
    CleanedUp,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the network namespace holds now.
    pub known: Known,
    /// What was done.
    pub done: Done,
}

impl Outcome {
    fn new(known: Known, done: Done) -> Self {
        Self { known, done }
    }
}

/// Brings the network namespace from what it is known to hold to what is wanted. With `only_if_empty`, one that was not
/// read yet and holds rules of ours is left alone.
///
/// # Errors
/// When the kernel or a program refuses. What is in force is then not known any more, and never wider than before or
/// after.
pub fn apply(backend: Backend, wanted: &Wanted, known: Known, only_if_empty: bool) -> Result<Outcome, ApplyError> {
    match (wanted, known) {
        (Wanted::Nothing, Known::Nothing) => Ok(Outcome::new(Known::Nothing, Done::Nothing)),
        (_, Known::Unread) if only_if_empty && !Kernel::read(backend)?.is_empty() => {
            Ok(Outcome::new(Known::Unread, Done::Left))
        }
        (Wanted::Nothing, _) => remove(backend),
        (Wanted::Policy(policy), Known::Policy(present)) => change(backend, policy, *present),
        (Wanted::Policy(policy), Known::Nothing) => replace(backend, policy, Kernel::default(), true, BTreeSet::new()),
        (Wanted::Policy(policy), Known::Unread) => take_over(backend, policy),
    }
}

/// Everything of ours in a network namespace.
#[derive(Debug, Default)]
struct Kernel {
    v4: Installed,
    v6: Installed,
    sets: Vec<SetDef>,
}

impl Kernel {
    fn read(backend: Backend) -> Result<Self, ToolError> {
        Ok(Self {
            v4: Installed::parse(&backend.save(Family::V4)?),
            v6: Installed::parse(&backend.save(Family::V6)?),
            sets: sets::parse_save(&ipset_save()?),
        })
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.sets.is_empty()
    }

    fn family(&self, family: Family) -> &Installed {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// A generation whose sets are not there yet.
    fn free_generation(&self) -> u32 {
        let generation = |set: &SetDef| -> Option<u32> {
            let rest = set.name.strip_prefix(sets::PREFIX_V4).or_else(|| set.name.strip_prefix(sets::PREFIX_V6))?;
            rest.split('-').next()?.parse().ok()
        };
        let used: BTreeSet<u32> = self.sets.iter().filter_map(generation).chain(self.v4.generation()).collect();
        (0..=u32::MAX).find(|number| !used.contains(number)).unwrap_or_default()
    }
}

fn remove(backend: Backend) -> Result<Outcome, ApplyError> {
    let kernel = Kernel::read(backend)?;
    if kernel.is_empty() {
        return Ok(Outcome::new(Known::Nothing, Done::Nothing));
    }
    for family in FAMILIES {
        let text = removal(kernel.family(family));
        if !text.is_empty() {
            backend.restore(family, &text)?;
        }
    }
    flows::forgive_all()?;
    let left = destroy(names(&kernel.sets))?;
    if !left.is_empty() {
        return Err(ApplyError::SetsLeft(left.into_iter().collect()));
    }
    Ok(Outcome::new(Known::Nothing, Done::Removed))
}

fn names(sets: &[SetDef]) -> BTreeSet<String> {
    sets.iter().map(|set| set.name.clone()).collect()
}

/// From a policy that is in force to another.
fn change(backend: Backend, policy: &Arc<NetnsPolicy>, present: InForce) -> Result<Outcome, ApplyError> {
    let same_generation = render(policy, present.rendered.generation);
    // What was due stays due.
    let flows = present.due.flows || present.ended_flows || may_tighten(&present.policy, policy);
    if !present.rendered.same_shape(&same_generation) {
        let InForce { rendered, v4, v6, due, .. } = present;
        let old = due.sets.into_iter().map(|name| SetDef { name, kind: SetKind::HashNet, members: BTreeSet::new() });
        let sets = rendered.sets.into_iter().chain(old).collect();
        return replace(backend, policy, Kernel { v4, v6, sets }, flows, due.read_back);
    }
    let changes = present.rendered.delta(&same_generation);
    let done = if changes.is_empty() { Done::Nothing } else { Done::Members };
    ipset_restore(&sets::change_text(&changes))?;
    let due = Due { flows, ..present.due };
    let in_force = InForce { policy: policy.clone(), rendered: same_generation, due, ..present };
    Ok(in_force.outcome(done))
}

/// First contact: what is in the kernel is kept if it is right.
fn take_over(backend: Backend, policy: &Arc<NetnsPolicy>) -> Result<Outcome, ApplyError> {
    let kernel = Kernel::read(backend)?;
    let Some(generation) = kernel.v4.generation().or_else(|| (!kernel.v4.is_empty()).then_some(0)) else {
        return replace(backend, policy, kernel, true, BTreeSet::new());
    };
    let rendered = render(policy, generation);
    let right = FAMILIES.iter().all(|family| rendered.verify(*family, kernel.family(*family)) == Readback::Ok);
    let Some(changes) = rendered.delta_from(&kernel.sets).filter(|_| right) else {
        return replace(backend, policy, kernel, true, BTreeSet::new());
    };
    let sets = names(&kernel.sets).difference(&names(&rendered.sets)).cloned().collect();
    ipset_restore(&sets::change_text(&changes))?;
    let done = if changes.is_empty() { Done::Nothing } else { Done::Members };
    let due = Due { flows: true, sets, ..Due::default() };
    let Kernel { v4, v6, .. } = kernel;
    Ok(InForce { policy: policy.clone(), rendered, v4, v6, ended_flows: false, due }.outcome(done))
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
    let due = Due { flows, read_back, sets: names(&kernel.sets), first: kernel.is_empty() };
    let mut in_force =
        InForce { policy: policy.clone(), rendered, v4: kernel.v4, v6: kernel.v6, ended_flows: false, due };
    if let Err(error) = in_force.put(backend) {
        // Sets that no rule came to name must not pile up with every try; what is in use refuses to go.
        let _ = ipset_restore(&sets::destroy_text(in_force.rendered.sets.iter().map(|set| set.name.as_str())));
        return Err(error.into());
    }
    Ok(in_force.outcome(Done::Rules))
}

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
    for family in due.read_back {
        let installed = Installed::parse(&backend.save(family)?);
        match present.rendered.verify(family, &installed) {
            Readback::Ok => *present.family(family) = installed,
            wrong => return Err(ApplyError::ReadBack(wrong)),
        }
    }
    // One that stays is destroyed another time, and does no harm until then.
    present.due.sets = destroy(due.sets)?;
    if due.first {
        check_visible(backend);
    }
    Ok(present.outcome(Done::CleanedUp))
}

impl InForce {
    /// Writes sets and rules.
    fn put(&mut self, backend: Backend) -> Result<(), ToolError> {
        ipset_restore(&self.rendered.create_sets())?;
        for family in FAMILIES {
            let present = self.family(family).clone();
            // What IPv6 does depends on the state only: mostly there is nothing to write.
            if self.rendered.verify(family, &present) != Readback::Ok {
                backend.restore(family, &self.rendered.restore_text(family, &present))?;
                *self.family(family) = self.rendered.installed_after(family, present);
                self.due.read_back.insert(family);
            }
        }
        Ok(())
    }

    fn family(&mut self, family: Family) -> &mut Installed {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn outcome(self, done: Done) -> Outcome {
        Outcome::new(Known::Policy(Box::new(self)), done)
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
fn destroy(names: BTreeSet<String>) -> Result<BTreeSet<String>, ToolError> {
    // Mostly one child is enough.
    if ipset_restore(&sets::destroy_text(names.iter().map(String::as_str))).is_ok() {
        return Ok(BTreeSet::new());
    }
    let present: BTreeSet<String> = sets::parse_save(&ipset_save()?).into_iter().map(|set| set.name).collect();
    let mut left: BTreeSet<String> = names.intersection(&present).cloned().collect();
    for _ in 0..DESTROY_TRIES {
        left.retain(|name| ipset_restore(&sets::destroy_text([name.as_str()])).is_err());
        if left.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(left)
}
