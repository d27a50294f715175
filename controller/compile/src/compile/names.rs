//! Names of computed objects: short, and a function of what the object is about.

use ringfence_crds::common::NamespacedName;
use sha2::{Digest, Sha256};

/// The first `digits` hexadecimal digits of the hash of a text.
fn hash(text: &str, digits: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(text.as_bytes());
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.take(digits).map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

/// Id of a label class, from its text (`app=shop,role=web|pods`).
pub fn class_id(text: &str) -> String {
    format!("c-{}", hash(text, 12))
}

/// Class id of a Service's ends.
pub fn service_id(service: &NamespacedName) -> String {
    format!("s-{}", hash(&service.to_string(), 12))
}

/// Name of one slice of a class.
pub fn address_group(class: &str, slice: usize) -> String {
    format!("{class}-{slice}")
}

/// Name of the PeerGroup of a selector.
pub fn peer_group(selector: &str) -> String {
    format!("p-{}", hash(selector, 12))
}

/// Name of the WorkloadPolicy of a RuleSet in a scope.
pub fn workload_policy(rule_set: &str, scope: &str) -> String {
    format!("{rule_set}-{}", hash(scope, 8))
}
