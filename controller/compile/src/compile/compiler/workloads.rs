//! Nodes, machines, Pods, and who has which address.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;

use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::compile::addresses::{Member, Name, Owner, PodKey};
use crate::compile::machines::{Machine, NodeFacts};
use crate::compile::pods::{self, PodFacts};
use crate::compile::resolve::Ref;
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
            self.rule_sets.mark(&Ref::Workload(name.to_owned()), todo);
            self.rule_sets.mark(&Ref::Nodes, todo);
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
            self.rule_sets.mark(&Ref::Workload(name.clone()), todo);
            todo.shown.add(name);
        }
    }

    pub(super) fn read_pods(&mut self, inputs: Inputs<'_>, todo: &mut Todo, changes: &mut Changes) {
        let keys = std::mem::replace(&mut todo.pods, Keys::These(Default::default()));
        keys.each(&inputs.cluster.pods, |key| self.read_pod(inputs, key, todo));
        changes.others |= !keys.is_empty();
    }

    fn read_pod(&mut self, inputs: Inputs<'_>, key: &NamespacedName, todo: &mut Todo) {
        let info = inputs.cluster.pods.get(key).filter(|pod| !pod.ended);
        let before = self.facts.pods.remove(key);
        let shared: PodKey = before.as_ref().map_or_else(|| Arc::new(key.clone()), |before| Arc::clone(&before.key));
        let facts = &mut self.facts;
        let now = info.map(|pod| {
            let managed = self.namespaces.get(inputs.policy, &key.namespace).profile.state.is_some();
            let labelled = (managed && !pod.host_network).then(|| {
                self.namespaces.label(inputs.policy, &facts.settings, &mut facts.classes, &key.namespace, pod)
            });
            let (labels, class) = labelled.map(|labelled| (labelled.labels, labelled.class)).unwrap_or_default();
            let profile = &self.namespaces.get(inputs.policy, &key.namespace).profile;
            let shown = pods::shown(pod, profile, labels);
            let node = pod.node.as_deref().map(Name::from).filter(|_| facts.settings.networks.are_several());
            (PodFacts { key: Arc::clone(&shared), class, claimed: pods::claims(pod), node }, shown)
        });
        self.move_claims(before.as_ref(), now.as_ref().map(|(facts, _)| facts));
        if let Some((_, before)) = before.as_ref().and_then(|before| before.class.as_ref().map(|class| (before, class)))
        {
            self.facts.classes.release(before.0);
        }
        let claimed = before.iter().chain(now.as_ref().map(|(facts, _)| facts)).flat_map(|facts| facts.claimed.iter());
        self.services.mark_pod(key, claimed, todo);
        match now {
            Some((facts, mut shown)) => {
                let kept = self.computed.container_workloads.get(key).map(|shown| shown.problems.clone());
                shown.problems = kept.unwrap_or_default();
                if !shown.problems.is_empty() {
                    todo.troubled.push(key.clone());
                }
                self.facts.pods.insert(Arc::clone(&shared), facts);
                self.computed.container_workloads.insert(shared, shown);
            }
            None => {
                self.computed.container_workloads.remove(key);
                todo.warnings |= self.disputes.remove(key).is_some();
            }
        }
    }

    /// Addresses that a Pod has and had are looked at when it is of another class or counted elsewhere now.
    fn move_claims(&mut self, before: Option<&PodFacts>, now: Option<&PodFacts>) {
        let book = &mut self.facts.book;
        let (old, new) = (before.map_or(&[][..], |facts| &facts.claimed), now.map_or(&[][..], |facts| &facts.claimed));
        if let Some(facts) = before {
            let gone: Vec<IpAddr> = old.iter().filter(|address| !new.contains(address)).copied().collect();
            pods::note_claims(book, facts, &gone, false);
        }
        if let Some(facts) = now {
            let come: Vec<IpAddr> = new.iter().filter(|address| !old.contains(address)).copied().collect();
            pods::note_claims(book, facts, &come, true);
        }
        if before.is_some() && now.is_some() {
            new.iter().filter(|address| old.contains(address)).for_each(|address| book.touch(*address));
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
            let pods: Vec<PodKey> = self.facts.book.pods_at(address).to_vec();
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
            for key in pods {
                let clean = pods::is_plain(&self.facts.book, address, &key)
                    && self.computed.container_workloads.get(&key).is_some_and(|shown| shown.problems.is_empty());
                if !clean {
                    self.set_problems(inputs, &key, todo);
                }
            }
        }
        if nodes_moved {
            todo.node_policies = true;
            mark_exposed(inputs, todo);
        }
        for key in std::mem::take(&mut todo.troubled) {
            self.set_problems(inputs, &key, todo);
        }
    }

    /// The class that an address is a member of.
    fn member(&self, address: IpAddr) -> Option<Member> {
        let facts = &self.facts;
        match facts.book.owner(address)? {
            Owner::Pod(key) => {
                let (class, _) = facts.pods.get(key)?.class.as_ref()?;
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
            Some(Owner::Pod(key)) => self.facts.pods.get(key).and_then(|pod| pod.node.clone()),
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
    fn set_problems(&mut self, inputs: Inputs<'_>, key: &NamespacedName, todo: &mut Todo) {
        let (Some(pod), Some(facts)) = (inputs.cluster.pods.get(key), self.facts.pods.get(key)) else { return };
        let (problems, disputed) = pods::problems(&self.facts.book, &self.facts.settings, pod);
        let shared = Arc::clone(&facts.key);
        let before = if disputed.is_empty() {
            self.disputes.remove(key)
        } else {
            self.disputes.insert(shared, disputed.clone())
        };
        todo.warnings |= before.unwrap_or_default() != disputed;
        if let Some(shown) = self.computed.container_workloads.get_mut(key) {
            shown.problems = problems;
        }
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
