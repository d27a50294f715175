//! Status of what RuleSets refer to: IPList, LabelGroup, ServiceDefinition. They are Ready as soon as they are
//! understood; whether rules that use them are in force is said by the RuleSets.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use ringfence_crds::{IpListSpec, LabelGroupSpec, ObjectStatus, ServiceDefinitionSpec};
use ringfence_model::{AddressSet, Dimension, LabelValue, NamePattern, PortMatch};

use super::Ready;

/// The status of an object of which `problem` is all that is wrong.
pub fn status(
    object: &impl ResourceExt,
    previous: Option<&ObjectStatus>,
    problem: Option<String>,
    now: &Time,
) -> ObjectStatus {
    let ready = match problem {
        None => Ready::yes("Accepted", "accepted"),
        Some(problem) => Ready::no("Invalid", problem),
    };
    let generation = object.meta().generation;
    ObjectStatus {
        observed_generation: generation,
        conditions: ready.conditions(previous.map_or(&[][..], |status| &status.conditions), generation, now),
    }
}

/// What is wrong with an IPList.
pub fn ip_list_problem(spec: &IpListSpec) -> Option<String> {
    let mut ranges = spec.ranges.iter().chain(&spec.exclusions);
    let range = ranges.find_map(|range| AddressSet::parse(range).err()).map(|error| error.to_string());
    let name = || spec.fqdns.iter().find_map(|name| name.parse::<NamePattern>().err()).map(|error| error.to_string());
    range.or_else(name)
}

/// What is wrong with a ServiceDefinition.
pub fn service_problem(spec: &ServiceDefinitionSpec) -> Option<String> {
    spec.ports.iter().find_map(|port| PortMatch::try_from(port).err()).map(|error| error.to_string())
}

/// What is wrong with the LabelGroup of this name, among all of them.
pub fn label_group_problem(name: &str, groups: &BTreeMap<&str, &LabelGroupSpec>) -> Option<String> {
    let spec = groups.get(name)?;
    if let Err(error) = spec.dimension.parse::<Dimension>() {
        return Some(error.to_string());
    }
    if let Some(error) = spec.values.iter().find_map(|value| value.parse::<LabelValue>().err()) {
        return Some(error.to_string());
    }
    for member in &spec.groups {
        match groups.get(member.as_str()) {
            None => return Some(format!("refers to LabelGroup {member}, which does not exist and selects nothing")),
            Some(other) if other.dimension != spec.dimension => {
                return Some(format!("refers to LabelGroup {member} of another dimension ({})", other.dimension));
            }
            Some(_) => {}
        }
    }
    contains_itself(name, groups).then(|| "contains itself by way of its groups".to_owned())
}

fn contains_itself(name: &str, groups: &BTreeMap<&str, &LabelGroupSpec>) -> bool {
    let mut seen = BTreeSet::new();
    let mut ahead: Vec<&str> = vec![name];
    while let Some(next) = ahead.pop() {
        for member in groups.get(next).iter().flat_map(|spec| &spec.groups) {
            if member == name {
                return true;
            }
            if seen.insert(member) {
                ahead.push(member);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dimension: &str, members: &[&str]) -> LabelGroupSpec {
        let groups = members.iter().map(|name| (*name).to_owned()).collect();
        LabelGroupSpec { dimension: dimension.to_owned(), values: Vec::new(), groups }
    }

    #[test]
    fn label_groups() {
        let (a, b, c, d, e) = (
            group("env", &["b"]),
            group("env", &["c"]),
            group("env", &["b"]),
            group("env", &["x"]),
            group("app", &["b"]),
        );
        let groups = BTreeMap::from([("a", &a), ("b", &b), ("c", &c), ("d", &d), ("e", &e)]);
        assert_eq!(label_group_problem("a", &groups), None, "the cycle is not through it");
        assert!(label_group_problem("b", &groups).is_some_and(|text| text.contains("itself")));
        assert!(label_group_problem("d", &groups).is_some_and(|text| text.contains("does not exist")));
        assert!(label_group_problem("e", &groups).is_some_and(|text| text.contains("another dimension")));
    }

    #[test]
    fn ip_lists() {
        let list = |range: &str| IpListSpec { ranges: vec![range.to_owned()], ..IpListSpec::default() };
        assert_eq!(ip_list_problem(&list("192.0.2.0/24")), None);
        assert_eq!(ip_list_problem(&IpListSpec::default()), None, "empty is understood: it selects nothing");
        assert!(ip_list_problem(&list("192.0.2.1/24")).is_some());
        let named = |name: &str| IpListSpec { fqdns: vec![name.to_owned()], ..IpListSpec::default() };
        assert_eq!(ip_list_problem(&named("*.Example.com.")), None);
        assert!(ip_list_problem(&named("bücher.example")).is_some_and(|text| text.contains("xn--")));
    }
}
