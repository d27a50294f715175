//! The names of our chains, and where they hang.

use serde::{Deserialize, Serialize};

/// What the names of all our chains in a Pod's network namespace begin with.
pub const CHAIN_PREFIX: &str = "RF-";
/// What the name of the chain begins with that tells which text is in force in a Pod's network namespace.
pub const FINGERPRINT_PREFIX: &str = "RF-FP-";

/// Which network namespace rules are for. In a node's, other things of ours may live beside a policy, and whatever others
/// have put there: every name is one of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// A Pod's.
    #[default]
    Pod,
    /// The node's: its own traffic, and never what it forwards.
    Host,
}

/// The names of the chains of a place.
#[derive(Debug)]
pub(crate) struct Names {
    pub input: &'static str,
    pub input_old: &'static str,
    pub output: &'static str,
    pub output_old: &'static str,
    pub drop: &'static str,
    pub pass: &'static str,
    pub would: &'static str,
}

const POD: Names = Names {
    input: "RF-IN",
    input_old: "RF-IN-OLD",
    output: "RF-OUT",
    output_old: "RF-OUT-OLD",
    drop: "RF-DROP",
    pass: "RF-PASS",
    would: "RF-WOULD",
};

const HOST: Names = Names {
    input: "RF-HOST-IN",
    input_old: "RF-HOST-IN-OLD",
    output: "RF-HOST-OUT",
    output_old: "RF-HOST-OUT-OLD",
    drop: "RF-HOST-DROP",
    pass: "RF-HOST-PASS",
    would: "RF-HOST-WOULD",
};

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pod, Self::Host];

    /// What the names of all its chains begin with.
    pub fn chain_prefix(self) -> &'static str {
        match self {
            Self::Pod => CHAIN_PREFIX,
            Self::Host => "RF-HOST-",
        }
    }

    /// What the name of the chain begins with that tells which text is in force.
    pub fn fingerprint_prefix(self) -> &'static str {
        match self {
            Self::Pod => FINGERPRINT_PREFIX,
            Self::Host => "RF-HOST-FP-",
        }
    }

    /// The hooks in table mangle.
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Pod => &MANGLE_HOOKS,
            Self::Host => &HOST_HOOKS,
        }
    }

    pub(crate) fn names(self) -> &'static Names {
        match self {
            Self::Pod => &POD,
            Self::Host => &HOST,
        }
    }
}

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
/// The hooks in table mangle of a node: what it forwards passes neither.
pub const HOST_HOOKS: [Hook; 2] = [
    Hook { table: "mangle", chain: "INPUT", target: "RF-HOST-IN" },
    Hook { table: "mangle", chain: "OUTPUT", target: "RF-HOST-OUT" },
];
/// The hooks in table filter.
pub const FILTER_HOOKS: [Hook; 3] = [
    Hook { table: "filter", chain: "INPUT", target: "RF-REJECT" },
    // A Pod that forwards is rare, but a packet that is marked must never pass.
    Hook { table: "filter", chain: "FORWARD", target: "RF-REJECT" },
    Hook { table: "filter", chain: "OUTPUT", target: "RF-REJECT" },
];
