//! What the engine wants to be read: the groups that rules of its Pods refer to.

use std::collections::BTreeSet;

use ringfence_dataplane::Resolver;

use super::{Engine, tell_if_other};
use crate::feed::pods::sandbox_key;
use crate::feed::{Kind, Wanted};

impl Engine {
    /// What feeds say does not count yet; what it refers to is read all the same.
    pub(super) fn look_ahead(&self) {
        let mut resolver = Resolver::new(self.view.told()).looking_for_seals(self.looks_for_seals());
        resolver.exposed();
        for slot in self.slots.values().filter(|slot| !slot.departed) {
            resolver.resolve(&self.view.pod_in(&slot.sandbox), &[]);
        }
        if let Some(node) = &self.node {
            resolver.resolve_host(&node.host, std::iter::empty());
        }
        self.want(resolver);
    }

    /// Says which groups are to be read: those that were looked up for sandboxes, and those of Pods that have none yet.
    pub(super) fn want(&self, mut resolver: Resolver<'_>) {
        let sandboxes: BTreeSet<String> = self.slots.values().map(|slot| sandbox_key(&slot.sandbox)).collect();
        for (_, pod) in self.view.pods().iter().filter(|(name, _)| !sandboxes.contains(*name)) {
            resolver.resolve(pod, &[]);
        }
        let interest = resolver.into_interest();
        let rules = self.view.has_read(&[Kind::Cluster, Kind::Profile, Kind::WorkloadPolicy, Kind::Pod]);
        let groups = rules && self.view.has_read(&[Kind::PeerGroup]);
        let wanted = Wanted {
            peer_groups: rules.then_some(interest.peer_groups),
            address_groups: groups.then_some(interest.address_groups),
        };
        tell_if_other(&self.outputs.wanted, wanted);
    }
}
