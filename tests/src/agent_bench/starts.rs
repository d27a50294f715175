//! What the CNI plugin adds to the start of a Pod: the time that the container runtime waits for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::alone::Held;
use super::objects::Folder;
use super::{Bench, agent, figures, node};
use crate::pod_start::{FULL, Node, Pod};

/// So often the programs that write rules are measured alone.
const ALONE: u16 = 100;
/// Longer than any start takes.
const WAIT: Duration = Duration::from_secs(10);

/// Pods that start one after the other on a node in miniature: in Full without a rule, and with those of the other lines.
///
/// # Errors
/// When a Pod does not start.
pub fn run(bench: &Bench) -> Result<()> {
    let plugin = bench.agent.with_file_name("cven-cni");
    if let Some(why) = Node::missing(&bench.agent, &plugin) {
        println!("note pod-start: not run: {why}");
        return Ok(());
    }
    measure(bench, &plugin, "pod-start-no-rule", None)?;
    let folder = Folder::new("starts")?;
    node::put_policy(&folder)?;
    measure(bench, &plugin, "pod-start", Some(&folder))
}

fn measure(bench: &Bench, plugin: &Path, line: &str, policy: Option<&Folder>) -> Result<()> {
    let node = Node::new(&bench.agent, plugin, WAIT, bench.starts)?.of_ipv4();
    if let Some(policy) = policy {
        for file in fs::read_dir(policy.objects())? {
            let file = file?;
            fs::copy(file.path(), node.objects().join(file.file_name()))?;
        }
    }
    node.start_agent()?;
    let _running = agent::Noted::new(node.agent_pid().context("the agent has ended")?);
    let (mut samples, mut alone) = (Vec::new(), Vec::new());
    for number in 1..=bench.starts {
        let pod = Pod { namespace: FULL, number };
        node.make_netns(pod)?;
        let result = node.attach(pod)?;
        let begin = Instant::now();
        let answer = node.protect(pod, &result)?;
        samples.push(begin.elapsed().as_secs_f64() * 1000.0);
        ensure!(answer.is_ok(), "{pod:?} does not start: {answer:?}");
        if number == bench.starts {
            alone = programs_alone(&node, pod)?;
        }
        node.end(pod)?;
    }
    let log = node.log();
    let of_agent: Vec<f64> = log.lines().filter(|line| line.contains("protected before")).filter_map(ms).collect();
    ensure!(of_agent.len() == samples.len(), "the agent has told of {} starts", of_agent.len());
    println!(
        "bench {line} p50_ms={:.1} p99_ms={:.1} agent_p50_ms={:.1} agent_p99_ms={:.1} programs_p50_ms={:.1} programs_p99_ms={:.1} samples={}",
        figures::at(&samples, 50),
        figures::at(&samples, 99),
        figures::at(&of_agent, 50),
        figures::at(&of_agent, 99),
        figures::at(&alone, 50),
        figures::at(&alone, 99),
        samples.len(),
    );
    Ok(())
}

/// How long the programs take that write the rules of this Pod into network namespaces that hold its sets already: no agent that
/// uses them is faster.
fn programs_alone(node: &Node, pod: Pod) -> Result<Vec<f64>> {
    let held = Held::read(&node.netns(pod))?;
    // A network namespace that goes keeps the kernel busy for a while: they all go in the end.
    let others: Vec<Pod> = (1..=ALONE).map(|more| Pod { number: pod.number + more, ..pod }).collect();
    for other in &others {
        node.make_netns(*other)?;
        held.make_sets(&node.netns(*other))?;
    }
    let samples = others.iter().map(|other| Ok(held.write(&node.netns(*other))?.as_secs_f64() * 1000.0)).collect();
    others.into_iter().try_for_each(|other| node.end(other))?;
    samples
}

/// How long the agent took, as a line of its log says.
fn ms(line: &str) -> Option<f64> {
    line.split(' ').find_map(|word| word.strip_prefix("ms=")?.parse().ok())
}
