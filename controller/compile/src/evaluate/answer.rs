//! Answers, as `ringfence explain -o json` prints them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_model::{Action, Decision, EndState, Verdict};
use serde::Serialize;

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Both ends together; for a Service that of the worst back end.
    pub verdict: Verdict,
    /// Why the verdict is `unknown`, or not what the rules say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The end that connects.
    pub source: Side,
    /// The end that listens; for a Service the worst back end.
    pub destination: Side,
    /// For a Service, every back end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<BackendExplanation>>,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Its state.
    pub state: EndState,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Why it passes or blocks.
    pub decision: Decision,
    /// The rule that decided, when one did.
    pub rule: Option<RuleRef>,
    /// Every other rule that hits here too, and what each would do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherRule>,
    /// When nothing hit: the Allow that came nearest, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearMiss>,
}

/// A rule that hits as well as the one that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherRule {
    /// The rule.
    pub rule: RuleRef,
    /// What it does where no other is stronger.
    pub action: Action,
}

/// An Allow that nearly hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleRef,
    /// What did not match, the first of it: `enabled`, `services`, `scopes`, `consumers` or `providers`.
    pub missed: String,
    /// All that did not match, a sentence each.
    pub why: Vec<String>,
}

/// Where a rule is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRef {
    /// Name of the RuleSet.
    pub rule_set: String,
    /// Name of the rule.
    pub name: String,
    /// File, relative to the policy folder, when it came from one.
    pub file: Option<String>,
    /// Line of the rule in the file.
    pub line: Option<u64>,
}

/// What becomes of a connection to one back end of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendExplanation {
    /// `pod/NAMESPACE/NAME`, `node/NAME` or an address.
    pub endpoint: String,
    /// Its address.
    pub address: IpAddr,
    /// The port that it listens on.
    pub port: u16,
    /// Both ends together.
    pub verdict: Verdict,
    /// Why the verdict is `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The end that connects.
    pub source: Side,
    /// The back end.
    pub destination: Side,
}
