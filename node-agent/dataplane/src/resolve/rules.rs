//! The rules of the store, filed so that those that apply to a Pod are found without looking at all of them.
//!
//! Rules that select by label are filed under their selector, since many rules have the same one; selectors are filed
//! under the labels that they ask for.

use std::cell::OnceCell;

use ringfence_crds::workload_policy::{CompiledRule, LabelSelector, Subject, WorkloadPolicySpec};
use ringfence_model::{Direction, Labels, Selector};
use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use crate::input::ObjectStore;

/// A rule, and the policy that it is of.
#[derive(Debug, Clone, Copy)]
pub struct FiledRule<'a> {
    pub policy: &'a WorkloadPolicySpec,
    pub rule: &'a CompiledRule,
}

/// Number of a rule, or of a selector.
pub type Number = u32;

/// A label as it is written.
type Pair<'a> = (&'a str, &'a str);

#[derive(Debug)]
struct FiledSelector<'a> {
    written: &'a LabelSelector,
    /// What it says; `None` if it says nothing valid, and selects nothing.
    parsed: OnceCell<Option<Selector>>,
    rules: Vec<Number>,
}

impl FiledSelector<'_> {
    fn matches(&self, labels: &Labels) -> bool {
        let parsed = self.parsed.get_or_init(|| Selector::try_from(self.written).ok());
        parsed.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

/// All rules.
#[derive(Debug, Default)]
pub struct Rules<'a> {
    all: Vec<FiledRule<'a>>,
    selectors: Vec<FiledSelector<'a>>,
    /// Selectors by the labels that they ask for; of several dimensions, by those that fewest ask for.
    by_label: FxHashMap<Pair<'a>, Vec<Number>>,
    /// Selectors that ask for no value in particular.
    open: Vec<Number>,
    /// Rules at the Pods behind a Service, by its namespace.
    by_namespace: FxHashMap<&'a str, Vec<Number>>,
    /// Rules at all nodes.
    at_nodes: Vec<Number>,
    /// Rules at a node by name.
    by_node: FxHashMap<&'a str, Vec<Number>>,
}

impl<'a> Rules<'a> {
    pub fn new(store: &'a ObjectStore) -> Self {
        let of = |policy: &'a WorkloadPolicySpec| policy.rules.iter().map(move |rule| FiledRule { policy, rule });
        let mut rules = Self { all: store.workload_policies.values().flat_map(of).collect(), ..Self::default() };
        let mut numbers = FxHashMap::default();
        // An agent holds fewer rules than there are numbers by far.
        for number in 0..Number::try_from(rules.all.len()).unwrap_or(Number::MAX) {
            let rule = rules.all[number as usize].rule;
            rule.subjects.iter().for_each(|subject| rules.file(number, rule.direction, subject, &mut numbers));
        }
        rules.file_selectors();
        rules
    }

    fn file(
        &mut self,
        number: Number,
        direction: Direction,
        subject: &'a Subject,
        numbers: &mut FxHashMap<&'a LabelSelector, usize>,
    ) {
        if let Some(written) = &subject.labels {
            let index = *numbers.entry(written).or_insert_with(|| {
                self.selectors.push(FiledSelector { written, parsed: OnceCell::new(), rules: Vec::new() });
                self.selectors.len() - 1
            });
            self.selectors[index].rules.push(number);
        }
        // Behind a virtual service are providers: it does not connect.
        let service = subject.virtual_service.as_ref().filter(|_| direction == Direction::Inbound);
        if let Some((namespace, _)) = service.and_then(|service| service.split_once('/')) {
            self.by_namespace.entry(namespace).or_default().push(number);
        }
        if subject.container_hosts {
            self.at_nodes.push(number);
        }
        if let Some(name) = &subject.workload {
            self.by_node.entry(name).or_default().push(number);
        }
    }

    fn file_selectors(&mut self) {
        let mut asked: FxHashMap<Pair<'a>, usize> = FxHashMap::default();
        for pair in self.selectors.iter().flat_map(|selector| pairs(selector.written)) {
            *asked.entry(pair).or_default() += 1;
        }
        for (number, selector) in (0..).zip(&self.selectors) {
            let cost = |dimension: &'a str, values: &'a [SmolStr]| -> usize {
                values.iter().filter_map(|value| asked.get(&(dimension, value.as_str()))).sum()
            };
            let rarest = selector.written.is_in.iter().min_by_key(|(dimension, values)| cost(dimension, values));
            match rarest {
                Some((dimension, values)) => {
                    for value in values {
                        self.by_label.entry((dimension, value)).or_default().push(number);
                    }
                }
                None => self.open.push(number),
            }
        }
    }

    /// The selectors that select a Pod with these labels, in order.
    pub fn selecting(&self, labels: &Labels) -> Vec<Number> {
        let by_label =
            labels.iter().filter_map(|(dimension, value)| self.by_label.get(&(dimension.as_str(), value.as_str())));
        let candidates = by_label.chain([&self.open]).flatten().copied();
        let mut numbers: Vec<Number> =
            candidates.filter(|number| self.selectors[*number as usize].matches(labels)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Whether rules may apply to Pods of a namespace because they are behind a Service.
    pub fn has_services(&self, namespace: &str) -> bool {
        self.by_namespace.contains_key(namespace)
    }

    /// The rules, in order, of a node: those of these selectors, and those that are about nodes.
    pub fn of_node(&self, selectors: &[Number], name: &str) -> impl Iterator<Item = FiledRule<'a>> {
        let selected = selectors.iter().flat_map(|number| &self.selectors[*number as usize].rules);
        let named = self.by_node.get(name).into_iter().flatten();
        let mut numbers: Vec<Number> = selected.chain(&self.at_nodes).chain(named).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| self.all[number as usize])
    }

    /// The rules, in order, of these selectors, and those that may apply to Pods of a namespace because they are behind
    /// a Service; with each whether a selector selects it.
    pub fn of(&self, selectors: &[Number], namespace: &str) -> impl Iterator<Item = (FiledRule<'a>, bool)> {
        let selected = selectors.iter().flat_map(|number| &self.selectors[*number as usize].rules);
        let behind = self.by_namespace.get(namespace).into_iter().flatten();
        let mut numbers: Vec<(Number, bool)> =
            behind.map(|number| (*number, false)).chain(selected.map(|number| (*number, true))).collect();
        // Of one that is there twice, the one that is selected counts: it comes first.
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.dedup_by_key(|(number, _)| *number);
        numbers.into_iter().rev().map(|(number, selected)| (self.all[number as usize], selected))
    }
}

/// The labels that a selector asks for.
fn pairs(selector: &LabelSelector) -> impl Iterator<Item = Pair<'_>> {
    selector
        .is_in
        .iter()
        .flat_map(|(dimension, values)| values.iter().map(move |value| (dimension.as_str(), value.as_str())))
}
