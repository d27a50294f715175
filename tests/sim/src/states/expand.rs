//! Expanders: many ways through the same states. What comes out must be the same on each.
//!
//! The idea is that of the tests of Felix's calculation graph: sequences of named states, written once and expanded.

use fastrand::Rng;
use ringfence_compile::compile::Dirty;

use super::event::{self, Event, Inputs};
use super::hold::holds;
use super::state::State;
use crate::convert;
use crate::follow::Follower;

/// Up to so many events are put into all orders; of more, some orders are tried.
const ALL_ORDERS: usize = 5;
/// How many orders are tried of more events than that.
const SOME_ORDERS: u64 = 3;

/// States, one after the other.
pub type Sequence = Vec<State>;

/// Somewhere on the way, for messages.
struct Way<'a> {
    expander: &'a str,
    follower: Follower,
    inputs: Inputs,
    steps: usize,
}

impl<'a> Way<'a> {
    /// A way from nothing.
    fn new(expander: &'a str) -> Self {
        let nothing = State::new("nothing");
        let follower = Follower::of(&nothing.world);
        Self { expander, follower, inputs: convert::inputs(&nothing.world), steps: 0 }
    }

    /// Makes changes, and updates once with these marks.
    fn update(&mut self, to: &State, changes: &[&Event], dirty: Dirty) -> Result<usize, String> {
        changes.iter().for_each(|event| event.apply(&mut self.inputs));
        // Not a thing of its own for the compiler.
        self.inputs.1.namespaces = convert::inputs(&to.world).1.namespaces;
        self.steps += 1;
        let updated = self.follower.update(self.inputs.0.clone(), self.inputs.1.clone(), dirty);
        let changes: Vec<String> = changes.iter().map(|event| event.text()).collect();
        let place = |text| self.place(to, &format!("after [{}]: {text}", changes.join(", ")));
        updated.map(|changes| changes.written()).map_err(place)
    }

    /// Makes changes one by one, each in an update of its own.
    fn one_by_one(&mut self, to: &State, changes: &[&Event]) -> Result<(), String> {
        for change in changes {
            self.together(to, &[change])?;
        }
        Ok(())
    }

    /// Makes changes in one update.
    fn together(&mut self, to: &State, changes: &[&Event]) -> Result<(), String> {
        let mut dirty = Dirty::default();
        changes.iter().for_each(|event| event.mark(&mut dirty));
        self.update(to, changes, dirty).map(|_| ())
    }

    /// What has to be done to get to a state.
    fn events_to(&self, to: &State) -> Vec<Event> {
        event::between(&self.inputs, &convert::inputs(&to.world))
    }

    /// Gets to a state in one update.
    fn go(&mut self, to: &State) -> Result<(), String> {
        let events = self.events_to(to);
        self.together(to, &events.iter().collect::<Vec<_>>())?;
        self.arrive(to)
    }

    /// Checks that a state is reached.
    fn arrive(&self, at: &State) -> Result<(), String> {
        holds(at, &self.follower).map_err(|text| self.place(at, &text))
    }

    fn place(&self, to: &State, text: &str) -> String {
        format!("expander {}, step {}, state '{}': {text}", self.expander, self.steps, to.name)
    }
}

/// The states as they are written.
///
/// # Errors
/// Expander, step and state, and what is not as it must be; so with all expanders.
pub fn forward(sequence: &[State]) -> Result<usize, String> {
    let mut way = Way::new("forward");
    for state in sequence {
        way.go(state)?;
    }
    Ok(way.steps)
}

/// From the last one to the first.
///
/// # Errors
/// See [`forward`].
pub fn reverse(sequence: &[State]) -> Result<usize, String> {
    let mut way = Way::new("reverse");
    for state in sequence.iter().rev() {
        way.go(state)?;
    }
    Ok(way.steps)
}

/// From each to the next by one event at a time, in several orders.
///
/// # Errors
/// See [`forward`].
pub fn split(sequence: &[State]) -> Result<usize, String> {
    let mut start = Way::new("split");
    let mut steps = 0;
    for state in sequence {
        let events = start.events_to(state);
        for order in orders(&events) {
            let mut way = Way { follower: start.follower.clone(), inputs: start.inputs.clone(), ..Way::new("split") };
            way.steps = start.steps;
            way.one_by_one(state, &order)?;
            way.arrive(state)?;
            steps += order.len();
        }
        start.together(state, &events.iter().collect::<Vec<_>>())?;
    }
    Ok(steps)
}

/// Several steps in one update: every two, every three, and all.
///
/// # Errors
/// See [`forward`].
pub fn squash(sequence: &[State]) -> Result<usize, String> {
    let mut steps = 0;
    for count in [2, 3, sequence.len().max(1)] {
        let mut way = Way::new("squash");
        for chunk in sequence.chunks(count) {
            let mut dirty = Dirty::default();
            let mut changes = Vec::new();
            let mut at = way.inputs.clone();
            for state in chunk {
                let to = convert::inputs(&state.world);
                let events = event::between(&at, &to);
                events.iter().for_each(|event| event.mark(&mut dirty));
                changes.extend(events);
                at = to;
            }
            let Some(last) = chunk.last() else { continue };
            way.update(last, &changes.iter().collect::<Vec<_>>(), dirty)?;
            way.arrive(last)?;
        }
        steps += way.steps;
    }
    Ok(steps)
}

/// Every mark twice, and everything marked that did not change.
///
/// # Errors
/// See [`forward`].
pub fn duplicate(sequence: &[State]) -> Result<usize, String> {
    let mut way = Way::new("duplicate");
    for state in sequence {
        for event in way.events_to(state) {
            way.together(state, &[&event])?;
            let mut again = Dirty::default();
            event.mark(&mut again);
            quiet(&mut way, state, again)?;
        }
        let all = event::all_marks(&way.inputs);
        quiet(&mut way, state, all)?;
        way.arrive(state)?;
    }
    Ok(way.steps)
}

/// Marks without a change behind them write nothing.
fn quiet(way: &mut Way<'_>, at: &State, dirty: Dirty) -> Result<(), String> {
    match way.update(at, &[], dirty)? {
        0 => Ok(()),
        count => Err(way.place(at, &format!("{count} objects changed by marks alone"))),
    }
}

/// Nothing between any two.
///
/// # Errors
/// See [`forward`].
pub fn empty(sequence: &[State]) -> Result<usize, String> {
    let mut way = Way::new("empty");
    let nothing = State::new("nothing");
    for state in sequence {
        way.go(state)?;
        way.go(&nothing)?;
    }
    Ok(way.steps)
}

/// Each state is built from nothing and taken down again, one event at a time, in every order that there is if there are few.
///
/// # Errors
/// See [`forward`].
pub fn teardown(sequence: &[State]) -> Result<usize, String> {
    let nothing = State::new("nothing");
    let mut steps = 0;
    for state in sequence {
        let mut way = Way::new("teardown");
        let build = way.events_to(state);
        let mut built = Way::new("teardown");
        built.go(state)?;
        let take = built.events_to(&nothing);
        // The way goes on and on, so that what one order leaves behind would be found in the next.
        for (up, down) in orders(&build).into_iter().zip(orders(&take)) {
            way.one_by_one(state, &up)?;
            way.arrive(state)?;
            way.one_by_one(&nothing, &down)?;
            way.arrive(&nothing)?;
        }
        steps += way.steps;
    }
    Ok(steps)
}

/// Events were lost: everything is marked, or what differs.
///
/// # Errors
/// See [`forward`].
pub fn gap(sequence: &[State]) -> Result<usize, String> {
    let mut way = Way::new("gap");
    for (number, state) in sequence.iter().chain(sequence.iter().rev()).enumerate() {
        let to = convert::inputs(&state.world);
        let between = Dirty::between((&way.inputs.0, &way.inputs.1), (&to.0, &to.1));
        let dirty = if number % 2 == 0 { between } else { Dirty::everything() };
        let events = way.events_to(state);
        way.update(state, &events.iter().collect::<Vec<_>>(), dirty)?;
        way.arrive(state)?;
    }
    Ok(way.steps)
}

/// Orders of events: all if there are few, else there, back, and some that are shuffled.
fn orders(events: &[Event]) -> Vec<Vec<&Event>> {
    let there: Vec<&Event> = events.iter().collect();
    if events.len() <= ALL_ORDERS {
        return permutations(&there);
    }
    let back = there.iter().rev().copied().collect();
    let shuffled = (0..SOME_ORDERS).map(|seed| {
        let mut order = there.clone();
        Rng::with_seed(seed).shuffle(&mut order);
        order
    });
    let shuffled: Vec<Vec<&Event>> = shuffled.collect();
    [vec![there], vec![back], shuffled].concat()
}

fn permutations<'e>(events: &[&'e Event]) -> Vec<Vec<&'e Event>> {
    let Some((first, rest)) = events.split_first() else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for order in permutations(rest) {
        for place in 0..=order.len() {
            let mut longer = order.clone();
            longer.insert(place, *first);
            all.push(longer);
        }
    }
    all
}
