//! The marker of PeerGroups: written after all others, named by the marker that closes the publication.

use super::*;
use crate::publish::Refused;

/// One PeerGroup and rules, published in 0.1.
fn published() -> Fake {
    let mut fake = Fake::default();
    fake.computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec::default());
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    assert_eq!(fake.publish(), "+p-1 > +marker > +shop-1 > marker 0.1");
    fake
}

/// The revision of the marker of PeerGroups, and the one that the marker of the publication names.
fn markers(fake: &Fake) -> (Option<Revision>, Option<Revision>) {
    let groups = fake.world.peer_groups.get(&cluster_wide(names::MARKER)).map(|marker| marker.spec.revision);
    let closing = fake.world.workload_policies.get(&cluster_wide(names::MARKER));
    (groups, closing.and_then(|marker| marker.spec.peer_group_revision))
}

#[test]
fn it_moves_with_peer_groups_alone_and_is_named_by_every_publication() {
    let mut fake = published();
    assert_eq!(markers(&fake), (Some(number(1)), Some(number(1))));
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "other"));
    assert_eq!(fake.publish(), "~shop-1 > marker 0.2");
    assert_eq!(markers(&fake), (Some(number(1)), Some(number(1))));
    fake.computed.peer_groups.insert("p-2".to_owned(), PeerGroupSpec::default());
    assert_eq!(fake.publish(), "+p-2 > ~marker > marker 0.3");
    assert_eq!(markers(&fake), (Some(number(3)), Some(number(3))));
    fake.computed.peer_groups.clear();
    assert_eq!(fake.publish(), "-p-1 -p-2", "nobody waits for what nothing refers to, and the marker stays");
    assert_eq!(markers(&fake), (Some(number(3)), Some(number(3))));
}

#[test]
fn without_any_peer_group_there_is_none() {
    let mut fake = Fake::default();
    assert_eq!(fake.publish(), "marker 0.1");
    assert_eq!(markers(&fake), (None, None));
}

#[test]
fn every_agent_finds_it_and_it_selects_nothing() {
    let fake = published();
    let marker = &fake.world.peer_groups[&cluster_wide(names::MARKER)];
    let labels = marker.metadata.labels.as_ref().expect("it lies in a bucket");
    assert_eq!(labels.get(names::LABEL_BUCKET).map(String::as_str), Some("marker"));
    assert!(marker.spec.classes.is_empty() && marker.spec.services.is_empty());
}

#[test]
fn what_somebody_deleted_or_edited_comes_back() {
    let mut fake = published();
    fake.world.peer_groups.remove(&cluster_wide(names::MARKER));
    assert_eq!(fake.publish(), "+marker > marker 0.2");
    assert_eq!(markers(&fake), (Some(number(2)), Some(number(2))));
    let marker = fake.world.peer_groups.get_mut(&cluster_wide(names::MARKER)).expect("it is back");
    marker.spec.classes = vec!["c-1".to_owned()];
    assert_eq!(fake.publish(), "~marker > marker 0.3");
    let marker = fake.world.peer_groups.get_mut(&cluster_wide(names::MARKER)).expect("it is there");
    marker.metadata.labels = None;
    assert_eq!(fake.publish(), "~marker > marker 0.4");
    assert_eq!(fake.publish(), "");
}

#[test]
fn it_is_written_once_all_others_are() {
    let mut fake = Fake::default();
    for name in ["p-1", "p-2"] {
        fake.computed.peer_groups.insert(name.to_owned(), PeerGroupSpec::default());
    }
    let first = fake.plan();
    let rank = first.ranks.iter().find(|rank| rank.writes.iter().any(|write| write.key.name == names::MARKER));
    let rank = rank.expect("planned");
    assert_eq!(rank.after, [Target::PeerGroup]);
    assert!(!Refused::may_leave_out(&rank.writes[0]));
    // p-2 could not be written, so neither marker was.
    let written = first.ranks.iter().flat_map(|rank| &rank.writes).find(|write| write.key.name == "p-1");
    fake.apply(written.expect("planned"));
    assert_eq!(fake.publish(), "+p-2 > +marker > marker 0.2");
    assert_eq!(markers(&fake), (Some(number(2)), Some(number(2))));
}

#[test]
fn a_publication_that_was_interrupted_after_it_is_closed_with_it() {
    let mut fake = published();
    fake.computed.peer_groups.insert("p-2".to_owned(), PeerGroupSpec::default());
    let plan = fake.plan();
    for write in plan.ranks.iter().flat_map(|rank| &rank.writes) {
        fake.apply(write);
    }
    assert_eq!(fake.publish(), "marker 0.3");
    assert_eq!(markers(&fake), (Some(number(2)), Some(number(2))));
}

#[test]
fn groups_that_an_older_controller_published_get_one() {
    let mut fake = published();
    fake.world.peer_groups.remove(&cluster_wide(names::MARKER));
    let closing = fake.world.workload_policies.get_mut(&cluster_wide(names::MARKER)).expect("published");
    closing.spec.peer_group_revision = None;
    fake.memory = Memory { since: Since::recover(&fake.world), ..Memory::default() };
    fake.last = Revision::default();
    assert_eq!(fake.publish(), "+marker > marker 0.2");
    assert_eq!(markers(&fake), (Some(number(2)), Some(number(2))));
}
