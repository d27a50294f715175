//! One document: what it is, its metadata, its spec.

use std::collections::HashMap;

use serde_json::Value as Json;

use ringfence_crds::{names, pattern};

use super::limits::KEY_BYTES;
use super::places::{Faults, Places, Report, at, field};
use super::schema::Schemas;
use super::tree::{Entry, Node, Place, Value};
use super::{ParsedObject, ParsedSpec, Problem, Severity, meaning, words};
use crate::policy::{Kind, ObjectKey, Origin};

/// The longest name of a RuleSet, as [`pattern::RULE_SET_NAME`] has it.
const RULE_SET_NAME: usize = 244;
/// What says that a document is ours.
const HEADERS: [&str; 2] = ["apiVersion", "kind"];
/// Kinds of our group that the controller computes.
const COMPUTED: [&str; 4] = ["NodePolicy", "WorkloadPolicy", "PeerGroup", "AddressGroup"];

/// What became of a document.
pub(super) enum Outcome {
    /// Nothing is wrong with it.
    Whole(ParsedObject),
    /// It has an error.
    Broken(Broken),
}

/// A document with an error, as far as it could be read: what it declares is there to refer to, and what it refers to
/// must be there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Broken {
    pub key: Option<ObjectKey>,
    pub origin: Origin,
    /// With stand-ins for what could not be read.
    pub spec: Option<ParsedSpec>,
    pub places: Places,
    pub faults: Faults,
}

/// Reads one document.
pub(super) fn read(file: &str, root: &Node, schemas: &Schemas) -> (Outcome, Vec<Problem>) {
    if let Some(entry) = root.long_key() {
        return (Outcome::Broken(unread(file, root)), vec![long_key(file, entry)]);
    }
    let places = Places::new(root);
    let mut report = Report::new(file, &places);
    report_duplicate_keys(root, &mut report);
    let (key, spec) = match kind_of(root, &mut report) {
        Some(kind) => {
            let key = key_of(kind, root, &mut report);
            report_foreign_fields(root, &mut report);
            (key, spec_of(kind, root, schemas, &mut report))
        }
        None => (meant(root), None),
    };
    let whole = !report.has_errors();
    let (problems, faults) = report.into_parts();
    let origin = origin_of(file, root, spec.as_ref(), &places);
    let outcome = match (key, spec) {
        (Some(key), Some(spec)) if whole => {
            Outcome::Whole(ParsedObject { key, origin, spec, json: root.to_json(), places })
        }
        (key, spec) => Outcome::Broken(Broken { key, origin, spec, places, faults }),
    };
    (outcome, problems)
}

/// Of a document that is not looked at.
fn unread(file: &str, root: &Node) -> Broken {
    let origin = Origin { file: file.to_owned(), line: root.place.line, ..Origin::default() };
    Broken { key: None, origin, spec: None, places: Places::default(), faults: Faults::default() }
}

/// Paths are made of keys, so that a long one would be in many.
fn long_key(file: &str, entry: &Entry) -> Problem {
    let Place { line, column } = entry.place;
    let length = entry.key.len();
    let advice = "shorten it; the rest of the document was not looked at";
    let message = words::short(format!(
        "the key '{}' has {length} bytes and at most {KEY_BYTES} are possible: {advice}",
        entry.key
    ));
    Problem { path: file.to_owned(), line, column, message, severity: Severity::Error }
}

fn report_duplicate_keys(node: &Node, report: &mut Report<'_>) {
    if let Value::List(items) = &node.value {
        items.iter().for_each(|item| report_duplicate_keys(item, report));
    }
    let mut lines: HashMap<&str, u64> = HashMap::new();
    for entry in node.entries() {
        match lines.get(entry.key.as_str()) {
            Some(line) => {
                let message = format!("'{}' is written twice, first on line {line}: remove one", entry.key);
                report.error_at(entry.place, message);
            }
            None => _ = lines.insert(&entry.key, entry.place.line),
        }
        report_duplicate_keys(&entry.node, report);
    }
}

/// The kind, read before anything else: the rest is judged by it. There is none when the rest cannot be judged.
fn kind_of(root: &Node, report: &mut Report<'_>) -> Option<Kind> {
    if !matches!(root.value, Value::Map(_)) {
        let found = root.describe();
        report.error("", format!("not a Ringfence object but {found}: write apiVersion, kind, metadata and spec"));
        return None;
    }
    report_missing_headers(root, report);
    let api_version = header(root, "apiVersion", report);
    let kind = header(root, "kind", report)?;
    if let Some(foreign) = api_version.filter(|version| !is_ours(version)) {
        report.error(
            "apiVersion",
            format!("not a Ringfence object but {kind} of {foreign}: keep it outside the policy's folder"),
        );
        return None;
    }
    let known = known_kind(kind, report);
    if let Some(other) = api_version.filter(|version| *version != names::API_VERSION) {
        report.error("apiVersion", format!("unknown version '{other}': write {}", names::API_VERSION));
        return None;
    }
    known
}

fn report_missing_headers(root: &Node, report: &mut Report<'_>) {
    let missing: Vec<&str> = HEADERS.into_iter().filter(|name| root.entry(name).is_none()).collect();
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "is" } else { "are" };
        let missing = missing.join("' and '");
        let example = names::API_VERSION;
        report.error("", format!("not a Ringfence object: '{missing}' {verb} missing (apiVersion: {example})"));
    }
}

fn header<'a>(root: &'a Node, name: &str, report: &mut Report<'_>) -> Option<&'a str> {
    let node = &root.entry(name)?.node;
    if node.text().is_none() {
        report.error(name, format!("{} cannot stand here: text is expected", node.describe()));
    }
    node.text()
}

fn is_ours(api_version: &str) -> bool {
    api_version.split_once('/').map(|(group, _)| group) == Some(names::GROUP)
}

fn known_kind(kind: &str, report: &mut Report<'_>) -> Option<Kind> {
    if COMPUTED.contains(&kind) {
        report.error("kind", format!("{kind} is computed by the controller: remove the document"));
        return None;
    }
    let known = kind.parse().ok();
    if known.is_none() {
        let possible = Kind::ALL.iter().map(|kind| kind.as_str());
        report.error("kind", format!("unknown kind '{kind}': {}", words::suggest(kind, possible)));
    }
    known
}

/// What a document declares whose kind is misspelled or of another version: a reference to it is no second mistake.
fn meant(root: &Node) -> Option<ObjectKey> {
    let text = |node: &Node, name: &str| node.entry(name).and_then(|entry| entry.node.text()).map(str::to_owned);
    if text(root, "apiVersion").is_some_and(|version| !is_ours(&version)) {
        return None;
    }
    let kind = text(root, "kind")?;
    let kind: Kind = words::nearest(&kind, Kind::ALL.iter().map(|kind| kind.as_str()))?.parse().ok()?;
    let metadata = &root.entry("metadata")?.node;
    let namespace = text(metadata, "namespace").filter(|_| kind.namespaced());
    Some(ObjectKey { kind, namespace, name: text(metadata, "name")? })
}

/// Reads `metadata`. There is a key as soon as the name is readable.
fn key_of(kind: Kind, root: &Node, report: &mut Report<'_>) -> Option<ObjectKey> {
    const KNOWN: [&str; 4] = ["annotations", "labels", "name", "namespace"];
    let Some(metadata) = root.entry("metadata") else {
        report.error("", "'metadata' is missing: give the object a name, as in 'metadata: {name: shop}'");
        return None;
    };
    if !matches!(metadata.node.value, Value::Map(_)) {
        report.error("metadata", "metadata is a mapping: write 'metadata: {name: shop}'");
        return None;
    }
    for entry in metadata.node.entries() {
        if !KNOWN.contains(&entry.key.as_str()) {
            let advice = words::suggest(&entry.key, KNOWN);
            let message = format!("unknown field '{}' in metadata: {advice}", entry.key);
            report.error_at_key(&field("metadata", &entry.key), message);
        }
    }
    check_string_map("labels", &metadata.node, report);
    check_string_map("annotations", &metadata.node, report);
    let namespace = namespace_of(kind, &metadata.node, report);
    let name = name_of(kind, &metadata.node, report)?;
    Some(ObjectKey { kind, namespace, name })
}

fn name_of(kind: Kind, metadata: &Node, report: &mut Report<'_>) -> Option<String> {
    const PATH: &str = "metadata.name";
    let Some(entry) = metadata.entry("name") else {
        report.error("metadata", "'name' is missing: give the object a name, as in 'metadata: {name: shop}'");
        return None;
    };
    let Some(name) = entry.node.text() else {
        report.error(PATH, format!("{} is no name: put it in quotes to make it text", entry.node.describe()));
        return None;
    };
    // A profile is named like a namespace and a VirtualService like a Service: no dots, 63 letters.
    let one_label = matches!(kind, Kind::ContainerWorkloadProfile | Kind::VirtualService);
    if (one_label && !is_dns_label(name)) || !is_dns_name(name) {
        let dots = if one_label { "" } else { " or '.'" };
        let most = if one_label { 63 } else { 253 };
        let form = format!("use 1 to {most} lower-case letters, digits, '-'{dots}");
        report.error(PATH, format!("'{name}' is no name: {form}, beginning and ending with a letter or digit"));
    }
    if kind == Kind::RuleSet && name.len() > RULE_SET_NAME {
        report.error(PATH, pattern::RULE_SET_NAME_HELP);
    }
    Some(name.to_owned())
}

fn namespace_of(kind: Kind, metadata: &Node, report: &mut Report<'_>) -> Option<String> {
    const PATH: &str = "metadata.namespace";
    match (metadata.entry("namespace"), kind.namespaced()) {
        (None, false) => None,
        (None, true) => {
            report.error("metadata", format!("'namespace' is missing: a {kind} lives in a namespace"));
            None
        }
        (Some(_), false) => {
            report.error_at_key(PATH, format!("a {kind} is cluster-wide: remove namespace"));
            None
        }
        (Some(entry), true) => {
            let text = entry.node.text().filter(|text| is_dns_label(text));
            if text.is_none() {
                report.error(PATH, format!("{} is no name of a namespace", entry.node.describe()));
            }
            text.map(str::to_owned)
        }
    }
}

fn check_string_map(name: &str, metadata: &Node, report: &mut Report<'_>) {
    let Some(entry) = metadata.entry(name) else { return };
    let path = field("metadata", name);
    if !matches!(entry.node.value, Value::Map(_) | Value::Null) {
        report.error(&path, format!("{name} is a mapping from text to text"));
    }
    for value in entry.node.entries() {
        let path = field(&path, &value.key);
        let Some(text) = value.node.text() else {
            let found = value.node.describe();
            report.error(&path, format!("{found} cannot stand here: put it in quotes to make it text"));
            continue;
        };
        if name == "labels" && !text.is_empty() && text.parse::<ringfence_model::LabelValue>().is_err() {
            let form = "use at most 63 letters, digits, '-', '_' or '.'";
            report.error(&path, format!("'{text}' is no value of a Kubernetes label: {form}"));
        }
    }
}

fn report_foreign_fields(root: &Node, report: &mut Report<'_>) {
    const KNOWN: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];
    let free: Vec<&str> = KNOWN.into_iter().filter(|name| root.entry(name).is_none()).collect();
    for entry in root.entries() {
        if entry.key == "status" {
            report.error_at_key("status", "status is written by the controller and never by people: remove it");
        } else if !KNOWN.contains(&entry.key.as_str()) {
            let advice = words::suggest(&entry.key, free.iter().copied());
            report.error_at_key(&entry.key, format!("unknown field '{}': {advice}", entry.key));
        }
    }
}

fn spec_of(kind: Kind, root: &Node, schemas: &Schemas, report: &mut Report<'_>) -> Option<ParsedSpec> {
    let Some(entry) = root.entry("spec") else {
        report.error("", format!("'spec' is missing: say what the {kind} is, or write 'spec: {{}}'"));
        return None;
    };
    let json = schemas.check_spec(kind, &entry.node, report);
    // The name is judged where it stands; rules about it find nothing wrong with this one.
    schemas.check_rules(kind, &serde_json::json!({ "metadata": { "name": "" }, "spec": json }), report);
    match typed(kind, json) {
        Ok(spec) => {
            meaning::check(&spec, report);
            Some(spec)
        }
        Err(error) => {
            // The schema has found what serde stumbles over, unless the two disagree.
            if !report.has_errors() {
                report.error("spec", error.to_string());
            }
            None
        }
    }
}

fn typed(kind: Kind, json: Json) -> Result<ParsedSpec, serde_json::Error> {
    let from = json;
    Ok(match kind {
        Kind::ContainerCluster => ParsedSpec::ContainerCluster(serde_json::from_value(from)?),
        Kind::ContainerWorkloadProfile => ParsedSpec::ContainerWorkloadProfile(serde_json::from_value(from)?),
        Kind::VirtualService => ParsedSpec::VirtualService(serde_json::from_value(from)?),
        Kind::Workload => ParsedSpec::Workload(serde_json::from_value(from)?),
        Kind::IpList => ParsedSpec::IpList(serde_json::from_value(from)?),
        Kind::LabelGroup => ParsedSpec::LabelGroup(serde_json::from_value(from)?),
        Kind::ServiceDefinition => ParsedSpec::ServiceDefinition(serde_json::from_value(from)?),
        Kind::RuleSet => ParsedSpec::RuleSet(serde_json::from_value(from)?),
        Kind::PolicyRepository => ParsedSpec::PolicyRepository(serde_json::from_value(from)?),
    })
}

fn origin_of(file: &str, root: &Node, spec: Option<&ParsedSpec>, places: &Places) -> Origin {
    let mut origin = Origin { file: file.to_owned(), line: root.place.line, ..Origin::default() };
    if let Some(ParsedSpec::RuleSet(rule_set)) = spec {
        for (index, rule) in rule_set.rules.iter().enumerate() {
            let Place { line, .. } = places.of(&at("spec.rules", index));
            origin.rule_lines.insert(rule.name.clone(), line);
        }
    }
    origin
}

/// Whether the text is a DNS label, as namespaces are named.
fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Whether the text is a DNS name, as objects are named.
fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    /// A list of a list is what no field takes: where lists are taken, their items are none.
    #[test]
    fn a_spec_is_read_whatever_is_written_in_its_fields() {
        for definition in ringfence_crds::all() {
            let Ok(kind) = definition.spec.names.kind.parse::<Kind>() else { continue };
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).expect("JSON");
            let fields = schema.pointer("/openAPIV3Schema/properties/spec/properties").and_then(Json::as_object);
            let fields: Vec<String> = fields.expect("fields").keys().map(|name| format!("{name}: [[]]")).collect();
            for spec in ["5", "{}", &format!("{{{}}}", fields.join(", "))] {
                let text = format!("apiVersion: ringfence.dev/v1alpha1\nkind: {kind}\nspec: {spec}\n");
                let root = tree::documents(&mut text.as_bytes()).next().expect("one").expect("readable");
                let (Outcome::Broken(broken), _) = read("a.yaml", &root, Schemas::get()) else {
                    panic!("there is no name: {text}")
                };
                assert!(broken.spec.is_some(), "{text}");
            }
        }
    }
}
