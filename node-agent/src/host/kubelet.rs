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
use ringfence_dataplane::policy::End;
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
/// At most so many ways count: those that are known longest, so that nobody pushes them out.
const MOST: usize = 16;

/// By which ways the kubelet reaches the apiserver.
#[derive(Debug, Default)]
pub struct Ways {
    seen: BTreeMap<SocketAddr, Seen>,
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    first: Instant,
    last: Instant,
    /// Seen more than once: what a probe opens is not.
    lasting: bool,
}

impl Ways {
    /// Looks, unless that was done just now. At the first time those count too that an agent before has `noted`.
    pub fn look(&mut self, policy: &NetnsPolicy, noted: impl FnOnce() -> BTreeSet<SocketAddr>) {
        let now = Instant::now();
        if self.looked_at.is_some_and(|at| now < at + BETWEEN) {
            return;
        }
        if self.looked_at.replace(now).is_none() {
            self.seen = noted().into_iter().map(|way| (way, Seen { first: now, last: now, lasting: true })).collect();
        }
        match connected_to(policy) {
            Ok(found) => self.take(found, now),
            Err(error) => tracing::warn!(%error, "failed to know what the kubelet is connected to"),
        }
    }

    fn take(&mut self, found: BTreeSet<SocketAddr>, now: Instant) {
        for way in found {
            let again = |seen: &mut Seen| (seen.last, seen.lasting) = (now, true);
            let new = Seen { first: now, last: now, lasting: false };
            self.seen.entry(way).and_modify(again).or_insert(new);
        }
        self.seen.retain(|_, seen| seen.last == now || (seen.lasting && now < seen.last + KEPT));
        while self.seen.len() > MOST {
            let newest = self.seen.iter().max_by_key(|(_, seen)| (!seen.lasting, seen.first)).map(|(way, _)| *way);
            self.seen.retain(|way, _| Some(*way) != newest);
        }
    }

    /// Those that count.
    pub fn known(&self) -> impl Iterator<Item = &SocketAddr> {
        self.seen.keys()
    }
}

/// The ways that a policy lets the kubelet go.
pub fn ways_in(policy: &NetnsPolicy) -> BTreeSet<SocketAddr> {
    ends(policy, RULE).map(|end| SocketAddr::new(end.address, end.port)).collect()
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
    let probed: BTreeSet<IpAddr> = ends(policy, PROBES).map(|end| end.address).collect();
    let outward = own
        .into_iter()
        .filter(|socket| socket.state == TcpState::Established && !served.contains(&socket.local_address.port()));
    // A socket of IPv6 may be connected to an address of IPv4.
    let end =
        |socket: &TcpNetEntry| SocketAddr::new(socket.remote_address.ip().to_canonical(), socket.remote_address.port());
    let remote = outward.map(end);
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

/// The ends that an essential of this name is about.
fn ends<'a>(policy: &'a NetnsPolicy, rule: &'a str) -> impl Iterator<Item = &'a End> {
    let entries = policy.outbound.essential.iter().filter(move |entry| entry.rule == rule);
    let ends = entries.filter_map(|entry| match &entry.matching {
        Match::Ends(ends) => Some(ends),
        _ => None,
    });
    ends.flat_map(|ends| ends.iter())
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

fn io(error: ProcError) -> Error {
    match error {
        ProcError::Io(error, _) => error,
        other => Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(last: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], last))
    }

    #[test]
    fn what_is_seen_once_is_no_way_for_long_and_pushes_none_out() {
        let (mut ways, begin) = (Ways::default(), Instant::now());
        let at = |minutes: u32| begin + BETWEEN * minutes;
        let known = |ways: &Ways| ways.known().copied().collect::<Vec<_>>();
        ways.take([way(6443), way(1)].into(), at(0));
        assert_eq!(known(&ways), [way(1), way(6443)]);
        ways.take([way(6443)].into(), at(1));
        assert_eq!(known(&ways), [way(6443)], "the other was a probe");
        ways.take((1..100).map(way).collect(), at(2));
        assert!(known(&ways).len() == MOST && known(&ways).contains(&way(6443)));
        ways.take(BTreeSet::new(), at(3));
        assert_eq!(known(&ways), [way(6443)], "the apiserver is away");
        ways.take(BTreeSet::new(), at(1) + KEPT);
        assert_eq!(known(&ways), []);
    }
}
