//! A plan that looks at what is marked is the plan that looks at everything.

use std::collections::BTreeMap;

use kube::Resource;
use ringfence_compile::cluster::NodeInfo;
use ringfence_compile::compile::Changes;
use ringfence_crds::node_policy::NodePolicyStatus;

use super::super::super::Refused;
use super::*;
use crate::engine::input::Input;
use crate::kubelink::watch::Change;

/// How many changes a walk makes.
const STEPS: usize = 1500;

/// Numbers that look random and come again with the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// A cluster whose watches tell of every change, also of what we write.
struct Walk {
    random: Random,
    fake: Fake,
    version: u64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        Self { random: Random(seed), fake: Fake::default(), version: 0 }
    }

    fn versioned<K: Resource>(&mut self, mut object: K) -> K {
        self.version += 1;
        object.meta_mut().resource_version = Some(self.version.to_string());
        object
    }

    fn addresses(&mut self) -> Vec<String> {
        (0..6).filter(|_| self.random.one_in(2)).map(|number| format!("10.0.0.{number}")).collect()
    }

    fn group(&mut self, number: u64) -> AddressGroupSpec {
        let addresses = self.addresses();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let slice = i32::try_from(number % 2).expect("few");
        let slices = (slice == 0).then(|| i32::try_from(self.random.below(2)).expect("few") + 1);
        AddressGroupSpec { slice, slices, ..members(&format!("c-{}", number / 2), &addresses) }
    }

    /// The compiler comes to something else.
    fn compute(&mut self) {
        let before = self.fake.computed.clone();
        let number = self.random.below(6);
        let gone = self.random.one_in(3);
        macro_rules! change {
            ($index:ident, $name:expr, $spec:expr) => {
                if gone {
                    self.fake.computed.$index.remove(&$name);
                } else {
                    let spec = $spec;
                    self.fake.computed.$index.insert($name, spec);
                }
            };
        }
        match self.random.below(4) {
            0 => change!(workload_policies, format!("shop{number}-1"), {
                let scope = format!("scope {}", self.random.below(3));
                rules(&format!("shop{number}"), &scope)
            }),
            1 => change!(peer_groups, format!("p-{number}"), {
                let classes = (0..3).filter(|_| self.random.one_in(2)).map(|class| format!("c-{class}")).collect();
                PeerGroupSpec { classes, ..PeerGroupSpec::default() }
            }),
            2 => change!(node_policies, format!("node{number}"), {
                let pod_network = format!("uid/{}", self.random.below(3));
                NodePolicySpec { pod_network, ..NodePolicySpec::default() }
            }),
            _ => change!(address_groups, format!("c-{}-{}", number / 2, number % 2), self.group(number)),
        }
        let changes = Changes::between(&before, &self.fake.computed);
        self.fake.world.look.add_computed(changes);
    }

    /// Somebody edits or deletes what we have published.
    fn meddle(&mut self) {
        macro_rules! meddle {
            ($index:ident, $input:ident, $edit:expr) => {{
                let keys: Vec<_> = self.fake.world.$index.keys().cloned().collect();
                let Some(key) = keys.get(usize::try_from(self.random.below(6)).expect("few")).cloned() else { return };
                let change = if self.random.one_in(2) {
                    Change::Deleted(key)
                } else {
                    let mut object = self.fake.world.$index[&key].clone();
                    $edit(&mut object.spec);
                    let object = self.versioned(object);
                    Change::Applied(key, object)
                };
                self.fake.world.take(Input::$input(change));
            }};
        }
        match self.random.below(4) {
            0 => meddle!(workload_policies, WorkloadPolicy, |spec: &mut WorkloadPolicySpec| {
                spec.scope = "edited".to_owned();
                spec.revision.number += 3;
            }),
            1 => meddle!(peer_groups, PeerGroup, |spec: &mut PeerGroupSpec| spec.selector = "edited".to_owned()),
            2 => meddle!(node_policies, NodePolicy, |spec: &mut NodePolicySpec| spec.pod_network = "edited".to_owned()),
            _ => meddle!(address_groups, AddressGroup, |spec: &mut AddressGroupSpec| spec.members.clear()),
        }
    }

    /// Somebody changes a profile, a RuleSet or, now and then, the epoch; or a list is read anew.
    fn write_policy(&mut self) {
        let key = cluster_wide(format!("shop{}", self.random.below(4)));
        let input = match self.random.below(10) {
            0 | 1 => Input::Profile(Change::Deleted(key)),
            2..6 => {
                let managed = self.random.one_in(2);
                let spec = ContainerWorkloadProfileSpec {
                    managed,
                    policy_state: managed.then_some(PolicyState::Full),
                    ..ContainerWorkloadProfileSpec::default()
                };
                let known = self.fake.world.profiles.get(&key).cloned();
                let mut profile = known.unwrap_or_else(|| ContainerWorkloadProfile::new(&key.name, spec.clone()));
                profile.spec = spec;
                Input::Profile(Change::Applied(key, self.versioned(profile)))
            }
            6 => Input::RuleSet(Change::Deleted(key)),
            7 | 8 => {
                let spec = RuleSetSpec { enabled: true, ..RuleSetSpec::default() };
                let rule_set = self.versioned(RuleSet::new(&key.name, spec));
                Input::RuleSet(Change::Applied(key, rule_set))
            }
            _ if self.random.one_in(20) => {
                let epoch = i64::try_from(self.version / 1000).expect("few");
                let spec = ContainerClusterSpec { policy_epoch: Some(epoch), ..ContainerClusterSpec::default() };
                let cluster = self.versioned(ContainerCluster::new("this", spec));
                Input::Cluster(Change::Applied(cluster_wide("this"), cluster))
            }
            _ => {
                let mut all: BTreeMap<_, _> = self.fake.world.peer_groups.clone();
                all.pop_first();
                Input::PeerGroup(Change::Listed(all))
            }
        };
        self.fake.world.take(input);
    }

    /// A node becomes Ready or not, or its agent acknowledges what is published.
    fn report(&mut self) {
        let key = cluster_wide(format!("node{}", self.random.below(6)));
        if self.random.one_in(3) {
            let info = NodeInfo { ready: self.random.one_in(2), ..NodeInfo::default() };
            self.fake.world.take(Input::Node(Change::Applied(key, info)));
            return;
        }
        let Some(mut policy) = self.fake.world.node_policies.get(&key).cloned() else { return };
        let acknowledged = Some(marker_revision(&self.fake.world));
        policy.status = Some(NodePolicyStatus { acknowledged, ..NodePolicyStatus::default() });
        let policy = self.versioned(policy);
        self.fake.world.take(Input::NodePolicy(Change::Applied(key, policy)));
    }

    /// Plans as the engine does, and asserts that looking at everything would not have found more.
    fn plan(&mut self) -> (Plan, Look) {
        let Fake { world, computed, memory, last } = &mut self.fake;
        let now = Time(Timestamp::UNIX_EPOCH);
        let mut whole = memory.clone();
        let expected = plan(world, computed, &mut whole, &mut Look::Everything, *last, &now);
        let mut look = std::mem::replace(&mut world.look, Look::nowhere());
        let found = plan(world, computed, memory, &mut look, *last, &now);
        assert_eq!(found, expected, "{look:?}");
        assert_eq!((&memory.since, memory.newest), (&whole.since, whole.newest), "{look:?}");
        if !found.is_empty() {
            *last = found.revision;
        }
        (found, look)
    }

    /// Carries a plan out, in which some writes fail and some are refused.
    fn carry_out(&mut self, plan: Plan, look: Look, failures: u64) {
        let mut failed: Vec<Target> = Vec::new();
        let mut refused = false;
        for rank in plan.ranks {
            if refused || rank.after.iter().any(|target| failed.contains(target)) {
                continue;
            }
            for write in rank.writes {
                if failures > 0 && self.random.one_in(failures) {
                    failed.push(write.target);
                    if self.random.one_in(10) && Refused::may_leave_out(&write) {
                        self.fake.memory.refused.note(&write, "no");
                        refused = true;
                    }
                } else {
                    self.write(&write);
                }
            }
        }
        let complete = failed.is_empty();
        for write in plan.marker.iter().chain(&plan.afterwards).filter(|_| complete) {
            self.write(write);
        }
        if !complete || plan.unfinished {
            self.fake.world.look.merge(look);
        }
    }

    fn write(&mut self, write: &Write) {
        macro_rules! told {
            ($index:ident, $input:ident) => {{
                let mut fake = Fake::default();
                fake.world.$index.clone_from(&self.fake.world.$index);
                fake.apply(write);
                let change = match fake.world.$index.remove(&write.key) {
                    Some(object) => Change::Applied(write.key.clone(), self.versioned(object)),
                    None => Change::Deleted(write.key.clone()),
                };
                self.fake.world.take(Input::$input(change));
            }};
        }
        match write.target {
            Target::NodePolicy => told!(node_policies, NodePolicy),
            Target::WorkloadPolicy => told!(workload_policies, WorkloadPolicy),
            Target::PeerGroup => told!(peer_groups, PeerGroup),
            Target::AddressGroup => told!(address_groups, AddressGroup),
            Target::ContainerWorkloadProfile => told!(profiles, Profile),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn random_changes_and_failures() {
    let mut planned = 0;
    for seed in 1..=8 {
        let mut walk = Walk::new(seed);
        for _ in 0..STEPS {
            for _ in 0..=walk.random.below(3) {
                match walk.random.below(10) {
                    0 | 1 => walk.meddle(),
                    8 | 9 => walk.report(),
                    2 | 3 => walk.write_policy(),
                    _ => walk.compute(),
                }
            }
            let (plan, look) = walk.plan();
            planned += plan.len();
            walk.carry_out(plan, look, 6);
        }
        // Once nothing fails any more, all is soon as it should be, and stays so.
        walk.fake.memory.refused = Refused::default();
        walk.fake.world.look = Look::Everything;
        for _ in 0..4 {
            let (plan, look) = walk.plan();
            walk.carry_out(plan, look, 0);
        }
        walk.fake.world.look = Look::Everything;
        assert!(walk.plan().0.is_empty(), "seed {seed}");
    }
    assert!(planned > 10_000, "{planned} writes show little");
}

#[test]
fn what_is_not_marked_is_not_looked_at() {
    let mut fake = Fake::default();
    for name in ["c-1-0", "c-2-0"] {
        fake.computed.address_groups.insert(name.to_owned(), members(&name[..3], &["10.0.0.1"]));
    }
    fake.publish();
    for group in fake.computed.address_groups.values_mut() {
        group.members.push(members("", &["10.0.0.2"]).members.remove(0));
    }
    let mut look = Look::nowhere();
    look.add(Some(&cluster_wide("c-2-0")), |names| &mut names.address_groups);
    let now = Time(Timestamp::UNIX_EPOCH);
    let found = plan(&fake.world, &fake.computed, &mut fake.memory.clone(), &mut look, fake.last, &now);
    assert_eq!(text(&found), "~c-2-0");
    let nothing = plan(&fake.world, &fake.computed, &mut fake.memory, &mut Look::nowhere(), fake.last, &now);
    assert!(nothing.is_empty(), "{nothing:?}");
}
