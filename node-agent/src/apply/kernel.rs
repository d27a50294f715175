//! Everything of ours that a network namespace holds, read from the kernel.

use std::collections::BTreeSet;

use ringfence_dataplane::render::filter_text;
use ringfence_dataplane::{Family, Installed, NetnsPolicy, Place, Rendered, SetDef, removal, render, sets};

use super::ApplyError;
use crate::ipset::Found;
use crate::readings::{Readings, Verdict};
use crate::tools::{Backend, ToolError};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) v4: Installed,
    pub(super) v6: Installed,
    /// Of rules that are known to be as they were written.
    pub(super) readings: Readings,
    pub(super) sets: Vec<SetDef>,
    /// Names of our sets that are not as we would make them.
    pub(super) odd_sets: BTreeSet<String>,
}

impl Kernel {
    /// Where nothing of ours is.
    pub(super) fn nothing_at(place: Place) -> Self {
        let [v4, v6] = [Installed::nothing_at(place), Installed::nothing_at(place)];
        Self { v4, v6, ..Self::default() }
    }

    pub(super) fn read(backend: Backend, place: Place) -> Result<Self, ApplyError> {
        let sets = Found::read(place)?;
        Ok(Self::read_rules(backend, place)?.with_sets(sets))
    }

    pub(super) fn with_sets(self, Found { sets, odd }: Found) -> Self {
        Self { sets, odd_sets: odd, ..self }
    }

    /// The names of all our sets.
    pub(super) fn set_names(&self) -> BTreeSet<String> {
        self.sets.iter().map(|set| &set.name).chain(&self.odd_sets).cloned().collect()
    }

    /// Leaves out the sets.
    pub(super) fn read_rules(backend: Backend, place: Place) -> Result<Self, ToolError> {
        let mut kernel = Self::nothing_at(place);
        if backend.holds_nothing(place) {
            return Ok(kernel);
        }
        let before = backend.generation();
        for family in Family::ALL {
            let save = backend.save(place, family)?;
            let installed = Installed::parse_at(place, &save);
            kernel.readings.read(family, &save, &installed);
            match family {
                Family::V4 => kernel.v4 = installed,
                Family::V6 => kernel.v6 = installed,
            }
        }
        kernel.readings.read_at(before, backend.generation());
        Ok(kernel)
    }

    /// The rules of a policy as they were read back `before`, with the sets that are there, where nf_tables says that nobody
    /// has written any rule since, and they are the right ones: what is known need not be read.
    pub(super) fn unchanged(
        backend: Backend,
        policy: &NetnsPolicy,
        before: &Readings,
        sets: &Found,
    ) -> Option<(Self, Rendered)> {
        if !before.is_of(backend.generation()) {
            return None;
        }
        let named = sets.sets.iter().filter_map(|set| sets::generation(&set.name));
        // Without a set the rules are the same in every generation.
        let generations: BTreeSet<u32> = named.chain([0]).collect();
        let (v4, v6, rendered) = generations.into_iter().find_map(|generation| {
            let rendered = render(policy, generation);
            let [v4, v6] = Family::ALL.map(|family| remembered(family, &rendered, before));
            Some((v4?, v6?, rendered))
        })?;
        Some((Self { v4, v6, readings: before.clone(), ..Self::default() }.with_sets(sets.clone()), rendered))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.set_names().is_empty()
    }

    /// Whether rules of ours decide what of a family passes. A restore that was refused can leave sets, and rules in table
    /// filter, which alone decide nothing.
    pub(super) fn decides(&self, family: Family) -> bool {
        // What takes rules away names the tables that hold any.
        removal(self.family(family)).contains("*mangle\n")
    }

    pub(super) fn family(&self, family: Family) -> &Installed {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The generation whose sets the rules name.
    pub(super) fn generation(&self) -> Option<u32> {
        self.v4.generation().max(self.v6.generation())
    }

    /// Forgets what was just read of rules that are not known to be as they were written; says which of them somebody
    /// else has changed.
    pub(super) fn compare(&mut self, before: &Readings) -> Vec<Family> {
        let now = self.readings.clone();
        let verdict = |family: &Family| before.judge(*family, &now);
        Family::ALL
            .iter()
            .filter(|family| verdict(family) != Verdict::Same)
            .for_each(|family| self.readings.forget(*family));
        Family::ALL.into_iter().filter(|family| verdict(family) == Verdict::Touched).collect()
    }

    /// A generation whose sets are not there yet.
    pub(super) fn free_generation(&self) -> u32 {
        let names = self.set_names();
        let of_sets = names.iter().filter_map(|name| sets::generation(name));
        let used: BTreeSet<u32> = of_sets.chain(self.v4.generation()).chain(self.v6.generation()).collect();
        (0..=u32::MAX).find(|number| !used.contains(number)).unwrap_or_default()
    }
}

/// What is installed of a family where that was read back `before` and was this, with table filter or without.
fn remembered(family: Family, rendered: &Rendered, before: &Readings) -> Option<Installed> {
    let place = rendered.place;
    let [without, with] = [Installed::nothing_at(place), Installed::parse_at(place, &filter_text(family))];
    let was = |present: &Installed| before.is_of_text(family, &rendered.restore_text(family, present));
    let present = [without, with].into_iter().find(was)?;
    Some(rendered.installed_after(family, present))
}
