//! What is worse on this node than it should be, while what is in force stays: condition `Degraded` of its NodePolicy.

/// One such matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// One word in CamelCase, for programs.
    pub reason: &'static str,
    /// One sentence, for people.
    pub message: String,
}

/// What the parts of the agent that do not enforce say of themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// What is wrong with the ledger.
    pub ledger: Option<Fault>,
    /// What is wrong with connection tracking.
    pub conntrack: Option<Fault>,
}

impl Health {
    /// Everything that is wrong.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.ledger.iter().chain(&self.conntrack)
    }
}

impl Fault {
    /// What was saved last cannot be read.
    pub fn ledger_damaged(problem: &str) -> Self {
        Self { reason: "LedgerDamaged", message: format!("failed to {problem}") }
    }

    /// What is read cannot be saved.
    pub fn ledger_not_kept(problem: &str) -> Self {
        Self { reason: "LedgerNotKept", message: format!("failed to keep the ledger: {problem}") }
    }
}
