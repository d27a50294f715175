//! The forms of texts in the kinds, so that the apiserver, the importer and `ringfence check` accept the same.
//!
//! They are regular expressions where the value is a field, because these cost nothing, and a CEL rule where it is the
//! key of a mapping, which no structural schema can say.

macro_rules! v4 {
    () => {
        r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}"
    };
}
/// The alphabet of IPv6: its grammar as a regular expression would be longer than the schema. What is left over is found
/// where the address is read, and covers nothing.
macro_rules! v6 {
    () => {
        r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"
    };
}
macro_rules! v4_length {
    () => {
        r"/(3[0-2]|[12]?[0-9])"
    };
}
macro_rules! v6_length {
    () => {
        r"/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
    };
}

macro_rules! domain_label {
    () => {
        r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    };
}

/// A domain name of at least two labels, with or without `*.` before it and a dot behind it.
pub const NAME: &str = concat!(r"^(\*\.)?(", domain_label!(), r"\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$");
/// A label dimension.
pub const DIMENSION: &str = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
/// A label value.
pub const VALUE: &str = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$";
/// An address.
pub const ADDRESS: &str = concat!("^(", v4!(), "|", v6!(), ")$");
/// A prefix.
pub const PREFIX: &str = concat!("^(", v4!(), v4_length!(), "|", v6!(), v6_length!(), ")$");
/// An address, a prefix, or a range from one address to another.
pub const RANGE: &str =
    concat!("^(", v4!(), "(", v4_length!(), "| *- *", v4!(), ")?|", v6!(), "(", v6_length!(), "| *- *", v6!(), ")?)$");

/// Of a mapping: every key is a label dimension.
pub const DIMENSION_KEYS: &str = r"self.all(key, key.matches('^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'))";
/// What [`DIMENSION_KEYS`] says when it fails.
pub const DIMENSION_KEYS_HELP: &str =
    "a label dimension has 1 to 63 lower-case letters, digits or '-', and begins with a letter (role, app, env)";

/// Of a RuleSet: its name leaves room for those of its WorkloadPolicies.
pub const RULE_SET_NAME: &str = "self.metadata.name.size() <= 244";
/// What [`RULE_SET_NAME`] says when it fails.
pub const RULE_SET_NAME_HELP: &str =
    "the name of a RuleSet has at most 244 characters, because what is compiled from it is named after it: shorten it";
