//! What was traced, and how often.

use std::collections::BTreeMap;

/// What was traced.
#[derive(Debug, Clone, Default)]
pub struct Traced {
    /// Packets, by what became of them and why; Pods without rules.
    pub met: BTreeMap<String, usize>,
    /// What was set aside.
    pub aside: BTreeMap<&'static str, usize>,
}

impl Traced {
    /// Adds another walk's.
    pub fn add(&mut self, other: &Self) {
        other.met.iter().for_each(|(what, count)| *self.met.entry(what.clone()).or_default() += count);
        other.aside.iter().for_each(|(what, count)| *self.aside.entry(what).or_default() += count);
    }

    /// In one line, what was met how often, and what was set aside.
    pub fn text(&self) -> String {
        let met = self.met.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>();
        let aside = self.aside.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>();
        format!("traced: {}; set aside: {}", met.join(", "), aside.join(", "))
    }

    /// Notes what was met.
    pub(super) fn note(&mut self, what: String) {
        *self.met.entry(what).or_default() += 1;
    }

    /// Notes what was set aside.
    pub(super) fn set_aside(&mut self, what: &'static str) {
        *self.aside.entry(what).or_default() += 1;
    }
}
