//! Whether a rule hits a connection, at the end that connects and at the end that listens (policy model, "Scopes and
//! rules", "Virtual services and Kubernetes services").

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::{Action, Dimension, LabelValue, PortMatch, Ports, Protocol};

use crate::holder::{Holder, within};
use crate::world::{
    Actor, Key, Labels, Rule, RuleServices, RuleSet, Service, ServicePort, ServiceRef, TargetPort, World,
};

type Scope = BTreeMap<Dimension, BTreeSet<LabelValue>>;

/// Somebody as a rule knows them.
#[derive(Debug, Clone)]
pub struct Known {
    /// Who it is.
    pub holder: Holder,
    /// Its labels; none if rules do not know it by label.
    pub labels: Option<Labels>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is asked for at whoever listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// Protocol.
    pub protocol: Protocol,
    /// Port; 0 for a protocol without ports.
    pub port: u16,
    /// ICMP type and code, if they are known.
    pub icmp: Option<(u8, u8)>,
}

impl Ask {
    /// A port.
    pub fn port(protocol: Protocol, port: u16) -> Self {
        Self { protocol, port, icmp: None }
    }

    /// Whether it is neighbour discovery, router discovery or MLD. Of a connection the port is the type.
    pub(crate) fn is_discovery(self) -> bool {
        let kind = self.icmp.map_or(self.port, |(kind, _)| u16::from(kind));
        self.protocol == Protocol::ICMPV6 && [130, 131, 132, 133, 134, 135, 136, 143].contains(&kind)
    }
}

/// What a consumer connects to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whoever has the address.
    pub known: Known,
    /// What is asked for there.
    pub ask: Ask,
    /// The Service and its port, if the address is the front end of one.
    pub front: Option<(Key, ServicePort)>,
}

/// An address and port behind a Service that is believed.
#[derive(Debug, Clone, PartialEq)]
pub struct BackEnd {
    /// The address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// Name of the Service's port.
    pub name: String,
    /// The Pod of the Service's namespace that it is.
    pub pod: Option<Key>,
}

/// Whether a port entry covers what is asked for. While type and code of an ICMP message are not known, one that names
/// them does not.
fn entry_covers(entry: &PortMatch, ask: Ask) -> bool {
    entry.protocol == ask.protocol
        && match entry.ports {
            Ports::All => true,
            Ports::Range(first, last) => first <= ask.port && ask.port <= last,
            Ports::Icmp(kind, code) => {
                ask.icmp.is_some_and(|(its, its_code)| kind == its && code.is_none_or(|code| code == its_code))
            }
        }
}

/// The scopes that can hold at all. Nothing empty widens: one that asks for none of no values holds nowhere, also where
/// an IP list, which never gets a scope, is on the other side.
fn scopes(set: &RuleSet) -> impl Iterator<Item = &Scope> {
    set.scopes.iter().filter(|scope| scope.values().all(|values| !values.is_empty()))
}

fn has_one_of(labels: &Labels, wanted: &Scope) -> bool {
    wanted.iter().all(|(dimension, values)| labels.get(dimension).is_some_and(|value| values.contains(value)))
}

/// "All except X": another value in that dimension. Nothing empty widens: to have another value than none of these says
/// nothing and selects nobody.
fn has_another(labels: &Labels, excluded: &Scope) -> bool {
    excluded.iter().all(|(dimension, values)| {
        !values.is_empty() && labels.get(dimension).is_some_and(|value| !values.contains(value))
    })
}

impl World {
    /// The values of a group and of all groups in it; none if it is not there.
    fn group_values(&self, name: &str) -> Option<(Dimension, BTreeSet<LabelValue>)> {
        let root = self.groups.get(name)?;
        let mut values = BTreeSet::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut open = vec![name];
        while let Some(current) = open.pop() {
            if !seen.insert(current) {
                continue;
            }
            let Some(group) = self.groups.get(current).filter(|group| group.dimension == root.dimension) else {
                continue;
            };
            values.extend(group.values.iter().cloned());
            open.extend(group.groups.iter().map(String::as_str));
        }
        Some((root.dimension.clone(), values))
    }

    /// Whether labels satisfy a term.
    fn term_selects(&self, is: &Scope, not: &Scope, groups: &BTreeSet<String>, labels: &Labels) -> bool {
        if is.is_empty() && not.is_empty() && groups.is_empty() {
            return false;
        }
        let mut wanted: Scope = Scope::new();
        for name in groups {
            let Some((dimension, values)) = self.group_values(name).filter(|(_, values)| !values.is_empty()) else {
                return false;
            };
            wanted.entry(dimension).or_default().extend(values);
        }
        has_one_of(labels, is) && has_another(labels, not) && has_one_of(labels, &wanted)
    }

    /// Whether a term means somebody. `scope`: none for the consumers of an extra-scope rule.
    fn means(&self, actor: &Actor, scope: Option<&Scope>, who: &Known) -> bool {
        let Some(labels) = &who.labels else { return false };
        if !scope.is_none_or(|scope| has_one_of(labels, scope)) {
            return false;
        }
        match actor {
            Actor::Labels { is, not, groups } => self.term_selects(is, not, groups, labels),
            // Never a machine outside, where no scope holds.
            Actor::AllWorkloads => scope.is_some() || !matches!(who.holder, Holder::Machine(_)),
            Actor::ContainerHosts => matches!(who.holder, Holder::Node(_)),
            Actor::Workload(name) => matches!(&who.holder, Holder::Node(own) | Holder::Machine(own) if own == name),
            Actor::IpList(_) | Actor::VirtualService(_) => false,
        }
    }

    /// Whether an address is in an IP list; never if there is no such list.
    fn listed(&self, name: &str, addresses: &[IpAddr]) -> bool {
        self.ip_lists.get(name).is_some_and(|list| {
            addresses.iter().any(|address| within(*address, &list.ranges) && !within(*address, &list.exclusions))
        })
    }

    /// Whether the services that a rule writes out cover what is asked for.
    fn written_cover(&self, services: &RuleServices, ask: Ask) -> bool {
        match services {
            RuleServices::All => true,
            RuleServices::OwnPorts => false,
            RuleServices::Listed(list) => list.iter().any(|service| match service {
                ServiceRef::Port(entry) => entry_covers(entry, ask),
                ServiceRef::Named(name) => {
                    self.definitions.get(name).into_iter().flatten().any(|entry| entry_covers(entry, ask))
                }
            }),
        }
    }

    /// The same for a port of a virtual service: its own ports are all of them.
    fn covers(&self, services: &RuleServices, ask: Ask) -> bool {
        *services == RuleServices::OwnPorts || self.written_cover(services, ask)
    }

    /// A virtual service in a scope.
    fn virtual_service(&self, key: &Key, scope: &Scope) -> Option<&Service> {
        let service = self.services.get(key).filter(|_| self.profile(&key.0).state.is_some())?;
        has_one_of(&self.service_labels(key), scope).then_some(service)
    }

    /// Whether a rule of a RuleSet hits at the end that connects.
    pub fn hits_out(&self, set: &RuleSet, rule: &Rule, source: &Known, wanted: &Wanted) -> bool {
        set.enabled
            && rule.enabled
            && scopes(set).any(|scope| {
                let consumers_scope = (!rule.extra_scope).then_some(scope);
                rule.consumers.iter().any(|actor| self.means(actor, consumers_scope, source))
                    && rule.providers.iter().any(|actor| self.provider_out(rule, actor, scope, wanted))
            })
    }

    fn provider_out(&self, rule: &Rule, actor: &Actor, scope: &Scope, wanted: &Wanted) -> bool {
        let written = || self.written_cover(&rule.services, wanted.ask);
        match actor {
            Actor::IpList(name) => self.listed(name, &wanted.known.addresses) && written(),
            Actor::VirtualService(key) => {
                self.virtual_service(key, scope).is_some_and(|service| self.service_out(rule, key, service, wanted))
            }
            actor => {
                (self.means(actor, Some(scope), &wanted.known) && written()) || self.through(rule, actor, scope, wanted)
            }
        }
    }

    /// A virtual service as provider: each of its front ends and back ends, exactly.
    fn service_out(&self, rule: &Rule, key: &Key, service: &Service, wanted: &Wanted) -> bool {
        let front = wanted.front.as_ref().filter(|(own, _)| own == key).is_some_and(|(_, port)| {
            self.is_open(key, service, port) && self.all_or_any(rule, &self.targets(key, service, port), port.protocol)
        });
        let back = self.back_ends(key, service).iter().any(|end| {
            wanted.known.addresses.contains(&end.address)
                && end.protocol == wanted.ask.protocol
                && end.port == wanted.ask.port
                && self.covers(&rule.services, wanted.ask)
        });
        front || back
    }

    /// A label as provider, reached through the Service in front of it. An Allow opens a front end that leads to any of
    /// those it means; a Deny closes one only if whatever it leads to is denied.
    fn through(&self, rule: &Rule, actor: &Actor, scope: &Scope, wanted: &Wanted) -> bool {
        let Some((key, port)) = &wanted.front else { return false };
        let Some(service) = self.services.get(key).filter(|_| self.profile(&key.0).state.is_some()) else {
            return false;
        };
        if rule.services == RuleServices::OwnPorts || !self.is_open(key, service, port) {
            return false;
        }
        let behind: Vec<Known> = self
            .back_ends(key, service)
            .iter()
            .map(|end| self.known_at(end.address))
            .filter(|known| known.labels.is_some())
            .collect();
        let meant = |known: &Known| self.means(actor, Some(scope), known);
        let somebody = match rule.action {
            Action::Allow => behind.iter().any(meant),
            Action::Deny | Action::OverrideDeny => !behind.is_empty() && behind.iter().all(meant),
        };
        somebody && self.all_or_any(rule, &self.targets(key, service, port), port.protocol)
    }

    fn all_or_any(&self, rule: &Rule, targets: &BTreeSet<u16>, protocol: Protocol) -> bool {
        let covered = |target: &u16| self.covers(&rule.services, Ask::port(protocol, *target));
        match rule.action {
            Action::Allow => targets.iter().any(covered),
            Action::Deny | Action::OverrideDeny => !targets.is_empty() && targets.iter().all(covered),
        }
    }

    /// Whether a rule of a RuleSet hits at the Pod that listens.
    pub fn hits_in(&self, set: &RuleSet, rule: &Rule, source: &Known, pod: &Key, ask: Ask) -> bool {
        let here =
            Known { holder: Holder::Pod(pod.clone()), labels: Some(self.pod_labels(pod)), addresses: Vec::new() };
        set.enabled
            && rule.enabled
            && scopes(set).any(|scope| {
                let consumers_scope = (!rule.extra_scope).then_some(scope);
                let consumer = rule.consumers.iter().any(|actor| match actor {
                    Actor::IpList(name) => self.listed(name, &source.addresses),
                    actor => self.means(actor, consumers_scope, source),
                });
                consumer
                    && rule.providers.iter().any(|actor| match actor {
                        Actor::VirtualService(key) => self.virtual_service(key, scope).is_some_and(|service| {
                            self.is_behind(key, service, pod)
                                && self.leads_to(key, service, pod, ask)
                                && self.covers(&rule.services, ask)
                        }),
                        actor => self.means(actor, Some(scope), &here) && self.written_cover(&rule.services, ask),
                    })
            })
    }

    /// Whoever is at an address, as rules know them.
    pub fn known_at(&self, address: IpAddr) -> Known {
        let holder = self.holder(address);
        let labels = self.labels_of(&holder);
        Known { holder, labels, addresses: vec![address] }
    }

    // --- Services --------------------------------------------------------------------------------------------------

    fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
        !service.selector.is_empty() && service.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// What is believed of a Service's slices: Pods of its own namespace and declared machines (CVE-2021-25740).
    pub fn back_ends(&self, key: &Key, service: &Service) -> Vec<BackEnd> {
        let mut ends = Vec::new();
        for slice in service.slices.values() {
            for (addresses, target) in &slice.endpoints {
                for address in addresses {
                    let Ok(pod) = self.believe(key, *address, target.as_ref()) else { continue };
                    ends.extend(slice.ports.iter().map(|(name, protocol, port)| BackEnd {
                        address: *address,
                        protocol: *protocol,
                        port: *port,
                        name: name.clone(),
                        pod: pod.clone(),
                    }));
                }
            }
        }
        ends
    }

    /// The Pod that an address of a slice is, if it is one; else whether it certainly is none of the Service's.
    fn believe(&self, key: &Key, address: IpAddr, target: Option<&Key>) -> Result<Option<Key>, bool> {
        let target = target.filter(|target| target.0 == key.0);
        match self.holder(address) {
            Holder::Machine(_) => Ok(None),
            Holder::Pod(own) if own.0 == key.0 => {
                if target.is_none_or(|target| *target == own) {
                    Ok(Some(own))
                } else {
                    Err(false)
                }
            }
            // A host-network Pod has the address of its node.
            Holder::Node(name) if self.node_is_workload(&name) => {
                let on_node = target.filter(|target| {
                    self.pods
                        .get(*target)
                        .is_some_and(|pod| pod.host_network && !pod.ended && pod.addresses.contains(&address))
                });
                on_node.map(|pod| Some(pod.clone())).ok_or(true)
            }
            Holder::Disputed => Err(target.is_none()),
            // The Pod's own news may be on their way still.
            Holder::Nobody => {
                let coming = |target: &Key| self.pods.get(target).is_none_or(|pod| pod.addresses.is_empty());
                Err(!target.is_some_and(coming))
            }
            _ => Err(true),
        }
    }

    /// The Services and their ports that an address and port stand for, before a node translates: ClusterIPs, addresses of
    /// load balancers, externalIPs within the ranges that the cluster allows, and nodePorts on the addresses of nodes.
    pub fn fronts_at(&self, address: IpAddr, ask: Ask) -> Vec<(Key, ServicePort)> {
        let on_node = self.nodes.keys().any(|name| self.addresses_of_node(name).contains(&address));
        let mut fronts = Vec::new();
        for (key, service) in &self.services {
            let allowed = || within(address, &self.settings.external_ranges);
            let at = service.cluster_ips.contains(&address)
                || service.ingress_ips.contains(&address)
                || (service.external_ips.contains(&address) && allowed());
            let stands = |port: &&ServicePort| {
                port.protocol == ask.protocol
                    && ((at && port.port == ask.port) || (on_node && port.node_port == Some(ask.port)))
            };
            fronts.extend(service.ports.iter().filter(stands).map(|port| (key.clone(), port.clone())));
        }
        fronts
    }

    /// Whether a port of a Service leads to nobody who is none of the Service's.
    fn is_open(&self, key: &Key, service: &Service, port: &ServicePort) -> bool {
        !service.slices.values().any(|slice| {
            let leads_here =
                slice.ports.iter().any(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
            let foreign = |address: &IpAddr, target: Option<&Key>| self.believe(key, *address, target) == Err(true);
            leads_here
                && slice
                    .endpoints
                    .iter()
                    .any(|(addresses, target)| addresses.iter().any(|address| foreign(address, target.as_ref())))
        })
    }

    /// Ports on the Pods that a port of a Service leads to.
    fn targets(&self, key: &Key, service: &Service, port: &ServicePort) -> BTreeSet<u16> {
        let ends = self.back_ends(key, service);
        let ends = ends.iter().filter(|end| end.protocol == port.protocol && end.name == port.name);
        let mut targets: BTreeSet<u16> = ends.map(|end| end.port).collect();
        if let TargetPort::Number(number) = port.target
            && !service.selector.is_empty()
        {
            targets.insert(number);
        }
        targets
    }

    /// Whether a Pod is behind a Service of its namespace: by selector, or because a slice says so.
    fn is_behind(&self, key: &Key, service: &Service, pod: &Key) -> bool {
        let selected = self.pods.get(pod).is_some_and(|pod| Self::selects(service, &pod.labels));
        let targeted = self.back_ends(key, service).iter().any(|end| end.pod.as_ref() == Some(pod));
        pod.0 == key.0 && (selected || targeted)
    }

    /// Whether a port of a Pod is one that the Service leads to.
    fn leads_to(&self, key: &Key, service: &Service, pod: &Key, Ask { protocol, port, .. }: Ask) -> bool {
        if service.selector.is_empty() {
            return self.back_ends(key, service).iter().any(|end| end.protocol == protocol && end.port == port);
        }
        let named = |name: &String| {
            let ports = self.pods.get(pod).map(|pod| pod.ports.as_slice()).unwrap_or_default();
            ports.iter().any(|(own, own_protocol, number)| own == name && *own_protocol == protocol && *number == port)
        };
        service.ports.iter().filter(|own| own.protocol == protocol).any(|own| match &own.target {
            TargetPort::Number(number) => *number == port,
            TargetPort::Name(name) => named(name),
        })
    }

    /// Every address and port behind a port of a Service, also those that are not believed: the node's proxy leads there
    /// all the same.
    pub fn led_to(&self, service: &Service, port: &ServicePort) -> BTreeSet<(IpAddr, u16)> {
        let mut ends = BTreeSet::new();
        for slice in service.slices.values() {
            for (_, _, number) in
                slice.ports.iter().filter(|(name, protocol, _)| *name == port.name && *protocol == port.protocol)
            {
                for address in slice.endpoints.iter().flat_map(|(addresses, _)| addresses) {
                    ends.insert((*address, *number));
                }
            }
        }
        ends
    }
}
