//! The Pods that every node exposes, and the nodes whose gate seals.

use ringfence_crds::common::NamespacedName;
use ringfence_crds::names::CLASS_GATES;

use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::compile::exposed;
use crate::compile::service_facts::ServiceFacts;

impl Compiler {
    /// The AddressGroup with the Pods that a virtual service exposes, if it exposes any.
    pub(super) fn show_exposed(
        &mut self,
        inputs: Inputs<'_>,
        key: &NamespacedName,
        now: Option<&ServiceFacts>,
        todo: &mut Todo,
        changes: &mut Changes,
    ) {
        let none_before = self.exposed.is_empty();
        if let Some(now) = now.filter(|now| now.exposed) {
            let spec = exposed::group(key, now, inputs.cluster, &self.facts);
            changes.put_address_group(&mut self.computed, exposed::group_name(key), spec);
            self.exposed.insert(key.clone());
        } else if self.exposed.remove(key) {
            changes.drop_address_group(&mut self.computed, &exposed::group_name(key));
        }
        todo.gates |= none_before != self.exposed.is_empty();
    }

    /// The AddressGroups of the nodes whose gate seals are there as long as a Service exposes its Pods. All are made anew: what
    /// is as it was is not written.
    pub(super) fn write_gates(&mut self, todo: &Todo, changes: &mut Changes) {
        if !todo.gates {
            return;
        }
        let groups = if self.exposed.is_empty() { Vec::new() } else { exposed::gates(&self.facts) };
        changes.drop_slices(&mut self.computed, CLASS_GATES, groups.len());
        changes.put_address_groups(&mut self.computed, groups);
    }
}

/// A nodePort is open at every address of every node, and which nodes seal says what is hidden behind them.
pub(super) fn mark_nodes(inputs: Inputs<'_>, todo: &mut Todo) {
    todo.gates = true;
    if matches!(todo.services, Keys::All) {
        return;
    }
    let services = inputs.cluster.services.iter().filter(|(_, service)| {
        exposed::is_exposed(service) || service.ports.iter().any(|port| port.node_port.is_some())
    });
    services.for_each(|(key, _)| todo.services.add(key.clone()));
}
