//! Everything of ours that a network namespace holds, read from the kernel.

use std::collections::BTreeSet;

use ringfence_dataplane::{Family, Installed, SetDef, removal, sets};

use crate::readings::{Readings, Verdict};
use crate::tools::{Backend, ToolError, ipset_save};

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
    pub(super) fn read(backend: Backend) -> Result<Self, ToolError> {
        let save = ipset_save()?;
        Ok(Self::read_rules(backend)?.with_sets(&save))
    }

    pub(super) fn with_sets(self, save: &str) -> Self {
        let sets = sets::parse_save(save);
        let mut odd_sets = sets::names(save);
        odd_sets.retain(|name| sets.iter().all(|set| set.name != *name));
        Self { sets, odd_sets, ..self }
    }

    /// The names of all our sets.
    pub(super) fn set_names(&self) -> BTreeSet<String> {
        self.sets.iter().map(|set| &set.name).chain(&self.odd_sets).cloned().collect()
    }

    /// Leaves out the sets.
    pub(super) fn read_rules(backend: Backend) -> Result<Self, ToolError> {
        let mut kernel = Self::default();
        for family in Family::ALL {
            let save = backend.save(family)?;
            let installed = Installed::parse(&save);
            kernel.readings.read(family, &save, &installed);
            match family {
                Family::V4 => kernel.v4 = installed,
                Family::V6 => kernel.v6 = installed,
            }
        }
        Ok(kernel)
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
