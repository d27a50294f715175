//! Interest: which groups an agent has to read. Groups lie in hash buckets by name or class
//! ([`ringfence_crds::names::bucket`]); an agent reads the buckets of what the rules of its Pods refer to, and with them
//! whatever else lies there.
//!
//! 1. What is of interest is exactly what `resolve` looks up, so that the two cannot differ.
//! 2. A group that is not read is missing and never empty: what is in force stays until it is there.

use std::collections::BTreeSet;

use ringfence_crds::names::{BUCKET_EXPOSED, BUCKET_MARKER, LABEL_BUCKET, bucket};

/// Buckets of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buckets(BTreeSet<u16>);

impl Buckets {
    /// Adds the bucket of a PeerGroup's name or of a class.
    pub fn insert(&mut self, id: &str) {
        self.0.insert(bucket(id));
    }

    /// Whether the bucket of a PeerGroup's name or of a class is among them.
    pub fn holds(&self, id: &str) -> bool {
        self.0.contains(&bucket(id))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The label selector that selects the AddressGroups in them, with what every agent reads.
    pub fn of_address_groups(&self) -> String {
        self.selector_with(BUCKET_EXPOSED)
    }

    /// The same for PeerGroups, the marker among them: whoever has seen it has seen all that was written before it.
    pub fn of_peer_groups(&self) -> String {
        self.selector_with(BUCKET_MARKER)
    }

    /// Never empty: an empty selector selects everything.
    fn selector_with(&self, named: &str) -> String {
        let numbers = self.0.iter().map(u16::to_string);
        let all: Vec<String> = [named.to_owned()].into_iter().chain(numbers).collect();
        format!("{LABEL_BUCKET} in ({})", all.join(","))
    }

    /// What to watch next where these are watched and those `needed`; `None` if it may stay as it is. What is not needed
    /// any more is kept until it is half of what is watched, since each change has the apiserver read everything.
    pub fn next(&self, needed: &Self) -> Option<Self> {
        let both = Self(&self.0 | &needed.0);
        let next = if needed.len() * 2 <= both.len() { needed.clone() } else { both };
        (next != *self).then_some(next)
    }
}

/// What an agent needs to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// PeerGroups, by name.
    pub peer_groups: Buckets,
    /// AddressGroups, by class.
    pub address_groups: Buckets,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: impl IntoIterator<Item = u16>) -> Buckets {
        Buckets(numbers.into_iter().collect())
    }

    #[test]
    fn nothing_is_never_asked_for_with_an_empty_selector() {
        assert_eq!(of([]).of_address_groups(), "policy.ringfence.dev/bucket in (exposed)");
        assert_eq!(of([17, 3]).of_address_groups(), "policy.ringfence.dev/bucket in (exposed,3,17)");
        assert_eq!(of([]).of_peer_groups(), "policy.ringfence.dev/bucket in (marker)");
        assert_eq!(of([17, 3]).of_peer_groups(), "policy.ringfence.dev/bucket in (marker,3,17)");
    }

    #[test]
    fn what_is_watched_grows_at_once_and_shrinks_late() {
        assert_eq!(of([1, 2, 3]).next(&of([1, 2, 3])), None);
        assert_eq!(of([1, 2, 3]).next(&of([1, 3])), None, "it may come back");
        assert_eq!(of([1, 2, 3]).next(&of([1, 3, 4])), Some(of([1, 2, 3, 4])));
        assert_eq!(of([1, 2, 3, 4]).next(&of([1, 4])), Some(of([1, 4])), "half of it is for nothing");
        assert_eq!(of([1, 2, 3]).next(&of([7, 8])), Some(of([7, 8])));
        assert_eq!(of([1]).next(&of([])), Some(of([])));
        assert_eq!(of([]).next(&of([])), None);
        assert_eq!(of([]).next(&of([5])), Some(of([5])));
    }
}
