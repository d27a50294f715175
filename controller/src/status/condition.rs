//! The condition `Ready`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether an object is ready, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Whether what it asks for is so.
    pub ready: bool,
    /// One word in CamelCase, for programs.
    pub reason: &'static str,
    /// One sentence, for people.
    pub message: String,
}

impl Ready {
    /// It is as asked.
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ready: true, reason, message: message.into() }
    }

    /// It is not as asked.
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { ready: false, reason, message: message.into() }
    }

    /// The conditions of an object of this generation that had `previous` ones. The time of transition moves only
    /// with the status, so that an unchanged condition is equal to the one before.
    pub fn conditions(&self, previous: &[Condition], generation: Option<i64>, now: &Time) -> Vec<Condition> {
        let status = if self.ready { "True" } else { "False" };
        let since = previous
            .iter()
            .find(|condition| condition.type_ == "Ready" && condition.status == status)
            .map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone());
        vec![Condition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            observed_generation: generation,
            last_transition_time: since,
        }]
    }
}

/// Whether the conditions say Ready for this generation.
pub fn is_ready(conditions: &[Condition], generation: Option<i64>) -> bool {
    conditions.iter().any(|condition| {
        condition.type_ == "Ready" && condition.status == "True" && condition.observed_generation == generation
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a literal of the test"))
    }

    #[test]
    fn the_time_of_transition_moves_only_with_the_status() {
        let first = Ready::no("WaitingForNodes", "node1").conditions(&[], Some(1), &at(10));
        let second = Ready::no("WaitingForNodes", "node2").conditions(&first, Some(2), &at(20));
        assert_eq!(second[0].last_transition_time, at(10));
        assert_eq!(second[0].message, "node2");
        let third = Ready::yes("InForce", "").conditions(&second, Some(2), &at(30));
        assert_eq!(third[0].last_transition_time, at(30));
        let fourth = Ready::yes("InForce", "").conditions(&third, Some(2), &at(40));
        assert_eq!(fourth, third, "nothing changed, so nothing is written");
    }

    #[test]
    fn ready_for_an_older_generation_is_not_ready() {
        let conditions = Ready::yes("InForce", "").conditions(&[], Some(1), &at(10));
        assert!(is_ready(&conditions, Some(1)));
        assert!(!is_ready(&conditions, Some(2)));
    }
}
