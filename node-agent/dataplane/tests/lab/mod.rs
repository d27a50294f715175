//! A Pod's network namespace and two peers of it, each on a wire of its own.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use ringfence_dataplane::{Family, Installed, NetnsPolicy, Rendered, removal, render, sets};

/// How long a try lasts: on one machine, what has not answered by then does not answer.
const PATIENCE: Duration = Duration::from_millis(400);

/// What came of a try to reach somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Open,
    Refused,
    Dropped,
}

/// The end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Pod,
    /// A peer.
    A,
    /// Another peer.
    B,
}

/// The command that prints the rules of a family.
pub fn save_command(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-nft-save",
        Family::V6 => "ip6tables-nft-save",
    }
}

/// Everyone's addresses of one family.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The Pod's towards A.
    pub pod_a: &'static str,
    /// The Pod's towards B.
    pub pod_b: &'static str,
    pub a: &'static str,
    pub b: &'static str,
}

impl Addresses {
    pub const V4: Self = Self { pod_a: Lab::POD_A, pod_b: Lab::POD_B, a: Lab::A, b: Lab::B };
    pub const V6: Self = Self { pod_a: "fd99:1::2", pod_b: "fd99:2::2", a: "fd99:1::1", b: "fd99:2::1" };
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// Three namespaces, gone when dropped.
pub struct Lab {
    id: String,
    in_force: Option<Rendered>,
}

impl Lab {
    /// The Pod's address towards A.
    pub const POD_A: &'static str = "10.99.1.2";
    /// The Pod's address towards B.
    pub const POD_B: &'static str = "10.99.2.2";
    pub const A: &'static str = "10.99.1.1";
    pub const B: &'static str = "10.99.2.1";

    /// Builds the lab. `None`, with a word on stderr that the harness does not swallow, where this cannot run.
    pub fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            not_run(test, "needs root");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("rfdp{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { id, in_force: None };
        for at in [At::Pod, At::A, At::B] {
            run("ip", &["netns", "add", &lab.name(at)], "");
            lab.exec(at, "ip", &["link", "set", "lo", "up"], "");
        }
        for (at, wire) in [(At::A, "1"), (At::B, "2")] {
            let device = format!("eth{wire}");
            let peer = lab.name(at);
            lab.exec(
                At::Pod,
                "ip",
                &["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &peer],
                "",
            );
            lab.address(At::Pod, &device, wire, "2");
            lab.address(at, "eth0", wire, "1");
        }
        Some(lab)
    }

    fn address(&self, at: At, device: &str, wire: &str, host: &str) {
        self.exec(at, "ip", &["addr", "add", &format!("10.99.{wire}.{host}/24"), "dev", device], "");
        self.exec(at, "ip", &["addr", "add", &format!("fd99:{wire}::{host}/64"), "dev", device, "nodad"], "");
        self.exec(at, "ip", &["link", "set", device, "up"], "");
    }

    fn name(&self, at: At) -> String {
        format!("{}-{at:?}", self.id).to_lowercase()
    }

    /// Runs a command in a namespace and returns what it printed; panics if it fails.
    pub fn exec(&self, at: At, program: &str, args: &[&str], input: &str) -> String {
        self.try_exec(at, program, args, input)
            .unwrap_or_else(|error| panic!("{program} {}: {error}\n{input}", args.join(" ")))
    }

    /// The same for a command that may fail.
    pub fn try_exec(&self, at: At, program: &str, args: &[&str], input: &str) -> Result<String, String> {
        let name = self.name(at);
        let args: Vec<&str> = ["netns", "exec", &name, program].into_iter().chain(args.iter().copied()).collect();
        try_run("ip", &args, input)
    }

    /// Runs a closure on a thread that is in the namespace.
    pub fn within<T: Send + 'static>(&self, at: At, what: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.name(at));
        let thread = thread::spawn(move || {
            setns(File::open(path).expect("the namespace is there"), CloneFlags::CLONE_NEWNET).expect("root may enter");
            what()
        });
        thread.join().expect("the closure does not panic")
    }

    /// What iptables-save (or ip6tables-save) prints in the Pod.
    pub fn installed(&self, family: Family) -> Installed {
        Installed::parse(&self.exec(At::Pod, save_command(family), &[], ""))
    }

    /// What `ipset save` says of our sets in the Pod.
    pub fn sets(&self) -> Vec<sets::SetDef> {
        sets::parse_save(&self.exec(At::Pod, "ipset", &["save"], ""))
    }

    pub fn ipset_restore(&self, text: &str) {
        self.exec(At::Pod, "ipset", &["-exist", "restore"], text);
    }

    pub fn restore(&self, family: Family, text: &str) {
        let command = match family {
            Family::V4 => "iptables-nft-restore",
            Family::V6 => "ip6tables-nft-restore",
        };
        self.exec(At::Pod, command, &["--noflush"], text);
    }

    /// Puts a policy into force the way the agent does: new sets, rules, old sets away.
    pub fn enforce(&mut self, policy: &NetnsPolicy) -> Rendered {
        let generation = self.in_force.as_ref().map_or(1, |old| old.generation + 1);
        let new = render(policy, generation);
        self.ipset_restore(&new.create_sets());
        for family in [Family::V4, Family::V6] {
            self.restore(family, &new.restore_text(family, &self.installed(family)));
        }
        if let Some(old) = self.in_force.take() {
            self.destroy_sets(&old.destroy_sets());
        }
        self.in_force = Some(new.clone());
        new
    }

    /// Takes everything away.
    pub fn remove(&mut self) {
        for family in [Family::V4, Family::V6] {
            self.restore(family, &removal(&self.installed(family)));
        }
        let names: Vec<String> = self.sets().into_iter().map(|set| set.name).collect();
        self.destroy_sets(&sets::destroy_text(names.iter().map(String::as_str)));
        self.in_force = None;
    }

    /// Destroys sets, patiently: the kernel lets go of a set a little after the rules are gone.
    fn destroy_sets(&self, text: &str) {
        for line in text.lines() {
            let name = line.trim_start_matches("destroy ");
            let gone = (0..100).any(|_| {
                let done = self.try_exec(At::Pod, "ipset", &["destroy", name], "").is_ok();
                if !done {
                    thread::sleep(Duration::from_millis(5));
                }
                done
            });
            assert!(gone, "set {name} is still in use");
        }
    }

    /// Tries a TCP connection; a listener is there.
    pub fn tcp(&self, from: At, to: (At, &str, u16)) -> Reach {
        let (at, address, port) = to;
        let target = SocketAddr::new(address.parse().expect("an address of the test"), port);
        let listener = self.within(at, move || TcpListener::bind(target).expect("the port is free"));
        let reach = self.within(from, move || connect(target));
        drop(listener);
        reach
    }

    /// Opens a TCP connection that stays.
    pub fn tcp_flow(&self, from: At, to: (At, &str, u16)) -> Flow {
        let (at, address, port) = to;
        let target = SocketAddr::new(address.parse().expect("an address of the test"), port);
        let listener = self.within(at, move || TcpListener::bind(target).expect("the port is free"));
        let client = self.within(from, move || TcpStream::connect_timeout(&target, PATIENCE).expect("it is open"));
        let (server, _) = listener.accept().expect("it has connected");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        }
        Flow { client, server }
    }

    /// Sends a datagram to an echo and waits for the answer.
    pub fn udp(&self, from: At, to: (At, &str, u16)) -> Reach {
        let (at, address, port) = to;
        let target = SocketAddr::new(address.parse().expect("an address of the test"), port);
        let echo = self.within(at, move || UdpSocket::bind(target).expect("the port is free"));
        echo.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        let echoing = thread::spawn(move || {
            let mut buffer = [0; 16];
            if let Ok((length, sender)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..length], sender);
            }
        });
        let reach = self.within(from, move || exchange(target));
        echoing.join().expect("the echo does not panic");
        reach
    }

    /// Datagrams from one port to another, which nobody answers.
    pub fn udp_flow(&self, from: At, to: (At, &str, u16)) -> Datagrams {
        let (at, address, port) = to;
        let target = SocketAddr::new(address.parse().expect("an address of the test"), port);
        let receiver = self.within(at, move || UdpSocket::bind(target).expect("the port is free"));
        let sender = self.within(from, move || UdpSocket::bind((any_address(target), 0)).expect("a port is free"));
        sender.connect(target).expect("there is a route");
        for end in [&sender, &receiver] {
            end.set_read_timeout(Some(PATIENCE / 2)).expect("a valid timeout");
        }
        Datagrams { sender, receiver }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for at in [At::Pod, At::A, At::B] {
            let _ = try_run("ip", &["netns", "del", &self.name(at)], "");
        }
    }
}

/// A TCP connection with both of its ends.
pub struct Flow {
    client: TcpStream,
    server: TcpStream,
}

impl Flow {
    /// Whether a byte still arrives, sent by the client and answered by the server.
    pub fn lives(&mut self) -> bool {
        pass(&mut self.client, &mut self.server) && pass(&mut self.server, &mut self.client)
    }

    /// Whether a byte sent by the server arrives.
    pub fn answers(&mut self) -> bool {
        pass(&mut self.server, &mut self.client)
    }

    /// Whether a byte sent by the client arrives.
    pub fn asks(&mut self) -> bool {
        pass(&mut self.client, &mut self.server)
    }
}

/// A port that sends datagrams, and the one that they are for.
pub struct Datagrams {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Datagrams {
    /// What becomes of one more datagram.
    pub fn send(&self) -> Reach {
        // See `exchange`.
        let _ = self.sender.send(b"x");
        if self.receiver.recv(&mut [0; 16]).is_ok() {
            return Reach::Open;
        }
        self.sender.recv(&mut [0; 16]).map_or_else(|error| reach_of(error.kind()), |_| panic!("nobody answers"))
    }
}

/// Says on stderr that something was not tried, and why. Not with eprintln!, whose output is shown only when a test
/// fails.
pub fn not_run(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "{test}: not run: {why}");
}

fn pass(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"x").is_ok() && to.read_exact(&mut [0]).is_ok()
}

fn connect(target: SocketAddr) -> Reach {
    match TcpStream::connect_timeout(&target, PATIENCE) {
        Ok(_) => Reach::Open,
        Err(error) => reach_of(error.kind()),
    }
}

fn exchange(target: SocketAddr) -> Reach {
    let socket = UdpSocket::bind((any_address(target), 0)).expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE / 2)).expect("a valid timeout");
    socket.connect(target).expect("there is a route");
    // What mangle OUTPUT or filter OUTPUT stops is an error of the sender already (EPERM); whether it was rejected is
    // told by the ICMP error, which waits in the socket.
    let _ = socket.send(b"x");
    socket.recv(&mut [0; 16]).map_or_else(|error| reach_of(error.kind()), |_| Reach::Open)
}

/// What a socket is bound to that sends there.
fn any_address(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

fn reach_of(kind: ErrorKind) -> Reach {
    match kind {
        ErrorKind::ConnectionRefused => Reach::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Reach::Dropped,
        other => panic!("neither open nor refused nor dropped: {other}"),
    }
}

fn run(program: &str, args: &[&str], input: &str) -> String {
    try_run(program, args, input).unwrap_or_else(|error| panic!("{program} {}: {error}\n{input}", args.join(" ")))
}

fn try_run(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    match (output.status.success(), written) {
        (true, Some(Ok(()))) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
