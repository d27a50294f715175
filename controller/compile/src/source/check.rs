//! Checks objects against each other: duplicates, references, cycles, and what selects nothing.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::rule_set::{Actor, PolicyRule};
use ringfence_crds::{IpListSpec, LabelGroupSpec, RuleSetSpec};
use ringfence_model::AddressSet;

use super::places::{at, field};
use super::tree::Place;
use super::{LiveNames, Parsed, ParsedObject, ParsedSpec, Problem, Severity};
use crate::policy::{Kind, ObjectKey};

/// Checks the objects of a source against each other. The problems of [`super::parse`] are not repeated.
pub(super) fn check(parsed: &Parsed, live: &LiveNames) -> Vec<Problem> {
    let index = Index::new(parsed, live);
    let mut problems = Vec::new();
    check_duplicates(parsed, &mut problems);
    check_clusters(parsed, live, &mut problems);
    for object in &parsed.objects {
        let mut checker = Checker { index: &index, object, problems: &mut problems };
        match &object.spec {
            ParsedSpec::RuleSet(spec) => checker.check_rule_set(spec),
            ParsedSpec::LabelGroup(spec) => checker.check_label_group(spec),
            ParsedSpec::VirtualService(spec) => checker.check_fixed_labels(&spec.labels),
            _ => {}
        }
    }
    check_cycles(&index, &mut problems);
    problems.sort();
    problems
}

/// What is there to refer to.
struct Index<'a> {
    objects: BTreeMap<&'a ObjectKey, &'a ParsedObject>,
    broken: &'a BTreeSet<ObjectKey>,
    live: &'a BTreeSet<ObjectKey>,
}

impl<'a> Index<'a> {
    fn new(parsed: &'a Parsed, live: &'a LiveNames) -> Self {
        let mut objects = BTreeMap::new();
        for object in &parsed.objects {
            objects.entry(&object.key).or_insert(object);
        }
        Self { objects, broken: &parsed.broken, live: &live.keys }
    }

    fn has(&self, key: &ObjectKey) -> bool {
        self.objects.contains_key(key) || self.broken.contains(key) || self.live.contains(key)
    }

    fn spec(&self, kind: Kind, name: &str) -> Option<&'a ParsedSpec> {
        self.objects.get(&ObjectKey::cluster_wide(kind, name)).map(|object| &object.spec)
    }

    fn label_group(&self, name: &str) -> Option<&'a LabelGroupSpec> {
        match self.spec(Kind::LabelGroup, name) {
            Some(ParsedSpec::LabelGroup(spec)) => Some(spec),
            _ => None,
        }
    }

    /// Whether everything that the name stands for is in this source, and is nothing.
    fn selects_nothing(&self, kind: Kind, name: &str) -> bool {
        match self.spec(kind, name) {
            Some(ParsedSpec::IpList(spec)) => is_empty_list(spec),
            Some(ParsedSpec::ServiceDefinition(spec)) => spec.ports.is_empty(),
            Some(ParsedSpec::LabelGroup(spec)) => self.is_empty_group(spec, &mut BTreeSet::new()),
            _ => false,
        }
    }

    fn is_empty_group(&self, spec: &'a LabelGroupSpec, seen: &mut BTreeSet<&'a str>) -> bool {
        spec.values.is_empty()
            && spec.groups.iter().all(|name| {
                let unknown = self.label_group(name).is_none();
                let first_time = seen.insert(name);
                let is_empty = |group| self.is_empty_group(group, seen);
                // A group that lives in the cluster only may hold values.
                !unknown && (!first_time || self.label_group(name).is_some_and(is_empty))
            })
    }
}

fn is_empty_list(spec: &IpListSpec) -> bool {
    let set =
        |list: &[String]| AddressSet::from_nets(list.iter().filter_map(|text| AddressSet::parse(text).ok()).flatten());
    set(&spec.ranges).minus(&set(&spec.exclusions)).is_empty()
}

/// One object that refers to others.
struct Checker<'a, 'b> {
    index: &'a Index<'a>,
    object: &'a ParsedObject,
    problems: &'b mut Vec<Problem>,
}

impl Checker<'_, '_> {
    fn check_rule_set(&mut self, spec: &RuleSetSpec) {
        for (index, rule) in spec.rules.iter().enumerate() {
            let path = at("spec.rules", index);
            for (name, actors) in [("consumers", &rule.consumers), ("providers", &rule.providers)] {
                for (index, actor) in actors.iter().enumerate() {
                    self.check_actor(&at(&field(&path, name), index), actor);
                }
            }
            self.check_services(&path, rule);
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
        for (index, name) in spec.groups.iter().enumerate() {
            let path = at("spec.groups", index);
            self.check_reference(&path, Kind::LabelGroup, name);
            if let Some(nested) = self.index.label_group(name)
                && nested.dimension != spec.dimension
            {
                let (outer, inner) = (&spec.dimension, &nested.dimension);
                let advice = "nest groups of one dimension only";
                self.error(&path, format!("LabelGroup {name} is of dimension {inner}, this one of {outer}: {advice}"));
            }
        }
    }

    /// Labels of a VirtualService that its namespace's profile fixes otherwise would have no effect.
    fn check_fixed_labels(&mut self, labels: &BTreeMap<String, String>) {
        let namespace = self.object.key.namespace.clone().unwrap_or_default();
        let Some(ParsedSpec::ContainerWorkloadProfile(profile)) =
            self.index.spec(Kind::ContainerWorkloadProfile, &namespace)
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
        self.problems.push(problem(self.object, self.object.places.of(path), message, Severity::Error));
    }

    fn warning(&mut self, path: &str, message: String) {
        self.problems.push(problem(self.object, self.object.places.of(path), message, Severity::Warning));
    }
}

fn problem(object: &ParsedObject, place: Place, message: String, severity: Severity) -> Problem {
    Problem { path: object.origin.file.clone(), line: place.line, column: place.column, message, severity }
}

fn check_duplicates(parsed: &Parsed, problems: &mut Vec<Problem>) {
    let mut first: BTreeMap<&ObjectKey, &ParsedObject> = BTreeMap::new();
    for object in &parsed.objects {
        if let Some(other) = first.get(&object.key) {
            let place = object.places.of("metadata.name");
            let (file, line) = (&other.origin.file, other.places.of("metadata.name").line);
            let message = format!("{} is already written in {file}:{line}: remove one", object.key);
            problems.push(problem(object, place, message, Severity::Error));
        } else {
            first.insert(&object.key, object);
        }
    }
}

/// There is one ContainerCluster; a second one would never be Ready.
fn check_clusters(parsed: &Parsed, live: &LiveNames, problems: &mut Vec<Problem>) {
    let mut clusters = parsed.objects.iter().filter(|object| object.key.kind == Kind::ContainerCluster);
    let Some(first) = clusters.next() else { return };
    if let Some(other) = live.keys.iter().find(|key| key.kind == Kind::ContainerCluster && **key != first.key) {
        let advice = format!("name this one '{}'", other.name);
        let message = format!("the cluster already has {other}, and a second one has no effect: {advice}");
        problems.push(problem(first, first.places.of("metadata.name"), message, Severity::Warning));
    }
    for object in clusters.filter(|object| object.key.name != first.key.name) {
        let (file, line) = (&first.origin.file, first.places.of("metadata.name").line);
        let message = format!("there is one ContainerCluster, and {} is in {file}:{line}: remove one", first.key.name);
        problems.push(problem(object, object.places.of("metadata.name"), message, Severity::Error));
    }
}

/// Reports each cycle of LabelGroups once, at its member whose name comes first.
fn check_cycles(index: &Index<'_>, problems: &mut Vec<Problem>) {
    for object in index.objects.values().filter(|object| object.key.kind == Kind::LabelGroup) {
        let start = object.key.name.as_str();
        if let Some(cycle) = shortest_cycle(index, start)
            && cycle.iter().all(|name| *name >= start)
        {
            let names = cycle.join(" > ");
            let next = cycle.get(1).copied().unwrap_or(start);
            let ParsedSpec::LabelGroup(spec) = &object.spec else { continue };
            let position = spec.groups.iter().position(|name| name == next).unwrap_or(0);
            let place = object.places.of(&at("spec.groups", position));
            let message = format!("LabelGroups contain each other: {names}; take one out of another's groups");
            problems.push(problem(object, place, message, Severity::Error));
        }
    }
}

/// The shortest way from a group back to itself, its name at both ends.
fn shortest_cycle<'a>(index: &'a Index<'_>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let Some(group) = way.last().and_then(|name| index.label_group(name)) else { continue };
            for name in &group.groups {
                let mut next = way.clone();
                next.push(name);
                if name == start {
                    return Some(next);
                }
                if seen.insert(name) {
                    longer.push(next);
                }
            }
        }
        ways = longer;
    }
    None
}
