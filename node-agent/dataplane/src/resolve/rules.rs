//! The rules of the store, filed so that those that may apply to a Pod are found without looking at all of them.

use ringfence_crds::workload_policy::{CompiledRule, Subject, WorkloadPolicySpec};
use ringfence_model::{Direction, Labels};
use rustc_hash::FxHashMap;

use crate::input::ObjectStore;

/// A rule, and the policy that it is of.
#[derive(Debug, Clone, Copy)]
pub struct FiledRule<'a> {
    pub policy: &'a WorkloadPolicySpec,
    pub rule: &'a CompiledRule,
}

/// Number of a rule among all.
type Number = u32;

/// A label as it is written.
type Pair<'a> = (&'a str, &'a str);

/// All rules.
#[derive(Debug)]
pub struct Rules<'a> {
    all: Vec<FiledRule<'a>>,
    /// By the labels that their subjects ask for; of several dimensions, those that fewest rules ask for.
    by_label: FxHashMap<Pair<'a>, Vec<Number>>,
    /// By the namespace of a Service whose Pods they apply to.
    by_namespace: FxHashMap<&'a str, Vec<Number>>,
    /// With a subject that asks for no value in particular.
    open: Vec<Number>,
}

impl<'a> Rules<'a> {
    pub fn new(store: &'a ObjectStore) -> Self {
        let rules = |policy: &'a WorkloadPolicySpec| policy.rules.iter().map(move |rule| FiledRule { policy, rule });
        let all: Vec<FiledRule<'a>> = store.workload_policies.values().flat_map(rules).collect();
        let mut asked: FxHashMap<Pair<'a>, usize> = FxHashMap::default();
        for pair in all.iter().flat_map(|filed| &filed.rule.subjects).flat_map(pairs) {
            *asked.entry(pair).or_default() += 1;
        }
        let mut rules =
            Self { all, by_label: FxHashMap::default(), by_namespace: FxHashMap::default(), open: Vec::new() };
        for index in 0..rules.all.len() {
            let rule = rules.all[index].rule;
            // A node holds fewer rules than there are numbers by far.
            let Ok(number) = Number::try_from(index) else { break };
            rule.subjects.iter().for_each(|subject| rules.file(number, rule.direction, subject, &asked));
        }
        rules
    }

    fn file(&mut self, number: Number, direction: Direction, subject: &'a Subject, asked: &FxHashMap<Pair<'a>, usize>) {
        if let Some(selector) = &subject.labels {
            let cost = |dimension: &str, values: &'a [String]| -> usize {
                let of = |value: &'a String| asked.get(&(dimension, value.as_str())).copied().unwrap_or_default();
                values.iter().map(of).sum()
            };
            let rarest = selector.is_in.iter().min_by_key(|(dimension, values)| cost(dimension, values));
            match rarest {
                Some((dimension, values)) => {
                    for value in values {
                        self.by_label.entry((dimension, value)).or_default().push(number);
                    }
                }
                None => self.open.push(number),
            }
        }
        // Behind a virtual service are providers: it does not connect.
        let service = subject.virtual_service.as_ref().filter(|_| direction == Direction::Inbound);
        if let Some((namespace, _)) = service.and_then(|service| service.split_once('/')) {
            self.by_namespace.entry(namespace).or_default().push(number);
        }
    }

    /// The rules of which a subject may be a Pod with these labels, in order: all that are, and perhaps others.
    pub fn candidates(&self, namespace: &str, labels: &Labels) -> impl Iterator<Item = FiledRule<'a>> {
        let by_label =
            labels.iter().filter_map(|(dimension, value)| self.by_label.get(&(dimension.as_str(), value.as_str())));
        let filed = by_label.chain(self.by_namespace.get(namespace)).chain([&self.open]);
        let mut numbers: Vec<Number> = filed.flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().filter_map(|number| self.all.get(number as usize).copied())
    }
}

/// The labels that a subject asks for.
fn pairs(subject: &Subject) -> impl Iterator<Item = Pair<'_>> {
    let dimensions = subject.labels.iter().flat_map(|selector| &selector.is_in);
    dimensions.flat_map(|(dimension, values)| values.iter().map(move |value| (dimension.as_str(), value.as_str())))
}
