use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::{Direction, PortMatch, Protocol, Services};

use super::*;
use crate::Family;
use crate::judge::Packet;
use crate::policy::{Enforcement, Entry, HostSet, Match, NetnsPolicy, Nets, Origin};
use crate::readback::{Installed, Readback};
use crate::render::{ENDED, render};
use crate::trace::{Fate, Kernel, Probe};

const WEB: &str = "10.244.1.5";
const DB: &str = "10.244.1.6";
const CLIENT: &str = "192.0.2.7";
const NODE: &str = "10.244.1.1";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn hosts(origin: Option<&str>, peers: &[&str]) -> HostSet {
    let nets: Arc<Nets> = Arc::new(peers.iter().map(|peer| ip(peer)).collect());
    let origin = origin.map_or(Origin::Node, |group| Origin::PeerGroup(group.to_owned()));
    HostSet { origins: BTreeSet::from([origin]), nets }
}

fn entry(peers: HostSet, ports: &[u16]) -> Entry {
    let ports = ports.iter().filter_map(|port| PortMatch::single(Protocol::TCP, *port)).collect();
    Entry { matching: Match::Hosts { peers, services: Services::Only(ports) }, reject: false, rule: "s/r".to_owned() }
}

/// Full: the client may reach port 80, and a probe is on port 8080.
fn web(pod: &str) -> NetnsPolicy {
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    policy.own = BTreeSet::from([ip(pod)]);
    policy.inbound.essential.push(Entry {
        matching: Match::OwnOrigin,
        reject: false,
        rule: "essential:self".to_owned(),
    });
    policy.inbound.essential.push(entry(hosts(None, &[NODE]), &[8080]));
    policy.inbound.allow.push(entry(hosts(Some("p-1"), &[CLIENT]), &[80]));
    policy
}

fn packet(src: &str, dst: &str, dport: u16) -> Packet {
    Packet {
        direction: Direction::Inbound,
        protocol: Protocol::TCP,
        src: ip(src),
        dst: ip(dst),
        sport: 40000,
        dport,
        icmp: None,
    }
}

fn nothing() -> Installed {
    Installed::parse_of(names::CHAIN_PREFIX, "")
}

fn fate(policies: &[NetnsPolicy], probe: &Probe) -> Fate {
    let gate = GatePolicy::of(policies);
    let found = Kernel::load_gate(&RenderedGate::of(&gate), Family::V4).gate_fate(probe);
    if probe.state == "NEW" && (probe.syn || probe.translated) && probe.packet.src != probe.packet.dst {
        let local = if probe.local { BTreeSet::from([probe.packet.src]) } else { BTreeSet::new() };
        let blocks =
            gate.judge(&local).judge(&probe.packet, probe.translated).is_some_and(|judgement| judgement.blocks);
        assert_eq!(found != Fate::Passed, blocks, "{probe:?}");
    }
    found
}

#[test]
fn the_client_counts_and_not_the_node() {
    let through = |src, port| fate(&[web(WEB)], &Probe { translated: true, ..Probe::new(packet(src, WEB, port)) });
    assert_eq!(through(CLIENT, 80), Fate::Passed);
    assert_eq!(through("192.0.2.8", 80), Fate::Dropped, "no rule names it");
    assert_eq!(through(CLIENT, 81), Fate::Dropped, "no rule opens it");
    assert_eq!(through(CLIENT, 8080), Fate::Dropped, "a port of a probe is the node's own");
}

#[test]
fn a_probe_comes_from_whatever_address_the_node_has() {
    let from = |src, port, local| fate(&[web(WEB)], &Probe { local, ..Probe::new(packet(src, WEB, port)) });
    assert_eq!(from(NODE, 8080, true), Fate::Passed);
    assert_eq!(from("198.51.100.3", 8080, true), Fate::Passed, "an address that nobody has told of");
    assert_eq!(from(NODE, 8080, false), Fate::Dropped, "it only says so");
    assert_eq!(from(NODE, 80, true), Fate::Dropped, "not a port of a probe");
}

#[test]
fn what_is_no_new_connection_towards_a_pod_behind_it_is_not_judged() {
    let web = web(WEB);
    let stranger = Probe { translated: true, ..Probe::new(packet("192.0.2.8", WEB, 80)) };
    for state in ["ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"] {
        assert_eq!(fate(std::slice::from_ref(&web), &Probe { state, ..stranger }), Fate::Passed, "{state}");
    }
    let elsewhere = Probe { packet: packet("192.0.2.8", DB, 80), ..stranger };
    assert_eq!(fate(std::slice::from_ref(&web), &elsewhere), Fate::Passed);
    // Conntrack was emptied, and this is an answer of a server that the Pod talks to.
    let midway = Probe { syn: false, translated: false, ..stranger };
    assert_eq!(fate(std::slice::from_ref(&web), &midway), Fate::Passed);
    assert_eq!(fate(&[web], &Probe { translated: true, ..midway }), Fate::Dropped);
}

#[test]
fn ended_flows_stop_in_both_directions() {
    let ended = |src, dst| Probe { state: "ESTABLISHED", connmark: ENDED, ..Probe::new(packet(src, dst, 80)) };
    assert_eq!(fate(&[web(WEB)], &ended(CLIENT, WEB)), Fate::Dropped);
    assert_eq!(fate(&[web(WEB)], &ended(WEB, CLIENT)), Fate::Dropped);
    assert_eq!(fate(&[web(WEB)], &ended(CLIENT, DB)), Fate::Passed, "somebody else's mark");
}

#[test]
fn who_reaches_itself_passes_and_nobody_else_by_that() {
    let policies = [web(WEB), web(DB)];
    let to = |src, dst| fate(&policies, &Probe { translated: true, ..Probe::new(packet(src, dst, 81)) });
    assert_eq!(to(WEB, WEB), Fate::Passed);
    assert_eq!(to(WEB, DB), Fate::Dropped);
}

#[test]
fn each_pod_is_judged_by_its_own_rules() {
    let mut selective = NetnsPolicy::new(Enforcement::Selective);
    selective.own = BTreeSet::from([ip(DB)]);
    selective.inbound.deny.push(entry(hosts(Some("p-2"), &[CLIENT]), &[22]));
    let policies = [web(WEB), selective];
    let to = |dst, port| fate(&policies, &Probe { translated: true, ..Probe::new(packet(CLIENT, dst, port)) });
    assert_eq!(to(DB, 22), Fate::Dropped);
    assert_eq!(to(DB, 23), Fate::Passed);
    assert_eq!(to(WEB, 22), Fate::Dropped);
    let laxer = NetnsPolicy { own: BTreeSet::from([ip(WEB)]), ..NetnsPolicy::new(Enforcement::VisibilityOnly) };
    assert_eq!(GatePolicy::of([&laxer]), GatePolicy::default(), "it blocks nothing");
}

#[test]
fn who_is_rejected_is_told_so_unless_it_is_the_node_itself() {
    let mut rejecting = web(WEB);
    let no = Entry { reject: true, ..entry(hosts(Some("p-2"), &["192.0.2.9", NODE]), &[80]) };
    rejecting.inbound.override_deny.push(no);
    let policies = [rejecting, web(DB)];
    let through = |src, dst| Probe { translated: true, ..Probe::new(packet(src, dst, 80)) };
    assert_eq!(fate(&policies, &through("192.0.2.9", WEB)), Fate::Rejected);
    assert_eq!(fate(&policies, &through("192.0.2.8", WEB)), Fate::Dropped, "the default drops");
    assert_eq!(fate(&policies, &through(CLIENT, WEB)), Fate::Passed);
    assert_eq!(fate(&policies, &through("192.0.2.9", DB)), Fate::Dropped, "another Pod's rule");
    assert_eq!(fate(&policies, &Probe { local: true, ..through(NODE, WEB) }), Fate::Dropped);
    // Nobody rejects any more: table filter is as it was.
    let before = RenderedGate::of(&GatePolicy::of(&policies)).installed(Family::V4);
    let text = RenderedGate::of(&GatePolicy::of([&web(WEB)])).restore_text(Family::V4, &before);
    assert!(text.starts_with("*filter\n-D FORWARD -j RF-GATE\n-F ") && text.contains("-X RF-GATE-REFUSE\n"), "{text}");
}

#[test]
fn rules_that_a_kernel_refuses_close_their_pods_and_no_others() {
    let mut odd = web(DB);
    odd.inbound.allow.push(entry(hosts(Some("p-1"), &[CLIENT]), &[443]));
    let gate = GatePolicy::of([&web(WEB), &odd]);
    let chains = RenderedGate::of(&gate).judging(Family::V4);
    let refused: BTreeSet<String> =
        chains.iter().filter(|(_, text)| text.contains("--dport 443 ")).map(|(name, _)| name.clone()).collect();
    assert_eq!(refused.len(), 1);
    let kernel = Kernel::load_gate(&RenderedGate::without(&gate, &refused), Family::V4);
    let to = |dst| kernel.gate_fate(&Probe { translated: true, ..Probe::new(packet(CLIENT, dst, 80)) });
    assert_eq!((to(WEB), to(DB)), (Fate::Passed, Fate::Dropped));
}

#[test]
fn an_address_that_two_pods_claim_is_nobodys() {
    let mut other = web(WEB);
    other.inbound.allow.clear();
    let gate = GatePolicy::of([&web(WEB), &other]);
    for src in [CLIENT, NODE] {
        let judge = gate.judge(&BTreeSet::from([ip(NODE)]));
        let blocks = judge.judge(&packet(src, WEB, 8080), true).map(|judged| judged.blocks);
        assert_eq!(blocks, Some(true), "{src}");
    }
}

#[test]
fn what_does_not_change_is_not_written() {
    let first = RenderedGate::of(&GatePolicy::of([&web(WEB)]));
    let text = first.restore_text(Family::V4, &nothing());
    assert!(text.contains("-I POSTROUTING 1 -j RF-GATE\n-I PREROUTING 1 -j RF-GATE-END\n"), "{text}");
    assert_eq!(first.restore_text(Family::V4, &first.installed(Family::V4)), "");
    assert_eq!(first.verify(Family::V4, &first.installed(Family::V4)), Readback::Ok);

    // A Pod with the same rules: who reaches itself, and members.
    let joined = RenderedGate::of(&GatePolicy::of([&web(WEB), &web(DB)]));
    let text = joined.restore_text(Family::V4, &first.installed(Family::V4));
    assert!(!text.contains("--dport 80 ") && text.contains(&format!("-s {DB} -d {DB} -j RETURN")), "{text}");
    assert!(!text.contains("-I "), "{text}");
    let names = |gate: &RenderedGate| gate.sets.iter().map(|set| set.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&joined));

    // A rule more is another chain, and the old one goes.
    let mut more = web(DB);
    more.inbound.allow.push(entry(hosts(Some("p-1"), &[CLIENT]), &[443]));
    let changed = RenderedGate::of(&GatePolicy::of([&web(WEB), &more]));
    let text = changed.restore_text(Family::V4, &joined.installed(Family::V4));
    assert_eq!(text.matches("--dport 443 ").count(), 1, "{text}");
    assert_eq!(text.matches("-X RF-GATE-FP-").count(), 1, "{text}");
    assert_eq!(changed.restore_text(Family::V4, &changed.installed(Family::V4)), "");

    let gone = RenderedGate::of(&GatePolicy::default());
    let text = gone.restore_text(Family::V4, &changed.installed(Family::V4));
    assert!(text.contains("-D POSTROUTING -j RF-GATE\n") && text.contains("-X RF-GATE-DOORS\n"), "{text}");
    assert!(!text.contains("-A "), "{text}");
    assert_eq!(gone.restore_text(Family::V4, &nothing()), "");
}

/// A Pod of another node, that is judged like one of this node.
fn elsewhere(pod: &str) -> Exposed {
    Exposed { name: format!("shop/{pod}"), pods: BTreeSet::from([ip(pod)]), policy: Some(web(pod)) }
}

fn through(src: &str, dst: &str, port: u16) -> Probe {
    Probe { translated: true, ..Probe::new(packet(src, dst, port)) }
}

const AWAY: &str = "10.244.2.9";

#[test]
fn what_goes_on_to_another_node_is_sealed_by_the_client() {
    for local in [vec![], vec![web(WEB)]] {
        let gate = GatePolicy::of(&local).sealing_for(&[elsewhere(AWAY)], &GatePolicy::default());
        let rendered = RenderedGate::of(&gate);
        assert!(rendered.seals());
        let kernel = Kernel::load_gate(&rendered, Family::V4);
        let sealed = |probe: &Probe| kernel.gate_seal(probe);
        assert_eq!(sealed(&through(CLIENT, AWAY, 80)), (Fate::Passed, true));
        assert_eq!(
            sealed(&through("192.0.2.8", AWAY, 80)),
            (Fate::Passed, false),
            "no rule names it: its Pod blocks it"
        );
        assert_eq!(sealed(&through(CLIENT, AWAY, 81)), (Fate::Passed, false), "no rule opens it");
        assert_eq!(sealed(&through(NODE, AWAY, 8080)), (Fate::Passed, false), "its probes are its own node's");
        let own = Probe { local: true, translated: false, ..through(CLIENT, AWAY, 80) };
        assert_eq!(sealed(&own), (Fate::Passed, true), "a process of this node, which a rule names");
        let direct = Probe { translated: false, ..through(CLIENT, AWAY, 80) };
        assert_eq!(sealed(&direct), (Fate::Passed, false), "the Pod sees who it is");
        assert_eq!(sealed(&through(CLIENT, "10.244.2.10", 80)), (Fate::Passed, false), "a Pod that nobody knows");
        let midway = Probe { syn: false, ..through("192.0.2.8", AWAY, 80) };
        assert_eq!(sealed(&midway), (Fate::Dropped, false), "its Pod looks for no seal in it");
        let reply = Probe { translated: false, local: true, ..midway };
        assert_eq!(sealed(&reply), (Fate::Passed, false), "it may answer what the Pod began");
        let udp = Packet { protocol: Protocol::UDP, ..packet(CLIENT, AWAY, 9) };
        let later = |packet| Probe { translated: true, state: "ESTABLISHED", ..Probe::new(packet) };
        assert_eq!(sealed(&later(udp)), (Fate::Passed, true), "the Pod may have forgotten it");
        assert_eq!(sealed(&later(packet(CLIENT, AWAY, 9))), (Fate::Passed, false));
    }
}

#[test]
fn nobody_else_seals() {
    let gate = GatePolicy::of([&web(WEB)]).sealing_for(&[elsewhere(AWAY)], &GatePolicy::default());
    let kernel = Kernel::load_gate(&RenderedGate::of(&gate), Family::V4);
    let forged = |probe: Probe| kernel.gate_seal(&Probe { sealed: true, ..probe });
    for probe in [
        through("192.0.2.8", AWAY, 80),
        through(CLIENT, "10.244.2.10", 80),
        Probe { translated: false, ..through("192.0.2.8", AWAY, 80) },
        Probe { local: true, translated: false, ..through(NODE, AWAY, 80) },
        Probe { state: "ESTABLISHED", ..through(CLIENT, AWAY, 80) },
        Probe { state: "INVALID", translated: false, ..through(CLIENT, "10.244.2.10", 80) },
    ] {
        assert_eq!(forged(probe), (Fate::Passed, false), "{probe:?}");
    }
    let none = Kernel::load_gate(&RenderedGate::of(&GatePolicy::of([&web(WEB)])), Family::V4);
    let theirs = Probe { sealed: true, ..through(CLIENT, AWAY, 80) };
    assert_eq!(none.gate_seal(&theirs), (Fate::Passed, true), "nobody is exposed: it is none of ours");
}

#[test]
fn a_pod_of_this_node_takes_the_seal_of_another() {
    let gates: Arc<Nets> = Arc::new([ip("172.30.0.12")].into_iter().collect());
    let mut policy = web(WEB);
    policy.inbound.allow.push(entry(hosts(Some("p-nodes"), &["172.30.0.12"]), &[80]));
    let exposed = admit_sealed(policy, gates);
    let gate = GatePolicy::of([&exposed]).sealing_for(&[elsewhere(WEB)], &GatePolicy::default());
    assert_eq!(gate.away.as_deref(), Some(&[][..]), "it is behind a door of this node");
    let kernel = Kernel::load_gate(&RenderedGate::of(&gate), Family::V4);
    let from = |probe: Probe, sealed| kernel.gate_seal(&Probe { sealed, ..probe });
    let came = Probe::new(packet("172.30.0.12", WEB, 80));
    assert_eq!(from(came, true), (Fate::Passed, true), "and leaves the seal for the Pod to see");
    assert_eq!(from(came, false), (Fate::Dropped, false));
    assert_eq!(from(through(CLIENT, WEB, 80), false), (Fate::Passed, true), "judged here, and the Pod sees who it is");
}

/// As through a hostPort, or a NodePort with policy Local: the Pod sees the address of a node that seals, and its own node has judged it.
#[test]
fn what_a_process_of_another_node_sends_by_way_of_this_one_is_sealed_here() {
    let other = "172.30.0.12";
    let gates: Arc<Nets> = Arc::new([ip(other)].into_iter().collect());
    let mut policy = web(WEB);
    policy.inbound.allow.push(entry(hosts(Some("p-nodes"), &[other]), &[80]));
    let exposed = admit_sealed(policy, gates);
    let gate = GatePolicy::of([&exposed]).sealing_for(&[], &GatePolicy::default());
    let kernel = Kernel::load_gate(&RenderedGate::of(&gate), Family::V4);
    assert_eq!(kernel.gate_seal(&through(other, WEB, 80)), (Fate::Passed, true));
    assert_eq!(kernel.gate_seal(&through(other, WEB, 81)), (Fate::Dropped, false), "no rule opens it");
    let pod = Kernel::load(&render(&admit(&exposed, Ports::Judged, &[ip(NODE)]), 0), Family::V4);
    let arrives = |sealed| pod.fate(&Probe { sealed, ..Probe::new(packet(other, WEB, 80)) });
    assert_eq!((arrives(true), arrives(false)), (Fate::Passed, Fate::Dropped));
    assert_eq!(pod.fate(&Probe { sealed: true, ..Probe::new(packet(other, WEB, 81)) }), Fate::Dropped);
}

/// A Pod that is in Full from now on follows a connection from now on: of datagrams that its node has translated for long, the next one.
#[test]
fn what_a_node_translates_for_long_is_sealed_for_its_own_pods() {
    let gates: Arc<Nets> = Arc::new([ip("172.30.0.12")].into_iter().collect());
    let gate = GatePolicy::of([&admit_sealed(web(WEB), gates), &web(DB)]).sealing_for(&[], &GatePolicy::default());
    let kernel = Kernel::load_gate(&RenderedGate::of(&gate), Family::V4);
    let goes_on = |pod, protocol| {
        let packet = Packet { protocol, ..packet(CLIENT, pod, 80) };
        Probe { state: "ESTABLISHED", syn: false, ..Probe { translated: true, ..Probe::new(packet) } }
    };
    let datagram = goes_on(WEB, Protocol::UDP);
    assert_eq!(kernel.gate_seal(&datagram), (Fate::Passed, true));
    assert_eq!(
        kernel.gate_seal(&Probe { translated: false, ..datagram }),
        (Fate::Passed, false),
        "the Pod sees who it is"
    );
    assert_eq!(kernel.gate_seal(&Probe { connmark: ENDED, ..datagram }), (Fate::Dropped, false));
    assert_eq!(kernel.gate_seal(&goes_on(WEB, Protocol::TCP)), (Fate::Passed, false), "its SYN was");
    assert_eq!(kernel.gate_seal(&goes_on(DB, Protocol::UDP)), (Fate::Passed, false), "it looks for none");
}

#[test]
fn a_deny_drops_where_it_is_seen_and_selective_lets_the_rest_go() {
    let mut selective = NetnsPolicy::new(Enforcement::Selective);
    selective.inbound.deny.push(entry(hosts(Some("p-2"), &[CLIENT]), &[22]));
    let exposed = Exposed { policy: Some(selective), ..elsewhere(AWAY) };
    let gate = GatePolicy::default().sealing_for(&[exposed], &GatePolicy::default());
    let kernel = Kernel::load_gate(&RenderedGate::of(&gate), Family::V4);
    assert_eq!(kernel.gate_seal(&through(CLIENT, AWAY, 22)), (Fate::Dropped, false));
    let mut watched = web(AWAY);
    watched.state = Enforcement::VisibilityOnly;
    watched.inbound.override_deny.push(entry(hosts(Some("p-3"), &[NODE]), &[80]));
    let exposed = Exposed { policy: Some(watched), ..elsewhere(AWAY) };
    let gate = GatePolicy::default().sealing_for(&[exposed], &GatePolicy::default());
    let blind = Kernel::load_gate(&RenderedGate::of(&gate), Family::V4);
    assert_eq!(blind.gate_seal(&through(NODE, AWAY, 80)), (Fate::Passed, false), "it is not to be blocked yet");
    assert_eq!(blind.gate_seal(&through(CLIENT, AWAY, 80)), (Fate::Passed, true), "nor when it is");
    assert_eq!(kernel.gate_seal(&through(CLIENT, AWAY, 23)), (Fate::Passed, false));
    let ended = Probe { state: "ESTABLISHED", connmark: ENDED, ..through(CLIENT, AWAY, 23) };
    assert_eq!(kernel.gate_fate(&ended), Fate::Dropped);
    let back = Probe { state: "ESTABLISHED", connmark: ENDED, ..Probe::new(packet(AWAY, CLIENT, 40000)) };
    assert_eq!(kernel.gate_fate(&back), Fate::Dropped);
}

#[test]
fn of_a_pod_that_is_not_all_known_what_was_known_stays() {
    let unknown = Exposed { policy: None, ..elsewhere(AWAY) };
    let known = GatePolicy::default().sealing_for(&[elsewhere(AWAY)], &GatePolicy::default());
    assert_eq!(GatePolicy::default().sealing_for(std::slice::from_ref(&unknown), &known), known);
    let nobody = Some(&[][..]);
    let never = GatePolicy::default().sealing_for(std::slice::from_ref(&unknown), &GatePolicy::default());
    assert_eq!(never.away.as_deref(), nobody);
    let other = Exposed { name: "shop/other".to_owned(), ..unknown };
    let reused = GatePolicy::default().sealing_for(&[other], &known);
    assert_eq!(reused.away.as_deref(), nobody, "the address was another Pod's");
}

#[test]
fn for_an_address_that_two_exposed_pods_have_nothing_is_sealed() {
    let other = Exposed { name: "shop/other".to_owned(), ..elsewhere(AWAY) };
    let gate = GatePolicy::default().sealing_for(&[elsewhere(AWAY), other], &GatePolicy::default());
    assert_eq!(gate.away.as_deref(), Some(&[][..]));
}

/// A process of another node comes by a NodePort of this one: by its rules, and by no seal that it never had.
#[test]
fn what_this_node_translates_for_another_is_judged_without_a_seal() {
    let other = "172.30.0.12";
    let gates: Arc<Nets> = Arc::new([ip(other)].into_iter().collect());
    let judge = GatePolicy::of([&admit_sealed(web(WEB), gates)]).judge(&BTreeSet::new());
    let blocks = |translated| judge.judge(&packet(other, WEB, 80), translated).map(|judged| judged.blocks);
    assert_eq!(blocks(true), Some(true), "no rule names it");
    assert_eq!(blocks(false), Some(false), "its own gate has judged it");
}

#[test]
fn a_kernel_without_seals_judges_its_own_pods_all_the_same() {
    let gate = GatePolicy::of([&web(WEB)]).sealing_for(&[elsewhere(AWAY)], &GatePolicy::default());
    let chains = RenderedGate::of(&gate).judging(Family::V4);
    let refused: BTreeSet<String> =
        chains.iter().filter(|(_, text)| text.contains("-j DSCP")).map(|(name, _)| name.clone()).collect();
    let rendered = RenderedGate::without(&gate, &refused);
    assert!(!rendered.seals());
    assert_eq!(rendered, RenderedGate::of(&GatePolicy::of([&web(WEB)])));
}

#[test]
fn rules_of_others_in_the_nodes_namespace_are_not_ours() {
    let save = "*mangle\n:POSTROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:RF-HOST-OUT - [0:0]\n\
        -A POSTROUTING -p tcp -j KUBE-POSTROUTING\n-A OUTPUT -j RF-HOST-OUT\nCOMMIT\n";
    let installed = Installed::parse_of(names::CHAIN_PREFIX, save);
    assert_eq!(RenderedGate::default().restore_text(Family::V4, &installed), "");
}

#[test]
fn a_pod_lets_its_node_in_where_somebody_may_come_in() {
    let judge = |policy: &NetnsPolicy, src, port| policy.judge(&packet(src, WEB, port)).blocks;
    let policy = web(WEB);
    let closed = admit(&policy, Ports::Judged, &[]);
    let open = admit(&policy, Ports::Judged, &[ip(NODE)]);
    for port in [80, 8080] {
        assert!(judge(&closed, NODE, port), "no gate is in force: {port}");
        assert!(!judge(&open, NODE, port), "{port}");
    }
    assert!(judge(&open, NODE, 81), "nobody may come in there");
    assert!(!judge(&open, CLIENT, 80) && judge(&open, CLIENT, 8080), "others are judged as ever");
    let probes = admit(&policy, Ports::Probes, &[ip(NODE)]);
    assert!(judge(&probes, NODE, 80) && !judge(&probes, NODE, 8080));
    // Whether a gate is in force is a matter of members.
    let rendered = crate::render(&closed, 1);
    assert!(rendered.sets_of(&closed, &open).is_some());

    let mut selective = NetnsPolicy { state: Enforcement::Selective, ..policy };
    selective.inbound.deny.push(entry(hosts(Some("p-3"), &[NODE]), &[22]));
    assert!(judge(&admit(&selective, Ports::Judged, &[]), NODE, 22));
    assert!(!judge(&admit(&selective, Ports::Judged, &[ip(NODE)]), NODE, 22), "the gate has judged it");
}

/// Who has no SYN may be of a connection that the Pod itself has begun, for which rules about the other direction count as well.
#[test]
fn a_connection_of_before_is_let_in_whatever_overrides_in_the_other_direction() {
    let mut policy = web(WEB);
    policy.outbound.override_deny.push(entry(HostSet::anyone(), &[]));
    policy.outbound.override_deny[0].matching = Match::Hosts { peers: HostSet::anyone(), services: Services::All };
    let admitted = admit(&policy, Ports::Judged, &[ip(NODE)]);
    let kernel = Kernel::load(&render(&admitted, 1), Family::V4);
    let midway = Probe { syn: false, ..Probe::new(packet(NODE, WEB, 80)) };
    assert_eq!(kernel.fate(&midway), Fate::Passed);
}
