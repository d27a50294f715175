//! Reading lists and maps without room to grow. An object that was read is kept and never added to, and there may be a
//! hundred thousand of them; what serde collects has room for four of everything.

use litemap::LiteMap;
use serde::{Deserialize, Deserializer};
use smol_str::SmolStr;

/// From dimension to values, sorted by dimension; most have one or two dimensions.
pub type LabelTerms = LiteMap<SmolStr, Vec<SmolStr>>;

/// Reads a list.
///
/// # Errors
/// As the list itself.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(deserializer)?;
    list.shrink_to_fit();
    Ok(list)
}

/// Reads a map from dimension to values.
///
/// # Errors
/// As the map itself.
pub fn terms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LabelTerms, D::Error> {
    let read = LabelTerms::deserialize(deserializer)?;
    let mut terms = LabelTerms::with_capacity(read.len());
    for (dimension, mut values) in read {
        values.shrink_to_fit();
        terms.insert(dimension, values);
    }
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_has_no_room_to_grow() {
        let mut text = serde_json::Deserializer::from_str("[1, 2, 3, 4, 5]");
        let numbers: Vec<u64> = list(&mut text).expect("a list");
        assert_eq!((numbers.len(), numbers.capacity()), (5, 5));
        let mut text = serde_json::Deserializer::from_str(r#"{"role": ["web"], "app": ["shop", "blog"]}"#);
        let labels = terms(&mut text).expect("a map");
        let written: Vec<String> = labels.iter().map(|(dimension, values)| format!("{dimension} {values:?}")).collect();
        assert_eq!(written, [r#"app ["shop", "blog"]"#, r#"role ["web"]"#]);
        assert!(labels.values().all(|values| values.len() == values.capacity()));
    }
}
