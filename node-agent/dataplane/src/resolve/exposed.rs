//! Pods that are exposed on nodes other than their own: which those of this node are, and what those of others enforce.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::address_group::{Exposed as Written, ExposedPod, ExposedPods, TargetPort};
use ringfence_crds::names::CLASS_GATES;
use ringfence_model::Labels;

use super::{Missing, NoRules, Resolver, complete};
use crate::gate::{Exposed, admit_sealed};
use crate::input::{ContainerPort, LocalPod, ObjectStore};
use crate::policy::{Enforcement, NetnsPolicy, Nets};

/// What the store says of exposed Pods.
#[derive(Debug, Default)]
pub struct Exposures<'a> {
    by_namespace: BTreeMap<&'a str, Vec<&'a Written>>,
    /// The addresses of nodes whose gate seals, but for those of this node, and what is missing of them; once that was read.
    gates: Option<(Arc<Nets>, BTreeSet<Missing>)>,
}

impl<'a> Exposures<'a> {
    pub fn new(store: &'a ObjectStore) -> Self {
        let mut by_namespace: BTreeMap<&str, Vec<&Written>> = BTreeMap::new();
        for exposed in store.address_groups.values().filter_map(|group| group.exposed.as_deref()) {
            by_namespace.entry(&exposed.namespace).or_default().push(exposed);
        }
        Self { by_namespace, gates: None }
    }

    /// Whether a Pod is behind a Service that exposes it. Not only those that are listed: of one that has just begun its own node
    /// knows first.
    fn hold(&self, pod: &LocalPod) -> bool {
        let selects = |exposed: &&Written| {
            let selector = &exposed.selector;
            let selected = || selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
            (!selector.is_empty() && selected()) || exposed.target_pods.contains(&pod.name)
        };
        self.by_namespace.get(pod.namespace.as_str()).into_iter().flatten().any(selects)
    }
}

/// What Pods enforce, by name and addresses.
type Found = BTreeMap<(String, BTreeSet<IpAddr>), Option<NetnsPolicy>>;

impl Resolver<'_> {
    /// A policy as a Pod of this node enforces it that may be exposed on others.
    pub(super) fn let_sealed_in(
        &mut self,
        policy: NetnsPolicy,
        pod: &LocalPod,
        node_addresses: &[IpAddr],
        missing: &mut BTreeSet<Missing>,
    ) -> NetnsPolicy {
        if !self.looks_for_seals || !self.exposures.hold(pod) {
            return policy;
        }
        let classes = &mut self.classes;
        let (gates, lacking) = self.exposures.gates.get_or_insert_with(|| {
            let mut lacking = BTreeSet::new();
            let all = classes.class(CLASS_GATES, &mut lacking).unwrap_or_default();
            // This node's own gate needs no seal: it is asked.
            let own: BTreeSet<IpAddr> = node_addresses.iter().copied().collect();
            let others = all.into_iter().filter(|net| !own.contains(&net.addr()));
            (Arc::new(others.collect()), lacking)
        });
        missing.extend(lacking.iter().cloned());
        admit_sealed(policy, gates.clone())
    }

    /// Exposed Pods, wherever they are; `None` if there are none, and none are looked for.
    pub fn exposed(&mut self) -> Option<Vec<Exposed>> {
        if !self.looks_for_seals || self.exposures.by_namespace.is_empty() {
            return None;
        }
        let written: Vec<&Written> = self.exposures.by_namespace.values().flatten().copied().collect();
        // A Pod that two Services expose is one.
        let mut found = Found::new();
        for exposed in written {
            for alike in &exposed.pods {
                self.enforced_by(&exposed.namespace, alike, &mut found);
            }
        }
        Some(found.into_iter().map(|((name, pods), policy)| Exposed { name, pods, policy }).collect())
    }

    fn enforced_by(&mut self, namespace: &str, alike: &ExposedPods, found: &mut Found) {
        let pod = as_pod(namespace, alike);
        let state = match self.state_of(&pod) {
            Ok((_, state)) => state,
            // It may be in Full the next moment.
            Err(NoRules::Idle) => Enforcement::VisibilityOnly,
            Err(NoRules::Unmanaged) => return,
        };
        // Without a label that it has, another rule may open it.
        let Ok(labels) = Labels::parse(&alike.labels) else { return };
        // Only Services tell these Pods apart, which may name theirs.
        let by_name = self.rules.has_services(namespace);
        let mut shared = None;
        for ExposedPod { name, addresses } in &alike.pods {
            let here = addresses.iter().filter(|address| self.classes.is_here(&address.network));
            let own: BTreeSet<IpAddr> = here.filter_map(|address| address.address.parse().ok()).collect();
            let key = (format!("{namespace}/{name}"), own);
            if key.1.is_empty() || found.contains_key(&key) {
                continue;
            }
            if by_name || shared.is_none() {
                let pod = LocalPod { name: name.clone(), ..pod.clone() };
                let mut missing = BTreeSet::new();
                let node = self.node(&mut missing);
                let rules = self.rules_by_labels(&labels, &pod, &mut missing);
                let policy = complete(rules, state, &node, &pod, &[]);
                shared = Some(missing.is_empty().then_some(policy));
            }
            let policy = shared.clone().flatten().map(|policy| NetnsPolicy { own: key.1.clone(), ..policy });
            found.insert(key, policy);
        }
    }
}

/// What rules can know of such Pods on another node.
fn as_pod(namespace: &str, alike: &ExposedPods) -> LocalPod {
    let port = |port: &TargetPort| {
        let number = port.port.and_then(|number| u16::try_from(number).ok())?;
        Some(ContainerPort { name: port.name.clone(), protocol: port.protocol.parse().ok()?, port: number })
    };
    LocalPod {
        namespace: namespace.to_owned(),
        labels: alike.pod_labels.clone().into_iter().collect(),
        container_ports: alike.named_ports.iter().filter_map(port).collect(),
        ..LocalPod::default()
    }
}
