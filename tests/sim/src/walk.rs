//! Walks of random changes, each step of which is compared.

use std::collections::BTreeMap;

use ringfence_oracle::{Answer, World};

use crate::compare;
use crate::convert;
use crate::extras::Extras;
use crate::follow::Follower;
use crate::random::Random;
use crate::rendered::{self, Traced};

/// Connections looked at after each step.
const SAMPLES: usize = 4;
/// Rules are rendered and traced after every so many steps.
const TRACE_EVERY: usize = 10;
/// Changes before the first look, so that there is something to see.
const WARM_UP: usize = 40;

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Changes made.
    pub steps: usize,
    /// Ends of connections that were judged twice, by what was decided there.
    pub decisions: BTreeMap<String, usize>,
    /// Packets that were traced through rendered rules.
    pub traced: Traced,
}

impl Tally {
    /// Adds another walk's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        for (decision, count) in &other.decisions {
            *self.decisions.entry(decision.clone()).or_default() += count;
        }
        self.traced.add(&other.traced);
    }

    /// In one line, what was met how often.
    pub fn text(&self) -> String {
        let met = self.decisions.iter().map(|(decision, count)| format!("{decision} {count}"));
        let met = met.collect::<Vec<_>>().join(", ");
        format!("{} transitions; decisions: {met}; {}", self.steps, self.traced.text())
    }

    fn note(&mut self, answer: &Answer) {
        for (end, side) in [("out", &answer.source), ("in", &answer.destination)] {
            *self.decisions.entry(format!("{end}:{:?}", side.decision)).or_default() += 1;
        }
    }
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
    let mut packets = Random::new(!seed);
    for step in 0..steps {
        // Mostly one change, and now and then several at once.
        for _ in 0..=random.below(8) / 6 * 3 {
            random.change(&mut world);
        }
        tally.steps += 1;
        let looked = follower.follow(&world).and_then(|_| {
            look(&world, &follower, &mut random, &mut tally)?;
            match step % TRACE_EVERY {
                0 => rendered::look(&world, follower.inputs().0, follower.computed(), &mut packets, &mut tally.traced),
                _ => Ok(()),
            }
        });
        looked.map_err(|text| format!("seed {seed}, step {step}: {text}\nin the world\n{world:#?}"))?;
    }
    Ok(tally)
}

fn look(world: &World, follower: &Follower, random: &mut Random<'_>, tally: &mut Tally) -> Result<(), String> {
    let evaluator = follower.evaluator();
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
