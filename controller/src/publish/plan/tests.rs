//! Plans from small worlds.

mod exposed;
mod look;
mod order;
mod peer_marker;
mod refused;
mod states;

use super::super::{Newest, Since};
use super::*;
use k8s_openapi::jiff::Timestamp;
use ringfence_compile::cluster::NamespaceInfo;
use ringfence_crds::rule_set::RuleSetStatus;
use ringfence_crds::{
    AddressGroup, AddressGroupSpec, NodePolicy, NodePolicySpec, PeerGroup, PeerGroupSpec, WorkloadPolicy,
};
use ringfence_crds::{ContainerCluster, ContainerClusterSpec, ContainerWorkloadProfile, ContainerWorkloadProfileSpec};
use ringfence_crds::{RuleSet, RuleSetSpec};
use ringfence_model::PolicyState;

fn number(number: i64) -> Revision {
    Revision { epoch: 0, number }
}
fn rules(rule_set: &str, scope: &str) -> WorkloadPolicySpec {
    WorkloadPolicySpec { rule_set: rule_set.to_owned(), scope: scope.to_owned(), ..WorkloadPolicySpec::default() }
}
fn members(class: &str, addresses: &[&str]) -> AddressGroupSpec {
    let member = |address: &&str| ringfence_crds::common::NetworkAddress {
        network: "uid/default".into(),
        address: (*address).into(),
    };
    AddressGroupSpec { class: class.to_owned(), members: addresses.iter().map(member).collect(), ..Default::default() }
}

/// A cluster that lives in memory: carries out plans as the apiserver would.
#[derive(Default)]
struct Fake {
    world: World,
    computed: Computed,
    memory: Memory,
    last: Revision,
}

impl Fake {
    /// Plans, carries it all out, and says in one line what was done.
    fn publish(&mut self) -> String {
        let plan = self.plan();
        let text = text(&plan);
        let marker = plan.marker.clone();
        for write in plan.ranks.iter().flat_map(|rank| &rank.writes).chain(&marker).chain(&plan.afterwards) {
            self.apply(write);
        }
        text
    }

    fn plan(&mut self) -> Plan {
        let now = Time(Timestamp::UNIX_EPOCH);
        let plan = plan(&self.world, &self.computed, &mut self.memory, &mut Look::Everything, self.last, &now);
        if !plan.is_empty() {
            self.last = plan.revision;
        }
        plan
    }

    fn apply(&mut self, write: &Write) {
        macro_rules! into {
            ($index:ident, $kind:ident) => {
                match &write.operation {
                    Operation::Create(_, content) | Operation::Replace(_, content) => {
                        let spec = serde_json::from_value(content["spec"].clone()).expect("what was planned");
                        let mut object = $kind::new(&write.key.name, spec);
                        let labels = content["metadata"]["labels"].clone();
                        object.metadata.labels = serde_json::from_value(labels).expect("what was planned");
                        self.world.$index.insert(write.key.clone(), object);
                    }
                    Operation::Delete(_) => {
                        self.world.$index.remove(&write.key);
                    }
                    Operation::Status(status) | Operation::StatusOf(_, status) => panic!("{status}"),
                }
            };
        }
        match write.target {
            Target::NodePolicy => into!(node_policies, NodePolicy),
            Target::WorkloadPolicy => into!(workload_policies, WorkloadPolicy),
            Target::PeerGroup => into!(peer_groups, PeerGroup),
            Target::AddressGroup => into!(address_groups, AddressGroup),
            Target::ContainerWorkloadProfile => {
                let Operation::Status(status) = &write.operation else { panic!("{write:?}") };
                let profile = self.world.profiles.get_mut(&write.key).expect("a profile of the test");
                profile.status = Some(serde_json::from_value(status.clone()).expect("what was planned"));
            }
            other => panic!("{other:?}"),
        }
    }

    fn profile(&mut self, name: &str, managed: bool, state: Option<PolicyState>) {
        let spec = ContainerWorkloadProfileSpec { managed, policy_state: state, ..Default::default() };
        let status = self.world.profiles.remove(&cluster_wide(name)).and_then(|profile| profile.status);
        let mut profile = ContainerWorkloadProfile::new(name, spec);
        profile.status = status;
        self.world.profiles.insert(cluster_wide(name), profile);
        self.world
            .cluster
            .namespaces
            .insert(name.to_owned(), NamespaceInfo { uid: "u".to_owned(), terminating: false });
    }

    fn rule_set(&mut self, name: &str) {
        let spec = RuleSetSpec { enabled: true, scopes: vec![Default::default()], rules: Vec::new() };
        self.world.rule_sets.insert(cluster_wide(name), RuleSet::new(name, spec));
    }
}

fn text(plan: &Plan) -> String {
    let verb = |write: &Write| {
        let verb = match &write.operation {
            Operation::Create(..) => "+",
            Operation::Replace(..) => "~",
            Operation::Status(_) | Operation::StatusOf(..) => "=",
            Operation::Delete(_) => "-",
        };
        format!("{verb}{}", write.key.name)
    };
    let rank = |writes: &[Write]| writes.iter().map(verb).collect::<Vec<_>>().join(" ");
    let mut ranks: Vec<String> = plan.ranks.iter().map(|one| rank(&one.writes)).collect();
    ranks.push(plan.marker.iter().map(|_| format!("marker {}", plan.revision)).collect());
    ranks.push(rank(&plan.afterwards));
    ranks.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" > ")
}

#[test]
fn what_is_referred_to_comes_first_and_the_marker_closes() {
    let mut fake = Fake::default();
    fake.computed.address_groups.insert("c-1-0".to_owned(), members("c-1", &["10.0.0.1"]));
    fake.computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec::default());
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    fake.computed.node_policies.insert("node1".to_owned(), NodePolicySpec::default());
    assert_eq!(fake.publish(), "+c-1-0 > +p-1 > +marker > +shop-1 > +node1 > marker 0.1");
    assert_eq!(fake.publish(), "", "what is as it should be is not written");
}

#[test]
fn membership_alone_moves_no_marker() {
    let mut fake = Fake::default();
    fake.computed.address_groups.insert("c-1-0".to_owned(), members("c-1", &["10.0.0.1"]));
    assert_eq!(fake.publish(), "+c-1-0 > marker 0.1", "the first publication has a marker");
    fake.computed.address_groups.insert("c-1-0".to_owned(), members("c-1", &["10.0.0.1", "10.0.0.2"]));
    assert_eq!(fake.publish(), "~c-1-0");
    fake.computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec::default());
    assert_eq!(fake.publish(), "+p-1 > +marker > marker 0.3");
}

#[test]
fn rules_that_are_gone_are_gone_before_the_marker_and_groups_after_it() {
    let mut fake = Fake::default();
    fake.computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec::default());
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    fake.publish();
    fake.computed = Computed::default();
    assert_eq!(fake.publish(), "-shop-1 > marker 0.2 > -p-1");
}

#[test]
fn only_the_content_counts_and_not_where_it_came_from() {
    let mut fake = Fake::default();
    let spec = |commit: &str| WorkloadPolicySpec { commit: Some(commit.to_owned()), ..rules("shop", "everything") };
    fake.computed.workload_policies.insert("shop-1".to_owned(), spec("aaaa"));
    fake.publish();
    fake.computed.workload_policies.insert("shop-1".to_owned(), spec("bbbb"));
    assert_eq!(fake.publish(), "");
}

#[test]
fn what_somebody_deleted_or_edited_comes_back() {
    let mut fake = Fake::default();
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    fake.publish();
    fake.world.workload_policies.get_mut(&cluster_wide("shop-1")).expect("published").spec.scope = "edited".to_owned();
    assert_eq!(fake.publish(), "~shop-1 > marker 0.2");
    fake.world.workload_policies.remove(&cluster_wide("shop-1"));
    assert_eq!(fake.publish(), "+shop-1 > marker 0.3");
    fake.world.workload_policies.remove(&cluster_wide(names::MARKER));
    assert_eq!(fake.publish(), "marker 0.4");
}

#[test]
fn a_group_that_agents_would_not_find_is_published_again() {
    let mut fake = Fake::default();
    fake.computed.address_groups.insert("c-1-0".to_owned(), members("c-1", &["10.0.0.1"]));
    fake.computed.peer_groups.insert("p-1".to_owned(), PeerGroupSpec::default());
    fake.publish();
    let bucket = |labels: &Option<std::collections::BTreeMap<String, String>>| {
        labels.as_ref().and_then(|labels| labels.get(names::LABEL_BUCKET)).cloned()
    };
    let of = |fake: &Fake| {
        let group = &fake.world.address_groups[&cluster_wide("c-1-0")].metadata.labels;
        (bucket(group), bucket(&fake.world.peer_groups[&cluster_wide("p-1")].metadata.labels))
    };
    let both = (Some(names::bucket("c-1").to_string()), Some(names::bucket("p-1").to_string()));
    assert_eq!(of(&fake), both);
    // An older controller wrote no labels or others, or somebody took them away.
    let group = fake.world.address_groups.get_mut(&cluster_wide("c-1-0")).expect("it is there");
    group.metadata.labels = None;
    let other = [(names::LABEL_BUCKET.to_owned(), "no bucket".to_owned())].into();
    fake.world.peer_groups.get_mut(&cluster_wide("p-1")).expect("it is there").metadata.labels = Some(other);
    assert_eq!(fake.publish(), "~c-1-0 > ~p-1 > ~marker > marker 0.2");
    assert_eq!(of(&fake), both);
    assert_eq!(fake.publish(), "");
}

#[test]
fn an_interrupted_publication_ends_with_its_marker_later() {
    let mut fake = Fake::default();
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    let plan = fake.plan();
    for write in plan.ranks.iter().flat_map(|rank| &rank.writes) {
        fake.apply(write);
    }
    assert_eq!(fake.publish(), "marker 0.2", "the marker could not be written");
    // A deletion leaves nothing behind to tell that a marker is owed: it is remembered.
    fake.computed = Computed::default();
    let plan = fake.plan();
    for write in plan.ranks.iter().flat_map(|rank| &rank.writes) {
        fake.apply(write);
    }
    assert_eq!(fake.publish(), "marker 0.4");
}

#[test]
fn a_profile_is_policy_once_it_is_managed() {
    let mut fake = Fake::default();
    fake.publish();
    fake.profile("shop", false, None);
    assert_eq!(fake.publish(), "", "an unmanaged namespace concerns no agent");
    fake.profile("shop", true, Some(PolicyState::Full));
    assert_eq!(fake.publish(), "=shop > marker 0.2");
    assert_eq!(fake.memory.since.profile("shop"), Some(number(2)));
    fake.profile("shop", false, None);
    assert_eq!(fake.publish(), "=shop > marker 0.3", "until all agents have taken their rules away");
    fake.profile("shop", true, Some(PolicyState::Full));
    fake.publish();
    fake.world.profiles.clear();
    assert_eq!(fake.publish(), "marker 0.5");
}

#[test]
fn since_tells_the_last_change_of_each_rule_set() {
    let mut fake = Fake::default();
    for (name, policy) in [("shop", "shop-1"), ("bank", "bank-1")] {
        fake.rule_set(name);
        fake.computed.workload_policies.insert(policy.to_owned(), rules(name, "everything"));
    }
    fake.publish();
    fake.computed.workload_policies.insert("shop-2".to_owned(), rules("shop", "env in (dev)"));
    fake.publish();
    assert_eq!((fake.memory.since.rule_set("shop"), fake.memory.since.rule_set("bank")), (number(2), number(1)));
    fake.computed.workload_policies.remove("bank-1");
    fake.publish();
    assert_eq!(fake.memory.since.rule_set("bank"), number(3), "a rule that is gone is a change as well");
}

#[test]
fn after_a_restart_only_what_was_ready_is() {
    let mut fake = Fake::default();
    for (name, policy) in [("shop", "shop-1"), ("bank", "bank-1")] {
        fake.rule_set(name);
        fake.computed.workload_policies.insert(policy.to_owned(), rules(name, "everything"));
    }
    fake.publish();
    let shop = fake.world.rule_sets.get_mut(&cluster_wide("shop")).expect("a RuleSet of the test");
    let conditions = crate::status::Ready::yes("InForce", "").conditions(&[], None, &Time(Timestamp::UNIX_EPOCH));
    shop.status = Some(RuleSetStatus { conditions, ..RuleSetStatus::default() });
    // A rule is revoked, and the controller dies before it has written the marker.
    fake.computed.workload_policies.remove("bank-1");
    let plan = fake.plan();
    for write in plan.ranks.iter().flat_map(|rank| &rank.writes) {
        fake.apply(write);
    }
    let since = Since::recover(&fake.world);
    assert_eq!((since.rule_set("shop"), since.rule_set("bank")), (number(1), number(2)));
    fake.memory = Memory { since, ..Memory::default() };
    fake.last = Revision::default();
    assert_eq!(fake.publish(), "marker 0.2", "which is what nodes are to acknowledge");
    assert_eq!(fake.publish(), "");
}

#[test]
fn a_publication_carries_the_commit_that_made_it_necessary() {
    let mut fake = Fake::default();
    fake.computed.workload_policies.insert(
        "shop-1".to_owned(),
        WorkloadPolicySpec { commit: Some("aaaa".to_owned()), ..rules("shop", "everything") },
    );
    fake.publish();
    let commit = |fake: &Fake, name: &str| fake.world.workload_policies[&cluster_wide(name)].spec.commit.clone();
    assert_eq!(commit(&fake, names::MARKER).as_deref(), Some("aaaa"), "nothing else is known: that of the rules");
    // An IPList that the rules use changes in commit bbbb.
    fake.world.commit = Some("bbbb".to_owned());
    fake.computed.workload_policies.get_mut("shop-1").expect("inserted above").scope = "other".to_owned();
    fake.publish();
    assert_eq!(commit(&fake, "shop-1").as_deref(), Some("bbbb"));
    assert_eq!(commit(&fake, names::MARKER).as_deref(), Some("bbbb"));
    // And commit cccc deletes the RuleSet.
    fake.world.commit = Some("cccc".to_owned());
    fake.computed.workload_policies.clear();
    fake.publish();
    assert_eq!(commit(&fake, names::MARKER).as_deref(), Some("cccc"));
}

#[test]
fn revisions_go_on_after_a_restart_and_an_epoch_never_goes_back() {
    let mut fake = Fake::default();
    fake.computed.workload_policies.insert("shop-1".to_owned(), rules("shop", "everything"));
    fake.publish();
    fake.last = Revision::default();
    fake.memory.newest = Newest::default();
    assert_eq!(fake.plan().revision, number(2));
    let epoch = |epoch: i64| ContainerClusterSpec { policy_epoch: Some(epoch), ..ContainerClusterSpec::default() };
    fake.world.clusters.insert(cluster_wide("this"), ContainerCluster::new("this", epoch(3)));
    assert_eq!(fake.publish(), "~shop-1 > marker 3.2", "in a new epoch everything is published anew");
    assert_eq!(fake.publish(), "");
    fake.world.clusters.insert(cluster_wide("this"), ContainerCluster::new("this", epoch(1)));
    assert_eq!(fake.publish(), "");
}
