//! Bounds of what is compiled, so that no object, and no few objects together, take time and memory beyond reason. What one
//! object says by itself is bounded by its schema; here is what only comes out when objects meet. `docs/limits.md` lists all.
//!
//! What is over a bound is never applied in part in a way that lets more through: an Allow opens nothing by it, and a Deny or
//! OverrideDeny blocks whatever it may mean. The object that uses it warns.

/// Prefixes of an IPList, its exclusions taken out. Many times what an apiserver takes in one WorkloadPolicy, and what a kernel
/// looks up at no cost.
pub const LIST_PREFIXES: usize = 65_536;
/// Values of a LabelGroup, those of the groups in it included. A selector with so many is a selector of everything.
pub const GROUP_VALUES: usize = 4_096;
/// What a RuleSet comes to over all of its scopes: rules, terms, label values in them, prefixes. Some hundred bytes each.
pub const RULE_SET_ITEMS: usize = 1_000_000;
/// What all RuleSets of a commit come to together: a few files may hold many RuleSets that are just not too much.
pub const POLICY_ITEMS: usize = 5_000_000;
/// Addresses times ports behind a Service.
pub const BACK_ENDS: usize = 100_000;
/// Warnings of one object: they stand in its status.
pub const WARNINGS: usize = 100;

/// The warnings that are shown, and how many more there are.
pub fn shown(mut warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(WARNINGS);
    if more > 0 {
        warnings.truncate(WARNINGS);
        warnings.push(format!("and {more} more"));
    }
    warnings
}
