//! Policy as text: YAML files in, typed objects and every problem out (room 2).
//!
//! A document is read twice: as a tree of nodes that know their place, and as the concrete type of its kind. So a
//! field that serde, a CEL rule or a reference check complains about is found again in the tree, and the problem
//! points at it.

mod check;
mod cycles;
mod document;
mod entries;
mod index;
mod limits;
mod meaning;
mod places;
mod schema;
mod stand_in;
mod tree;
mod words;

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt;

use ringfence_crds::common::NamespacedName;
use ringfence_crds::{
    ContainerClusterSpec, ContainerWorkloadProfileSpec, IpListSpec, LabelGroupSpec, PolicyRepositorySpec, RuleSetSpec,
    ServiceDefinitionSpec, VirtualServiceSpec, WorkloadSpec,
};

pub use self::entries::{EntryError, EntryKind, Reading, file, join, reading};
pub use self::limits::FILE_BYTES;
pub use self::places::Places;
pub use self::tree::Place;
use crate::policy::{ObjectKey, Origin, Policy};

/// A file of policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Path, relative to the root of the source.
    pub path: String,
    /// Content.
    pub text: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The source is refused.
    Error,
    /// The source is taken; something in it selects nothing.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Something wrong at a place. The order is that of the places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File.
    pub path: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What is wrong, and how to fix it.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.path, self.line, self.column, self.severity, self.message)
    }
}

/// The spec of an object, typed by its kind.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the kind of its name")]
pub enum ParsedSpec {
    ContainerCluster(ContainerClusterSpec),
    ContainerWorkloadProfile(ContainerWorkloadProfileSpec),
    VirtualService(VirtualServiceSpec),
    Workload(WorkloadSpec),
    IpList(IpListSpec),
    LabelGroup(LabelGroupSpec),
    ServiceDefinition(ServiceDefinitionSpec),
    RuleSet(RuleSetSpec),
    PolicyRepository(PolicyRepositorySpec),
}

/// An object that was read without an error of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedObject {
    /// What identifies it.
    pub key: ObjectKey,
    /// Where it is written.
    pub origin: Origin,
    /// Its spec.
    pub spec: ParsedSpec,
    /// The whole object as written, for server-side apply.
    pub json: serde_json::Value,
    /// Where its fields are written.
    pub places: Places,
}

impl ParsedObject {
    /// Whether it is policy, and not what leads to policy.
    pub fn is_policy(&self) -> bool {
        self.key.kind != crate::policy::Kind::PolicyRepository
    }
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// The objects without an error of their own, in the order of the files.
    pub objects: Vec<ParsedObject>,
    /// Every problem of every document.
    pub problems: Vec<Problem>,
    /// What could be read of the documents with an error.
    broken: Vec<document::Broken>,
}

/// Objects that a source may refer to although it does not hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveNames {
    /// Those that live in the cluster and are not from this source.
    pub keys: BTreeSet<ObjectKey>,
    /// Those of the IPLists among them that have names.
    pub lists_with_names: BTreeSet<String>,
}

/// Reads files (multi-document YAML; those that are not named `*.yaml` or `*.yml` are left out). Every problem of
/// every document is reported, up to a bound for each document and file; only a fault of the YAML itself ends its file.
pub fn parse(files: &[SourceFile]) -> Parsed {
    let mut files: Vec<&SourceFile> = files.iter().filter(|file| entries::is_policy(&file.path)).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let schemas = schema::Schemas::get();
    let mut parsed = Parsed::default();
    for file in files {
        let mut text = file.text.as_bytes();
        let mut documents = tree::documents(&mut text).peekable();
        let mut errors = 0;
        while let Some(document) = documents.next() {
            match document {
                Ok(root) => {
                    let (outcome, problems) = document::read(&file.path, &root, schemas);
                    errors += problems.iter().filter(|problem| problem.severity == Severity::Error).count();
                    parsed.problems.extend(problems);
                    match outcome {
                        document::Outcome::Whole(object) => parsed.objects.push(object),
                        document::Outcome::Broken(broken) => parsed.broken.push(broken),
                    }
                    if errors >= limits::FILE_ERRORS && documents.peek().is_some() {
                        parsed.problems.push(too_many_errors(&file.path, root.place, errors));
                        break;
                    }
                }
                Err(error) => {
                    errors += 1;
                    parsed.problems.push(syntax_problem(file, &error, documents.peek().is_none()));
                }
            }
        }
    }
    parsed.problems.sort();
    parsed
}

/// A file with so many errors that it is not read on: it is refused already.
fn too_many_errors(path: &str, place: Place, errors: usize) -> Problem {
    let Place { line, column } = place;
    let message = format!("{errors} errors up to here: the rest of the file was not read, mend these first");
    Problem { path: path.to_owned(), line, column, message, severity: Severity::Error }
}

/// A document that cannot be read. After the last one of a file nobody knows what else there is.
fn syntax_problem(file: &SourceFile, error: &serde_saphyr::Error, last: bool) -> Problem {
    let place = within(&file.text, error.location().map_or(Place::START, Place::of));
    let text = error.without_snippet().to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    let unread = if last { "; the rest of the file was not read" } else { "; the rest of the document was not read" };
    let message = words::short(format!("not readable as YAML: {reason}{unread}"));
    let path = file.path.clone();
    Problem { path, line: place.line, column: place.column, message, severity: Severity::Error }
}

/// The place itself; of one behind the end of a text, the end of its last line, so that there is something to show.
fn within(text: &str, place: Place) -> Place {
    let lines = text.lines().count() as u64;
    match text.lines().last() {
        Some(last) if place.line > lines => Place { line: lines, column: last.chars().count() as u64 + 1 },
        _ => place,
    }
}

/// Checks the objects against each other: duplicates, dangling references, cycles, empty selections. Needs no cluster.
/// The problems that [`parse`] found are not repeated.
pub fn check(parsed: &Parsed, live: &LiveNames) -> Vec<Problem> {
    let mut problems = check::check(parsed, live);
    problems.extend(entries::left_out(parsed));
    problems
}

/// The objects as [`Policy`]. Of duplicates the first counts.
pub fn to_policy(parsed: &Parsed) -> Policy {
    let mut policy = Policy::default();
    let mut has_cluster = false;
    for object in &parsed.objects {
        let name = object.key.name.clone();
        let added = match &object.spec {
            ParsedSpec::ContainerCluster(spec) if !has_cluster => {
                has_cluster = true;
                policy.cluster = spec.clone();
                true
            }
            ParsedSpec::ContainerCluster(_) | ParsedSpec::PolicyRepository(_) => false,
            ParsedSpec::ContainerWorkloadProfile(spec) => add(&mut policy.profiles, name, spec),
            ParsedSpec::VirtualService(spec) => {
                let namespace = object.key.namespace.clone().unwrap_or_default();
                add(&mut policy.virtual_services, NamespacedName { namespace, name }, spec)
            }
            ParsedSpec::Workload(spec) => add(&mut policy.workloads, name, spec),
            ParsedSpec::IpList(spec) => add(&mut policy.ip_lists, name, spec),
            ParsedSpec::LabelGroup(spec) => add(&mut policy.label_groups, name, spec),
            ParsedSpec::ServiceDefinition(spec) => add(&mut policy.service_definitions, name, spec),
            ParsedSpec::RuleSet(spec) => add(&mut policy.rule_sets, name, spec),
        };
        if added {
            policy.origins.insert(object.key.clone(), object.origin.clone());
        }
    }
    policy
}

/// Adds a spec unless the name is taken; says whether it did.
fn add<K: Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: K, spec: &V) -> bool {
    match map.entry(key) {
        Entry::Vacant(free) => {
            free.insert(spec.clone());
            true
        }
        Entry::Occupied(_) => false,
    }
}
