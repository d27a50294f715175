//! How long a change takes until connections show it: from the apiserver, from git, and from a Pod's address.
//!
//! A hundred Pods in Full on two nodes; the rule that changes concerns two clients and ten servers of them. Each sample
//! looks at one of the twenty pairs, by connections that are tried every two milliseconds from inside the client's
//! network namespace.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::lab::{Lab, SLOW, pod_ip};
use crate::manifests::{controller, namespace, pod, profile, rule, rule_set};
use crate::probe::{self, Seen};
use crate::source::PolicySource;

const SPACE: &str = "bench";
const CLIENTS: usize = 2;
const SERVERS: usize = 10;
/// Namespaces of Pods that the changed rule does not concern, and how many each holds.
const OTHERS: [(&str, usize); 4] = [("bench-a", 22), ("bench-b", 22), ("bench-c", 22), ("bench-d", 22)];
/// How often a connection is tried.
const PERIOD: Duration = Duration::from_millis(2);
/// How long a change may take before the bench gives up.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two writes, so that the second meets a quiet system; varied, so that it meets every phase of every timer.
const PAUSE: Duration = Duration::from_millis(150);

/// Durations of one kind.
pub struct Series {
    name: &'static str,
    samples: Vec<Duration>,
}

impl Series {
    fn new(name: &'static str) -> Self {
        Self { name, samples: Vec::new() }
    }

    /// The line that is printed.
    pub fn line(&self) -> String {
        let mut sorted = self.samples.clone();
        sorted.sort();
        let at = |percent: usize| {
            // The smallest sample that at least so many percent are not above.
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).map_or(0.0, |sample| sample.as_secs_f64() * 1000.0)
        };
        let (name, count) = (self.name, sorted.len());
        format!("bench {name} p50_ms={:.1} p99_ms={:.1} max_ms={:.1} samples={count}", at(50), at(99), at(100))
    }
}

/// The hundred Pods.
struct Scene<'a> {
    lab: &'a Lab,
    clients: Vec<PathBuf>,
    servers: Vec<SocketAddr>,
    /// Flips that were seen before their cause, and were taken again.
    early: usize,
}

/// Sets up, measures, and prints a line for each series as soon as it is there.
///
/// # Errors
/// When a change is not seen at all, or the scene cannot be set up.
pub async fn run(lab: &Lab, samples: usize, filter: Option<&str>) -> Result<()> {
    let mut scene = Scene::deploy(lab).await?;
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    if wanted("policy-write") {
        let before = cpu(lab)?;
        let (open, close) = scene.policy_writes(samples).await?;
        println!("{}\n{}", open.line(), close.line());
        print_cpu(before, cpu(lab)?, samples * 2);
    }
    if wanted("pod-join") {
        println!("{}", scene.pod_joins(samples).await?.line());
    }
    if wanted("commit-open") {
        println!("{}", scene.commits(samples).await?.line());
    }
    println!("note {}", machine(scene.early)?);
    Ok(())
}

fn light(mut object: Value, template: &str) -> Value {
    // One listener is enough; a hundred Pods are two hundred containers otherwise.
    let containers = object.pointer_mut(template).and_then(|spec| spec["containers"].as_array_mut());
    if let Some(containers) = containers {
        containers.truncate(1);
    }
    object
}

fn node(number: usize) -> &'static str {
    if number.is_multiple_of(2) { "node2" } else { "node3" }
}

/// The RuleSet that changes. It always lets the joining Pods be reached.
fn rules(open: bool) -> Value {
    let mut rules = vec![rule("client-to-joiner", "Allow", (SPACE, "client"), (SPACE, "joiner"))];
    if open {
        rules.push(rule("client-to-server", "Allow", (SPACE, "client"), (SPACE, "server")));
    }
    rule_set("bench", &rules)
}

impl<'a> Scene<'a> {
    async fn deploy(lab: &'a Lab) -> Result<Self> {
        eprintln!("bench: deploying {} Pods", CLIENTS + SERVERS + OTHERS.iter().map(|(_, count)| count).sum::<usize>());
        for (space, count) in OTHERS {
            lab.apply(&namespace(space)).await?;
            lab.apply(&profile(space, "Full", &["other"])).await?;
            let others = controller("Deployment", space, "other", "other", u32::try_from(count)?);
            lab.apply(&light(others, "/spec/template/spec")).await?;
            lab.await_pods(space, "name=other", count).await?;
        }
        let among: Vec<Value> =
            OTHERS.iter().map(|(space, _)| rule(space, "Allow", (space, "other"), (space, "other"))).collect();
        lab.apply(&rule_set("bench-others", &among)).await?;
        lab.apply(&namespace(SPACE)).await?;
        lab.apply(&profile(SPACE, "Full", &["client", "server", "joiner"])).await?;
        lab.apply(&rules(false)).await?;
        for (role, count) in [("client", CLIENTS), ("server", SERVERS)] {
            for number in 0..count {
                let one = pod(SPACE, &format!("{role}-{number}"), role, Some(node(number)));
                lab.apply(&light(one, "/spec")).await?;
            }
        }
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for number in 0..SERVERS {
            let server = lab.await_pod(SPACE, &format!("server-{number}")).await?;
            servers.push(SocketAddr::new(pod_ip(&server)?, 8080));
        }
        for number in 0..CLIENTS {
            let name = format!("client-{number}");
            lab.await_pod(SPACE, &name).await?;
            clients.push(lab.netns(SPACE, &name)?);
        }
        lab.await_ready("ContainerWorkloadProfile", None, SPACE).await?;
        lab.await_ready("RuleSet", None, "bench").await?;
        Ok(Self { lab, clients, servers, early: 0 })
    }

    /// The pair that a sample looks at: each client and each server comes up equally often.
    fn pair(&self, number: usize) -> Result<(PathBuf, SocketAddr)> {
        let client = self.clients.get(number % self.clients.len()).context("no clients")?;
        let server = self.servers.get((number / self.clients.len()) % self.servers.len()).context("no servers")?;
        Ok((client.clone(), *server))
    }

    /// The rule comes and goes by a write of the RuleSet. Measured from the moment before the write is sent.
    async fn policy_writes(&mut self, samples: usize) -> Result<(Series, Series)> {
        let (mut open, mut close) = (Series::new("policy-write-open"), Series::new("policy-write-close"));
        let mut number = 0;
        while open.samples.len() < samples || close.samples.len() < samples {
            for (opens, series) in [(true, &mut open), (false, &mut close)] {
                let (client, server) = self.pair(number)?;
                let watcher = watch(client, server, opens);
                settle(number).await;
                let written = Instant::now();
                self.lab.apply(&rules(opens)).await?;
                let seen = watcher.await??.with_context(|| format!("{server} did not change"))?;
                self.note(series, samples, written, seen);
                self.lab.await_ready("RuleSet", None, "bench").await?;
            }
            number += 1;
            progress("policy writes", open.samples.len(), samples);
        }
        Ok((open, close))
    }

    /// A server joins. Measured from the watch event that brings its first `status.podIP`.
    async fn pod_joins(&mut self, samples: usize) -> Result<Series> {
        let mut series = Series::new("pod-join");
        let mut number = 0;
        while series.samples.len() < samples {
            let name = format!("joiner-{number}");
            // On the client's own node and on the other one by turns.
            let joiner = light(pod(SPACE, &name, "joiner", Some(node(number / CLIENTS))), "/spec");
            let (written, address) = self.start_and_watch(&name, &joiner).await?;
            let (client, _) = self.pair(number)?;
            let seen = watch(client, address, true).await??;
            let seen = seen.with_context(|| format!("{name} was never reached at {address}"))?;
            self.note(&mut series, samples, written, seen);
            self.lab.delete("v1", "Pod", Some(SPACE), &name).await?;
            number += 1;
            progress("Pods that join", series.samples.len(), samples);
        }
        Ok(series)
    }

    async fn start_and_watch(&self, name: &str, joiner: &Value) -> Result<(Instant, SocketAddr)> {
        let pods: Api<Pod> = Api::namespaced(self.lab.client.clone(), SPACE);
        let parameters = WatchParams::default().fields(&format!("metadata.name={name}"));
        let now = pods.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
        let mut events = pods.watch(&parameters, &now).await?.boxed();
        self.lab.apply(joiner).await?;
        let first = async {
            while let Some(event) = events.try_next().await? {
                match event {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                        if let Ok(address) = pod_ip(&pod) {
                            return Ok((Instant::now(), SocketAddr::new(address, 8080)));
                        }
                    }
                    WatchEvent::Error(status) => anyhow::bail!("failed to watch {name}: {}", status.message),
                    WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                }
            }
            anyhow::bail!("the watch of {name} ended")
        };
        tokio::time::timeout(SLOW, first).await.with_context(|| format!("{name} got no address"))?
    }

    /// The rule comes and goes by commits. Measured from the end of the push of one that lets it come; a git server's web
    /// hook tells the controller at once.
    async fn commits(&mut self, samples: usize) -> Result<Series> {
        let empty = std::env::temp_dir().join("ringfence-bench-policy");
        std::fs::create_dir_all(&empty).context("failed to make a folder")?;
        let source = PolicySource::create(self.lab, "bench", &empty).await?;
        let mut spec = source.spec("")?;
        // So that it is the web hook that is measured and not how lucky the interval was.
        spec["interval"] = json!("1h");
        self.commit(&source, false).await?;
        source.point(&spec).await?;
        let mut series = Series::new("commit-open");
        let mut number = 0;
        while series.samples.len() < samples {
            let (client, server) = self.pair(number)?;
            self.lab.await_seen(&client, server, Seen::Dropped, LIMIT).await?;
            let watcher = watch(client, server, true);
            settle(number).await;
            let pushed = self.commit(&source, true).await?;
            let seen = watcher.await??.with_context(|| format!("{server} did not open"))?;
            self.note(&mut series, samples, pushed, seen);
            self.lab.await_ready("RuleSet", None, "bench-git").await?;
            self.commit(&source, false).await?;
            number += 1;
            progress("commits", series.samples.len(), samples);
        }
        source.delete().await?;
        Ok(series)
    }

    async fn commit(&self, source: &PolicySource, open: bool) -> Result<Instant> {
        let mut set = rules(open);
        set["metadata"]["name"] = json!("bench-git");
        source.repo.write("rules.yaml", &serde_saphyr::to_string(&set).context("failed to write YAML")?)?;
        let commit = source.repo.commit(if open { "open" } else { "close" })?;
        let pushed = Instant::now();
        // Before there is a PolicyRepository there is nobody to tell.
        if source.live().await.is_ok() {
            source.notify(&commit).await?;
        }
        Ok(pushed)
    }

    /// Takes a sample, unless something else than the change was seen: a lost packet on a busy machine.
    fn note(&mut self, series: &mut Series, samples: usize, cause: Instant, seen: Instant) {
        if seen < cause {
            self.early += 1;
        } else if series.samples.len() < samples {
            series.samples.push(seen - cause);
        }
    }
}

fn watch(
    client: PathBuf,
    server: SocketAddr,
    opens: bool,
) -> tokio::task::JoinHandle<std::io::Result<Option<Instant>>> {
    tokio::task::spawn_blocking(move || probe::watch_flip(&client, server, opens, PERIOD, LIMIT))
}

async fn settle(number: usize) {
    let extra = Duration::from_millis((number as u64 * 37) % 100);
    tokio::time::sleep(PAUSE + extra).await;
}

fn progress(what: &str, done: usize, of: usize) {
    if done.is_multiple_of(25) {
        eprintln!("bench: {done} of {of} {what}");
    }
}

/// Processor time so far of controller and agents, in milliseconds.
fn cpu(lab: &Lab) -> Result<[u64; 2]> {
    let mut namespaces = BTreeSet::new();
    for sandbox in lab.bed.sandboxes()?.iter().filter(|sandbox| sandbox.namespace == crate::source::SYSTEM) {
        namespaces.insert(std::fs::metadata(&sandbox.netns)?.ino());
    }
    let mut sums = [0, 0];
    for entry in std::fs::read_dir("/proc")? {
        let folder = entry?.path();
        // A process may end while it is looked at.
        let (Ok(name), Ok(stat)) =
            (std::fs::read_to_string(folder.join("comm")), std::fs::read_to_string(folder.join("stat")))
        else {
            continue;
        };
        let which = match name.trim() {
            "ringfence-contr" => 0,
            "cven" => 1,
            _ => continue,
        };
        let inside = std::fs::metadata(folder.join("ns/net")).is_ok_and(|file| namespaces.contains(&file.ino()));
        if inside {
            sums[which] += ticks(&stat) * 10;
        }
    }
    Ok(sums)
}

/// User and system time in hundredths of a second, also that of children that are over (iptables and the like).
pub(crate) fn ticks(stat: &str) -> u64 {
    // The name in parentheses may hold spaces; utime is the twelfth field after it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn print_cpu(before: [u64; 2], after: [u64; 2], writes: usize) {
    let each = |which: usize| after[which].saturating_sub(before[which]) as f64 / writes.max(1) as f64;
    println!("note cpu per policy write: controller {:.1} ms, all agents {:.1} ms", each(0), each(1));
}

fn machine(early: usize) -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let cores = std::thread::available_parallelism()?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    ensure!(load.len() == 3, "/proc/loadavg holds {load:?}");
    Ok(format!("machine: {cores} cores, load average {}; {early} samples taken again", load.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples = (1..=200).rev().map(Duration::from_millis).collect();
        let series = Series { name: "x", samples };
        assert_eq!(series.line(), "bench x p50_ms=100.0 p99_ms=198.0 max_ms=200.0 samples=200");
        let one = Series { name: "y", samples: vec![Duration::from_micros(1500)] };
        assert_eq!(one.line(), "bench y p50_ms=1.5 p99_ms=1.5 max_ms=1.5 samples=1");
    }

    #[test]
    fn processor_time_is_read_behind_the_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 10 20 3 4 20 0 1 0 100";
        assert_eq!(ticks(stat), 37);
    }
}
