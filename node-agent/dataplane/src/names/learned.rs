//! What a Pod has learned. Times are seconds since 1970, since they are to outlive the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::DomainName;
use serde::{Deserialize, Serialize};

use super::{Answer, Names};

/// An address counts at least so many seconds, whatever its answer says: programs look a name up, and connect later.
pub const SHORTEST: u32 = 60;
/// It counts at most so many, without being told again.
pub const LONGEST: u32 = 24 * 60 * 60;
/// How many addresses, counted once for each name, one Pod can have learned.
pub const MOST: usize = 1000;

/// The names that a Pod has asked for, with their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Learned(BTreeMap<DomainName, BTreeMap<IpAddr, u64>>);

/// What came of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many addresses are new.
    pub new: usize,
    /// How many found no room.
    pub refused: usize,
}

impl Learned {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many addresses there are, counted once for each name.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Takes in an answer.
    pub fn learn(&mut self, answer: &Answer, now: u64) -> Taken {
        let (mut room, mut taken) = (MOST.saturating_sub(self.len()), Taken::default());
        for (address, ttl) in &answer.addresses {
            let until = now + u64::from((*ttl).clamp(SHORTEST, LONGEST));
            let known = self.0.get_mut(&answer.name).and_then(|addresses| addresses.get_mut(address));
            if let Some(known) = known {
                *known = until.max(*known);
            } else if room > 0 {
                self.0.entry(answer.name.clone()).or_default().insert(*address, until);
                (room, taken.new) = (room - 1, taken.new + 1);
            } else {
                taken.refused += 1;
            }
        }
        taken
    }

    /// The addresses of names.
    pub fn addresses<'a>(&'a self, names: &'a Names) -> impl Iterator<Item = IpAddr> + 'a {
        let known = self.0.iter().filter(|(name, _)| names.matches(name));
        known.flat_map(|(_, addresses)| addresses.keys().copied())
    }

    /// The addresses whose time is over under some name.
    pub fn expired(&self, now: u64) -> BTreeSet<IpAddr> {
        let all = self.0.values().flatten();
        all.filter(|(_, until)| **until <= now).map(|(address, _)| *address).collect()
    }

    /// When the next time is over.
    pub fn next_expiry(&self) -> Option<u64> {
        self.0.values().flat_map(BTreeMap::values).min().copied()
    }

    /// Lets those go whose time is over, but for those that connections use: they stay until `again`, to be looked at then.
    /// Says whether any is gone.
    pub fn expire(&mut self, in_use: &BTreeSet<IpAddr>, now: u64, again: u64) -> bool {
        let before = self.len();
        for addresses in self.0.values_mut() {
            addresses.retain(|address, until| *until > now || in_use.contains(address));
            addresses.values_mut().for_each(|until| *until = if *until <= now { again } else { *until });
        }
        self.0.retain(|_, addresses| !addresses.is_empty());
        self.len() != before
    }

    /// Lets nothing count for longer than it can have been told `now`: the clock may have been in the future.
    pub fn bound(&mut self, now: u64) {
        let most = now + u64::from(LONGEST);
        self.0.values_mut().flat_map(BTreeMap::values_mut).for_each(|until| *until = most.min(*until));
    }

    /// Lets everything be as if it were told of just `now`, for the shortest time at least: how long nobody has listened is not
    /// the Pod's fault.
    pub fn awake(&mut self, now: u64) {
        self.bound(now);
        let least = now + u64::from(SHORTEST);
        self.0.values_mut().flat_map(BTreeMap::values_mut).for_each(|until| *until = least.max(*until));
    }
}
