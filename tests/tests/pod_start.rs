//! No Pod answers anybody before it is protected: a thousand starts under a client that never stops connecting, and what
//! happens when no agent is there. Needs root.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::kernel;
use ringfence_tests::pod_start::{FULL, Node, Pod, Refused, Tcp, UNMANAGED, count};
use ringfence_tests::probe;
use ringfence_tests::programs::program;
use socket2::{Domain, Socket, Type};

const STARTS: u16 = 1000;
/// How many Pods start at a time.
const AT_A_TIME: usize = 4;
/// So often it must have been tried over each family after the Pod listens, before it is believed that none is answered.
const TRIES: u64 = 5;

fn node(test: &str, wait: Duration, pods: u16) -> Option<Node> {
    let (cven, plugin) = (program("cven"), program("cven-cni"));
    if let Some(why) = Node::missing(&cven, &plugin) {
        // Not eprintln!, whose output is shown only when a test fails.
        let _ = writeln!(std::io::stderr(), "{test}: not run: {why}");
        return None;
    }
    Some(Node::new(&cven, &plugin, wait, pods).expect("a node can be made"))
}

/// Listens in a Pod, as its first process would.
fn listen(node: &Node, pod: Pod) -> [TcpListener; 2] {
    let listen = |target| move || TcpListener::bind(target);
    pod.targets().map(|target| probe::inside(&node.netns(pod), listen(target)).expect("the port is free"))
}

/// Whether somebody can connect to a Pod from a network namespace, over each family.
fn reaches(from: &Path, pod: Pod) -> [bool; 2] {
    pod.targets().map(|target| {
        let connect = move || Ok(TcpStream::connect_timeout(&target, Duration::from_secs(2)).is_ok());
        probe::inside(from, connect).expect("the namespace can be entered")
    })
}

/// A client on the node that connects to Pods over and over.
struct Client {
    /// With how often each was tried.
    targets: Arc<Mutex<BTreeMap<SocketAddr, u64>>>,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    running: Option<thread::JoinHandle<()>>,
}

impl Client {
    fn start(node: &Node) -> Self {
        let (targets, answered, stop): (Arc<Mutex<BTreeMap<SocketAddr, u64>>>, Arc<AtomicUsize>, Arc<AtomicBool>) =
            Default::default();
        let (hub, now, count, end) = (node.hub(), targets.clone(), answered.clone(), stop.clone());
        let connecting = move || {
            let mut open: Vec<Socket> = Vec::new();
            while !end.load(Ordering::Relaxed) {
                let targets: Vec<SocketAddr> = now.lock().expect("nobody panics").keys().copied().collect();
                for target in &targets {
                    let socket = Socket::new(Domain::for_address(*target), Type::STREAM.nonblocking(), None)?;
                    let _ = socket.connect(&(*target).into());
                    open.push(socket);
                    if let Some(tries) = now.lock().expect("nobody panics").get_mut(target) {
                        *tries += 1;
                    }
                }
                thread::sleep(Duration::from_millis(1));
                // What is answered is answered by now or while the next ones are tried.
                let done = open.len().saturating_sub(4 * targets.len());
                for socket in open.drain(..done) {
                    count.fetch_add(usize::from(socket.peer_addr().is_ok()), Ordering::Relaxed);
                }
            }
            Ok(())
        };
        let running = thread::spawn(move || probe::inside(&hub, connecting).expect("the client runs"));
        Self { targets, answered, stop, running: Some(running) }
    }

    fn targets(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, u64>> {
        self.targets.lock().expect("nobody panics")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.running.take().map(thread::JoinHandle::join);
    }
}

/// One Pod's life under the client's eyes; returns what it has counted at its start and at its end.
fn start_under_fire(node: &Node, client: &Client, pod: Pod) -> (Tcp, Tcp) {
    node.know_neighbour(pod).expect("the bridge is there");
    let aim = || client.targets().extend(pod.targets().map(|target| (target, 0)));
    aim();
    node.start(pod).expect("the plugins run").expect("it may start");
    let started = count(&node.netns(pod)).expect("it can be read");
    let _listeners = listen(node, pod);
    aim();
    let begin = Instant::now();
    let ended = loop {
        let tried =
            pod.targets().iter().all(|target| client.targets().get(target).is_some_and(|tries| *tries >= TRIES));
        let now = count(&node.netns(pod)).expect("it can be read");
        if tried && now.arrived >= started.arrived + 2 * TRIES {
            break now;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "nobody tries to connect to {pod:?}: {now:?}");
        thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(reaches(&node.netns(pod), pod), [true; 2], "{pod:?} listens: over loopback it is reached");
    client.targets().retain(|target, _| !pod.targets().contains(target));
    node.end(pod).expect("it ends");
    (started, ended)
}

#[test]
fn of_a_thousand_pods_none_answers_before_it_is_protected() {
    let test = "of_a_thousand_pods_none_answers_before_it_is_protected";
    let Some(node) = node(test, Duration::from_secs(20), STARTS) else { return };
    node.start_agent().expect("the agent runs");
    // The control: what nobody protects is reached, before and after.
    let open = Pod { namespace: UNMANAGED, number: STARTS + 1 };
    node.start(open).expect("the plugins run").expect("it may start");
    let _listeners = listen(&node, open);
    assert_eq!(reaches(&node.hub(), open), [true; 2], "what is not protected is reached");

    let client = Client::start(&node);
    let (next, refused) = (AtomicU16::new(1), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > STARTS {
                        return;
                    }
                    let pod = Pod { namespace: FULL, number };
                    let (started, ended) = start_under_fire(&node, &client, pod);
                    assert_eq!(ended.accepted, 0, "{pod:?} has answered a connection: {started:?} {ended:?}");
                    assert_eq!(ended.sent, ended.resets, "{pod:?} has sent something: {started:?} {ended:?}");
                    // Between its address and its rules nothing runs in it that could listen; the kernel says so.
                    assert_eq!(ended.resets, started.resets, "{pod:?} has refused somebody after it was protected");
                    refused.fetch_add(usize::try_from(ended.resets).unwrap_or_default(), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(client.answered.load(Ordering::Relaxed), 0, "the client was answered");
    drop(client);
    assert_eq!(reaches(&node.hub(), open), [true; 2], "what is not protected is reached");
    let refused = refused.load(Ordering::Relaxed);
    println!("{STARTS} starts: 0 connections answered; {refused} refused by the kernel before anything ran in the Pod");
}

#[test]
fn without_an_agent_the_fallback_decides() {
    let Some(node) = node("without_an_agent_the_fallback_decides", Duration::from_secs(1), 9) else { return };
    let pod = |number| Pod { namespace: FULL, number };
    let start = |node: &Node, pod| node.start(pod).expect("the plugins run");
    node.write_fallback(Some(r#"{"refuse": ["shop"]}"#)).expect("written");
    let Err(Refused(why)) = start(&node, pod(1)) else { panic!("a Pod in Full has started without an agent") };
    assert!(why.starts_with("shop/pod-1 is not protected yet: reach the node agent at "), "{why}");
    start(&node, Pod { namespace: UNMANAGED, number: 2 }).expect("nobody protects it");
    node.end(pod(1)).expect("a Pod may always end");

    node.write_fallback(None).expect("removed");
    start(&node, pod(3)).expect("a plugin that is left behind lets Pods start");

    node.start_agent().expect("the agent runs");
    start(&node, pod(4)).expect("it is protected");
    assert!(!kernel::ours(&node.netns(pod(4))).expect("it can be read").is_empty());
}

#[test]
fn a_pod_waits_for_an_agent_that_is_being_replaced() {
    let test = "a_pod_waits_for_an_agent_that_is_being_replaced";
    let Some(node) = node(test, Duration::from_secs(30), 1) else { return };
    node.write_fallback(Some(r#"{"refuse": ["shop"]}"#)).expect("written");
    let pod = Pod { namespace: FULL, number: 1 };
    node.make_netns(pod).expect("made");
    let result = node.attach(pod).expect("it has an address");
    let answer = thread::scope(|scope| {
        let waiting = scope.spawn(|| node.protect(pod, &result).expect("the plugin runs"));
        assert!(!waiting.is_finished(), "nobody has protected it");
        node.start_agent().expect("the agent runs");
        waiting.join().expect("it ends")
    });
    answer.expect("it may start");
    assert!(!kernel::ours(&node.netns(pod)).expect("it can be read").is_empty());
}
