//! Pods that Services expose on every node, and the nodes whose gate seals.

use ringfence_crds::address_group::{Exposed, ExposedPod, ExposedPods};

use super::*;
use crate::publish::Refused;

fn exposed(pods: &[&str]) -> AddressGroupSpec {
    let pods = pods.iter().map(|name| ExposedPod { name: (*name).to_owned(), addresses: Vec::new() }).collect();
    let exposed = Exposed { pods: vec![ExposedPods { pods, ..ExposedPods::default() }], ..Exposed::default() };
    AddressGroupSpec { slices: Some(1), exposed: Some(Box::new(exposed)), ..members("x-1", &[]) }
}

fn gates(addresses: &[&str]) -> AddressGroupSpec {
    AddressGroupSpec { slices: Some(1), ..members(names::CLASS_GATES, addresses) }
}

impl Fake {
    fn wants_group(&mut self, name: &str, spec: AddressGroupSpec) {
        self.computed.address_groups.insert(name.to_owned(), spec);
    }
}

#[test]
fn every_agent_finds_them() {
    let mut fake = Fake::default();
    fake.wants_group("x-1-0", exposed(&["web"]));
    fake.wants_group("gates-0", gates(&["172.30.0.1"]));
    fake.wants_group("c-1-0", members("c-1", &["10.0.0.1"]));
    assert_eq!(fake.publish(), "+x-1-0 > +c-1-0 +gates-0 > marker 0.1");
    let bucket = |name: &str| {
        let labels = fake.world.address_groups[&cluster_wide(name)].metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(names::LABEL_BUCKET)).cloned()
    };
    let everywhere = Some(names::BUCKET_EXPOSED.to_owned());
    assert_eq!((bucket("x-1-0"), bucket("gates-0")), (everywhere.clone(), everywhere));
    assert_eq!(bucket("c-1-0"), Some(names::bucket("c-1").to_string()));
    assert_eq!(fake.publish(), "", "they are as they should be");
}

/// Another Pod may have the address by now: it does not wait for anything.
#[test]
fn a_pod_that_is_gone_is_gone_before_anything_else() {
    let mut fake = Fake::default();
    fake.wants_group("x-1-0", exposed(&["db", "web"]));
    fake.wants_group("x-2-0", exposed(&["web"]));
    fake.wants_group("a-0", members("a", &["1"]));
    fake.wants_group("b-0", members("b", &["2"]));
    fake.publish();
    fake.wants_group("x-1-0", exposed(&["db"]));
    fake.computed.address_groups.remove("x-2-0");
    // Two that change places: nothing of a class is lost in this publication.
    fake.wants_group("a-0", AddressGroupSpec { slices: None, ..members("a", &["2"]) });
    fake.wants_group("b-0", members("b", &["1"]));
    let plan = fake.plan();
    assert!(plan.unfinished);
    assert_eq!(text(&plan), "~x-1-0 -x-2-0 > ~a-0 ~b-0");
    assert!(plan.ranks[0].after.is_empty());
}

#[test]
fn a_node_that_does_not_seal_any_more_goes_and_the_gates_with_the_last_exposed_pod() {
    let mut fake = Fake::default();
    fake.wants_group("x-1-0", exposed(&["web"]));
    fake.wants_group("gates-0", gates(&["172.30.0.1", "172.30.0.2"]));
    fake.publish();
    fake.wants_group("gates-0", gates(&["172.30.0.2"]));
    assert_eq!(fake.publish(), "~gates-0");
    fake.computed.address_groups.clear();
    assert_eq!(fake.publish(), "-x-1-0 > -gates-0");
}

/// What lives may name a Pod that is gone, so it does not stay in place of what the apiserver refuses.
#[test]
fn what_is_refused_leaves_nobody_exposed() {
    let mut fake = Fake::default();
    fake.wants_group("x-1-0", exposed(&["db", "web"]));
    fake.wants_group("gates-0", gates(&["172.30.0.1"]));
    fake.publish();
    fake.wants_group("x-1-0", exposed(&["db", "too large"]));
    let plan = fake.plan();
    let write = &plan.ranks[0].writes[0];
    assert!(Refused::may_leave_out(write));
    fake.memory.refused.note(write, "etcdserver: request is too large");
    assert_eq!(fake.publish(), "-x-1-0");
    assert_eq!(fake.publish(), "");
    let reasons = fake.memory.refused.reasons(&fake.computed);
    assert_eq!(reasons.cluster, ["the apiserver refuses AddressGroup x-1-0: etcdserver: request is too large"]);
    fake.wants_group("x-1-0", exposed(&["db"]));
    assert_eq!(fake.publish(), "+x-1-0", "it is tried again when it changes");
}

/// A node that is missing among them is believed without a seal.
#[test]
fn the_gates_are_never_left_out() {
    let mut fake = Fake::default();
    fake.wants_group("gates-0", gates(&["172.30.0.1"]));
    let plan = fake.plan();
    let writes: Vec<&Write> = plan.ranks.iter().flat_map(|rank| &rank.writes).collect();
    assert!(writes.len() == 1 && !Refused::may_leave_out(writes[0]));
}
