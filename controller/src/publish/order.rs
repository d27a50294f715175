//! In which order AddressGroups are written, so that a member that moves is never in none of its classes.
//!
//! 1. What gains comes first, with what is new; then PeerGroups and rules take up new classes.
//! 2. A slice 0 that loses members, or announces more slices than before, comes after all new slices are there.
//! 3. Other slices that lose come after their slice 0, which by then says where their members have gone. A slice 0 that
//!    announces fewer slices is among them: until then the slices that go are still counted.
//! 4. A slice that loses some and gains what another slice loses cannot do both at once: it is first written with both,
//!    and nothing loses in that publication. The next one, which follows at once, finishes.
//! 5. Pods that Services expose on every node come and go before all that: a Pod that is in no such group is let in less, never
//!    more, and where one has gone, another may have its address by now. Nodes whose gate seals are a class like any other: a
//!    node that is missing among them is believed without a seal.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_compile::compile::Computed;
use ringfence_crds::common::NetworkAddress;
use ringfence_crds::{AddressGroup, AddressGroupSpec, Revision};

use super::difference::{Difference, difference, upsert};
use super::look::Look;
use crate::engine::world::World;
use crate::write::Write;

/// Writes of AddressGroups, by when they may happen.
#[derive(Debug, Default)]
pub struct Ordered {
    /// Nobody loses anything by them.
    pub gains: Vec<Write>,
    /// Slices 0 that lose, or that announce more slices.
    pub announcements: Vec<Write>,
    /// Everything else that loses.
    pub losses: Vec<Write>,
    /// Groups that are gone.
    pub deletions: Vec<Write>,
    /// Groups of exposed Pods, whatever becomes of them.
    pub exposed: Vec<Write>,
    /// Whether the losses are left to the next publication.
    pub unfinished: bool,
}

/// When a group may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Gain,
    Announce,
    Lose,
}

/// What to write so that the AddressGroups are what was computed, as far as is looked at.
pub fn address_groups(world: &World, computed: &Computed, look: &Look, revision: Revision) -> Ordered {
    let names = look.at(|names| &names.address_groups);
    let mut difference = difference(&world.address_groups, &computed.address_groups, names, revision);
    let exposed = take_exposed(world, computed, &mut difference);
    let lost = lost(world, computed, &difference);
    let mut ordered = Ordered { deletions: difference.deletions, exposed, ..Ordered::default() };
    for write in difference.upserts {
        let name = &write.key.name;
        let live = world.address_groups.get(&write.key);
        let Some(wanted) = computed.address_groups.get(name) else { continue };
        if let Some(live) = live.filter(|live| must_hold_both(&live.spec, wanted, &lost)) {
            ordered.gains.push(upsert(Some(live), name, both(&live.spec, wanted), revision));
            ordered.unfinished = true;
            continue;
        }
        match step(live.map(|live| &live.spec), wanted) {
            Step::Gain => ordered.gains.push(write),
            Step::Announce => ordered.announcements.push(write),
            Step::Lose => ordered.losses.push(write),
        }
    }
    if ordered.unfinished {
        ordered = Ordered { gains: ordered.gains, exposed: ordered.exposed, unfinished: true, ..Ordered::default() };
    }
    ordered
}

/// Takes out what is about exposed Pods, or was.
fn take_exposed(world: &World, computed: &Computed, difference: &mut Difference) -> Vec<Write> {
    let is_exposed = |write: &mut Write| {
        let live = world.address_groups.get(&write.key).map(|live| &live.spec);
        let wanted = computed.address_groups.get(&write.key.name);
        live.into_iter().chain(wanted).any(|spec| spec.exposed.is_some())
    };
    let Difference { upserts, deletions } = difference;
    upserts.extract_if(.., is_exposed).chain(deletions.extract_if(.., is_exposed)).collect()
}

fn step(live: Option<&AddressGroupSpec>, wanted: &AddressGroupSpec) -> Step {
    let Some(live) = live else { return Step::Gain };
    let loses = loses(live, wanted);
    if wanted.service.is_some() || live.service.is_some() || wanted.slice != 0 {
        return if loses { Step::Lose } else { Step::Gain };
    }
    match wanted.slices.cmp(&live.slices) {
        std::cmp::Ordering::Less => Step::Lose,
        std::cmp::Ordering::Greater => Step::Announce,
        std::cmp::Ordering::Equal if loses => Step::Announce,
        std::cmp::Ordering::Equal => Step::Gain,
    }
}

fn loses(live: &AddressGroupSpec, wanted: &AddressGroupSpec) -> bool {
    let service = match (&live.service, &wanted.service) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(live), Some(wanted)) => {
            missing(&live.front_ends, &wanted.front_ends) || missing(&live.back_ends, &wanted.back_ends)
        }
    };
    service || missing(&live.members, &wanted.members)
}

fn missing<T: Ord>(before: &[T], after: &[T]) -> bool {
    let after: BTreeSet<&T> = after.iter().collect();
    before.iter().any(|one| !after.contains(one))
}

/// Members that a group has now and is not to have, with the classes that lose them.
type Lost<'w> = BTreeMap<&'w NetworkAddress, BTreeSet<&'w str>>;

fn lost<'w>(world: &'w World, computed: &Computed, difference: &Difference) -> Lost<'w> {
    let writes = difference.upserts.iter().chain(&difference.deletions);
    let changed = writes.filter_map(|write| world.address_groups.get(&write.key));
    let mut lost = Lost::new();
    for group in changed {
        let stay: BTreeSet<&NetworkAddress> = wanted(computed, group).iter().flat_map(|spec| &spec.members).collect();
        for member in group.spec.members.iter().filter(|member| !stay.contains(member)) {
            lost.entry(member).or_default().insert(&group.spec.class);
        }
    }
    lost
}

fn wanted<'c>(computed: &'c Computed, group: &AddressGroup) -> Option<&'c AddressGroupSpec> {
    computed.address_groups.get(group.metadata.name.as_deref()?)
}

/// Whether a slice that may not be written early gains members that another one loses.
fn must_hold_both(live: &AddressGroupSpec, wanted: &AddressGroupSpec, lost: &Lost<'_>) -> bool {
    if step(Some(live), wanted) == Step::Gain {
        return false;
    }
    let before: BTreeSet<&NetworkAddress> = live.members.iter().collect();
    // With fewer slices, the members of those that go come to slice 0 in the moment in which they stop to count.
    let fewer = wanted.slice == 0 && wanted.slices < live.slices;
    wanted.members.iter().filter(|member| !before.contains(member)).any(|member| {
        lost.get(member).is_some_and(|classes| !fewer || classes.iter().any(|class| *class != wanted.class))
    })
}

/// What a slice says now, with the members that it gains.
fn both(live: &AddressGroupSpec, wanted: &AddressGroupSpec) -> AddressGroupSpec {
    let members: BTreeSet<&NetworkAddress> = live.members.iter().chain(&wanted.members).collect();
    AddressGroupSpec { members: members.into_iter().cloned().collect(), ..live.clone() }
}
