//! Names in IP lists without Kubernetes: `ringfence compile` writes a folder, `cven` enforces it in a network namespace, and a
//! resolver really answers. What is open is what the Pod was told; an agent that is killed and comes again changes nothing. Needs
//! root.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::packets;
use ringfence_tests::probe;
use ringfence_tests::programs::{CLUSTER, Running, needed, run, until};

const POLICY: &str = "\
apiVersion: ringfence.dev/v1alpha1
kind: ContainerWorkloadProfile
metadata: {name: shop}
spec: {managed: true, policyState: Full, labels: {app: {value: shop}}}
---
apiVersion: ringfence.dev/v1alpha1
kind: IPList
metadata: {name: example}
spec: {fqdns: ['*.example.com']}
---
apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata: {name: shop}
spec:
  scopes: [{}]
  rules:
  - name: out
    consumers: [{labels: {app: [shop]}}]
    providers: [{ipList: example}]
    services: [{protocol: TCP, port: 443}]
";

const POD: &str = "10.98.0.2";
const RESOLVER: &str = "10.98.0.53";
/// Where the names `n0.example.com` and so on lead to, one after the other.
const FIRST: u8 = 100;
/// So many names are asked for, each connected to at once.
const NAMES: u8 = 40;

/// Where a name leads to.
fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 98, 0, FIRST + number).into()
}

/// A Pod and a resolver with servers on one wire, and a folder; all goes with it.
struct Lab {
    id: String,
    folder: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let id = format!("rfnm{}", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(folder.join("policy")).expect("a folder can be made");
        let lab = Self { id, folder };
        for netns in ["pod", "out"] {
            run(Command::new("ip").args(["netns", "add", &lab.name(netns)]));
            lab.ip(netns, "link set lo up");
        }
        lab.ip("pod", &format!("link add eth0 type veth peer name eth0 netns {}", lab.name("out")));
        lab.ip("pod", &format!("addr add {POD}/24 dev eth0"));
        lab.ip("pod", "link set eth0 up");
        lab.ip("out", &format!("addr add {RESOLVER}/24 dev eth0"));
        (0..NAMES).for_each(|number| lab.ip("out", &format!("addr add {}/24 dev eth0", address(number))));
        lab.ip("out", "link set eth0 up");
        lab.serve();
        lab
    }

    /// Answers questions for addresses, and connections, until the test ends.
    fn serve(&self) {
        let netns = self.netns("out");
        let socket = probe::inside(&netns, || UdpSocket::bind((RESOLVER, 53))).expect("the port is free");
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                let _ = socket.send_to(&answer(&question[..length]), from);
            }
        });
        let listener = probe::inside(&netns, || TcpListener::bind(("0.0.0.0", 443))).expect("the port is free");
        thread::spawn(move || listener.incoming().for_each(drop));
    }

    fn name(&self, netns: &str) -> String {
        format!("{}-{netns}", self.id)
    }

    fn netns(&self, netns: &str) -> PathBuf {
        Path::new("/run/netns").join(self.name(netns))
    }

    fn ip(&self, netns: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name(netns)]).args(arguments.split(' ')));
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.join(file), text).expect("the folder can be written");
    }

    /// An agent that runs until it is dropped, and is killed then.
    fn cven(&self, program: &Path) -> Running {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).args(["--objects", "computed", "--pods", "pods.yaml"]);
        command.args(["--node-name", "n1", "--state-dir", "state"]).env("RUST_LOG", "warn");
        Running::start(&mut command)
    }

    /// How long it takes to connect, if somebody answers in so long.
    fn connects(&self, number: u8, limit: Duration) -> Option<Duration> {
        let target = SocketAddr::new(address(number), 443);
        let connected = probe::inside(&self.netns("pod"), move || {
            let begun = Instant::now();
            Ok(TcpStream::connect_timeout(&target, limit).ok().map(|_| begun.elapsed()))
        });
        connected.expect("a connection can be tried")
    }

    /// The same by name, so long after the answer.
    fn asks_and_connects(&self, number: u8, later: Duration) -> Option<Duration> {
        let server = SocketAddr::new(RESOLVER.parse().expect("an address"), 53);
        let netns = self.netns("pod");
        let target = SocketAddr::new(address(number), 443);
        let name = format!("n{number}.example.com");
        let question = packets::question(&name, false).expect("a name");
        let connected = probe::inside(&netns, move || {
            let socket = UdpSocket::bind((POD, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send_to(&question, server)?;
            socket.recv_from(&mut [0; 512])?;
            thread::sleep(later);
            let begun = Instant::now();
            Ok(TcpStream::connect_timeout(&target, LOST).ok().map(|_| begun.elapsed()))
        });
        connected.expect("the resolver answers")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in ["pod", "out"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(netns)]).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The answer to a question for `nNUMBER.example.com`: the question itself, and behind it a record that points back to the name.
fn answer(question: &[u8]) -> Vec<u8> {
    let label = usize::from(question[12]);
    let number: u8 = std::str::from_utf8(&question[14..13 + label]).expect("a digit").parse().expect("a number");
    let mut answer = question.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..8].copy_from_slice(&[0, 1]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 98, 0, FIRST + number]);
    answer
}

const AT_ONCE: Duration = Duration::from_millis(500);
/// Time for a first packet that was lost to be sent again, more than once.
const LOST: Duration = Duration::from_secs(10);
/// So many microseconds after an answer a third of the names is connected to.
const LATER: [u64; 3] = [0, 200, 1000];

#[test]
fn a_pod_connects_to_what_its_resolver_answers() {
    let Some([ringfence, cven]) = needed("a_pod_connects_to_what_its_resolver_answers", ["ringfence", "cven"]) else {
        return;
    };
    let lab = Lab::new();
    assert!(lab.connects(0, AT_ONCE).is_some(), "nothing is enforced yet");
    lab.write("policy/shop.yaml", POLICY);
    lab.write("cluster.yaml", CLUSTER);
    let netns = lab.netns("pod");
    let pods = format!(
        "- {{name: web, namespace: shop, netns: {}, ips: [{POD}], dnsServers: [{RESOLVER}]}}\n",
        netns.display()
    );
    lab.write("pods.yaml", &pods);
    let arguments = ["compile", "--policy", "policy", "--cluster", "cluster.yaml", "--out", "computed"];
    run(Command::new(&ringfence).current_dir(&lab.folder).args(arguments));

    let agent = lab.cven(&cven);
    until("the rules", || lab.connects(0, AT_ONCE).is_none());
    // Whoever connects in the moment of the answer may lose its first packet, which is sent again a second later.
    for (round, later) in LATER.into_iter().map(Duration::from_micros).enumerate() {
        let numbers = (0..NAMES - 1).filter(|number| usize::from(*number) % LATER.len() == round);
        let mut took: Vec<Duration> = numbers
            .map(|number| lab.asks_and_connects(number, later))
            .map(|took| took.expect("what the Pod was told is open"))
            .collect();
        took.sort();
        let late = took.iter().filter(|took| **took > AT_ONCE).count();
        let _ = writeln!(
            std::io::stderr(),
            "names: of {} connections {later:?} after the answer {late} lost their first packet; median {:?}, longest {:?}",
            took.len(),
            took[took.len() / 2],
            took[took.len() - 1]
        );
    }
    let untold = NAMES - 1;
    assert!(lab.connects(untold, AT_ONCE).is_none(), "nobody has asked for it");

    // What was learned is saved within a second or so.
    let saved = || std::fs::read_to_string(lab.folder.join("state/ledger.jsonl")).unwrap_or_default();
    until("the ledger", || saved().contains(&address(untold - 1).to_string()));
    drop(agent);
    assert!(lab.connects(1, AT_ONCE).is_some(), "what was learned stays");
    assert!(lab.asks_and_connects(0, Duration::ZERO).is_some(), "resolvers answer without an agent");
    let agent = lab.cven(&cven);
    until("an agent that listens again", || {
        assert!(lab.connects(2, AT_ONCE).is_some(), "an agent that comes again closes nothing that was learned");
        lab.asks_and_connects(untold, Duration::ZERO).is_some()
    });
    drop(agent);
}
