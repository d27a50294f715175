//! Status of a RuleSet: in force on all nodes concerned, or what is missing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ringfence_crds::Revision;
use ringfence_crds::rule_set::{RuleSet, RuleSetStatus};

use super::{Ready, Reports};

/// The status of a RuleSet whose rules last changed in revision `since`.
pub fn status(
    rule_set: &RuleSet,
    since: Revision,
    reports: &Reports,
    warnings: &[String],
    now: &Time,
) -> RuleSetStatus {
    let ready = reports.all(since).map_or_else(
        |waiting| waiting,
        |in_force| match (rule_set.spec.enabled, warnings) {
            (false, _) => Ready::yes("Disabled", "switched off: enabled is false"),
            (true, []) => Ready::yes("InForce", in_force),
            (true, [first, rest @ ..]) => Ready::yes("InForce", format!("{in_force}; {first}{}", more(rest.len()))),
        },
    );
    let previous = rule_set.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = rule_set.metadata.generation;
    RuleSetStatus {
        observed_generation: generation,
        conditions: ready.conditions(previous, generation, now),
        nodes: Some(reports.progress(since)),
        warnings: warnings.to_vec(),
    }
}

fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!(" (and {count} more warnings)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_crds::RuleSetSpec;
    use std::collections::BTreeMap;

    fn ready(enabled: bool, acknowledged: i64, warnings: &[&str]) -> (String, String, String) {
        let spec = RuleSetSpec { enabled, scopes: vec![Default::default()], rules: Vec::new() };
        let since = Revision { epoch: 0, number: 5 };
        let reports = Reports(BTreeMap::from([("n".to_owned(), Some(Revision { epoch: 0, number: acknowledged }))]));
        let warnings: Vec<String> = warnings.iter().map(|text| (*text).to_owned()).collect();
        let now = Time(Timestamp::UNIX_EPOCH);
        let status = status(&RuleSet::new("shop", spec), since, &reports, &warnings, &now);
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
}
