//! What the CNI plugin adds to the start of a Pod: the time that the container runtime waits for it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::objects::Folder;
use super::{Bench, agent, figures, node};
use crate::kernel::in_netns;
use crate::pod_start::{FULL, Node, Pod};
use crate::probe;

/// So often the programs that write rules are measured alone.
const ALONE: u16 = 50;
/// What writes the rules of each family.
const RESTORE: [&str; 2] = ["iptables-nft-restore", "ip6tables-nft-restore"];
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
    let node = Node::new(&bench.agent, plugin, WAIT, bench.starts)?;
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
        "bench {line} p50_ms={:.1} p99_ms={:.1} agent_p50_ms={:.1} agent_p99_ms={:.1} programs_p50_ms={:.1} samples={}",
        figures::at(&samples, 50),
        figures::at(&samples, 99),
        figures::at(&of_agent, 50),
        figures::at(&of_agent, 99),
        figures::at(&alone, 50),
        samples.len(),
    );
    Ok(())
}

/// How long the programs take that write the rules of this Pod, both families at a time as the agent has them, into network
/// namespaces that hold its sets already: no agent that uses them is faster.
fn programs_alone(node: &Node, pod: Pod) -> Result<Vec<f64>> {
    let of_pod = |program: &str, arguments: &[&str]| in_netns(&node.netns(pod), &[&[program], arguments].concat());
    // Chains that are not ours need no mention, and cost time.
    let ours = |saved: String| -> String {
        let lines = saved.lines().filter(|line| !line.starts_with(':') || line.starts_with(":RF-"));
        lines.flat_map(|line| [line, "\n"]).collect()
    };
    let [v4, v6] = ["iptables-nft-save", "ip6tables-nft-save"].map(|program| of_pod(program, &[]).map(ours));
    let (rules, sets) = ([v4?, v6?], of_pod("ipset", &["save"])?);
    // A network namespace that goes keeps the kernel busy for a while: they all go in the end.
    let others: Vec<Pod> = (1..=ALONE).map(|more| Pod { number: pod.number + more, ..pod }).collect();
    for other in &others {
        node.make_netns(*other)?;
        begin(&node.netns(*other), "ipset", &["restore"], &sets)?.wait()?;
    }
    let mut samples = Vec::new();
    for other in &others {
        let (netns, started) = (node.netns(*other), Instant::now());
        let running: Vec<Child> = (RESTORE.iter().zip(&rules))
            .map(|(program, rules)| begin(&netns, program, &["--noflush"], rules))
            .collect::<Result<_>>()?;
        for mut child in running {
            ensure!(child.wait()?.success(), "rules that a Pod has are refused");
        }
        samples.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    others.into_iter().try_for_each(|other| node.end(other))?;
    Ok(samples)
}

/// Starts a program in a network namespace with that as its input.
fn begin(netns: &Path, program: &str, arguments: &[&str], input: &str) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    let mut child = probe::inside(netns, move || command.spawn())?;
    child.stdin.take().context("it is piped")?.write_all(input.as_bytes())?;
    Ok(child)
}

/// How long the agent took, as a line of its log says.
fn ms(line: &str) -> Option<f64> {
    line.split(' ').find_map(|word| word.strip_prefix("ms=")?.parse().ok())
}
