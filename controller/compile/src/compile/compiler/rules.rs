//! RuleSets: resolved again when they, or anything that they refer to, change.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::{panic, thread};

use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::compile::emit::{self, Emitted};
use crate::compile::peers::GroupId;
use crate::compile::resolve;
use crate::compile::rule::{Ref, Resolved};
use crate::compile::rule_sets::RuleSetFacts;
use crate::compile::world::Facts;
use crate::policy::{Kind, ObjectKey};

/// So many RuleSets at least are worth a thread.
const WORTH_A_THREAD: usize = 500;

/// A RuleSet as it was read. It is a function of policy and facts, whatever other RuleSets there are.
struct Read {
    resolved: Resolved,
    emitted: Emitted,
    exists: bool,
}

impl Read {
    fn of(name: &str, inputs: Inputs<'_>, facts: &Facts) -> Self {
        let spec = inputs.policy.rule_sets.get(name);
        let resolved = spec.map(|spec| resolve::resolve(name, spec, inputs.policy, facts)).unwrap_or_default();
        let origin = inputs.policy.origins.get(&ObjectKey::cluster_wide(Kind::RuleSet, name));
        let commit = origin.and_then(|origin| origin.commit.as_ref());
        let emitted = emit::emit(name, &resolved.rules, facts, commit);
        Self { resolved, emitted, exists: spec.is_some() }
    }

    /// Many of them, in their order.
    fn of_many(names: &[&String], inputs: Inputs<'_>, facts: &Facts) -> Vec<Self> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = names.len().div_ceil(threads).max(WORTH_A_THREAD);
        let read =
            |names: &[&String]| -> Vec<Self> { names.iter().map(|name| Self::of(name, inputs, facts)).collect() };
        thread::scope(|scope| {
            let shares: Vec<_> = names.chunks(share).map(|share| scope.spawn(move || read(share))).collect();
            shares
                .into_iter()
                .flat_map(|share| share.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
                .collect()
        })
    }
}

impl Todo {
    /// Marks the RuleSets that refer to something.
    pub fn mark_users(&mut self, facts: &Facts, of: &Ref) {
        if let Keys::These(names) = &mut self.rule_sets {
            names.extend(facts.rule_sets.users(of).map(ToString::to_string));
        }
    }
}

impl Compiler {
    pub(super) fn read_rule_sets(&mut self, inputs: Inputs<'_>, todo: &mut Todo, changes: &mut Changes) {
        let names = std::mem::replace(&mut todo.rule_sets, Keys::These(BTreeSet::new()));
        changes.others |= !names.is_empty();
        let names: Vec<&String> = match &names {
            Keys::All => inputs.policy.rule_sets.keys().collect(),
            Keys::These(names) => names.iter().collect(),
        };
        let read = if names.len() < WORTH_A_THREAD {
            names.iter().map(|name| Read::of(name, inputs, &self.facts)).collect()
        } else {
            Read::of_many(&names, inputs, &self.facts)
        };
        let mut written = Vec::new();
        for (name, mut read) in names.into_iter().zip(read) {
            written.append(&mut read.emitted.workload_policies);
            self.take_rule_set(name, read, changes);
        }
        changes.put_workload_policies(&mut self.computed, written);
    }

    /// Takes in what a RuleSet became, but for its WorkloadPolicies.
    fn take_rule_set(&mut self, name: &str, read: Read, changes: &mut Changes) {
        let Read { resolved, emitted, exists } = read;
        let classes = &mut self.facts.classes;
        let groups: Vec<GroupId> =
            emitted.selectors.iter().map(|selector| self.groups.acquire(selector, classes)).collect();
        let policies = emitted.names;
        if resolved.warnings.is_empty() {
            self.computed.warnings.remove(name);
        } else {
            self.computed.warnings.insert(name.to_owned(), resolved.warnings);
        }
        let now = RuleSetFacts { rules: resolved.rules, refs: resolved.refs, policies, groups };
        let before = self.facts.rule_sets.replace(name, exists.then_some(now)).unwrap_or_default();
        // What stays was acquired above, before it is released, so that it never goes.
        before.groups.iter().for_each(|group| self.groups.release(*group, &mut self.facts.classes));
        let kept = self.facts.rule_sets.policies(name);
        for gone in before.policies.iter().filter(|policy| !kept.contains(policy)) {
            changes.drop_workload_policy(&mut self.computed, gone);
        }
    }
}
