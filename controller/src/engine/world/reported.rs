//! Nodes, with their addresses and machine-ids as their agents report them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_compile::cluster::NodeInfo;
use ringfence_crds::NodePolicy;

use super::{Effect, World, cluster_wide, compile_if, take_named};
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
        let complete = |name: &str, info: NodeInfo| NodeInfo { reported: self.reported(name), ..info };
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
            let reported = self.reported(&name);
            if let Some(info) = self.cluster.nodes.get_mut(&name).filter(|info| info.reported != reported) {
                info.reported = reported;
                changed = true;
            }
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

    /// What is no address is left out.
    fn reported(&self, node: &str) -> BTreeSet<IpAddr> {
        let policy: Option<&NodePolicy> = self.node_policies.get(&cluster_wide(node));
        let status = policy.and_then(|policy| policy.status.as_ref());
        status.into_iter().flat_map(|status| &status.node_addresses).filter_map(|text| text.parse().ok()).collect()
    }
}
