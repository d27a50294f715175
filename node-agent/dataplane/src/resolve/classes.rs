//! Reading groups of addresses out of the store: whole or not at all. What is read for one Pod is read for all, and noted
//! as being of interest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_crds::PeerGroupSpec;
use ringfence_crds::address_group::ServiceEnds;
use ringfence_crds::names::{MARKER, service_class};
use ringfence_model::Protocol;
use rustc_hash::FxHashMap;

use super::Missing;
use crate::input::ObjectStore;
use crate::interest::Interest;
use crate::policy::{End, HostSet, Nets, Origin};

/// How many classes of a group are named when they are missing: an agent that has just begun misses all of them.
const NAMED: usize = 10;

/// The store, seen from one Pod network.
#[derive(Debug)]
pub struct Classes<'a> {
    store: &'a ObjectStore,
    /// Id of the Pod network of this node; without its NodePolicy nobody knows which addresses are whose.
    network: Option<&'a str>,
    /// PeerGroups that were asked for.
    groups: FxHashMap<String, Known<'a>>,
    /// Members that come from several origins.
    unions: BTreeMap<BTreeSet<Origin>, Arc<Nets>>,
    /// The ends of Services, by namespace and name.
    services: FxHashMap<(&'a str, &'a str), &'a ServiceEnds>,
    /// Everything that was asked for.
    interest: Interest,
}

/// What is known of a PeerGroup.
#[derive(Debug, Clone, Default)]
struct Known<'a> {
    spec: Option<&'a PeerGroupSpec>,
    /// The addresses of the classes that are there.
    nets: Arc<Nets>,
    missing: Vec<Missing>,
}

impl<'a> Classes<'a> {
    pub fn new(store: &'a ObjectStore) -> Self {
        let network = store.node_policy.as_ref().map(|node| node.pod_network.as_str());
        let ends = store.address_groups.values().filter_map(|group| group.service.as_deref());
        let services = ends.map(|ends| ((ends.namespace.as_str(), ends.name.as_str()), ends)).collect();
        let (groups, unions) = (FxHashMap::default(), BTreeMap::new());
        Self { store, network, groups, unions, services, interest: Interest::default() }
    }

    /// What has been asked for so far, whether it was there or not.
    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// A PeerGroup and the addresses of all its classes.
    pub fn peer_group(
        &mut self,
        name: &str,
        missing: &mut BTreeSet<Missing>,
    ) -> Option<(&'a PeerGroupSpec, Arc<Nets>)> {
        self.expect_network(missing);
        if !self.groups.contains_key(name) {
            let known = self.read(name);
            self.groups.insert(name.to_owned(), known);
        }
        let known = self.groups.get(name)?;
        missing.extend(known.missing.iter().cloned());
        Some((known.spec?, known.nets.clone()))
    }

    fn read(&mut self, name: &str) -> Known<'a> {
        self.interest.peer_groups.insert(name);
        // The marker is no group, whatever it says.
        let Some(spec) = self.store.peer_groups.get(name).filter(|_| name != MARKER) else {
            return Known { missing: vec![Missing::PeerGroup(name.to_owned())], ..Known::default() };
        };
        let (mut nets, mut missing): (Vec<IpNet>, _) = (Vec::new(), Vec::new());
        for class in &spec.classes {
            self.interest.address_groups.insert(class);
            match self.members(class) {
                Some(members) => nets.extend(members),
                None if missing.len() < NAMED => missing.push(Missing::Class(class.clone())),
                None => {}
            }
        }
        Known { spec: Some(spec), nets: Arc::new(nets.into_iter().collect()), missing }
    }

    /// The members of several origins together: made once, however many Pods have these. Equal origins have equal members.
    pub fn union(&mut self, parts: BTreeMap<Origin, Arc<Nets>>) -> HostSet {
        let origins: BTreeSet<Origin> = parts.keys().cloned().collect();
        if let Some(nets) = self.unions.get(&origins) {
            return HostSet { origins, nets: nets.clone() };
        }
        let mut parts = parts.into_values();
        let nets = match (parts.next(), parts.len()) {
            (None, _) => Arc::default(),
            (Some(only), 0) => only,
            (Some(first), _) => {
                let mut nets: Vec<IpNet> = first.iter().collect();
                parts.for_each(|part| nets.extend(part.iter()));
                Arc::new(nets.into_iter().collect())
            }
        };
        self.unions.insert(origins.clone(), nets.clone());
        HostSet { origins, nets }
    }

    /// The addresses of a class that every agent reads.
    pub fn class(&self, class: &str, missing: &mut BTreeSet<Missing>) -> Option<Vec<IpNet>> {
        let members = self.members(class);
        if members.is_none() {
            missing.insert(Missing::Class(class.to_owned()));
        }
        members
    }

    /// The addresses of a class, if all its slices are there.
    fn members(&self, class: &str) -> Option<Vec<IpNet>> {
        let slice = |number: i32| self.store.address_groups.get(&format!("{class}-{number}"));
        let count = slice(0)?.slices.filter(|count| *count > 0)?;
        let mut members = Vec::new();
        for number in 0..count {
            let here = slice(number)?.members.iter().filter(|member| self.is_here(&member.network));
            members.extend(here.filter_map(|member| host(&member.address)));
        }
        Some(members)
    }

    /// The ends of a Service, by its class.
    pub fn service(&mut self, class: &str, missing: &mut BTreeSet<Missing>) -> Option<&'a ServiceEnds> {
        self.expect_network(missing);
        self.interest.address_groups.insert(class);
        let group = self.store.address_groups.get(&format!("{class}-0"));
        let ends = group.and_then(|group| group.service.as_deref());
        if ends.is_none() {
            missing.insert(Missing::Service(class.to_owned()));
        }
        ends
    }

    /// The ends of a Service, by `namespace/name`.
    pub fn service_named(&mut self, service: &str, missing: &mut BTreeSet<Missing>) -> Option<&'a ServiceEnds> {
        self.interest.address_groups.insert(&service_class(service));
        let ends = service.split_once('/').and_then(|key| self.services.get(&key).copied());
        if ends.is_none() {
            missing.insert(Missing::Service(service.to_owned()));
        }
        ends
    }

    /// While the network is not known, what is found is not all there is.
    fn expect_network(&self, missing: &mut BTreeSet<Missing>) {
        if self.network.is_none() {
            missing.insert(Missing::NodePolicy);
        }
    }

    /// Whether addresses of a network mean here what they mean there.
    pub fn is_here(&self, network: &str) -> bool {
        network.is_empty() || self.network == Some(network)
    }
}

/// One address as a prefix; nothing for nonsense.
fn host(address: &str) -> Option<IpNet> {
    address.parse::<IpAddr>().ok().map(IpNet::from)
}

/// An end of a Service, if its protocol has ports.
pub fn end(address: &str, protocol: &str, port: i32) -> Option<End> {
    let protocol = protocol.parse::<Protocol>().ok().filter(|protocol| protocol.has_ports())?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    Some(End { address: address.parse().ok()?, protocol, port })
}

/// Prefixes among texts; nonsense is left out.
pub fn prefixes(texts: &[String]) -> Nets {
    let parse = |text: &String| text.parse::<IpNet>().ok().map(|net| net.trunc()).or_else(|| host(text));
    texts.iter().filter_map(parse).collect()
}
