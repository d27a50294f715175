//! The newest revisions among the computed objects that were ever seen in the cluster.

use ringfence_crds::{Revision, names};

use super::difference::Published;
use super::look::{Look, seen};
use crate::engine::world::{World, cluster_wide};

/// The newest revisions that were seen. They never go back: what was published once is not published again under an
/// older number, whoever deletes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Newest {
    /// Among all computed objects.
    pub any: Revision,
    /// Among those that change with policy: all but AddressGroups.
    pub policy: Revision,
    /// Among PeerGroups, but for their marker.
    pub peer_groups: Revision,
}

impl Newest {
    /// Takes in what is looked at.
    pub fn learn(&mut self, world: &World, look: &Look) {
        let peer_groups = seen(&world.peer_groups, look.at(|names| &names.peer_groups));
        let peer_groups = of(peer_groups.filter(|(key, _)| key.name != names::MARKER));
        self.peer_groups = self.peer_groups.max(peer_groups);
        let policy = [
            self.peer_groups,
            peer_marker_revision(world),
            of(seen(&world.workload_policies, look.at(|names| &names.workload_policies))),
            of(seen(&world.node_policies, look.at(|names| &names.node_policies))),
        ];
        let members = of(seen(&world.address_groups, look.at(|names| &names.address_groups)));
        self.policy = policy.into_iter().fold(self.policy, Revision::max);
        self.any = self.any.max(self.policy).max(members).max(marker_revision(world));
    }
}

fn of<'w, K: Published + 'w, N>(objects: impl Iterator<Item = (N, &'w K)>) -> Revision {
    objects.map(|(_, object)| object.published_in()).max().unwrap_or_default()
}

/// The revision of the marker of PeerGroups in the cluster.
pub fn peer_marker_revision(world: &World) -> Revision {
    world.peer_groups.get(&cluster_wide(names::MARKER)).map(|marker| marker.spec.revision).unwrap_or_default()
}

/// The revision of the marker in the cluster.
pub fn marker_revision(world: &World) -> Revision {
    world.workload_policies.get(&cluster_wide(names::MARKER)).map(|marker| marker.spec.revision).unwrap_or_default()
}
