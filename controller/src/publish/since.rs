//! Since which revision a RuleSet's rules and a profile are what they are now: `Ready` is asked against it.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_compile::compile::Computed;
use ringfence_crds::{ContainerWorkloadProfile, ContainerWorkloadProfileSpec, Revision, names};
use ringfence_model::PolicyState;

use super::look::{self, Look};
use super::newest::marker_revision;
use crate::engine::world::{World, cluster_wide};
use crate::status::condition::is_ready;
use crate::status::profile::Remembered;

/// The revisions of the last changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Since {
    rule_sets: BTreeMap<String, Revision>,
    /// Of any rules.
    rules: Revision,
    profiles: BTreeMap<String, Known>,
    /// Profiles that ask for Full and perhaps do not have it yet.
    waiting: BTreeSet<String>,
    owed: Revision,
}

/// What agents were told of a profile.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    spec: ContainerWorkloadProfileSpec,
    since: Revision,
    /// Whether Full has been put in force for it, whatever its status says since.
    full: bool,
}

fn asks_for_full(spec: &ContainerWorkloadProfileSpec) -> bool {
    spec.wanted_state() == Some(PolicyState::Full)
}

fn is_in_full(profile: &ContainerWorkloadProfile) -> bool {
    profile.status.as_ref().and_then(|status| status.enforced_state) == Some(PolicyState::Full)
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
                since.rules = since.rules.max(policy.spec.revision);
            }
        }
        let marker = marker_revision(world);
        let next = Revision { number: marker.number + 1, ..marker };
        for (key, rule_set) in &world.rule_sets {
            let conditions = rule_set.status.as_ref().map_or(&[][..], |status| &status.conditions);
            if !is_ready(conditions, rule_set.metadata.generation) {
                let revision = since.rule_sets.entry(key.name.clone()).or_default();
                *revision = next.max(*revision);
                since.rules = since.rules.max(next);
                since.owe(next);
            }
        }
        for (key, profile) in &world.profiles {
            let Some(status) = &profile.status else { continue };
            let settled = is_ready(&status.conditions, profile.metadata.generation)
                && status.enforced_state == profile.spec.wanted_state();
            if settled {
                let full = asks_for_full(&profile.spec);
                let known = Known { spec: profile.spec.clone(), since: Revision::default(), full };
                since.profiles.insert(key.name.clone(), known);
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
        self.profiles.get(name).map(|known| known.since)
    }

    /// What decides about the state of a profile.
    pub fn of_profile(&self, name: &str) -> Remembered {
        let full = self.profiles.get(name).is_some_and(|known| known.full);
        Remembered { since: self.profile(name), rules: self.rules, full }
    }

    /// Profiles that ask for Full and perhaps do not have it yet.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(String::as_str)
    }

    /// Whether there are any.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Forgets those that wait no more.
    pub fn settle(&mut self, world: &World) {
        self.waiting.retain(|name| {
            let profile = world.profiles.get(&cluster_wide(name.as_str()));
            profile.is_some_and(|profile| asks_for_full(&profile.spec) && !is_in_full(profile))
        });
    }

    /// Notes that these states of profiles come into force, in this revision.
    pub fn note_states(&mut self, world: &World, names: &[String], revision: Revision) {
        self.note_profiles(world, names, revision);
        for name in names {
            if let Some(known) = self.profiles.get_mut(name) {
                known.full = asks_for_full(&known.spec);
            }
        }
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
            Some(known) => known.spec != profile.spec,
            None => profile.spec.managed,
        });
        let gone = look::wanted(&self.profiles, names)
            .filter(|(name, known)| known.spec.managed && !world.profiles.contains_key(&cluster_wide(name.as_str())));
        changed.map(|(key, _)| key.name.clone()).chain(gone.map(|(name, _)| name.clone())).collect()
    }

    /// Notes that these profiles changed in this revision.
    pub fn note_profiles(&mut self, world: &World, names: &[String], revision: Revision) {
        for name in names {
            let before = self.profiles.remove(name);
            let Some(profile) = world.profiles.get(&cluster_wide(name)) else { continue };
            let full = asks_for_full(&profile.spec) && (is_in_full(profile) || before.is_some_and(|known| known.full));
            if asks_for_full(&profile.spec) {
                self.waiting.insert(name.clone());
            }
            self.profiles.insert(name.clone(), Known { spec: profile.spec.clone(), since: revision, full });
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
        if !policies.is_empty() {
            self.rules = revision;
        }
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
