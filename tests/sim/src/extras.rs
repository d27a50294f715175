//! Inputs that the oracle does not speak of, put on top of a world: the compiler that follows must still say what one
//! made anew says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_compile::cluster::{ClusterState, OwnerKey};
use ringfence_compile::policy::{Kind, ObjectKey, Origin, Policy};
use ringfence_crds::common::NamespacedName;
use ringfence_crds::container_cluster::{LabelMapEntry, LabelMapKind};

use crate::random::{NAMESPACES, NODES, Random};

/// What is put on top.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    owners: BTreeMap<OwnerKey, Option<OwnerKey>>,
    pod_owners: BTreeMap<NamespacedName, OwnerKey>,
    webhooks: BTreeMap<NamespacedName, BTreeSet<i32>>,
    apiserver: BTreeSet<IpAddr>,
    service_ranges: Vec<IpNet>,
    commits: BTreeMap<String, String>,
    machine_ids: BTreeMap<String, String>,
    node_labels: BTreeMap<String, String>,
    pod_cidrs: BTreeMap<String, IpNet>,
    node_label_map: bool,
    dns_labels: BTreeSet<NamespacedName>,
    ingress: BTreeMap<NamespacedName, IpAddr>,
    external_names: BTreeSet<NamespacedName>,
    sealing: BTreeSet<String>,
}

fn key(random: &mut Random<'_>, prefix: &str, count: usize) -> NamespacedName {
    NamespacedName { namespace: random.one(&NAMESPACES).to_owned(), name: format!("{prefix}{}", random.below(count)) }
}

fn owner(random: &mut Random<'_>, kind: &str) -> OwnerKey {
    let NamespacedName { namespace, name } = key(random, "o", 2);
    OwnerKey { kind: kind.to_owned(), namespace, name }
}

fn toggle<T: Ord>(set: &mut BTreeSet<T>, value: T) {
    if !set.remove(&value) {
        set.insert(value);
    }
}

fn set<K: Ord, V>(random: &mut Random<'_>, map: &mut BTreeMap<K, V>, key: K, value: V) {
    if random.chance(30) {
        map.remove(&key);
    } else {
        map.insert(key, value);
    }
}

impl Extras {
    /// Changes one thing.
    pub fn change(&mut self, random: &mut Random<'_>) {
        match random.below(14) {
            0 => {
                let parent = random.chance(50).then(|| owner(random, "Deployment"));
                let kind = random.one(&["ReplicaSet", "Deployment"]);
                let own = owner(random, kind);
                set(random, &mut self.owners, own, parent);
            }
            1 => {
                let (pod, own) = (key(random, "p", 4), owner(random, "ReplicaSet"));
                set(random, &mut self.pod_owners, pod, own);
            }
            2 => {
                let (service, port) = (key(random, "s", 2), random.one(&[80, 443]));
                set(random, &mut self.webhooks, service, BTreeSet::from([port]));
            }
            3 => {
                let address = random.address();
                toggle(&mut self.apiserver, address);
            }
            4 => {
                let all: IpNet = ipnet::Ipv4Net::new_assert([10, 0, 0, 240].into(), 28).into();
                self.service_ranges = if random.chance(50) { vec![all] } else { Vec::new() };
            }
            5 => {
                let (name, commit) = (format!("r{}", random.below(4)), format!("commit-{}", random.below(3)));
                set(random, &mut self.commits, name, commit);
            }
            6 => {
                let (name, id) = (random.one(&NODES).to_owned(), format!("machine-{}", random.below(3)));
                set(random, &mut self.machine_ids, name, id);
            }
            7 => {
                let (name, zone) = (random.one(&NODES).to_owned(), random.one(&["a", "b"]).to_owned());
                set(random, &mut self.node_labels, name, zone);
            }
            8 => {
                let name = random.one(&NODES).to_owned();
                let third = if random.chance(50) { 0 } else { 1 };
                let net = ipnet::Ipv4Net::new_assert([10, 0, third, 0].into(), 24).into();
                set(random, &mut self.pod_cidrs, name, net);
            }
            9 => self.node_label_map = !self.node_label_map,
            10 => toggle(&mut self.dns_labels, key(random, "s", 2)),
            11 => {
                let (service, address) = (key(random, "s", 2), random.address());
                set(random, &mut self.ingress, service, address);
            }
            12 => toggle(&mut self.sealing, random.one(&NODES).to_owned()),
            _ => toggle(&mut self.external_names, key(random, "s", 2)),
        }
    }

    /// Puts everything on top of a world's inputs.
    pub fn put_on(&self, policy: &mut Policy, cluster: &mut ClusterState) {
        cluster.owners.clone_from(&self.owners);
        cluster.webhook_services.clone_from(&self.webhooks);
        cluster.apiserver_addresses.clone_from(&self.apiserver);
        cluster.service_ranges.clone_from(&self.service_ranges);
        for (pod, owner) in &self.pod_owners {
            if let Some(info) = cluster.pods.get_mut(pod) {
                info.owner = Some(owner.clone());
            }
        }
        for (name, node) in &mut cluster.nodes {
            node.seals = self.sealing.contains(name);
            node.machine_id = self.machine_ids.get(name).cloned().unwrap_or_default();
            node.pod_cidrs = self.pod_cidrs.get(name).copied().into_iter().collect();
            let zone = self.node_labels.get(name).cloned();
            node.labels.extend(zone.map(|zone| ("node-restriction.kubernetes.io/zone".to_owned(), zone)));
        }
        for (key, service) in &mut cluster.services {
            if self.dns_labels.contains(key) {
                service.labels.insert("k8s-app".to_owned(), "kube-dns".to_owned());
            }
            service.ingress_ips.extend(self.ingress.get(key));
            service.external_name = self.external_names.contains(key);
        }
        if self.node_label_map {
            policy.cluster.label_map.push(LabelMapEntry {
                kind: LabelMapKind::Node,
                from: "node-restriction.kubernetes.io/zone".to_owned(),
                to: "env".to_owned(),
                values: BTreeMap::new(),
            });
        }
        for (name, commit) in &self.commits {
            let origin = Origin { commit: Some(commit.clone()), ..Origin::default() };
            policy.origins.insert(ObjectKey::cluster_wide(Kind::RuleSet, name.as_str()), origin);
        }
    }
}
