//! Which machine a node is. A node is known by its name everywhere; its machine-id only says whether its agent runs on
//! the machine that Kubernetes means, and whether no other node is that machine too.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::NodePolicyStatus;

use crate::engine::world::{World, cluster_wide};

/// Whether the agent of a node and Kubernetes speak of the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matched {
    /// They do.
    Yes,
    /// They do not.
    No,
    /// One of them has not reported.
    Unknown,
}

impl Matched {
    fn of(ids: &MachineIds) -> Self {
        match (&ids.kubernetes, &ids.agent) {
            (Some(kubernetes), Some(agent)) if kubernetes == agent => Self::Yes,
            (Some(_), Some(_)) => Self::No,
            _ => Self::Unknown,
        }
    }

    /// As it is shown.
    pub fn text(self) -> &'static str {
        match self {
            Self::Yes => "True",
            Self::No => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The machine-ids of a node, in one form.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MachineIds {
    kubernetes: Option<String>,
    agent: Option<String>,
}

impl MachineIds {
    /// Those of a node. What is left of a node that is gone says nothing.
    pub fn of(world: &World, node: &str) -> Self {
        let Some(info) = world.cluster.nodes.get(node) else { return Self::default() };
        let agent = report(world, node).and_then(|report| report.machine_id.as_deref());
        Self { kubernetes: normal(&info.machine_id), agent: agent.and_then(normal) }
    }

    /// Whether Kubernetes says the same of both nodes, or both agents do.
    pub fn meet(&self, other: &Self) -> bool {
        let same = |ours: &Option<String>, theirs: &Option<String>| ours.is_some() && ours == theirs;
        same(&self.kubernetes, &other.kubernetes) || same(&self.agent, &other.agent)
    }
}

/// The kubelet may report the same id as a UUID with dashes. An empty machine-id says nothing: two of them are no
/// agreement.
fn normal(id: &str) -> Option<String> {
    let id = id.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
    Some(id).filter(|id| !id.is_empty())
}

/// Whether a node's machine-ids agree.
pub fn matched(world: &World, node: &str) -> Matched {
    Matched::of(&MachineIds::of(world, node))
}

/// What a node's agent reports.
pub fn report<'a>(world: &'a World, node: &str) -> Option<&'a NodePolicyStatus> {
    world.node_policies.get(&cluster_wide(node))?.status.as_ref()
}

/// The nodes whose machine-id others have too, each with those: machines from one image that was not made for that.
pub fn duplicates(world: &World) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut by_id: BTreeMap<(bool, String), BTreeSet<&str>> = BTreeMap::new();
    for node in world.cluster.nodes.keys() {
        let MachineIds { kubernetes, agent } = MachineIds::of(world, node);
        let ids = kubernetes.map(|id| (false, id)).into_iter().chain(agent.map(|id| (true, id)));
        for id in ids {
            by_id.entry(id).or_default().insert(node);
        }
    }
    let mut duplicates: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for nodes in by_id.into_values().filter(|nodes| nodes.len() > 1) {
        for node in &nodes {
            duplicates.entry(node).or_default().extend(nodes.iter().filter(|other| *other != node));
        }
    }
    duplicates
}

/// The nodes that have a machine-id in common with one that had `before` or has `after`.
pub fn concerned(world: &World, before: &MachineIds, after: &MachineIds) -> Vec<String> {
    let concerned = |node: &&String| {
        let ids = MachineIds::of(world, node);
        ids.meet(before) || ids.meet(after)
    };
    world.cluster.nodes.keys().filter(concerned).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_compile::cluster::NodeInfo;
    use ringfence_crds::{NodePolicy, NodePolicySpec};

    fn ids(kubernetes: &str, agent: Option<&str>) -> MachineIds {
        MachineIds { kubernetes: normal(kubernetes), agent: agent.and_then(normal) }
    }

    #[test]
    fn machine_ids_agree_or_do_not_or_nobody_knows() {
        let id = "0123456789abcdef0123456789abcdef";
        let matched = |kubernetes: &str, agent: Option<&str>| Matched::of(&ids(kubernetes, agent));
        assert_eq!(matched(id, Some(id)), Matched::Yes);
        assert_eq!(matched("01234567-89AB-CDEF-0123-456789abcdef", Some(id)), Matched::Yes);
        assert_eq!(matched(id, Some("f0")), Matched::No);
        assert_eq!(matched(id, None), Matched::Unknown);
        assert_eq!(matched("", Some("")), Matched::Unknown, "nothing agrees with nothing");
    }

    /// Nodes with what Kubernetes and their agents say of them.
    fn world(nodes: &[(&str, &str, Option<&str>)]) -> World {
        let mut world = World::default();
        for (node, kubernetes, agent) in nodes {
            let info = NodeInfo { machine_id: (*kubernetes).to_owned(), ..NodeInfo::default() };
            world.cluster.nodes.insert((*node).to_owned(), info);
            let mut policy = NodePolicy::new(node, NodePolicySpec::default());
            let machine_id = agent.map(str::to_owned);
            policy.status = Some(NodePolicyStatus { machine_id, ..NodePolicyStatus::default() });
            world.node_policies.insert(cluster_wide(*node), policy);
        }
        world
    }

    #[test]
    fn nodes_with_one_machine_id_are_duplicates() {
        let world = world(&[
            ("clone1", "f00d", Some("f00d")),
            ("clone2", "F0-0D", Some("f00d")),
            ("own", "cafe", Some("cafe")),
            // Their agents alone say the same, as when both read the file of one of them.
            ("agent1", "1111", Some("abba")),
            ("agent2", "2222", Some("abba")),
            // Nobody knows, and that is nothing in common.
            ("silent1", "", None),
            ("silent2", "", Some("")),
        ]);
        let expected = [("agent1", "agent2"), ("agent2", "agent1"), ("clone1", "clone2"), ("clone2", "clone1")];
        assert_eq!(duplicates(&world), expected.map(|(node, other)| (node, [other].into())).into());
        let others = concerned(&world, &ids("cafe", None), &ids("f00d", None));
        assert_eq!(others, ["clone1", "clone2", "own"], "whom it leaves, and whom it joins");
        assert_eq!(concerned(&world, &ids("", None), &ids("", Some(""))), [""; 0]);
    }

    #[test]
    fn what_is_left_of_a_node_that_is_gone_is_no_duplicate() {
        let mut world = world(&[("node1", "f00d", Some("f00d")), ("node2", "f00d", Some("f00d"))]);
        world.cluster.nodes.remove("node1");
        assert_eq!(duplicates(&world), BTreeMap::new());
    }
}
