//! Nobody is left out on the way: an agent that reads after every single write.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What the classes hold: member addresses by slice.
type Slices = BTreeMap<&'static str, Vec<Vec<&'static str>>>;

fn class(name: &'static str, slices: &[&[&'static str]]) -> (&'static str, Vec<Vec<&'static str>>) {
    (name, slices.iter().map(|members| members.to_vec()).collect())
}

/// A cluster with these classes, all selected by PeerGroup p-1.
fn computed(classes: &Slices) -> Computed {
    let mut computed = Computed::default();
    for (class, slices) in classes {
        for (number, addresses) in slices.iter().enumerate() {
            let slice = i32::try_from(number).expect("few");
            let slices = (slice == 0).then(|| i32::try_from(slices.len()).expect("few"));
            let spec = AddressGroupSpec { slice, slices, ..members(class, addresses) };
            computed.address_groups.insert(format!("{class}-{number}"), spec);
        }
    }
    let classes = classes.keys().map(|class| (*class).to_owned()).collect();
    computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec { classes, ..PeerGroupSpec::default() });
    computed
}

/// What an agent takes p-1 to be: a class of which a slice is missing is not there.
fn seen(world: &World) -> BTreeSet<String> {
    let group = |class: &str, slice: i32| world.address_groups.get(&cluster_wide(format!("{class}-{slice}")));
    let mut seen = BTreeSet::new();
    for class in &world.peer_groups[&cluster_wide("p-1")].spec.classes {
        let count = group(class, 0).and_then(|group| group.spec.slices).unwrap_or(0);
        let slices: Option<Vec<&AddressGroup>> = (0..count).map(|slice| group(class, slice)).collect();
        let members = slices.into_iter().flatten().flat_map(|group| &group.spec.members);
        seen.extend(members.map(|member| member.address.to_string()));
    }
    seen
}

/// Goes from one state to another, write by write, and asserts that these members are seen after each.
fn never_absent(before: &Slices, after: &Slices, members: &[&str], backwards: bool) {
    let mut fake = Fake { computed: computed(before), ..Fake::default() };
    fake.publish();
    fake.computed = computed(after);
    for _ in 0..2 {
        let plan = fake.plan();
        let ranks = plan.ranks.iter().map(|rank| &rank.writes).chain([&plan.afterwards]);
        for writes in ranks {
            let mut writes: Vec<&Write> = writes.iter().collect();
            if backwards {
                writes.reverse();
            }
            for write in writes {
                fake.apply(write);
                let seen = seen(&fake.world);
                let absent: Vec<&&str> = members.iter().filter(|member| !seen.contains(**member)).collect();
                assert!(absent.is_empty(), "{absent:?} after {write} ({}), backwards: {backwards}", text(&plan));
            }
        }
        plan.marker.iter().for_each(|marker| fake.apply(marker));
        if !plan.unfinished {
            break;
        }
    }
    assert_eq!(fake.publish(), "", "it is as it should be");
}

fn check(before: &[(&'static str, Vec<Vec<&'static str>>)], after: &[(&'static str, Vec<Vec<&'static str>>)]) {
    let before: Slices = before.iter().cloned().collect();
    let after: Slices = after.iter().cloned().collect();
    let all = |slices: &Slices| slices.values().flatten().flatten().copied().collect::<BTreeSet<_>>();
    let stay: Vec<&str> = all(&before).intersection(&all(&after)).copied().collect();
    assert!(!stay.is_empty());
    for backwards in [false, true] {
        never_absent(&before, &after, &stay, backwards);
    }
}

#[test]
fn a_pod_relabelled_into_a_class_that_is_born() {
    check(&[class("a", &[&["1", "2"]])], &[class("a", &[&["1"]]), class("b", &[&["2"]])]);
    check(&[class("b", &[&["1", "2"]])], &[class("a", &[&["2"]]), class("b", &[&["1"]])]);
}

#[test]
fn the_last_pod_of_a_class_relabelled() {
    check(&[class("a", &[&["1"]])], &[class("b", &[&["1"]])]);
    check(&[class("a", &[&["1"]]), class("b", &[&["2"]])], &[class("b", &[&["1", "2"]])]);
}

#[test]
fn a_class_that_grows_from_one_slice_and_from_two() {
    check(&[class("a", &[&["1", "2"]])], &[class("a", &[&["1"], &["2", "3"]])]);
    check(&[class("a", &[&["0", "2"], &["1", "3"]])], &[class("a", &[&["0", "4"], &["1", "5"], &["2"], &["3"]])]);
    check(&[class("a", &[&["0"], &["1", "3"]])], &[class("a", &[&["0"], &["1"], &["2"], &["3"]])]);
}

#[test]
fn a_class_that_shrinks() {
    check(&[class("a", &[&["0"], &["1"], &["2"], &["3"]])], &[class("a", &[&["0", "2"], &["1", "3"]])]);
    check(&[class("a", &[&["0", "8"], &["1", "9"], &["2"], &["3"]])], &[class("a", &[&["0", "2"], &["1", "3"]])]);
    check(&[class("a", &[&["1"], &["2"]])], &[class("a", &[&["1", "2"]])]);
}

#[test]
fn pods_that_change_places() {
    check(&[class("a", &[&["1"]]), class("b", &[&["2"]])], &[class("a", &[&["2"]]), class("b", &[&["1"]])]);
    check(
        &[class("a", &[&["1", "2"]]), class("b", &[&["3"], &["4"]])],
        &[class("a", &[&["2"], &["4", "5"]]), class("b", &[&["1", "3"]])],
    );
    check(&[class("a", &[&["1"]]), class("b", &[&["3"], &["4"]])], &[class("b", &[&["1", "4"]])]);
    check(
        &[class("a", &[&["1", "2"]]), class("b", &[&["3"], &["4"]])],
        &[class("a", &[&["2"]]), class("b", &[&["1", "3", "4"]])],
    );
}

#[test]
fn what_loses_comes_last_and_what_is_announced_before_what_moves() {
    let mut fake = Fake { computed: computed(&[class("a", &[&["0", "2"], &["1", "3"]])].into()), ..Fake::default() };
    fake.publish();
    fake.computed = computed(&[class("a", &[&["0"], &["1"], &["2"], &["3"]])].into());
    assert_eq!(fake.publish(), "+a-2 +a-3 > ~a-0 > ~a-1");
    fake.computed = computed(&[class("a", &[&["0", "2"], &["1", "3"]])].into());
    assert_eq!(fake.publish(), "~a-1 > ~a-0 > -a-2 -a-3");
}

#[test]
fn a_service_that_loses_an_end_comes_after_the_rules() {
    use ringfence_crds::address_group::{BackEnd, ServiceEnds};
    let service = |ports: &[i32]| {
        let back_ends = ports.iter().map(|port| BackEnd { port: *port, ..BackEnd::default() }).collect();
        let service = Some(Box::new(ServiceEnds { back_ends, ..ServiceEnds::default() }));
        AddressGroupSpec { slices: Some(1), service, ..members("s-1", &[]) }
    };
    let mut fake = Fake::default();
    let mut publish = |ports: &[i32], scope: &str| {
        fake.computed.address_groups.insert("s-1-0".to_owned(), service(ports));
        fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", scope));
        fake.publish()
    };
    assert_eq!(publish(&[80], "a"), "+s-1-0 > +shop-1 > marker 0.1");
    assert_eq!(publish(&[80, 81], "b"), "~s-1-0 > ~shop-1 > marker 0.2");
    assert_eq!(publish(&[81], "c"), "~shop-1 > ~s-1-0 > marker 0.3");
}

#[test]
fn what_takes_away_waits_for_what_takes_its_place() {
    let mut fake = Fake { computed: computed(&[class("a", &[&["1", "2"]])].into()), ..Fake::default() };
    fake.publish();
    fake.computed = computed(&[class("a", &[&["1"]]), class("b", &[&["2"]])].into());
    let plan = fake.plan();
    let losing = plan.ranks.iter().find(|rank| rank.writes.iter().any(|write| write.key.name == "a-0"));
    assert_eq!(losing.expect("planned").after, [Target::AddressGroup, Target::PeerGroup]);
}
