//! Sets of label values.

use std::fmt;

use smallvec::SmallVec;

use crate::label::LabelValue;

/// A set of values of one dimension. Most hold one value, and there are very many of them: a sorted list that needs no
/// memory of its own for a single value. Its text form is `dev|prod`, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Values(SmallVec<[LabelValue; 1]>);

impl Values {
    /// No value.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it holds a value.
    pub fn contains(&self, value: &LabelValue) -> bool {
        self.0.binary_search(value).is_ok()
    }

    /// All values, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &LabelValue> {
        self.0.iter()
    }

    /// The values that are in both sets.
    #[must_use]
    pub fn both(&self, other: &Self) -> Self {
        Self(self.iter().filter(|value| other.contains(value)).cloned().collect())
    }

    /// The values that are not in the other set.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.iter().filter(|value| !other.contains(value)).cloned().collect())
    }

    /// The values that are in one set or in both.
    #[must_use]
    pub fn either(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).cloned().collect()
    }
}

impl FromIterator<LabelValue> for Values {
    fn from_iter<I: IntoIterator<Item = LabelValue>>(values: I) -> Self {
        let mut values: SmallVec<[LabelValue; 1]> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        Self(values)
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            let bar = if index == 0 { "" } else { "|" };
            write!(f, "{bar}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[&str]) -> Values {
        list.iter().map(|text| text.parse().expect("a literal of the test")).collect()
    }

    #[test]
    fn a_set_is_sorted_and_holds_each_value_once() {
        assert_eq!(values(&["b", "a", "b"]), values(&["a", "b"]));
        assert_eq!(values(&["b", "a"]).to_string(), "a|b");
        assert_eq!(values(&["b", "a", "b"]).len(), 2);
    }

    #[test]
    fn sets_are_put_together() {
        let (ab, bc) = (values(&["a", "b"]), values(&["b", "c"]));
        assert_eq!(ab.both(&bc), values(&["b"]));
        assert_eq!(ab.without(&bc), values(&["a"]));
        assert_eq!(ab.either(&bc), values(&["a", "b", "c"]));
        assert!(ab.both(&values(&["c"])).is_empty());
    }
}
