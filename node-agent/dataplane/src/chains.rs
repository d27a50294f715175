//! The names of our chains, and where they hang.

/// What the names of all our chains begin with.
pub const CHAIN_PREFIX: &str = "RF-";
/// What the name of the chain begins with that tells which text is in force.
pub const FINGERPRINT_PREFIX: &str = "RF-FP-";

/// Where a chain of ours hangs in a chain of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Table.
    pub table: &'static str,
    /// Chain of the kernel.
    pub chain: &'static str,
    /// Chain of ours that it jumps to, first of all.
    pub target: &'static str,
}

/// The hooks in table mangle.
pub const MANGLE_HOOKS: [Hook; 2] = [
    Hook { table: "mangle", chain: "PREROUTING", target: "RF-IN" },
    Hook { table: "mangle", chain: "OUTPUT", target: "RF-OUT" },
];
/// The hooks in table filter.
pub const FILTER_HOOKS: [Hook; 3] = [
    Hook { table: "filter", chain: "INPUT", target: "RF-REJECT" },
    // A Pod that forwards is rare, but a packet that is marked must never pass.
    Hook { table: "filter", chain: "FORWARD", target: "RF-REJECT" },
    Hook { table: "filter", chain: "OUTPUT", target: "RF-REJECT" },
];
