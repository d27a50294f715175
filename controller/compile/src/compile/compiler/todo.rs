//! What an update has to look at.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::common::NamespacedName;

use super::{Compiler, Inputs, of_namespace};
use crate::cluster::{APISERVER, KUBE_SYSTEM};
use crate::compile::addresses::PodId;
use crate::compile::dirty::{Dirty, Input};
use crate::compile::essentials;
use crate::compile::rule::Ref;

/// Some keys, or all there are.
#[derive(Debug)]
pub enum Keys<K> {
    /// All. The compiler knows none of them yet.
    All,
    /// These.
    These(BTreeSet<K>),
}

impl<K: Ord + Clone> Keys<K> {
    /// Adds a key.
    pub fn add(&mut self, key: K) {
        if let Self::These(keys) = self {
            keys.insert(key);
        }
    }

    /// Visits each key once, in order.
    pub fn each<V>(&self, all: &BTreeMap<K, V>, visit: impl FnMut(&K)) {
        match self {
            Self::All => all.keys().for_each(visit),
            Self::These(keys) => keys.iter().for_each(visit),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::These(keys) if keys.is_empty())
    }
}

/// What an update has to look at. It grows while the update goes on, always by what comes later in it.
#[derive(Debug)]
pub struct Todo {
    pub nodes: Keys<String>,
    pub machines: Keys<String>,
    pub pods: Keys<NamespacedName>,
    pub services: Keys<NamespacedName>,
    pub rule_sets: Keys<String>,
    /// Pods that had problems with their addresses before.
    pub troubled: Vec<PodId>,
    /// Nodes and machines whose addresses may read differently.
    pub shown: Keys<String>,
    /// Claims of the apiserver.
    pub apiserver: bool,
    /// Which nodes seal and by which addresses they are known, or whether any Pod is exposed.
    pub gates: bool,
    /// What is essential, or which network a node is on.
    pub node_policies: bool,
    /// What is said of the cluster as a whole.
    pub warnings: bool,
}

impl Todo {
    /// Everything, for a compiler that knows nothing yet.
    pub fn everything() -> Self {
        Self {
            nodes: Keys::All,
            machines: Keys::All,
            pods: Keys::All,
            services: Keys::All,
            rule_sets: Keys::All,
            troubled: Vec::new(),
            shown: Keys::All,
            apiserver: true,
            gates: true,
            node_policies: true,
            warnings: true,
        }
    }

    fn nothing() -> Self {
        Self {
            nodes: Keys::These(BTreeSet::new()),
            machines: Keys::These(BTreeSet::new()),
            pods: Keys::These(BTreeSet::new()),
            services: Keys::These(BTreeSet::new()),
            rule_sets: Keys::These(BTreeSet::new()),
            troubled: Vec::new(),
            shown: Keys::These(BTreeSet::new()),
            apiserver: false,
            gates: false,
            node_policies: false,
            warnings: false,
        }
    }
}

impl Compiler {
    /// What is to be looked at because of marks.
    pub(super) fn find_work(&mut self, inputs: Inputs<'_>, dirty: Dirty) -> Todo {
        let mut todo = Todo::nothing();
        for mark in dirty.into_marks() {
            self.find_work_of(inputs, mark, &mut todo);
        }
        todo
    }

    fn find_work_of(&mut self, inputs: Inputs<'_>, mark: Input, todo: &mut Todo) {
        match mark {
            Input::Apiserver => {
                todo.apiserver = true;
                todo.node_policies = true;
            }
            Input::WebhookServices => todo.node_policies = true,
            Input::Profile(namespace) => {
                self.namespaces.forget(&namespace);
                of_namespace(&inputs.cluster.pods, &namespace).for_each(|key| todo.pods.add(key.clone()));
                of_namespace(&inputs.cluster.services, &namespace).for_each(|key| todo.services.add(key.clone()));
            }
            Input::Node(name) => {
                todo.machines.add(name.clone());
                todo.nodes.add(name);
            }
            Input::Workload(name) => {
                if inputs.cluster.nodes.contains_key(&name) {
                    todo.nodes.add(name.clone());
                }
                todo.machines.add(name);
            }
            Input::Pod(key) => {
                // A static Pod may say ports of the control plane, or may have said some.
                todo.node_policies |= self.hosts.is_some() && key.namespace == KUBE_SYSTEM;
                todo.pods.add(key);
            }
            Input::Service(key) => {
                // One that load balancers ask for may be there, or may have been.
                todo.node_policies |= self.hosts.is_some() || essentials::depends_on(inputs.cluster, &key);
                todo.services.add(key);
            }
            Input::VirtualService(key) => todo.services.add(key),
            Input::EndpointSlice(key) => {
                todo.node_policies |= self.hosts.is_some() && key.namespace == APISERVER.0;
                let slice = inputs.cluster.endpoint_slices.get(&key);
                let services = self.services.note_slice(&key, slice);
                services.into_iter().for_each(|service| todo.services.add(service));
            }
            Input::Owners(namespace) => {
                of_namespace(&inputs.cluster.services, &namespace).for_each(|key| todo.services.add(key.clone()));
            }
            Input::IpList(name) => todo.mark_users(&self.facts, &Ref::IpList(name)),
            Input::LabelGroup(name) => todo.mark_users(&self.facts, &Ref::LabelGroup(name)),
            Input::ServiceDefinition(name) => todo.mark_users(&self.facts, &Ref::ServiceDefinition(name)),
            Input::RuleSet(name) => todo.rule_sets.add(name),
        }
    }
}
