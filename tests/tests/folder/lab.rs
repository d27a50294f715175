//! Three Pods on a bridge, clients outside of it, and a folder.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use ringfence_tests::kernel;
use ringfence_tests::probe::{self, Seen};
use ringfence_tests::programs::{CLUSTER, run};

pub const POLICY: &str = "\
apiVersion: ringfence.dev/v1alpha1
kind: ContainerWorkloadProfile
metadata: {name: shop}
spec:
  managed: true
  policyState: Full
  labels:
    app: {value: shop}
    role: {allowed: [web, db, tools]}
---
apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata: {name: shop}
spec:
  scopes: [{labels: {app: [shop]}}]
  rules:
  - name: web-to-db
    consumers: [{labels: {role: [web]}}]
    providers: [{labels: {role: [db]}}]
    services: [{protocol: TCP, port: 8080}]
";

/// The Pods, which are called like their roles, and the last number of their addresses.
pub const PODS: [(&str, u8); 3] = [("web", 2), ("db", 3), ("tools", 4)];
/// Every Pod listens on both; the rule names the first.
pub const PORTS: [u16; 2] = [8080, 8081];

/// Clients outside, and the last number of their addresses.
pub const OUTSIDE: [(&str, u8); 2] = [("office", 7), ("street", 8)];
pub const NODE_PORT: u16 = 30080;
pub const OFFICE: &str = "\
---
apiVersion: ringfence.dev/v1alpha1
kind: IPList
metadata: {name: office}
spec: {ranges: [198.51.100.7]}
---
apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata: {name: office}
spec:
  scopes: [{labels: {app: [shop]}}]
  rules:
  - name: office-to-db
    consumers: [{ipList: office}]
    providers: [{labels: {role: [db]}}]
    services: [{protocol: TCP, port: 8080}]
";

pub fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 99, 0, number])
}

pub fn of(pod: &str) -> IpAddr {
    let number = PODS.iter().find(|(name, _)| *name == pod).expect("a Pod of the test").1;
    address(number)
}

/// Network namespaces on one bridge, and a folder; both go with it.
pub struct Lab {
    id: String,
    pub folder: PathBuf,
}

impl Lab {
    /// All Pods are to be enforced. `letter` tells it from those of other tests.
    pub fn new(letter: char) -> Self {
        let id = format!("rff{letter}{}", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(folder.join("policy")).expect("a folder can be made");
        let lab = Self { id, folder };
        lab.write("cluster.yaml", &cluster());
        lab.write_pods(&PODS);
        lab.add("hub");
        lab.ip("hub", "link add br0 type bridge");
        lab.ip("hub", "addr add 10.99.0.1/24 dev br0");
        lab.ip("hub", "link set br0 up");
        for (pod, number) in PODS {
            lab.add(pod);
            lab.ip("hub", &format!("link add {pod} type veth peer name eth0 netns {}", lab.name(pod)));
            lab.ip("hub", &format!("link set {pod} master br0 up"));
            lab.ip(pod, &format!("addr add 10.99.0.{number}/24 dev eth0"));
            lab.ip(pod, "link set eth0 up");
            for port in PORTS {
                lab.listen(pod, SocketAddr::new(address(number), port));
            }
        }
        lab
    }

    pub fn name(&self, netns: &str) -> String {
        format!("{}-{netns}", self.id)
    }

    pub fn netns(&self, netns: &str) -> PathBuf {
        Path::new("/run/netns").join(self.name(netns))
    }

    pub fn add(&self, netns: &str) {
        run(Command::new("ip").args(["netns", "add", &self.name(netns)]));
        self.ip(netns, "link set lo up");
    }

    pub fn ip(&self, netns: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name(netns)]).args(arguments.split(' ')));
    }

    /// Answers whatever is asked, until the test ends.
    pub fn listen(&self, pod: &str, target: SocketAddr) {
        let listener = probe::inside(&self.netns(pod), move || TcpListener::bind(target)).expect("the port is free");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            }
        });
    }

    /// Clients outside of the Pods' network, and what kube-proxy would make of a Service with a nodePort in front of `db`
    /// and policy Cluster.
    pub fn outside(&self) {
        self.ip("hub", "link add br1 type bridge");
        self.ip("hub", "addr add 198.51.100.1/24 dev br1");
        self.ip("hub", "link set br1 up");
        for (client, number) in OUTSIDE {
            self.add(client);
            self.ip("hub", &format!("link add {client} type veth peer name eth0 netns {}", self.name(client)));
            self.ip("hub", &format!("link set {client} master br1 up"));
            self.ip(client, &format!("addr add 198.51.100.{number}/24 dev eth0"));
            self.ip(client, "link set eth0 up");
        }
        self.within("hub", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        let door = format!("-p tcp --dport {NODE_PORT} -j DNAT --to-destination {}:8080", of("db"));
        let to_ports = format!("-A KUBE-SERVICES {door}");
        for rule in [
            "-N KUBE-SERVICES",
            &to_ports,
            "-A PREROUTING -j KUBE-SERVICES",
            "-A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE",
        ] {
            self.within("hub", &[&["iptables-nft", "-t", "nat"], &rule.split(' ').collect::<Vec<_>>()[..]].concat());
        }
    }

    pub fn within(&self, netns: &str, command: &[&str]) -> String {
        kernel::in_netns(&self.netns(netns), command).expect("it runs")
    }

    /// What a client outside sees of the nodePort.
    pub fn through(&self, client: &str) -> Seen {
        let door = SocketAddr::new(IpAddr::from([198, 51, 100, 1]), NODE_PORT);
        probe::tcp(&self.netns(client), door).expect("a connection can be tried")
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.join(file), text).expect("the folder can be written");
    }

    /// What `cven` is to enforce.
    pub fn write_pods(&self, pods: &[(&str, u8)]) {
        let entry = |(name, number): &(&str, u8)| {
            format!(
                "- {{name: {name}, namespace: shop, annotations: {{ringfence.dev/role: {name}}}, \
                 netns: {}, ips: [{}]}}\n",
                self.netns(name).display(),
                address(*number)
            )
        };
        self.write("pods.yaml", &pods.iter().map(entry).collect::<String>());
    }

    /// Compiles this policy, in place of the one before, into what `cven` enforces.
    pub fn apply(&self, ringfence: &Path, policy: &str) {
        self.write("policy/policy.yaml", policy);
        let arguments = ["compile", "--policy", "policy", "--cluster", "cluster.yaml", "--out", "computed"];
        run(Command::new(ringfence).current_dir(&self.folder).args(arguments));
    }

    pub fn cven(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).args(["--objects", "computed", "--pods", "pods.yaml"]);
        command.args(["--node-name", "n1", "--state-dir", "state"]).env("RUST_LOG", "warn");
        command
    }

    pub fn seen(&self, from: &str, to: &str, port: u16) -> Seen {
        probe::tcp(&self.netns(from), SocketAddr::new(of(to), port)).expect("a connection can be tried")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in ["hub", "web", "db", "tools", "office", "street"] {
            // Not every test has all of them.
            let _ = Command::new("ip").args(["netns", "del", &self.name(netns)]).output();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The cluster with its Pods, as kubectl would print it.
fn cluster() -> String {
    let pod = |(name, number): (&str, u8)| {
        format!(
            "- apiVersion: v1
  kind: Pod
  metadata: {{name: {name}, namespace: shop, uid: {name}, annotations: {{ringfence.dev/role: {name}}}}}
  spec: {{nodeName: n1, containers: [{{name: c}}]}}
  status: {{phase: Running, podIP: 10.99.0.{number}, podIPs: [{{ip: 10.99.0.{number}}}]}}
"
        )
    };
    PODS.into_iter().map(pod).fold(CLUSTER.to_owned(), |text, pod| text + &pod)
}
