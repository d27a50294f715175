//! What it costs the apiserver to tell agents about Pods that come and go: agents that watch the AddressGroups of
//! interest, held against agents that all watch all Pods.
//!
//! Agents are simulated in this process, each with a watch of its own on a connection of its own, as real ones have
//! (HTTP/1.1 over TLS). A Pod that comes or goes is one write: of the slice of its class, or of the Pod.

mod agents;
mod objects;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bench::ticks;
use agents::{Agents, Traffic};
use objects::Objects;

/// Classes, of twenty Pods each.
pub const CLASSES: usize = 1000;
/// How many watch events of all agents together one run may cause, so that one in which the apiserver falls behind ends.
const DELIVERIES: usize = 100_000;
/// For how long Pods come and go.
const SECONDS: usize = 10;
/// How long the last event may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A tick of the kernel's accounting, in milliseconds.
const TICK_MS: f64 = 10.0;

/// What agents watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The AddressGroups in the buckets of so many classes.
    Interest(usize),
    /// All Pods.
    AllPods,
}

/// Measures, and prints a line for each run as soon as it is there. `apiserver`: its process.
///
/// # Errors
/// When the apiserver does not do what it is asked.
pub async fn run(client: &Client, apiserver: i32, agents: &[usize]) -> Result<()> {
    let mut objects = Objects::make(client).await?;
    measure(client, apiserver, &mut objects, 0, Mode::Interest(10), &[20, 100]).await?;
    measure(client, apiserver, &mut objects, 0, Mode::AllPods, &[20, 100]).await?;
    for count in agents {
        measure(client, apiserver, &mut objects, *count, Mode::Interest(10), &[20, 100]).await?;
        measure(client, apiserver, &mut objects, *count, Mode::AllPods, &[20, 100]).await?;
    }
    // Ten times the agents, as many of which are interested as of a tenth of them above.
    if let (Some(least), Some(most)) = (agents.iter().min(), agents.iter().max()) {
        let each = (10 * least / most).max(1);
        measure(client, apiserver, &mut objects, *most, Mode::Interest(each), &[20, 100]).await?;
    }
    Ok(())
}

async fn measure(
    client: &Client,
    apiserver: i32,
    objects: &mut Objects,
    count: usize,
    mode: Mode,
    churns: &[usize],
) -> Result<()> {
    let agents = Agents::connect(client, count, mode, objects).await?;
    for churn in churns {
        let events = (churn * SECONDS).min(DELIVERIES / agents.told_of_one().max(1)).max(20);
        let traffic = agents.begin(objects.written(), events);
        let (cpu, begin) = (cpu_ticks(apiserver)?, Instant::now());
        write(client, objects, mode, *churn, &traffic).await?;
        let expected = traffic.expected.load(Relaxed);
        // What is not there by then is counted as not delivered.
        let _ = timeout(PATIENCE, traffic.all_received()).await;
        let took = begin.elapsed().as_secs_f64();
        let ticks = cpu_ticks(apiserver)? - cpu;
        let per_event = |amount: f64| amount / events as f64;
        let [interested, told, bytes] =
            [&traffic.interested, &traffic.received, &traffic.bytes].map(|n| n.load(Relaxed));
        let (name, classes) = match mode {
            Mode::Interest(classes) => ("interest", classes),
            Mode::AllPods => ("all-pods", 0),
        };
        println!(
            "bench fan-out agents={count} churn={churn} mode={name} bytes_per_event={:.0} api_cpu_ms_per_event={:.1} p99_ms={:.1} p50_ms={:.1} \
             interested={:.1} told={:.1} classes_each={classes} delivered={:.0}% events={events} written_s={:.1} took_s={took:.1}",
            per_event(bytes as f64),
            per_event(ticks as f64 * TICK_MS),
            agents.within_ms(99),
            agents.within_ms(50),
            per_event(interested as f64),
            per_event(told as f64),
            if expected == 0 { 100.0 } else { 100.0 * told as f64 / expected as f64 },
            traffic.written_s(),
        );
    }
    Ok(())
}

/// Writes as many objects a second as Pods come and go, whether or not the apiserver keeps up.
async fn write(client: &Client, objects: &mut Objects, mode: Mode, churn: usize, traffic: &Arc<Traffic>) -> Result<()> {
    let mut ticks = interval(Duration::from_secs_f64(1.0 / churn as f64));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writes = JoinSet::new();
    for _ in 0..traffic.events() {
        ticks.tick().await;
        let next = objects.next(mode);
        let (client, traffic) = (client.clone(), traffic.clone());
        traffic.sending(next.number());
        writes.spawn(async move { next.write(&client).await });
    }
    while let Some(written) = writes.join_next().await {
        written.context("a write panicked")??;
    }
    traffic.all_written();
    Ok(())
}

/// Processor time of a process so far.
fn cpu_ticks(process: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("failed to look at the apiserver")?;
    Ok(ticks(&stat))
}
