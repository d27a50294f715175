//! `make bench`: how long the compiler takes, in the shapes that the field publishes. Each runs in a process of its own,
//! so that its peak of memory is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use ringfence_compile::cluster::{ClusterState, PodInfo};
use ringfence_compile::compile::{Changes, Compiler, Computed, Dirty, Input};
use ringfence_compile::policy::Policy;
use ringfence_crds::ContainerWorkloadProfileSpec;
use ringfence_model::{PolicyState, StringMap};
use ringfence_sim::rss;
use ringfence_sim::shapes::{self, Shape, pod_key};
use serde::Serialize;

/// The one that the controller has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the compiler; one line a benchmark.
#[derive(Parser)]
struct Arguments {
    /// Only this one, in this process.
    name: Option<String>,
    /// Instead of the printed size, a small one: a test of the benchmark itself.
    #[arg(long)]
    small: bool,
}

/// How often a whole compilation is run; the median is printed. How long it takes depends on whether the kernel has
/// memory at hand.
const RUNS: usize = 5;
const NAMES: [&str; 8] = [
    "small-namespaces",
    "large-namespaces",
    "one-namespace",
    "policy-per-pod",
    "cluster-scoped",
    "isolated-customers",
    "pod-event",
    "policy-edit",
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.name {
        Some(name) if NAMES.contains(&name.as_str()) => {
            run(&name, arguments.small);
            ExitCode::SUCCESS
        }
        Some(name) => {
            eprintln!("bench: there is no '{name}'; there are: {}", NAMES.join(", "));
            ExitCode::from(2)
        }
        None => each_in_its_own_process(arguments.small),
    }
}

fn each_in_its_own_process(small: bool) -> ExitCode {
    for name in NAMES {
        let runs = if name.contains("pod-event") || name.contains("policy-edit") { 1 } else { RUNS };
        let Some(mut lines) = (0..runs).map(|_| in_a_process(name, small)).collect::<Option<Vec<String>>>() else {
            eprintln!("bench: {name} failed");
            return ExitCode::FAILURE;
        };
        lines.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
        let (fastest, slowest) = (seconds(&lines[0]), seconds(&lines[runs - 1]));
        match lines[runs / 2].trim_end() {
            several if runs == 1 => println!("{several}"),
            median => println!("{median} runs={runs} fastest={fastest:.3} slowest={slowest:.3}"),
        }
    }
    ExitCode::SUCCESS
}

/// What a benchmark printed that ran in a process of its own.
fn in_a_process(name: &str, small: bool) -> Option<String> {
    let output =
        Command::new(std::env::current_exe().ok()?).arg(name).args(small.then_some("--small")).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The seconds that a line of a benchmark says.
fn seconds(line: &str) -> f64 {
    let field = line.split_whitespace().find_map(|field| field.strip_prefix("seconds="));
    field.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn run(name: &str, small: bool) {
    let size = |full: usize, little: usize| if small { little } else { full };
    match name {
        "small-namespaces" => whole(name, &shapes::small_namespaces(size(25_000, 25), size(1000, 10))),
        "large-namespaces" => whole(name, &shapes::large_namespaces(size(100, 2), size(1000, 20))),
        "one-namespace" => whole(name, &shapes::one_namespace(size(10_000, 20), size(10_000, 20))),
        "policy-per-pod" => whole(name, &shapes::policy_per_pod(size(10_000, 20))),
        "cluster-scoped" => whole(name, &shapes::cluster_scoped(size(1000, 20), size(100, 10), size(10_000, 20))),
        "isolated-customers" => whole(name, &shapes::isolated_customers(1000, size(1000, 10), size(100, 6))),
        "pod-event" => [10, 1000, 100_000].into_iter().for_each(|members| pod_events(size(members, 10))),
        _ => policy_edits(small),
    }
}

/// Everything, from decoded objects to every computed object built and compared with nothing. Beside it what nobody can do
/// without: reading every input and writing every object once, by one core.
fn whole(name: &str, shape: &Shape) {
    let inputs_mb = rss::peak_mb();
    let begin = Instant::now();
    let compiler = Compiler::new(&shape.policy, &shape.cluster);
    let changes = Changes::between(&Computed::default(), compiler.computed());
    let seconds = begin.elapsed().as_secs_f64();
    let peak_rss_mb = rss::peak_mb();
    let computed = compiler.computed();
    let floor = floor(shape, computed).as_secs_f64();
    println!(
        "bench {name} seconds={seconds:.3} peak_rss_mb={peak_rss_mb} inputs_mb={inputs_mb} objects={} bytes={} rules={} \
         classes={} members={} pods={} serialised=no floor_seconds={floor:.3} ratio={:.1}",
        changes.written(),
        bytes(computed),
        computed.workload_policies.values().map(|policy| policy.rules.len()).sum::<usize>(),
        computed.address_groups.values().filter(|group| group.slice == 0 && group.service.is_none()).count(),
        computed.address_groups.values().map(|group| group.members.len()).sum::<usize>(),
        computed.container_workloads.len(),
        seconds / floor,
    );
}

/// How long it takes to read every input once and to write every computed object once.
fn floor(shape: &Shape, computed: &Computed) -> Duration {
    let begin = Instant::now();
    // Comparing reads all of both, which are the same memory.
    let same = |policy: &Policy, cluster: &ClusterState| *policy == shape.policy && *cluster == shape.cluster;
    black_box(same(black_box(&shape.policy), black_box(&shape.cluster)));
    let objects = (
        computed.node_policies.clone(),
        computed.workload_policies.clone(),
        computed.peer_groups.clone(),
        computed.address_groups.clone(),
    );
    let elapsed = begin.elapsed();
    black_box(objects);
    elapsed
}

/// How long the computed objects are as JSON.
fn bytes(computed: &Computed) -> usize {
    fn of<S: Serialize>(specs: &BTreeMap<String, S>) -> usize {
        specs.values().filter_map(|spec| serde_json::to_vec(spec).ok()).map(|json| json.len()).sum()
    }
    of(&computed.node_policies)
        + of(&computed.workload_policies)
        + of(&computed.peer_groups)
        + of(&computed.address_groups)
}

/// Durations of single events.
#[derive(Default)]
struct Series {
    samples: Vec<Duration>,
    /// How long it takes to write once what the event wrote.
    floors: Vec<Duration>,
    writes: usize,
}

impl Series {
    fn take(&mut self, compiler: &mut Compiler, event: impl FnOnce(&mut Compiler) -> Changes) {
        let begin = Instant::now();
        let changes = event(compiler);
        self.samples.push(begin.elapsed());
        self.floors.push(floor_of_changes(&changes, compiler.computed()));
        self.writes = self.writes.max(changes.written());
    }

    fn print(mut self, name: &str, more: &str) {
        self.samples.sort();
        self.floors.sort();
        println!(
            "bench {name} p50_us={:.1} p99_us={:.1} samples={} writes={} floor_us={:.1} {more}",
            at(&self.samples, 50),
            at(&self.samples, 99),
            self.samples.len(),
            self.writes,
            at(&self.floors, 50),
        );
    }
}

/// The sample that so many percent are not above, in microseconds.
fn at(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |sample| sample.as_secs_f64() * 1e6)
}

fn floor_of_changes(changes: &Changes, computed: &Computed) -> Duration {
    fn copies<'a, S: Clone>(names: &'a BTreeSet<String>, specs: &'a BTreeMap<String, S>) -> impl Iterator<Item = S> {
        names.iter().filter_map(|name| specs.get(name).cloned())
    }
    let begin = Instant::now();
    let written = (
        copies(&changes.workload_policies, &computed.workload_policies).collect::<Vec<_>>(),
        copies(&changes.peer_groups, &computed.peer_groups).collect::<Vec<_>>(),
        copies(&changes.address_groups, &computed.address_groups).collect::<Vec<_>>(),
    );
    let elapsed = begin.elapsed();
    black_box(written);
    elapsed
}

/// Pods are added to a group, relabelled to another one, and deleted.
fn pod_events(members: usize) {
    let mut shape = shapes::one_group(members);
    let mut compiler = Compiler::new(&shape.policy, &shape.cluster);
    let (mut add, mut relabel, mut delete) = (Series::default(), Series::default(), Series::default());
    for number in members..members + 2000 {
        let key = pod_key("ns", number);
        let dirty = || {
            let mut dirty = Dirty::default();
            dirty.mark(Input::Pod(key.clone()));
            dirty
        };
        let pod = |app: &str| PodInfo {
            annotations: StringMap::from_iter([("ringfence.dev/app".to_owned(), app.to_owned())]),
            ips: vec![shapes::address(number)],
            node: Some("node-1".to_owned()),
            ..PodInfo::default()
        };
        shape.cluster.pods.insert(key.clone(), pod("app-0"));
        add.take(&mut compiler, |compiler| compiler.update(&shape.policy, &shape.cluster, dirty()));
        shape.cluster.pods.insert(key.clone(), pod("app-1"));
        relabel.take(&mut compiler, |compiler| compiler.update(&shape.policy, &shape.cluster, dirty()));
        shape.cluster.pods.remove(&key);
        delete.take(&mut compiler, |compiler| compiler.update(&shape.policy, &shape.cluster, dirty()));
    }
    for (series, what) in [(add, "add"), (relabel, "relabel"), (delete, "delete")] {
        series.print("pod-event", &format!("event={what} members={members}"));
    }
}

/// One rule of ten thousand changes; a rule that concerns every class comes and goes; a namespace changes its state.
fn policy_edits(small: bool) {
    let mut shape = shapes::cluster_scoped(if small { 20 } else { 1000 }, 10, if small { 20 } else { 10_000 });
    let mut compiler = Compiler::new(&shape.policy, &shape.cluster);
    let mut series = Series::default();
    for number in 0..if small { 10 } else { 1000 } {
        let name = format!("policy-{number}");
        if let Some(spec) = shape.policy.rule_sets.get_mut(&name)
            && let Some(port) = spec.rules.first_mut().and_then(|rule| rule.services.first_mut())
        {
            port.port = Some(65_001);
        }
        let mut dirty = Dirty::default();
        dirty.mark(Input::RuleSet(name));
        series.take(&mut compiler, |compiler| compiler.update(&shape.policy, &shape.cluster, dirty));
    }
    series.print("policy-edit", "edit=one-of-many");

    every_class(small);
    a_namespace(small, "flip-the-state-of-a-namespace-of-3000-pods", |profile, odd| {
        profile.policy_state = Some(if odd { PolicyState::Full } else { PolicyState::VisibilityOnly });
    });
    a_namespace(small, "manage-and-unmanage-a-namespace-of-3000-pods", |profile, odd| profile.managed = odd);
}

/// A rule that concerns every class: the first one brings the PeerGroups of its actors, later ones find them.
fn every_class(small: bool) {
    let mut shape = shapes::small_namespaces(if small { 20 } else { 12_500 }, 100);
    let mut compiler = Compiler::new(&shape.policy, &shape.cluster);
    let everyone = || vec![shapes::term(&[("app", "app-0")]), shapes::term(&[("app", "app-1")])];
    let (mut first, mut later) = (Series::default(), Series::default());
    for number in 0..100 {
        let name = format!("everyone-{number}");
        shape.policy.rule_sets.insert(name.clone(), shapes::rule_set(&[], everyone(), everyone(), 9100));
        let mut dirty = Dirty::default();
        dirty.mark(Input::RuleSet(name));
        let series = if number == 0 { &mut first } else { &mut later };
        series.take(&mut compiler, |compiler| compiler.update(&shape.policy, &shape.cluster, dirty));
    }
    first.print("policy-edit", "edit=first-rule-that-concerns-every-class");
    later.print("policy-edit", "edit=rule-that-concerns-every-class");
}

/// The profile of a large namespace changes to and fro.
fn a_namespace(small: bool, what: &str, edit: impl Fn(&mut ContainerWorkloadProfileSpec, bool)) {
    let mut shape = shapes::large_namespaces(1, if small { 30 } else { 3000 });
    let mut compiler = Compiler::new(&shape.policy, &shape.cluster);
    let mut series = Series::default();
    for number in 0..100 {
        if let Some(profile) = shape.policy.profiles.get_mut("ns-0") {
            edit(profile, number % 2 == 1);
        }
        let mut dirty = Dirty::default();
        dirty.mark(Input::Profile("ns-0".to_owned()));
        series.take(&mut compiler, |compiler| compiler.update(&shape.policy, &shape.cluster, dirty));
    }
    series.print("policy-edit", &format!("edit={what}"));
}
