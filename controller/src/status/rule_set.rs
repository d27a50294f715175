//! Status of a RuleSet: in force on all nodes concerned, or what is missing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_crds::Revision;
use ringfence_crds::rule_set::{RuleSet, RuleSetStatus};

use super::{Ready, Reports};

/// What is known of the rules of a RuleSet.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'r> {
    /// The revision in which they last changed.
    pub since: Revision,
    /// What they refer to and do not find.
    pub warnings: &'r [String],
    /// Why they could not be written; an older version may be in force.
    pub refused: Option<&'r str>,
}

/// The status of a RuleSet.
pub fn status(rule_set: &RuleSet, rules: Rules<'_>, reports: &Reports, now: &Time) -> RuleSetStatus {
    let Rules { since, warnings, refused } = rules;
    let previous = rule_set.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let progress = reports.progress(since);
    let ready = match (refused, rule_set.spec.enabled) {
        (Some(reason), _) => Ready::no("Refused", format!("what was in force before stays: {reason}")),
        (None, _) if !progress.is_complete() => progress.waiting(None, previous, now),
        (None, false) => Ready::yes("Disabled", "switched off: enabled is false"),
        (None, true) => Ready::yes("InForce", format!("{}{}", progress.in_force(), first(warnings))),
    };
    let generation = rule_set.metadata.generation;
    RuleSetStatus {
        observed_generation: generation,
        conditions: ready.conditions(previous, generation, now),
        nodes: Some(progress.to_string()),
        warnings: warnings.to_vec(),
    }
}

/// The first warning, and how many more there are.
fn first(warnings: &[String]) -> String {
    match warnings {
        [] => String::new(),
        [first] => format!("; {first}"),
        [first, rest @ ..] => format!("; {first} (and {} more warnings)", rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_crds::RuleSetSpec;

    use crate::status::Node;

    fn ready(enabled: bool, acknowledged: i64, warnings: &[&str]) -> (String, String, String) {
        ready_unless(None, enabled, acknowledged, warnings)
    }
    fn ready_unless(
        refused: Option<&str>,
        enabled: bool,
        acknowledged: i64,
        warnings: &[&str],
    ) -> (String, String, String) {
        let spec = RuleSetSpec { enabled, scopes: vec![Default::default()], rules: Vec::new() };
        let since = Revision { epoch: 0, number: 5 };
        let acknowledged = Some(Revision { epoch: 0, number: acknowledged });
        let reports = Reports([("n".to_owned(), Node { acknowledged, unseen: None, ready: true, off: false })].into());
        let warnings: Vec<String> = warnings.iter().map(|text| (*text).to_owned()).collect();
        let now = Time(Timestamp::UNIX_EPOCH);
        let status = status(&RuleSet::new("shop", spec), Rules { since, warnings: &warnings, refused }, &reports, &now);
        let condition = status.conditions[0].clone();
        (condition.status, condition.reason, status.nodes.expect("always set"))
    }

    #[test]
    fn ready_means_acknowledged_by_all() {
        let text = |status: &str, reason: &str, nodes: &str| (status.to_owned(), reason.to_owned(), nodes.to_owned());
        assert_eq!(ready(true, 4, &[]), text("False", "WaitingForNodes", "0/1"));
        assert_eq!(ready(true, 5, &[]), text("True", "InForce", "1/1"));
        assert_eq!(ready(true, 6, &["no IPList office"]), text("True", "InForce", "1/1"));
        assert_eq!(ready(false, 5, &[]), text("True", "Disabled", "1/1"));
        assert_eq!(ready(false, 4, &[]), text("False", "WaitingForNodes", "0/1"), "until nobody enforces it any more");
    }
    #[test]
    fn rules_that_could_not_be_written_are_not_ready_whatever_the_nodes_say() {
        let (status, reason, _) = ready_unless(Some("metadata.name: Invalid value"), true, 5, &[]);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Refused"));
    }
}
