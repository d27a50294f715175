//! `throughput`: what established traffic and new connections keep of their speed when one end or both are policed,
//! beside a pair without rules, by turns.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::SockAddr;

use super::agent::Agent;
use super::objects::{Folder, port};
use super::pair::{PORT, Pair, address, client};
use super::{Bench, figures};
use crate::probe;

const LIMIT: Duration = Duration::from_secs(20);
/// How long one run is.
const RUN: Duration = Duration::from_millis(700);
const BLOCK: usize = 128 * 1024;
/// Rules besides the one that hits.
const SERVICES: u16 = 29;

/// What no rules that know connections can do without, in `iptables-restore` input: the kernel follows connections, and what is
/// established leaves at the first rule.
const FOLLOW: &str = "*mangle\n-A PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n\
    -A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\nCOMMIT\n";

/// Prints the medians of the ratios of paired runs: with the server policed, with both ends, and with [`FOLLOW`] alone.
///
/// # Errors
/// When a connection does not open.
pub fn run(bench: &Bench) -> Result<()> {
    let (open, one, both, followed) = (Pair::new(1)?, Pair::new(2)?, Pair::new(3)?, Pair::new(4)?);
    followed.at_server("iptables-nft-restore", &["--noflush"], FOLLOW)?;
    enforce(bench, &[(one.server(), address(2, 2)), (both.server(), address(3, 2)), (both.client(), address(3, 1))])?;
    for pair in [&open, &one, &both, &followed] {
        pair.await_open().context("a connection does not open")?;
    }
    let others = [&one, &both, &followed];
    let streams = others.map(|policed| paired(bench.runs, &open, policed, stream));
    let connections = others.map(|policed| paired(bench.runs, &open, policed, connections));
    let ([stream, stream_both, stream_least], [connection, connection_both, connection_least]) = (streams, connections);
    let (stream, connection) = (stream?, connection?);
    println!(
        "bench throughput stream_ratio={:.3} cps_ratio={:.3} both_ends_stream_ratio={:.3} both_ends_cps_ratio={:.3} \
         conntrack_stream_ratio={:.3} conntrack_cps_ratio={:.3} stream_gbit={:.1} cps={:.0} services={} runs={}",
        stream.ratio,
        connection.ratio,
        stream_both?.ratio,
        connection_both?.ratio,
        stream_least?.ratio,
        connection_least?.ratio,
        stream.open * 8.0 / 1e9,
        connection.open,
        SERVICES + 1,
        stream.runs,
    );
    Ok(())
}

/// Puts rules in force in these namespaces; the agent is gone afterwards.
fn enforce(bench: &Bench, pods: &[(PathBuf, IpAddr)]) -> Result<()> {
    let folder = Folder::new("throughput")?;
    let everyone: Vec<IpAddr> = (2..=3).flat_map(|pair| [address(pair, 1), address(pair, 2)]).collect();
    folder.put_group(0, &everyone)?;
    let others = (0..SERVICES).map(|number| (0, port("TCP", 8000 + number)));
    folder.put_rules(&others.chain([(0, port("TCP", PORT))]).collect::<Vec<_>>())?;
    folder.put_pods(pods.iter().map(|(path, address)| (path.as_path(), *address)))?;
    let mut agent = Agent::start(&bench.agent, &folder)?;
    agent.await_lines(pods.len(), LIMIT, |line| line.contains("CleanedUp"))?;
    agent.stop()
}

/// What came of paired runs.
struct Paired {
    /// The median of policed over open.
    ratio: f64,
    /// The median without rules, a second.
    open: f64,
    runs: usize,
}

fn paired(runs: usize, open: &Pair, policed: &Pair, measure: fn(&Pair) -> Result<f64>) -> Result<Paired> {
    // One for nothing: caches, and ports that were never used.
    measure(open)?;
    measure(policed)?;
    let (mut ratios, mut plain) = (Vec::new(), Vec::new());
    for run in 0..runs * 3 {
        // Whoever comes second has the warmer machine.
        let (without, with) = if run % 2 == 0 {
            let without = measure(open)?;
            (without, measure(policed)?)
        } else {
            let with = measure(policed)?;
            (measure(open)?, with)
        };
        ratios.push(with / without);
        plain.push(without);
    }
    Ok(Paired { ratio: figures::median(&ratios), open: figures::median(&plain), runs: ratios.len() })
}

/// Bytes a second over one connection.
fn stream(pair: &Pair) -> Result<f64> {
    let target = pair.target();
    let mut sender: TcpStream = probe::inside(&pair.client(), move || TcpStream::connect(target))?;
    let (mut receiver, _) = pair.listener.accept()?;
    let writer = std::thread::spawn(move || {
        let (block, begin) = (vec![0; BLOCK], Instant::now());
        while begin.elapsed() < RUN && sender.write_all(&block).is_ok() {}
    });
    let (mut block, mut bytes, begin) = (vec![0; BLOCK], 0, Instant::now());
    loop {
        match receiver.read(&mut block)? {
            0 => break,
            count => bytes += count,
        }
    }
    let took = begin.elapsed().as_secs_f64();
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    Ok(bytes as f64 / took)
}

/// Connections a second, one after the other.
fn connections(pair: &Pair) -> Result<f64> {
    let (target, listener) = (SockAddr::from(pair.target()), pair.listener.try_clone()?);
    let rate = probe::inside(&pair.client(), move || {
        let (begin, mut count) = (Instant::now(), 0_u32);
        while begin.elapsed() < RUN {
            let socket = client()?;
            socket.connect(&target)?;
            drop(listener.accept()?);
            count += 1;
        }
        Ok(f64::from(count) / begin.elapsed().as_secs_f64())
    })?;
    Ok(rate)
}
