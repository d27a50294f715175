//! States, actions, decisions and verdicts: the words of the policy model.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a profile or a node's Workload asks of the firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PolicyState {
    /// Labels and inventory, no rules in the kernel.
    Idle,
    /// Rules that count, none that blocks.
    VisibilityOnly,
    /// Blocks what a Deny without an Allow, or an OverrideDeny, hits.
    Selective,
    /// Default deny.
    Full,
}

/// What is reported about the traffic of a workload; All when left out. Not acted on yet: nothing is reported per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Visibility {
    /// Nothing.
    Off,
    /// What was blocked.
    Blocked,
    /// Everything.
    All,
}

/// The state of one end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndState {
    /// An address that belongs to no workload of the cluster.
    External,
    /// A workload without policy.
    Unmanaged,
    /// See [`PolicyState::Idle`].
    Idle,
    /// See [`PolicyState::VisibilityOnly`].
    VisibilityOnly,
    /// See [`PolicyState::Selective`].
    Selective,
    /// See [`PolicyState::Full`].
    Full,
}

impl From<PolicyState> for EndState {
    fn from(state: PolicyState) -> Self {
        match state {
            PolicyState::Idle => Self::Idle,
            PolicyState::VisibilityOnly => Self::VisibilityOnly,
            PolicyState::Selective => Self::Selective,
            PolicyState::Full => Self::Full,
        }
    }
}

/// What a rule does. The order of the variants is no precedence: that is OverrideDeny > Allow > Deny > state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Lets pass what no OverrideDeny hits.
    #[default]
    Allow,
    /// Blocks what no Allow hits.
    Deny,
    /// Blocks, whatever else hits.
    OverrideDeny,
}

/// The direction of a connection as seen by the workload that a rule is programmed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// The workload is the provider.
    Inbound,
    /// The workload is the consumer.
    Outbound,
}

/// Why one end passes or blocks a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// The end is no workload.
    External,
    /// The end has no policy.
    Unmanaged,
    /// The end is Idle.
    Idle,
    /// Essential traffic, which no policy touches.
    Essential,
    /// An OverrideDeny hit.
    OverrideDeny,
    /// An Allow hit.
    Allow,
    /// A Deny hit and no Allow did.
    Deny,
    /// Nothing hit: the state decides.
    Default,
}

impl Decision {
    /// Whether an end in `state` that came to this decision blocks, would block, or passes: the table `side` of the
    /// policy model.
    pub fn outcome(self, state: EndState) -> Outcome {
        match (self, state) {
            (Self::External | Self::Unmanaged | Self::Idle | Self::Essential | Self::Allow, _) => Outcome::Pass,
            (_, EndState::External | EndState::Unmanaged | EndState::Idle) => Outcome::Pass,
            (_, EndState::VisibilityOnly) => Outcome::WouldBlock,
            (Self::OverrideDeny | Self::Deny, EndState::Selective | EndState::Full) => Outcome::Block,
            (Self::Default, EndState::Full) => Outcome::Block,
            // "otherwise -> PASS (would block)": in Selective nothing hit, so nothing would block either way in the
            // state it is in, but Full would.
            (Self::Default, EndState::Selective) => Outcome::WouldBlock,
        }
    }
}

/// What one end does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It lets it pass.
    Pass,
    /// It lets it pass, and would block it in a stricter state.
    WouldBlock,
    /// It blocks it.
    Block,
}

/// What becomes of a connection, both ends together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// It passes, and an end would block it in a stricter state.
    PotentiallyBlocked,
    /// An end blocks it.
    Blocked,
    /// An end's policy was not known.
    Unknown,
}

impl Verdict {
    /// The verdict of both ends together.
    pub fn of(source: Outcome, destination: Outcome) -> Self {
        match source.max(destination) {
            Outcome::Pass => Self::Allowed,
            Outcome::WouldBlock => Self::PotentiallyBlocked,
            Outcome::Block => Self::Blocked,
        }
    }

    /// Whether packets arrive: everything but `Blocked`, and never what is unknown.
    pub fn passes(self) -> bool {
        matches!(self, Self::Allowed | Self::PotentiallyBlocked)
    }
}

macro_rules! display_as_debug {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    )*};
}
display_as_debug!(PolicyState, Visibility, Action, Direction);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_follows_the_table_of_the_policy_model() {
        use Decision as D;
        use EndState as S;
        use Outcome::{Block, Pass, WouldBlock};
        // (decision, VisibilityOnly, Selective, Full), written from the table.
        let table = [
            (D::Essential, Pass, Pass, Pass),
            (D::OverrideDeny, WouldBlock, Block, Block),
            (D::Allow, Pass, Pass, Pass),
            (D::Deny, WouldBlock, Block, Block),
            (D::Default, WouldBlock, WouldBlock, Block),
        ];
        for (decision, visibility, selective, full) in table {
            assert_eq!(decision.outcome(S::VisibilityOnly), visibility, "{decision:?}");
            assert_eq!(decision.outcome(S::Selective), selective, "{decision:?}");
            assert_eq!(decision.outcome(S::Full), full, "{decision:?}");
            assert_eq!(decision.outcome(S::Idle), Pass, "{decision:?}");
            assert_eq!(decision.outcome(S::Unmanaged), Pass, "{decision:?}");
        }
    }
}
