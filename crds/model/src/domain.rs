//! Domain names, and what a name in an IP list matches.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// Bytes of a name, and of a label in it (RFC 1035, section 2.3.4), as text without the dot at its end.
const NAME_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;
/// What a pattern begins with that stands for any one label.
const WILDCARD: &str = "*.";

/// Why a text is no name that an IP list can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It has letters that DNS does not carry.
    #[error(
        "'{0}' is not in the form that DNS carries: write the ASCII form, such as xn--bcher-kva.example for bücher.example"
    )]
    NotAscii(String),
    /// It is an address.
    #[error("'{0}' is an address and no name: write it under ranges")]
    Address(String),
    /// It has no dot: which name it becomes depends on the search list of who asks.
    #[error("'{0}' is one label: write the whole name, such as db.example.com")]
    OneLabel(String),
    /// It is anything else.
    #[error(
        "'{0}' is no domain name: write one such as db.example.com, or *.example.com for what is one label longer; labels have \
         1 to 63 letters, digits, '-' or '_', and the last one begins with a letter"
    )]
    Syntax(String),
}

/// A name of at least two labels, in lower case and without a dot at its end: names that DNS holds for the same are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(SmolStr);

impl DomainName {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = |why: fn(String) -> InvalidName| Err(why(text.to_owned()));
        if !text.is_ascii() {
            return wrong(InvalidName::NotAscii);
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            return wrong(InvalidName::Address);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let (before, last) = name.rsplit_once('.').unwrap_or(("", name));
        // No top-level domain begins with a digit, so that nothing that looks like an address is a name.
        let is_name = name.len() <= NAME_BYTES
            && name.split('.').all(is_label)
            && last.starts_with(|c: char| c.is_ascii_alphabetic())
            && !last.contains('_');
        match is_name {
            true if before.is_empty() => wrong(InvalidName::OneLabel),
            true => Ok(Self(name.to_ascii_lowercase().into())),
            false => wrong(InvalidName::Syntax),
        }
    }
}

impl TryFrom<String> for DomainName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A label as hosts and services have it.
fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let is_end = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    bytes.len() <= LABEL_BYTES
        && is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// What a name in an IP list matches: one name, or with `*.` before it every name that is exactly one label longer, as in
/// certificates. `*.example.com` matches `a.example.com`, and neither `example.com` nor `a.b.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamePattern {
    /// What is asked for, or what is below it.
    name: DomainName,
    wildcard: bool,
}

impl NamePattern {
    /// Whether it matches a name.
    pub fn matches(&self, name: &DomainName) -> bool {
        if !self.wildcard {
            return self.name == *name;
        }
        // There is something before the first dot, or it would be no name.
        name.0.split_once('.').is_some_and(|(_, rest)| rest == self.name.0)
    }
}

impl FromStr for NamePattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rest = text.strip_prefix(WILDCARD);
        let whole = |_| match text.is_ascii() {
            true => InvalidName::Syntax(text.to_owned()),
            false => InvalidName::NotAscii(text.to_owned()),
        };
        match rest {
            // Below a single label there is a whole top-level domain.
            Some(rest) => rest.parse().map_err(whole).map(|name| Self { name, wildcard: true }),
            None => text.parse().map(|name| Self { name, wildcard: false }),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wildcard = if self.wildcard { WILDCARD } else { "" };
        write!(f, "{wildcard}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DomainName {
        text.parse().expect("a name of the test")
    }

    #[test]
    fn what_dns_holds_for_the_same_is_the_same() {
        assert_eq!(name("DB.Example.com."), name("db.example.com"));
        assert_eq!(name("DB.Example.com.").as_str(), "db.example.com");
        assert_eq!("*.Example.COM.".parse::<NamePattern>().expect("a pattern").to_string(), "*.example.com");
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let pattern: NamePattern = "*.example.com".parse().expect("a pattern");
        let matched = ["a.example.com", "example.com", "a.b.example.com", "aexample.com", "a.example.com.org"]
            .map(|text| pattern.matches(&name(text)));
        assert_eq!(matched, [true, false, false, false, false]);
        let exact: NamePattern = "example.com".parse().expect("a pattern");
        assert!(exact.matches(&name("EXAMPLE.com")) && !exact.matches(&name("a.example.com")));
    }

    #[test]
    fn names_of_services_and_of_other_alphabets_are_names() {
        for text in ["_ldap._tcp.example.com", "xn--bcher-kva.example", "1.example.com", "a--b.example.com"] {
            assert_eq!(name(text).as_str(), text);
        }
    }

    #[test]
    fn what_is_no_name_says_what_to_write() {
        let labels = "a.".repeat(126) + "abc";
        assert_eq!(labels.len(), 255);
        for text in [
            "",
            ".",
            "a..example.com",
            ".example.com",
            "-a.example.com",
            "a-.example.com",
            "a b.example.com",
            "example.c_m",
            "example.1com",
            "*.com",
            "*",
            "*example.com",
            "a.*.example.com",
            "**.example.com",
            "10.0.0.0/8",
            "example.com..",
            &labels,
            &format!("{}.example.com", "a".repeat(64)),
        ] {
            assert!(matches!(text.parse::<NamePattern>(), Err(InvalidName::Syntax(_))), "{text}");
        }
        assert!(matches!("localhost".parse::<NamePattern>(), Err(InvalidName::OneLabel(_))));
        assert!(matches!("192.0.2.1".parse::<NamePattern>(), Err(InvalidName::Address(_))));
        assert!(matches!("2001:db8::1".parse::<NamePattern>(), Err(InvalidName::Address(_))));
        for text in ["bücher.example", "*.bücher.example"] {
            assert!(matches!(text.parse::<NamePattern>(), Err(InvalidName::NotAscii(_))), "{text}");
        }
    }
}
