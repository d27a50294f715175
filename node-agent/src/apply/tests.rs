//! In real network namespaces. Expectations from the policy model: what is in Full lets nothing pass that it does not
//! know to be allowed, whatever goes wrong. Needs root.

mod kept;

use std::io::Write;
use std::net::{IpAddr, UdpSocket};

use ringfence_dataplane::policy::Origin;
use ringfence_dataplane::{Entry, HostSet, Match};
use ringfence_model::{PortMatch, Ports, Protocol, Services};

use super::cleanup::clean_up_with;
use super::*;
use crate::lab::Netns;

/// Over IPv4 and over IPv6, where names are resolved, which is essential; what the rule of [`policy`] allows; and what
/// nothing allows.
const TARGETS: [[&str; 3]; 2] =
    [["10.9.9.53:53", "10.9.9.2:80", "10.9.9.2:81"], ["[fd99:9::53]:53", "[fd99:9::2]:80", "[fd99:9::2]:81"]];

fn services(protocol: Protocol, first: u16, last: u16) -> Services {
    Services::Only([PortMatch { protocol, ports: Ports::Range(first, last) }].into())
}

/// A policy that resolves names and may send to anyone's port 80.
fn policy(state: Enforcement) -> NetnsPolicy {
    let mut policy = NetnsPolicy::new(state);
    let resolvers = ["10.9.9.53", "fd99:9::53"].map(|text| text.parse::<IpAddr>().expect("an address"));
    let nets = Arc::new(resolvers.into_iter().collect());
    let resolvers = HostSet { origins: [Origin::Resolvers].into(), nets };
    let entry = |peers, port| {
        let matching = Match::Hosts { peers, services: services(Protocol::UDP, port, port) };
        Entry { matching, reject: false, rule: "lab/rule".to_owned() }
    };
    policy.outbound.essential.push(entry(resolvers, 53));
    policy.outbound.allow.push(entry(HostSet::anyone(), 80));
    policy
}

/// The same with a rule that iptables refuses, as it does where a module is missing.
fn refused(state: Enforcement) -> NetnsPolicy {
    let mut policy = policy(state);
    let matching = Match::Hosts { peers: HostSet::anyone(), services: services(Protocol::SCTP, 2, 1) };
    policy.inbound.allow.push(Entry { matching, reject: false, rule: "lab/refused".to_owned() });
    policy
}

/// The same with a rule that rejects, for which table filter is needed.
fn rejecting(mut policy: NetnsPolicy) -> NetnsPolicy {
    let matching = Match::Hosts { peers: HostSet::anyone(), services: services(Protocol::UDP, 9, 9) };
    policy.inbound.deny.push(Entry { matching, reject: true, rule: "lab/reject".to_owned() });
    policy
}

/// A Pod with an address, in which nothing is enforced.
struct Pod(Netns);

impl Pod {
    fn new(test: &str) -> Option<Self> {
        let netns = Netns::new(test)?;
        netns.exec("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "wire"], "");
        netns.exec("ip", &["addr", "add", "10.9.9.1/24", "dev", "eth0"], "");
        netns.exec("ip", &["addr", "add", "fd99:9::1/64", "dev", "eth0", "nodad"], "");
        netns.exec("ip", &["link", "set", "eth0", "up"], "");
        Some(Self(netns))
    }

    fn apply(&self, policy: &NetnsPolicy, known: Known, terms: &Terms) -> Result<Outcome, ApplyError> {
        let wanted = Wanted::Policy(Arc::new(policy.clone()));
        self.0.within(|_| apply(Backend::Nft, &wanted, known, terms))
    }

    fn clean_up(&self, known: Known) -> Result<Outcome, ApplyError> {
        self.0.within(|_| clean_up(Backend::Nft, known))
    }

    /// Puts a policy in force and reads it back.
    fn enforce(&self, policy: &NetnsPolicy) -> Known {
        let outcome = self.apply(policy, Known::Unread, &Terms::default()).expect("the kernel takes it");
        assert_eq!((outcome.done, &outcome.problem), (Done::Rules, &None));
        self.clean_up(outcome.known).expect("nobody else is here").known
    }

    /// Which of [`TARGETS`] can be sent to, over both families alike.
    fn open(&self) -> [bool; 3] {
        let [v4, v6] = self.open_by_family();
        assert_eq!(v4, v6, "one family is not as the other");
        v4
    }

    fn open_by_family(&self) -> [[bool; 3]; 2] {
        let own = ["10.9.9.1:0", "[fd99:9::1]:0"];
        let sends = |(own, targets): (&str, [&str; 3])| {
            let socket = UdpSocket::bind(own).expect("a port is free");
            targets.map(|target| socket.send_to(b"x", target).is_ok())
        };
        self.0.within(|_| [sends((own[0], TARGETS[0])), sends((own[1], TARGETS[1]))])
    }

    fn iptables(&self, program: &str, arguments: &str) {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        self.0.exec(program, &arguments, "");
    }
}

/// For a Pod that may be closed.
fn closing() -> Terms {
    Terms { may_close: true, ..Terms::default() }
}

const EVERYTHING: [bool; 3] = [true; 3];
const AS_ALLOWED: [bool; 3] = [true, true, false];
const ESSENTIAL: [bool; 3] = [true, false, false];
const NOTHING: [bool; 3] = [false; 3];

#[test]
fn a_refused_rule_leaves_no_pod_in_full_open() {
    let Some(pod) = Pod::new("a_refused_rule_leaves_no_pod_in_full_open") else { return };
    assert_eq!(pod.open(), EVERYTHING);
    let outcome = pod.apply(&refused(Enforcement::Full), Known::Unread, &closing()).expect("closed");
    assert_eq!((outcome.done, pod.open()), (Done::Closed, ESSENTIAL));
    let problem = outcome.problem.expect("it is not what is wanted");
    assert!(problem.starts_with("iptables-nft-restore: "), "{problem}");
    assert!(problem.ends_with("until that succeeds, essential traffic alone passes"), "{problem}");

    let known = pod.clean_up(outcome.known).expect("it is in force").known;
    assert!(known.has_rules() && !known.is_due());
    // Refused again: what stands in for it stays.
    pod.apply(&refused(Enforcement::Full), known, &closing()).expect_err("refused");
    assert_eq!(pod.open(), ESSENTIAL);
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &closing()).expect("the kernel takes it");
    assert_eq!((outcome.done, pod.open()), (Done::Rules, AS_ALLOWED));
}

/// Somebody else holds the lock of iptables-legacy: what is in force stays, and the next try finds what is to be done.
#[test]
fn a_lock_that_somebody_holds_loses_nothing() {
    let test = "a_lock_that_somebody_holds_loses_nothing";
    let Some(pod) = Pod::new(test) else { return };
    if pod.0.within(|_| Backend::Legacy.save(Place::Pod, Family::V4)).is_err() {
        let _ = writeln!(std::io::stderr(), "{test}: not run: needs iptables-legacy");
        return;
    }
    let wanted = |port| {
        let mut policy = NetnsPolicy::new(Enforcement::Full);
        let services = services(Protocol::UDP, port, port);
        let matching = Match::Hosts { peers: HostSet::anyone(), services };
        policy.outbound.allow.push(Entry { matching, reject: false, rule: "lab/rule".to_owned() });
        Wanted::Policy(Arc::new(policy))
    };
    let legacy = |wanted: &Wanted, known| pod.0.within(|_| apply(Backend::Legacy, wanted, known, &closing()));
    let known = legacy(&wanted(80), Known::Unread).expect("nobody holds it").known;
    assert_eq!(pod.open(), [false, true, false]);
    let lock = std::fs::OpenOptions::new().create(true).append(true).open("/run/xtables.lock").expect("root may");
    lock.lock().expect("it is free");
    let error = legacy(&wanted(81), known).expect_err("it is held for longer than the program waits");
    assert!(error.to_string().contains("xtables lock"), "{error}");
    assert_eq!(pod.open(), [false, true, false], "what was in force stays");
    lock.unlock().expect("it is ours");
    let outcome = legacy(&wanted(81), Known::Unread).expect("nobody holds it");
    assert_eq!((outcome.done, outcome.problem, pod.open()), (Done::Rules, None, [false, false, true]));
    let outcome = pod.0.within(|_| clean_up(Backend::Legacy, outcome.known)).expect("nobody else is here");
    assert!(!outcome.known.is_due(), "nothing is left of the try");
}

/// The kernel has the rules: flows that cannot be looked at are left for later, and nothing is written again.
#[test]
fn flows_that_cannot_be_followed_stay_due_and_change_no_rule() {
    let Some(pod) = Pod::new("flows_that_cannot_be_followed_stay_due_and_change_no_rule") else { return };
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &closing()).expect("the kernel takes it");
    let rules = pod.0.holds();
    let full = |_: &NetnsPolicy| {
        let source = std::io::Error::from_raw_os_error(nix::errno::Errno::ENOBUFS as i32);
        Err(FlowError::Netlink { what: "read conntrack", source })
    };
    let outcome = pod.0.within(|_| clean_up_with(Backend::Nft, outcome.known, full)).expect("the rules are right");
    let problem = outcome.problem.expect("it is reported");
    assert!(problem.starts_with("let flows follow the policy: read conntrack: "), "{problem}");
    assert!(outcome.known.has_rules() && outcome.known.is_due());
    let readings = outcome.known.readings().expect("they were read back");
    assert!(readings.has(Family::V4) && readings.has(Family::V6), "the rest was done");
    let outcome = pod.clean_up(outcome.known).expect("the kernel answers again");
    assert_eq!((outcome.done, outcome.problem, outcome.known.is_due()), (Done::CleanedUp, None, false));
    assert_eq!((pod.0.holds(), pod.open()), (rules, AS_ALLOWED));
}

/// IPv4 is in force when IPv6 is refused: whatever is in force stays, and the other family is closed.
#[test]
fn a_family_that_is_refused_is_closed_alone() {
    let Some(pod) = Pod::new("a_family_that_is_refused_is_closed_alone") else { return };
    let mut refused = policy(Enforcement::Full);
    let nets = Arc::new(["fd99:9::2".parse::<IpAddr>().expect("an address")].into_iter().collect());
    let list = HostSet { origins: [Origin::Prefixes(Arc::clone(&nets))].into(), nets };
    let matching = Match::Hosts { peers: list, services: services(Protocol::SCTP, 2, 1) };
    refused.inbound.allow.push(Entry { matching, reject: false, rule: "lab/refused".to_owned() });
    // Where something decides already, that stays; where nothing does, a simpler policy of both families comes first.
    pod.apply(&refused, Known::Unread, &Terms::default()).expect_err("it may not be closed");
    assert_eq!(pod.open_by_family(), [AS_ALLOWED, EVERYTHING], "half of it is in force");
    let count = || pod.0.exec("ipset", &["list", "-name"], "").lines().count();
    let sets = count();
    for _ in 0..3 {
        let outcome = pod.apply(&refused, Known::Unread, &Terms::default());
        assert!(outcome.is_err());
        assert_eq!(count(), sets, "sets do not pile up with every try");
    }
    // What was cut off is not taken for rules.
    let outcome = pod.apply(&refused, Known::Unread, &Terms { only_if_empty: true, ..closing() }).expect("closed");
    assert_eq!((outcome.done, pod.open_by_family()), (Done::Closed, [AS_ALLOWED, NOTHING]));
    let problem = outcome.problem.expect("it is not what is wanted");
    assert!(problem.ends_with("until that succeeds, nothing passes of [V6]"), "{problem}");
    pod.apply(&refused, outcome.known, &closing()).expect_err("refused again");
    assert_eq!(pod.open_by_family(), [AS_ALLOWED, NOTHING], "it stays closed");
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &closing()).expect("the kernel takes it");
    assert_eq!((outcome.done, pod.open()), (Done::Rules, AS_ALLOWED));
    assert!(!pod.clean_up(outcome.known).expect("nobody else is here").known.is_due());
}

#[test]
fn where_not_even_the_essentials_can_be_loaded_a_pod_in_full_is_closed() {
    let Some(pod) = Pod::new("where_not_even_the_essentials_can_be_loaded_a_pod_in_full_is_closed") else { return };
    let mut refused = refused(Enforcement::Full);
    refused.inbound.essential = refused.inbound.allow.clone();
    let outcome = pod.apply(&refused, Known::Unread, &closing()).expect("closed");
    assert_eq!((outcome.done, pod.open()), (Done::Closed, NOTHING));
    let problem = outcome.problem.expect("it is not what is wanted");
    assert!(problem.ends_with("until that succeeds, loopback alone passes"), "{problem}");
    let outcome = pod.apply(&policy(Enforcement::Full), outcome.known, &closing()).expect("the kernel takes it");
    assert_eq!((outcome.done, outcome.problem, pod.open()), (Done::Rules, None, AS_ALLOWED));
}

/// A match that IPv4 alone refuses: what IPv6 has got already goes again, so that the same stands in for both.
#[test]
fn where_ipv4_is_refused_the_same_stands_in_for_both_families() {
    let Some(pod) = Pod::new("where_ipv4_is_refused_the_same_stands_in_for_both_families") else { return };
    let mut refused = policy(Enforcement::Full);
    let nets = Arc::new(["10.9.9.2".parse::<IpAddr>().expect("an address")].into_iter().collect());
    let list = HostSet { origins: [Origin::Prefixes(Arc::clone(&nets))].into(), nets };
    let matching = Match::Hosts { peers: list, services: services(Protocol::SCTP, 2, 1) };
    refused.inbound.allow.push(Entry { matching, reject: false, rule: "lab/refused".to_owned() });
    pod.apply(&refused, Known::Nothing, &Terms::default()).expect_err("it may not be closed");
    assert_eq!(pod.open(), EVERYTHING);
    let outcome = pod.apply(&refused, Known::Nothing, &closing()).expect("closed");
    assert_eq!((outcome.done, pod.open()), (Done::Closed, ESSENTIAL));
    let problem = outcome.problem.expect("it is not what is wanted");
    assert!(problem.ends_with("until that succeeds, essential traffic alone passes"), "{problem}");
}

/// Table filter is there from the first rule that rejects, and is then as much ours as the rest.
#[test]
fn what_rejects_comes_with_the_first_rule_that_does() {
    let Some(pod) = Pod::new("what_rejects_comes_with_the_first_rule_that_does") else { return };
    let known = pod.enforce(&policy(Enforcement::Full));
    assert!(!pod.0.holds().contains("*filter"), "{}", pod.0.holds());
    let outcome = pod.apply(&rejecting(policy(Enforcement::Full)), known, &closing()).expect("the kernel takes it");
    let known = pod.clean_up(outcome.known).expect("nobody else is here").known;
    assert!(pod.0.holds().contains("-A INPUT -j RF-REJECT\n"));
    // It stays; a restarted agent finds everything right.
    let outcome = pod.apply(&policy(Enforcement::Full), known, &closing()).expect("the kernel takes it");
    let known = pod.clean_up(outcome.known).expect("nobody else is here").known;
    let terms = Terms { readings: known.readings().expect("they were read back"), ..closing() };
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &terms).expect("nothing to do");
    assert_eq!((outcome.done, outcome.problem, pod.open()), (Done::Nothing, None, AS_ALLOWED));
    let outcome = pod.0.within(|_| apply(Backend::Nft, &Wanted::Nothing, outcome.known, &closing())).expect("removed");
    assert!(outcome.done == Done::Removed && !pod.0.holds().contains("RF"), "{}", pod.0.holds());
}

#[test]
fn a_name_that_somebody_has_taken_is_left_alone() {
    let Some(pod) = Pod::new("a_name_that_somebody_has_taken_is_left_alone") else { return };
    // A set of another type, which a rule of somebody else holds.
    pod.0.exec("ipset", &["create", "RF4-0-0", "hash:ip"], "");
    pod.iptables("iptables-nft", "-A OUTPUT -m set --match-set RF4-0-0 dst -j RETURN");
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &closing()).expect("the kernel takes it");
    assert_eq!((outcome.done, outcome.problem, pod.open()), (Done::Rules, None, AS_ALLOWED));
    assert!(pod.0.holds().contains("create RF4-0-0 hash:ip "));
}

#[test]
fn only_an_open_pod_in_full_is_closed() {
    let Some(pod) = Pod::new("only_an_open_pod_in_full_is_closed") else { return };
    pod.apply(&refused(Enforcement::Full), Known::Unread, &Terms::default()).expect_err("it may not be closed");
    assert_eq!(pod.open(), EVERYTHING);
    pod.apply(&refused(Enforcement::Selective), Known::Unread, &closing())
        .expect_err("Selective passes what it does not know");
    assert_eq!(pod.open(), EVERYTHING);
    let known = pod.enforce(&policy(Enforcement::Full));
    pod.apply(&refused(Enforcement::Full), known, &closing()).expect_err("refused");
    assert_eq!(pod.open(), AS_ALLOWED, "what was in force stays");
}

#[test]
fn what_a_failure_left_behind_is_not_taken_for_rules() {
    let Some(pod) = Pod::new("what_a_failure_left_behind_is_not_taken_for_rules") else { return };
    // Table filter is written before table mangle is refused.
    pod.apply(&rejecting(refused(Enforcement::Full)), Known::Unread, &Terms::default())
        .expect_err("it may not be closed");
    assert!(pod.0.holds().contains("RF-REJECT"));
    pod.0.exec("ipset", &["create", "RF4-7-0", "hash:net"], "");
    let terms = Terms { only_if_empty: true, ..closing() };
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &terms).expect("the kernel takes it");
    assert_eq!((outcome.done, pod.open()), (Done::Rules, AS_ALLOWED));
    let outcome = pod.apply(&policy(Enforcement::Selective), Known::Unread, &terms).expect("nothing to do");
    assert_eq!((outcome.done, pod.open()), (Done::Left, AS_ALLOWED));
}

/// The policy of [`policy`] with a group of others that may come in.
fn with_group(members: &[&str]) -> NetnsPolicy {
    let mut policy = policy(Enforcement::Full);
    let nets = Arc::new(members.iter().map(|text| text.parse::<IpAddr>().expect("an address")).collect());
    let peers = HostSet { origins: [Origin::PeerGroup("p-1".to_owned())].into(), nets };
    let matching = Match::Hosts { peers, services: services(Protocol::UDP, 81, 81) };
    policy.outbound.allow.push(Entry { matching, reject: false, rule: "lab/group".to_owned() });
    policy
}

#[test]
fn members_follow_without_entering_the_namespace() {
    let Some(pod) = Pod::new("members_follow_without_entering_the_namespace") else { return };
    let known = pod.enforce(&with_group(&[]));
    assert_eq!(pod.open(), AS_ALLOWED);
    let follow = |policy: NetnsPolicy, known| follow_members(&Wanted::Policy(Arc::new(policy)), known);
    // On a thread that is elsewhere.
    let Followed::Members(Ok(outcome)) = follow(with_group(&["10.9.9.2", "fd99:9::2"]), known) else {
        panic!("members")
    };
    assert_eq!((outcome.done, pod.open()), (Done::Members, EVERYTHING));
    let Followed::Members(Ok(outcome)) = follow(with_group(&["10.9.9.3"]), outcome.known) else { panic!("members") };
    assert_eq!((outcome.done, pod.open()), (Done::Members, AS_ALLOWED));
    let Followed::NotAlone(known) = follow(policy(Enforcement::Full), outcome.known) else { panic!("a rule goes") };
    assert!(known.has_rules(), "what is known is handed back");

    // Somebody takes rules and sets away: the set that is missed is named, and everything is written anew.
    pod.0.exec("iptables-nft", &["-t", "mangle", "-F"], "");
    pod.0.exec("ipset", &["destroy", "RF4-0-1"], "");
    let Followed::Members(Err(error)) = follow(with_group(&["10.9.9.2", "fd99:9::2"]), known) else {
        panic!("an error")
    };
    assert_eq!(error.to_string(), "add to set RF4-0-1: there is no set of this name");
    let wider = with_group(&["10.9.9.2", "fd99:9::2"]);
    let outcome = pod.apply(&wider, Known::Unread, &closing()).expect("the kernel takes it");
    assert_eq!((outcome.done, pod.open()), (Done::Rules, EVERYTHING));
}
