//! Room 8: puts a policy into the network namespace that the calling thread is in, and reads it back.
//!
//! A change of members alone is a delta on the sets. Anything else makes new sets, replaces the rules by one atomic
//! restore per table and family, and only then takes the old sets away. What the kernel held before the agent started
//! is kept where it is already right.

use std::collections::BTreeSet;

use ringfence_dataplane::sets::{self, SetDef};
use ringfence_dataplane::{Family, Installed, NetnsPolicy, Readback, Rendered, removal, render};

use crate::flows::{self, tightening::may_tighten};
use crate::tools::{Backend, ToolError, ipset_restore, ipset_save};

/// Both address families, in the order in which they switch.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// How often a set that the kernel still holds is tried again, a few milliseconds apart.
const DESTROY_TRIES: u32 = 10;

/// Why a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// What was written is not what is there.
    #[error("put the rules in force: read back, they are {0:?}")]
    ReadBack(Readback),
}

/// What a network namespace is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing of ours.
    Nothing,
    /// The rules of a policy.
    Policy(Box<NetnsPolicy>),
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
    policy: NetnsPolicy,
    rendered: Rendered,
    v4: Installed,
    v6: Installed,
    /// Whether flows may be there that carry our bit.
    ended_flows: bool,
}

impl Known {
    /// Whether it is what is wanted.
    pub fn is(&self, wanted: &Wanted) -> bool {
        match (self, wanted) {
            (Self::Nothing, Wanted::Nothing) => true,
            (Self::Policy(present), Wanted::Policy(policy)) => present.policy == **policy,
            _ => false,
        }
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
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the network namespace holds now.
    pub known: Known,
    /// What was done.
    pub done: Done,
    /// What went wrong beside: rules are in force, and flows that they block may go on.
    pub remark: Option<String>,
}

impl Outcome {
    fn new(known: Known, done: Done) -> Self {
        Self { known, done, remark: None }
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
        (Wanted::Policy(policy), Known::Nothing) => replace(backend, policy, Kernel::default(), true),
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
    destroy(kernel.sets.iter().map(|set| set.name.as_str()))?;
    let remark = flows::forgive_all().err().map(|error| format!("let flows go on: {error}"));
    Ok(Outcome { known: Known::Nothing, done: Done::Removed, remark })
}

/// From a policy that is in force to another.
fn change(backend: Backend, policy: &NetnsPolicy, present: InForce) -> Result<Outcome, ApplyError> {
    let same_generation = render(policy, present.rendered.generation);
    if !present.rendered.same_shape(&same_generation) {
        let InForce { policy: before, rendered, v4, v6, ended_flows } = present;
        let settle = ended_flows || may_tighten(&before, policy);
        return replace(backend, policy, Kernel { v4, v6, sets: rendered.sets }, settle);
    }
    let changes = present.rendered.delta(&same_generation);
    let done = if changes.is_empty() { Done::Nothing } else { Done::Members };
    ipset_restore(&sets::change_text(&changes))?;
    let settle = present.ended_flows || may_tighten(&present.policy, policy);
    let in_force = InForce { policy: policy.clone(), rendered: same_generation, ..present };
    Ok(in_force.settled(done, settle))
}

/// First contact: what is in the kernel is kept if it is right.
fn take_over(backend: Backend, policy: &NetnsPolicy) -> Result<Outcome, ApplyError> {
    let kernel = Kernel::read(backend)?;
    let Some(generation) = kernel.v4.generation().or_else(|| (!kernel.v4.is_empty()).then_some(0)) else {
        return replace(backend, policy, kernel, true);
    };
    let rendered = render(policy, generation);
    let right = FAMILIES.iter().all(|family| rendered.verify(*family, kernel.family(*family)) == Readback::Ok);
    let Some(changes) = rendered.delta_from(&kernel.sets).filter(|_| right) else {
        return replace(backend, policy, kernel, true);
    };
    let stale = kernel.sets.iter().filter(|set| !rendered.sets.iter().any(|wanted| wanted.name == set.name));
    ipset_restore(&sets::change_text(&changes))?;
    destroy(stale.map(|set| set.name.as_str()))?;
    let done = if changes.is_empty() { Done::Nothing } else { Done::Members };
    let in_force = InForce { policy: policy.clone(), rendered, v4: kernel.v4, v6: kernel.v6, ended_flows: false };
    Ok(in_force.settled(done, true))
}

/// Replaces all rules and sets. `settle` says whether flows have to be looked at.
fn replace(backend: Backend, policy: &NetnsPolicy, kernel: Kernel, settle: bool) -> Result<Outcome, ApplyError> {
    let first = kernel.is_empty();
    let rendered = render(policy, kernel.free_generation());
    ipset_restore(&rendered.create_sets())?;
    let mut installed = [kernel.v4, kernel.v6];
    for (family, present) in FAMILIES.into_iter().zip(&mut installed) {
        // What IPv6 does depends on the state only: mostly there is nothing to write.
        if rendered.verify(family, present) != Readback::Ok {
            backend.restore(family, &rendered.restore_text(family, present))?;
            *present = read_back(backend, family, &rendered)?;
        }
    }
    let [v4, v6] = installed;
    let in_force = InForce { policy: policy.clone(), rendered, v4, v6, ended_flows: false };
    let outcome = in_force.settled(Done::Rules, settle);
    destroy(kernel.sets.iter().map(|set| set.name.as_str()))?;
    if first {
        check_visible(backend);
    }
    Ok(outcome)
}

impl InForce {
    /// The outcome when the rules are in force: after the flows have followed, if they have to.
    fn settled(mut self, done: Done, settle: bool) -> Outcome {
        let mut remark = None;
        self.ended_flows = settle
            && flows::settle(&self.policy).unwrap_or_else(|error| {
                remark = Some(format!("end flows that the policy blocks: {error}"));
                // What is not known is looked at again next time.
                true
            });
        Outcome { known: Known::Policy(Box::new(self)), done, remark }
    }
}

/// After the first rules in a network namespace: warns when people who look with plain `iptables` would see none.
fn check_visible(backend: Backend) {
    if !Backend::shows_to_people("RF-IN") {
        let backend = backend.as_str();
        tracing::warn!(backend, "plain iptables does not show the rules: look with the programs of this back end");
    }
}

fn read_back(backend: Backend, family: Family, rendered: &Rendered) -> Result<Installed, ApplyError> {
    let installed = Installed::parse(&backend.save(family)?);
    match rendered.verify(family, &installed) {
        Readback::Ok => Ok(installed),
        wrong => Err(ApplyError::ReadBack(wrong)),
    }
}

/// Destroys sets that no rule names any more. The kernel lets go of them a little after the restore has returned.
fn destroy<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), ToolError> {
    let mut left: Vec<&str> = names.collect();
    // Mostly one child is enough.
    if ipset_restore(&sets::destroy_text(left.iter().copied())).is_ok() {
        return Ok(());
    }
    let present = sets::parse_save(&ipset_save()?);
    left.retain(|name| present.iter().any(|set| set.name == *name));
    for attempt in 1.. {
        let mut refused = None;
        left.retain(|name| match ipset_restore(&sets::destroy_text([*name])) {
            Ok(()) => false,
            Err(error) => {
                refused = Some(error);
                true
            }
        });
        match refused {
            None => break,
            // One that stays is taken away by the next replacement, and does no harm until then.
            Some(error) if attempt == DESTROY_TRIES => {
                tracing::warn!(%error, sets = ?left, "failed to destroy sets that are no longer used");
                break;
            }
            Some(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
    Ok(())
}
