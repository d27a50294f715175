//! Nodes, machines, and who has which address.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::exposed::mark_nodes;
use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::compile::addresses::{Member, Owner, PodId};
use crate::compile::machines::{Machine, NodeFacts};
use crate::compile::pods;
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
        mark_nodes(inputs, todo);
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

    /// Decides anew who has the addresses that were touched, and moves them between classes.
    pub(super) fn settle_addresses(&mut self, inputs: Inputs<'_>, todo: &mut Todo, changes: &mut Changes) {
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
                self.mark_services(address, &pods, todo);
            }
            for number in pods {
                let clean = pods::is_plain(&self.facts.book, address, number)
                    && self.facts.pods.at(number).is_some_and(|pod| !pod.troubled);
                if !clean {
                    self.set_problems(inputs, number, todo, changes);
                }
            }
        }
        if nodes_moved {
            todo.node_policies = true;
            mark_nodes(inputs, todo);
        }
        for number in std::mem::take(&mut todo.troubled) {
            self.set_problems(inputs, number, todo, changes);
        }
        self.facts.pods.forget();
    }

    /// The Services that an address is behind, or one of these Pods, which claim it: one that is exposed is so with all of its
    /// addresses.
    fn mark_services(&self, address: IpAddr, pods: &[PodId], todo: &mut Todo) {
        self.services.mark_address(address, todo);
        for pod in pods.iter().filter_map(|number| self.facts.pods.at(*number)) {
            self.services.mark_pod(&pod.key, &pod.claimed, todo);
        }
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
    fn set_problems(&mut self, inputs: Inputs<'_>, number: PodId, todo: &mut Todo, changes: &mut Changes) {
        let Some(facts) = self.facts.pods.at_mut(number) else { return };
        let Some(pod) = inputs.cluster.pods.get(&facts.key) else { return };
        let (problems, disputed) = pods::problems(&self.facts.book, &self.facts.settings, pod);
        facts.troubled = !problems.is_empty();
        let key = Arc::clone(&facts.key);
        if let Some(shown) = self.computed.container_workloads.get_mut(&key) {
            changes.others |= shown.problems != problems;
            shown.problems = problems;
        }
        let before =
            if disputed.is_empty() { self.disputes.remove(&key) } else { self.disputes.insert(key, disputed.clone()) };
        todo.warnings |= before.unwrap_or_default() != disputed;
    }
}
