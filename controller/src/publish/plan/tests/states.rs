//! Full waits for the nodes, and what is in Full stays there.

use PolicyState::{Full, VisibilityOnly};
use ringfence_compile::cluster::NodeInfo;
use ringfence_crds::node_policy::NodePolicyStatus;

use super::*;
use crate::publish::states;

impl Fake {
    /// A node that Kubernetes calls Ready or not; its NodePolicy is still to be published.
    fn node(&mut self, name: &str, ready: bool) {
        self.computed.node_policies.insert(name.to_owned(), NodePolicySpec::default());
        self.world.cluster.nodes.insert(name.to_owned(), NodeInfo { ready, ..NodeInfo::default() });
    }

    fn acknowledges(&mut self, node: &str, revision: i64) {
        let policy = self.world.node_policies.get_mut(&cluster_wide(node)).expect("published before");
        let acknowledged = Some(number(revision));
        policy.status = Some(NodePolicyStatus { acknowledged, ..NodePolicyStatus::default() });
    }

    fn enforced(&self) -> Option<PolicyState> {
        self.world.profiles[&cluster_wide("shop")].status.as_ref().and_then(|status| status.enforced_state)
    }

    fn are_due(&self) -> bool {
        states::are_due(&self.world, &self.memory.since)
    }
}

/// Two nodes, and the profile shop in VisibilityOnly, published in 0.1 and 0.2.
fn visible() -> Fake {
    let mut fake = Fake::default();
    fake.node("a", true);
    fake.node("b", true);
    assert_eq!(fake.publish(), "+a +b > marker 0.1");
    fake.profile("shop", true, Some(VisibilityOnly));
    assert_eq!(fake.publish(), "=shop > marker 0.2", "nobody waits for what blocks nothing");
    fake
}

#[test]
fn full_comes_into_force_in_a_publication_of_its_own() {
    let mut fake = visible();
    fake.profile("shop", true, Some(Full));
    assert_eq!(fake.publish(), "marker 0.3", "which is what nodes are to acknowledge");
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    assert_eq!(fake.publish(), "+shop-1 > marker 0.4");
    fake.acknowledges("a", 4);
    fake.acknowledges("b", 3);
    assert!(!fake.are_due(), "b has the profile and not the rules that came after it");
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("", Some(VisibilityOnly)));
    fake.acknowledges("b", 4);
    assert!(fake.are_due());
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("=shop > marker 0.5", Some(Full)));
    assert_eq!(fake.memory.since.profile("shop"), Some(number(5)), "Ready waits for that one");
    assert!(!fake.are_due());
    assert_eq!(fake.publish(), "");
}

#[test]
fn rules_of_the_same_publication_are_waited_for() {
    let mut fake = visible();
    fake.acknowledges("a", 2);
    fake.acknowledges("b", 2);
    fake.profile("shop", true, Some(Full));
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("+shop-1 > marker 0.3", Some(VisibilityOnly)));
}

#[test]
fn what_is_in_full_stays_there_whatever_nodes_say() {
    let mut fake = visible();
    fake.profile("shop", true, Some(Full));
    fake.publish();
    fake.acknowledges("a", 3);
    fake.acknowledges("b", 3);
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("=shop > marker 0.4", Some(Full)));
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("+shop-1 > marker 0.5", Some(Full)), "a new rule");
    let profile = fake.world.profiles.get_mut(&cluster_wide("shop")).expect("it is there");
    profile.spec.labels.insert("app".to_owned(), Default::default());
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("marker 0.6", Some(Full)), "another label");
    // Somebody writes its status.
    let profile = fake.world.profiles.get_mut(&cluster_wide("shop")).expect("it is there");
    profile.status.as_mut().expect("published").enforced_state = Some(VisibilityOnly);
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("=shop > marker 0.7", Some(Full)));
    // The controller starts again, with a node that nobody has heard of.
    fake.memory = Memory { since: Since::recover(&fake.world), ..Memory::default() };
    fake.last = Revision::default();
    fake.node("c", true);
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("+c > marker 0.8", Some(Full)));
    fake.profile("shop", true, Some(VisibilityOnly));
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("=shop > marker 0.9", Some(VisibilityOnly)));
}

#[test]
fn a_controller_that_starts_goes_on_waiting() {
    let mut fake = visible();
    fake.profile("shop", true, Some(Full));
    fake.publish();
    fake.acknowledges("a", 3);
    fake.memory = Memory { since: Since::recover(&fake.world), ..Memory::default() };
    fake.last = Revision::default();
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("marker 0.4", Some(VisibilityOnly)));
    fake.acknowledges("a", 4);
    fake.acknowledges("b", 4);
    assert_eq!((fake.publish().as_str(), fake.enforced()), ("=shop > marker 0.5", Some(Full)));
}

#[test]
fn a_write_that_failed_is_planned_again() {
    let mut fake = visible();
    fake.profile("shop", true, Some(Full));
    fake.publish();
    fake.acknowledges("a", 3);
    fake.acknowledges("b", 3);
    fake.plan();
    // Nothing of it was written, and a node falls behind: it was said that Full is to be in force.
    fake.acknowledges("b", 2);
    let now = Time(Timestamp::UNIX_EPOCH);
    let again = plan(&fake.world, &fake.computed, &mut fake.memory, &mut Look::nowhere(), fake.last, &now);
    assert_eq!(text(&again), "=shop > marker 0.5");
}

#[test]
fn nodes_that_are_new_are_waited_for_once_they_are_ready() {
    let published = |ready| {
        let mut fake = Fake::default();
        fake.node("a", ready);
        fake.profile("shop", true, Some(Full));
        (fake.publish(), fake.enforced())
    };
    assert_eq!(published(true), ("+a > marker 0.1".to_owned(), None));
    assert_eq!(published(false), ("+a > =shop > marker 0.1".to_owned(), Some(Full)));
}
