//! A network namespace that acts as the node's, another that is everybody else, and real packets between them. Needs root.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use ringfence_dataplane::policy::Origin;
use ringfence_dataplane::{Enforcement, Entry, HostSet, Match};
use ringfence_model::{PortMatch, Ports, Protocol, Services};

use super::*;
use crate::apply::{Texts, texts_of_host};
use crate::lab::Netns;
use crate::netfilter;

mod following;
mod taking_back;

const NODE: &str = "10.9.0.1";
const OTHER: &str = "10.9.0.2";
const APISERVER: u16 = 6443;
/// What somebody else has put there: the node's gate, and rules that nobody of us knows. One of them has connections tracked
/// before there are rules of ours, as kube-proxy does.
const FOREIGN: &str = "*mangle\n:RF-GATE - [0:0]\n-A POSTROUTING -j RF-GATE\n-A INPUT -m conntrack --ctstate INVALID -j DROP\n-A INPUT -s 192.0.2.1/32 -j ACCEPT\n\
    -A RF-GATE -m set --match-set RFG4-0-0 dst -j RETURN\nCOMMIT\n";

/// The node, everybody else, and what listens there.
struct Scene {
    node: Netns,
    other: Netns,
    listeners: Vec<TcpListener>,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        let (node, other) = (Netns::new(test)?, Netns::new(test)?);
        let ip = |netns: &Netns, text: &str| netns.exec("ip", &text.split(' ').collect::<Vec<_>>(), "");
        ip(&node, &format!("link add eth0 type veth peer name eth0 netns {}", other.name()));
        for (netns, address) in [(&node, NODE), (&other, OTHER)] {
            ip(netns, &format!("address add {address}/24 dev eth0"));
            ip(netns, "link set eth0 up");
        }
        node.exec("ipset", &["create", "RFG4-0-0", "hash:net"], "");
        node.exec("iptables-nft-restore", &["--noflush"], FOREIGN);
        let listen = |netns: &Netns, address: &str, port: u16| {
            netns.within(|_| TcpListener::bind((address, port))).expect("nobody else listens")
        };
        let listeners = vec![listen(&other, OTHER, APISERVER), listen(&node, NODE, 22), listen(&node, NODE, 8080)];
        Some(Self { node, other, listeners, folder: tempfile::tempdir().expect("a folder") })
    }

    fn keeper(&self) -> Keeper {
        let apiserver = Apiserver { host: OTHER.to_owned(), port: APISERVER };
        let patience = Patience {
            confirm: Duration::from_millis(1500),
            blame: Duration::from_millis(1500),
            look: Duration::from_millis(100),
        };
        let keeper = Keeper::new(Backend::Nft, self.node.location(), Some(self.folder.path()));
        Keeper { patience, ..keeper.reaching(Some(apiserver)) }
    }

    /// Whether the other one reaches a port of the node.
    fn reaches(&self, port: u16) -> bool {
        let end = SocketAddr::new(address(NODE), port);
        self.other.within(|_| TcpStream::connect_timeout(&end, Duration::from_millis(700)).is_ok())
    }

    /// Waits until nobody holds the apiserver's port any more: a child that another test starts may have it until it is another program.
    fn await_silence(&self) {
        let end = SocketAddr::new(address(OTHER), APISERVER);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while self.node.within(|_| TcpStream::connect_timeout(&end, Duration::from_millis(700)).is_ok()) {
            assert!(std::time::Instant::now() < deadline, "somebody holds the port of the apiserver");
        }
    }

    fn rules(&self) -> Texts {
        self.node.within(|_| texts_of_host(Backend::Nft)).expect("they are read")
    }

    fn generation(&self) -> u32 {
        self.node.within(|_| netfilter::generation()).expect("the kernel counts")
    }

    fn has_foreign(&self) -> bool {
        let holds = self.node.holds();
        let rules =
            ["-A POSTROUTING -j RF-GATE", "-A INPUT -s 192.0.2.1/32 -j ACCEPT", "--match-set RFG4-0-0 dst -j RETURN"];
        rules.iter().all(|rule| holds.contains(rule)) && holds.contains("create RFG4-0-0 ")
    }

    fn rules_without_generation(&self) -> Texts {
        unnumbered(&self.rules())
    }

    fn sets_of_ours(&self) -> Vec<String> {
        let names = self.node.exec("ipset", &["list", "-name"], "");
        names.lines().filter(|name| name.starts_with("RFH4")).map(str::to_owned).collect()
    }

    fn holds_ours(&self) -> bool {
        let holds = self.node.holds();
        holds.contains("RF-HOST") || holds.contains("RFH")
    }
}

/// Texts with the generation of sets left out.
fn unnumbered(texts: &Texts) -> Texts {
    texts.each_ref().map(|text| {
        let word = |word: &str| match word.strip_prefix("RFH").and_then(|rest| rest.split('-').next_back()) {
            Some(slot) => format!("RFH-{slot}"),
            // The fingerprint is of the text.
            None if word.contains("RF-HOST-FP-") => "FP".to_owned(),
            None => word.to_owned(),
        };
        text.split(' ').map(word).collect::<Vec<_>>().join(" ")
    })
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn entry(peers: HostSet, port: PortMatch) -> Entry {
    let matching = Match::Hosts { peers, services: Services::Only([port].into()) };
    Entry { matching, reject: false, rule: "essential:test".to_owned() }
}

fn tcp(port: u16) -> PortMatch {
    PortMatch::single(Protocol::TCP, port).expect("a port")
}

fn only(peer: &str) -> HostSet {
    let nets = Arc::new([address(peer)].into_iter().collect());
    HostSet { origins: [Origin::PeerGroup("p-1".to_owned())].into(), nets }
}

/// Full, but for SSH, the apiserver, and pings.
fn good() -> NetnsPolicy {
    let mut policy = NetnsPolicy { place: Place::Host, ..NetnsPolicy::new(Enforcement::Full) };
    policy.inbound.essential.push(entry(HostSet::anyone(), tcp(22)));
    policy.outbound.essential.push(entry(only(OTHER), tcp(APISERVER)));
    let echo = PortMatch { protocol: Protocol::ICMP, ports: Ports::Icmp(8, None) };
    policy.outbound.essential.push(entry(HostSet::anyone(), echo));
    policy
}

/// The same without one of what it lets out.
fn without(index: usize) -> NetnsPolicy {
    let mut policy = good();
    policy.outbound.essential.remove(index);
    policy
}

fn wanted(policy: NetnsPolicy) -> Wanted {
    Wanted::Policy(Arc::new(policy), vec![address(OTHER)])
}

fn bring(keeper: &mut Keeper, wanted: &Wanted) -> (State, String) {
    let (came, _) = keeper.bring(wanted);
    (came.state, came.problem.unwrap_or_default())
}

fn notes_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("it is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_essential_passes_a_node_in_full_and_nothing_else() {
    let Some(scene) = Scene::new("what_is_essential_passes_a_node_in_full_and_nothing_else") else { return };
    assert!(scene.reaches(22) && scene.reaches(8080));
    let mut keeper = scene.keeper();
    assert_eq!(bring(&mut keeper, &wanted(good())), (State::InForce, String::new()));
    assert!(scene.reaches(22) && !scene.reaches(8080));
    assert!(scene.has_foreign());
    assert_eq!(notes_in(scene.folder.path()), ["host-confirmed.json"]);
    assert!(scene.node.holds().contains("-A INPUT -j RF-HOST-IN\n"), "{}", scene.node.holds());
    assert!(!scene.node.holds().contains("FORWARD -j RF"), "what is forwarded comes by nothing");

    // Members come and go without a rule that changes.
    let before = scene.generation();
    let members = {
        let mut policy = good();
        let nets = Arc::new([address(OTHER), address("10.9.0.3")].into_iter().collect());
        let peers = HostSet { origins: [Origin::PeerGroup("p-1".to_owned())].into(), nets };
        policy.outbound.essential[0] = entry(peers, tcp(APISERVER));
        policy
    };
    assert_eq!(bring(&mut keeper, &wanted(members.clone())).0, State::InForce);
    assert_eq!(scene.generation(), before);
    assert!(scene.node.holds().contains(" 10.9.0.3\n"));

    // An agent that starts again writes nothing that is right.
    let (_, readings) = keeper.readings(Some(scene.node.cookie())).expect("it was read back");
    drop(keeper);
    let mut next = scene.keeper().remembering(Some(readings));
    assert_eq!(bring(&mut next, &wanted(members)).0, State::InForce);
    assert_eq!(scene.generation(), before);

    assert_eq!(bring(&mut next, &Wanted::Nothing), (State::Nothing, String::new()));
    assert!(!scene.holds_ours() && scene.has_foreign() && scene.reaches(8080), "{}", scene.node.holds());
}

#[test]
fn a_connection_that_exists_lives_on() {
    let Some(scene) = Scene::new("a_connection_that_exists_lives_on") else { return };
    use std::io::{Read, Write};
    let end = SocketAddr::new(address(NODE), 8080);
    let mut client = scene.other.within(|_| TcpStream::connect(end)).expect("open");
    let (mut server, _) = scene.listeners[2].accept().expect("it came");
    assert_eq!(bring(&mut scene.keeper(), &wanted(good())).0, State::InForce);
    assert!(!scene.reaches(8080));
    client.write_all(b"still").expect("sent");
    let mut heard = [0; 5];
    server.read_exact(&mut heard).expect("it arrives");
    assert_eq!(&heard, b"still");
}

/// As by a load balancer in front of several apiservers, which nothing in the cluster tells of.
#[test]
fn what_the_kubelet_is_connected_to_stays_open() {
    let Some(scene) = Scene::new("what_the_kubelet_is_connected_to_stays_open") else { return };
    let (kubelet, balancer, closed, other_way) = (10250, 7443, 7444, 7445);
    let listen = |netns: &Netns, at: &str, port: u16| netns.within(|_| TcpListener::bind((at, port))).expect("free");
    let connect = |netns: &Netns, to: &str, port: u16| {
        let end = SocketAddr::new(address(to), port);
        netns.within(|_| TcpStream::connect_timeout(&end, Duration::from_millis(700)))
    };
    let _listening = [balancer, closed, other_way].map(|port| listen(&scene.other, OTHER, port));
    let _served = listen(&scene.node, NODE, kubelet);
    let _asked = connect(&scene.other, NODE, kubelet).expect("the kubelet listens");
    let reaches = |port| connect(&scene.node, OTHER, port).is_ok();
    let [way, other] = [balancer, other_way].map(|port| connect(&scene.node, OTHER, port).expect("it listens"));
    let policy = || {
        let mut policy = good();
        let served = Entry { rule: "essential:kubelet".to_owned(), ..entry(only(OTHER), tcp(kubelet)) };
        policy.inbound.essential.push(served);
        policy
    };
    let found = scene.node.within(|_| kubelet::connected_to(&policy())).expect("it is told");
    let ways = [balancer, other_way].map(|port| SocketAddr::new(address(OTHER), port));
    assert_eq!(found, ways.into(), "and not who is connected to it");

    let mut keeper = scene.keeper();
    assert_eq!(bring(&mut keeper, &wanted(policy())), (State::InForce, String::new()));
    assert!(reaches(balancer) && reaches(other_way) && !reaches(closed));

    // It connects anew just when another agent begins: that one goes by what the one before has noted.
    let before = scene.generation();
    drop((way, other));
    let (_, readings) = keeper.readings(Some(scene.node.cookie())).expect("it was read back");
    let mut keeper = scene.keeper().remembering(Some(readings));
    assert_eq!(bring(&mut keeper, &wanted(policy())), (State::InForce, String::new()));
    assert_eq!(scene.generation(), before, "nothing is written");
    assert!(reaches(balancer) && reaches(other_way) && !reaches(closed));
    assert_eq!(bring(&mut keeper, &Wanted::Nothing).0, State::Nothing);
}

/// A kube-proxy that was switched to IPVS leads what is for Pods through the node's own chains.
#[test]
fn a_node_whose_services_go_by_ipvs_has_no_policy_of_its_own() {
    let Some(scene) = Scene::new("a_node_whose_services_go_by_ipvs_has_no_policy_of_its_own") else { return };
    let mut keeper = scene.keeper();
    assert_eq!(bring(&mut keeper, &wanted(good())).0, State::InForce);
    scene.node.exec("ip", &["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"], "");
    let (looked, _) = keeper.look(&Said { state: State::InForce, ..Said::default() });
    assert_eq!(looked.state, State::Failed);
    assert!(looked.problem.is_some_and(|problem| problem.contains("translated by IPVS")));
    assert!(!scene.holds_ours() && scene.has_foreign() && scene.reaches(8080), "{}", scene.node.holds());
    assert_eq!(bring(&mut keeper, &wanted(good())).0, State::Failed, "until it is gone");
    scene.node.exec("ip", &["link", "delete", "kube-ipvs0"], "");
    assert_eq!(bring(&mut keeper, &wanted(good())).0, State::InForce);
}
