//! What of the inputs may have changed since the compiler looked at them last.
//!
//! Marks say *where* to look and not what is there: a mark too many costs time and changes nothing, and the order of
//! marks, duplicates among them and whether they were gathered or came one by one do not matter.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::common::NamespacedName;

use crate::cluster::ClusterState;
use crate::policy::{Kind, ObjectKey, Policy};

/// One input of the compiler.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// Where the apiserver connects from.
    Apiserver,
    /// Which Services the apiserver calls.
    WebhookServices,
    /// A profile, by namespace.
    Profile(String),
    /// A node.
    Node(String),
    /// A Workload that somebody wrote.
    Workload(String),
    /// A Pod.
    Pod(NamespacedName),
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
    /// A VirtualService.
    VirtualService(NamespacedName),
    /// Controllers of Pods in a namespace.
    Owners(String),
    /// An IPList.
    IpList(String),
    /// A LabelGroup.
    LabelGroup(String),
    /// A ServiceDefinition.
    ServiceDefinition(String),
    /// A RuleSet, or where it was written.
    RuleSet(String),
}

/// A set of marks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    everything: bool,
    marks: BTreeSet<Input>,
}

impl Dirty {
    /// Everything may have changed: after a start, after a gap, and when the settings of the cluster, its UID or the
    /// ranges of its Services changed.
    pub fn everything() -> Self {
        Self { everything: true, marks: BTreeSet::new() }
    }

    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.marks.is_empty()
    }

    /// Whether everything is marked.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Marks an input.
    pub fn mark(&mut self, input: Input) {
        if !self.everything {
            self.marks.insert(input);
        }
    }

    /// Marks everything.
    pub fn mark_everything(&mut self) {
        *self = Self::everything();
    }

    /// Adds the marks of another set.
    pub fn merge(&mut self, other: Self) {
        if other.everything {
            self.mark_everything();
        } else if !self.everything {
            self.marks.extend(other.marks);
        }
    }

    /// The marks.
    pub(super) fn into_marks(self) -> BTreeSet<Input> {
        self.marks
    }

    /// What differs between two states of the inputs: how a gap is closed by a full list.
    pub fn between(before: (&Policy, &ClusterState), after: (&Policy, &ClusterState)) -> Self {
        let mut dirty = Self::of_policy(before.0, after.0);
        dirty.merge(Self::of_cluster(before.1, after.1));
        dirty
    }

    /// What differs between two policies.
    pub fn of_policy(old: &Policy, new: &Policy) -> Self {
        if old.cluster != new.cluster {
            return Self::everything();
        }
        let mut dirty = Self::default();
        dirty.mark_differing(&old.profiles, &new.profiles, |key| Input::Profile(key.clone()));
        dirty.mark_differing(&old.workloads, &new.workloads, |key| Input::Workload(key.clone()));
        dirty.mark_differing(&old.ip_lists, &new.ip_lists, |key| Input::IpList(key.clone()));
        dirty.mark_differing(&old.label_groups, &new.label_groups, |key| Input::LabelGroup(key.clone()));
        let definition = |key: &String| Input::ServiceDefinition(key.clone());
        dirty.mark_differing(&old.service_definitions, &new.service_definitions, definition);
        dirty.mark_differing(&old.rule_sets, &new.rule_sets, |key| Input::RuleSet(key.clone()));
        dirty.mark_differing(&old.virtual_services, &new.virtual_services, |key| Input::VirtualService(key.clone()));
        let of_rule_set = |key: &ObjectKey| key.kind == Kind::RuleSet;
        for (key, origin) in new.origins.iter().filter(|(key, _)| of_rule_set(key)) {
            if old.origins.get(key) != Some(origin) {
                dirty.mark(Input::RuleSet(key.name.clone()));
            }
        }
        for key in old.origins.keys().filter(|key| of_rule_set(key) && !new.origins.contains_key(*key)) {
            dirty.mark(Input::RuleSet(key.name.clone()));
        }
        dirty
    }

    /// What differs between two states of a cluster.
    pub fn of_cluster(old: &ClusterState, new: &ClusterState) -> Self {
        if old.uid != new.uid || old.service_ranges != new.service_ranges {
            return Self::everything();
        }
        let mut dirty = Self::default();
        if old.apiserver_addresses != new.apiserver_addresses {
            dirty.mark(Input::Apiserver);
        }
        if old.webhook_services != new.webhook_services {
            dirty.mark(Input::WebhookServices);
        }
        dirty.mark_differing(&old.nodes, &new.nodes, |key| Input::Node(key.clone()));
        dirty.mark_differing(&old.pods, &new.pods, |key| Input::Pod(key.clone()));
        dirty.mark_differing(&old.services, &new.services, |key| Input::Service(key.clone()));
        dirty.mark_differing(&old.endpoint_slices, &new.endpoint_slices, |key| Input::EndpointSlice(key.clone()));
        dirty.mark_differing(&old.owners, &new.owners, |key| Input::Owners(key.namespace.clone()));
        dirty
    }

    fn mark_differing<K: Ord, V: PartialEq>(
        &mut self,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
        input: impl Fn(&K) -> Input,
    ) {
        let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(key, _)| key);
        let gone = old.keys().filter(|key| !new.contains_key(key));
        changed.chain(gone).for_each(|key| self.mark(input(key)));
    }
}
