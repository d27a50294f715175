//! Names of computed objects: short, and a function of what the object is about.

use ringfence_crds::common::NamespacedName;
use ringfence_crds::names::{ID_DIGITS, service_class, short_hash as hash};

/// Id of a label class, from its text (`app=shop,role=web|pods`).
pub fn class_id(text: &str) -> String {
    format!("c-{}", hash(text, ID_DIGITS))
}

/// Class id of a Service's ends.
pub fn service_id(service: &NamespacedName) -> String {
    service_class(&service.to_string())
}

/// Name of one slice of a class.
pub fn address_group(class: &str, slice: usize) -> String {
    format!("{class}-{slice}")
}

/// Name of the PeerGroup of a selector.
pub fn peer_group(selector: &str) -> String {
    format!("p-{}", hash(selector, ID_DIGITS))
}

/// Name of the WorkloadPolicy of a RuleSet in a scope.
pub fn workload_policy(rule_set: &str, scope: &str) -> String {
    format!("{rule_set}-{}", hash(scope, 8))
}
