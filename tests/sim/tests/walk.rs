//! CI's share of random walks.
#![allow(missing_docs)]

use ringfence_sim::rendered::{NO_ADDRESS, NO_AGENT, OTHER_NETWORK, TWO_SERVICES, Traced};
use ringfence_sim::walk::{Tally, walk, walk_with_extras};

/// Walks and changes in each: 100,000 together.
const WALKS: u64 = 100;
const STEPS: usize = 1000;

#[test]
fn the_compiler_agrees_with_the_oracle() {
    let mut sum = Tally::default();
    for seed in 0..WALKS {
        sum.add(&walk(seed, STEPS).unwrap_or_else(|text| panic!("{text}")));
    }
    println!("seeds 0 to {}: {}", WALKS - 1, sum.text());
    // A walk that meets nothing proves nothing.
    for end in ["in", "out"] {
        for decision in ["Allow", "Deny", "OverrideDeny", "Default", "Essential", "Idle", "Unmanaged", "External"] {
            let met = sum.decisions.get(&format!("{end}:{decision}")).copied().unwrap_or_default();
            assert!(met >= 500, "{end}:{decision} was met {met} times only");
        }
    }
    assert_every_fate_was_traced(&sum.traced);
}

/// Everything that can become of a packet, by every decision.
fn assert_every_fate_was_traced(traced: &Traced) {
    let fates = [
        "Essential Passed",
        "Allow Passed",
        "Default Dropped",
        "Default WouldBlock",
        "Deny Dropped",
        "Deny Rejected",
        "Deny WouldBlock",
        "OverrideDeny Dropped",
        "OverrideDeny Rejected",
        "OverrideDeny WouldBlock",
    ];
    let ends = ["in", "out"].into_iter().flat_map(|end| fates.map(|fate| format!("{end}:{fate}")));
    let families = ends.flat_map(|what| [format!("{what} IPv6"), what]);
    for what in families.chain(["without rules".to_owned()]) {
        let met = traced.met.get(&what).copied().unwrap_or_default();
        assert!(met >= 50, "{what} was traced {met} times only");
    }
    // What is set aside and never met need not be set aside.
    for what in [OTHER_NETWORK, TWO_SERVICES, NO_AGENT, NO_ADDRESS] {
        assert!(traced.aside.contains_key(what), "'{what}' was never met");
    }
}

#[test]
fn a_compiler_that_follows_says_what_one_made_anew_says_whatever_changes() {
    for seed in 0..20 {
        walk_with_extras(seed, 1000).unwrap_or_else(|text| panic!("{text}"));
    }
}
