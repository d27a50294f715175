//! Names in IP lists, with a resolver that really answers: what the Pod asks for itself is opened, and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use ringfence_crds::workload_policy::{CompiledRule, Peer, PeerNames, Subject};
use ringfence_model::{Action, Direction};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, Question, ResourceRecord, TYPE};

use super::*;

const RESOLVER: &str = "10.9.9.53";
/// Servers: of the name, and of nobody until the resolver says otherwise.
const NAMED: &str = "10.9.9.80";
const OTHER: &str = "10.9.9.81";
const THIRD: &str = "10.9.9.82";

fn query(name: &str) -> Vec<u8> {
    let mut packet = Packet::new_query(7);
    let name = Name::new_unchecked(name);
    packet.questions.push(Question::new(name, TYPE::A.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().expect("a question")
}

/// The answer to a question: this address.
fn answer(question: &[u8], address: &str) -> Vec<u8> {
    let asked = Packet::parse(question).expect("a question");
    let mut packet = Packet::new_reply(asked.id());
    let name = asked.questions[0].qname.clone();
    let address: std::net::Ipv4Addr = address.parse().expect("an address");
    packet.answers.push(ResourceRecord::new(name, CLASS::IN, 1, RData::A(A { address: address.into() })));
    packet.questions = asked.questions;
    packet.build_bytes_vec_compressed().expect("an answer")
}

/// A Pod and, behind a wire, a resolver and servers.
struct Wire {
    pod: Netns,
    outside: Netns,
    /// What the resolver answers, whatever it is asked for.
    answers: Arc<Mutex<&'static str>>,
}

impl Wire {
    fn new(test: &str) -> Option<Self> {
        let (pod, outside) = (Netns::new(test)?, Netns::new(test)?);
        pod.exec("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", outside.name()], "");
        let others = ["10.9.9.2", RESOLVER, NAMED, OTHER, THIRD].map(|address| (&outside, address));
        for (netns, address) in [(&pod, "10.9.9.1")].into_iter().chain(others) {
            netns.exec("ip", &["addr", "add", &format!("{address}/24"), "dev", "eth0"], "");
            netns.exec("ip", &["link", "set", "eth0", "up"], "");
        }
        let answers = Arc::new(Mutex::new(NAMED));
        let (socket, said) = (outside.within(|_| resolver_socket()), answers.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            // Until the test process ends.
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let address = *said.lock().expect("nobody panics with it");
                let _ = socket.send_to(&answer(&buffer[..length], address), from);
            }
        });
        for address in [NAMED, OTHER, THIRD] {
            let listener = outside.within(|_| TcpListener::bind((address, 443)).expect("it is free"));
            std::thread::spawn(move || listener.incoming().flatten().for_each(echo));
        }
        Some(Self { pod, outside, answers })
    }

    /// What the Pod gets when it asks its resolver.
    fn ask(&self, name: &str) -> Vec<u8> {
        self.pod.within(|_| {
            let socket = UdpSocket::bind("10.9.9.1:0").expect("a port is free");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it is set");
            socket.send_to(&query(name), (RESOLVER, 53)).expect("it is sent");
            let mut buffer = [0; 512];
            let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
            buffer[..length].to_vec()
        })
    }

    /// A connection of the Pod, if it gets through at once: a lost SYN is sent again after a second.
    fn connect(&self, address: &str) -> Option<TcpStream> {
        let target = SocketAddr::new(address.parse().expect("an address"), 443);
        self.pod.within(|_| TcpStream::connect_timeout(&target, Duration::from_millis(500)).ok())
    }

    /// Whether the Pod gets through. The connection is reset, so that nobody can take it for one that is in use.
    fn opens(&self, address: &str) -> bool {
        let Some(stream) = self.connect(address) else { return false };
        setsockopt(&stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).expect("it is set");
        true
    }

    /// The resolver answers this from now on.
    fn answer(&self, address: &'static str) {
        *self.answers.lock().expect("nobody panics with it") = address;
    }

    /// The rules of the Pod's sets of learned addresses, as people see them.
    fn rules(&self) -> String {
        self.pod.saves("iptables-nft-save", &["-t", "mangle"])
    }
}

/// Says what it hears until the other end has nothing more to say.
fn echo(stream: TcpStream) {
    // It ends as the connection does, by whatever.
    std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
}

/// Whether the other end answers.
fn speaks(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("it is set");
    let mut heard = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut heard)).is_ok() && heard == *b"hello"
}

/// Everybody may connect to `*.example.com`.
fn policy() -> (String, Object) {
    let names = PeerNames { fqdns: vec!["*.example.com".to_owned()], except: Vec::new() };
    let rule = CompiledRule {
        name: "rule".to_owned(),
        direction: Direction::Outbound,
        action: Action::Allow,
        reject: false,
        subjects: vec![Subject { labels: Some(Default::default()), ..Subject::default() }],
        peers: vec![Peer { addresses: Some(Vec::new()), names: Some(names), ..Peer::default() }],
        all_services: true,
        services: Vec::new(),
        virtual_service_ports: false,
    };
    let spec = WorkloadPolicySpec { rule_set: "lab".to_owned(), rules: vec![rule], ..WorkloadPolicySpec::default() };
    ("lab".to_owned(), Object::WorkloadPolicy(spec))
}

/// An engine that has read the policy, after one that has left this.
async fn engine(wire: &Wire, left: Kept) -> Running {
    engine_by(crate::names::now, wire, left).await
}

/// The same by another clock.
async fn engine_by(clock: fn() -> u64, wire: &Wire, left: Kept) -> Running {
    let settings = Settings { clock, readings: left.readings, learned: left.learned, ..Settings::default() };
    let mut engine = Running::start_with(View::new(None), settings, None);
    for kind in Kind::ALL {
        let objects = match kind {
            Kind::NodePolicy => {
                let spec = NodePolicySpec { dns_servers: vec![RESOLVER.to_owned()], ..NodePolicySpec::default() };
                [("n1".to_owned(), Object::NodePolicy(NodeEntry { spec, ..NodeEntry::default() }))].into()
            }
            Kind::Profile => [shop(PolicyState::Full)].into(),
            Kind::WorkloadPolicy => [policy()].into(),
            _ => BTreeMap::new(),
        };
        engine.say(Change::All { kind, objects });
    }
    engine.show(&wire.pod.path());
    engine.until("rules", |report| report.settled && report.pods_enforced == 1).await;
    engine
}

/// What the ledger holds once the Pod has learned so many addresses.
async fn kept(engine: &mut Running, learned: usize) -> Kept {
    kept_as(engine, |kept| kept.learned.values().map(Learned::len).sum::<usize>() == learned).await
}

/// What the ledger holds once it is so.
async fn kept_as(engine: &mut Running, is_so: impl Fn(&Kept) -> bool) -> Kept {
    let holds = |kept: &Option<Kept>| kept.as_ref().is_some_and(&is_so);
    let kept = tokio::time::timeout(Duration::from_secs(20), engine.ledger.wait_for(holds)).await;
    kept.expect("gave up waiting for the ledger").expect("it runs").clone().expect("it is there")
}

/// The addresses that the Pod has learned.
fn addresses(kept: &Kept) -> Vec<String> {
    let learned = serde_json::to_value(&kept.learned).expect("it can be written");
    let names = learned["s"].as_object().into_iter().flat_map(|names| names.values());
    let mut found: Vec<String> =
        names.filter_map(|addresses| addresses.as_object()).flat_map(|found| found.keys().cloned()).collect();
    found.sort();
    found
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_resolver_answers_to_the_pod_is_opened() {
    let Some(wire) = Wire::new("what_the_resolver_answers_to_the_pod_is_opened") else { return };
    let mut engine = engine(&wire, Kept::default()).await;
    assert!(!wire.opens(NAMED), "nobody has asked for it");

    // Forged: an answer that nobody has asked for, from where the resolver answers.
    let (port, listening) = wire.pod.within(|_| {
        let socket = UdpSocket::bind("10.9.9.1:0").expect("a port is free");
        (socket.local_addr().expect("it is bound").port(), socket)
    });
    wire.outside.within(|_| {
        let question = query("forged.example.com");
        resolver_socket().send_to(&answer(&question, OTHER), ("10.9.9.1", port)).expect("it is sent");
    });
    wire.ask("other.example.org");
    wire.ask("a.example.com");
    until("what was learned to be open", || wire.opens(NAMED)).await;
    assert!(!wire.opens(OTHER), "no answer to a question names it");
    let learned = kept(&mut engine, 1).await.learned;
    let learned = serde_json::to_value(learned).expect("it can be written");
    let names: Vec<&String> = learned["s"].as_object().expect("a map").keys().collect();
    assert_eq!(names, ["a.example.com"], "of no other name anything is remembered");
    drop(listening);
}

/// A socket at the address of the resolver and the port of DNS. There may be several: who forges answers sends from there too.
fn resolver_socket() -> UdpSocket {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
    let own = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&own, sockopt::ReuseAddr, &true).expect("it is set");
    let address: std::net::SocketAddrV4 = format!("{RESOLVER}:53").parse().expect("an address");
    bind(std::os::fd::AsRawFd::as_raw_fd(&own), &SockaddrIn::from(address)).expect("it may be shared");
    UdpSocket::from(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_outlives_the_agent() {
    let Some(wire) = Wire::new("what_was_learned_outlives_the_agent") else { return };
    let mut first = engine(&wire, Kept::default()).await;
    wire.ask("a.example.com");
    until("what was learned to be open", || wire.opens(NAMED)).await;
    let left = kept(&mut first, 1).await;
    let rules = wire.rules();
    drop(first);

    // Nobody listens now: resolvers answer all the same, and what is open is.
    wire.answer(OTHER);
    until("the answers of a resolver without an agent", || !wire.ask("b.example.com").is_empty()).await;
    assert!(wire.opens(NAMED));

    let mut second = engine(&wire, left).await;
    assert!(wire.opens(NAMED), "the second one knows it from the first");
    assert_eq!(wire.rules(), rules, "nothing was written that was right");
    until("the second one to listen", || {
        wire.ask("b.example.com");
        wire.opens(OTHER)
    })
    .await;
    kept(&mut second, 2).await;
}

/// What no connection uses is closed when its time is over, and what one uses when that is at an end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_is_held_as_long_as_a_connection_uses_it() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let clock = || crate::names::now() + AHEAD.load(Ordering::SeqCst);
    let pass = |seconds| AHEAD.fetch_add(seconds, Ordering::SeqCst);
    let Some(wire) = Wire::new("what_was_learned_is_held_as_long_as_a_connection_uses_it") else { return };
    let mut engine = engine_by(clock, &wire, Kept::default()).await;
    for (name, address) in [("a.example.com", NAMED), ("b.example.com", OTHER)] {
        wire.answer(address);
        wire.ask(name);
        until("what was learned to be open", || wire.opens(address)).await;
    }
    kept_as(&mut engine, |kept| addresses(kept) == [NAMED, OTHER]).await;
    let flow = wire.connect(NAMED).expect("it is open");
    assert!(speaks(&flow));

    // The time of both is over, which the engine, whose timers go by another clock, sees with the next answer.
    pass(61);
    wire.answer(THIRD);
    wire.ask("c.example.com");
    kept_as(&mut engine, |kept| addresses(kept) == [NAMED, THIRD]).await;
    until("what nobody uses to be closed", || !wire.opens(OTHER)).await;
    assert!(speaks(&flow) && wire.opens(NAMED), "what is used stays open, for more of the same too");

    drop(flow);
    pass(31);
    wire.ask("c.example.com");
    kept_as(&mut engine, |kept| addresses(kept) == [THIRD]).await;
    until("what was used to be closed", || !wire.opens(NAMED)).await;
    assert!(wire.opens(THIRD), "whose time is not over");
}
