//! Reading groups of addresses out of the store: whole or not at all.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use ringfence_crds::PeerGroupSpec;
use ringfence_crds::address_group::ServiceEnds;
use ringfence_model::Protocol;

use super::Missing;
use crate::input::ObjectStore;
use crate::policy::End;

/// The store, seen from one Pod network.
#[derive(Clone, Copy)]
pub struct Classes<'a> {
    store: &'a ObjectStore,
    /// Id of the Pod network of this node; without its NodePolicy nobody knows which addresses are whose.
    network: Option<&'a str>,
}

impl<'a> Classes<'a> {
    pub fn new(store: &'a ObjectStore) -> Self {
        Self { store, network: store.node_policy.as_ref().map(|node| node.pod_network.as_str()) }
    }

    /// A PeerGroup and the addresses of all its classes.
    pub fn peer_group(
        &self,
        name: &str,
        missing: &mut BTreeSet<Missing>,
    ) -> Option<(&'a PeerGroupSpec, BTreeSet<Ipv4Net>)> {
        self.expect_network(missing);
        let Some(group) = self.store.peer_groups.get(name) else {
            missing.insert(Missing::PeerGroup(name.to_owned()));
            return None;
        };
        let mut nets = BTreeSet::new();
        for class in &group.classes {
            match self.members(class) {
                Some(members) => nets.extend(members),
                None => {
                    missing.insert(Missing::Class(class.clone()));
                }
            }
        }
        Some((group, nets))
    }

    /// The addresses of a class, if all its slices are there.
    fn members(&self, class: &str) -> Option<Vec<Ipv4Net>> {
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
    pub fn service(&self, class: &str, missing: &mut BTreeSet<Missing>) -> Option<&'a ServiceEnds> {
        self.expect_network(missing);
        let group = self.store.address_groups.get(&format!("{class}-0"));
        let ends = group.and_then(|group| group.service.as_ref());
        if ends.is_none() {
            missing.insert(Missing::Service(class.to_owned()));
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

/// One IPv4 address as a prefix; nothing for IPv6 or nonsense.
pub fn host(address: &str) -> Option<Ipv4Net> {
    address.parse::<Ipv4Addr>().ok().map(Ipv4Net::from)
}

/// An end of a Service, if it is IPv4 and its protocol has ports.
pub fn end(address: &str, protocol: &str, port: i32) -> Option<End> {
    let protocol = protocol.parse::<Protocol>().ok().filter(|protocol| protocol.has_ports())?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    Some(End { address: address.parse().ok()?, protocol, port })
}

/// IPv4 prefixes among texts; IPv6 and nonsense are left out.
pub fn prefixes(texts: &[String]) -> BTreeSet<Ipv4Net> {
    let parse = |text: &String| text.parse::<Ipv4Net>().ok().map(|net| net.trunc()).or_else(|| host(text));
    texts.iter().filter_map(parse).collect()
}
