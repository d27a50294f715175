//! Checks a document against its kind's schema, the one that the apiserver has: fields, types, bounds and CEL rules.
//! Unlike serde, which stops at the first fault, this finds all of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;
use ringfence_crds::cel::{CompiledSchema, ErrorKind, Validator, compile_schema};
use ringfence_crds::pattern;
use ringfence_model::Dimension;
use serde_json::Value as Json;

use super::places::{Report, at, field};
use super::stand_in::{required, required_fields, stand_in};
use super::tree::{Node, Value};
use super::words;
use crate::policy::Kind;

/// The schemas of all kinds, with compiled rules and patterns.
pub(super) struct Schemas {
    kinds: BTreeMap<Kind, Schema>,
    patterns: BTreeMap<String, Regex>,
}

/// The same for every source, and some milliseconds of work, so made once.
static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::new);

struct Schema {
    /// Of the whole object.
    object: Json,
    rules: CompiledSchema,
}

impl Schemas {
    /// The schemas of the kinds that people write.
    pub(super) fn get() -> &'static Self {
        &SCHEMAS
    }

    fn new() -> Self {
        let mut schemas = Self { kinds: BTreeMap::new(), patterns: BTreeMap::new() };
        for definition in ringfence_crds::all() {
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.plural() == definition.spec.names.plural) else {
                continue;
            };
            let written = definition.spec.versions.first().and_then(|version| version.schema.as_ref());
            let object = serde_json::to_value(written.and_then(|schema| schema.open_api_v3_schema.as_ref()));
            let object = object.unwrap_or_default();
            schemas.add_patterns(&object);
            schemas.kinds.insert(kind, Schema { rules: compile_schema(&object), object });
        }
        schemas
    }

    fn add_patterns(&mut self, schema: &Json) {
        match schema {
            Json::Object(fields) => {
                if let Some(Ok(regex)) = fields.get("pattern").and_then(Json::as_str).map(Regex::new) {
                    self.patterns.insert(regex.as_str().to_owned(), regex);
                }
                fields.values().for_each(|value| self.add_patterns(value));
            }
            Json::Array(items) => items.iter().for_each(|value| self.add_patterns(value)),
            _ => {}
        }
    }

    /// Checks `spec` for fields, types and bounds. Returns it as JSON of the schema's type whatever is written: with
    /// only what the schema knows, and with stand-ins for what is missing or cannot be read.
    pub(super) fn check_spec(&self, kind: Kind, spec: &Node, report: &mut Report<'_>) -> Json {
        match self.kinds.get(&kind).and_then(|schema| schema.object.pointer("/properties/spec")) {
            Some(schema) => self.check_node("spec", schema, spec, report),
            None => spec.to_json(),
        }
    }

    /// Runs the CEL rules of the kind, as the apiserver would.
    pub(super) fn check_rules(&self, kind: Kind, object: &Json, report: &mut Report<'_>) {
        let Some(schema) = self.kinds.get(&kind).filter(|_| !report.is_full()) else { return };
        let Err(errors) = Validator::new().validate_compiled(&schema.rules, object, None) else { return };
        let mut errors = errors.into_vec();
        let had_errors = report.has_errors();
        errors.retain(|error| {
            // A rule that trips over a fault already reported says nothing new.
            let tripped = error.kind != ErrorKind::ValidationFailure && had_errors;
            // A rule about keys is checked with the keys, each at its place.
            !tripped && !report.explains(&error.field_path, &error.rule) && error.rule != pattern::DIMENSION_KEYS
        });
        // Only now: one rule about a value does not explain another.
        errors.into_iter().for_each(|error| report.error_of_rule(&error.field_path, &error.rule, error.message));
    }

    fn check_node(&self, path: &str, schema: &Json, node: &Node, report: &mut Report<'_>) -> Json {
        let nullable = schema.get("nullable").and_then(Json::as_bool).unwrap_or(false);
        match (schema.get("type").and_then(Json::as_str).unwrap_or("object"), &node.value) {
            (_, Value::Null) if nullable => {}
            (_, Value::Null) => report.unread(path, "nothing is written here: give a value, or remove the field"),
            ("object", Value::Map(_)) => return self.check_map(path, schema, node, report),
            ("array", Value::List(items)) => return self.check_list(path, schema, items, report),
            ("string", Value::Text(text)) => self.check_text(path, schema, text, report),
            ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => {}
            ("integer", Value::Number(number)) if !number.is_f64() => check_bounds(path, schema, number, report),
            (expected, _) => report.unread(path, wrong_type(expected, node)),
        }
        if report.is_unread(path) { stand_in(path, schema) } else { node.to_json() }
    }

    fn check_map(&self, path: &str, schema: &Json, node: &Node, report: &mut Report<'_>) -> Json {
        let known = schema.get("properties").and_then(Json::as_object);
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        check_size(path, schema, node, report);
        if report.is_unread(path) {
            // Too many to be looked at one by one.
            return stand_in(path, schema);
        }
        let dimensions = has_rule(schema, pattern::DIMENSION_KEYS);
        let written: HashSet<&str> = node.entries().iter().map(|entry| entry.key.as_str()).collect();
        let names = known.into_iter().flat_map(|known| known.keys().map(String::as_str));
        let free: Vec<&str> = names.filter(|name| !written.contains(name)).collect();
        let mut json = serde_json::Map::new();
        for entry in node.entries() {
            let path = field(path, &entry.key);
            if let (true, Err(error)) = (dimensions, entry.key.parse::<Dimension>()) {
                report.error_at_key(&path, error.to_string());
            }
            match known.and_then(|known| known.get(&entry.key)).or(others) {
                Some(schema) if !json.contains_key(&entry.key) => {
                    let value = self.check_node(&path, schema, &entry.node, report);
                    json.insert(entry.key.clone(), value);
                }
                Some(_) => {}
                None => {
                    let advice = words::suggest(&entry.key, free.iter().copied());
                    report.unknown_field(&path, format!("unknown field '{}': {advice}", entry.key));
                }
            }
        }
        for name in required_fields(schema).filter(|name| node.entry(name).is_none()) {
            let about = known.and_then(|known| known.get(name)?.get("description")?.as_str());
            report.unread(&field(path, name), format!("'{name}' is missing: {}", about.unwrap_or("add it")));
        }
        required(path, schema, json).into()
    }

    fn check_list(&self, path: &str, schema: &Json, items: &[Node], report: &mut Report<'_>) -> Json {
        if let Some(most) = schema.get("maxItems").and_then(Json::as_u64)
            && items.len() as u64 > most
        {
            report.unread(path, format!("{} entries are too many: at most {most}, split the object", items.len()));
            return stand_in(path, schema);
        }
        let item_schema = schema.get("items").unwrap_or(&Json::Null);
        let checked = items.iter().enumerate();
        checked.map(|(index, item)| self.check_node(&at(path, index), item_schema, item, report)).collect()
    }

    fn check_text(&self, path: &str, schema: &Json, text: &str, report: &mut Report<'_>) {
        if let Some(most) = schema.get("maxLength").and_then(Json::as_u64)
            && text.chars().count() as u64 > most
        {
            report.error(path, format!("{} characters are too many: at most {most}", text.chars().count()));
            return;
        }
        if text.is_empty() && schema.get("minLength").and_then(Json::as_u64).is_some_and(|least| least > 0) {
            report.error(path, "nothing is written here: give a value, or remove the field");
            return;
        }
        if let Some(possible) = schema.get("enum").and_then(Json::as_array)
            && !possible.iter().any(|word| word.as_str() == Some(text))
        {
            let words = possible.iter().filter_map(Json::as_str);
            report.unread(path, format!("'{text}' is not possible here: {}", words::suggest(text, words)));
        }
        if let Some(pattern) = schema.get("pattern").and_then(Json::as_str)
            && !self.patterns.get(pattern).is_some_and(|regex| regex.is_match(text))
        {
            report.error(path, format!("'{text}' is not valid: {}", words::form(pattern)));
        }
    }
}

/// Whether a schema has a certain CEL rule.
fn has_rule(schema: &Json, rule: &str) -> bool {
    let rules = schema.get("x-kubernetes-validations").and_then(Json::as_array);
    rules.into_iter().flatten().any(|own| own.get("rule").and_then(Json::as_str) == Some(rule))
}

fn check_size(path: &str, schema: &Json, node: &Node, report: &mut Report<'_>) {
    let count = node.entries().len() as u64;
    if let Some(most) = schema.get("maxProperties").and_then(Json::as_u64).filter(|most| count > *most) {
        report.unread(path, format!("{count} entries are too many: at most {most}"));
    }
}

fn check_bounds(path: &str, schema: &Json, number: &serde_json::Number, report: &mut Report<'_>) {
    let value = number.as_f64().unwrap_or(f64::NAN);
    let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
    let (least, most) = (bound("minimum"), bound("maximum"));
    if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
        let range = match (least, most) {
            (Some(least), Some(most)) => format!("give {least} to {most}"),
            (Some(least), None) => format!("give {least} or more"),
            (None, most) => format!("give {} or less", most.unwrap_or_default()),
        };
        report.unread(path, format!("{number} is out of range: {range}"));
    }
}

fn wrong_type(expected: &str, node: &Node) -> String {
    let found = node.describe();
    let advice = match (expected, &node.value) {
        ("string", Value::Number(_) | Value::Bool(_)) => "put it in quotes to make it text".to_owned(),
        ("array", Value::Text(text)) => format!("a list is expected, write [{text}]"),
        ("array", _) => "a list is expected, put it in brackets or under a '-'".to_owned(),
        ("object", _) => "a mapping is expected, such as {name: value}".to_owned(),
        ("boolean", _) => "write true or false".to_owned(),
        ("integer" | "number", _) => "write a whole number, without quotes".to_owned(),
        _ => "text is expected".to_owned(),
    };
    format!("{found} cannot stand here: {advice}")
}
