//! Since which revision a RuleSet's rules and a profile are what they are now: `Ready` is asked against it.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_compile::compile::Computed;
use ringfence_crds::{ContainerWorkloadProfileSpec, Revision, names};

use super::look::{self, Look};
use super::newest::marker_revision;
use crate::engine::world::{World, cluster_wide};
use crate::status::condition::is_ready;

/// The revisions of the last changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Since {
    rule_sets: BTreeMap<String, Revision>,
    profiles: BTreeMap<String, (ContainerWorkloadProfileSpec, Revision)>,
    owed: Revision,
}

impl Since {
    /// What the cluster tells after a start: what was Ready needs no new acknowledgement, anything else is taken as
    /// changed. Of a RuleSet the rules that were revoked are gone without a trace, perhaps before the marker could be
    /// written: one that was not Ready waits for a marker that is still to come.
    pub fn recover(world: &World) -> Self {
        let mut since = Self::default();
        for (key, policy) in &world.workload_policies {
            if key.name != names::MARKER {
                let revision = since.rule_sets.entry(policy.spec.rule_set.clone()).or_default();
                *revision = policy.spec.revision.max(*revision);
            }
        }
        let marker = marker_revision(world);
        let next = Revision { number: marker.number + 1, ..marker };
        for (key, rule_set) in &world.rule_sets {
            let conditions = rule_set.status.as_ref().map_or(&[][..], |status| &status.conditions);
            if !is_ready(conditions, rule_set.metadata.generation) {
                let revision = since.rule_sets.entry(key.name.clone()).or_default();
                *revision = next.max(*revision);
                since.owe(next);
            }
        }
        for (key, profile) in &world.profiles {
            let Some(status) = &profile.status else { continue };
            let settled = is_ready(&status.conditions, profile.metadata.generation)
                && status.enforced_state == profile.spec.wanted_state();
            if settled {
                since.profiles.insert(key.name.clone(), (profile.spec.clone(), Revision::default()));
            }
        }
        since
    }

    /// The revision in which a RuleSet's rules last changed.
    pub fn rule_set(&self, name: &str) -> Revision {
        self.rule_sets.get(name).copied().unwrap_or_default()
    }

    /// The revision in which a profile last changed; nothing for one that never said anything to an agent.
    pub fn profile(&self, name: &str) -> Option<Revision> {
        self.profiles.get(name).map(|(_, revision)| *revision)
    }

    /// The least revision that the marker must have.
    pub fn owed(&self) -> Revision {
        self.owed
    }

    /// The marker is to have this revision, however often it takes to write it.
    pub fn owe(&mut self, revision: Revision) {
        self.owed = self.owed.max(revision);
    }

    /// Profiles that say something else to agents than before: changed, new and managed, or gone after having been
    /// managed.
    pub fn changed_profiles(&self, world: &World, look: &Look) -> Vec<String> {
        let names = look.at(|names| &names.profiles);
        let changed = look::seen(&world.profiles, names).filter(|(key, profile)| match self.profiles.get(&key.name) {
            Some((before, _)) => *before != profile.spec,
            None => profile.spec.managed,
        });
        let gone = look::wanted(&self.profiles, names)
            .filter(|(name, (before, _))| before.managed && !world.profiles.contains_key(&cluster_wide(name.as_str())));
        changed.map(|(key, _)| key.name.clone()).chain(gone.map(|(name, _)| name.clone())).collect()
    }

    /// Notes that these profiles changed in this revision.
    pub fn note_profiles(&mut self, world: &World, names: &[String], revision: Revision) {
        for name in names {
            match world.profiles.get(&cluster_wide(name)) {
                Some(profile) => self.profiles.insert(name.clone(), (profile.spec.clone(), revision)),
                None => self.profiles.remove(name),
            };
        }
    }

    /// Notes that the RuleSets of these WorkloadPolicies changed in this revision.
    pub fn note_rule_sets(
        &mut self,
        world: &World,
        computed: &Computed,
        policies: &[&str],
        look: &Look,
        revision: Revision,
    ) {
        let rule_sets = policies.iter().flat_map(|name| {
            let before = world.workload_policies.get(&cluster_wide(*name)).map(|live| live.spec.rule_set.as_str());
            let after = computed.workload_policies.get(*name).map(|spec| spec.rule_set.as_str());
            [before, after]
        });
        let concerned: BTreeSet<&str> = rule_sets.flatten().collect();
        for name in &concerned {
            self.rule_sets.insert((*name).to_owned(), revision);
        }
        // A RuleSet of the same name that comes later begins anew.
        let lives = |name: &str| world.rule_sets.contains_key(&cluster_wide(name));
        match look.at(|names| &names.rule_sets) {
            None => self.rule_sets.retain(|name, _| lives(name)),
            Some(names) => {
                for name in names.iter().map(String::as_str).chain(concerned).filter(|name| !lives(name)) {
                    self.rule_sets.remove(name);
                }
            }
        }
    }
}
