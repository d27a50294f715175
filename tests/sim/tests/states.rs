//! Named states, and every way through them. A failure says which expander, step and state it is.
#![allow(missing_docs)]

use ringfence_sim::states::{State, all, expand, sequences};

/// Goes through every sequence; says how many updates were compared.
fn through(expand: fn(&[State]) -> Result<usize, String>) {
    let mut steps = 0;
    for (about, sequence) in sequences() {
        steps += expand(&sequence).unwrap_or_else(|text| panic!("sequence '{about}', {text}"));
    }
    println!("{steps} updates");
}

#[test]
fn forward() {
    through(expand::forward);
}

#[test]
fn reverse() {
    through(expand::reverse);
}

#[test]
fn split() {
    through(expand::split);
}

#[test]
fn squash() {
    through(expand::squash);
}

#[test]
fn duplicate() {
    through(expand::duplicate);
}

#[test]
fn empty() {
    through(expand::empty);
}

#[test]
fn gap() {
    through(expand::gap);
}

/// Of each state once: what stands before it does not matter here.
#[test]
fn teardown() {
    let steps = expand::teardown(&all()).unwrap_or_else(|text| panic!("{text}"));
    println!("{steps} updates");
}

/// A state is what it is called, and says something.
#[test]
fn states_are_told_apart() {
    for (_, sequence) in sequences() {
        for state in sequence {
            assert!(!state.said.is_empty(), "nothing is said of '{}'", state.name);
            let same = all().into_iter().find(|other| other.name == state.name);
            assert!(same.is_some_and(|other| other.world == state.world), "two states are called '{}'", state.name);
        }
    }
}
