//! What changed, and what is said of machines, nodes and the cluster.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::common::NamespacedName;
use ringfence_crds::{AddressGroupSpec, PeerGroupSpec, WorkloadPolicySpec};

use super::todo::{Keys, Todo};
use super::{Compiler, Inputs};
use crate::compile::{Computed, essentials, names};

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
    /// Services, of whose VirtualServices something else is shown.
    pub services: BTreeSet<NamespacedName>,
    /// Nodes and unmanaged machines, of which something else is shown.
    pub workloads: BTreeSet<String>,
    /// Whether anything else of [`Computed`] may have changed: Pods, and warnings.
    pub others: bool,
    not_noted: bool,
}

macro_rules! keep {
    ($put:ident, $put_all:ident, $drop:ident, $field:ident, $spec:ty) => {
        /// Keeps an object, and notes it if it was not so before.
        pub(super) fn $put(&mut self, computed: &mut Computed, name: String, spec: $spec) {
            match computed.$field.entry(name) {
                Entry::Vacant(entry) => {
                    self.note(entry.key(), |changes| &mut changes.$field);
                    entry.insert(spec);
                }
                Entry::Occupied(mut entry) if *entry.get() != spec => {
                    self.note(entry.key(), |changes| &mut changes.$field);
                    entry.insert(spec);
                }
                Entry::Occupied(_) => {}
            }
        }

        /// The same for many objects.
        pub(super) fn $put_all(&mut self, computed: &mut Computed, objects: Vec<(String, $spec)>) {
            if computed.$field.is_empty() {
                // A map that is made at once from all it holds takes a tenth of the time.
                objects.iter().for_each(|(name, _)| self.note(name, |changes| &mut changes.$field));
                computed.$field = objects.into_iter().collect();
            } else {
                objects.into_iter().for_each(|(name, spec)| self.$put(computed, name, spec));
            }
        }

        /// Ends an object, if there is one.
        pub(super) fn $drop(&mut self, computed: &mut Computed, name: &str) {
            if computed.$field.remove(name).is_some() {
                self.note(name, |changes| &mut changes.$field);
            }
        }
    };
}

impl Changes {
    keep!(put_workload_policy, put_workload_policies, drop_workload_policy, workload_policies, WorkloadPolicySpec);
    keep!(put_peer_group, put_peer_groups, drop_peer_group, peer_groups, PeerGroupSpec);
    keep!(put_address_group, put_address_groups, drop_address_group, address_groups, AddressGroupSpec);

    /// For a compiler that is made anew: nobody asks what changed.
    pub(super) fn not_noted() -> Self {
        Self { not_noted: true, ..Self::default() }
    }

    /// Notes that something else is shown of a Service.
    pub(super) fn note_service(&mut self, key: &NamespacedName) {
        if !self.not_noted {
            self.services.insert(key.clone());
        }
    }

    fn note(&mut self, name: &str, of: fn(&mut Self) -> &mut BTreeSet<String>) {
        if !self.not_noted {
            of(self).insert(name.to_owned());
        }
    }

    /// Ends the slices of a class from a number on: as many as were written, which may be more than there are now.
    pub(super) fn drop_slices(&mut self, computed: &mut Computed, class: &str, from: usize) {
        let names = (from..).map(|slice| names::address_group(class, slice));
        let gone: Vec<String> = names.take_while(|name| computed.address_groups.contains_key(name)).collect();
        gone.iter().for_each(|name| self.drop_address_group(computed, name));
    }

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
            services: &(&differing(&before.virtual_services, &after.virtual_services)
                | &differing(&before.service_warnings, &after.service_warnings))
                | &differing(&before.hidden_sources, &after.hidden_sources),
            workloads: differing(&before.workloads, &after.workloads),
            others: true,
            not_noted: false,
        }
    }
}

fn differing<K: Ord + Clone, V: PartialEq>(before: &BTreeMap<K, V>, after: &BTreeMap<K, V>) -> BTreeSet<K> {
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
            if self.computed.workloads.get(&name) != shown.as_ref() {
                changes.note(&name, |changes| &mut changes.workloads);
                match shown {
                    Some(shown) => self.computed.workloads.insert(name, shown),
                    None => self.computed.workloads.remove(&name),
                };
            }
        }
    }

    pub(super) fn write_node_policies(&mut self, inputs: Inputs<'_>, todo: &Todo, changes: &mut Changes) {
        if !todo.node_policies {
            return;
        }
        let networks = inputs.cluster.nodes.keys().map(|name| (name.clone(), self.network_of(inputs, name).0));
        let policies =
            essentials::node_policies(&inputs.policy.cluster, inputs.cluster, &self.facts, &networks.collect());
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

    pub(super) fn write_warnings(&mut self, inputs: Inputs<'_>, todo: &Todo, changes: &mut Changes) {
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
        let warnings: Vec<String> = labels.chain(disputes).chain(odd).collect();
        changes.others |= warnings != self.computed.cluster_warnings;
        self.computed.cluster_warnings = warnings;
    }
}
