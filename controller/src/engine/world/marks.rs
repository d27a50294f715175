//! Where a change of the inputs is, so that only what depends on it is compiled again and looked at when it is published.

use std::collections::BTreeSet;

use ringfence_compile::compile::Input as Mark;
use ringfence_crds::common::NamespacedName;

use super::{Effect, World};
use crate::engine::input::Input;
use crate::kubelink::watch::Change;
use crate::publish::look::Names;

/// Where a change is.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// In one input of the compiler.
    At(Mark),
    /// Anywhere: a whole list was read anew, or it is one of the cluster's settings.
    Anywhere,
    /// In policy, of which the compiler gets a copy to compare.
    Policy,
    /// In nothing that is compiled.
    Nowhere,
}

impl Place {
    /// The place of a change.
    pub(super) fn of(input: &Input) -> Self {
        match input {
            // Of namespaces only the UID of one counts.
            Input::Namespace(_) => Self::Nowhere,
            Input::Node(change) => one(change, |key| Mark::Node(key.name.clone())),
            Input::NodePolicy(change) => one(change, |key| Mark::Node(key.name.clone())),
            Input::Pod(change) => one(change, |key| Mark::Pod(key.clone())),
            Input::Service(change) => one(change, |key| Mark::Service(key.clone())),
            Input::EndpointSlice(change) => one(change, |key| Mark::EndpointSlice(key.clone())),
            Input::Owner(_, change) => one(change, |key| Mark::Owners(key.namespace.clone())),
            Input::Caller(..) => Self::At(Mark::WebhookServices),
            Input::ServiceRange(_) => Self::Anywhere,
            Input::Cluster(_)
            | Input::Profile(_)
            | Input::VirtualService(_)
            | Input::Workload(_)
            | Input::RuleSet(_)
            | Input::IpList(_)
            | Input::LabelGroup(_)
            | Input::ServiceDefinition(_) => Self::Policy,
            Input::WorkloadPolicy(_) | Input::PeerGroup(_) | Input::AddressGroup(_) => Self::Nowhere,
        }
    }
}

fn one<T>(change: &Change<T>, mark: impl Fn(&NamespacedName) -> Mark) -> Place {
    change.key().map_or(Place::Anywhere, |key| Place::At(mark(key)))
}

/// What publishing sees of a change.
pub(super) struct Sight {
    /// The object; none when a whole list was read anew.
    key: Option<NamespacedName>,
    /// The names of its kind among those that are looked at.
    kind: fn(&mut Names) -> &mut BTreeSet<String>,
    /// From which effect on it counts.
    from: Effect,
}

impl Sight {
    /// Of objects that publishing compares; nothing of any other kind.
    pub(super) fn of(input: &Input) -> Option<Self> {
        fn sight<T>(change: &Change<T>, from: Effect, kind: fn(&mut Names) -> &mut BTreeSet<String>) -> Option<Sight> {
            Some(Sight { key: change.key().cloned(), kind, from })
        }
        match input {
            Input::NodePolicy(change) => sight(change, Effect::Publish, |names| &mut names.node_policies),
            Input::WorkloadPolicy(change) => sight(change, Effect::Publish, |names| &mut names.workload_policies),
            Input::PeerGroup(change) => sight(change, Effect::Publish, |names| &mut names.peer_groups),
            Input::AddressGroup(change) => sight(change, Effect::Publish, |names| &mut names.address_groups),
            // Their statuses count too.
            Input::Profile(change) => sight(change, Effect::Chores, |names| &mut names.profiles),
            Input::RuleSet(change) => sight(change, Effect::Chores, |names| &mut names.rule_sets),
            _ => None,
        }
    }
}

impl World {
    pub(super) fn look_at(&mut self, sight: Option<Sight>, effect: Effect) {
        if let Some(sight) = sight.filter(|sight| effect >= sight.from) {
            self.look.add(sight.key.as_ref(), sight.kind);
        }
    }

    pub(super) fn mark(&mut self, place: Place) {
        match place {
            Place::At(mark) => self.dirty.mark(mark),
            Place::Anywhere => self.dirty.mark_everything(),
            Place::Policy => self.policy_changed = true,
            Place::Nowhere => {}
        }
    }
}
