//! From a row of the table to what is tried.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::doors::Door;
use super::objects::{CLOSED_PORT, HOST_NETWORK_PORTS, NAMED_ADDRESSES, PORTS, PROBE_PORTS, PROXY_PORT, UNPROBED_PORT};
use super::scene::Scene;
use super::table::{Client, Judges, Packets, Port, Row, Target};
use crate::packets::{self, Extension};
use crate::probe::{self, Seen};
use crate::sctp;

/// A name that every cluster has.
const NAME: &str = "kubernetes.default.svc.cluster.local";
/// Where CoreDNS tells its health.
const HEALTH: u16 = 8080;

/// Which ends are in Full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// The clients' namespace.
    pub consumers: bool,
    /// The servers' namespace.
    pub providers: bool,
}

/// What one attempt sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Sctp,
    Echo,
    Large,
    Transfer,
    Extended(Extension),
    Name { tcp: bool },
}

/// One attempt, and what must be seen of it.
#[derive(Debug, Clone)]
pub struct Check {
    what: String,
    netns: PathBuf,
    target: SocketAddr,
    kind: Kind,
    /// What is seen where nothing blocks.
    open: Seen,
    /// What is seen where an end blocks, and the ends that do; of an attempt that must pass, nothing.
    blocked: Option<(Judges, Seen)>,
}

impl Check {
    /// What must be seen in a phase.
    fn expected(&self, phase: Phase) -> Seen {
        match self.blocked {
            Some((judges, seen)) if judges.blocks(phase) => seen,
            _ => self.open,
        }
    }

    fn attempt(&self) -> io::Result<Seen> {
        let (netns, target) = (&self.netns, self.target);
        match self.kind {
            Kind::Tcp => probe::tcp(netns, target),
            Kind::Udp => probe::udp(netns, target),
            Kind::Sctp => sctp::associates(netns, target),
            Kind::Echo => packets::echo(netns, target.ip()),
            Kind::Large => packets::large(netns, target),
            Kind::Transfer => packets::transfer(netns, target),
            Kind::Extended(extension) => packets::extended(netns, target, extension),
            Kind::Name { tcp } => packets::resolves(netns, target, tcp, NAME),
        }
    }
}

impl Judges {
    fn blocks(self, phase: Phase) -> bool {
        match self {
            Self::Both => phase.consumers || phase.providers,
            Self::Consumer => phase.consumers,
            Self::Provider => phase.providers,
            Self::Neither => false,
        }
    }
}

/// How many attempts are made at once: more would make each other late, unless all they do is to wait for an answer.
const AT_ONCE: usize = 48;
const WAITING_AT_ONCE: usize = 144;

/// Makes all attempts, in portions, and says of each that is not as it must be what it is.
pub fn wrong(checks: &[Check], phase: Phase) -> Vec<String> {
    let (waiting, answered): (Vec<_>, Vec<_>) =
        checks.iter().cloned().partition(|check| check.expected(phase) == Seen::Dropped);
    answered
        .chunks(AT_ONCE)
        .chain(waiting.chunks(WAITING_AT_ONCE))
        .flat_map(|part| wrong_at_once(part, phase))
        .collect()
}

fn wrong_at_once(checks: &[Check], phase: Phase) -> Vec<String> {
    let workers: Vec<_> = checks.iter().cloned().map(|check| thread::spawn(move || check.attempt())).collect();
    let mut wrong = Vec::new();
    for (check, worker) in checks.iter().zip(workers) {
        let expected = check.expected(phase);
        match worker.join().unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked"))) {
            Ok(seen) if seen == expected => {}
            Ok(seen) => wrong.push(format!("{} is {seen}, expected {expected}", check.what)),
            Err(error) => wrong.push(format!("{} could not be tried: {error}", check.what)),
        }
    }
    wrong
}

/// Everything that is tried for a row.
///
/// # Errors
/// When the scene does not have what the row names.
pub fn checks(row: &Row, scene: &Scene) -> Result<Vec<Check>> {
    let mut found = Vec::new();
    for (family, _) in row.families.iter().enumerate().filter(|(_, wanted)| **wanted) {
        let door = scene.door(row.to)?;
        ensure!(names_its_port(row, door), "{}: what is dialled is {:?}", row.key, door.tcp);
        let client = scene.client(row.from)?.netns.clone();
        let strangers = if row.has_strangers() { scene.strangers(row.from) } else { Vec::new() };
        ensure!(row.has_strangers() != strangers.is_empty(), "{}: the strangers are {strangers:?}", row.key);
        let way = Way { row, family, address: door.addresses[family], door, client, strangers };
        let checks = way.checks(scene)?;
        let kept_off = checks.iter().any(|check| check.netns == way.client && check.blocked.is_some());
        ensure!(kept_off == row.has_closed_port(), "{}: the client is blocked: {kept_off}", row.key);
        found.extend(checks);
    }
    Ok(found)
}

/// Whether the port that a row says the provider sees is the one that is dialled, or another.
fn names_its_port(row: &Row, door: &Door) -> bool {
    let is_the_providers = [PORTS, HOST_NETWORK_PORTS].contains(&door.tcp);
    match row.port {
        Port::Dialled | Port::BeforeRedirect | Port::TypeAndCode => is_the_providers,
        Port::Target | Port::Container => !is_the_providers,
        // They are no usual ones.
        Port::Probe | Port::Nobody => true,
    }
}

/// A row over one family.
struct Way<'a> {
    row: &'a Row,
    family: usize,
    address: IpAddr,
    door: &'a Door,
    client: PathBuf,
    strangers: Vec<PathBuf>,
}

impl Way<'_> {
    fn checks(&self, scene: &Scene) -> Result<Vec<Check>> {
        Ok(match self.row.packets {
            _ if self.row.from == Client::Itself && self.row.to == Target::Pod => self.loopback(),
            _ if self.row.from == Client::Itself => self.itself(),
            _ if self.row.to == Target::Probe => self.probes(),
            _ if [Target::ProbeByNodePort, Target::ProbeByNodePortElsewhere].contains(&self.row.to) => {
                self.probes_by_node_port(scene)?
            }
            Packets::Both | Packets::Forgotten => self.connections(&[Kind::Tcp, Kind::Udp]),
            Packets::Tcp => self.connections(&[Kind::Tcp]),
            Packets::Transfer => vec![self.passes(Kind::Transfer, self.door.tcp[0])]
                .into_iter()
                .chain(self.by_strangers(Kind::Transfer, self.door.tcp[0]))
                .collect(),
            Packets::Echo => self.single(Kind::Echo, 0, Seen::Open),
            // What comes back is the error that nobody listens.
            Packets::Closed => self.single(Kind::Udp, CLOSED_PORT, Seen::Refused),
            Packets::Large => self.connections(&[Kind::Large]),
            Packets::HopByHop => self.connections(&[Kind::Extended(Extension::HopByHop)]),
            Packets::Destination => self.connections(&[Kind::Extended(Extension::Destination)]),
            Packets::Name => self.names(scene)?,
            Packets::Sctp => self.connections(&[Kind::Sctp]),
        })
    }

    fn check(&self, netns: &Path, kind: Kind, port: u16, who: &str) -> Check {
        let target = SocketAddr::new(self.address, port);
        let family = ["IPv4", "IPv6"][self.family];
        let what = format!("{}: {who}, {kind:?} to {target} ({family})", self.row.key);
        Check { what, netns: netns.to_owned(), target, kind, open: Seen::Open, blocked: None }
    }

    fn passes(&self, kind: Kind, port: u16) -> Check {
        self.check(&self.client, kind, port, "the client")
    }

    fn blocked(&self, kind: Kind, port: u16) -> Check {
        let rejects = [Target::Rejecting, Target::RejectingByNodePort].contains(&self.row.to);
        let seen = if rejects { Seen::Refused } else { Seen::Dropped };
        Check { blocked: Some((self.row.judges, seen)), ..self.passes(kind, port) }
    }

    fn by_strangers(&self, kind: Kind, port: u16) -> impl Iterator<Item = Check> {
        let blocked = Some((self.row.judges, Seen::Dropped));
        self.strangers.iter().map(move |netns| Check { blocked, ..self.check(netns, kind, port, "a stranger") })
    }

    /// The allowed port of each protocol, by the client and by strangers, and the one that is not allowed.
    fn connections(&self, kinds: &[Kind]) -> Vec<Check> {
        let mut found = Vec::new();
        for kind in kinds {
            let as_tcp = [Kind::Tcp, Kind::Transfer, Kind::Sctp].contains(kind);
            let [allowed, other] = if as_tcp { self.door.tcp } else { self.door.udp };
            found.push(self.passes(*kind, allowed));
            found.push(self.blocked(*kind, other));
            found.extend(self.by_strangers(*kind, allowed));
            if self.row.to == Target::Redirect {
                found.push(self.blocked(*kind, PROXY_PORT));
            }
            if self.row.to == Target::Named {
                found.push(self.under_another_name(*kind, allowed));
            }
        }
        found
    }

    /// What the client has asked for under a name that no rule has.
    fn under_another_name(&self, kind: Kind, port: u16) -> Check {
        // A literal.
        let address = NAMED_ADDRESSES[1][self.family].parse().unwrap_or(self.address);
        let what = format!("{}: the client, {kind:?} to {address} under another name", self.row.key);
        Check { what, target: SocketAddr::new(address, port), ..self.blocked(kind, port) }
    }

    /// One port, by the client and by strangers.
    fn single(&self, kind: Kind, port: u16, open: Seen) -> Vec<Check> {
        let both = [self.passes(kind, port)].into_iter().chain(self.by_strangers(kind, port));
        both.map(|check| Check { open, ..check }).collect()
    }

    /// A Pod reaches all of itself; the same is blocked to others.
    fn loopback(&self) -> Vec<Check> {
        let ports = [(Kind::Tcp, self.door.tcp), (Kind::Udp, self.door.udp)];
        let own = ports.iter().flat_map(|(kind, ports)| ports.map(|port| self.passes(*kind, port)));
        let others = ports.iter().flat_map(|(kind, ports)| ports.map(|port| (*kind, port)));
        let others = others.flat_map(|(kind, port)| {
            self.by_strangers(kind, port).map(|check| Check { blocked: Some((Judges::Both, Seen::Dropped)), ..check })
        });
        own.chain(others).collect()
    }

    /// A Pod reaches itself through its Service where a rule lets it, and both its ends are in one namespace.
    fn itself(&self) -> Vec<Check> {
        let mut found = self.connections(&[Kind::Tcp, Kind::Udp]);
        for check in found.iter_mut().filter(|check| check.netns == self.client) {
            check.blocked = check.blocked.map(|(_, seen)| (Judges::Provider, seen));
        }
        found
    }

    /// Nobody but the Pod's own node reaches a port of a probe, not even through that node or another.
    fn probes_by_node_port(&self, scene: &Scene) -> Result<Vec<Check>> {
        let port = self.door.tcp[0];
        let mut found = vec![self.blocked(Kind::Tcp, port)];
        found.extend(self.by_strangers(Kind::Tcp, port));
        let node = &scene.client(Client::FarNode)?.netns;
        let blocked = Some((Judges::Provider, Seen::Dropped));
        found.push(Check { blocked, ..self.check(node, Kind::Tcp, port, "another node") });
        let blocked = Some((Judges::Both, Seen::Dropped));
        for stranger in scene.strangers(Client::Kubelet) {
            found.push(Check { blocked, ..self.check(&stranger, Kind::Tcp, port, "a Pod") });
        }
        if self.row.to == Target::ProbeByNodePort {
            let own = &scene.client(Client::NearNode)?.netns;
            found.push(self.check(own, Kind::Tcp, port, "the node itself"));
        }
        Ok(found)
    }

    /// The node reaches what probes name and nothing else, and other Pods reach none of it.
    fn probes(&self) -> Vec<Check> {
        let mut found = vec![self.blocked(Kind::Tcp, UNPROBED_PORT)];
        for port in PROBE_PORTS {
            found.push(self.passes(Kind::Tcp, port));
            let blocked = Some((Judges::Both, Seen::Dropped));
            found.extend(self.by_strangers(Kind::Tcp, port).map(|check| Check { blocked, ..check }));
        }
        found
    }

    /// Questions to the DNS server pass, also those of strangers; another port of the same Pod does not.
    fn names(&self, scene: &Scene) -> Result<Vec<Check>> {
        let asked = [false, true].map(|tcp| self.passes(Kind::Name { tcp }, 53));
        let server = scene.dns_pod[self.family].context("the DNS server has no address of this family")?;
        let health = Check { target: SocketAddr::new(server, HEALTH), ..self.blocked(Kind::Tcp, HEALTH) };
        Ok(asked.into_iter().chain([health]).collect())
    }
}
