//! Everything that the watches have told, in indexes by name.

mod marks;
mod reported;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use ringfence_compile::cluster::{ClusterState, KUBE_SYSTEM, OwnerKey, ServicePorts};
use ringfence_compile::compile::Dirty;
use ringfence_compile::policy::{Kind, ObjectKey, Origin, Policy};
use ringfence_crds as crds;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::container_cluster::Management;
use ringfence_crds::names;

use super::chores::due::{Due, Spot};
use super::commits::Commits;
use super::input::{Caller, Input, version};
use crate::kubelink::watch::Change;
use crate::publish::Look;
use marks::{Place, Sight};

/// Objects of one kind by namespace (empty for a cluster-wide kind) and name.
pub type Index<T> = BTreeMap<NamespacedName, T>;

/// The key of an object of a cluster-wide kind.
pub fn cluster_wide(name: impl Into<String>) -> NamespacedName {
    NamespacedName { namespace: String::new(), name: name.into() }
}

/// What a change makes necessary; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing that matters has changed.
    Nothing,
    /// Objects and statuses beside the computed ones may be due.
    Chores,
    /// A computed object is not as it was published.
    Publish,
    /// Policy or the cluster have changed.
    Compile,
}

/// How many kinds there are to list before the world is complete.
const KINDS: usize = 26;

/// Everything that the watches have told.
#[derive(Debug, Default)]
#[allow(missing_docs)] // Each index is of the kind it is named like.
pub struct World {
    /// The Kubernetes cluster.
    pub cluster: ClusterState,
    /// Who runs the masters, as the ContainerCluster that Kubelink makes says.
    pub management: Management,
    /// Ranges of ClusterIPs.
    pub service_ranges: Index<Vec<String>>,
    pub clusters: Index<crds::ContainerCluster>,
    pub profiles: Index<crds::ContainerWorkloadProfile>,
    pub virtual_services: Index<crds::VirtualService>,
    pub workloads: Index<crds::Workload>,
    pub rule_sets: Index<crds::RuleSet>,
    pub ip_lists: Index<crds::IpList>,
    pub label_groups: Index<crds::LabelGroup>,
    pub service_definitions: Index<crds::ServiceDefinition>,
    pub node_policies: Index<crds::NodePolicy>,
    pub workload_policies: Index<crds::WorkloadPolicy>,
    pub peer_groups: Index<crds::PeerGroup>,
    pub address_groups: Index<crds::AddressGroup>,
    /// What the next plan of a publication looks at: as far as it is told here, what changed in the cluster.
    pub look: Look,
    /// What the next chores look at, likewise.
    pub due: Due,
    /// What of the cluster may have changed since it was last compiled.
    pub dirty: Dirty,
    /// Whether policy may have.
    pub policy_changed: bool,
    /// The commit of the newest change of policy that is not published yet.
    pub commit: Option<String>,
    commits: Commits,
    callers: BTreeMap<(Caller, NamespacedName), ServicePorts>,
    listed: BTreeSet<&'static str>,
}

impl World {
    /// An empty world, in which somebody runs the masters. `commits` says which commit each repository is at.
    pub fn new(management: Management, commits: Commits) -> Self {
        Self { management, commits, ..Self::default() }
    }

    /// Whether every kind has been listed once. Before that nothing may be computed: what is missing would look
    /// deleted.
    pub fn is_complete(&self) -> bool {
        self.listed.len() == KINDS
    }

    /// Takes in a change and says what it makes necessary.
    pub fn take(&mut self, input: Input) -> Effect {
        let place = Place::of(&input);
        let sight = Sight::of(&input);
        let spot = Spot::of(&input);
        let uid = self.cluster.uid.clone();
        let machine = self.machine_at(&spot);
        let effect = self.take_in(input);
        if effect == Effect::Compile {
            self.mark(place);
        }
        self.look_at(sight, effect);
        if effect > Effect::Nothing {
            self.look_at_machines(&machine, &self.machine_at(&spot));
            self.due.add(spot);
        }
        if uid != self.cluster.uid {
            self.dirty.mark_everything();
        }
        effect
    }

    fn take_in(&mut self, input: Input) -> Effect {
        match input {
            Input::Namespace(change) => self.take_namespaces(change),
            Input::Node(change) => {
                self.note("Node", &change);
                self.take_nodes(change)
            }
            Input::Pod(change) => {
                self.note("Pod", &change);
                take_plain(&mut self.cluster.pods, change)
            }
            Input::Service(change) => {
                self.note("Service", &change);
                take_plain(&mut self.cluster.services, change)
            }
            Input::EndpointSlice(change) => {
                self.note("EndpointSlice", &change);
                // Only slices of namespace default tell where the apiserver is.
                let tells = change.key().is_none_or(|key| key.namespace == "default");
                let effect = take_plain(&mut self.cluster.endpoint_slices, change);
                if tells && effect == Effect::Compile {
                    self.find_apiserver();
                }
                effect
            }
            Input::Owner(kind, change) => self.take_owner(kind, change),
            Input::Caller(caller, change) => self.take_caller(caller, change),
            Input::ServiceRange(change) => {
                self.note("ServiceCIDR", &change);
                let effect = take_plain(&mut self.service_ranges, change);
                let ranges = self.service_ranges.values().flatten();
                self.cluster.service_ranges = ranges.filter_map(|text| text.parse().ok()).collect();
                effect
            }
            policy_or_computed => self.take_ours(policy_or_computed),
        }
    }

    fn take_ours(&mut self, input: Input) -> Effect {
        macro_rules! policy {
            ($kind:literal, $index:ident, $change:ident) => {{
                self.note($kind, &$change);
                let commit = self.commits.behind(&self.$index, &$change);
                let effect = take_objects(&mut self.$index, $change, |old, new| {
                    let same = old.spec == new.spec && same_meta(&old.metadata, &new.metadata);
                    if same { Effect::Chores } else { Effect::Compile }
                });
                if effect == Effect::Compile && commit.is_some() {
                    self.commit = commit;
                }
                effect
            }};
        }
        macro_rules! computed {
            ($kind:literal, $index:ident, $change:ident) => {{
                self.note($kind, &$change);
                let effect = take_objects(&mut self.$index, $change, |old, new| {
                    // Agents find groups by their labels.
                    let same = old.spec == new.spec && old.metadata.labels == new.metadata.labels;
                    if same { Effect::Chores } else { Effect::Publish }
                });
                effect.min(Effect::Publish)
            }};
        }
        match input {
            Input::Cluster(change) => policy!("ContainerCluster", clusters, change),
            Input::Profile(change) => policy!("ContainerWorkloadProfile", profiles, change),
            Input::VirtualService(change) => policy!("VirtualService", virtual_services, change),
            Input::Workload(change) => policy!("Workload", workloads, change),
            Input::RuleSet(change) => policy!("RuleSet", rule_sets, change),
            Input::IpList(change) => policy!("IPList", ip_lists, change),
            Input::LabelGroup(change) => policy!("LabelGroup", label_groups, change),
            Input::ServiceDefinition(change) => policy!("ServiceDefinition", service_definitions, change),
            Input::NodePolicy(change) => {
                let name = change.key().map(|key| key.name.clone());
                let effect = computed!("NodePolicy", node_policies, change);
                effect.max(self.take_reported(name.as_deref()))
            }
            Input::WorkloadPolicy(change) => computed!("WorkloadPolicy", workload_policies, change),
            Input::PeerGroup(change) => computed!("PeerGroup", peer_groups, change),
            Input::AddressGroup(change) => computed!("AddressGroup", address_groups, change),
            _ => Effect::Nothing,
        }
    }

    fn note<T>(&mut self, kind: &'static str, change: &Change<T>) {
        if matches!(change, Change::Listed(_)) && self.listed.insert(kind) {
            tracing::debug!(kind, kinds = self.listed.len(), of = KINDS, "listed");
        }
    }

    fn take_namespaces(&mut self, change: Change<ringfence_compile::cluster::NamespaceInfo>) -> Effect {
        self.note("Namespace", &change);
        let effect = take_named(&mut self.cluster.namespaces, change);
        if let Some(info) = self.cluster.namespaces.get(KUBE_SYSTEM) {
            self.cluster.uid.clone_from(&info.uid);
        }
        effect
    }

    fn take_owner(&mut self, kind: &'static str, change: Change<Option<OwnerKey>>) -> Effect {
        self.note(kind, &change);
        let key = |name: NamespacedName| OwnerKey { kind: kind.to_owned(), namespace: name.namespace, name: name.name };
        let owners = &mut self.cluster.owners;
        match change {
            Change::Listed(all) => {
                let before: Vec<_> = owners.extract_if(.., |owner, _| owner.kind == kind).collect();
                let now: BTreeMap<_, _> = all.into_iter().map(|(name, owner)| (key(name), owner)).collect();
                let changed = !before.iter().map(|(key, owner)| (key, owner)).eq(&now);
                owners.extend(now);
                compile_if(changed)
            }
            Change::Applied(name, owner) => compile_if(owners.insert(key(name), owner.clone()) != Some(owner)),
            Change::Deleted(name) => compile_if(owners.remove(&key(name)).is_some()),
        }
    }

    fn take_caller(&mut self, caller: Caller, change: Change<ServicePorts>) -> Effect {
        self.note(
            match caller {
                Caller::ValidatingWebhookConfiguration => "ValidatingWebhookConfiguration",
                Caller::MutatingWebhookConfiguration => "MutatingWebhookConfiguration",
                Caller::ApiService => "APIService",
                Caller::CustomResourceDefinition => "CustomResourceDefinition",
            },
            &change,
        );
        match change {
            Change::Listed(all) => {
                self.callers.retain(|(other, _), _| *other != caller);
                self.callers.extend(all.into_iter().map(|(name, ports)| ((caller, name), ports)));
            }
            Change::Applied(name, ports) => {
                self.callers.insert((caller, name), ports);
            }
            Change::Deleted(name) => {
                self.callers.remove(&(caller, name));
            }
        }
        let mut services: BTreeMap<NamespacedName, BTreeSet<i32>> = BTreeMap::new();
        for (service, port) in self.callers.values().flatten() {
            services.entry(service.clone()).or_default().insert(*port);
        }
        let changed = services != self.cluster.webhook_services;
        self.cluster.webhook_services = services;
        compile_if(changed)
    }

    fn find_apiserver(&mut self) {
        let found = self.cluster.find_apiserver_addresses();
        if found != self.cluster.apiserver_addresses {
            self.cluster.apiserver_addresses = found;
            self.dirty.mark(ringfence_compile::compile::Input::Apiserver);
        }
    }

    /// The ContainerCluster that counts: the oldest one.
    pub fn first_cluster(&self) -> Option<&crds::ContainerCluster> {
        self.clusters.values().min_by_key(|cluster| (cluster.metadata.creation_timestamp.clone(), cluster.name_any()))
    }

    /// The policy objects without what only the apiserver cares about.
    pub fn policy(&self) -> Policy {
        let mut policy = Policy {
            cluster: self.first_cluster().map(|cluster| cluster.spec.clone()).unwrap_or_default(),
            ..Policy::default()
        };
        macro_rules! fill {
            ($index:ident, $kind:expr) => {
                for (key, object) in &self.$index {
                    policy.$index.insert(key.name.clone(), object.spec.clone());
                    policy.origins.extend(origin(&object.metadata, ObjectKey::cluster_wide($kind, &key.name)));
                }
            };
        }
        fill!(profiles, Kind::ContainerWorkloadProfile);
        fill!(workloads, Kind::Workload);
        fill!(rule_sets, Kind::RuleSet);
        fill!(ip_lists, Kind::IpList);
        fill!(label_groups, Kind::LabelGroup);
        fill!(service_definitions, Kind::ServiceDefinition);
        for (key, object) in &self.virtual_services {
            policy.virtual_services.insert(key.clone(), object.spec.clone());
            let object_key = ObjectKey::namespaced(Kind::VirtualService, &key.namespace, &key.name);
            policy.origins.extend(origin(&object.metadata, object_key));
        }
        policy
    }
}

/// Where an object was written, when the importer has noted it.
fn origin(meta: &ObjectMeta, key: ObjectKey) -> Option<(ObjectKey, Origin)> {
    let annotations = meta.annotations.as_ref()?;
    let file = annotations.get(names::ANNOTATION_FILE)?.clone();
    let line = annotations.get(names::ANNOTATION_LINE).and_then(|line| line.parse().ok()).unwrap_or(1);
    let commit = annotations.get(names::ANNOTATION_COMMIT).cloned();
    Some((key, Origin { file, line, commit, rule_lines: BTreeMap::new() }))
}

fn compile_if(changed: bool) -> Effect {
    if changed { Effect::Compile } else { Effect::Nothing }
}

/// Of the metadata, what policy depends on: annotations say where an object was written.
fn same_meta(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    old.annotations == new.annotations && old.uid == new.uid
}

fn take_plain<T: PartialEq>(index: &mut Index<T>, change: Change<T>) -> Effect {
    compile_if(match change {
        Change::Listed(all) => {
            let changed = *index != all;
            *index = all;
            changed
        }
        Change::Applied(key, value) => match index.get(&key) {
            Some(known) if *known == value => false,
            _ => {
                index.insert(key, value);
                true
            }
        },
        Change::Deleted(key) => index.remove(&key).is_some(),
    })
}

/// The same for a cluster-wide kind that is kept by name.
fn take_named<T: PartialEq>(index: &mut BTreeMap<String, T>, change: Change<T>) -> Effect {
    compile_if(match change {
        Change::Listed(all) => {
            let all = all.into_iter().map(|(key, value)| (key.name, value)).collect();
            let changed = *index != all;
            *index = all;
            changed
        }
        Change::Applied(key, value) => match index.get(&key.name) {
            Some(known) if *known == value => false,
            _ => {
                index.insert(key.name, value);
                true
            }
        },
        Change::Deleted(key) => index.remove(&key.name).is_some(),
    })
}

/// Takes in objects of ours. A watch may tell an older version than a write of ours has already brought back: that
/// one is ignored.
fn take_objects<K: ResourceExt + PartialEq>(
    index: &mut Index<K>,
    change: Change<K>,
    judge: impl Fn(&K, &K) -> Effect,
) -> Effect {
    match change {
        Change::Listed(all) => {
            let changed = *index != all;
            *index = all;
            compile_if(changed)
        }
        Change::Applied(key, object) => {
            let effect = match index.get(&key) {
                None => Effect::Compile,
                Some(known) if version(known) > version(&object) || *known == object => return Effect::Nothing,
                Some(known) => judge(known, &object),
            };
            index.insert(key, object);
            effect
        }
        Change::Deleted(key) => compile_if(index.remove(&key).is_some()),
    }
}

#[cfg(test)]
mod tests;
