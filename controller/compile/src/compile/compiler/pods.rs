//! Pods: read again when they, or their namespace's profile, change.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;

use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::cluster::PodInfo;
use crate::compile::addresses::{Claim, Name, PodId};
use crate::compile::namespaces::Namespace;
use crate::compile::pods::{PodFacts, ReadPod};
use crate::compile::{ComputedPod, parallel};

impl Compiler {
    pub(super) fn read_pods(&mut self, inputs: Inputs<'_>, todo: &mut Todo, changes: &mut Changes) {
        let keys = std::mem::replace(&mut todo.pods, Keys::These(BTreeSet::new()));
        changes.others |= !keys.is_empty();
        match keys {
            Keys::All => self.read_all_pods(inputs, todo),
            Keys::These(keys) => keys.iter().for_each(|key| self.read_pod(inputs, key, todo)),
        }
    }

    /// Nothing is known yet: namespaces are read in parallel, and what is shown is gathered at once.
    fn read_all_pods(&mut self, inputs: Inputs<'_>, todo: &mut Todo) {
        let pods: Vec<(&NamespacedName, &PodInfo)> = inputs.cluster.pods.iter().filter(|(_, pod)| !pod.ended).collect();
        self.facts.pods.reserve(pods.len());
        self.facts.book.reserve(pods.len());
        let of_namespaces: Vec<_> = pods.chunk_by(|(a, _), (b, _)| a.namespace == b.namespace).collect();
        let settings = &self.facts.settings;
        let read = parallel::map(&of_namespaces, |pods| {
            let name = &pods.first()?.0.namespace;
            let mut namespace = Namespace::new(inputs.policy, name);
            let read: Vec<ReadPod> = pods
                .iter()
                .map(|(key, pod)| ReadPod::new(Arc::new((*key).clone()), pod, &mut namespace, settings))
                .collect();
            Some((name.clone(), namespace, read))
        });
        let mut shown = Vec::with_capacity(pods.len());
        for (name, namespace, pods) in read.into_iter().flatten() {
            self.namespaces.extend([(name, namespace)]);
            for pod in pods {
                let number = self.facts.pods.next();
                shown.push(self.take_pod(number, None, pod, todo));
            }
        }
        self.computed.container_workloads = shown.into_iter().collect();
    }

    fn read_pod(&mut self, inputs: Inputs<'_>, key: &NamespacedName, todo: &mut Todo) {
        let known = self.facts.pods.number(key);
        let before = known.and_then(|number| self.facts.pods.take(number));
        self.services.mark_pod(key, before.as_ref().map_or(&[], |before| &before.claimed), todo);
        let Some(pod) = inputs.cluster.pods.get(key).filter(|pod| !pod.ended) else {
            if let (Some(number), Some(before)) = (known, before) {
                self.release_pod(number, before, todo);
            }
            return;
        };
        let shared = before.as_ref().map_or_else(|| Arc::new(key.clone()), |before| Arc::clone(&before.key));
        let namespace = self.namespaces.get(inputs.policy, &key.namespace);
        let read = ReadPod::new(shared, pod, namespace, &self.facts.settings);
        self.services.mark_pod(key, &read.claimed, todo);
        let number = known.unwrap_or_else(|| self.facts.pods.next());
        let (key, shown) = self.take_pod(number, before, read, todo);
        self.computed.container_workloads.insert(key, shown);
    }

    /// Takes in a Pod, in place of what was known of it before; gives what is shown of it.
    fn take_pod(
        &mut self,
        number: PodId,
        before: Option<PodFacts>,
        read: ReadPod,
        todo: &mut Todo,
    ) -> (Arc<NamespacedName>, ComputedPod) {
        let ReadPod { key, class, claimed, mut shown } = read;
        self.move_claims(number, before.as_ref().map_or(&[], |before| &before.claimed), &claimed);
        // Acquired before the old one is released, so that a class that stays never goes.
        let class = class.map(|class| self.facts.classes.acquire(&class));
        let mut troubled = false;
        if let Some(before) = before {
            if let Some((class, _)) = before.class {
                self.facts.classes.release(class);
            }
            // What was said of its addresses holds until they are settled.
            if before.troubled {
                troubled = true;
                todo.troubled.push(number);
                let kept = self.computed.container_workloads.get(&key);
                shown.problems = kept.map(|shown| shown.problems.clone()).unwrap_or_default();
            }
        }
        let node = shown.node.as_deref().map(Name::from).filter(|_| self.facts.settings.networks.are_several());
        self.facts.pods.insert(number, PodFacts { key: Arc::clone(&key), class, claimed, node, troubled });
        (key, shown)
    }

    /// A Pod is gone.
    fn release_pod(&mut self, number: PodId, before: PodFacts, todo: &mut Todo) {
        self.move_claims(number, &before.claimed, &[]);
        if let Some((class, _)) = before.class {
            self.facts.classes.release(class);
        }
        self.facts.pods.remove(&before.key, number);
        self.computed.container_workloads.remove(&before.key);
        todo.warnings |= self.disputes.remove(&before.key).is_some();
    }

    /// Addresses that a Pod has and had are looked at when it is of another class or counted elsewhere now.
    fn move_claims(&mut self, number: PodId, old: &[IpAddr], new: &[IpAddr]) {
        let book = &mut self.facts.book;
        for address in old.iter().filter(|address| !new.contains(address)) {
            book.release(*address, &Claim::Pod(number));
        }
        for address in new {
            if old.contains(address) { book.touch(*address) } else { book.claim(*address, Claim::Pod(number)) }
        }
    }
}
