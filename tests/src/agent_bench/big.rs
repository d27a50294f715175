//! `big-group`: one group of 100,000 addresses that every Pod's rules name, and so every network namespace holds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use super::agent::Agent;
use super::nets::{Nets, own_address};
use super::objects::{Folder, port};

const MEMBERS: u32 = 100_000;
const SEEN_PORT: u16 = 5000;
const LIMIT: Duration = Duration::from_secs(400);

/// Prints how long it takes until every Pod may send to the group, and what that takes of the kernel's memory: by how much
/// unreclaimable slabs and vmalloc have grown, and what the kernel says that the sets of one namespace take.
///
/// # Errors
/// When an agent does not do what it should.
pub fn run(bench: &Bench) -> Result<()> {
    let folder = Folder::new("big")?;
    let members: Vec<IpAddr> = (0..MEMBERS).map(|number| Ipv4Addr::from(0x0b00_0000 + number).into()).collect();
    folder.put_group(0, &members)?;
    folder.put_rules(&[(0, port("UDP", SEEN_PORT))])?;
    let nets = Nets::new(bench.pods)?;
    let paths: Vec<_> = nets.pods().iter().map(|pod| pod.path()).collect();
    let mut pods = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        pods.push((path.as_path(), own_address(number)?));
    }
    folder.put_pods(pods)?;
    let before = kernel_kb()?;
    let mut agent = Agent::start(&bench.agent, &folder)?;
    let stranger = SocketAddr::new(Ipv4Addr::new(10, 99, 0, 1).into(), SEEN_PORT);
    let took = nets.await_all(&[stranger], false, agent.started(), LIMIT)?;
    agent.await_lines(bench.pods, LIMIT, |line| line.contains("CleanedUp"))?;
    let grown = kernel_kb()?.saturating_sub(before);
    let netns = format!("--net={}", paths.first().context("no Pods")?.display());
    let listed = super::nets::run("nsenter", &[&netns, "ipset", "list", "-terse"], "")?;
    let sizes = listed.lines().filter_map(|line| line.strip_prefix("Size in memory: ")?.parse::<u64>().ok());
    println!(
        "bench big-group seconds={:.1} kernel_mb={} members={MEMBERS} pods={} set_mb={:.2} agent_rss_mb={} \
         agent_peak_mb={}",
        took.as_secs_f64(),
        grown / 1024,
        bench.pods,
        sizes.sum::<u64>() as f64 / f64::from(1 << 20),
        agent.memory_kb("VmRSS:")? / 1024,
        agent.memory_kb("VmHWM:")? / 1024,
    );
    Ok(())
}

/// What the kernel holds for itself and cannot give back, in kB.
fn kernel_kb() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let of = |name: &str| {
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
        value.with_context(|| format!("the kernel tells no {name}"))
    };
    Ok(of("SUnreclaim:")? + of("VmallocUsed:")?)
}
