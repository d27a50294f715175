//! Bytes as a series of changes to a small world.

use ringfence_compile::compile::Dirty;
use ringfence_oracle::World;

use crate::compare;
use crate::convert;
use crate::extras::Extras;
use crate::follow::Follower;
use crate::random::Random;
use crate::states::event;

/// Changes in one series: enough for a class to be born, grow and die.
const CHANGES: usize = 48;
/// Connections looked at after each update.
const SAMPLES: usize = 2;

/// Changes a small world, and holds the compiler that follows against one made anew, and the evaluator against the oracle.
///
/// # Panics
/// When they differ.
pub fn compiler(bytes: &[u8]) {
    let mut random = Random::of_bytes(bytes);
    let (mut world, mut extras) = (World::default(), Extras::default());
    let mut follower = Follower::of(&world);
    // What the oracle does not speak of is in every second series.
    let with_extras = random.chance(50);
    let mut changes = 0;
    while changes < CHANGES && !random.is_spent() {
        for _ in 0..=random.below(8) / 6 * 3 {
            changes += 1;
            if with_extras && random.chance(40) {
                extras.change(&mut random);
            } else {
                random.change(&mut world);
            }
        }
        let (mut policy, mut cluster) = convert::inputs(&world);
        extras.put_on(&mut policy, &mut cluster);
        let mut dirty = Dirty::between(follower.inputs(), (&policy, &cluster));
        match random.below(8) {
            0 => dirty.mark_everything(),
            1 => dirty.merge(event::all_marks(&(policy.clone(), cluster.clone()))),
            _ => {}
        }
        let followed = follower.update(policy, cluster, dirty).map(|_| ());
        let looked = followed.and_then(|()| if with_extras { Ok(()) } else { look(&world, &follower, &mut random) });
        looked.unwrap_or_else(|text| panic!("change {changes}: {text}\nwith {extras:#?}\nin the world\n{world:#?}"));
    }
}

fn look(world: &World, follower: &Follower, random: &mut Random<'_>) -> Result<(), String> {
    let evaluator = follower.evaluator();
    (0..SAMPLES).try_for_each(|_| {
        let connection = compare::sample(world, random);
        compare::compare(world, &evaluator, &connection).map(|_| ())
    })
}
