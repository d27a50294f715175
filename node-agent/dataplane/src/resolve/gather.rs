//! Merging rules into entries: of one direction, action and kind of refusal, each service is in one entry only, with the
//! union of the peers. So what a packet costs depends on how many such pairs there are, and neither on how many rules nor
//! on how many peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use ringfence_crds::address_group::{FrontEnd, ServiceEnds};
use ringfence_crds::workload_policy::{CompiledRule, Peer};
use ringfence_model::{Action, Direction, PortMatch, Protocol, Services};

use super::Missing;
use super::classes::{self, Classes};
use super::subject::{contains, covers_target, widest_services, written_services};
use crate::names::Names;
use crate::policy::{End, Enforcement, Entry, HostSet, Match, NetnsPolicy, Nets, Origin};

/// Where rules of one kind meet. The order of the fields is the order of entries in a step; `drops` comes before
/// services so that a rule that asks to reject is met before one that drops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    direction: Direction,
    action: Action,
    drops: bool,
}

/// A service: one port entry, or all of them.
type Service = Option<PortMatch>;

/// Who is hit on a service, and by which rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hosts {
    /// The first rule by name.
    rule: String,
    origins: BTreeSet<Arc<Origin>>,
}

#[derive(Debug)]
struct Ends {
    /// The first rule by name.
    rule: String,
    ends: BTreeSet<End>,
}

/// Collects rules that apply to one Pod.
pub struct Gatherer<'c, 'a> {
    classes: &'c mut Classes<'a>,
    hosts: BTreeMap<(Key, Service), Hosts>,
    /// The members that come from each origin.
    members: BTreeMap<Arc<Origin>, Arc<Nets>>,
    /// Services on which workloads are blocked, and the first rule by name; nothing where that is not looked for.
    blocked: Option<BTreeMap<Key, (String, BTreeSet<Service>)>>,
    ends: BTreeMap<Key, Ends>,
}

/// A rule on its way into the groups.
struct Placed<'r> {
    rule: &'r CompiledRule,
    name: &'r str,
    key: Key,
}

impl<'r> Placed<'r> {
    fn new(rule: &'r CompiledRule, name: &'r str) -> Self {
        let rejects = rule.reject && rule.action != Action::Allow;
        let key = Key { direction: rule.direction, action: rule.action, drops: !rejects };
        Self { rule, name, key }
    }
}

impl<'c, 'a> Gatherer<'c, 'a> {
    pub fn new(classes: &'c mut Classes<'a>) -> Self {
        let blocked = Some(BTreeMap::new());
        Self { classes, hosts: BTreeMap::new(), members: BTreeMap::new(), blocked, ends: BTreeMap::new() }
    }

    /// Collects rules that apply to a node. Its neighbours on a link are routers too, whose protocols (OSPF, BGP, VRRP) speak by addresses
    /// for that link alone: who blocks workloads does not block these.
    pub fn of_node(classes: &'c mut Classes<'a>) -> Self {
        Self { blocked: None, ..Self::new(classes) }
    }

    /// What it reads groups from.
    pub fn classes(&mut self) -> &mut Classes<'a> {
        self.classes
    }

    /// A rule at a provider: peers are sources, so that front ends do not matter, and a virtual service, which does not
    /// connect, is nobody.
    pub fn inbound(&mut self, rule: &CompiledRule, name: &str, services: &Services, missing: &mut BTreeSet<Missing>) {
        let placed = Placed::new(rule, name);
        for peer in &rule.peers {
            if let Some(group) = &peer.peer_group {
                if let Some((_, nets)) = self.classes.peer_group(group, missing) {
                    self.add_group(&placed, services, group, nets);
                }
            } else {
                self.add_prefixes(&placed, services, peer);
            }
        }
    }

    /// A rule at a consumer: peers are destinations, reached directly or through a Service.
    pub fn outbound(&mut self, rule: &CompiledRule, name: &str, missing: &mut BTreeSet<Missing>) {
        let placed = Placed::new(rule, name);
        let services = written_services(rule);
        for peer in &rule.peers {
            if let Some(group) = &peer.peer_group {
                self.outbound_group(&placed, &services, group, missing);
            } else if let Some(class) = &peer.virtual_service {
                if let Some(ends) = self.classes.service(class, missing) {
                    self.outbound_service(&placed, &services, ends);
                }
            } else {
                self.add_prefixes(&placed, &services, peer);
                self.add_names(&placed, &services, peer);
            }
        }
    }

    /// A rule that blocks, as long as it is not known whom or on which ports: anyone, on every port that it may mean. It
    /// drops, so that whoever is blocked in error tries again instead of failing.
    pub fn anyone(&mut self, rule: &CompiledRule, name: &str) {
        let services = match rule.direction {
            Direction::Inbound => widest_services(rule),
            // The Services before an unknown provider have ports of their own.
            Direction::Outbound => Services::All,
        };
        let key = Key { direction: rule.direction, action: rule.action, drops: true };
        let everywhere = Arc::new(Nets::everything());
        self.add_hosts(&Placed { rule, name, key }, &services, Origin::Prefixes(everywhere.clone()), everywhere);
    }

    /// Providers by label: their addresses, and the front ends of the Services before them.
    fn outbound_group(
        &mut self,
        placed: &Placed<'_>,
        services: &Services,
        group: &str,
        missing: &mut BTreeSet<Missing>,
    ) {
        let Some((spec, nets)) = self.classes.peer_group(group, missing) else { return };
        self.add_group(placed, services, group, nets);
        for class in &spec.services {
            let Some(service) = self.classes.service(class, missing) else { continue };
            // A Deny hits a front end only if whatever is behind it is denied; a mixed Service is judged at the
            // provider.
            let wholly = !service.back_end_classes.is_empty()
                && service.back_end_classes.iter().all(|class| spec.classes.contains(class));
            if placed.rule.action != Action::Allow && !wholly {
                continue;
            }
            let hit = |target: &PortMatch| contains(services, target);
            self.add_ends(placed, front_ends(service, placed.rule.action, hit));
        }
    }

    /// A Service as the provider: exactly its front ends and back ends.
    fn outbound_service(&mut self, placed: &Placed<'_>, services: &Services, service: &ServiceEnds) {
        let hit = |target: &PortMatch| covers_target(placed.rule, services, target);
        let here = service.back_ends.iter().filter(|end| self.classes.is_here(&end.network));
        let back = here
            .filter_map(|end| classes::end(&end.address, &end.protocol, end.port))
            .filter(|end| PortMatch::single(end.protocol, end.port).is_some_and(|target| hit(&target)));
        let ends: Vec<End> = back.chain(front_ends(service, placed.rule.action, hit)).collect();
        self.add_ends(placed, ends);
    }

    /// Workloads: whoever may be one of them without anybody knowing is hit by what blocks them, and not by what allows them.
    fn add_group(&mut self, placed: &Placed<'_>, services: &Services, group: &str, nets: Arc<Nets>) {
        self.add_hosts(placed, services, Origin::PeerGroup(group.to_owned()), nets);
        let Some(blocked) = self.blocked.as_mut().filter(|_| placed.rule.action != Action::Allow) else { return };
        let new = || (placed.name.to_owned(), BTreeSet::new());
        let (rule, on) = blocked.entry(placed.key.clone()).or_insert_with(new);
        first_of(rule, placed.name);
        on.extend(each(services));
    }

    fn add_prefixes(&mut self, placed: &Placed<'_>, services: &Services, peer: &Peer) {
        let Some(texts) = &peer.addresses else { return };
        let nets = Arc::new(classes::prefixes(texts));
        // What does not change with membership needs no entry while it is empty.
        if !nets.is_empty() {
            self.add_hosts(placed, services, Origin::Prefixes(nets.clone()), nets);
        }
    }

    /// Nobody is a member before the Pod has learned of it, and who blocks by a name would block nobody.
    fn add_names(&mut self, placed: &Placed<'_>, services: &Services, peer: &Peer) {
        let names = peer.names.as_ref().filter(|_| placed.rule.action == Action::Allow).map(Names::from);
        if let Some(names) = names.filter(|names| !names.patterns.is_empty()) {
            self.add_hosts(placed, services, Origin::Names(Arc::new(names)), Arc::default());
        }
    }

    fn add_hosts(&mut self, placed: &Placed<'_>, services: &Services, origin: Origin, nets: Arc<Nets>) {
        let origin = Arc::new(origin);
        for service in each(services) {
            let new = || Hosts { rule: placed.name.to_owned(), origins: BTreeSet::new() };
            let hosts = self.hosts.entry((placed.key.clone(), service)).or_insert_with(new);
            first_of(&mut hosts.rule, placed.name);
            hosts.origins.insert(Arc::clone(&origin));
        }
        // What has the same origin is the same.
        self.members.entry(origin).or_insert(nets);
    }

    fn add_ends(&mut self, placed: &Placed<'_>, ends: impl IntoIterator<Item = End>) {
        let new = || Ends { rule: placed.name.to_owned(), ends: BTreeSet::new() };
        let group = self.ends.entry(placed.key.clone()).or_insert_with(new);
        first_of(&mut group.rule, placed.name);
        group.ends.extend(ends);
    }

    /// The entries; the state is set by the caller.
    pub fn finish(self) -> NetnsPolicy {
        let mut policy = NetnsPolicy::new(Enforcement::Full);
        let mut entries: BTreeMap<(Key, Option<Services>), Entry> = BTreeMap::new();
        for (key, group) in self.ends {
            let entry = entry(&key, Match::Ends(Arc::new(group.ends)), group.rule);
            entries.insert((key, None), entry);
        }
        for (key, services, hosts) in together(self.hosts) {
            let peers = peers(&hosts.origins, &self.members, self.classes);
            let entry = entry(&key, Match::Hosts { peers, services: services.clone() }, hosts.rule);
            entries.insert((key, Some(services)), entry);
        }
        // One for each kind of rule: it costs no group a set of its own.
        let by_link = self.blocked.into_iter().flatten().map(|(key, (rule, on))| {
            let services =
                if on.contains(&None) { Services::All } else { Services::Only(on.into_iter().flatten().collect()) };
            let entry = entry(&key, Match::Hosts { peers: link_local(), services }, rule);
            (key, entry)
        });
        for (key, entry) in entries.into_iter().map(|((key, _), entry)| (key, entry)).chain(by_link) {
            let side = match key.direction {
                Direction::Inbound => &mut policy.inbound,
                Direction::Outbound => &mut policy.outbound,
            };
            side.of(key.action).push(entry);
        }
        policy
    }
}

/// What an interface has beside the addresses that anybody reports: one that means something on its link alone (RFC 4291, section
/// 2.5.6), where whoever else is there may be met by it. It does not say who that is.
fn link_local() -> HostSet {
    // A prefix of IPv6 is at most 128 long.
    let net = Ipv6Net::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    let nets: Arc<Nets> = Arc::new(net.into_iter().map(IpNet::V6).collect());
    HostSet { origins: BTreeSet::from([Origin::Prefixes(Arc::clone(&nets))]), nets }
}

/// Each service by itself.
fn each(services: &Services) -> Vec<Service> {
    match services {
        Services::All => vec![None],
        Services::Only(list) => list.iter().cloned().map(Some).collect(),
    }
}

/// Services on which the same rule hits the same peers are written as one entry, so that their peers are held once.
fn together(hosts: BTreeMap<(Key, Service), Hosts>) -> impl Iterator<Item = (Key, Services, Hosts)> {
    let mut groups: BTreeMap<(Key, bool, Hosts), BTreeSet<PortMatch>> = BTreeMap::new();
    for ((key, service), hosts) in hosts {
        groups.entry((key, service.is_none(), hosts)).or_default().extend(service);
    }
    groups.into_iter().map(|((key, all, hosts), ports)| {
        let services = if all { Services::All } else { Services::Only(ports) };
        (key, services, hosts)
    })
}

/// All members of these origins.
fn peers(
    origins: &BTreeSet<Arc<Origin>>,
    members: &BTreeMap<Arc<Origin>, Arc<Nets>>,
    classes: &mut Classes<'_>,
) -> HostSet {
    let found = origins.iter().filter_map(|origin| Some((origin, members.get(origin)?)));
    classes.union(found.map(|(origin, nets)| (Origin::clone(origin), Arc::clone(nets))).collect())
}

fn entry(key: &Key, matching: Match, rule: String) -> Entry {
    Entry { matching, reject: !key.drops, rule }
}

fn first_of(first: &mut String, other: &str) {
    if other < first.as_str() {
        other.clone_into(first);
    }
}

/// The front ends of a Service that a rule hits. An Allow opens one that leads to any port it covers; a Deny closes
/// one only if it covers every port it leads to.
fn front_ends(service: &ServiceEnds, action: Action, covers: impl Fn(&PortMatch) -> bool) -> Vec<End> {
    let hit = |front: &&FrontEnd| {
        let Ok(protocol) = front.protocol.parse::<Protocol>() else { return false };
        let covered = |port: &i32| {
            let port = u16::try_from(*port).ok();
            port.and_then(|port| PortMatch::single(protocol, port)).is_some_and(|target| covers(&target))
        };
        match action {
            Action::Allow => front.target_ports.iter().any(covered),
            Action::Deny | Action::OverrideDeny => {
                !front.target_ports.is_empty() && front.target_ports.iter().all(covered)
            }
        }
    };
    let hits = service.front_ends.iter().filter(hit);
    hits.filter_map(|front| classes::end(&front.address, &front.protocol, front.port)).collect()
}
