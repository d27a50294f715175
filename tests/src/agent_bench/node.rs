//! What an agent costs with 110 Pods, 30 services and 10 groups of 100 addresses, which all Pods use.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::agent::Agent;
use super::alone::Held;
use super::nets::{Nets, own_address};
use super::objects::{Folder, port};
use super::{Bench, figures, writes};

const SERVICES: u16 = 30;
const GROUPS: usize = 10;
const MEMBERS: u16 = 100;
/// The service over which it is seen who may be reached: datagrams, since what is dropped is an error to their sender.
const SEEN_PORT: u16 = 5000;
const LIMIT: Duration = Duration::from_secs(60);
/// After a change the agent does what can wait, 200 ms later; when it has said nothing for so long, that is over.
const QUIET: Duration = Duration::from_millis(500);

/// The Pods and what they are to enforce.
struct Scene {
    nets: Nets,
    folder: Folder,
}

/// Nobody is allowed to reach these.
fn strangers() -> [SocketAddr; 2] {
    let strangers: [IpAddr; 2] = [Ipv4Addr::new(10, 99, 0, 1).into(), [0xfd99, 0, 0, 0, 0, 0, 0, 0x99].into()];
    strangers.map(|stranger| SocketAddr::new(stranger, SEEN_PORT))
}

/// Members of a group, and one more.
fn members(group: usize, more: Option<IpAddr>) -> Result<Vec<IpAddr>> {
    let high = u8::try_from(100 + group)?;
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        let [third, last] = number.to_be_bytes();
        members.push(Ipv4Addr::new(10, high, third, last).into());
    }
    members.extend(more);
    Ok(members)
}

/// Writes what Pods are to enforce.
///
/// # Errors
/// When files cannot be written.
pub fn put_policy(folder: &Folder) -> Result<()> {
    for group in 0..GROUPS {
        folder.put_group(group, &members(group, None)?)?;
    }
    let mut rules = Vec::new();
    for number in 0..SERVICES {
        let service = if number == 0 { port("UDP", SEEN_PORT) } else { port("TCP", 8000 + number) };
        rules.push((usize::from(number) % GROUPS, service));
    }
    folder.put_rules(&rules)
}

impl Scene {
    fn new(bench: &Bench) -> Result<Self> {
        let folder = Folder::new("node")?;
        put_policy(&folder)?;
        let scene = Self { nets: Nets::new(bench.pods)?, folder };
        let paths: Vec<_> = scene.nets.pods().iter().map(|pod| pod.path()).collect();
        let mut pods = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            pods.push((path.as_path(), own_address(number)?));
        }
        scene.folder.put_pods(pods)?;
        Ok(scene)
    }

    fn start(&self, bench: &Bench) -> Result<Agent> {
        Agent::start(&bench.agent, &self.folder)
    }

    /// What each Pod holds.
    fn held(&self) -> Result<Held> {
        Held::read(&self.nets.pods().first().context("there is no Pod")?.path())
    }

    /// From the start of an agent until no Pod can send what nothing allows, over either family; and the processor time
    /// until then.
    fn cold(&self, bench: &Bench) -> Result<(Agent, f64, f64)> {
        let mut agent = self.start(bench)?;
        let took = self.nets.await_all(&strangers(), false, agent.started(), LIMIT)?;
        let cpu = agent.cpu_with_children()?;
        let known = SocketAddr::new(members(0, None)?[0], SEEN_PORT);
        ensure!(self.nets.pods().iter().all(|pod| pod.may_send(known)), "what is allowed does not pass");
        agent.await_lines(bench.pods, LIMIT, |line| line.contains("CleanedUp"))?;
        Ok((agent, took.as_secs_f64(), cpu))
    }
}

/// `node-cold`, `node-delta`, `node-idle` and `node-restart`, one after the other in the same namespaces.
///
/// # Errors
/// When an agent does not do what it should.
pub fn run(bench: &Bench) -> Result<()> {
    let (mut seconds, mut cpu_s, mut forks, mut alone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut last: Option<(Scene, Agent)> = None;
    for _ in 0..bench.runs {
        if let Some((scene, agent)) = last.take() {
            drop(agent);
            let held = scene.held()?;
            drop(scene);
            alone.push(held.write_all(&Nets::new(bench.pods)?)?.as_secs_f64());
        }
        let scene = Scene::new(bench)?;
        let (agent, took, cpu) = scene.cold(bench)?;
        seconds.push(took);
        cpu_s.push(cpu);
        forks.push(bench.forks.of(agent.pid()));
        last = Some((scene, agent));
    }
    let Some((scene, mut agent)) = last else { return Ok(()) };
    println!(
        "bench node-cold seconds={:.3} forks={} cpu_s={:.2} programs_s={:.3} pods={} services={SERVICES} sets={GROUPS} members={MEMBERS} {}",
        figures::median(&seconds),
        forks.last().copied().unwrap_or_default(),
        figures::median(&cpu_s),
        figures::median(&alone),
        bench.pods,
        figures::spread(&seconds),
    );
    delta(bench, &scene, &mut agent)?;
    idle(bench, &agent)?;
    restart(bench, &scene, agent)
}

/// One address comes into a group that all Pods use, and goes again; each is a sample, until the last Pod shows it.
fn delta(bench: &Bench, scene: &Scene, agent: &mut Agent) -> Result<()> {
    let (before, cpu_before) = (bench.forks.of(agent.pid()), agent.cpu_with_children()?);
    let mut samples = Vec::new();
    for number in 0..bench.samples {
        let [third, last] = u16::try_from(number / 2)?.to_be_bytes();
        let guest: IpAddr = Ipv4Addr::new(10, 200, third, last).into();
        let comes = number % 2 == 0;
        agent.await_quiet(QUIET + Duration::from_millis(u64::try_from(number)? * 37 % 100));
        let begin = Instant::now();
        scene.folder.put_members(0, &members(0, comes.then_some(guest))?)?;
        let took = scene.nets.await_all(&[SocketAddr::new(guest, SEEN_PORT)], comes, begin, LIMIT)?;
        samples.push(took.as_secs_f64() * 1000.0);
    }
    agent.await_quiet(QUIET);
    println!(
        "bench node-delta p50_ms={:.1} p99_ms={:.1} forks={} cpu_ms={:.1} pods={} samples={}",
        figures::at(&samples, 50),
        figures::at(&samples, 99),
        bench.forks.of(agent.pid()) - before,
        (agent.cpu_with_children()? - cpu_before) * 1000.0 / samples.len().max(1) as f64,
        bench.pods,
        samples.len(),
    );
    Ok(())
}

fn idle(bench: &Bench, agent: &Agent) -> Result<()> {
    // What changed last is on disk by then.
    std::thread::sleep(Duration::from_secs(3));
    let (begin, before) = (Instant::now(), agent.cpu()?);
    std::thread::sleep(bench.idle);
    let used = agent.cpu()?.saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64();
    println!(
        "bench node-idle mcpu={:.2} rss_mb={:.1} pods={} seconds={}",
        used * 1000.0,
        agent.memory_kb("VmRSS:")? as f64 / 1024.0,
        bench.pods,
        bench.idle.as_secs(),
    );
    Ok(())
}

/// Whether a line of the agent's tells of a Pod, and not of the gate.
fn of_pod(line: &str) -> bool {
    !line.contains("gate")
}

/// From the start of an agent that finds everything as it should be until it has looked at every Pod.
fn restart(bench: &Bench, scene: &Scene, agent: Agent) -> Result<()> {
    agent.stop()?;
    let (mut ready, mut forks, mut written) = (Vec::new(), 0, 0);
    for _ in 0..bench.runs {
        let before = writes::Kernel::read(&scene.nets, scene.folder.node())?;
        let mut agent = scene.start(bench)?;
        let all = agent.await_lines(bench.pods, LIMIT, |line| {
            of_pod(line) && (line.contains("done=Nothing") || line.contains("in force"))
        })?;
        ready.push((all - agent.started()).as_secs_f64() * 1000.0);
        forks = bench.forks.of(agent.pid());
        agent.await_lines(bench.pods, LIMIT, |line| line.contains("CleanedUp"))?;
        agent.stop()?;
        written += writes::Kernel::read(&scene.nets, scene.folder.node())?.since(&before);
    }
    println!(
        "bench node-restart ready_ms={:.0} kernel_writes={written} forks={forks} pods={} {}",
        figures::median(&ready),
        bench.pods,
        figures::spread(&ready),
    );
    Ok(())
}
