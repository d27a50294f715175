//! What rules are resolved against, and what the evaluator looks at: inputs, and the facts that follow from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;

use super::Computed;
use super::addresses::{AddressBook, Owner, PodId};
use super::class::Class;
use super::classes::Classes;
use super::machines::{Machine, NodeFacts};
use super::pods::Pods;
use super::rule::ResolvedRule;
use super::rule_sets::RuleSets;
use super::service_facts::ServiceFacts;
use super::settings::Settings;
use crate::cluster::ClusterState;
use crate::policy::Policy;

/// What follows from policy and cluster, as far as others look at it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Settings of the cluster.
    pub settings: Settings,
    /// Who has which address.
    pub book: AddressBook,
    /// Classes.
    pub classes: Classes,
    /// Pods that have not ended.
    pub pods: Pods,
    /// Nodes.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// Unmanaged machines.
    pub machines: BTreeMap<String, Machine>,
    /// Services.
    pub services: BTreeMap<NamespacedName, ServiceFacts>,
    /// RuleSets.
    pub rule_sets: RuleSets,
}

/// Inputs and facts together.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The cluster.
    pub cluster: &'a ClusterState,
    /// What follows from them.
    pub facts: &'a Facts,
    /// What is written and shown.
    pub computed: &'a Computed,
}

impl<'a> World<'a> {
    /// A Service of a managed namespace.
    pub fn virtual_service(self, key: &NamespacedName) -> Option<&'a ServiceFacts> {
        self.facts.services.get(key).filter(|service| service.managed)
    }

    /// Whether the gate of every node that seals judges for a Pod.
    pub fn is_exposed(self, pod: &NamespacedName) -> bool {
        let services = self.facts.services.iter().filter(|(key, _)| key.namespace == pod.namespace);
        let mut exposing = services.map(|(_, service)| service).filter(|service| service.managed && service.exposed);
        let own = |number: &PodId| self.facts.pods.at(*number).is_some_and(|facts| *facts.key == *pod);
        exposing.any(|service| service.behind.pods.iter().any(own))
    }

    /// Who has an address.
    pub fn owner(self, address: IpAddr) -> Option<&'a Owner> {
        self.facts.book.owner(address)
    }

    /// All addresses of a node.
    pub fn addresses_of_node(self, name: &str) -> BTreeSet<IpAddr> {
        self.facts.nodes.get(name).map(|node| node.addresses(&self.facts.book)).unwrap_or_default()
    }

    /// All rules that are switched on, by RuleSet, scope and name.
    pub fn rules(self) -> impl Iterator<Item = &'a ResolvedRule> {
        self.facts.rule_sets.rules()
    }
}

impl Facts {
    /// The class of whoever has an address.
    pub fn class_at(&self, address: IpAddr) -> Option<&Arc<Class>> {
        match self.book.owner(address)? {
            Owner::Pod(number) => self.pods.at(*number)?.class.as_ref().map(|(_, class)| class),
            Owner::Node(name) => self.nodes.get(&**name)?.workload.as_ref().map(|workload| &workload.class),
            Owner::Unmanaged(name) => self.machines.get(&**name).map(|machine| &machine.facts.class),
            Owner::Disputed => None,
        }
    }
}
