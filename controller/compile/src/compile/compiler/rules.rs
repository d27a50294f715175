//! RuleSets: resolved again when they, or anything that they refer to, change.

use std::collections::{BTreeMap, BTreeSet};

use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::compile::emit;
use crate::compile::peers::GroupId;
use crate::compile::resolve::{self, Ref};
use crate::policy::{Kind, ObjectKey};

/// What RuleSets refer to, and what they became.
#[derive(Debug, Clone, Default)]
pub struct RuleSets {
    /// RuleSets by what they refer to.
    users: BTreeMap<Ref, BTreeSet<String>>,
    states: BTreeMap<String, State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    refs: BTreeSet<Ref>,
    /// Names of its WorkloadPolicies.
    policies: Vec<String>,
    /// Its PeerGroups.
    groups: Vec<GroupId>,
}

impl RuleSets {
    /// Marks the RuleSets that refer to something.
    pub fn mark(&self, to: &Ref, todo: &mut Todo) {
        if matches!(todo.rule_sets, Keys::All) {
            return;
        }
        let names = self.users.get(to).into_iter().flatten();
        names.for_each(|name| todo.rule_sets.add(name.clone()));
    }

    fn refer(&mut self, name: &str, before: &BTreeSet<Ref>, now: &BTreeSet<Ref>) {
        for gone in before.difference(now) {
            if let Some(names) = self.users.get_mut(gone) {
                names.remove(name);
                if names.is_empty() {
                    self.users.remove(gone);
                }
            }
        }
        for new in now.difference(before) {
            self.users.entry(new.clone()).or_default().insert(name.to_owned());
        }
    }
}

impl Compiler {
    pub(super) fn read_rule_sets(&mut self, inputs: Inputs<'_>, todo: &mut Todo, changes: &mut Changes) {
        let names = std::mem::replace(&mut todo.rule_sets, Keys::These(BTreeSet::new()));
        changes.others |= !names.is_empty();
        names.each(&inputs.policy.rule_sets, |name| self.read_rule_set(inputs, name, changes));
    }

    fn read_rule_set(&mut self, inputs: Inputs<'_>, name: &str, changes: &mut Changes) {
        let spec = inputs.policy.rule_sets.get(name);
        let resolved = spec.map(|spec| resolve::resolve(name, spec, inputs.policy, &self.facts)).unwrap_or_default();
        let origin = inputs.policy.origins.get(&ObjectKey::cluster_wide(Kind::RuleSet, name));
        let commit = origin.and_then(|origin| origin.commit.as_ref());
        let emitted = emit::emit(name, &resolved.rules, &self.facts, commit);
        let before = self.rule_sets.states.remove(name).unwrap_or_default();
        // What stays is acquired before it is released, so that it never goes.
        let groups: Vec<GroupId> =
            emitted.selectors.iter().map(|selector| self.groups.acquire(selector, &mut self.facts.classes)).collect();
        before.groups.iter().for_each(|group| self.groups.release(*group, &mut self.facts.classes));
        self.rule_sets.refer(name, &before.refs, &resolved.refs);
        let policies: Vec<String> = emitted.workload_policies.keys().cloned().collect();
        for gone in before.policies.iter().filter(|policy| !policies.contains(policy)) {
            changes.drop_workload_policy(&mut self.computed, gone);
        }
        for (policy, spec) in emitted.workload_policies {
            changes.put_workload_policy(&mut self.computed, policy, spec);
        }
        if resolved.warnings.is_empty() {
            self.computed.warnings.remove(name);
        } else {
            self.computed.warnings.insert(name.to_owned(), resolved.warnings);
        }
        let state = State { refs: resolved.refs, policies, groups };
        if spec.is_some() {
            self.rule_sets.states.insert(name.to_owned(), state);
        }
        if resolved.rules.is_empty() {
            self.facts.rules.remove(name);
        } else {
            self.facts.rules.insert(name.to_owned(), resolved.rules);
        }
    }
}
