//! Members of a class, in slices.
//!
//! Goals, and the design that meets them:
//! 1. An event costs the same in a class of ten and of a hundred thousand: a member is in the slice that the hash of its
//!    address says, and one that comes or goes changes that slice alone.
//! 2. Everything follows from the members alone, never from their history: the number of slices is the smallest power of
//!    two at which none holds more than [`SLICE`]. To see when fewer would do, pairs of slices that would be one are
//!    counted as long as they are too big for that.

use std::net::IpAddr;

use ringfence_crds::common::NetworkAddress;
use roaring::RoaringBitmap;
use smol_str::ToSmolStr;

use super::networks::Networks;

/// The most members of a slice.
const SLICE: usize = 100;
/// How few members a slice may hold on average: hashes that spread need no more slices than that, and whoever chooses
/// addresses whose hashes do not spread makes slices that are too big instead of a million small ones.
const SPARSE: usize = 25;

/// An address on a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceMember {
    /// Number of the Pod network; none outside.
    pub network: Option<u16>,
    /// The address.
    pub address: IpAddr,
}

impl SliceMember {
    /// As an object has it.
    pub fn written(&self, networks: &Networks) -> NetworkAddress {
        NetworkAddress {
            network: self.network.map(|network| networks.id(network)).unwrap_or_default(),
            address: self.address.to_smolstr(),
        }
    }

    /// Where in the slices it is: FNV-1a over its octets, and the upper bits folded into the lower ones, because slices
    /// are counted by the lower ones. Networks do not count: one address is rarely on two.
    fn hash(&self) -> usize {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut take = |octets: &[u8]| {
            for octet in octets {
                hash = (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        match self.address {
            IpAddr::V4(address) => take(&address.octets()),
            IpAddr::V6(address) => take(&address.octets()),
        }
        // Of 64 bits, as many as the machine counts with.
        (hash ^ (hash >> 32)) as usize
    }
}

/// Members in slices.
#[derive(Debug, Clone)]
pub struct Slices {
    /// Each sorted. Their number is a power of two.
    slots: Vec<Vec<SliceMember>>,
    /// Pairs of slots that would be one slot if there were half as many, and that hold too much for one.
    pairs_too_big: usize,
    changed: RoaringBitmap,
    /// Whether a slot holds more than it should, because more slots would not help.
    overfull: bool,
    /// The number of slots changed: every slot did.
    resliced: bool,
}

impl Default for Slices {
    fn default() -> Self {
        Self {
            slots: vec![Vec::new()],
            pairs_too_big: 0,
            changed: RoaringBitmap::new(),
            overfull: false,
            resliced: true,
        }
    }
}

impl Slices {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The members of one, sorted.
    pub fn get(&self, number: usize) -> &[SliceMember] {
        self.slots.get(number).map_or(&[], Vec::as_slice)
    }

    /// Adds a member, and says whether it was none before.
    pub fn add(&mut self, member: SliceMember) -> bool {
        let slot = self.slot_of(&member);
        let Err(position) = self.slots[slot].binary_search(&member) else { return false };
        self.slots[slot].insert(position, member);
        self.note(slot);
        if self.slots.len() > 1 && self.pair(slot) == SLICE + 1 {
            self.pairs_too_big += 1;
        }
        if self.overfull || self.slots[slot].len() > SLICE {
            self.reslice();
        }
        true
    }

    /// Takes a member away, and says whether it was one.
    pub fn remove(&mut self, member: &SliceMember) -> bool {
        let slot = self.slot_of(member);
        let Ok(position) = self.slots[slot].binary_search(member) else { return false };
        self.slots[slot].remove(position);
        self.note(slot);
        if self.slots.len() > 1 && self.pair(slot) == SLICE {
            self.pairs_too_big -= 1;
        }
        if self.overfull || (self.slots.len() > 1 && self.pairs_too_big == 0) {
            self.reslice();
        }
        true
    }

    fn slot_of(&self, member: &SliceMember) -> usize {
        member.hash() & (self.slots.len() - 1)
    }

    /// How many members a slot holds together with the one that it would be one with.
    fn pair(&self, slot: usize) -> usize {
        let other = slot ^ (self.slots.len() / 2);
        self.slots[slot].len() + self.slots[other].len()
    }

    fn note(&mut self, slot: usize) {
        if !self.resliced {
            // There are never as many slices as numbers.
            self.changed.insert(u32::try_from(slot).unwrap_or(u32::MAX));
        }
    }

    /// Finds the smallest number of slots that fits.
    fn reslice(&mut self) {
        let mut all: Vec<SliceMember> = self.slots.drain(..).flatten().collect();
        all.sort_unstable();
        let mut count = 1;
        let fits = |count: usize| {
            let mut sizes = vec![0_usize; count];
            all.iter().all(|member| {
                let size = &mut sizes[member.hash() & (count - 1)];
                *size += 1;
                *size <= SLICE
            })
        };
        let most = (all.len() / SPARSE).max(1).next_power_of_two();
        while !fits(count) && count < most {
            count *= 2;
        }
        self.slots = vec![Vec::new(); count];
        for member in all {
            let slot = member.hash() & (count - 1);
            self.slots[slot].push(member);
        }
        let half = count / 2;
        self.pairs_too_big = (0..half).filter(|slot| self.pair(*slot) > SLICE).count();
        self.overfull = self.slots.iter().any(|slot| slot.len() > SLICE);
        self.resliced = true;
        self.changed.clear();
    }

    /// Numbers of slices that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<usize> {
        let changed = std::mem::take(&mut self.changed);
        if std::mem::take(&mut self.resliced) {
            return (0..self.slots.len()).collect();
        }
        changed.iter().map(|slot| slot as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u32) -> SliceMember {
        SliceMember { network: Some(0), address: std::net::Ipv4Addr::from(0x0a00_0000 + number).into() }
    }

    fn filled(count: u32) -> Slices {
        let mut slices = Slices::default();
        for number in 0..count {
            assert!(slices.add(member(number)));
        }
        slices
    }

    #[test]
    fn slices_are_at_most_a_hundred_long_and_lose_nobody() {
        for count in [0, 1, 100, 101, 1000, 5000] {
            let slices = filled(count);
            assert!(slices.slots.iter().all(|slot| slot.len() <= SLICE));
            let mut all: Vec<SliceMember> = slices.slots.into_iter().flatten().collect();
            all.sort();
            assert_eq!(all, (0..count).map(member).collect::<Vec<_>>());
        }
        assert_eq!(filled(100).slots.len(), 1);
    }

    #[test]
    fn a_member_that_goes_changes_one_slice() {
        let mut slices = filled(1000);
        slices.take_changed();
        assert!(slices.remove(&member(7)));
        assert_eq!(slices.take_changed().len(), 1);
        assert!(!slices.remove(&member(7)), "it is gone");
        assert_eq!(slices.take_changed(), [0_usize; 0]);
    }

    /// Networks do not count for the hash: the same address on each of many.
    #[test]
    fn addresses_that_never_part_do_not_multiply_slices() {
        let address = std::net::Ipv4Addr::from(0x0a00_0000).into();
        let on = |network| SliceMember { network: Some(network), address };
        let mut slices = Slices::default();
        (0..150).for_each(|network| assert!(slices.add(on(network))));
        assert_eq!((slices.len(), slices.slots.iter().map(Vec::len).max()), (8, Some(150)));
        (100..150).for_each(|network| assert!(slices.remove(&on(network))));
        assert_eq!((slices.len(), slices.slots[0].len()), (1, 100));
    }

    #[test]
    fn slices_follow_from_their_members_and_not_from_what_was_before() {
        let mut shrunk = filled(3000);
        for number in 150..3000 {
            shrunk.remove(&member(number));
            let half = shrunk.slots.len() / 2;
            assert_eq!(shrunk.pairs_too_big, (0..half).filter(|slot| shrunk.pair(*slot) > SLICE).count());
        }
        assert_eq!(shrunk.slots, filled(150).slots);
    }
}
