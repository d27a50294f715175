//! Selectors: which labels a scope, an actor or a rule's subject selects.

use std::fmt;

use litemap::LiteMap;

use crate::label::{Dimension, LabelValue, Labels};
use crate::values::Values;

/// What a selector asks of one dimension.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constraint {
    /// The workload has one of these values. An empty set is satisfied by nothing.
    In(Values),
    /// The workload has a value in the dimension, and it is *another* one than these. A workload without the
    /// dimension does not match ("all except X", policy model, "Scopes and rules").
    NotIn(Values),
}

impl Constraint {
    /// Whether a workload's value in the dimension satisfies the constraint.
    pub fn accepts(&self, value: Option<&LabelValue>) -> bool {
        match (self, value) {
            (_, None) => false,
            (Self::In(values), Some(value)) => values.contains(value),
            (Self::NotIn(values), Some(value)) => !values.contains(value),
        }
    }

    /// The values that it names.
    pub fn values(&self) -> &Values {
        match self {
            Self::In(values) | Self::NotIn(values) => values,
        }
    }

    fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::In(a), Self::In(b)) => Self::In(a.both(b)),
            (Self::In(a), Self::NotIn(b)) | (Self::NotIn(b), Self::In(a)) => Self::In(a.without(b)),
            (Self::NotIn(a), Self::NotIn(b)) => Self::NotIn(a.either(b)),
        }
    }
}

/// A conjunction over dimensions, kept in a normal form: one constraint per dimension, so that equal selectors are
/// equal values. `Selector::everything()` selects every workload and has to be asked for by name: nothing empty
/// becomes it by accident.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(LiteMap<Dimension, Constraint>);

impl Selector {
    /// Selects every workload.
    pub fn everything() -> Self {
        Self(LiteMap::new_vec())
    }

    /// Narrows the selector by one more constraint.
    #[must_use]
    pub fn and(mut self, dimension: Dimension, constraint: Constraint) -> Self {
        let merged = match self.0.get(&dimension) {
            Some(present) => present.and(&constraint),
            None => constraint,
        };
        self.0.insert(dimension, merged);
        self
    }

    /// The selector that both selectors' workloads satisfy.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let mut all = Self(LiteMap::with_capacity(self.0.len() + other.0.len()));
        all.0.extend(self.0.iter().map(|(dimension, constraint)| (dimension.clone(), constraint.clone())));
        other.0.iter().fold(all, |all, (dimension, constraint)| all.and(dimension.clone(), constraint.clone()))
    }

    /// Whether a workload with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(dimension, constraint)| constraint.accepts(labels.get(dimension)))
    }

    /// Whether no labels at all can satisfy the selector.
    pub fn is_nothing(&self) -> bool {
        self.0.values().any(|constraint| matches!(constraint, Constraint::In(values) if values.is_empty()))
    }

    /// The constraints, by dimension.
    pub fn constraints(&self) -> impl Iterator<Item = (&Dimension, &Constraint)> {
        self.0.iter()
    }

    /// The first dimension whose constraint these labels miss, for explanations.
    pub fn first_miss(&self, labels: &Labels) -> Option<&Dimension> {
        self.0
            .iter()
            .find(|(dimension, constraint)| !constraint.accepts(labels.get(dimension)))
            .map(|(dimension, _)| dimension)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("everything");
        }
        for (index, (dimension, constraint)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (operator, values) = match constraint {
                Constraint::In(values) => ("in", values),
                Constraint::NotIn(values) => ("notin", values),
            };
            write!(f, "{comma}{dimension} {operator} ({values})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dimension {
        text.parse().expect("a literal of the test")
    }
    fn values(list: &[&str]) -> Values {
        list.iter().map(|text| text.parse().expect("a literal of the test")).collect()
    }
    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(d, v)| (dim(d), v.parse().expect("a literal of the test"))).collect()
    }

    #[test]
    fn not_means_another_value() {
        let selector = Selector::everything().and(dim("env"), Constraint::NotIn(values(&["prod"])));
        assert!(selector.matches(&labels(&[("env", "dev")])));
        assert!(!selector.matches(&labels(&[("env", "prod")])));
        assert!(!selector.matches(&labels(&[("app", "shop")])), "no env is not another env");
    }

    #[test]
    fn an_empty_value_list_selects_nothing() {
        let selector = Selector::everything().and(dim("env"), Constraint::In(Values::new()));
        assert!(selector.is_nothing());
        assert!(!selector.matches(&labels(&[("env", "prod")])));
        assert!(!selector.matches(&labels(&[])));
    }

    #[test]
    fn intersections_are_normal() {
        let a = Selector::everything().and(dim("env"), Constraint::In(values(&["prod", "dev"])));
        let b = Selector::everything().and(dim("env"), Constraint::NotIn(values(&["dev"])));
        let both = Selector::everything().and(dim("env"), Constraint::In(values(&["prod"])));
        assert_eq!(a.intersect(&b), both);
        assert_eq!(b.intersect(&a), both);
    }
}
