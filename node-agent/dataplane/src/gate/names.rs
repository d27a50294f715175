//! What chains and sets of the gate are called. Both are named after what they are: the same rules have the same name
//! whatever else there is, so that what does not change need not be written.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::family::Family;
use crate::policy::Origin;
use crate::sets::SetNames;

/// What the names of all chains of the gate begin with.
pub const CHAIN_PREFIX: &str = "RF-GATE";
/// What every connection towards a Pod goes through.
pub const ENTRY: &str = "RF-GATE";
/// What is on its way to Pods of other nodes.
pub const AWAY: &str = "RF-GATE-AWAY";
/// Where it is sealed.
pub const SEALED: &str = "RF-GATE-SEAL";
/// Where it is rejected.
pub const REFUSE: &str = "RF-GATE-REFUSE";
/// Who reaches itself.
pub const ITSELF: &str = "RF-GATE-SELF";
/// What the names of its sets begin with.
pub const SETS: SetNames = SetNames { v4: "RFG4-", v6: "RFG6-" };

/// So much of a digest is in a name: of a few hundred texts no two are mistaken for one another.
const BYTES: usize = 8;

/// The chain with these rules, which judge a Pod.
pub fn of_rules(rules: &[String]) -> String {
    format!("{CHAIN_PREFIX}-{}", digest(rules.join("\n").as_bytes()))
}

/// The chain without rules that tells which rules the entry and what it leads to have.
pub fn fingerprint(text: &str) -> String {
    format!("{CHAIN_PREFIX}-FP-{}", digest(text.as_bytes()))
}

/// The set of the peers that come from these origins; `nth` of those that say they come from the same.
pub fn of_origins(family: Family, origins: &BTreeSet<Origin>, nth: usize) -> String {
    format!("{}{}-{nth}", SETS.prefix(family), digest(format!("{origins:?}").as_bytes()))
}

/// The set of all Pods behind the gate.
pub fn pods(family: Family) -> String {
    format!("{}pods", SETS.prefix(family))
}

/// The set of those of them with a rule that rejects.
pub fn rejecting(family: Family) -> String {
    format!("{}rejecting", SETS.prefix(family))
}

/// The set of the exposed Pods of other nodes.
pub fn away(family: Family) -> String {
    format!("{}away", SETS.prefix(family))
}

/// The set of the Pods that a chain judges.
pub fn judged_by(family: Family, chain: &str) -> String {
    pods(family) + digest_of(chain)
}

/// The set of the Pods of other nodes that a chain judges.
pub fn judged_away(family: Family, chain: &str) -> String {
    away(family) + digest_of(chain)
}

/// What in a chain's name tells of its rules, with the dash before it.
fn digest_of(chain: &str) -> &str {
    chain.strip_prefix(CHAIN_PREFIX).unwrap_or(chain)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect()
}
