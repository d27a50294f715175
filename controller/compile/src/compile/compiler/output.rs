//! What changed, and what is said of machines, nodes and the cluster.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::{AddressGroupSpec, PeerGroupSpec, WorkloadPolicySpec};

use super::todo::{Keys, Todo};
use super::{Compiler, Inputs};
use crate::compile::{Computed, essentials};

/// The computed objects that an update changed, made or ended, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// NodePolicies.
    pub node_policies: BTreeSet<String>,
    /// WorkloadPolicies.
    pub workload_policies: BTreeSet<String>,
    /// PeerGroups.
    pub peer_groups: BTreeSet<String>,
    /// AddressGroups.
    pub address_groups: BTreeSet<String>,
    /// Whether anything else of [`Computed`] may have changed: what is shown, and warnings.
    pub others: bool,
}

macro_rules! keep {
    ($put:ident, $drop:ident, $field:ident, $spec:ty) => {
        /// Keeps an object, and notes it if it was not so before.
        pub(super) fn $put(&mut self, computed: &mut Computed, name: String, spec: $spec) {
            if computed.$field.get(&name) != Some(&spec) {
                computed.$field.insert(name.clone(), spec);
                self.$field.insert(name);
            }
        }

        /// Ends an object, if there is one.
        pub(super) fn $drop(&mut self, computed: &mut Computed, name: &str) {
            if computed.$field.remove(name).is_some() {
                self.$field.insert(name.to_owned());
            }
        }
    };
}

impl Changes {
    keep!(put_workload_policy, drop_workload_policy, workload_policies, WorkloadPolicySpec);
    keep!(put_peer_group, drop_peer_group, peer_groups, PeerGroupSpec);
    keep!(put_address_group, drop_address_group, address_groups, AddressGroupSpec);

    /// Whether no computed object changed.
    pub fn is_empty(&self) -> bool {
        self.written() == 0
    }

    /// How many computed objects changed.
    pub fn written(&self) -> usize {
        self.node_policies.len() + self.workload_policies.len() + self.peer_groups.len() + self.address_groups.len()
    }

    /// What differs between two outputs.
    pub fn between(before: &Computed, after: &Computed) -> Self {
        Self {
            node_policies: differing(&before.node_policies, &after.node_policies),
            workload_policies: differing(&before.workload_policies, &after.workload_policies),
            peer_groups: differing(&before.peer_groups, &after.peer_groups),
            address_groups: differing(&before.address_groups, &after.address_groups),
            others: true,
        }
    }
}

fn differing<V: PartialEq>(before: &BTreeMap<String, V>, after: &BTreeMap<String, V>) -> BTreeSet<String> {
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(value)).map(|(name, _)| name);
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    changed.chain(gone).cloned().collect()
}

impl Compiler {
    /// What is shown of nodes and machines.
    pub(super) fn write_machines(&mut self, inputs: Inputs<'_>, todo: &Todo, changes: &mut Changes) {
        let names: Vec<String> = match &todo.shown {
            Keys::All => self.facts.nodes.keys().chain(self.facts.machines.keys()).cloned().collect(),
            Keys::These(names) => names.iter().cloned().collect(),
        };
        changes.others |= !names.is_empty();
        let facts = &self.facts;
        for name in names {
            let written = inputs.policy.workloads.get(&name);
            let node = facts.nodes.get(&name).zip(inputs.cluster.nodes.get(&name));
            let machine = facts.machines.get(&name).zip(written);
            let shown = match (node, machine) {
                (Some((node, info)), _) => node.shown(info, written, &facts.book),
                (None, Some((machine, spec))) => Some(machine.shown(spec, &facts.book)),
                (None, None) => None,
            };
            match shown {
                Some(shown) => self.computed.workloads.insert(name, shown),
                None => self.computed.workloads.remove(&name),
            };
        }
    }

    pub(super) fn write_node_policies(&mut self, inputs: Inputs<'_>, todo: &Todo, changes: &mut Changes) {
        if !todo.node_policies {
            return;
        }
        let networks = inputs.cluster.nodes.keys().map(|name| (name.clone(), self.network_of(inputs, name).0));
        let policies = essentials::node_policies(inputs.cluster, &self.facts, &networks.collect());
        changes.node_policies.extend(differing(&self.computed.node_policies, &policies));
        self.computed.node_policies = policies;
    }

    /// The id of the network that a node's Pods are on, and what is odd about it.
    fn network_of(&self, inputs: Inputs<'_>, name: &str) -> (String, Option<String>) {
        let nothing = BTreeMap::new();
        let seen = self.seen.get(name).unwrap_or(&nothing);
        let node = inputs.cluster.nodes.get(name);
        node.map(|node| self.facts.settings.networks.of_node(name, node, seen)).unwrap_or_default()
    }

    pub(super) fn write_warnings(&mut self, inputs: Inputs<'_>, todo: &Todo) {
        if !todo.warnings {
            return;
        }
        let labels = self.facts.settings.labels.warnings.iter().cloned();
        let disputes = self.disputes.iter().flat_map(|(key, addresses)| {
            addresses
                .iter()
                .map(move |address| format!("pod/{key} and another Pod have the address {address}: neither is a peer"))
        });
        let odd = inputs.cluster.nodes.keys().filter_map(|name| self.network_of(inputs, name).1);
        self.computed.cluster_warnings = labels.chain(disputes).chain(odd).collect();
    }
}
