//! By which way the node's kubelet reaches the apiserver: maybe another one than the agent's, such as a load balancer in front of several.
//! Nothing in the cluster tells of it, but its connections do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process, all_processes};
use procfs::{FromBufReadSI, ProcError, ProcResult};
use ringfence_dataplane::policy::{End, Side};
use ringfence_dataplane::{Entry, Match, NetnsPolicy};
use ringfence_model::{Ports, Protocol, Services};

/// What the rule is called that lets it pass.
const RULE: &str = "essential:kubelet-to-apiserver";
/// What the rule is called that lets the control plane reach the kubelet.
const KUBELET: &str = "essential:kubelet";
/// What the rule is called that lets the kubelet reach the Pods that it probes.
const PROBES: &str = "essential:probe";

/// Between two looks at what the kubelet is connected to: all processes are looked at for it.
const BETWEEN: Duration = Duration::from_secs(60);
/// For so long a way counts that is not seen: the apiserver may be away, or the kubelet on its way back to it.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// At most so many ways count, those that were seen last.
const MOST: usize = 16;

/// By which ways the kubelet reaches the apiserver.
#[derive(Debug, Default)]
pub struct Ways {
    seen: BTreeMap<SocketAddr, Instant>,
    looked_at: Option<Instant>,
}

impl Ways {
    /// Looks, unless that was done just now. At the first time those count too that an agent before has `noted`.
    pub fn look(&mut self, policy: &NetnsPolicy, noted: impl FnOnce() -> BTreeSet<SocketAddr>) {
        let now = Instant::now();
        if self.looked_at.is_some_and(|at| now < at + BETWEEN) {
            return;
        }
        if self.looked_at.replace(now).is_none() {
            self.seen.extend(noted().into_iter().map(|way| (way, now)));
        }
        match connected_to(policy) {
            Ok(found) => self.seen.extend(found.into_iter().map(|way| (way, now))),
            Err(error) => tracing::warn!(%error, "failed to know what the kubelet is connected to"),
        }
        self.seen.retain(|_, at| now < *at + KEPT);
        while self.seen.len() > MOST {
            let oldest = self.seen.iter().min_by_key(|(_, at)| **at).map(|(way, _)| *way);
            self.seen.retain(|way, _| Some(*way) != oldest);
        }
    }

    /// Those that count.
    pub fn known(&self) -> impl Iterator<Item = &SocketAddr> {
        self.seen.keys()
    }
}

/// The ways that a policy lets the kubelet go.
pub fn ways_in(policy: &NetnsPolicy) -> BTreeSet<SocketAddr> {
    let entries = policy.outbound.essential.iter().filter(|entry| entry.rule == RULE);
    let ends = entries.filter_map(|entry| match &entry.matching {
        Match::Ends(ends) => Some(ends),
        _ => None,
    });
    ends.flat_map(|ends| ends.iter().map(|end| SocketAddr::new(end.address, end.port))).collect()
}

/// The ends outside this node that the kubelet is connected to, but for the Pods that it probes. A kubelet is whoever listens on its port in the
/// network namespace of the calling thread, as part of whatever program.
///
/// # Errors
/// When the tables or processes cannot be read.
pub fn connected_to(policy: &NetnsPolicy) -> Result<BTreeSet<SocketAddr>, Error> {
    let Some(port) = port(policy) else { return Ok(BTreeSet::new()) };
    let sockets = sockets().map_err(io)?;
    let listens = |socket: &&TcpNetEntry| socket.state == TcpState::Listen && socket.local_address.port() == port;
    let listening: BTreeSet<u64> = sockets.iter().filter(listens).map(|socket| socket.inode).collect();
    let own = sockets_of_whoever_has(&listening).map_err(io)?;
    let own: Vec<&TcpNetEntry> = sockets.iter().filter(|socket| own.contains(&socket.inode)).collect();
    let served: BTreeSet<u16> = own
        .iter()
        .filter(|socket| socket.state == TcpState::Listen)
        .map(|socket| socket.local_address.port())
        .collect();
    let probed = ends(&policy.outbound, PROBES);
    let outward = own
        .into_iter()
        .filter(|socket| socket.state == TcpState::Established && !served.contains(&socket.local_address.port()));
    let remote = outward.map(|socket| SocketAddr::new(canonical(&socket.remote_address), socket.remote_address.port()));
    Ok(remote.filter(|end| !end.ip().is_loopback() && !probed.contains(&end.ip())).collect())
}

/// A policy that lets the kubelet reach these and no others beside what it lets pass anyway. Where it knows of a kubelet, the rule is
/// always there, so that another way changes members and no rule.
pub fn reaching<'a>(policy: &NetnsPolicy, ways: impl Iterator<Item = &'a SocketAddr>) -> NetnsPolicy {
    let mut policy = policy.clone();
    policy.outbound.essential.retain(|entry| entry.rule != RULE);
    if port(&policy).is_none() {
        return policy;
    }
    let end = |way: &SocketAddr| End { address: way.ip(), protocol: Protocol::TCP, port: way.port() };
    let matching = Match::Ends(Arc::new(ways.map(end).collect()));
    policy.outbound.essential.push(Entry { matching, reject: false, rule: RULE.to_owned() });
    policy
}

/// The kubelet's port, as the policy has it.
fn port(policy: &NetnsPolicy) -> Option<u16> {
    let entry = policy.inbound.essential.iter().find(|entry| entry.rule == KUBELET)?;
    let Match::Hosts { services: Services::Only(services), .. } = &entry.matching else { return None };
    services.iter().find_map(|service| match service.ports {
        Ports::Range(port, end) if port == end => Some(port),
        _ => None,
    })
}

fn ends(side: &Side, rule: &str) -> BTreeSet<IpAddr> {
    let entries = side.essential.iter().filter(|entry| entry.rule == rule);
    let ends = entries.filter_map(|entry| match &entry.matching {
        Match::Ends(ends) => Some(ends),
        _ => None,
    });
    ends.flat_map(|ends| ends.iter().map(|end| end.address)).collect()
}

/// The TCP sockets of the network namespace that the calling thread is in.
fn sockets() -> ProcResult<Vec<TcpNetEntry>> {
    let mut all = Vec::new();
    for table in ["tcp", "tcp6"] {
        let file = Path::new("/proc/thread-self/net").join(table);
        match std::fs::File::open(file) {
            Ok(file) => {
                let read = std::io::BufReader::new(file);
                all.extend(procfs::net::TcpNetEntries::from_buf_read(read, procfs::current_system_info())?.0);
            }
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// The sockets of all processes that have one of these. A process may end meanwhile.
fn sockets_of_whoever_has(inodes: &BTreeSet<u64>) -> ProcResult<BTreeSet<u64>> {
    if inodes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let held = all_processes()?.flatten().filter_map(|process| sockets_of(&process).ok());
    Ok(held.filter(|held| !held.is_disjoint(inodes)).flatten().collect())
}

fn sockets_of(process: &Process) -> ProcResult<BTreeSet<u64>> {
    let inode = |target| match target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    };
    Ok(process.fd()?.flatten().filter_map(|descriptor| inode(descriptor.target)).collect())
}

/// An address of IPv4 that a socket of IPv6 is connected to.
fn canonical(end: &SocketAddr) -> IpAddr {
    end.ip().to_canonical()
}

fn io(error: ProcError) -> Error {
    match error {
        ProcError::Io(error, _) => error,
        other => Error::other(other.to_string()),
    }
}
