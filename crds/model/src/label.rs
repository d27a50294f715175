//! Labels: one value in each of a few dimensions.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use litemap::LiteMap;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Why a text is no dimension or no label value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// The text is not a dimension name.
    #[error(
        "'{0}' is no label dimension: use 1 to 63 lower-case letters, digits or '-', beginning with a letter (such as role, app, env, loc)"
    )]
    Dimension(String),
    /// The text is not a label value.
    #[error(
        "'{0}' is no label value: use 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
    )]
    Value(String),
}

/// The name of a label dimension, such as `role`, `app`, `env` or `loc`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dimension(SmolStr);

/// A value within a dimension. The alphabet is that of a Kubernetes label value, but never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(SmolStr);

impl Dimension {
    /// The text of the dimension.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LabelValue {
    /// The text of the value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Dimension {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let bytes = text.as_bytes();
        let valid = bytes.len() <= 63
            && bytes.first().is_some_and(u8::is_ascii_lowercase)
            && bytes.last() != Some(&b'-')
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if valid { Ok(Self(text.into())) } else { Err(InvalidLabel::Dimension(text.to_owned())) }
    }
}

impl FromStr for LabelValue {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        let bytes = text.as_bytes();
        let valid = bytes.len() <= 63
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if valid { Ok(Self(text.into())) } else { Err(InvalidLabel::Value(text.to_owned())) }
    }
}

macro_rules! string_newtype {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidLabel;
            fn try_from(text: String) -> Result<Self, InvalidLabel> {
                text.parse()
            }
        }
        impl From<$name> for SmolStr {
            fn from(value: $name) -> SmolStr {
                value.0
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
string_newtype!(Dimension);
string_newtype!(LabelValue);

/// The labels of a workload: at most one value per dimension. They are few, and there are many sets of them: a sorted list
/// holds them. Its text form is `app=shop,env=prod`, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(LiteMap<Dimension, LabelValue>);

impl Labels {
    /// No label in any dimension.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with room for so many.
    pub fn with_capacity(dimensions: usize) -> Self {
        Self(LiteMap::with_capacity(dimensions))
    }

    /// Parses a map of plain strings, as the custom resources hold them.
    ///
    /// # Errors
    /// The first key or value that is not valid.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Self, InvalidLabel> {
        pairs.into_iter().map(|(dimension, value)| Ok((dimension.parse()?, value.parse()?))).collect()
    }

    /// The value in a dimension, if there is one.
    pub fn get(&self, dimension: &Dimension) -> Option<&LabelValue> {
        self.0.get(dimension)
    }

    /// Sets the value in a dimension.
    pub fn insert(&mut self, dimension: Dimension, value: LabelValue) {
        self.0.insert(dimension, value);
    }

    /// All pairs, by dimension.
    pub fn iter(&self) -> impl Iterator<Item = (&Dimension, &LabelValue)> {
        self.0.iter()
    }

    /// Whether no dimension has a value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels as plain strings, as the custom resources hold them.
    pub fn to_strings(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(d, v)| (d.to_string(), v.to_string())).collect()
    }
}

impl FromIterator<(Dimension, LabelValue)> for Labels {
    fn from_iter<I: IntoIterator<Item = (Dimension, LabelValue)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (dimension, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{dimension}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_and_values_are_checked() {
        assert!("role".parse::<Dimension>().is_ok());
        for bad in ["", "Role", "1a", "a-", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<Dimension>().is_err(), "{bad:?}");
        }
        assert!("Web_1.a".parse::<LabelValue>().is_ok());
        for bad in ["", "-a", "a-", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<LabelValue>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn text_form_is_sorted() {
        let labels = Labels::parse(
            [("env", "prod"), ("app", "shop")].map(|(d, v)| (d.to_string(), v.to_string())).iter().map(|(d, v)| (d, v)),
        );
        assert_eq!(labels.map(|l| l.to_string()), Ok("app=shop,env=prod".to_owned()));
    }
}
