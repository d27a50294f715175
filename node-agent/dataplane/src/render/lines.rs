//! Entries as iptables matches. Each entry has its set before a rule is written, so that the rules for a packet and
//! for the same packet seen backwards name the same sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use ringfence_model::{Direction, PortMatch, Ports, Protocol, Services};

use crate::policy::{End, Entry, HostSet, Match, NetnsPolicy, Origin, Peers, Side};
use crate::sets::{self, SetDef, SetKind};

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

/// All entries of a policy, with the sets they use.
pub struct Lines {
    inbound: SideLines,
    outbound: SideLines,
    sets: Vec<SetDef>,
}

/// The entries of one direction.
pub struct SideLines {
    pub essential: Vec<Line>,
    pub override_deny: Vec<Line>,
    pub allow: Vec<Line>,
    pub deny: Vec<Line>,
}

/// An entry with the set it uses.
pub struct Line {
    pub reject: bool,
    matching: LineMatch,
    comment: String,
}

enum LineMatch {
    Anyone(Services),
    Hosts { set: String, services: Services },
    Ends { set: String },
    Own(BTreeSet<Ipv4Addr>),
}

impl Lines {
    pub fn new(policy: &NetnsPolicy, generation: u32) -> Self {
        let mut slots = Slots { generation, shared: BTreeMap::new(), sets: Vec::new() };
        let inbound = side_lines(&policy.inbound, &policy.own, &mut slots);
        let outbound = side_lines(&policy.outbound, &policy.own, &mut slots);
        Self { inbound, outbound, sets: slots.sets }
    }

    pub fn side(&self, direction: Direction) -> &SideLines {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    pub fn into_sets(self) -> Vec<SetDef> {
        self.sets
    }
}

fn side_lines(side: &Side, own: &BTreeSet<Ipv4Addr>, slots: &mut Slots) -> SideLines {
    let mut lines = |entries: &[Entry]| entries.iter().map(|entry| line(entry, own, slots)).collect();
    SideLines {
        essential: lines(&side.essential),
        override_deny: lines(&side.override_deny),
        allow: lines(&side.allow),
        deny: lines(&side.deny),
    }
}

fn line(entry: &Entry, own: &BTreeSet<Ipv4Addr>, slots: &mut Slots) -> Line {
    let matching = match &entry.matching {
        Match::Hosts { peers: Peers::Anyone, services } => LineMatch::Anyone(services.clone()),
        Match::Hosts { peers: Peers::Listed(hosts), services } => {
            LineMatch::Hosts { set: slots.hosts(hosts), services: services.clone() }
        }
        Match::Ends(ends) => LineMatch::Ends { set: slots.ends(ends) },
        Match::OwnOrigin => LineMatch::Own(own.clone()),
    };
    Line { reject: entry.reject, matching, comment: comment(&entry.rule) }
}

/// Gives out the names of sets, in the order of entries.
struct Slots {
    generation: u32,
    /// Sets of equal origin are one. (Equal origins have equal members; the members are part of the key all the same,
    /// so that a policy made by hand cannot lend one entry the peers of another.)
    shared: BTreeMap<(BTreeSet<Origin>, Arc<BTreeSet<Ipv4Net>>), String>,
    sets: Vec<SetDef>,
}

impl Slots {
    fn hosts(&mut self, hosts: &HostSet) -> String {
        let key = (hosts.origins.clone(), hosts.nets.clone());
        if let Some(name) = self.shared.get(&key) {
            return name.clone();
        }
        let members = hosts.nets.iter().flat_map(net_members).collect();
        let name = self.add(SetKind::HashNet, members);
        self.shared.insert(key, name.clone());
        name
    }

    fn ends(&mut self, ends: &BTreeSet<End>) -> String {
        self.add(SetKind::HashIpPort, ends.iter().filter_map(end_member).collect())
    }

    fn add(&mut self, kind: SetKind, members: BTreeSet<String>) -> String {
        let name = format!("{}{}-{}", sets::PREFIX_V4, self.generation, self.sets.len());
        self.sets.push(SetDef { name: name.clone(), kind, members });
        name
    }
}

/// A prefix as `ipset save` writes it. A set cannot hold /0: that is written as its halves.
fn net_members(net: &Ipv4Net) -> Vec<String> {
    match net.prefix_len() {
        0 => vec!["0.0.0.0/1".to_owned(), "128.0.0.0/1".to_owned()],
        32 => vec![net.addr().to_string()],
        _ => vec![net.to_string()],
    }
}

fn end_member(end: &End) -> Option<String> {
    let protocol = match end.protocol {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        Protocol::SCTP => "sctp",
        _ => return None,
    };
    Some(format!("{},{protocol}:{}", end.address, end.port))
}

impl Line {
    /// One text per rule that the entry takes. `tcp_only`: in a chain that only TCP comes to.
    pub fn matches(&self, seen: Seen, tcp_only: bool) -> Vec<String> {
        let Seen { peer, port, .. } = seen;
        let comment = format!("-m comment --comment \"{}\"", self.comment);
        match &self.matching {
            LineMatch::Anyone(services) => service_matches(services, port, tcp_only)
                .into_iter()
                .map(|service| format!("{service}{comment}"))
                .collect(),
            LineMatch::Hosts { set, services } => service_matches(services, port, tcp_only)
                .into_iter()
                .map(|service| format!("{service}-m set --match-set {set} {peer} {comment}"))
                .collect(),
            LineMatch::Ends { set } => {
                vec![format!("-m set --match-set {set} {peer},{peer} {comment}")]
            }
            LineMatch::Own(own) if seen.forward => {
                own.iter().map(|address| format!("-m conntrack --ctorigsrc {address} {comment}")).collect()
            }
            LineMatch::Own(_) => Vec::new(),
        }
    }
}

/// The matches on protocol and port, each with a blank behind it; one empty text for all services.
fn service_matches(services: &Services, port: &str, tcp_only: bool) -> Vec<String> {
    match services {
        Services::All => vec![String::new()],
        Services::Only(list) => list
            .iter()
            .filter(|entry| !tcp_only || entry.protocol == Protocol::TCP)
            .filter_map(|entry| port_match(entry, port))
            .collect(),
    }
}

/// A port entry. What iptables would take for "any" (protocol 0, ICMP type 255) is no match at all.
fn port_match(entry: &PortMatch, port: &str) -> Option<String> {
    let name = match entry.protocol {
        Protocol::TCP => "tcp".to_owned(),
        Protocol::UDP => "udp".to_owned(),
        Protocol::SCTP => "sctp".to_owned(),
        Protocol::ICMP => "icmp".to_owned(),
        Protocol(0) => return None,
        Protocol(number) => number.to_string(),
    };
    Some(match entry.ports {
        Ports::All => format!("-p {name} "),
        Ports::Range(start, end) if start == end => format!("-p {name} -m {name} {port} {start} "),
        Ports::Range(start, end) => format!("-p {name} -m {name} {port} {start}:{end} "),
        Ports::Icmp(u8::MAX, _) => return None,
        Ports::Icmp(kind, None) => format!("-p icmp -m icmp --icmp-type {kind} "),
        Ports::Icmp(kind, Some(code)) => format!("-p icmp -m icmp --icmp-type {kind}/{code} "),
    })
}

/// A rule's name as it can stand in a comment.
fn comment(rule: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "/._:-".contains(c) { c } else { '_' };
    let text: String = rule.chars().map(plain).take(COMMENT).collect();
    format!("rf:{text}")
}
