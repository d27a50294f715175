//! Nodes, with what their agents report of them: addresses, machine-ids, and whether their gates seal.

use ringfence_compile::cluster::NodeInfo;
use ringfence_crds::NodePolicy;
use ringfence_crds::node_policy::NodePolicyStatus;

use super::{Effect, Index, World, cluster_wide, compile_if, take_named};
use crate::engine::chores::due::Spot;
use crate::kubelink::identity::{self, MachineIds};
use crate::kubelink::watch::Change;

impl World {
    /// Takes in nodes. That one is Ready, or not any more, is compiled into nothing: only what waits for nodes is due.
    pub(super) fn take_nodes(&mut self, change: Change<NodeInfo>) -> Effect {
        let change = self.with_reported(change);
        let only_ready = match &change {
            Change::Applied(key, info) => self.cluster.nodes.get(&key.name).is_some_and(|known| {
                known.ready != info.ready && NodeInfo { ready: info.ready, ..known.clone() } == *info
            }),
            Change::Listed(_) | Change::Deleted(_) => false,
        };
        let effect = take_named(&mut self.cluster.nodes, change);
        if only_ready { effect.min(Effect::Chores) } else { effect }
    }

    /// Kubernetes says nothing of what an agent reports: a node's news leave that as it is.
    fn with_reported(&self, change: Change<NodeInfo>) -> Change<NodeInfo> {
        let complete = |name: &str, mut info: NodeInfo| {
            info.take_report(reported(&self.node_policies, name));
            info
        };
        match change {
            Change::Listed(all) => Change::Listed(
                all.into_iter()
                    .map(|(key, info)| {
                        let info = complete(&key.name, info);
                        (key, info)
                    })
                    .collect(),
            ),
            Change::Applied(key, info) => {
                let info = complete(&key.name, info);
                Change::Applied(key, info)
            }
            deleted @ Change::Deleted(_) => deleted,
        }
    }

    /// Brings these nodes (all without a name) to what their agents report.
    pub(super) fn take_reported(&mut self, name: Option<&str>) -> Effect {
        let names: Vec<String> = match name {
            Some(name) => vec![name.to_owned()],
            None => self.cluster.nodes.keys().cloned().collect(),
        };
        let mut changed = false;
        for name in names {
            let report = reported(&self.node_policies, &name);
            changed |= self.cluster.nodes.get_mut(&name).is_some_and(|info| info.take_report(report));
        }
        compile_if(changed)
    }

    /// The machine-ids of the node where a change is.
    pub(super) fn machine_at(&self, spot: &Spot) -> MachineIds {
        match spot {
            Spot::Workload(node) => MachineIds::of(self, node),
            _ => MachineIds::default(),
        }
    }

    /// A node that has another machine-id than before concerns those that have either.
    pub(super) fn look_at_machines(&mut self, before: &MachineIds, after: &MachineIds) {
        if before != after {
            let concerned = identity::concerned(self, before, after);
            concerned.into_iter().for_each(|node| self.due.add(Spot::Workload(node)));
        }
    }
}

/// What the agent of a node reports.
fn reported<'w>(policies: &'w Index<NodePolicy>, node: &str) -> Option<&'w NodePolicyStatus> {
    policies.get(&cluster_wide(node))?.status.as_ref()
}
