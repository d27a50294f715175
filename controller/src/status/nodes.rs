//! Which nodes have which revision in force.

use std::collections::BTreeMap;

use ringfence_crds::{NodePolicy, Revision};

use super::Ready;
use crate::engine::world::World;

/// How many missing nodes a message names.
const NAMED: usize = 10;

/// What the agents of the nodes concerned have acknowledged; nothing for an agent that has not reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports(pub BTreeMap<String, Option<Revision>>);

impl Reports {
    /// What the agents have reported: one per NodePolicy, since every node that an agent runs on has one.
    pub fn of(world: &World) -> Self {
        let acknowledged = |policy: &NodePolicy| policy.status.as_ref().and_then(|status| status.acknowledged);
        Self(world.node_policies.iter().map(|(key, policy)| (key.name.clone(), acknowledged(policy))).collect())
    }

    /// The nodes that have not acknowledged this revision.
    fn missing(&self, since: Revision) -> Vec<&str> {
        let late = |acknowledged: &Option<Revision>| acknowledged.is_none_or(|revision| revision < since);
        self.0.iter().filter(|(_, acknowledged)| late(acknowledged)).map(|(node, _)| node.as_str()).collect()
    }

    /// How many of how many nodes have acknowledged this revision, as `m/n`.
    pub fn progress(&self, since: Revision) -> String {
        format!("{}/{}", self.0.len() - self.missing(since).len(), self.0.len())
    }

    /// Not ready while a node is missing.
    ///
    /// # Errors
    /// The condition that names the missing nodes.
    pub fn all(&self, since: Revision) -> Result<String, Ready> {
        let missing = self.missing(since);
        let total = self.0.len();
        if missing.is_empty() {
            return Ok(format!("in force on {total} of {total} nodes"));
        }
        let names = missing.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = match missing.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("waiting for {} of {total} nodes: {names}{more}", missing.len());
        Err(Ready::no("WaitingForNodes", message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(epoch: i64, number: i64) -> Revision {
        Revision { epoch, number }
    }
    fn reports(list: &[(&str, Option<Revision>)]) -> Reports {
        Reports(list.iter().map(|(node, revision)| ((*node).to_owned(), *revision)).collect())
    }

    #[test]
    fn every_node_counts_and_the_missing_ones_are_named() {
        let reports = reports(&[("a", Some(revision(0, 7))), ("b", Some(revision(0, 6))), ("c", None)]);
        assert_eq!(reports.progress(revision(0, 7)), "1/3");
        let waiting = reports.all(revision(0, 7)).expect_err("two nodes are missing");
        assert_eq!(waiting.reason, "WaitingForNodes");
        assert_eq!(waiting.message, "waiting for 2 of 3 nodes: b, c");
    }

    #[test]
    fn an_older_epoch_is_no_acknowledgement() {
        let reports = reports(&[("a", Some(revision(0, 900)))]);
        assert!(reports.all(revision(1, 3)).is_err());
        assert!(reports.all(revision(0, 900)).is_ok());
    }

    #[test]
    fn an_agent_that_never_reported_is_missing_even_for_the_first_revision() {
        assert!(reports(&[("a", None)]).all(Revision::default()).is_err());
    }

    #[test]
    fn a_long_list_is_cut() {
        let many: Vec<String> = (10..25).map(|n| format!("node{n}")).collect();
        let list: Vec<(&str, Option<Revision>)> = many.iter().map(|name| (name.as_str(), None)).collect();
        let waiting = reports(&list).all(revision(0, 1)).expect_err("all are missing");
        assert!(waiting.message.starts_with("waiting for 15 of 15 nodes: node10, "));
        assert!(waiting.message.ends_with("node19 and 5 more"));
    }
}
