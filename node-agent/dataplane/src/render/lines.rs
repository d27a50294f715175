//! Entries as iptables matches. Each entry has its set before a rule is written, so that the rules for a packet and
//! for the same packet seen backwards name the same sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::{Direction, PortMatch, Ports, Protocol, Services};

use crate::chains::Place;
use crate::family::Family;
use crate::gate::{SEAL, names as gate_names};
use crate::policy::{End, Entry, HostSet, Match, NetnsPolicy, Nets, Origin, Side};
use crate::sets::{self, SetDef};

/// Longest comment: rules are looked at by people, and a kernel rule holds at most 255 characters.
const COMMENT: usize = 80;

/// How a packet is seen by the rules of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whose rules judge it.
    pub rules_of: Direction,
    /// Where the peer's address is: `src` or `dst`.
    peer: &'static str,
    /// Which option matches the provider's port.
    port: &'static str,
    /// Whether the packet goes from consumer to provider.
    forward: bool,
}

impl Seen {
    /// As the first packet of a connection.
    pub fn first(direction: Direction) -> Self {
        let peer = peer_of(direction);
        Self { rules_of: direction, peer, port: "--dport", forward: true }
    }

    /// As a reply of a connection that began the other way round.
    pub fn backwards(direction: Direction) -> Self {
        let rules_of = match direction {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        };
        Self { rules_of, peer: peer_of(direction), port: "--sport", forward: false }
    }
}

fn peer_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "src",
        Direction::Outbound => "dst",
    }
}

/// All entries of a policy that a family can meet, with the sets they use.
#[derive(Debug)]
pub struct Lines {
    inbound: SideLines,
    outbound: SideLines,
    /// The set with the resolvers whose answers are to be copied.
    resolvers: Option<String>,
    sets: Vec<SetDef>,
}

/// The entries of one direction.
#[derive(Debug, PartialEq, Eq)]
pub struct SideLines {
    pub essential: Vec<Line>,
    pub override_deny: Vec<Line>,
    pub allow: Vec<Line>,
    pub deny: Vec<Line>,
}

/// An entry with the set it uses.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub reject: bool,
    matching: LineMatch,
    comment: String,
}

#[derive(Debug, PartialEq, Eq)]
enum LineMatch {
    Anyone { services: Vec<Service> },
    Hosts { set: String, services: Vec<Service> },
    Ends { set: String },
    ThisNode { services: Vec<Service> },
    Own(BTreeSet<IpAddr>),
    Sealed { set: String, services: Vec<Service> },
    Unsealed { set: String, at_the_gate: bool },
}

impl Lines {
    pub fn new(policy: &NetnsPolicy, family: Family, generation: u32) -> Self {
        let mut slots = Slots::new(policy.place, family, Naming::Numbered { generation });
        let own = policy.own.iter().copied().filter(|address| Family::of(*address) == family).collect();
        let counts = |entry: &Entry| policy.allows_over(family, entry);
        let inbound = side_lines(&policy.inbound, &own, counts, &mut slots);
        let outbound = side_lines(&policy.outbound, &own, counts, &mut slots);
        let resolvers = policy.names().next().and_then(|_| resolvers(&policy.outbound, &mut slots));
        Self { inbound, outbound, resolvers, sets: slots.sets }
    }

    pub fn side(&self, direction: Direction) -> &SideLines {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// Whether both come to the same rules: members do not count.
    pub fn same_rules(&self, other: &Self) -> bool {
        self.inbound == other.inbound && self.outbound == other.outbound && self.resolvers == other.resolvers
    }

    pub fn resolvers(&self) -> Option<&str> {
        self.resolvers.as_deref()
    }

    pub fn into_sets(self) -> Vec<SetDef> {
        self.sets
    }
}

/// The set of the resolvers that the Pod may ask, if the family has any.
fn resolvers(side: &Side, slots: &mut Slots) -> Option<String> {
    let peers = side.essential.iter().find_map(|entry| match &entry.matching {
        Match::Hosts { peers, .. } if peers.origins.contains(&Origin::Resolvers) => Some(peers),
        _ => None,
    })?;
    matches!(Members::of(&peers.nets, slots.family), Members::Some).then(|| slots.hosts(peers))
}

/// `counts`: which of what is allowed.
fn side_lines(side: &Side, own: &BTreeSet<IpAddr>, counts: impl Fn(&Entry) -> bool, slots: &mut Slots) -> SideLines {
    let mut lines = |entries: &[Entry], counts: &dyn Fn(&Entry) -> bool| {
        entries.iter().filter(|entry| counts(entry)).filter_map(|entry| line(entry, own, slots)).collect()
    };
    SideLines {
        essential: lines(&side.essential, &|_| true),
        override_deny: lines(&side.override_deny, &|_| true),
        allow: lines(&side.allow, &counts),
        deny: lines(&side.deny, &|_| true),
    }
}

fn line(entry: &Entry, own: &BTreeSet<IpAddr>, slots: &mut Slots) -> Option<Line> {
    let matching = match &entry.matching {
        Match::Hosts { peers, services } => hosts(peers, self::services(services, slots.family), slots)?,
        Match::Ends(ends) => LineMatch::Ends { set: slots.ends(ends) },
        Match::OwnOrigin => LineMatch::Own(own.clone()),
        Match::Sealed { nodes, services } => {
            let services = self::services(services, slots.family);
            if services.is_empty() {
                return None;
            }
            LineMatch::Sealed { set: slots.hosts(nodes), services }
        }
        Match::Unsealed { nodes } => {
            LineMatch::Unsealed { set: slots.hosts(nodes), at_the_gate: slots.naming == Naming::ByOrigin }
        }
    };
    Some(Line { reject: entry.reject, matching, comment: comment(&entry.rule) })
}

/// The entries of several sides, each as the rules towards a provider see them, in the gate of its node. The same sets
/// have the same names whatever else there is.
pub fn at_the_gate<'a>(sides: impl IntoIterator<Item = &'a Side>, family: Family) -> (Vec<SideLines>, Vec<SetDef>) {
    let mut slots = Slots::new(Place::Host, family, Naming::ByOrigin);
    // What reaches itself is known by both its addresses there.
    let own = BTreeSet::new();
    let lines = sides.into_iter().map(|side| side_lines(side, &own, |_| true, &mut slots)).collect();
    (lines, slots.sets)
}

/// Whether there is a line never depends on who is in a group now: nobody in it is an empty set.
fn hosts(peers: &HostSet, services: Vec<Service>, slots: &mut Slots) -> Option<LineMatch> {
    if services.is_empty() {
        return None;
    }
    if slots.naming == Naming::ByOrigin && peers.origins == BTreeSet::from([Origin::Node]) {
        return Some(LineMatch::ThisNode { services });
    }
    match Members::of(&peers.nets, slots.family) {
        Members::Everyone => Some(LineMatch::Anyone { services }),
        Members::Nobody if !peers.is_dynamic() => None,
        Members::Nobody | Members::Some => Some(LineMatch::Hosts { set: slots.hosts(peers), services }),
    }
}

/// Who of a family is among peers.
enum Members {
    Everyone,
    Some,
    Nobody,
}

impl Members {
    fn of(nets: &Nets, family: Family) -> Self {
        // Prefixes are sorted: the one that is everyone comes first.
        let shortest_first = match family {
            Family::V4 => nets.v4.first().map(|net| net.prefix_len()),
            Family::V6 => nets.v6.first().map(|net| net.prefix_len()),
        };
        match shortest_first {
            Some(0) => Self::Everyone,
            Some(_) => Self::Some,
            None => Self::Nobody,
        }
    }
}

/// How sets are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// In the order of entries, anew with each generation of the rules.
    Numbered { generation: u32 },
    /// After what their members come from.
    ByOrigin,
}

/// Gives out the names of sets.
struct Slots {
    place: Place,
    family: Family,
    naming: Naming,
    /// Sets of equal origin are one. (Equal origins have equal members; the members are compared all the same, so that
    /// a policy made by hand cannot lend one entry the peers of another.)
    shared: BTreeMap<BTreeSet<Origin>, Vec<(Arc<Nets>, String)>>,
    sets: Vec<SetDef>,
}

impl Slots {
    fn new(place: Place, family: Family, naming: Naming) -> Self {
        Self { place, family, naming, shared: BTreeMap::new(), sets: Vec::new() }
    }

    fn hosts(&mut self, hosts: &HostSet) -> String {
        let known = self.shared.get(&hosts.origins).map(Vec::as_slice).unwrap_or_default();
        if let Some((_, name)) = known.iter().find(|(nets, _)| *nets == hosts.nets) {
            return name.clone();
        }
        let name = match self.naming {
            Naming::Numbered { generation } => self.numbered(generation),
            Naming::ByOrigin => gate_names::of_origins(self.family, &hosts.origins, known.len()),
        };
        self.sets.push(SetDef {
            name: name.clone(),
            family: self.family,
            members: sets::Members::Nets(hosts.nets.clone()),
        });
        self.shared.entry(hosts.origins.clone()).or_default().push((hosts.nets.clone(), name.clone()));
        name
    }

    fn ends(&mut self, ends: &Arc<BTreeSet<End>>) -> String {
        // A gate has none: they are what a consumer sees.
        let generation = if let Naming::Numbered { generation } = self.naming { generation } else { 0 };
        let name = self.numbered(generation);
        let members = sets::Members::Ends(ends.clone());
        self.sets.push(SetDef { name: name.clone(), family: self.family, members });
        name
    }

    fn numbered(&self, generation: u32) -> String {
        format!("{}{generation}-{}", sets::prefix(self.place, self.family), self.sets.len())
    }
}

impl Line {
    /// One text per rule that the entry takes. `tcp_only`: in a chain that only TCP comes to.
    pub fn matches(&self, seen: Seen, tcp_only: bool) -> Vec<String> {
        let Seen { peer, .. } = seen;
        let wanted = |services: &[Service]| -> Vec<String> {
            services.iter().filter(|service| service.tcp || !tcp_only).map(|service| service.seen(seen)).collect()
        };
        let comment = format!("-m comment --comment \"{}\"", self.comment);
        match &self.matching {
            LineMatch::Anyone { services } => {
                wanted(services).into_iter().map(|service| format!("{service}{comment}")).collect()
            }
            LineMatch::Hosts { set, services } => wanted(services)
                .into_iter()
                .map(|service| format!("{service}-m set --match-set {set} {peer} {comment}"))
                .collect(),
            LineMatch::ThisNode { services } => wanted(services)
                .into_iter()
                .map(|service| format!("{service}-m addrtype --src-type LOCAL {comment}"))
                .collect(),
            LineMatch::Ends { set } => {
                vec![format!("-m set --match-set {set} {peer},{peer} {comment}")]
            }
            LineMatch::Own(own) if seen.forward => {
                own.iter().map(|address| format!("-m conntrack --ctorigsrc {address} {comment}")).collect()
            }
            LineMatch::Own(_) => Vec::new(),
            // Of a connection that is older than the rules no packet need be sealed, and one without a SYN opens nothing.
            LineMatch::Sealed { set, services } => {
                let seal = if tcp_only { String::new() } else { format!("-m dscp --dscp {SEAL} ") };
                let services = wanted(services).into_iter();
                services.map(|service| format!("{service}{seal}-m set --match-set {set} {peer} {comment}")).collect()
            }
            LineMatch::Unsealed { .. } if tcp_only => Vec::new(),
            // What this node itself translates it judges by the rules, as it has come.
            LineMatch::Unsealed { set, at_the_gate } => {
                let as_it_came = if *at_the_gate { "-m conntrack ! --ctstate DNAT " } else { "" };
                vec![format!("{as_it_came}-m set --match-set {set} {peer} {comment}")]
            }
        }
    }
}

/// The match on protocol and port of one service, for every way that a packet is seen.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    /// Whether a TCP packet can be of it.
    tcp: bool,
    /// What comes before the ports, with a blank behind it; empty for all services.
    protocol: String,
    /// The provider's ports, where they matter.
    ports: PortsText,
}

/// Ports as iptables has them.
#[derive(Debug, PartialEq, Eq)]
enum PortsText {
    None,
    /// A port, or a range.
    One(String),
    /// Several of these.
    Several(String),
}

/// So many ports fit into one match of `xt_multiport`, of which a range takes two (linux/netfilter/xt_multiport.h).
const MULTIPORT: usize = 15;

impl Service {
    fn seen(&self, seen: Seen) -> String {
        let Self { protocol, ports, .. } = self;
        match ports {
            PortsText::One(ports) => format!("{protocol}{} {ports} ", seen.port),
            PortsText::Several(ports) => format!("{protocol}{}s {ports} ", seen.port),
            PortsText::None => protocol.clone(),
        }
    }
}

/// The services that a family can meet.
fn services(services: &Services, family: Family) -> Vec<Service> {
    match services {
        Services::All => vec![Service { tcp: true, protocol: String::new(), ports: PortsText::None }],
        Services::Only(list) => {
            let mut services = Vec::new();
            // Entries are sorted: those of one protocol come together.
            let mut rest: Vec<&PortMatch> = list.iter().collect();
            while let Some(first) = rest.first() {
                let together = rest.iter().take_while(|entry| entry.protocol == first.protocol && slots(entry) > 0);
                let fit = together.scan(0, |taken, entry| {
                    *taken += slots(entry);
                    (*taken <= MULTIPORT).then_some(())
                });
                let (now, later) = rest.split_at(fit.count().max(1));
                services.extend(match now {
                    [one] => service(one, family),
                    several => self::several(several),
                });
                rest = later.to_vec();
            }
            services
        }
    }
}

/// What an entry takes of a match of several ports; nothing where it names none.
fn slots(entry: &PortMatch) -> usize {
    match entry.ports {
        Ports::Range(start, end) if start == end => 1,
        Ports::Range(..) => 2,
        Ports::All | Ports::Icmp(..) => 0,
    }
}

/// Ports of one protocol in one match.
fn several(entries: &[&PortMatch]) -> Option<Service> {
    let protocol = entries.first()?.protocol;
    let ports: Vec<String> = entries.iter().filter_map(|entry| range(&entry.ports)).collect();
    let (protocol_text, ports) =
        (format!("-p {} -m multiport ", named(protocol)?), PortsText::Several(ports.join(",")));
    Some(Service { tcp: protocol == Protocol::TCP, protocol: protocol_text, ports })
}

fn range(ports: &Ports) -> Option<String> {
    match ports {
        Ports::Range(start, end) if start == end => Some(start.to_string()),
        Ports::Range(start, end) => Some(format!("{start}:{end}")),
        Ports::All | Ports::Icmp(..) => None,
    }
}

/// A protocol with ports.
fn named(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::TCP => Some("tcp"),
        Protocol::UDP => Some("udp"),
        Protocol::SCTP => Some("sctp"),
        _ => None,
    }
}

/// A port entry. What iptables would take for "any" (protocol 0, ICMP type 255) is no match at all, and each family has
/// an ICMP of its own.
fn service(entry: &PortMatch, family: Family) -> Option<Service> {
    let icmp = family.icmp_words();
    let name = match entry.protocol {
        protocol if let Some(name) = named(protocol) => name.to_owned(),
        Protocol(0) => return None,
        protocol if protocol == family.icmp() => icmp.protocol.to_owned(),
        Protocol::ICMP | Protocol::ICMPV6 => return None,
        Protocol(number) => number.to_string(),
    };
    let (protocol, ports) = match entry.ports {
        Ports::All => (format!("-p {name} "), PortsText::None),
        Ports::Range(..) => {
            (format!("-p {name} -m {name} "), range(&entry.ports).map_or(PortsText::None, PortsText::One))
        }
        Ports::Icmp(u8::MAX, _) => return None,
        Ports::Icmp(kind, code) => {
            let code = code.map(|code| format!("/{code}")).unwrap_or_default();
            (format!("-p {name} -m {} {} {kind}{code} ", icmp.module, icmp.option), PortsText::None)
        }
    };
    Some(Service { tcp: entry.protocol == Protocol::TCP, protocol, ports })
}

/// A rule's name as it can stand in a comment.
fn comment(rule: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "/._:-".contains(c) { c } else { '_' };
    let text: String = rule.chars().map(plain).take(COMMENT).collect();
    format!("rf:{text}")
}
