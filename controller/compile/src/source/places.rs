//! Where each field of a document stands, and the problems found in it.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::{DOCUMENT_ERRORS, PLACES_BYTES};
use super::tree::{Node, Place, Value};
use super::{Problem, Severity, words};

/// The places of a document's fields, by path such as `spec.rules[2].services[0].port`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    values: BTreeMap<String, Place>,
    keys: BTreeMap<String, Place>,
    /// Of all paths.
    bytes: usize,
}

impl Places {
    pub(super) fn new(root: &Node) -> Self {
        let mut places = Self::default();
        places.add(String::new(), None, root);
        places
    }

    fn add(&mut self, path: String, key: Option<Place>, node: &Node) {
        let collection = matches!(node.value, Value::List(_) | Value::Map(_));
        let place = match key {
            // A block that begins below its key: the key is what one looks for.
            Some(key) if collection && key.line != node.place.line => key,
            // Nothing after the colon: a parser puts that anywhere up to the next token.
            Some(key) if matches!(node.value, Value::Null) => key,
            _ => node.place,
        };
        match &node.value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add(at(&path, index), None, item);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let path = field(&path, &entry.key);
                    if self.has_room_for(&path) {
                        self.keys.entry(path.clone()).or_insert(entry.place);
                    }
                    self.add(path, Some(entry.place), &entry.node);
                }
            }
            _ => {}
        }
        if self.has_room_for(&path) {
            self.values.entry(path).or_insert(place);
        }
    }

    /// Deep within long keys, many fields could have paths longer than what is written.
    fn has_room_for(&mut self, path: &str) -> bool {
        self.bytes = self.bytes.saturating_add(path.len());
        self.bytes <= PLACES_BYTES
    }

    /// The place of a field's value; of what is nearest around it when it is not written.
    pub fn of(&self, path: &str) -> Place {
        around(path).find_map(|path| self.values.get(path)).copied().unwrap_or(Place::START)
    }

    /// The place of a field's name.
    pub fn of_key(&self, path: &str) -> Place {
        self.keys.get(path).copied().unwrap_or_else(|| self.of(path))
    }
}

/// The path itself, then those of what it lies in, up to the whole document.
fn around(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        (!path.is_empty()).then(|| path.rfind(['.', '[']).map_or("", |end| &path[..end]))
    })
}

/// The fields of its value that a CEL rule speaks of.
fn spoken_of(rule: &str) -> impl Iterator<Item = &str> {
    rule.split("self.").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        &rest[..end]
    })
}

/// The path of a field of a mapping.
pub(super) fn field(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of an item of a list.
pub(super) fn at(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Where a document is at fault, so that a further check repeats nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Fields with an error.
    at: BTreeSet<String>,
    /// Those whose value could not be read, so that a stand-in has its place.
    unread: BTreeSet<String>,
}

/// Those of a document without an error.
pub(super) static NO_FAULTS: Faults = Faults { at: BTreeSet::new(), unread: BTreeSet::new() };

impl Faults {
    /// Whether a check of the field would only repeat an error: one of the field or within it, or the field is part of
    /// a stand-in. An error of what the field lies in is another one.
    pub(super) fn cover(&self, path: &str) -> bool {
        let within = self.at.range(path.to_owned()..).take_while(|other| other.starts_with(path));
        let inside = |other: &String| matches!(other[path.len()..].chars().next(), None | Some('.' | '['));
        within.into_iter().any(inside) || around(path).any(|outer| self.unread.contains(outer))
    }
}

/// The problems of one document, as they are found.
pub(super) struct Report<'a> {
    file: &'a str,
    places: &'a Places,
    problems: Vec<Problem>,
    errors: usize,
    faults: Faults,
    /// Fields that nothing knows, most often misspelled ones, so that rules about what holds them miss the right one.
    unknown: BTreeSet<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, places: &'a Places) -> Self {
        Self { file, places, problems: Vec::new(), errors: 0, faults: Faults::default(), unknown: BTreeSet::new() }
    }

    /// An error at a field's value.
    pub(super) fn error(&mut self, path: &str, message: impl Into<String>) {
        self.note(path);
        self.push(self.places.of(path), message.into(), Severity::Error);
    }

    /// An error that a rule about a value found: shown at the first field that the rule speaks of and that is written.
    pub(super) fn error_of_rule(&mut self, path: &str, rule: &str, message: impl Into<String>) {
        self.faults.at.insert(path.to_owned());
        let written = spoken_of(rule).map(|name| field(path, name)).find(|path| self.places.values.contains_key(path));
        self.push(self.places.of(written.as_deref().unwrap_or(path)), message.into(), Severity::Error);
    }

    /// An error at a field's value: it cannot be read, and a stand-in has its place.
    pub(super) fn unread(&mut self, path: &str, message: impl Into<String>) {
        self.faults.unread.insert(path.to_owned());
        self.error(path, message);
    }

    /// An error at a field's name.
    pub(super) fn error_at_key(&mut self, path: &str, message: impl Into<String>) {
        self.note(path);
        self.push(self.places.of_key(path), message.into(), Severity::Error);
    }

    /// An error at a field's name: nothing knows it.
    pub(super) fn unknown_field(&mut self, path: &str, message: impl Into<String>) {
        if !self.is_full() {
            self.unknown.insert(path.to_owned());
        }
        self.error_at_key(path, message);
    }

    /// An error at a place that has no path of its own, such as the second of two equal keys.
    pub(super) fn error_at(&mut self, place: Place, message: String) {
        self.push(place, message, Severity::Error);
    }

    /// A warning at a field's value, unless that has an error.
    pub(super) fn warning(&mut self, path: &str, message: impl Into<String>) {
        if !self.is_faulty(path) {
            self.push(self.places.of(path), message.into(), Severity::Warning);
        }
    }

    /// Whether an error was found at the field or within it, so that a further check would only repeat it.
    pub(super) fn is_faulty(&self, path: &str) -> bool {
        self.faults.cover(path)
    }

    /// Whether an error was found at the field itself.
    pub(super) fn is_faulty_itself(&self, path: &str) -> bool {
        self.faults.at.contains(path)
    }

    /// Whether the field's value could not be read.
    pub(super) fn is_unread(&self, path: &str) -> bool {
        self.faults.unread.contains(path)
    }

    /// Whether a rule about the value at the path would only repeat an error: the value itself is faulty, or a field
    /// of it that the rule speaks of, or a field of it may be the misspelled one that the rule misses.
    pub(super) fn explains(&self, path: &str, rule: &str) -> bool {
        let parent = |field: &str| around(field).nth(1) == Some(path);
        let spoken_of = |field: &str| {
            let name = field[path.len()..].trim_start_matches('.');
            rule.contains(&format!("self.{name}"))
        };
        self.is_faulty_itself(path)
            || (self.unknown.iter().any(|field| parent(field)) && self.misses_a_field(path, rule))
            || self.faults.at.iter().any(|field| parent(field) && spoken_of(field))
    }

    /// Whether a rule speaks of a field that is not written.
    fn misses_a_field(&self, path: &str, rule: &str) -> bool {
        spoken_of(rule).any(|name| !self.places.keys.contains_key(&field(path, name)))
    }

    /// Whether any error was found.
    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// What was found, and where.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Faults) {
        (self.problems, self.faults)
    }

    /// Whether so many errors were found that no more are told.
    pub(super) fn is_full(&self) -> bool {
        self.errors >= DOCUMENT_ERRORS
    }

    fn note(&mut self, path: &str) {
        if !self.is_full() {
            self.faults.at.insert(path.to_owned());
        }
    }

    /// After many errors of one document, which is refused by the first, no more are told; the last one that is says so.
    fn push(&mut self, place: Place, message: String, severity: Severity) {
        if self.is_full() {
            return;
        }
        let Place { line, column } = place;
        let mut message = words::short(message);
        if severity == Severity::Error {
            self.errors += 1;
            if self.is_full() {
                message.push_str(" (any further problems of this document are not shown)");
            }
        }
        self.problems.push(Problem { path: self.file.to_owned(), line, column, message, severity });
    }
}
