//! Ends of a connection, as rules see them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_crds::common::NamespacedName;
use ringfence_model::{EndState, Labels};

use super::{Endpoint, Evaluator, ExplainError, Port};
use crate::cluster::PodInfo;
use crate::compile::addresses::Owner;
use crate::compile::class::Class;
use crate::compile::machines::MachineFacts;
use crate::compile::service_facts::{Front, ServiceFacts};

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// What it is called in answers.
    pub name: String,
    /// Its state.
    pub state: EndState,
    /// Its labels.
    pub labels: Labels,
    /// Its class: what rules are programmed by.
    pub class: Option<Arc<Class>>,
    /// Whether its class's addresses hold its own, so that it is a peer by label.
    pub peer: bool,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// All addresses of a family, if it has another one of that family, which is not known: only a list of all of them
    /// holds it for certain.
    pub somewhere: Option<IpNet>,
    /// The Pod on the Pod network that it is.
    pub pod: Option<(&'a NamespacedName, &'a PodInfo)>,
    /// The node that it is.
    pub node: Option<&'a str>,
    /// Whether it is known who it is.
    pub known: bool,
}

impl End<'_> {
    /// An address that belongs to no workload.
    pub fn external(address: IpAddr) -> Self {
        Self {
            name: address.to_string(),
            state: EndState::External,
            labels: Labels::new(),
            class: None,
            peer: false,
            addresses: BTreeSet::from([address]),
            somewhere: None,
            pod: None,
            node: None,
            known: true,
        }
    }

    /// What the other end sees when who connects is hidden altogether: nobody that a rule could name.
    pub fn hidden(&self) -> Self {
        Self { class: None, peer: false, addresses: BTreeSet::new(), pod: None, node: None, ..self.clone() }
    }

    /// One of its addresses, if they are all of one family.
    pub fn of_one_family(&self) -> Option<IpAddr> {
        let first = self.addresses.first().copied()?;
        self.addresses.iter().all(|address| address.is_ipv4() == first.is_ipv4()).then_some(first)
    }

    /// The class by which peers know it.
    pub fn peer_class(&self) -> Option<&Class> {
        self.class.as_deref().filter(|_| self.peer)
    }
}

/// What a consumer's packet is addressed to.
pub struct Target<'e> {
    /// The addresses.
    pub addresses: &'e BTreeSet<IpAddr>,
    /// The class at the address.
    pub class: Option<&'e Class>,
    /// The port on it.
    pub port: Port,
    /// The Pod that it is.
    pub pod: Option<&'e NamespacedName>,
    /// The front end that it is.
    pub front: Option<(&'e NamespacedName, &'e ServiceFacts, &'e Front)>,
}

impl<'e> Target<'e> {
    /// A workload or address itself.
    pub fn direct(end: &'e End<'_>, port: Port) -> Self {
        Self { addresses: &end.addresses, class: end.peer_class(), port, pod: end.pod.map(|(key, _)| key), front: None }
    }
}

impl<'a> Evaluator<'a> {
    /// The end that a user names.
    pub(super) fn end(&self, endpoint: &Endpoint) -> Result<End<'_>, ExplainError> {
        let missing = || ExplainError::NotFound(endpoint.clone());
        match endpoint {
            Endpoint::Pod(key) => {
                let pod = self.world.cluster.pods.get(key).ok_or_else(missing)?;
                if pod.ended {
                    return Err(ExplainError::Ended(endpoint.clone()));
                }
                match (&pod.node, pod.host_network) {
                    (Some(node), true) => self.node_end(node).ok_or_else(missing),
                    _ => self.pod_end(key).ok_or_else(missing),
                }
            }
            Endpoint::Node(name) => self.node_end(name).ok_or_else(missing),
            Endpoint::Address(address) => Ok(self.end_at(*address)),
            Endpoint::Service(_) => Err(ExplainError::ServiceConnects(endpoint.clone())),
        }
    }

    /// Whoever has an address.
    pub(super) fn end_at(&self, address: IpAddr) -> End<'_> {
        let external = End::external(address);
        match self.world.owner(address) {
            None => external,
            // Which of the Pods answers is not known, and so neither is its policy.
            Some(Owner::Disputed) => End { known: false, ..external },
            Some(Owner::Pod(number)) => {
                self.world.facts.pods.at(*number).and_then(|pod| self.pod_end(&pod.key)).unwrap_or(external)
            }
            Some(Owner::Node(name)) => self.node_end(name).unwrap_or(external),
            Some(Owner::Unmanaged(name)) => match self.world.facts.machines.get(&**name) {
                Some(machine) => {
                    let end = machine_end(Some(&machine.facts), EndState::Unmanaged);
                    End { name: address.to_string(), addresses: BTreeSet::from([address]), ..end }
                }
                None => external,
            },
        }
    }

    /// An end as a connection from or to an address meets it: a connection runs over one family. An end that has no
    /// address of the family has no such connection either; it stays as it is.
    pub(super) fn over_family_of<'e>(&'e self, end: End<'e>, address: IpAddr) -> End<'e> {
        let same = |own: &&IpAddr| own.is_ipv4() == address.is_ipv4();
        let addresses: BTreeSet<IpAddr> = end.addresses.iter().filter(same).copied().collect();
        if addresses.is_empty() {
            return end;
        }
        let number = end.pod.and_then(|(key, _)| self.world.facts.pods.number(key));
        let own = number.map(Owner::Pod);
        let peer = own.is_none_or(|own| addresses.iter().any(|address| self.world.owner(*address) == Some(&own)));
        End { peer: end.peer && peer, addresses, ..end }
    }

    fn pod_end(&self, key: &NamespacedName) -> Option<End<'_>> {
        let (key, pod) = self.world.cluster.pods.get_key_value(key)?;
        let number = self.world.facts.pods.number(key)?;
        let facts = self.world.facts.pods.at(number)?;
        let shown = self.world.computed.container_workloads.get(key)?;
        let own = Owner::Pod(number);
        let told = pod.ips.iter().any(|address| self.world.owner(*address) == Some(&own));
        Some(End {
            name: format!("pod/{key}"),
            state: shown.state.map_or(EndState::Unmanaged, EndState::from),
            labels: shown.labels.labels.clone(),
            class: facts.class.as_ref().map(|(_, class)| Arc::clone(class)),
            // A Pod that waits for its address will be a peer once it has it.
            peer: told || pod.ips.is_empty(),
            addresses: pod.ips.iter().copied().collect(),
            somewhere: None,
            pod: Some((key, pod)),
            node: None,
            known: true,
        })
    }

    pub(super) fn node_end(&self, name: &str) -> Option<End<'_>> {
        let (name, _) = self.world.cluster.nodes.get_key_value(name)?;
        let addresses = self.world.addresses_of_node(name);
        // A node of the provider is no workload at all.
        let node = self.world.facts.nodes.get(name);
        let end = match node.and_then(|node| Some((node.workload.as_ref()?, node.state?))) {
            Some((facts, state)) => machine_end(Some(facts), state.into()),
            None => machine_end(None, EndState::External),
        };
        Some(End { name: format!("node/{name}"), addresses, node: Some(name), ..end })
    }
}

fn machine_end<'a>(facts: Option<&MachineFacts>, state: EndState) -> End<'a> {
    End {
        name: String::new(),
        state,
        labels: facts.map(|facts| facts.labels.clone()).unwrap_or_default(),
        class: facts.map(|facts| Arc::clone(&facts.class)),
        peer: true,
        addresses: BTreeSet::new(),
        somewhere: None,
        pod: None,
        node: None,
        known: true,
    }
}
