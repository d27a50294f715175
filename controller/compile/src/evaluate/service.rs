//! Connections through a Service: the consumer sees its front end, each back end sees the consumer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_crds::common::NamespacedName;
use ringfence_model::{Decision, EndState, Verdict};

use super::answer::{BackendExplanation, Explanation, Side};
use super::ends::{End, Target};
use super::{Both, Endpoint, Evaluator, ExplainError, Port};
use crate::cluster::{ServiceInfo, ServicePortInfo};
use crate::compile::service_facts::{Front, ServiceFacts};

/// A way into a Service.
pub struct Entrance<'e> {
    key: &'e NamespacedName,
    facts: &'e ServiceFacts,
    /// The Service itself.
    pub service: &'e ServiceInfo,
    port: &'e ServicePortInfo,
    /// None for a headless Service, whose consumers connect to the back ends.
    pub front: Option<&'e Front>,
    /// An address of who connects, where that is of one family only.
    over: Option<IpAddr>,
}

impl Evaluator<'_> {
    /// A connection to a Service by name, which leads to its first ClusterIP of the family of who connects; who that is
    /// may be known by an address.
    pub(super) fn to_service(
        &self,
        source: &End<'_>,
        key: &NamespacedName,
        port: Port,
        address: Option<IpAddr>,
    ) -> Result<Explanation, ExplainError> {
        let named = Endpoint::Service(key.clone());
        let (Some((key, facts)), Some(service)) =
            (self.world.facts.services.get_key_value(key), self.world.cluster.services.get(key))
        else {
            return Err(ExplainError::NotFound(named));
        };
        let own = service.ports.iter().find(|own| own.protocol == port.protocol && own.port == port.number);
        let Some(own) = own else {
            return Err(ExplainError::NoSuchPort { service: named, protocol: port.protocol, port: port.number });
        };
        let usable = |other: &IpAddr| address.is_none_or(|address| address.is_ipv4() == other.is_ipv4());
        let fronts = || facts.fronts.iter().filter(|front| front.protocol == own.protocol && front.port == own.port);
        let inside = service.cluster_ips.iter().find(|own| usable(own));
        let inside = fronts().find(|front| inside == Some(&front.address));
        let other = || fronts().find(|front| usable(&front.address)).or_else(|| fronts().next());
        let entrance = Entrance { key, facts, service, port: own, front: inside.or_else(other), over: address };
        Ok(self.through(source, &entrance))
    }

    /// The front end that an address and port are, if they are one.
    pub(super) fn front_at(&self, end: &End<'_>, port: Port) -> Option<Entrance<'_>> {
        if end.pod.is_some() {
            return None;
        }
        self.world.facts.services.iter().find_map(|(key, facts)| {
            let front = facts.fronts.iter().find(|front| {
                front.protocol == port.protocol && front.port == port.number && end.addresses.contains(&front.address)
            })?;
            let service = self.world.cluster.services.get(key)?;
            let own =
                service.ports.iter().find(|own| own.port == front.service_port && own.protocol == front.protocol)?;
            Some(Entrance { key, facts, service, port: own, front: Some(front), over: None })
        })
    }

    /// A connection through a Service.
    pub(super) fn through(&self, source: &End<'_>, entrance: &Entrance<'_>) -> Explanation {
        let mut backends: Vec<BackendExplanation> = self
            .back_ends(entrance)
            .into_iter()
            .map(|(address, port)| self.through_to(source, entrance, address, port))
            .collect();
        backends.sort_by(|a, b| (&a.endpoint, a.address, a.port).cmp(&(&b.endpoint, b.address, b.port)));
        let worst = backends.iter().max_by_key(|backend| badness(backend.verdict)).cloned();
        match worst {
            Some(worst) => Explanation {
                verdict: worst.verdict,
                reason: worst.reason,
                source: worst.source,
                destination: worst.destination,
                backends: Some(backends),
            },
            None => self.to_nobody(source, entrance),
        }
    }

    /// Every address behind the port, also what is not believed: the node's proxy leads there all the same.
    fn back_ends(&self, entrance: &Entrance<'_>) -> BTreeSet<(IpAddr, u16)> {
        let own = entrance.port;
        let accepted = entrance.facts.behind.accepted.iter();
        let accepted = accepted
            .filter(|end| end.protocol == own.protocol && end.port_name == own.name)
            .map(|end| (end.address, end.port));
        let refused = entrance.facts.behind.refused.iter().flat_map(|refused| {
            let ports =
                refused.ports.iter().filter(|(name, protocol, _)| *name == own.name && *protocol == own.protocol);
            ports.map(|(_, _, port)| (refused.address, *port))
        });
        // A front end leads to back ends of its own family.
        let way = entrance.front.map(|front| front.address).or(entrance.over);
        let led_to = |address: &IpAddr| way.is_none_or(|way| way.is_ipv4() == address.is_ipv4());
        accepted.chain(refused).filter(|(address, _)| led_to(address)).collect()
    }

    fn through_to(
        &self,
        source: &End<'_>,
        entrance: &Entrance<'_>,
        address: IpAddr,
        number: u16,
    ) -> BackendExplanation {
        let end = self.over_family_of(self.end_at(address), address);
        let source = self.over_family_of(source.clone(), address);
        let port = Port { protocol: entrance.port.protocol, number };
        let out = match self.front_target(entrance) {
            Some((addresses, class_end)) => {
                self.source_side(&source, &target(entrance, &addresses, class_end.as_ref()))
            }
            None => self.source_side(&source, &Target::direct(&end, port)),
        };
        let both = Both::of(out, self.back_end_side(&end, &source, entrance, port));
        BackendExplanation {
            endpoint: end.name,
            address,
            port: number,
            verdict: both.verdict,
            reason: both.reason,
            source: both.source,
            destination: both.destination,
        }
    }

    /// Address of the front end, and whoever has that address beside the Service (a node, for a nodePort).
    fn front_target(&self, entrance: &Entrance<'_>) -> Option<(BTreeSet<IpAddr>, Option<End<'_>>)> {
        let front = entrance.front?;
        let owned = self.world.owner(front.address).is_some();
        Some((BTreeSet::from([front.address]), owned.then(|| self.end_at(front.address))))
    }

    /// Nothing is behind the Service: only the consumer can be judged.
    fn to_nobody(&self, source: &End<'_>, entrance: &Entrance<'_>) -> Explanation {
        let (addresses, class_end) = self.front_target(entrance).unwrap_or_default();
        let out = self.source_side(source, &target(entrance, &addresses, class_end.as_ref()));
        let nobody = Side {
            state: EndState::External,
            labels: std::collections::BTreeMap::new(),
            decision: Decision::External,
            rule: None,
            others: Vec::new(),
            nearest: None,
        };
        let unknown = Some("nothing is behind the Service".to_owned());
        let both = Both::of(out, super::Judged { side: nobody, unknown });
        Explanation {
            verdict: both.verdict,
            reason: both.reason,
            source: both.source,
            destination: both.destination,
            backends: Some(Vec::new()),
        }
    }
}

fn target<'e>(entrance: &'e Entrance<'_>, addresses: &'e BTreeSet<IpAddr>, owner: Option<&'e End<'_>>) -> Target<'e> {
    let number = entrance.front.map_or(entrance.port.port, |front| front.port);
    Target {
        addresses,
        class: owner.and_then(End::peer_class),
        port: Port { protocol: entrance.port.protocol, number },
        pod: None,
        front: entrance.front.map(|front| (entrance.key, entrance.facts, front)),
    }
}

/// How bad a verdict is for who connects.
pub fn badness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allowed => 0,
        Verdict::PotentiallyBlocked => 1,
        Verdict::Unknown => 2,
        Verdict::Blocked => 3,
    }
}
