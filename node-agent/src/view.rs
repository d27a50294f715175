//! The view: what the agent has read, and which part of it counts.
//!
//! A half-loaded view never counts: until every kind has been read once, what the ledger holds stays in force (or
//! nothing, when there is no ledger). Nor does policy that is older than what this node has already seen, as after
//! etcd was restored from a backup: it is held back until it has caught up, or until an operator confirms its epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringfence_crds::names::MARKER;
use ringfence_crds::{ContainerClusterSpec, NodePolicyStatus, Revision, WorkloadPolicySpec};
use ringfence_dataplane::{LocalPod, ObjectStore};

use crate::cri::Sandbox;
use crate::feed::pods::{from_sandbox, sandbox_key, with_sandbox};
use crate::feed::{Change, ClusterEntry, Kind, NodeEntry, Object};

/// Why the newest policy is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// These kinds have not been read yet.
    Loading(Vec<Kind>),
    /// The published revision is older than one that was in force here.
    WentBack {
        /// Published now.
        published: Revision,
        /// In force here.
        seen: Revision,
    },
}

/// Everything the agent has read.
#[derive(Debug, Default)]
pub struct View {
    /// What counts.
    store: ObjectStore,
    /// What feeds say, while that does not count.
    staged: Option<ObjectStore>,
    clusters: BTreeMap<String, ClusterEntry>,
    read: BTreeSet<Kind>,
    pods: BTreeMap<String, LocalPod>,
    /// Pods that are gone as Kubernetes knows them, though their sandbox may still be there.
    departed: BTreeSet<String>,
    node_generation: Option<i64>,
    node_status: Option<Arc<NodePolicyStatus>>,
    from_ledger: bool,
}

impl View {
    /// A view of what the ledger holds; nothing has been read from a feed yet.
    pub fn new(ledger: Option<(ObjectStore, BTreeMap<String, LocalPod>)>) -> Self {
        let from_ledger = ledger.is_some();
        let (store, pods) = ledger.unwrap_or_default();
        Self { store, staged: Some(ObjectStore::default()), pods, from_ledger, ..Self::default() }
    }

    /// What counts now.
    pub fn store(&self) -> &ObjectStore {
        &self.store
    }

    /// The Pod that runs in a sandbox: the one that is called as the sandbox says, or, if none is, what the sandbox knows
    /// of it.
    pub fn pod_in(&self, sandbox: &Sandbox) -> LocalPod {
        self.known_pod(sandbox).unwrap_or_else(|| from_sandbox(sandbox))
    }

    /// The Pod that is called as the sandbox says, if it is known. Where the sandbox does not say its uid, as with a CNI
    /// plugin under an old runtime, there must be one alone of that name.
    pub fn known_pod(&self, sandbox: &Sandbox) -> Option<LocalPod> {
        let key = sandbox_key(sandbox);
        let pod = if sandbox.uid.is_empty() {
            let mut named = self.pods.range(key.clone()..).take_while(|(name, _)| name.starts_with(&key));
            let first = named.next();
            first.filter(|_| named.next().is_none()).map(|(_, pod)| pod)
        } else {
            self.pods.get(&key)
        };
        pod.map(|pod| with_sandbox(pod, sandbox))
    }

    /// All Pods, also those that are gone and whose sandboxes may still be there.
    pub fn pods(&self) -> &BTreeMap<String, LocalPod> {
        &self.pods
    }

    /// Whether anything counts: a feed was read completely, or a ledger was there.
    pub fn counts(&self) -> bool {
        self.from_ledger || self.is_loaded()
    }

    /// Whether every kind has been read from the feed.
    pub fn is_loaded(&self) -> bool {
        self.read.len() == Kind::ALL.len()
    }

    /// What feeds say, whether it counts or not.
    pub fn told(&self) -> &ObjectStore {
        self.staged.as_ref().unwrap_or(&self.store)
    }

    /// Whether these kinds have been read from the feed.
    pub fn has_read(&self, kinds: &[Kind]) -> bool {
        kinds.iter().all(|kind| self.read.contains(kind))
    }

    /// The revision that closes what counts.
    pub fn revision(&self) -> Revision {
        revision_of(&self.store)
    }

    /// Whether what counts is a whole publication, and not on the way from one to the next.
    pub fn is_closed(&self) -> bool {
        let marker = self.revision();
        let policies = self.store.workload_policies.values().map(|policy| policy.revision);
        let groups = self.store.peer_groups.values().map(|group| group.revision);
        policies.chain(groups).all(|revision| revision <= marker)
    }

    /// Whether all PeerGroups have been seen that belong to [`Self::revision`]: they come on a watch of their own. A
    /// controller that asks for none is older than their marker.
    pub fn has_peer_groups(&self) -> bool {
        let asked = self.store.workload_policies.get(MARKER).and_then(|marker| marker.peer_group_revision);
        let seen = self.store.peer_groups.get(MARKER).map(|marker| marker.revision);
        asked.is_none_or(|asked| seen.is_some_and(|seen| seen >= asked))
    }

    /// Why the newest policy does not count, if so.
    pub fn held(&self) -> Option<Held> {
        let staged = self.staged.as_ref()?;
        if !self.is_loaded() {
            return Some(Held::Loading(Kind::ALL.into_iter().filter(|kind| !self.read.contains(kind)).collect()));
        }
        Some(Held::WentBack { published: revision_of(staged), seen: self.revision() })
    }

    /// Takes in news; says whether anything that counts has changed.
    pub fn take(&mut self, change: Change) -> bool {
        match change {
            Change::All { kind: Kind::Pod, objects } => self.all_pods(objects),
            Change::Put { name, object: Object::Pod(pod) } => {
                self.departed.remove(&name);
                self.pods.insert(name, pod.clone()).as_ref() != Some(&pod)
            }
            Change::Gone { kind: Kind::Pod, name } => {
                self.departed.insert(name);
                false
            }
            Change::Marker(marker) => self.take_marker(marker),
            policy => {
                if let Some(entry) = node_entry_in(&policy) {
                    self.node_generation = entry.and_then(|entry| entry.generation);
                    self.node_status = entry.and_then(|entry| entry.status.clone());
                }
                self.take_policy(policy)
            }
        }
    }

    /// The generation of this node's NodePolicy; `None` if the apiserver has none.
    pub fn node_generation(&self) -> Option<i64> {
        self.node_generation
    }

    /// What was reported of this node, as the apiserver has it.
    pub fn node_status(&self) -> Option<&Arc<NodePolicyStatus>> {
        self.node_status.as_ref()
    }

    /// Forgets Pods that are gone and of which no sandbox is left either.
    pub fn forget_departed<'a>(&mut self, sandboxes: impl Iterator<Item = &'a Sandbox>) {
        let present: BTreeSet<String> = sandboxes.map(sandbox_key).collect();
        let (kept, gone): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.departed).into_iter().partition(|name| present.contains(name));
        self.departed = kept;
        gone.iter().for_each(|name| drop(self.pods.remove(name)));
    }

    fn all_pods(&mut self, objects: BTreeMap<String, Object>) -> bool {
        self.departed = self.pods.keys().filter(|name| !objects.contains_key(*name)).cloned().collect();
        self.read.insert(Kind::Pod);
        let mut changed = false;
        for (name, object) in objects {
            if let Object::Pod(pod) = object {
                changed |= self.pods.insert(name, pod.clone()).as_ref() != Some(&pod);
            }
        }
        self.settle(false) || changed
    }

    fn take_policy(&mut self, change: Change) -> bool {
        if let Change::All { kind, objects } = &change {
            self.read.insert(*kind);
            // A list is what comes after a gap, and only after a gap can policy have gone back.
            if self.staged.is_none() && *kind == Kind::WorkloadPolicy && self.goes_back(objects) {
                self.staged = Some(self.store.clone());
            }
        }
        let target = self.staged.as_mut().unwrap_or(&mut self.store);
        let changed = put(target, &mut self.clusters, change);
        self.settle(changed)
    }

    /// Where the marker is older than what counts, so is whatever list comes next, of any kind. Where it is not, whatever was held back
    /// for an older one may count: a publication has come in between on its own watch.
    fn take_marker(&mut self, marker: Option<WorkloadPolicySpec>) -> bool {
        let published = marker.as_ref().map(|marker| marker.revision).unwrap_or_default();
        let follows = self.follows(published, self.store.cluster.as_ref());
        match (&mut self.staged, follows) {
            // Policies that are not those that count come with a marker of their own.
            (Some(staged), true) if self.read.len() == Kind::ALL.len() && same_policies(staged, &self.store) => {
                if let Some(own) = self.store.workload_policies.get(MARKER) {
                    staged.workload_policies.insert(MARKER.to_owned(), own.clone());
                }
                self.settle(true)
            }
            (None, false) => {
                let mut staged = self.store.clone();
                match marker {
                    Some(marker) => staged.workload_policies.insert(MARKER.to_owned(), marker),
                    None => staged.workload_policies.remove(MARKER),
                };
                self.staged = Some(staged);
                false
            }
            _ => false,
        }
    }

    fn goes_back(&self, objects: &BTreeMap<String, Object>) -> bool {
        let published = match objects.get(MARKER) {
            Some(Object::WorkloadPolicy(marker)) => marker.revision,
            _ => Revision::default(),
        };
        !self.follows(published, self.store.cluster.as_ref())
    }

    /// Whether `staged` may replace what counts: it is not older, or it is of another cluster than the ledger was.
    fn accepts(&self, staged: &ObjectStore) -> bool {
        let uid = |store: &ObjectStore| store.node_policy.as_ref().map(|policy| policy.cluster_uid.clone());
        let moved = matches!((uid(&self.store), uid(staged)), (Some(old), Some(new)) if old != new);
        moved || self.follows(revision_of(staged), staged.cluster.as_ref())
    }

    /// Whether policy closed by `published` may come after what counts.
    fn follows(&self, published: Revision, cluster: Option<&ContainerClusterSpec>) -> bool {
        if !self.store.workload_policies.contains_key(MARKER) {
            return true;
        }
        let seen = self.revision();
        if published.epoch == seen.epoch {
            return published.number >= seen.number;
        }
        let confirmed = cluster.and_then(|cluster| cluster.policy_epoch).unwrap_or_default();
        published.epoch > seen.epoch && published.epoch <= confirmed
    }

    /// Lets what was staged count, if it may. Says whether anything that counts has changed.
    fn settle(&mut self, changed: bool) -> bool {
        if !self.is_loaded() {
            return false;
        }
        let Some(staged) = self.staged.take() else { return changed };
        if self.accepts(&staged) {
            // The first complete reading counts as a change even if it says what the ledger said: it is fresh.
            self.store = staged;
            return true;
        }
        self.staged = Some(staged);
        false
    }
}

/// What a change says about this node's NodePolicy: nothing, or that there is (none) one.
fn node_entry_in(change: &Change) -> Option<Option<&NodeEntry>> {
    match change {
        Change::All { kind: Kind::NodePolicy, objects } => Some(objects.values().find_map(|object| match object {
            Object::NodePolicy(entry) => Some(entry),
            _ => None,
        })),
        Change::Put { object: Object::NodePolicy(entry), .. } => Some(Some(entry)),
        Change::Gone { kind: Kind::NodePolicy, .. } => Some(None),
        _ => None,
    }
}

/// Whether both have the same policies, whatever their markers say.
fn same_policies(one: &ObjectStore, other: &ObjectStore) -> bool {
    let [one, other] = [one, other].map(|store| store.workload_policies.iter().filter(|(name, _)| *name != MARKER));
    one.eq(other)
}

fn revision_of(store: &ObjectStore) -> Revision {
    store.workload_policies.get(MARKER).map(|marker| marker.revision).unwrap_or_default()
}

/// Writes a change into a store; says whether it was one.
fn put(store: &mut ObjectStore, clusters: &mut BTreeMap<String, ClusterEntry>, change: Change) -> bool {
    match change {
        Change::All { kind, objects } => put_all(store, clusters, kind, objects),
        Change::Put { name, object } => put_one(store, clusters, name, object),
        Change::Interrupted { .. } | Change::Reading { .. } | Change::Marker(_) => false,
        Change::Gone { kind, name } => remove(store, clusters, kind, &name),
    }
}

/// Replaces everything of a kind; says whether it was another.
fn put_all(
    store: &mut ObjectStore,
    clusters: &mut BTreeMap<String, ClusterEntry>,
    kind: Kind,
    objects: BTreeMap<String, Object>,
) -> bool {
    let gone: Vec<String> = names(store, clusters, kind).filter(|name| !objects.contains_key(*name)).cloned().collect();
    let mut changed = false;
    for name in gone {
        changed |= remove(store, clusters, kind, &name);
    }
    // Of this node there is one NodePolicy; it has no name in the store.
    if kind == Kind::NodePolicy && objects.is_empty() {
        changed |= store.node_policy.take().is_some();
    }
    for (name, object) in objects {
        changed |= put_one(store, clusters, name, object);
    }
    changed
}

/// The names of the objects of a kind, as far as they are kept by name.
fn names<'s>(
    store: &'s ObjectStore,
    clusters: &'s BTreeMap<String, ClusterEntry>,
    kind: Kind,
) -> Box<dyn Iterator<Item = &'s String> + 's> {
    match kind {
        Kind::Cluster => Box::new(clusters.keys()),
        Kind::Profile => Box::new(store.profiles.keys()),
        Kind::WorkloadPolicy => Box::new(store.workload_policies.keys()),
        Kind::PeerGroup => Box::new(store.peer_groups.keys()),
        Kind::AddressGroup => Box::new(store.address_groups.keys()),
        Kind::NodePolicy | Kind::Pod => Box::new(std::iter::empty()),
    }
}

fn put_one(
    store: &mut ObjectStore,
    clusters: &mut BTreeMap<String, ClusterEntry>,
    name: String,
    object: Object,
) -> bool {
    fn insert<T: PartialEq>(map: &mut BTreeMap<String, T>, name: String, value: T) -> bool {
        if map.get(&name) == Some(&value) {
            return false;
        }
        map.insert(name, value);
        true
    }
    match object {
        Object::NodePolicy(entry) => {
            let changed = store.node_policy.as_ref() != Some(&entry.spec);
            store.node_policy = Some(entry.spec);
            changed
        }
        Object::Cluster(entry) => insert(clusters, name, entry) && choose_cluster(store, clusters),
        Object::Profile(profile) => insert(&mut store.profiles, name, profile),
        Object::WorkloadPolicy(spec) => insert(&mut store.workload_policies, name, spec),
        Object::PeerGroup(spec) => insert(&mut store.peer_groups, name, spec),
        Object::AddressGroup(spec) => insert(&mut store.address_groups, name, spec),
        Object::Pod(_) => false,
    }
}

fn remove(store: &mut ObjectStore, clusters: &mut BTreeMap<String, ClusterEntry>, kind: Kind, name: &str) -> bool {
    match kind {
        Kind::NodePolicy => store.node_policy.take().is_some(),
        Kind::Cluster => clusters.remove(name).is_some() && choose_cluster(store, clusters),
        Kind::Profile => store.profiles.remove(name).is_some(),
        Kind::WorkloadPolicy => store.workload_policies.remove(name).is_some(),
        Kind::PeerGroup => store.peer_groups.remove(name).is_some(),
        Kind::AddressGroup => store.address_groups.remove(name).is_some(),
        Kind::Pod => false,
    }
}

/// Of several ContainerClusters the oldest counts, as for the controller.
fn choose_cluster(store: &mut ObjectStore, clusters: &BTreeMap<String, ClusterEntry>) -> bool {
    let oldest = clusters.iter().min_by_key(|(name, entry)| (entry.created, *name));
    let chosen = oldest.map(|(_, entry)| (entry.spec.clone(), entry.networks.clone()));
    let (cluster, networks) = chosen.unzip();
    let networks = networks.unwrap_or_default();
    let changed = store.cluster != cluster || store.networks != networks;
    (store.cluster, store.networks) = (cluster, networks);
    changed
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
