//! The gate in a real network namespace that stands for a node: two Pods are behind it, clients are before it. Needs root.

use ringfence_dataplane::policy::Origin;
use ringfence_dataplane::{Entry, HostSet, Match, Resolution};
use ringfence_model::{PortMatch, Protocol, Services};

use super::kernel::{bring, check, clean_up};
use super::*;
use crate::lab::Netns;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Full; these may reach port 80.
fn policy(pod: &str, clients: &[&str]) -> NetnsPolicy {
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    policy.own = [ip(pod)].into();
    let nets = Arc::new(clients.iter().map(|client| ip(client)).collect());
    let peers = HostSet { origins: [Origin::PeerGroup("p-1".to_owned())].into(), nets };
    let services = Services::Only(PortMatch::single(Protocol::TCP, 80).into_iter().collect());
    let matching = Match::Hosts { peers, services };
    policy.inbound.allow.push(Entry { matching, reject: false, rule: "lab/web".to_owned() });
    policy
}

fn gate(policies: &[NetnsPolicy]) -> Arc<GatePolicy> {
    Arc::new(GatePolicy::of(policies))
}

fn put(node: &Netns, wanted: &Arc<GatePolicy>, known: Known) -> (Known, Done) {
    node.within(|_| {
        let brought = bring(Backend::Nft, wanted, known, false).expect("the kernel takes it");
        let mut known = brought.known;
        clean_up(&mut known).expect("cleaned up");
        (known, brought.done)
    })
}

#[test]
fn what_is_right_is_not_written_and_foreign_rules_stay() {
    let Some(node) = Netns::new("what_is_right_is_not_written_and_foreign_rules_stay") else { return };
    let foreign = "-A POSTROUTING -d 203.0.113.9/32 -j ACCEPT";
    node.exec("iptables-nft", &["-t", "mangle", "-A", "POSTROUTING", "-d", "203.0.113.9", "-j", "ACCEPT"], "");
    node.exec("iptables-nft", &["-t", "mangle", "-N", "RF-HOST-IN"], "");
    let wanted = gate(&[policy("10.244.1.5", &["192.0.2.7"]), policy("fd00::5", &["192.0.2.7"])]);
    let (known, done) = put(&node, &wanted, Known::Unread);
    assert_eq!(done, Done::Rules);
    let held = node.holds();
    assert!(held.contains("-A POSTROUTING -j RF-GATE\n") && held.contains(foreign), "{held}");

    // The same, known or read anew: nothing is written.
    let number = || node.within(|_| Backend::Nft.generation());
    let before = number();
    assert_eq!(put(&node, &wanted, known).1, Done::Nothing);
    let (known, done) = put(&node, &wanted, Known::Unread);
    assert_eq!((done, number()), (Done::Nothing, before), "{held}");

    // A client more is a member more.
    let more =
        gate(&[policy("10.244.1.5", &["192.0.2.7", "192.0.2.8"]), policy("fd00::5", &["192.0.2.7", "192.0.2.8"])]);
    let (known, done) = put(&node, &more, known);
    assert_eq!((done, number()), (Done::Members, before));
    assert!(node.holds().contains("192.0.2.8"));

    let (_, done) = put(&node, &Arc::default(), known);
    let left = node.holds();
    assert_eq!(done, Done::Rules);
    assert!(left.contains(foreign) && left.contains("RF-HOST-IN"), "{left}");
    assert!(!left.contains("RF-GATE") && !left.contains("RFG4-"), "{left}");
}

#[test]
fn what_somebody_takes_away_is_put_back() {
    let Some(node) = Netns::new("what_somebody_takes_away_is_put_back") else { return };
    let (known, _) = put(&node, &gate(&[policy("10.244.1.5", &["192.0.2.7"])]), Known::Unread);
    let look = |known| node.within(|_| check(Backend::Nft, known).expect("the kernel answers"));
    let (known, put_back) = look(known);
    assert!(!put_back);
    let before = node.exec("iptables-nft-save", &["-t", "mangle"], "");
    node.exec("iptables-nft", &["-t", "mangle", "-F"], "");
    let (known, put_back) = look(known);
    assert!(put_back);
    let rules = |save: &str| save.lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rules(&node.exec("iptables-nft-save", &["-t", "mangle"], "")), rules(&before));
    let (known, put_back) = look(known);
    assert!(!put_back, "it is right again");
    // Emptied sets are not told by nf_tables.
    node.exec("ipset", &["flush", "RFG4-pods"], "");
    let (known, put_back) = look(known);
    assert!(put_back && node.exec("ipset", &["list", "RFG4-pods"], "").contains("10.244.1.5"));
    assert!(!look(known).1, "it is right again");
}

#[test]
fn a_node_without_pods_seals_for_those_of_others() {
    let Some(node) = Netns::new("a_node_without_pods_seals_for_those_of_others") else { return };
    let exposed = |clients: &[&str]| {
        let policy = Some(policy("10.244.2.9", clients));
        let pods = [ip("10.244.2.9"), ip("fd00::9")].into();
        let exposed = [Exposed { name: "shop/web".to_owned(), pods, policy }];
        Arc::new(GatePolicy::default().sealing_for(&exposed, &GatePolicy::default()))
    };
    let (known, done) = put(&node, &exposed(&["192.0.2.7"]), Known::Unread);
    assert_eq!((done, known.seals(), known.cannot_seal()), (Done::Rules, Some(true), false));
    let held = node.holds();
    assert!(held.contains("-A RF-GATE -g RF-GATE-AWAY\n"), "{held}");
    assert!(held.contains("-A RF-GATE-AWAY -m dscp --dscp 0x03 -j DSCP --set-dscp 0x00\n"), "{held}");
    let (known, done) = put(&node, &exposed(&["192.0.2.7"]), Known::Unread);
    assert_eq!((done, known.seals()), (Done::Nothing, Some(true)));
    let (known, done) = put(&node, &exposed(&["192.0.2.7", "192.0.2.8"]), known);
    assert_eq!(done, Done::Members);
    let (known, _) = put(&node, &Arc::default(), known);
    let left = node.holds();
    assert!(known.seals() == Some(false) && !left.contains("RF-GATE") && !left.contains("RFG"), "{left}");
}

/// SCTP ports in the wrong order stand for a module that a kernel does not have.
#[test]
fn a_rule_that_the_kernel_refuses_closes_its_pods_and_no_others() {
    let Some(node) = Netns::new("a_rule_that_the_kernel_refuses_closes_its_pods_and_no_others") else { return };
    let mut odd = policy("10.244.1.6", &["192.0.2.7"]);
    let ports = PortMatch { protocol: Protocol::SCTP, ports: ringfence_model::Ports::Range(2, 1) };
    let (peers, services) = (HostSet::anyone(), Services::Only([ports].into()));
    let matching = Match::Hosts { peers, services };
    odd.inbound.allow.push(Entry { matching, reject: false, rule: "lab/refused".to_owned() });
    let wanted = gate(&[policy("10.244.1.5", &["192.0.2.7"]), odd]);
    let brought = node.within(|_| bring(Backend::Nft, &wanted, Known::Unread, false).expect("the rest is taken"));
    assert!(brought.problem.is_some_and(|problem| problem.contains("whose Pods are closed")));
    let held = node.holds();
    assert!(held.contains("--dport 80 ") && held.contains("-A POSTROUTING -j RF-GATE\n"), "{held}");
    let number = || node.within(|_| Backend::Nft.generation());
    let before = number();
    let (_, done) = put(&node, &Arc::default(), brought.known);
    assert_eq!(done, Done::Rules);
    let left = node.holds();
    assert!(number() > before && !left.contains("RF-GATE") && !left.contains("RFG"), "{left}");
}

#[test]
fn a_node_whose_policy_is_not_known_yet_keeps_its_gate() {
    let Some(node) = Netns::new("a_node_whose_policy_is_not_known_yet_keeps_its_gate") else { return };
    put(&node, &gate(&[policy("10.244.1.5", &["192.0.2.7"])]), Known::Unread);
    let before = node.holds();
    let other = gate(&[policy("10.244.1.6", &["192.0.2.9"])]);
    let brought = node.within(|_| bring(Backend::Nft, &other, Known::Unread, true).expect("it is read"));
    assert_eq!(brought.done, Done::Left);
    assert_eq!(node.holds(), before);
}

/// A Pod with this policy, as the engine has it.
fn slot(policy: NetnsPolicy) -> Slot {
    let sandbox = serde_json::from_value(serde_json::json!({
        "id": "s", "uid": "u", "namespace": "shop", "name": "web", "labels": {}, "annotations": {},
        "created_at": 0, "host_network": false, "netns": {}, "ips": [], "dns_servers": []
    }));
    let mut slot = Slot::new(sandbox.expect("a sandbox"));
    slot.resolved(Resolution::Enforce(policy), true, Instant::now());
    slot
}

/// A gate that was brought to what these Pods want.
fn brought(slots: &BTreeMap<String, Slot>) -> Gate {
    let mut gate = Gate::new(Backend::Nft);
    gate.want(slots.iter(), None);
    let behind = Some(gate.wanted_behind.clone());
    let came = Finished { kind: Kind::Bring, known: Known::Unread, behind, ports: None, problem: None };
    gate.finish(came, Instant::now());
    gate
}

/// A node that translates by IPVS does not see what it translates for other nodes' Pods, and one whose kernel has no seals has none.
#[tokio::test]
async fn a_gate_says_that_it_seals_only_where_it_does() {
    let Some(node) = Netns::new("a_gate_says_that_it_seals_only_where_it_does") else { return };
    let policy = Some(policy("10.244.2.9", &["192.0.2.7"]));
    let exposed = [Exposed { name: "shop/web".to_owned(), pods: [ip("10.244.2.9")].into(), policy }];
    let wanted = Arc::new(GatePolicy::default().sealing_for(&exposed, &GatePolicy::default()));
    let mut gate = Gate::new(Backend::Nft);
    let mut came = |known, ports| {
        let kind = Kind::Bring;
        gate.finish(Finished { kind, known, behind: Some(Behind::new()), ports, problem: None }, Instant::now());
        (gate.seals(), gate.can_seal())
    };
    assert_eq!(came(put(&node, &wanted, Known::Unread).0, None), (false, true), "nobody knows who translates");
    let known = put(&node, &wanted, Known::Unread).0;
    assert_eq!(came(known, Some((Ports::Judged, false))), (true, true));
    assert_eq!(came(Known::Unread, Some((Ports::Judged, true))), (false, true));
    assert_eq!(came(Known::Unread, Some((Ports::Probes, false))), (false, true));
    assert_eq!(came(put(&node, &Arc::default(), Known::Unread).0, Some((Ports::Judged, false))), (false, true));
}

/// By which addresses the Pod is to let its node in.
fn lets_in(gate: &Gate, slots: &BTreeMap<String, Slot>) -> Vec<String> {
    match gate.door("s", &slots["s"], &[ip("10.244.1.1"), ip("fd00::1")]) {
        crate::slot::Door::Gate { nodes, .. } => nodes.iter().map(ToString::to_string).collect(),
        crate::slot::Door::NoGate => panic!("there is one"),
    }
}

#[tokio::test]
async fn a_pod_lets_its_node_in_only_where_the_gate_is_as_strict_as_it_is() {
    let pods = |policy| BTreeMap::from([("s".to_owned(), slot(policy))]);
    let web = || policy("10.244.1.5", &["192.0.2.7"]);
    let full = pods(web());
    assert!(lets_in(&Gate::new(Backend::Nft), &full).is_empty(), "nothing is in force yet");
    assert_eq!(lets_in(&brought(&full), &full), ["10.244.1.1"], "the Pod has no address of IPv6");
    for laxer in [Enforcement::VisibilityOnly, Enforcement::Selective] {
        let before = brought(&pods(NetnsPolicy { state: laxer, ..web() }));
        assert!(lets_in(&before, &full).is_empty(), "the gate judges it by {laxer:?}");
    }
    let moved = pods(policy("10.244.1.9", &["192.0.2.7"]));
    assert!(lets_in(&brought(&full), &moved).is_empty(), "the gate knows another address");
}

#[tokio::test]
async fn pods_wait_for_the_first_answer_of_the_gate_and_not_for_ever() {
    let slots = BTreeMap::from([("s".to_owned(), slot(policy("10.244.1.5", &["192.0.2.7"])))]);
    let (mut gate, now) = (Gate::new(Backend::Nft), Instant::now());
    gate.want(slots.iter(), None);
    assert!(gate.is_known(now), "what is on disk replaces nothing anyway");
    gate.fresh_since = Some(now);
    let failed = Finished::failed(Kind::Bring, "take a lock".to_owned(), Known::Unread);
    gate.finish(failed, now);
    assert!(!gate.is_known(now), "a failure is no answer");
    assert!(gate.is_known(now + FIRST));
    assert_eq!(gate.problem().as_deref(), Some("gate: failed to take a lock"));
    assert!(gate.retry.at().is_some_and(|at| at > now));
}

#[tokio::test]
async fn nothing_is_done_at_the_gate_before_all_pods_are_listed() {
    let slots = BTreeMap::from([("s".to_owned(), slot(policy("10.244.1.5", &["192.0.2.7"])))]);
    let (mut gate, now) = (Gate::new(Backend::Nft), Instant::now());
    let moment = |now| Moment { now, fresh: true, closed: true };
    gate.want(slots.iter(), None);
    assert!(gate.job(moment(now)).is_none());
    gate.pods_are_listed(false, now);
    assert!(gate.job(moment(now)).is_none(), "one of them is missing");
    assert!(matches!(gate.job(moment(now + FIRST)), Some(Job::Bring { .. })), "it may be missing for long");
    gate.pods_are_listed(true, now);
    assert!(matches!(gate.job(moment(now)), Some(Job::Bring { .. })));
}
