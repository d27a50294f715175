//! RuleSets as they were read: their rules, and what each of them refers to.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::peers::GroupId;
use super::rule::{Ref, ResolvedRule};

/// What a RuleSet became.
#[derive(Debug, Clone, Default)]
pub struct RuleSetFacts {
    /// Its rules, by scope and name.
    pub rules: Vec<ResolvedRule>,
    /// What it refers to, found or not.
    pub refs: BTreeSet<Ref>,
    /// Names of its WorkloadPolicies.
    pub policies: Vec<String>,
    /// Its PeerGroups.
    pub groups: Vec<GroupId>,
}

/// All RuleSets.
#[derive(Debug, Clone, Default)]
pub struct RuleSets {
    known: BTreeMap<SmolStr, RuleSetFacts>,
    /// RuleSets by what they refer to.
    users: BTreeMap<Ref, BTreeSet<SmolStr>>,
}

impl RuleSets {
    /// All rules that are switched on, by RuleSet, scope and name.
    pub fn rules(&self) -> impl Iterator<Item = &ResolvedRule> {
        self.known.values().flat_map(|facts| &facts.rules)
    }

    /// Names of the WorkloadPolicies of a RuleSet.
    pub fn policies(&self, name: &str) -> &[String] {
        self.known.get(name).map_or(&[], |facts| &facts.policies)
    }

    /// The RuleSets that refer to something.
    pub fn users(&self, of: &Ref) -> impl Iterator<Item = &SmolStr> {
        self.users.get(of).into_iter().flatten()
    }

    /// Knows a RuleSet anew, or no more, and gives what was known of it.
    pub fn replace(&mut self, name: &str, now: Option<RuleSetFacts>) -> Option<RuleSetFacts> {
        let name = SmolStr::from(name);
        let before = match now {
            Some(facts) => {
                for new in &facts.refs {
                    self.users.entry(new.clone()).or_default().insert(name.clone());
                }
                self.known.insert(name.clone(), facts)
            }
            None => self.known.remove(&name),
        };
        let kept = self.known.get(&name).map(|facts| &facts.refs);
        for gone in before.iter().flat_map(|before| &before.refs) {
            if kept.is_some_and(|kept| kept.contains(gone)) {
                continue;
            }
            if let Some(names) = self.users.get_mut(gone) {
                names.remove(&name);
                if names.is_empty() {
                    self.users.remove(gone);
                }
            }
        }
        before
    }
}
