//! The gate in a real network namespace that stands for a node: two Pods are behind it, clients are before it. Needs root.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_dataplane::gate::GatePolicy;
use ringfence_dataplane::policy::Origin;
use ringfence_dataplane::{Enforcement, Entry, HostSet, Match, NetnsPolicy};
use ringfence_model::{PortMatch, Ports, Protocol, Services};

use super::kernel::{Done, Known, bring, check, clean_up};
use crate::lab::Netns;
use crate::tools::Backend;

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

/// SCTP ports in the wrong order stand for a module that a kernel does not have.
#[test]
fn a_rule_that_the_kernel_refuses_closes_its_pods_and_no_others() {
    let Some(node) = Netns::new("a_rule_that_the_kernel_refuses_closes_its_pods_and_no_others") else { return };
    let mut odd = policy("10.244.1.6", &["192.0.2.7"]);
    let ports = PortMatch { protocol: Protocol::SCTP, ports: Ports::Range(2, 1) };
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
    assert!(number() > before && !node.holds().contains("RF-GATE"), "{}", node.holds());
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
