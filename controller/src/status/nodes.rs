//! Which nodes have which revision in force.
//!
//! 1. A node that Kubernetes calls Ready is waited for, also when its agent has never reported.
//! 2. One that is not Ready is named, and not waited for: it may never come back, and brings everything up to date when it
//!    does.
//! 3. One that was turned off enforces nothing, and is named: nothing that others enforce can run ahead of it.
//! 4. What takes too long is called `Stalled`, by the condition's own time: a restart does not begin anew.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use ringfence_compile::cluster::NodeInfo;
use ringfence_crds::names::REASON_SUSPENDED;
use ringfence_crds::{NodePolicy, Revision};

use super::Ready;
use crate::engine::world::World;

/// How many nodes of one kind a message names.
const NAMED: usize = 10;
/// How long nodes are waited for before that is called `Stalled`: an agent reports within seconds, and one that is replaced
/// with its image pulled anew, or a node that starts, within minutes.
const STALLED_AFTER_SECONDS: i64 = 5 * 60;

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The revision that its agent has acknowledged; none if it has not reported.
    pub acknowledged: Option<Revision>,
    /// The revision of its NodePolicy, unless the agent has seen that one.
    pub unseen: Option<Revision>,
    /// Whether an agent is to be expected on it: Kubernetes calls it Ready, and it is a Linux machine.
    pub ready: bool,
    /// Whether its agent has taken everything away on purpose.
    pub off: bool,
}

/// Whether an agent says of its node that nothing of Ringfence is left there, on purpose.
pub fn is_off(policy: &NodePolicy) -> bool {
    let conditions = policy.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.reason == REASON_SUSPENDED)
}

impl Node {
    fn of(policy: &NodePolicy, ready: bool) -> Self {
        let status = policy.status.as_ref();
        let seen = status.and_then(|status| status.observed_generation) == policy.metadata.generation;
        Self {
            acknowledged: status.and_then(|status| status.acknowledged),
            unseen: (!seen).then_some(policy.spec.revision),
            ready,
            off: is_off(policy),
        }
    }

    /// Whether it has acknowledged a revision. A NodePolicy that has changed later says nothing against it.
    fn has(&self, revision: Revision) -> bool {
        self.acknowledged.is_some_and(|acknowledged| acknowledged >= revision)
            && self.unseen.is_none_or(|unseen| unseen > revision)
    }

    /// How far it is, for people.
    fn position(&self, asked: Revision) -> String {
        match self.acknowledged {
            None => "never reported".to_owned(),
            Some(at) if at >= asked => "has not seen its NodePolicy".to_owned(),
            Some(at) => format!("at {at}"),
        }
    }
}

/// Whether an agent is to be expected on a node: it is Ready, and a Linux machine.
fn is_up(info: &NodeInfo) -> bool {
    let linux = info.labels.get("kubernetes.io/os").is_none_or(|os| os == "linux");
    let machine = info.labels.get("type").is_none_or(|kind| kind != "virtual-kubelet");
    info.ready && linux && machine
}

/// What the agents of the nodes concerned have acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports(pub BTreeMap<String, Node>);

impl Reports {
    /// What the agents have reported: one per NodePolicy, since every node that an agent runs on has one. A node that
    /// Kubernetes does not know is not Ready.
    pub fn of(world: &World) -> Self {
        let node = |name: &str, policy| Node::of(policy, world.cluster.nodes.get(name).is_some_and(is_up));
        Self(world.node_policies.iter().map(|(key, policy)| (key.name.clone(), node(&key.name, policy))).collect())
    }

    /// The same, with nodes that get their NodePolicy only now.
    #[must_use]
    pub fn expecting<'n>(mut self, world: &World, names: impl Iterator<Item = &'n str>) -> Self {
        for name in names {
            let ready = world.cluster.nodes.get(name).is_some_and(is_up);
            self.0.entry(name.to_owned()).or_insert(Node { ready, ..Node::default() });
        }
        self
    }

    /// How far the nodes are with a revision.
    pub fn progress(&self, revision: Revision) -> Progress<'_> {
        let mut progress =
            Progress { revision, acknowledged: 0, waiting: Vec::new(), away: Vec::new(), off: Vec::new() };
        for (name, node) in &self.0 {
            match (node.has(revision), node.ready) {
                (true, _) => progress.acknowledged += 1,
                (false, true) if node.off => progress.off.push(name),
                (false, true) => progress.waiting.push((name, node)),
                (false, false) => progress.away.push(name),
            }
        }
        progress
    }
}

/// How far the nodes are with a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'r> {
    revision: Revision,
    acknowledged: usize,
    waiting: Vec<(&'r str, &'r Node)>,
    /// Not Ready, and not waited for.
    away: Vec<&'r str>,
    /// Turned off.
    off: Vec<&'r str>,
}

impl Progress<'_> {
    /// Whether every node that is waited for has acknowledged.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What to say once it is complete.
    pub fn in_force(&self) -> String {
        let total = self.total();
        format!("in force on {total} of {total} nodes{}", self.away())
    }

    /// The condition while it is not, of an object that had the conditions `previous`. `meanwhile` says what holds until
    /// then, if that is something else.
    pub fn waiting(&self, meanwhile: Option<&str>, previous: &[Condition], now: &Time) -> Ready {
        let names = self.waiting.iter().map(|(name, node)| format!("{name} ({})", node.position(self.revision)));
        let meanwhile = meanwhile.map(|text| format!("; until then {text}")).unwrap_or_default();
        let message = format!("{self} nodes have acknowledged; waiting for {}{meanwhile}{}", list(names), self.away());
        Ready::no(if is_overdue(previous, now) { "Stalled" } else { "WaitingForNodes" }, message)
    }

    fn total(&self) -> usize {
        self.acknowledged + self.waiting.len()
    }

    /// The nodes that are not waited for, and why not.
    fn away(&self) -> String {
        let named = |why: &str, names: &[&str]| match names {
            [] => String::new(),
            names => format!("; {why}: {}", list(names.iter().map(|name| (*name).to_owned()))),
        };
        named("not ready and not waited for", &self.away) + &named("turned off and enforcing nothing", &self.off)
    }
}

impl fmt::Display for Progress<'_> {
    /// How many of how many nodes have acknowledged, as `m/n`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.acknowledged, self.total())
    }
}

/// Whether an object with these conditions has not been Ready for too long.
fn is_overdue(previous: &[Condition], now: &Time) -> bool {
    let since = previous.iter().find(|condition| condition.type_ == "Ready" && condition.status == "False");
    since.is_some_and(|condition| {
        now.0.as_second() - condition.last_transition_time.0.as_second() >= STALLED_AFTER_SECONDS
    })
}

/// The first of some names, and how many more there are.
fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names.take(NAMED).collect::<Vec<_>>().join(", ");
    match more {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_crds::node_policy::NodePolicyStatus;
    use ringfence_crds::{NodePolicySpec, Revision};

    fn revision(epoch: i64, number: i64) -> Revision {
        Revision { epoch, number }
    }
    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a literal of the test"))
    }
    /// Nodes by name, what they have acknowledged, and whether they are Ready.
    fn reports(list: &[(&str, Option<Revision>, bool)]) -> Reports {
        let node = |acknowledged, ready| Node { acknowledged, unseen: None, ready, off: false };
        Reports(list.iter().map(|(name, at, ready)| ((*name).to_owned(), node(*at, *ready))).collect())
    }
    fn waiting(progress: &Progress<'_>) -> Ready {
        progress.waiting(None, &[], &at(0))
    }

    #[test]
    fn every_ready_node_counts_and_the_missing_ones_are_named() {
        let reports =
            reports(&[("a", Some(revision(0, 7)), true), ("b", Some(revision(0, 6)), true), ("c", None, true)]);
        let progress = reports.progress(revision(0, 7));
        assert!(!progress.is_complete());
        assert_eq!(progress.to_string(), "1/3");
        let waiting = waiting(&progress);
        assert_eq!(waiting.reason, "WaitingForNodes");
        assert_eq!(waiting.message, "1/3 nodes have acknowledged; waiting for b (at 0.6), c (never reported)");
    }

    #[test]
    fn a_node_that_is_not_ready_is_named_and_not_waited_for() {
        let late = Some(revision(0, 6));
        let reports = reports(&[("a", Some(revision(0, 7)), true), ("b", late, false), ("c", None, false)]);
        let progress = reports.progress(revision(0, 7));
        assert!(progress.is_complete());
        assert_eq!(progress.to_string(), "1/1");
        assert_eq!(progress.in_force(), "in force on 1 of 1 nodes; not ready and not waited for: b, c");
        let progress = reports.progress(revision(0, 6));
        assert_eq!(progress.to_string(), "2/2", "what it has acknowledged counts");
        let progress = reports.progress(revision(0, 8));
        assert_eq!(
            progress.waiting(Some("Selective holds"), &[], &at(0)).message,
            "0/1 nodes have acknowledged; waiting for a (at 0.7); until then Selective holds; \
             not ready and not waited for: b, c"
        );
    }

    #[test]
    fn no_agent_is_expected_where_none_can_run() {
        let with = |key: &str, value: &str| NodeInfo {
            ready: true,
            labels: [(key.to_owned(), value.to_owned())].into(),
            ..NodeInfo::default()
        };
        assert!(is_up(&with("kubernetes.io/os", "linux")) && is_up(&with("zone", "a")));
        assert!(!is_up(&with("kubernetes.io/os", "windows")) && !is_up(&with("type", "virtual-kubelet")));
        assert!(!is_up(&NodeInfo { ready: false, ..with("kubernetes.io/os", "linux") }));
    }

    #[test]
    fn a_node_that_is_off_is_named_and_not_waited_for() {
        let off = Node { acknowledged: None, unseen: None, ready: true, off: true };
        let on = Node { acknowledged: Some(revision(0, 7)), unseen: None, ready: true, off: false };
        let reports = Reports([("a".to_owned(), on), ("b".to_owned(), off)].into());
        let progress = reports.progress(revision(0, 7));
        assert!(progress.is_complete());
        assert_eq!(progress.in_force(), "in force on 1 of 1 nodes; turned off and enforcing nothing: b");
    }

    #[test]
    fn an_older_epoch_is_no_acknowledgement() {
        let reports = reports(&[("a", Some(revision(0, 900)), true)]);
        assert!(!reports.progress(revision(1, 3)).is_complete());
        assert!(reports.progress(revision(0, 900)).is_complete());
    }

    #[test]
    fn an_agent_that_never_reported_is_missing_even_for_the_first_revision() {
        assert!(!reports(&[("a", None, true)]).progress(Revision::default()).is_complete());
    }

    #[test]
    fn an_agent_that_has_not_seen_its_node_policy_has_not_acknowledged_its_revision() {
        let mut policy = NodePolicy::new("a", NodePolicySpec { revision: revision(0, 5), ..Default::default() });
        policy.metadata.generation = Some(3);
        let acknowledged = Some(revision(0, 6));
        policy.status =
            Some(NodePolicyStatus { acknowledged, observed_generation: Some(2), ..NodePolicyStatus::default() });
        let reports = |policy: &NodePolicy| Reports([("a".to_owned(), Node::of(policy, true))].into());
        let unseen = reports(&policy);
        assert_eq!(
            waiting(&unseen.progress(revision(0, 5))).message,
            "0/1 nodes have acknowledged; waiting for a (has not seen its NodePolicy)"
        );
        assert!(unseen.progress(revision(0, 4)).is_complete(), "its NodePolicy has changed after that");
        policy.status.as_mut().expect("set above").observed_generation = Some(3);
        assert!(reports(&policy).progress(revision(0, 6)).is_complete());
    }

    #[test]
    fn a_long_list_is_cut() {
        let many: Vec<String> = (10..25).map(|n| format!("node{n}")).collect();
        let list: Vec<(&str, Option<Revision>, bool)> = many.iter().map(|name| (name.as_str(), None, true)).collect();
        let message = waiting(&reports(&list).progress(revision(0, 1))).message;
        assert!(message.starts_with("0/15 nodes have acknowledged; waiting for node10 (never reported), "));
        assert!(message.ends_with("node19 (never reported) and 5 more"));
    }

    #[test]
    fn after_five_minutes_it_has_stalled_whoever_looks() {
        let reports = reports(&[("a", None, true)]);
        let progress = reports.progress(revision(0, 1));
        let before = progress.waiting(None, &[], &at(100)).conditions(&[], Some(1), &at(100));
        assert_eq!(progress.waiting(None, &before, &at(399)).reason, "WaitingForNodes");
        let stalled = progress.waiting(None, &before, &at(400));
        assert_eq!((stalled.ready, stalled.reason), (false, "Stalled"));
        let after = stalled.conditions(&before, Some(1), &at(400));
        assert_eq!(progress.waiting(None, &after, &at(401)).reason, "Stalled");
        let was_ready = Ready::yes("InForce", "").conditions(&[], Some(1), &at(0));
        assert_eq!(progress.waiting(None, &was_ready, &at(1000)).reason, "WaitingForNodes");
    }
}
