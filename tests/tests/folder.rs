//! Policy without Kubernetes: `ringfence compile` writes a folder, `cven --objects --pods` puts it into the kernels of
//! three network namespaces, and real connections show it. Needs root.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use ringfence_tests::kernel;
use ringfence_tests::probe::{self, Seen};
use ringfence_tests::programs::{CLUSTER, Running, missing, program, run, until};

const POLICY: &str = "\
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
const PODS: [(&str, u8); 3] = [("web", 2), ("db", 3), ("tools", 4)];
/// Every Pod listens on both; the rule names the first.
const PORTS: [u16; 2] = [8080, 8081];

/// Clients outside, and the last number of their addresses.
const OUTSIDE: [(&str, u8); 2] = [("office", 7), ("street", 8)];
const NODE_PORT: u16 = 30080;
const OFFICE: &str = "\
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

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 99, 0, number])
}

fn of(pod: &str) -> IpAddr {
    let number = PODS.iter().find(|(name, _)| *name == pod).expect("a Pod of the test").1;
    address(number)
}

/// Network namespaces on one bridge, and a folder; both go with it.
struct Lab {
    id: String,
    folder: PathBuf,
}

impl Lab {
    /// `letter` tells it from those of other tests.
    fn new(letter: char) -> Self {
        let id = format!("rff{letter}{}", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let lab = Self { id, folder };
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

    fn name(&self, netns: &str) -> String {
        format!("{}-{netns}", self.id)
    }

    fn netns(&self, netns: &str) -> PathBuf {
        Path::new("/run/netns").join(self.name(netns))
    }

    fn add(&self, netns: &str) {
        run(Command::new("ip").args(["netns", "add", &self.name(netns)]));
        self.ip(netns, "link set lo up");
    }

    fn ip(&self, netns: &str, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name(netns)]).args(arguments.split(' ')));
    }

    /// Answers whatever is asked, until the test ends.
    fn listen(&self, pod: &str, target: SocketAddr) {
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
    fn outside(&self) {
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

    fn within(&self, netns: &str, command: &[&str]) -> String {
        kernel::in_netns(&self.netns(netns), command).expect("it runs")
    }

    /// What a client outside sees of the nodePort.
    fn through(&self, client: &str) -> Seen {
        let door = SocketAddr::new(IpAddr::from([198, 51, 100, 1]), NODE_PORT);
        probe::tcp(&self.netns(client), door).expect("a connection can be tried")
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.join(file), text).expect("the folder can be written");
    }

    /// What `cven` is to enforce.
    fn write_pods(&self, pods: &[(&str, u8)]) {
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

    fn compile(&self, program: &Path) {
        let arguments = ["compile", "--policy", "policy", "--cluster", "cluster.yaml", "--out", "computed"];
        run(Command::new(program).current_dir(&self.folder).args(arguments));
    }

    fn cven(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).args(["--objects", "computed", "--pods", "pods.yaml"]);
        command.args(["--node-name", "n1", "--state-dir", "state"]).env("RUST_LOG", "warn");
        command
    }

    fn seen(&self, from: &str, to: &str, port: u16) -> Seen {
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

#[test]
fn a_compiled_folder_is_enforced_without_kubernetes() {
    let (ringfence, cven) = (program("ringfence"), program("cven"));
    if let Some(why) = missing(&[&ringfence, &cven]) {
        // Not eprintln!, whose output is shown only when a test fails.
        let _ = writeln!(std::io::stderr(), "a_compiled_folder_is_enforced_without_kubernetes: not run: {why}");
        return;
    }
    let lab = Lab::new('o');
    assert_eq!(lab.seen("tools", "db", 8081), Seen::Open, "nothing is enforced yet");
    std::fs::create_dir(lab.folder.join("policy")).expect("a folder can be made");
    lab.write("policy/shop.yaml", POLICY);
    lab.write("cluster.yaml", &cluster());
    lab.write_pods(&PODS);
    lab.compile(&ringfence);

    let once = run(lab.cven(&cven).arg("--once"));
    assert_eq!(String::from_utf8_lossy(&once.stdout), "in force in 3 Pods\n");
    let expected = [
        ("web", "db", 8080, Seen::Open),
        ("web", "db", 8081, Seen::Dropped),
        ("tools", "db", 8080, Seen::Dropped),
        ("db", "web", 8080, Seen::Dropped),
        ("hub", "db", 8080, Seen::Dropped),
        ("hub", "tools", 8080, Seen::Dropped),
    ];
    for (from, to, port, seen) in expected {
        assert_eq!(lab.seen(from, to, port), seen, "{from} to {to} on {port}");
    }

    let following = Running::start(&mut lab.cven(&cven));
    lab.write("policy/shop.yaml", &POLICY.replace("8080", "8081"));
    lab.compile(&ringfence);
    until("a changed rule to be in force", || lab.seen("web", "db", 8081) == Seen::Open);
    assert_eq!(lab.seen("web", "db", 8080), Seen::Dropped, "the rule names another port now");

    lab.write_pods(&PODS[..2]);
    until("a Pod that was taken out of the file to have no rules", || {
        kernel::ours(&lab.netns("tools")).expect("the kernel can be read").is_empty()
    });
    assert_eq!(lab.seen("hub", "tools", 8080), Seen::Open, "nothing is enforced at the Pod that was taken out");
    assert_eq!(lab.seen("web", "db", 8081), Seen::Open, "the rule holds for the others");
    assert_eq!(lab.seen("tools", "db", 8081), Seen::Dropped, "the others are enforced as before");
    assert_eq!(lab.seen("hub", "web", 8080), Seen::Dropped, "the others are enforced as before");

    drop(following);
    lab.write("policy/shop.yaml", &POLICY.replace("managed: true\n  policyState: Full", "managed: false"));
    lab.compile(&ringfence);
    assert_eq!(lab.seen("hub", "web", 8080), Seen::Dropped, "nobody has looked yet");
    run(lab.cven(&cven).arg("--once"));
    for netns in ["web", "db"] {
        let ours = kernel::ours(&lab.netns(netns)).expect("the kernel can be read");
        assert_eq!(ours, Vec::<String>::new(), "its namespace is not managed any more, since no agent ran");
    }
    assert_eq!(lab.seen("hub", "web", 8080), Seen::Open);
}

/// The rules without what they have counted, with their handles: who writes one again gives it another.
fn handles(ruleset: &str) -> Vec<String> {
    let uncounted = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let counts = |at: usize| at > 0 && ["packets", "bytes"].contains(&words[at - 1]);
        words.iter().enumerate().filter(|(at, _)| !counts(*at)).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    };
    ruleset.lines().map(uncounted).collect()
}

/// The agent of a node that translates: the client counts, a new agent writes nothing, and what somebody takes away is put back.
#[test]
fn a_node_judges_what_it_translates_by_who_connects() {
    let (ringfence, cven) = (program("ringfence"), program("cven"));
    if let Some(why) = missing(&[&ringfence, &cven]) {
        let _ = writeln!(std::io::stderr(), "a_node_judges_what_it_translates_by_who_connects: not run: {why}");
        return;
    }
    let lab = Lab::new('g');
    lab.outside();
    std::fs::create_dir(lab.folder.join("policy")).expect("a folder can be made");
    lab.write("policy/shop.yaml", &(POLICY.to_owned() + OFFICE));
    lab.write("cluster.yaml", &cluster());
    lab.write_pods(&PODS);
    lab.compile(&ringfence);
    assert_eq!([lab.through("office"), lab.through("street")], [Seen::Open; 2], "nothing is enforced yet");

    let agent = || {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", lab.netns("hub").display())).arg(&cven).current_dir(&lab.folder);
        command.args(["--objects", "computed", "--pods", "pods.yaml", "--node-name", "n1", "--state-dir", "state"]);
        command.args(["--gate", "true"]).env("RUST_LOG", "warn");
        command
    };
    run(agent().arg("--once"));
    let verdicts = || [lab.through("office"), lab.through("street"), lab.seen("hub", "db", 8080)];
    // The node is no peer of any rule.
    assert_eq!(verdicts(), [Seen::Open, Seen::Dropped, Seen::Dropped]);

    let rules = |netns: &str| lab.within(netns, &["iptables-nft-save", "-t", "mangle"]);
    let written = || ["hub", "db"].map(|netns| handles(&lab.within(netns, &["nft", "-a", "list", "ruleset"])));
    let before = written();
    run(agent().arg("--once"));
    assert_eq!(written(), before, "a new agent finds everything as it is to be");
    assert_eq!(verdicts(), [Seen::Open, Seen::Dropped, Seen::Dropped]);

    let _following = Running::start(&mut agent());
    lab.within("hub", &["iptables-nft", "-t", "mangle", "-F"]);
    until("the gate to be put back", || rules("hub").contains("-A POSTROUTING -j RF-GATE\n"));
    assert_eq!(verdicts(), [Seen::Open, Seen::Dropped, Seen::Dropped]);

    lab.write("policy/shop.yaml", POLICY);
    lab.compile(&ringfence);
    until("a rule that is gone to be gone at the gate", || lab.through("office") == Seen::Dropped);
    lab.write_pods(&[]);
    until("the gate to go with the last Pod", || kernel::gate(&lab.netns("hub")).expect("it can be read").is_empty());
    assert_eq!([lab.through("office"), lab.through("street")], [Seen::Open; 2]);
}

/// Where the node itself listens: SSH, what a rule opens, and what none does.
const NODE_PORTS: [u16; 3] = [22, 9080, 9081];

const NODE_POLICY: &str = "\
apiVersion: ringfence.dev/v1alpha1
kind: Workload
metadata: {name: n1}
spec: {labels: {role: host}, policyState: Full}
---
apiVersion: ringfence.dev/v1alpha1
kind: IPList
metadata: {name: pods}
spec: {ranges: [10.99.0.0/24]}
---
apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata: {name: nodes}
spec:
  scopes: [{}]
  rules:
  - name: to-the-node
    consumers: [{ipList: pods}]
    providers: [{labels: {role: [host]}}]
    services: [{protocol: TCP, port: 9080}]
";

/// The bridge's network namespace acts as the node's: what it forwards is none of its business.
#[test]
fn a_nodes_own_policy_is_enforced_without_kubernetes() {
    let (ringfence, cven) = (program("ringfence"), program("cven"));
    if let Some(why) = missing(&[&ringfence, &cven]) {
        // Not eprintln!, whose output is shown only when a test fails.
        let _ = writeln!(std::io::stderr(), "a_nodes_own_policy_is_enforced_without_kubernetes: not run: {why}");
        return;
    }
    let lab = Lab::new('n');
    let node = |port| SocketAddr::new(address(1), port);
    NODE_PORTS.iter().for_each(|port| lab.listen("hub", node(*port)));
    std::fs::create_dir(lab.folder.join("policy")).expect("a folder can be made");
    lab.write("policy/nodes.yaml", NODE_POLICY);
    lab.write("cluster.yaml", &cluster());
    lab.write_pods(&PODS);
    lab.compile(&ringfence);
    let seen = || NODE_PORTS.map(|port| probe::tcp(&lab.netns("web"), node(port)).expect("it can be tried"));
    let cven = || {
        let mut command = lab.cven(&cven);
        command.args(["--host-netns".as_ref(), lab.netns("hub").as_os_str()]);
        command
    };

    let once = run(cven().arg("--once"));
    assert_eq!(String::from_utf8_lossy(&once.stdout), "in force in 0 Pods\n");
    assert_eq!(seen(), [Seen::Open, Seen::Open, Seen::Dropped]);
    assert_eq!(lab.seen("web", "db", 8081), Seen::Open, "Pods of an unmanaged namespace");
    let before = kernel::ours(&lab.netns("hub")).expect("the kernel can be read");
    run(cven().arg("--once"));
    assert_eq!(kernel::ours(&lab.netns("hub")).expect("the kernel can be read"), before);

    let _following = Running::start(&mut cven());
    lab.write("policy/nodes.yaml", &NODE_POLICY.replace("9080", "9081"));
    lab.compile(&ringfence);
    until("a changed rule to be in force", || seen() == [Seen::Open, Seen::Dropped, Seen::Open]);
    lab.write("policy/nodes.yaml", &NODE_POLICY.replace("Full", "Idle"));
    lab.compile(&ringfence);
    until("nothing of ours to be left on the node", || {
        kernel::ours(&lab.netns("hub")).expect("the kernel can be read").is_empty()
    });
    assert_eq!(seen(), [Seen::Open; 3]);
}

/// A node whose iptables does not work is turned off all the same: that is what one turns it off for.
#[test]
fn a_node_is_turned_off_also_where_iptables_does_not_work() {
    let cven = program("cven");
    if let Some(why) = missing(&[&cven]) {
        let _ = writeln!(std::io::stderr(), "a_node_is_turned_off_also_where_iptables_does_not_work: not run: {why}");
        return;
    }
    let lab = Lab::new('x');
    std::fs::create_dir(lab.folder.join("state")).expect("a folder can be made");
    lab.write("state/cni-fallback.json", r#"{"refuse":["shop"]}"#);
    let mut off = Command::new("nsenter");
    off.arg(format!("--net={}", lab.netns("hub").display())).args(["env", "PATH=/nonexistent"]);
    off.arg(&cven).current_dir(&lab.folder).args([
        "off",
        "--state-dir",
        "state",
        "--netns-dir",
        "none",
        "--cri-socket",
        "none",
    ]);
    let output = off.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("find a usable iptables"),
        "it says what it could not do: {said}"
    );
    assert!(lab.folder.join("state/off").exists(), "no agent puts anything back");
    assert!(!lab.folder.join("state/cni-fallback.json").exists(), "the plugin refuses nobody");
}
