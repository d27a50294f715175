//! Nodes, machines, Pods, and who has which address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;
use smallvec::SmallVec;

use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::compile::ComputedPod;
use crate::compile::addresses::{Claim, Member, Name, Owner, PodId};
use crate::compile::machines::{Machine, NodeFacts};
use crate::compile::pods::{self, Namespace, PodFacts};
use crate::compile::rule::Ref;
use crate::compile::slices::SliceMember;

impl Compiler {
    pub(super) fn read_nodes(&mut self, inputs: Inputs<'_>, todo: &mut Todo) {
        if todo.nodes.is_empty() {
            return;
        }
        let names: Vec<String> = match &todo.nodes {
            Keys::All => inputs.cluster.nodes.keys().cloned().collect(),
            Keys::These(names) => names.iter().cloned().collect(),
        };
        for name in names {
            self.read_node(inputs, &name, todo);
        }
        todo.node_policies = true;
        todo.warnings = true;
        mark_exposed(inputs, todo);
    }

    fn read_node(&mut self, inputs: Inputs<'_>, name: &str, todo: &mut Todo) {
        let facts = &mut self.facts;
        // Released first: a claim is known by the name, which is the same.
        let before = facts.nodes.remove(name);
        if let Some(before) = &before {
            before.release(&mut facts.classes, &mut facts.book);
        }
        let now = inputs.cluster.nodes.get(name).map(|node| {
            let written = inputs.policy.workloads.get(name);
            NodeFacts::note(name, node, written, &facts.settings, &mut facts.classes, &mut facts.book)
        });
        let same = match (&before, &now) {
            (Some(before), Some(now)) => before.is_known_as(now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if let Some(now) = now {
            facts.nodes.insert(name.to_owned(), now);
        }
        if !same {
            todo.mark_users(&self.facts, &Ref::Workload(name.to_owned()));
            todo.mark_users(&self.facts, &Ref::Nodes);
        }
        todo.shown.add(name.to_owned());
    }

    pub(super) fn read_machines(&mut self, inputs: Inputs<'_>, todo: &mut Todo) {
        let names: Vec<String> = match &todo.machines {
            Keys::All => inputs.policy.workloads.keys().cloned().collect(),
            Keys::These(names) => names.iter().cloned().collect(),
        };
        for name in names {
            let facts = &mut self.facts;
            // A Workload that is called like a node is the node's.
            let spec = inputs.policy.workloads.get(&name).filter(|_| !inputs.cluster.nodes.contains_key(&name));
            if let Some(before) = facts.machines.remove(&name) {
                before.release(&mut facts.classes, &mut facts.book);
            }
            let now = spec.map(|spec| Machine::note(&name, spec, &mut facts.classes, &mut facts.book));
            if let Some(now) = now {
                facts.machines.insert(name.clone(), now);
            }
            todo.mark_users(&self.facts, &Ref::Workload(name.clone()));
            todo.shown.add(name);
        }
    }

    pub(super) fn read_pods(&mut self, inputs: Inputs<'_>, todo: &mut Todo, changes: &mut Changes) {
        let keys = std::mem::replace(&mut todo.pods, Keys::These(BTreeSet::new()));
        changes.others |= !keys.is_empty();
        match keys {
            Keys::All => {
                let pods = inputs.cluster.pods.len();
                self.facts.pods.reserve(pods);
                self.facts.book.reserve(pods);
                let read = inputs.cluster.pods.keys().filter_map(|key| self.read_pod(inputs, key, todo));
                // Nothing was known: a map that is made at once takes a tenth of the time.
                self.computed.container_workloads = read.collect();
            }
            Keys::These(keys) => {
                for key in &keys {
                    match self.read_pod(inputs, key, todo) {
                        Some((key, shown)) => self.computed.container_workloads.insert(key, shown),
                        None => self.computed.container_workloads.remove(key),
                    };
                }
            }
        }
    }

    /// Reads a Pod; gives what is shown of it, unless it has ended.
    fn read_pod(
        &mut self,
        inputs: Inputs<'_>,
        key: &NamespacedName,
        todo: &mut Todo,
    ) -> Option<(Arc<NamespacedName>, ComputedPod)> {
        let info = inputs.cluster.pods.get(key).filter(|pod| !pod.ended);
        let known = self.facts.pods.number(key);
        let before = known.and_then(|number| self.facts.pods.take(number));
        let shared = before.as_ref().map_or_else(|| Arc::new(key.clone()), |before| Arc::clone(&before.key));
        let facts = &mut self.facts;
        let now = info.map(|pod| {
            let Namespace { profile, derived } = self.namespaces.get(inputs.policy, &key.namespace);
            let labelled = (profile.state.is_some() && !pod.host_network)
                .then(|| derived.label(profile, pod, &facts.settings, &mut facts.classes));
            let (labels, class) = labelled.map(|labelled| (labelled.labels, labelled.class)).unwrap_or_default();
            let mut shown = pods::shown(pod, profile, labels);
            // What was said of its addresses holds until they are settled.
            let troubled = before.as_ref().is_some_and(|before| before.troubled);
            if troubled {
                let kept = self.computed.container_workloads.get(key).map(|shown| shown.problems.clone());
                shown.problems = kept.unwrap_or_default();
            }
            let node = pod.node.as_deref().map(Name::from).filter(|_| facts.settings.networks.are_several());
            let key = Arc::clone(&shared);
            (PodFacts { key, class, claimed: pods::claims(pod), node, troubled }, shown)
        });
        let number = known.unwrap_or_else(|| facts.pods.next());
        self.move_claims(number, before.as_ref(), now.as_ref().map(|(facts, _)| facts));
        if let Some((class, _)) = before.as_ref().and_then(|before| before.class.as_ref()) {
            self.facts.classes.release(*class);
        }
        let claimed = before.iter().chain(now.as_ref().map(|(facts, _)| facts)).flat_map(|facts| facts.claimed.iter());
        self.services.mark_pod(key, claimed, todo);
        let Some((facts, shown)) = now else {
            self.facts.pods.remove(key, number);
            todo.warnings |= self.disputes.remove(key).is_some();
            return None;
        };
        if facts.troubled {
            todo.troubled.push(number);
        }
        self.facts.pods.insert(number, facts);
        Some((shared, shown))
    }

    /// Addresses that a Pod has and had are looked at when it is of another class or counted elsewhere now.
    fn move_claims(&mut self, number: PodId, before: Option<&PodFacts>, now: Option<&PodFacts>) {
        let book = &mut self.facts.book;
        let (old, new) = (before.map_or(&[][..], |facts| &facts.claimed), now.map_or(&[][..], |facts| &facts.claimed));
        for address in old.iter().filter(|address| !new.contains(address)) {
            book.release(*address, &Claim::Pod(number));
        }
        for address in new {
            if old.contains(address) { book.touch(*address) } else { book.claim(*address, Claim::Pod(number)) }
        }
    }

    /// Decides anew who has the addresses that were touched, and moves them between classes.
    pub(super) fn settle_addresses(&mut self, inputs: Inputs<'_>, todo: &mut Todo) {
        let mut nodes_moved = false;
        for address in self.facts.book.take_touched() {
            let before = self.facts.book.settle(address, &self.facts.settings);
            let moved = before.as_ref() != self.facts.book.owner(address);
            let member = self.member(address);
            self.count(address, todo);
            let pods: SmallVec<[PodId; 2]> = self.facts.book.pods_at(address).into();
            let book = &self.facts.book;
            // What is said of a claim that does not count depends on the others.
            let claimants = book.nodes_at(address).chain(book.machines_at(address));
            claimants.for_each(|name| todo.shown.add(name.to_string()));
            nodes_moved |= moved && book.nodes_at(address).next().is_some();
            let was = self.facts.book.set_member(address, member);
            if was != member {
                let at = |member: &Member| SliceMember { network: member.network, address };
                if let Some(member) = &member {
                    self.facts.classes.add(member.class, at(member));
                }
                if let Some(was) = &was {
                    self.facts.classes.remove(was.class, &at(was));
                }
            }
            if moved || was != member {
                self.services.mark_address(address, todo);
            }
            for number in pods {
                let clean = pods::is_plain(&self.facts.book, address, number)
                    && self.facts.pods.at(number).is_some_and(|pod| !pod.troubled);
                if !clean {
                    self.set_problems(inputs, number, todo);
                }
            }
        }
        if nodes_moved {
            todo.node_policies = true;
            mark_exposed(inputs, todo);
        }
        for number in std::mem::take(&mut todo.troubled) {
            self.set_problems(inputs, number, todo);
        }
        self.facts.pods.forget();
    }

    /// The class that an address is a member of.
    fn member(&self, address: IpAddr) -> Option<Member> {
        let facts = &self.facts;
        match facts.book.owner(address)? {
            Owner::Pod(number) => {
                let (class, _) = facts.pods.at(*number)?.class.as_ref()?;
                // Without a network it is implausible, and so nobody's.
                Some(Member { class: *class, network: Some(facts.settings.networks.of_pod(address)?) })
            }
            Owner::Node(name) => {
                let node = facts.nodes.get(&**name)?.workload.as_ref()?;
                Some(Member { class: node.number, network: None })
            }
            Owner::Unmanaged(name) => {
                let machine = facts.machines.get(&**name)?;
                Some(Member { class: machine.facts.number, network: None })
            }
            Owner::Disputed => None,
        }
    }

    /// Counts in which network a node's Pods have their addresses.
    fn count(&mut self, address: IpAddr, todo: &mut Todo) {
        let networks = &self.facts.settings.networks;
        if !networks.are_several() {
            return;
        }
        let node = match self.facts.book.owner(address) {
            Some(Owner::Pod(number)) => self.facts.pods.at(*number).and_then(|pod| pod.node.clone()),
            _ => None,
        };
        let now = node.zip(networks.of_pod(address));
        let before = match &now {
            Some(now) => self.counted.insert(address, now.clone()),
            None => self.counted.remove(&address),
        };
        if before == now {
            return;
        }
        if let Some((node, network)) = before
            && let Some(counts) = self.seen.get_mut(&node)
            && let Some(count) = counts.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
        if let Some((node, network)) = now {
            *self.seen.entry(node).or_default().entry(network).or_default() += 1;
        }
        todo.node_policies = true;
        todo.warnings = true;
    }

    /// What of a Pod's addresses is not told to its peers.
    fn set_problems(&mut self, inputs: Inputs<'_>, number: PodId, todo: &mut Todo) {
        let Some(facts) = self.facts.pods.at_mut(number) else { return };
        let Some(pod) = inputs.cluster.pods.get(&facts.key) else { return };
        let (problems, disputed) = pods::problems(&self.facts.book, &self.facts.settings, pod);
        facts.troubled = !problems.is_empty();
        let key = Arc::clone(&facts.key);
        if let Some(shown) = self.computed.container_workloads.get_mut(&key) {
            shown.problems = problems;
        }
        let before =
            if disputed.is_empty() { self.disputes.remove(&key) } else { self.disputes.insert(key, disputed.clone()) };
        todo.warnings |= before.unwrap_or_default() != disputed;
    }
}

/// A nodePort is open at every address of every node.
fn mark_exposed(inputs: Inputs<'_>, todo: &mut Todo) {
    if matches!(todo.services, Keys::All) {
        return;
    }
    let services = inputs.cluster.services.iter();
    let exposed = services.filter(|(_, info)| info.ports.iter().any(|port| port.node_port.is_some()));
    exposed.for_each(|(key, _)| todo.services.add(key.clone()));
}
