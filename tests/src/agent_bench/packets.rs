//! `first-packet`: how much longer it takes to open a connection to a policed Pod than to one without rules. Only the
//! first packet meets the rules; the rest of the connection is established.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::SockAddr;

use super::agent::Agent;
use super::objects::{Folder, port};
use super::pair::{PORT, Pair, address, client};
use super::{Bench, figures};
use crate::probe;

/// How many rules there are of what differs.
const PEERS: [usize; 3] = [0, 100, 10_000];
const PORTS: [usize; 3] = [100, 1_000, 10_000];
const LINEAR: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(120);
/// What [`Rules::Least`] and [`Rules::Needed`] are called.
const LEAST: &str = "least_ns_10000";
const NEEDED: &str = "needed_ns_10000";
/// Connections to one server before the next one's turn comes, and how many turns there are.
const IN_A_ROW: usize = 50;
const TURNS: usize = 200;

/// A server, what it has for rules, and how long connections took: of each turn the median, in nanoseconds.
struct Lane {
    name: String,
    pair: Pair,
    turns: Vec<f64>,
}

/// What a server's rules are.
enum Rules {
    None,
    /// One that only makes the kernel follow connections, as ours do.
    Conntrack,
    /// The least that lets only some peers begin and whoever is connected go on: three rules and a set.
    Least,
    /// The same that also ends flows and says whose rule it is, as ours do.
    Needed,
    /// Of ours, which differ in peers.
    Peers(usize),
    /// Of ours, which differ in ports.
    Ports(usize),
    /// Plain iptables, one after the other; the last one hits.
    Linear,
}

/// Prints what each kind of rules adds: the median of what it added in each turn, since a machine is not equally fast all the time.
///
/// # Errors
/// When rules cannot be put in force, or a connection does not open.
pub fn run(bench: &Bench) -> Result<()> {
    let mut kinds = vec![Rules::None, Rules::Conntrack, Rules::Linear, Rules::Least, Rules::Needed];
    kinds.extend(PEERS.map(Rules::Peers));
    kinds.extend(PORTS.map(Rules::Ports));
    let mut lanes = Vec::new();
    // One folder and one agent each: in one folder all rules would be everybody's.
    let mut agents = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        let lane = Lane::new(u8::try_from(number + 1)?, kind)?;
        agents.extend(lane.enforce(bench, u8::try_from(number + 1)?, kind)?);
        lane.pair.await_open().with_context(|| format!("{} does not open", lane.name))?;
        lanes.push(lane);
    }
    // They would use processors.
    agents.clear();
    for _ in 0..TURNS {
        lanes.iter_mut().try_for_each(Lane::sample)?;
    }
    let Some((none, lanes)) = lanes.split_first() else { return Ok(()) };
    let added_by = |lane: &Lane| {
        let added: Vec<f64> = lane.turns.iter().zip(&none.turns).map(|(with, without)| with - without).collect();
        figures::median(&added)
    };
    let added: Vec<(String, f64)> = lanes.iter().map(|lane| (lane.name.clone(), added_by(lane))).collect();
    let base = figures::median(&none.turns);
    let of = |name: &str| added.iter().find(|(own, _)| own == name).map_or(0.0, |(_, added)| *added);
    let fields: Vec<String> = added.iter().map(|(name, added)| format!("{name}={added:.0}")).collect();
    let times = |name: &str| of(&format!("linear_ns_{LINEAR}")) / of(name).max(1.0);
    println!(
        "bench first-packet {} times={:.1} least_times={:.1} needed_times={:.1} connect_ns={base:.0} samples={}",
        fields.join(" "),
        times(&format!("ns_{LINEAR}")),
        times(LEAST),
        times(NEEDED),
        IN_A_ROW * TURNS
    );
    Ok(())
}

impl Lane {
    fn new(number: u8, kind: &Rules) -> Result<Self> {
        let name = match kind {
            Rules::None => "none".to_owned(),
            Rules::Conntrack => "conntrack_ns".to_owned(),
            Rules::Linear => format!("linear_ns_{LINEAR}"),
            Rules::Least => LEAST.to_owned(),
            Rules::Needed => NEEDED.to_owned(),
            Rules::Peers(count) => format!("ns_{count}"),
            Rules::Ports(count) => format!("ports_ns_{count}"),
        };
        Ok(Self { name, pair: Pair::new(number)?, turns: Vec::new() })
    }

    /// Puts the rules in force; with ours, the agent and its folder.
    fn enforce(&self, bench: &Bench, number: u8, kind: &Rules) -> Result<Option<(Agent, Folder)>> {
        let client = address(number, 1);
        let (groups, ports) = match kind {
            Rules::None => return Ok(None),
            Rules::Conntrack => {
                self.pair.at_server("iptables-nft-restore", &["--noflush"], FOLLOW)?;
                return Ok(None);
            }
            Rules::Linear => {
                self.pair.at_server("iptables-nft-restore", &["--noflush"], &linear(client)?)?;
                return Ok(None);
            }
            Rules::Least | Rules::Needed => {
                let mut set = format!("create PEERS hash:net\nadd PEERS {client}\n");
                for number in 1..=LINEAR {
                    set += &format!("add PEERS {}\n", stranger(number)?);
                }
                self.pair.at_server("ipset", &["restore"], &set)?;
                self.pair.at_server("iptables-nft-restore", &["--noflush"], &least(matches!(kind, Rules::Needed)))?;
                return Ok(None);
            }
            Rules::Peers(count) => (*count, 0),
            Rules::Ports(count) => (0, *count),
        };
        let folder = Folder::new(&format!("packets-{number}"))?;
        folder.put_group(0, &[client])?;
        let mut rules = Vec::new();
        for group in 1..=groups {
            folder.put_group(group, &[stranger(group)?])?;
            rules.push((group, port("TCP", PORT)));
        }
        for other in 0..u16::try_from(ports)? {
            rules.push((0, port("TCP", 10_000 + other)));
        }
        // What hits comes last.
        rules.push((0, port("TCP", PORT)));
        folder.put_rules(&rules)?;
        let server = self.pair.server();
        folder.put_pods([(server.as_path(), address(number, 2))])?;
        let mut agent = Agent::start(&bench.agent, &folder)?;
        agent.await_lines(1, LIMIT, |line| line.contains("CleanedUp"))?;
        Ok(Some((agent, folder)))
    }

    fn sample(&mut self) -> Result<()> {
        let (target, listener) = (SockAddr::from(self.pair.target()), self.pair.listener.try_clone()?);
        let taken = probe::inside(&self.pair.client(), move || {
            // Another processor would know nothing of what this one has in its caches.
            let mut first = CpuSet::new();
            first.set(0)?;
            sched_setaffinity(Pid::from_raw(0), &first)?;
            let mut taken = Vec::with_capacity(IN_A_ROW);
            for _ in 0..IN_A_ROW {
                let socket = client()?;
                let begin = Instant::now();
                socket.connect(&target)?;
                taken.push(begin.elapsed().as_nanos() as f64);
                drop(listener.accept()?);
            }
            Ok(taken)
        })?;
        self.turns.push(figures::median(&taken));
        Ok(())
    }
}

/// Somebody else.
fn stranger(number: usize) -> Result<IpAddr> {
    let [.., high, low] = u32::try_from(number)?.to_be_bytes();
    Ok(std::net::Ipv4Addr::new(172, 16, high, low).into())
}

/// `iptables-restore` input that lets everything pass.
const FOLLOW: &str = "*mangle\n-A PREROUTING -m conntrack --ctstate INVALID -j RETURN\nCOMMIT\n";

/// `iptables-restore` input: both directions pass when they belong to a connection; others come in if a set has them. `needed`: unless
/// it is a flow that was ended, and by a rule that has a name.
fn least(needed: bool) -> String {
    let (unless_ended, name) = match needed {
        true => ("-m connmark ! --mark 0x40000000/0x40000000 ", "-m comment --comment \"rf:bench/rule\" "),
        false => ("", ""),
    };
    let known = format!("-m conntrack --ctstate RELATED,ESTABLISHED {unless_ended}-j ACCEPT");
    format!(
        "*mangle\n-A PREROUTING {known}\n\
         -A PREROUTING -p tcp -m tcp --dport {PORT} -m set --match-set PEERS src {name}-j ACCEPT\n\
         -A PREROUTING -j DROP\n-A OUTPUT {known}\n-A OUTPUT -j DROP\nCOMMIT\n"
    )
}

/// `iptables-restore` input: a chain of our own in table mangle, whose last rule lets the client in.
fn linear(client: IpAddr) -> Result<String> {
    let mut text = "*mangle\n:LINEAR - [0:0]\n-A PREROUTING -p tcp --syn -j LINEAR\n".to_owned();
    for number in 1..LINEAR {
        text += &format!("-A LINEAR -s {} -p tcp --dport {PORT} -j ACCEPT\n", stranger(number)?);
    }
    text += &format!("-A LINEAR -s {client} -p tcp --dport {PORT} -j ACCEPT\n-A LINEAR -j DROP\nCOMMIT\n");
    Ok(text)
}
