//! Walks of random changes, each step of which is compared.

use std::collections::BTreeMap;
use std::fmt::Debug;

use ringfence_compile::cluster::ClusterState;
use ringfence_compile::compile::{Changes, Compiler, Computed, Dirty};
use ringfence_compile::evaluate::Evaluator;
use ringfence_compile::policy::Policy;
use ringfence_oracle::{Answer, World};

use crate::compare;
use crate::convert;
use crate::extras::Extras;
use crate::random::Random;

/// Connections looked at after each step.
const SAMPLES: usize = 4;
/// Changes before the first look, so that there is something to see.
const WARM_UP: usize = 40;

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Changes made.
    pub steps: usize,
    /// Ends of connections that were judged twice, by what was decided there.
    pub decisions: BTreeMap<String, usize>,
}

impl Tally {
    /// Adds another walk's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        for (decision, count) in &other.decisions {
            *self.decisions.entry(decision.clone()).or_default() += count;
        }
    }

    /// In one line, what was met how often.
    pub fn text(&self) -> String {
        let met = self.decisions.iter().map(|(decision, count)| format!("{decision} {count}"));
        format!("{} transitions; decisions: {}", self.steps, met.collect::<Vec<_>>().join(", "))
    }

    fn note(&mut self, answer: &Answer) {
        for (end, side) in [("out", &answer.source), ("in", &answer.destination)] {
            *self.decisions.entry(format!("{end}:{:?}", side.decision)).or_default() += 1;
        }
    }
}

/// A compiler that follows a world, one update for each step.
struct Follower {
    policy: Policy,
    cluster: ClusterState,
    compiler: Compiler,
}

impl Follower {
    fn of(world: &World) -> Self {
        let (policy, cluster) = convert::inputs(world);
        let compiler = Compiler::new(&policy, &cluster);
        Self { policy, cluster, compiler }
    }

    /// Follows the world's last changes, and holds what came out against a compiler made anew.
    fn follow(&mut self, world: &World) -> Result<(), String> {
        let (policy, cluster) = convert::inputs(world);
        self.follow_to(policy, cluster)
    }

    fn follow_to(&mut self, policy: Policy, cluster: ClusterState) -> Result<(), String> {
        let dirty = Dirty::between((&self.policy, &self.cluster), (&policy, &cluster));
        let before = self.compiler.computed().clone();
        let changes = self.compiler.update(&policy, &cluster, dirty);
        (self.policy, self.cluster) = (policy, cluster);
        let anew = Compiler::new(&self.policy, &self.cluster);
        same(self.compiler.computed(), anew.computed())?;
        let truly = Changes::between(&before, anew.computed());
        let mut told = changes.clone();
        told.others = true;
        if told != truly {
            return Err(format!("said to have changed: {changes:?}\nchanged: {truly:?}"));
        }
        Ok(())
    }
}

fn same(followed: &Computed, anew: &Computed) -> Result<(), String> {
    if followed == anew {
        return Ok(());
    }
    macro_rules! differing {
        ($($field:ident),*) => {$(
            if followed.$field != anew.$field {
                let what = stringify!($field);
                return Err(format!("{what}: {}", first_difference(&followed.$field, &anew.$field)));
            }
        )*};
    }
    if followed.cluster_warnings != anew.cluster_warnings {
        return Err(format!("followed: {:#?}\nanew: {:#?}", followed.cluster_warnings, anew.cluster_warnings));
    }
    differing!(
        node_policies,
        workload_policies,
        peer_groups,
        address_groups,
        warnings,
        service_warnings,
        hidden_sources,
        virtual_services,
        workloads,
        container_workloads
    );
    Err("a field that is not compared".to_owned())
}

fn first_difference<K: Ord + Debug, V: PartialEq + Debug>(followed: &BTreeMap<K, V>, anew: &BTreeMap<K, V>) -> String {
    let keys = followed.keys().chain(anew.keys());
    let differing = keys.filter(|key| followed.get(key) != anew.get(key)).min();
    differing.map_or_else(String::new, |key| {
        format!("{key:?} followed: {:#?}\nmade anew: {:#?}", followed.get(key), anew.get(key))
    })
}

/// Walks `steps` changes from an empty world.
///
/// # Errors
/// The seed, the step, and what differs after it.
pub fn walk(seed: u64, steps: usize) -> Result<Tally, String> {
    let mut random = Random::new(seed);
    let mut world = World::default();
    for _ in 0..WARM_UP {
        random.change(&mut world);
    }
    let mut follower = Follower::of(&world);
    let mut tally = Tally::default();
    for step in 0..steps {
        // Mostly one change, and now and then several at once.
        for _ in 0..=random.below(8) / 6 * 3 {
            random.change(&mut world);
        }
        tally.steps += 1;
        let looked = follower.follow(&world).and_then(|()| look(&world, &follower, &mut random, &mut tally));
        looked.map_err(|text| format!("seed {seed}, step {step}: {text}\nin the world\n{world:#?}"))?;
    }
    Ok(tally)
}

fn look(world: &World, follower: &Follower, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
    let evaluator = Evaluator::new(&follower.compiler, &follower.policy, &follower.cluster);
    for _ in 0..SAMPLES {
        let connection = compare::sample(world, random);
        compare::compare(world, &evaluator, &connection)?.iter().for_each(|answer| tally.note(answer));
    }
    Ok(())
}

/// Walks with inputs on top that the oracle does not speak of: the compiler that follows is compared with one made anew,
/// and nothing is judged.
///
/// # Errors
/// The seed, the step, and what differs after it.
pub fn walk_with_extras(seed: u64, steps: usize) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (mut world, mut extras) = (World::default(), Extras::default());
    for _ in 0..WARM_UP {
        random.change(&mut world);
        extras.change(&mut random);
    }
    let mut follower = Follower::of(&World::default());
    for step in 0..steps {
        if random.chance(50) {
            random.change(&mut world);
        } else {
            extras.change(&mut random);
        }
        let (mut policy, mut cluster) = convert::inputs(&world);
        extras.put_on(&mut policy, &mut cluster);
        let followed = follower.follow_to(policy, cluster);
        followed
            .map_err(|text| format!("seed {seed}, step {step}: {text}\nwith {extras:#?}\nin the world\n{world:#?}"))?;
    }
    Ok(())
}
