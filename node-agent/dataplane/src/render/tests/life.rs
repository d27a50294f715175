//! The sample of docs/matching.md, "The life of a packet", is what is rendered.

use std::collections::BTreeMap;

use super::*;
use crate::gate::{Exposed, GatePolicy, RenderedGate, names as gate_names};

const DOCS: &str = include_str!("../../../../../docs/matching.md");

/// The lines that a numbered step shows, with what they begin with.
fn shown(step: u8, begin: &str) -> Vec<&'static str> {
    let (_, section) = DOCS.split_once("\n## The life of a packet").expect("the section");
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let (_, step) = section.split_once(&format!("\n**{step}. ")).expect("the step");
    let (step, _) = step.split_once("\n**").unwrap_or((step, ""));
    let lines: Vec<_> = step.lines().filter(|line| line.starts_with(begin)).collect();
    assert!(!lines.is_empty(), "the step shows nothing that begins with {begin}");
    lines
}

/// That every line shown is one of the text, those of a chain in the order of the text.
fn holds(text: &str, shown: &[impl AsRef<str>]) {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for line in shown.iter().map(AsRef::as_ref) {
        let chain = line.split(' ').nth(1).unwrap_or_default();
        let place = text.lines().position(|other| other == line).unwrap_or_else(|| panic!("no '{line}' in\n{text}"));
        let before = last.insert(chain, place);
        assert!(before < Some(place), "'{line}' comes too early in\n{text}");
    }
}

fn hosts(origin: Origin, addresses: &[&str]) -> HostSet {
    let nets = addresses.iter().map(|address| address.parse::<IpAddr>().expect("an address")).collect();
    HostSet { origins: [origin].into(), nets: Arc::new(nets) }
}

fn named(matching: Match, reject: bool, rule: &str) -> Entry {
    Entry { matching, reject, rule: rule.to_owned() }
}

fn tcp(peers: HostSet, port: u16, reject: bool, rule: &str) -> Entry {
    named(Match::Hosts { peers, services: only(Protocol::TCP, port) }, reject, rule)
}

fn group(name: &str) -> Origin {
    Origin::PeerGroup(name.to_owned())
}

/// What `web` enforces: it has a probe on port 8080, and the Services of `api` are known.
fn web() -> NetnsPolicy {
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    policy.own = [IpAddr::from([10, 245, 3, 15])].into();
    policy.inbound.essential.push(tcp(hosts(Origin::Node, &[]), 8080, false, "essential:probe"));
    let dns = [Protocol::TCP, Protocol::UDP].into_iter().filter_map(|protocol| PortMatch::single(protocol, 53));
    let resolvers = hosts(Origin::Resolvers, &["10.96.0.10"]);
    let dns = Match::Hosts { peers: resolvers, services: Services::Only(dns.collect()) };
    policy.outbound.essential.push(named(dns, false, "essential:dns"));
    let api = hosts(group("p-api"), &["10.244.2.32"]);
    let end = End { address: IpAddr::from([10, 96, 144, 12]), protocol: Protocol::TCP, port: 80 };
    for (action, reject, rule, ends, port) in [
        (Action::Allow, false, "shop/web-to-api", BTreeSet::from([end]), 8080),
        (Action::Deny, true, "shop/no-metrics", BTreeSet::new(), 9090),
    ] {
        let ends = named(Match::Ends(Arc::new(ends)), reject, rule);
        policy.outbound.of(action).extend([ends, tcp(api.clone(), port, reject, rule)]);
    }
    crate::gate::admit(&policy, crate::gate::Ports::Judged, &[])
}

/// What `api` enforces, with its own rules and behind the gate of its node.
fn api() -> [NetnsPolicy; 2] {
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    policy.own = [IpAddr::from([10, 244, 2, 32])].into();
    policy.inbound.essential.push(tcp(hosts(Origin::Node, &[]), 8080, false, "essential:probe"));
    policy.inbound.allow.push(tcp(hosts(group("p-web"), &["10.245.3.15"]), 8080, false, "shop/web-to-api"));
    let workloads = hosts(group("p-all"), &["10.245.3.15", "10.244.2.32"]);
    policy.inbound.deny.push(tcp(workloads, 9090, true, "shop/no-metrics"));
    let node = ["10.244.2.1", "172.30.2.12"].map(|address| address.parse().expect("an address"));
    let admitting = crate::gate::admit(&policy, crate::gate::Ports::Judged, &node);
    [policy, admitting]
}

fn text(policy: &NetnsPolicy, family: Family) -> String {
    as_saved(&render(policy, 0).restore_text(family, &Installed::default()))
}

/// Hooks as `iptables-save` prints them where nobody else has rules.
fn as_saved(text: &str) -> String {
    text.lines()
        .map(|line| match line.strip_prefix("-I ") {
            Some(hook) => format!("-A {}\n", hook.replacen(" 1 ", " ", 1)),
            None => format!("{line}\n"),
        })
        .collect()
}

#[test]
fn the_way_out_of_a_pod_and_into_another() {
    let [_, api] = api();
    holds(&text(&web(), Family::V4), &shown(1, "-A "));
    holds(&text(&api, Family::V4), &shown(3, "-A "));
    holds(&sets::create_text(&render(&web(), 0).sets), &shown(1, "add "));
    let members = shown(3, "add ");
    assert_eq!(members.len(), 5, "{members:?}");
    let made = sets::create_text(&render(&api, 0).sets);
    assert!(members.iter().all(|member| made.lines().any(|line| line == *member)), "{made}");
}

#[test]
fn what_is_rejected_what_is_older_and_what_discovery_is() {
    let [_, api] = api();
    let all = text(&api, Family::V4);
    let (filter, mangle) = all.split_at(all.find("*mangle").expect("the table"));
    let (marks, rejects): (Vec<_>, Vec<_>) = shown(5, "-A ").into_iter().partition(|line| line.contains("RF-MARK"));
    holds(mangle, &marks);
    holds(filter, &rejects);
    holds(&text(&web(), Family::V4), &shown(6, "-A "));
    holds(&text(&api, Family::V6), &shown(7, "-A "));
}

/// The names that a gate gives to chains and sets come of what is in them, and the sample's groups have other names here.
fn anonymous(text: &str) -> String {
    let is_digest = |word: &str| word.len() == 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    let word =
        |word: &str| word.split('-').map(|part| if is_digest(part) { "…" } else { part }).collect::<Vec<_>>().join("-");
    // A single address is saved as a prefix.
    let text = text.replace("/32 ", " ");
    text.lines().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n").collect()
}

fn gate_text(gate: &GatePolicy) -> String {
    let all = RenderedGate::of(gate).restore_text(Family::V4, &Installed::parse_of(gate_names::CHAIN_PREFIX, ""));
    let (_, mangle) = all.split_at(all.find("*mangle").expect("the table"));
    anonymous(&as_saved(mangle))
}

fn anonymously(step: u8, of: impl Fn(&str) -> bool) -> Vec<String> {
    shown(step, "-A ").into_iter().filter(|line| of(line)).map(|line| anonymous(line).trim_end().to_owned()).collect()
}

#[test]
fn the_gate_of_the_pods_node_and_that_of_another() {
    let [own, _] = api();
    let is_of_the_gate = |line: &str| line.contains("RF-GATE");
    holds(&gate_text(&GatePolicy::of([&own])), &anonymously(8, is_of_the_gate));
    let exposed = Exposed { name: "shop/api".to_owned(), pods: own.own.clone(), policy: Some(own.clone()) };
    // Behind what step 8 has for Pods of the node itself.
    let beside = GatePolicy::of([&web()]).sealing_for(&[exposed], &GatePolicy::default());
    holds(&gate_text(&beside), &anonymously(9, is_of_the_gate));
    let other_nodes = Arc::new([IpAddr::from([172, 30, 2, 13])].into_iter().collect());
    let sealed = crate::gate::admit_sealed(own, other_nodes);
    let node = ["10.244.2.1".parse().expect("an address")];
    let sealed = crate::gate::admit(&sealed, crate::gate::Ports::Judged, &node);
    holds(&text(&sealed, Family::V4), &anonymously(9, |line| !is_of_the_gate(line)));
}
