//! Checks objects against each other: duplicates, references, cycles, and what selects nothing.

use std::collections::BTreeMap;

use ringfence_crds::rule_set::{Actor, PolicyRule};
use ringfence_crds::{LabelGroupSpec, RuleSetSpec};
use ringfence_model::Action;

use super::cycles::cycles;
use super::index::{Document, Index, documents};
use super::limits::CHECK_PROBLEMS;
use super::places::{at, field};
use super::{LiveNames, Parsed, ParsedSpec, Place, Problem, Severity, to_policy, words};
use crate::compile::Compiler;
use crate::compile::actors::{NAMES_BLOCK, NAMES_FROM};
use crate::policy::{Kind, ObjectKey};

/// Where an object's name is written.
const NAME: &str = "metadata.name";

/// Checks the objects of a source against each other, and what could be read of those with an error too. The problems
/// of [`super::parse`] are not repeated.
pub(super) fn check(parsed: &Parsed, live: &LiveNames) -> Vec<Problem> {
    let documents = documents(parsed);
    let index = Index::new(&documents, parsed, live);
    let mut problems = Problems::default();
    check_duplicates(&documents, &mut problems);
    check_clusters(&documents, live, &mut problems);
    for document in &documents {
        let mut checker = Checker { index: &index, document, problems: &mut problems };
        match document.spec {
            Some(ParsedSpec::RuleSet(spec)) => checker.check_rule_set(spec),
            Some(ParsedSpec::LabelGroup(spec)) => checker.check_label_group(spec),
            Some(ParsedSpec::VirtualService(spec)) => checker.check_fixed_labels(&spec.labels),
            _ => {}
        }
    }
    check_cycles(&index, &mut problems);
    check_limits(parsed, &documents, &mut problems);
    problems.into_sorted()
}

/// What was found, up to a bound.
#[derive(Default)]
struct Problems {
    found: Vec<Problem>,
    /// Those beyond the bound: how many, and the last of them that is an error, or else any.
    more: usize,
    last: Option<Problem>,
}

impl Problems {
    fn push(&mut self, problem: Problem) {
        if self.found.len() < CHECK_PROBLEMS {
            self.found.push(problem);
            return;
        }
        self.more += 1;
        if self.last.as_ref().is_none_or(|last| last.severity == Severity::Warning) {
            self.last = Some(problem);
        }
    }

    fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.found;
        // What is not told is as bad as it is.
        problems.extend(self.last.map(|last| Problem {
            message: format!("{} (and {} more problems are not shown)", last.message, self.more - 1),
            ..last
        }));
        problems.sort();
        problems
    }
}

/// One document that refers to others.
struct Checker<'a, 'b> {
    index: &'a Index<'a>,
    document: &'a Document<'a>,
    problems: &'b mut Problems,
}

impl Checker<'_, '_> {
    fn check_rule_set(&mut self, spec: &RuleSetSpec) {
        for (index, rule) in spec.rules.iter().enumerate() {
            let path = at("spec.rules", index);
            // A connection comes from an address, and a rule that blocks would have to know what it is to block.
            let blocks = (rule.action != Action::Allow).then_some(NAMES_BLOCK);
            for (name, actors, useless) in
                [("consumers", &rule.consumers, blocks.or(Some(NAMES_FROM))), ("providers", &rule.providers, blocks)]
            {
                for (index, actor) in actors.iter().enumerate() {
                    let path = at(&field(&path, name), index);
                    self.check_actor(&path, actor);
                    self.check_names(&path, actor, useless);
                }
            }
            self.check_services(&path, rule);
        }
    }

    /// Names of a list where they would count for nothing, and why.
    fn check_names(&mut self, path: &str, actor: &Actor, useless: Option<&str>) {
        let list = actor.ip_list.as_deref().filter(|list| self.index.has_names(list));
        if let (Some(list), Some(why)) = (list, useless) {
            let message = format!("IPList {list} has names (fqdns), which cannot be used here: {why}");
            self.error(&field(path, "ipList"), message);
        }
    }

    fn check_services(&mut self, path: &str, rule: &PolicyRule) {
        for (index, service) in rule.services.iter().enumerate() {
            if let Some(name) = &service.name {
                let path = field(&at(&field(path, "services"), index), "name");
                self.check_reference(&path, Kind::ServiceDefinition, name);
            }
        }
    }

    fn check_actor(&mut self, path: &str, actor: &Actor) {
        if let Some(name) = &actor.ip_list {
            self.check_reference(&field(path, "ipList"), Kind::IpList, name);
        }
        for (index, name) in actor.label_groups.iter().enumerate() {
            self.check_reference(&at(&field(path, "labelGroups"), index), Kind::LabelGroup, name);
        }
        if let Some(name) = &actor.workload {
            let key = ObjectKey::cluster_wide(Kind::Workload, name);
            self.check_discovered(&field(path, "workload"), &key);
        }
        if let Some((namespace, name)) = actor.virtual_service.as_deref().and_then(|name| name.split_once('/')) {
            let key = ObjectKey::namespaced(Kind::VirtualService, namespace, name);
            self.check_discovered(&field(path, "virtualService"), &key);
        }
    }

    /// A reference to what only people make: it must be there.
    fn check_reference(&mut self, path: &str, kind: Kind, name: &str) {
        let key = ObjectKey::cluster_wide(kind, name);
        if !self.index.has(&key) {
            self.error(path, format!("there is no {key}, here or in the cluster: create it, or correct the name"));
        } else if self.index.selects_nothing(kind, name) {
            self.warning(path, format!("{key} is empty and selects nothing"));
        }
    }

    /// A reference to what the cluster makes: it may come later.
    fn check_discovered(&mut self, path: &str, key: &ObjectKey) {
        if !self.index.has(key) {
            self.warning(path, format!("{key} is not known here and selects nothing until the cluster has it"));
        }
    }

    fn check_label_group(&mut self, spec: &LabelGroupSpec) {
        const DIMENSION: &str = "spec.dimension";
        for (index, name) in spec.groups.iter().enumerate() {
            let path = at("spec.groups", index);
            self.check_reference(&path, Kind::LabelGroup, name);
            if let Some(nested) = self.index.label_group(name)
                && nested.spec.dimension != spec.dimension
                && ![self.document, &nested.document].iter().any(|document| document.faults.cover(DIMENSION))
            {
                let (outer, inner) = (&spec.dimension, &nested.spec.dimension);
                let advice = "nest groups of one dimension only";
                self.error(&path, format!("LabelGroup {name} is of dimension {inner}, this one of {outer}: {advice}"));
            }
        }
    }

    /// Labels of a VirtualService that its namespace's profile fixes otherwise would have no effect.
    fn check_fixed_labels(&mut self, labels: &BTreeMap<String, String>) {
        let namespace = self.document.key.and_then(|key| key.namespace.as_deref()).unwrap_or_default();
        let Some(ParsedSpec::ContainerWorkloadProfile(profile)) =
            self.index.spec(Kind::ContainerWorkloadProfile, namespace)
        else {
            return;
        };
        for (dimension, value) in labels {
            let fixed = profile.labels.get(dimension).and_then(|entry| entry.value.as_ref());
            if let Some(fixed) = fixed.filter(|fixed| *fixed != value) {
                let message = format!(
                    "the profile of namespace {namespace} fixes {dimension} to '{fixed}': '{value}' has no effect"
                );
                self.warning(&field("spec.labels", dimension), message);
            }
        }
    }

    fn error(&mut self, path: &str, message: String) {
        self.report(path, message, Severity::Error);
    }

    fn warning(&mut self, path: &str, message: String) {
        self.report(path, message, Severity::Warning);
    }

    fn report(&mut self, path: &str, message: String, severity: Severity) {
        if !self.document.faults.cover(path) {
            self.problems.push(problem(self.document, path, message, severity));
        }
    }
}

fn problem(document: &Document<'_>, path: &str, message: String, severity: Severity) -> Problem {
    let Place { line, column } = document.places.of(path);
    Problem { path: document.origin.file.clone(), line, column, message: words::short(message), severity }
}

fn check_duplicates(documents: &[Document<'_>], problems: &mut Problems) {
    let mut first: BTreeMap<&ObjectKey, &Document<'_>> = BTreeMap::new();
    for document in documents {
        // Without their namespaces nobody knows whether two are the same.
        let Some(key) = document.key.filter(|key| key.kind.namespaced() == key.namespace.is_some()) else { continue };
        if let Some(other) = first.get(key) {
            let message = format!("{key} is already written in {}: remove one", place_of_name(other));
            problems.push(problem(document, NAME, message, Severity::Error));
        } else {
            first.insert(key, document);
        }
    }
}

/// `rules/shop.yaml:3`.
fn place_of_name(document: &Document<'_>) -> String {
    format!("{}:{}", document.origin.file, document.places.of(NAME).line)
}

/// There is one ContainerCluster; a second one would never be Ready.
fn check_clusters(documents: &[Document<'_>], live: &LiveNames, problems: &mut Problems) {
    let keyed = documents.iter().filter_map(|document| Some((document, document.key?)));
    let mut clusters = keyed.filter(|(_, key)| key.kind == Kind::ContainerCluster);
    let Some((first, key)) = clusters.next() else { return };
    if let Some(other) = live.keys.iter().find(|other| other.kind == Kind::ContainerCluster && *other != key) {
        let advice = format!("name this one '{}'", other.name);
        let message = format!("the cluster already has {other}, and a second one has no effect: {advice}");
        problems.push(problem(first, NAME, message, Severity::Warning));
    }
    for (document, _) in clusters.filter(|(_, other)| other.name != key.name) {
        let place = place_of_name(first);
        let message = format!("there is one ContainerCluster, and {} is in {place}: remove one", key.name);
        problems.push(problem(document, NAME, message, Severity::Error));
    }
}

/// What comes to too much only when objects meet: here it is refused, so that what was there before stays in force.
fn check_limits(parsed: &Parsed, documents: &[Document<'_>], problems: &mut Problems) {
    let policy = to_policy(parsed);
    let over = Compiler::over_limits(&policy);
    for document in documents {
        let key = document.key.filter(|key| key.kind == Kind::RuleSet);
        for text in key.and_then(|key| over.get(key.name.as_str())).into_iter().flatten() {
            problems.push(problem(document, "spec.rules", text.clone(), Severity::Error));
        }
    }
}

/// Reports each cycle of LabelGroups once, at its member whose name comes first.
fn check_cycles(index: &Index<'_>, problems: &mut Problems) {
    for cycle in cycles(index) {
        let Some(group) = cycle.first().and_then(|name| index.label_group(name)) else { continue };
        let position = group.spec.groups.iter().position(|name| Some(&name.as_str()) == cycle.get(1)).unwrap_or(0);
        let names = cycle.join(" > ");
        let message = format!("LabelGroups contain each other: {names}; take one out of another's groups");
        problems.push(problem(&group.document, &at("spec.groups", position), message, Severity::Error));
    }
}
