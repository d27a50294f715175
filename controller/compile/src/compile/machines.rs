//! Nodes and unmanaged machines as workloads.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::WorkloadSpec;
use ringfence_crds::common::labels_of;
use ringfence_model::{Labels, PolicyState};

use super::ComputedWorkload;
use super::addresses::{AddressBook, Claim, Name, Owner};
use super::class::{Class, ClassId, ClassOrigin};
use super::classes::Classes;
use super::settings::Settings;
use crate::cluster::NodeInfo;

/// What the compiler remembers of a node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Its name, as shared with its addresses.
    pub name: Name,
    /// What it is known by to rules; none for a provider's master, which is no workload.
    pub workload: Option<MachineFacts>,
    /// The state that is asked for its own traffic; none for a provider's master.
    pub state: Option<PolicyState>,
    /// Whether its gate judges towards exposed Pods of other nodes, and seals what it lets pass.
    pub seals: bool,
    /// Addresses of its status.
    status: BTreeSet<IpAddr>,
    /// Addresses that its agent reports.
    reported: BTreeSet<IpAddr>,
}

/// What rules know of a node or an unmanaged machine.
#[derive(Debug, Clone)]
pub struct MachineFacts {
    /// Its labels.
    pub labels: Labels,
    /// Its class.
    pub class: Arc<Class>,
    /// Number of the class.
    pub number: ClassId,
}

/// What the compiler remembers of an unmanaged machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name, as shared with its addresses.
    pub name: Name,
    /// What it is known by to rules.
    pub facts: MachineFacts,
    claimed: BTreeSet<IpAddr>,
}

fn acquire(classes: &mut Classes, labels: Labels, origin: ClassOrigin) -> MachineFacts {
    let (number, class) = classes.acquire(&Arc::new(Class::new(labels.clone(), origin)));
    MachineFacts { labels, class, number }
}

impl NodeFacts {
    /// Reads a node and claims its addresses.
    pub fn note(
        name: &str,
        node: &NodeInfo,
        written: Option<&WorkloadSpec>,
        settings: &Settings,
        classes: &mut Classes,
        book: &mut AddressBook,
    ) -> Self {
        let labels = || settings.labels.of_node(node, written.map(|workload| &workload.labels));
        let workload =
            settings.is_workload(node).then(|| acquire(classes, labels(), ClassOrigin::Node(name.to_owned())));
        let state = workload.as_ref().map(|_| written.and_then(|spec| spec.policy_state).unwrap_or(PolicyState::Idle));
        let facts = Self {
            name: name.into(),
            workload,
            state,
            seals: node.seals,
            status: node.addresses.clone(),
            reported: node.reported.clone(),
        };
        facts.claims().for_each(|(address, claim)| book.claim(address, claim));
        facts
    }

    /// Takes everything back that was noted.
    pub fn release(&self, classes: &mut Classes, book: &mut AddressBook) {
        self.claims().for_each(|(address, claim)| book.release(address, &claim));
        if let Some(workload) = &self.workload {
            classes.release(workload.number);
        }
    }

    fn claims(&self) -> impl Iterator<Item = (IpAddr, Claim)> {
        let status = self.status.iter().map(|address| (*address, Claim::Node(self.name.clone())));
        status.chain(self.reported.iter().map(|address| (*address, Claim::Agent(self.name.clone()))))
    }

    /// Whether it differs in what rules know of it.
    pub fn is_known_as(&self, other: &Self) -> bool {
        let class = |facts: &Self| facts.workload.as_ref().map(|workload| Arc::clone(&workload.class));
        class(self) == class(other)
    }

    /// The state that puts rules into its own network namespace, if one does.
    pub fn enforced(&self) -> Option<PolicyState> {
        self.state.filter(|state| *state != PolicyState::Idle)
    }

    /// All its addresses: those of its status, and the believed ones among those that its agent reports.
    pub fn addresses(&self, book: &AddressBook) -> BTreeSet<IpAddr> {
        self.status.iter().copied().chain(self.believed(book)).collect()
    }

    /// The believed ones among the addresses that its agent reports.
    pub fn believed(&self, book: &AddressBook) -> impl Iterator<Item = IpAddr> {
        self.reported.iter().copied().filter(|address| book.is_believed(*address, &self.name))
    }

    /// What is shown of it; nothing if it is no workload.
    pub fn shown(
        &self,
        node: &NodeInfo,
        written: Option<&WorkloadSpec>,
        book: &AddressBook,
    ) -> Option<ComputedWorkload> {
        let workload = self.workload.as_ref()?;
        let mut warnings = Vec::new();
        if written.is_some_and(|workload| !workload.addresses.is_empty()) {
            warnings.push("spec.addresses has no effect: discovery finds the addresses of a node".to_owned());
        }
        Some(ComputedWorkload {
            role: if node.control_plane { "master" } else { "worker" }.to_owned(),
            addresses: self.addresses(book).iter().map(ToString::to_string).collect(),
            kubernetes_machine_id: Some(node.machine_id.clone()).filter(|id| !id.is_empty()),
            labels: workload.labels.to_strings(),
            warnings,
        })
    }
}

impl Machine {
    /// Reads an unmanaged machine and claims its addresses.
    pub fn note(name: &str, spec: &WorkloadSpec, classes: &mut Classes, book: &mut AddressBook) -> Self {
        let facts = acquire(classes, labels_of(&spec.labels), ClassOrigin::Unmanaged(name.to_owned()));
        let claimed: BTreeSet<IpAddr> = spec.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let machine = Self { name: name.into(), facts, claimed };
        machine.claims().for_each(|(address, claim)| book.claim(address, claim));
        machine
    }

    /// Takes everything back that was noted.
    pub fn release(&self, classes: &mut Classes, book: &mut AddressBook) {
        self.claims().for_each(|(address, claim)| book.release(address, &claim));
        classes.release(self.facts.number);
    }

    fn claims(&self) -> impl Iterator<Item = (IpAddr, Claim)> {
        self.claimed.iter().map(|address| (*address, Claim::Machine(self.name.clone())))
    }

    /// What is shown of it.
    pub fn shown(&self, spec: &WorkloadSpec, book: &AddressBook) -> ComputedWorkload {
        let mut shown = ComputedWorkload {
            role: "unmanaged".to_owned(),
            labels: self.facts.labels.to_strings(),
            ..ComputedWorkload::default()
        };
        for text in spec.addresses.iter().collect::<BTreeSet<_>>() {
            let address = text.parse::<IpAddr>().map_or(text.clone(), |address| address.to_string());
            let refused =
                if shown.addresses.contains(&address) { Some("it is written twice") } else { self.refused(text, book) };
            match refused {
                Some(reason) => shown.warnings.push(format!("address {text} has no effect: {reason}")),
                None => shown.addresses.push(address),
            }
        }
        shown
    }

    fn refused(&self, text: &str, book: &AddressBook) -> Option<&'static str> {
        let Ok(address) = text.parse::<IpAddr>() else { return Some("it is no address") };
        if book.machines_at(address).len() > 1 {
            return Some("another Workload has it too");
        }
        match book.owner(address) {
            Some(Owner::Unmanaged(name)) if *name == self.name => None,
            _ => Some("a Pod or node has it"),
        }
    }
}
