//! Labels of Pods, Services and nodes, from profiles, annotations and the label map.

use std::collections::BTreeMap;

use ringfence_crds::common::labels_of;
use ringfence_crds::container_cluster::{LabelMapEntry, LabelMapKind};
use ringfence_crds::container_workload_profile::profile_labels;
use ringfence_crds::{ContainerClusterSpec, names};
use ringfence_model::derive::derive_labels;
use ringfence_model::{
    DerivedLabels, DimensionRule, LabelMapping, LabelSource, Labels, PolicyState, ProfileLabels, Refusal, StringMap,
};

use crate::cluster::{NodeInfo, PodInfo, ServiceInfo};
use crate::policy::Policy;

/// What holds for the Pods of one namespace.
#[derive(Debug, Clone, Default)]
pub struct NamespaceProfile {
    /// The state asked for; `None` while the namespace is unmanaged.
    pub state: Option<PolicyState>,
    /// What the profile says about labels.
    pub labels: ProfileLabels,
}

impl NamespaceProfile {
    /// The profile of a namespace, or the cluster's default when there is none of its own. Labels that cannot be read
    /// give none.
    pub fn of(policy: &Policy, namespace: &str) -> Self {
        if let Some(profile) = policy.profiles.get(namespace) {
            return Self { state: profile.wanted_state(), labels: profile.profile_labels().unwrap_or_default() };
        }
        let default = &policy.cluster.default_profile;
        Self {
            state: default.managed.then(|| default.policy_state.unwrap_or(PolicyState::Idle)),
            labels: profile_labels(&default.labels).unwrap_or_default(),
        }
    }
}

/// The rules by which labels are read from Kubernetes objects.
#[derive(Debug, Clone)]
pub struct LabelReader {
    prefixes: Vec<String>,
    pods: Vec<LabelMapping>,
    nodes: Vec<LabelMapping>,
    /// Lines of the label map that have no effect, and why.
    pub warnings: Vec<String>,
}

impl LabelReader {
    /// Reads annotation prefixes and label map of a ContainerCluster.
    pub fn new(spec: &ContainerClusterSpec) -> Self {
        let mut prefixes = vec![names::ANNOTATION_PREFIX.to_owned()];
        prefixes.extend(spec.annotation_prefixes.iter().cloned());
        let mut reader = Self { prefixes, pods: Vec::new(), nodes: Vec::new(), warnings: Vec::new() };
        for entry in &spec.label_map {
            let reason = match (mapping(entry), entry.kind) {
                (None, _) => format!("'{}' or one of its values is not valid", entry.to),
                (Some(mapping), LabelMapKind::Pod) => {
                    reader.pods.push(mapping);
                    continue;
                }
                (Some(mapping), LabelMapKind::Node) if kubelet_cannot_set(&entry.from) => {
                    reader.nodes.push(mapping);
                    continue;
                }
                (Some(_), LabelMapKind::Node) => KUBELET_CAN_SET.to_owned(),
            };
            let warning = format!("labelMap: '{}' has no effect: {reason}", entry.from);
            reader.warnings.push(warning);
        }
        reader
    }

    /// The labels of a Pod. The kubelet alone writes a mirror Pod, so that it takes fixed labels only.
    pub fn of_pod(&self, profile: &NamespaceProfile, pod: &PodInfo) -> DerivedLabels {
        if pod.mirror {
            return derive_labels(&profile.labels, &StringMap::default(), &StringMap::default(), &[], &[]);
        }
        derive_labels(&profile.labels, &pod.annotations, &pod.labels, &self.prefixes, &self.pods)
    }

    /// What of a Pod its labels depend on beside the profile, as one text: Pods of one namespace with equal texts have
    /// equal labels.
    pub fn what_counts(&self, pod: &PodInfo) -> Vec<u8> {
        if pod.mirror {
            return vec![b'm'];
        }
        let mut text = Vec::new();
        // Lengths before the texts: whatever somebody writes into a value, no two Pods that differ read the same.
        let mut note = |kind: u8, key: &str, value: &str| {
            text.push(kind);
            for part in [key, value] {
                text.extend_from_slice(&part.len().to_le_bytes());
                text.extend_from_slice(part.as_bytes());
            }
        };
        for (key, value) in &pod.annotations {
            if self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str())) {
                note(b'a', key, value);
            }
        }
        for mapping in &self.pods {
            if let Some(value) = pod.labels.get(&mapping.from) {
                note(b'l', &mapping.from, value);
            }
        }
        text
    }

    /// The labels of a Service: profile and annotations, then what the user wrote in the VirtualService, within what
    /// the profile fixes.
    pub fn of_service(
        &self,
        profile: &NamespaceProfile,
        service: &ServiceInfo,
        written: Option<&BTreeMap<String, String>>,
    ) -> DerivedLabels {
        let mut derived =
            derive_labels(&profile.labels, &service.annotations, &StringMap::default(), &self.prefixes, &[]);
        for (dimension, value) in labels_of(written.unwrap_or(&BTreeMap::new())).iter() {
            if let Some(DimensionRule::Fixed(fixed)) = profile.labels.0.get(dimension) {
                if fixed != value {
                    derived.refused.push(Refusal {
                        dimension: dimension.clone(),
                        value: value.to_string(),
                        from: LabelSource::Profile,
                        reason: format!("the profile fixes {dimension} to '{fixed}'"),
                    });
                }
                continue;
            }
            derived.labels.insert(dimension.clone(), value.clone());
        }
        derived
    }

    /// The labels of a node: what its user wrote wins over what the label map makes of its Kubernetes labels.
    pub fn of_node(&self, node: &NodeInfo, written: Option<&BTreeMap<String, String>>) -> Labels {
        let mut labels = Labels::new();
        for mapping in self.nodes.iter().rev() {
            if let Some(value) = node.labels.get(&mapping.from).and_then(|value| mapping.map(value)) {
                labels.insert(mapping.to.clone(), value);
            }
        }
        for (dimension, value) in labels_of(written.unwrap_or(&BTreeMap::new())).iter() {
            labels.insert(dimension.clone(), value.clone());
        }
        labels
    }
}

/// A line of the label map. One with anything invalid in it is left out as a whole: a list of values that became
/// empty would mean "as they are".
fn mapping(entry: &LabelMapEntry) -> Option<LabelMapping> {
    let pairs = entry.values.iter().map(|(from, to)| Some((from.clone(), to.parse().ok()?)));
    Some(LabelMapping { from: entry.from.clone(), to: entry.to.parse().ok()?, values: pairs.collect::<Option<_>>()? })
}

/// Why a label of nodes does not count.
pub(crate) const KUBELET_CAN_SET: &str =
    "a kubelet can set it on its own node; use a key below node-restriction.kubernetes.io/";

/// Keys of the Kubernetes domains that the admission plugin NodeRestriction lets a kubelet write.
const KUBELET_KEYS: [&str; 8] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];

/// Whether NodeRestriction keeps kubelets from writing a label: everything below `node-restriction.kubernetes.io`, and
/// of the domains kubernetes.io and k8s.io what is not on its list. Outside these domains a kubelet writes what it
/// likes.
pub(crate) fn kubelet_cannot_set(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return false;
    };
    let below = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if below("node-restriction.kubernetes.io") {
        return true;
    }
    let kubelets_own = below("kubelet.kubernetes.io")
        || below("node.kubernetes.io")
        || domain == "topology.kubernetes.io"
        || KUBELET_KEYS.contains(&key);
    (below("kubernetes.io") || below("k8s.io")) && !kubelets_own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_a_kubelet_cannot_write_count() {
        for key in [
            "node-restriction.kubernetes.io/zone",
            "eu.node-restriction.kubernetes.io/zone",
            "node-role.kubernetes.io/edge",
        ] {
            assert!(kubelet_cannot_set(key), "{key}");
        }
        for key in [
            "zone",
            "example.com/zone",
            "topology.kubernetes.io/region",
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
            "node.kubernetes.io/instance-type",
            "kubelet.kubernetes.io/anything",
            "evilnode-restriction.kubernetes.io.example.com/zone",
        ] {
            assert!(!kubelet_cannot_set(key), "{key}");
        }
    }
}
