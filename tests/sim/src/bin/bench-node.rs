//! The second half of `make bench`: what one node agent has to work out. The objects that its watches bring it are made
//! by another process, so that the peak of memory is the agent's own.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use ringfence_dataplane::{Match, NetnsPolicy, Nets, ObjectStore, Rendered, Resolution, Resolver, SetDef, render};
use ringfence_sim::shapes::{self, Shape};
use ringfence_sim::{node, rss};

/// Measures what an agent works out from decoded objects; one line a benchmark.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Instead of the printed size, a small one: a test of the benchmark itself.
    #[arg(long, global = true)]
    small: bool,
}

#[derive(Subcommand)]
enum Part {
    /// Writes the objects of one shape.
    Send { name: String },
    /// Reads objects and measures.
    Measure { name: String },
}

/// The node whose agent it is.
const NODE: &str = "node-0";
const NAMES: [&str; 2] = ["node-snapshot", "node-snapshot-apps"];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.part {
        Some(Part::Send { name }) => send(&name, arguments.small),
        Some(Part::Measure { name }) => measure(&name, arguments.small),
        None => NAMES.iter().try_for_each(|name| in_two_processes(name, arguments.small)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// 250,000 Pods on 1250 nodes: 200 on each.
fn shape(name: &str, small: bool) -> Shape {
    match (name, small) {
        ("node-snapshot", false) => shapes::marked(1250, 250_000, 10_000),
        ("node-snapshot", true) => shapes::marked(5, 100, 62),
        (_, false) => shapes::isolated_customers(1250, 10_000, 25),
        (_, true) => shapes::isolated_customers(5, 10, 10),
    }
}

fn in_two_processes(name: &str, small: bool) -> std::io::Result<()> {
    let part = |part: &str| -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([part, name]).args(small.then_some("--small"));
        Ok(command)
    };
    let mut sender = part("send")?.stdout(Stdio::piped()).spawn()?;
    let objects = sender.stdout.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
    let measured = part("measure")?.stdin(objects).status()?;
    if !sender.wait()?.success() || !measured.success() {
        return Err(std::io::Error::other(format!("{name} failed")));
    }
    Ok(())
}

fn send(name: &str, small: bool) -> std::io::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    node::send(&shape(name, small), NODE, &mut out)?;
    out.flush()
}

/// From decoded objects to the policy of every local Pod, to its rules and sets; and, beside that, to the text of the sets.
fn measure(name: &str, small: bool) -> std::io::Result<()> {
    let read = node::receive(std::io::stdin().lock())?;
    let decoded_mb = rss::peak_mb();
    let begin = Instant::now();
    let mut resolver = Resolver::new(&read.store);
    let mut policies: Vec<NetnsPolicy> = Vec::new();
    for pod in &read.pods {
        match resolver.resolve(pod, &[]) {
            Resolution::Enforce(policy) => policies.push(policy),
            other => return Err(std::io::Error::other(format!("{}/{}: {other:?}", pod.namespace, pod.name))),
        }
    }
    drop(resolver);
    let resolved = begin.elapsed().as_secs_f64();
    // An agent keeps the rules and sets of each of its Pods.
    let rendered: Vec<Rendered> = policies.iter().map(|policy| render(policy, 1)).collect();
    let seconds = begin.elapsed().as_secs_f64();
    let members: usize = rendered.iter().flat_map(|rendered| &rendered.sets).map(SetDef::len).sum();
    let peak_rss_mb = rss::peak_mb();
    // What the kernel is told is written for one namespace after the other.
    let bytes: usize = rendered.iter().map(|rendered| rendered.create_sets().len()).sum();
    let text_s = begin.elapsed().as_secs_f64() - seconds;
    let floor = floor(&read.store, &policies).as_secs_f64();
    println!(
        "bench {name} seconds={seconds:.3} peak_rss_mb={peak_rss_mb} pods={} policies={} workloads={} members={members} \
         resolve_s={resolved:.3} decoded_mb={decoded_mb} peer_groups={} address_groups={} peers={} text_s={text_s:.3} \
         text_bytes={bytes} floor_seconds={floor:.3} ratio={:.1}",
        policies.len(),
        read.store.workload_policies.len(),
        if small { 100 } else { 250_000 },
        read.store.peer_groups.len(),
        read.store.address_groups.len(),
        policies.iter().map(peers).max().unwrap_or_default(),
        seconds / floor,
    );
    Ok(())
}

/// How long it takes to read every object once, and to write every different list of peers once.
fn floor(store: &ObjectStore, policies: &[NetnsPolicy]) -> Duration {
    let lists: BTreeMap<*const Nets, &Arc<Nets>> =
        policies.iter().flat_map(lists).map(|nets| (Arc::as_ptr(nets), nets)).collect();
    let begin = Instant::now();
    // Comparing reads all of both, which are the same memory.
    black_box(black_box(store) == store);
    let copies: Vec<Nets> = lists.into_values().map(|nets| Nets::clone(nets)).collect();
    let elapsed = begin.elapsed();
    black_box(copies);
    elapsed
}

/// The lists of peers that a Pod's rules name.
fn lists(policy: &NetnsPolicy) -> impl Iterator<Item = &Arc<Nets>> {
    let sides = [&policy.inbound, &policy.outbound];
    let entries = sides.into_iter().flat_map(|side| side.allow.iter().chain(&side.deny).chain(&side.override_deny));
    entries.filter_map(|entry| match &entry.matching {
        Match::Hosts { peers, .. } => Some(&peers.nets),
        _ => None,
    })
}

/// How many addresses a Pod's rules name.
fn peers(policy: &NetnsPolicy) -> usize {
    lists(policy).map(|nets| nets.len()).sum()
}
