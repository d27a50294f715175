//! What the apiserver refuses for good holds up nobody else and widens nothing.

use ringfence_crds::workload_policy::{CompiledRule, Peer, Subject};
use ringfence_model::{Action, Direction};

use super::*;
use crate::publish::Refused;

fn refers(rule_set: &str, scope: &str, group: &str) -> WorkloadPolicySpec {
    let rule = CompiledRule {
        name: "rule".to_owned(),
        direction: Direction::Inbound,
        action: Action::Deny,
        reject: false,
        subjects: vec![Subject { container_hosts: true, ..Subject::default() }],
        peers: vec![Peer { peer_group: Some(group.to_owned()), ..Peer::default() }],
        all_services: true,
        services: Vec::new(),
        virtual_service_ports: false,
    };
    WorkloadPolicySpec { rules: vec![rule], ..rules(rule_set, scope) }
}
fn peer_group(classes: &[&str]) -> PeerGroupSpec {
    PeerGroupSpec { classes: classes.iter().map(|class| (*class).to_owned()).collect(), ..PeerGroupSpec::default() }
}

impl Fake {
    /// Plans and has the write to this object refused: nothing of the plan from that rank on is carried out.
    fn refuse(&mut self, name: &str) {
        let plan = self.plan();
        for rank in &plan.ranks {
            if let Some(write) = rank.writes.iter().find(|write| write.key.name == name) {
                assert!(Refused::may_leave_out(write));
                self.memory.refused.note(write, "metadata.name: Invalid value");
                return;
            }
            for write in &rank.writes {
                self.apply(write);
            }
        }
        panic!("{name} is not planned: {}", text(&plan));
    }

    fn wants(&mut self, name: &str, spec: WorkloadPolicySpec) {
        self.computed.workload_policies.insert(name.to_owned(), spec);
    }
}

#[test]
fn the_others_go_on_and_it_is_tried_again_when_it_changes() {
    let mut fake = Fake::default();
    fake.wants("bank-1", rules("bank", "everything"));
    fake.wants("shop-1", rules("shop", "everything"));
    fake.refuse("shop-1");
    assert_eq!(fake.publish(), "+bank-1 > marker 0.2");
    assert_eq!(fake.publish(), "");
    let reasons = fake.memory.refused.reasons(&fake.computed);
    let message = "the apiserver refuses WorkloadPolicy shop-1: metadata.name: Invalid value".to_owned();
    assert_eq!(reasons.rule_sets, [("shop".to_owned(), message)].into());
    assert!(reasons.cluster.is_empty());
    fake.wants("shop-1", WorkloadPolicySpec { commit: Some("bbbb".to_owned()), ..rules("shop", "everything") });
    assert_eq!(fake.publish(), "", "another commit is no other content");
    fake.wants("shop-1", rules("shop", "other"));
    assert_eq!(fake.publish(), "+shop-1 > marker 0.3");
    assert!(fake.memory.refused.reasons(&fake.computed).rule_sets.is_empty());
}

#[test]
fn a_deny_that_cannot_be_replaced_stays_with_all_that_it_refers_to() {
    let mut fake = Fake::default();
    fake.computed.address_groups.insert("c-1-0".to_owned(), members("c-1", &["10.0.0.1"]));
    fake.computed.address_groups.insert("c-2-0".to_owned(), members("c-2", &["10.0.0.2"]));
    fake.computed.peer_groups.insert("p-1".to_owned(), peer_group(&["c-1", "c-2"]));
    fake.wants("shop-1", refers("shop", "env in (prod)", "p-1"));
    fake.publish();
    // The scope and the peers become others, and class c-2 dies; the new rules are refused.
    fake.computed.address_groups.remove("c-2-0");
    fake.computed.peer_groups = [("p-2".to_owned(), peer_group(&["c-1"]))].into();
    fake.computed.workload_policies.clear();
    fake.wants("shop-2", refers("shop", "everything", "p-2"));
    fake.refuse("shop-2");
    assert_eq!(fake.publish(), "~p-1 > ~marker > marker 0.3 > -c-2-0", "shop-1 stays, and p-1 without the dead class");
    assert_eq!(fake.world.workload_policies[&cluster_wide("shop-1")].spec.rules[0].action, Action::Deny);
    assert_eq!(fake.publish(), "");
    // The RuleSet is corrected.
    fake.computed.workload_policies.clear();
    fake.wants("shop-3", refers("shop", "env in (prod,dev)", "p-2"));
    assert_eq!(fake.publish(), "+shop-3 > -shop-1 > marker 0.4 > -p-1");
}

#[test]
fn a_deny_that_was_to_change_under_its_name_stays_as_it_was() {
    let mut fake = Fake::default();
    fake.computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec::default());
    fake.wants("shop-1", refers("shop", "everything", "p-1"));
    fake.publish();
    fake.wants("shop-1", rules("shop", "everything"));
    fake.refuse("shop-1");
    assert_eq!(fake.publish(), "marker 0.3", "which the first try owed: nothing else was to change");
    assert_eq!(fake.world.workload_policies[&cluster_wide("shop-1")].spec.rules.len(), 1);
}

#[test]
fn rules_that_refer_to_what_was_refused_wait_too() {
    let mut fake = Fake::default();
    fake.computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec::default());
    fake.wants("shop-1", refers("shop", "everything", "p-1"));
    fake.wants("bank-1", rules("bank", "everything"));
    fake.refuse("p-1");
    assert_eq!(fake.publish(), "+bank-1 > marker 0.2");
    let reasons = fake.memory.refused.reasons(&fake.computed);
    assert_eq!(reasons.rule_sets.keys().collect::<Vec<_>>(), ["shop"]);
}

#[test]
fn what_belongs_to_no_rule_set_is_told_of_the_cluster() {
    let mut fake = Fake::default();
    fake.computed.node_policies.insert("node1".to_owned(), NodePolicySpec::default());
    fake.refuse("node1");
    assert_eq!(fake.publish(), "marker 0.2");
    let reasons = fake.memory.refused.reasons(&fake.computed);
    assert!(reasons.rule_sets.is_empty());
    assert_eq!(reasons.cluster, ["the apiserver refuses NodePolicy node1: metadata.name: Invalid value"]);
}

#[test]
fn a_class_is_never_left_out() {
    let mut fake = Fake::default();
    fake.computed.address_groups.insert("c-1-0".to_owned(), members("c-1", &["10.0.0.1"]));
    let plan = fake.plan();
    let writes: Vec<&Write> = plan.ranks.iter().flat_map(|rank| &rank.writes).collect();
    assert!(writes.len() == 1 && !Refused::may_leave_out(writes[0]), "its Pods would slip out of every Deny");
    let marker = plan.marker.expect("the first publication has one");
    assert!(!Refused::may_leave_out(&marker));
}
