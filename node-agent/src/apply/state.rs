//! What a network namespace is to hold, what it holds, and how the one becomes the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_dataplane::{Family, Installed, NetnsPolicy, Place, Rendered};

use crate::ipset::Sets;
use crate::readings::Readings;

/// What a network namespace is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing of ours.
    Nothing,
    /// The rules of a policy.
    Policy(Arc<NetnsPolicy>),
}

/// What a network namespace holds, as far as known.
#[derive(Debug, Default)]
pub enum Known {
    /// It has not been read.
    #[default]
    Unread,
    /// Nothing of ours.
    Nothing,
    /// A policy of ours.
    Policy(Box<InForce>),
}

/// A policy that is in the kernel's hands. As long as this is there, the network namespace is.
#[derive(Debug)]
pub struct InForce {
    pub(super) policy: Arc<NetnsPolicy>,
    pub(super) rendered: Rendered,
    /// The way to the sets of the network namespace.
    pub(super) sets: Sets,
    pub(super) v4: Installed,
    pub(super) v6: Installed,
    /// Of rules that were read back and not written since.
    pub(super) readings: Readings,
    /// Whether flows may be there that carry our bit.
    pub(super) ended_flows: bool,
    pub(super) due: Due,
}

/// What is left for [`clean_up`](super::clean_up).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Flows may be there that the policy decides otherwise than when they were last looked at.
    pub(super) flows: bool,
    /// Families whose rules were written and not read back.
    pub(super) read_back: BTreeSet<Family>,
    /// Sets that no rule names any more.
    pub(super) sets: BTreeSet<String>,
    /// These are the first rules in the namespace.
    pub(super) first: bool,
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

    /// Whether [`clean_up`](super::clean_up) has something to do.
    pub fn is_due(&self) -> bool {
        matches!(self, Self::Policy(present) if present.due != Due::default())
    }

    /// Whether rules of ours are there.
    pub fn has_rules(&self) -> bool {
        matches!(self, Self::Policy(_))
    }

    /// A policy that was written just now, or cleaned up after as well.
    #[cfg(test)]
    pub fn holding(policy: &NetnsPolicy, cleaned_up: bool) -> Self {
        let due = Due { flows: !cleaned_up, ..Due::default() };
        let (v4, v6, readings) = (Installed::default(), Installed::default(), Readings::default());
        let (policy, rendered) = (Arc::new(policy.clone()), ringfence_dataplane::render(policy, 0));
        let sets = Sets::open().expect("the kernel has netfilter");
        Self::Policy(Box::new(InForce { policy, rendered, sets, v4, v6, readings, ended_flows: false, due }))
    }

    /// What was read back; `None` if nobody knows what is there.
    pub fn readings(&self) -> Option<Readings> {
        match self {
            Self::Unread => None,
            Self::Nothing => Some(Readings::default()),
            Self::Policy(present) => Some(present.readings.clone()),
        }
    }
}

/// How a network namespace is brought to what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whose network namespace it is.
    pub place: Place,
    /// Leave one alone that was not read yet and holds rules of ours.
    pub only_if_empty: bool,
    /// Where a policy of Full cannot be put in force and no other is, close the namespace as far as that is possible.
    pub may_close: bool,
    /// What its rules were when they were last read back.
    pub readings: Readings,
    /// Write rules and sets anew even if members alone differ: those of before stay as they were, to be brought back.
    pub anew: bool,
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
    /// What is wanted could not be put in force: it was closed by a simpler policy.
    Closed,
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
    /// What went wrong all the same, to follow "failed to".
    pub problem: Option<String>,
}

impl Outcome {
    pub(super) fn new(known: Known, done: Done) -> Self {
        Self { known, done, problem: None }
    }
}

impl InForce {
    pub(super) fn family(&mut self, family: Family) -> &mut Installed {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    pub(super) fn outcome(self, done: Done) -> Outcome {
        Outcome::new(Known::Policy(Box::new(self)), done)
    }
}
