//! Simulated agents: a watch each, read as fast as it comes.

use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{AsyncBufRead, AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use kube::Client;
use kube::core::Request;
use kube::core::params::WatchParams;
use ringfence_dataplane::Buckets;
use tokio::task::JoinSet;

use super::objects::{self, Objects};
use super::{CLASSES, Mode};

/// How many agents connect at a time.
const CONNECTING: usize = 32;

/// The writes of one run, and what agents see of them.
#[derive(Debug)]
pub struct Traffic {
    /// Number of the first write.
    first: usize,
    sent: Box<[OnceLock<Instant>]>,
    begun: Instant,
    written: OnceLock<Duration>,
    /// Watch events to come.
    pub expected: AtomicU64,
    /// Of the writes, how many agents have the class among those of interest.
    pub interested: AtomicU64,
    /// Watch events that came.
    pub received: AtomicU64,
    /// Their size on the wire, without TLS and the framing of chunks.
    pub bytes: AtomicU64,
    audience: Arc<Audience>,
}

/// How many agents are interested in, and are told of, each class.
#[derive(Debug)]
struct Audience {
    interested: Vec<u64>,
    told: Vec<u64>,
}

impl Traffic {
    /// How many writes there are.
    pub fn events(&self) -> usize {
        self.sent.len()
    }

    /// A write is about to be sent.
    pub fn sending(&self, number: usize) {
        if let Some(sent) = self.sent.get(number - self.first) {
            // Each is sent once.
            let _ = sent.set(Instant::now());
            self.expected.fetch_add(self.audience.told[objects::class_of(number)], Relaxed);
            self.interested.fetch_add(self.audience.interested[objects::class_of(number)], Relaxed);
        }
    }

    /// Everything has been written.
    pub fn all_written(&self) {
        let _ = self.written.set(self.begun.elapsed());
    }

    /// How long writing took.
    pub fn written_s(&self) -> f64 {
        self.written.get().copied().unwrap_or_default().as_secs_f64()
    }

    /// Waits until agents have been told everything.
    pub async fn all_received(&self) {
        while self.received.load(Relaxed) < self.expected.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Agents that watch, until this is dropped.
pub struct Agents {
    audience: Arc<Audience>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// What agents write to.
#[derive(Default)]
struct Shared {
    traffic: Mutex<Option<Arc<Traffic>>>,
    /// From a write to an agent that is interested, in microseconds.
    latencies: Mutex<Vec<u32>>,
}

/// The classes that an agent is interested in.
fn classes_of(agent: usize, count: usize) -> impl Iterator<Item = usize> {
    // 7 and 101 have no factor in common with the number of classes: every class has as many agents as every other.
    (0..count).map(move |number| (agent * 7 + number * 101) % CLASSES)
}

impl Agents {
    /// Starts so many agents, and waits until all of them watch.
    pub async fn connect(client: &Client, count: usize, mode: Mode, objects: &Objects) -> Result<Self> {
        let mut audience = Audience { interested: vec![0; CLASSES], told: vec![0; CLASSES] };
        let mut wanted = Vec::new();
        for agent in 0..count {
            let (mut buckets, mut interesting) = (Buckets::default(), vec![mode == Mode::AllPods; CLASSES]);
            if let Mode::Interest(each) = mode {
                for class in classes_of(agent, each) {
                    buckets.insert(&objects::class_id(class));
                    interesting[class] = true;
                }
            }
            for (class, interests) in interesting.iter().enumerate() {
                let told = mode == Mode::AllPods || buckets.holds(&objects::class_id(class));
                audience.interested[class] += u64::from(*interests);
                audience.told[class] += u64::from(told);
            }
            let selector = matches!(mode, Mode::Interest(_)).then(|| buckets.of_address_groups());
            wanted.push((selector, interesting));
        }
        let version = objects.version(client, mode).await?;
        let shared = Arc::new(Shared::default());
        let begin = |(selector, interesting): (Option<String>, Vec<bool>)| {
            let agent = Agent { client: client.clone(), mode, selector, interesting, shared: shared.clone() };
            let version = version.clone();
            async move {
                let lines = agent.watch(&version).await?;
                anyhow::Ok((agent, lines))
            }
        };
        let watching: Vec<_> = stream::iter(wanted)
            .map(begin)
            .buffer_unordered(CONNECTING)
            .try_collect()
            .await
            .context("failed to watch")?;
        let mut tasks = JoinSet::new();
        for (agent, lines) in watching {
            tasks.spawn(agent.follow(lines, version.clone()));
        }
        Ok(Self { audience: Arc::new(audience), shared, _tasks: tasks })
    }

    /// How many agents are told of one write, on average.
    pub fn told_of_one(&self) -> usize {
        usize::try_from(self.audience.told.iter().sum::<u64>()).unwrap_or(usize::MAX) / CLASSES
    }

    /// Counts what comes of the next writes.
    pub fn begin(&self, first: usize, events: usize) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic {
            first,
            sent: (0..events).map(|_| OnceLock::new()).collect(),
            begun: Instant::now(),
            written: OnceLock::new(),
            expected: AtomicU64::new(0),
            interested: AtomicU64::new(0),
            received: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            audience: self.audience.clone(),
        });
        *lock(&self.shared.traffic) = Some(traffic.clone());
        lock(&self.shared.latencies).clear();
        traffic
    }

    /// From a write to the agents that are interested: what so many of 100 do not exceed.
    pub fn within_ms(&self, percent: usize) -> f64 {
        let mut sorted = lock(&self.shared.latencies).clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }
}

/// Nobody panics while holding one of these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The events of a watch, one a line.
type Lines = Pin<Box<dyn AsyncBufRead + Send>>;

struct Agent {
    client: Client,
    mode: Mode,
    selector: Option<String>,
    /// By class.
    interesting: Vec<bool>,
    shared: Arc<Shared>,
}

impl Agent {
    async fn watch(&self, version: &str) -> Result<Lines> {
        let mut parameters = WatchParams::default().timeout(290);
        if let Some(selector) = &self.selector {
            parameters = parameters.labels(selector);
        }
        let request = Request::new(objects::path(self.mode)).watch(&parameters, version)?;
        Ok(Box::pin(self.client.request_stream(request).await?))
    }

    /// Reads events; a watch that the apiserver has ended is resumed.
    async fn follow(self, mut lines: Lines, mut version: String) {
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
                self.received(&line);
                version = objects::version_in(&line).unwrap_or(version);
                continue;
            }
            // What is lost on the way counts as not delivered.
            match self.watch(&version).await {
                Ok(again) => lines = again,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn received(&self, line: &[u8]) {
        let Some(number) = objects::number_in(line) else { return };
        let Some(traffic) = lock(&self.shared.traffic).clone() else { return };
        let sent = number.checked_sub(traffic.first).and_then(|index| traffic.sent.get(index)?.get());
        let Some(sent) = sent else { return };
        traffic.bytes.fetch_add(line.len() as u64, Relaxed);
        if self.interesting[objects::class_of(number)] {
            let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
            lock(&self.shared.latencies).push(micros);
        }
        traffic.received.fetch_add(1, Relaxed);
    }
}
