//! Random policies and packets: the rules do what the judge says.

use proptest::prelude::*;

use super::*;
use crate::policy::Entries;

fn addresses() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0u8..8).prop_map(|(is_v4, last)| if is_v4 { v4(last) } else { v6(last) })
}

/// Prefixes that hold 1 to 8 addresses, and now and then all of a family.
fn peers() -> impl Strategy<Value = HostSet> {
    let net = |(address, wider, all): (IpAddr, u8, bool)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        ipnet::IpNet::new_assert(address, if all { 0 } else { most - wider }).trunc()
    };
    let one = (addresses(), 0u8..4, prop::bool::weighted(0.05)).prop_map(net);
    let nets = (prop::collection::vec(one, 0..4), any::<bool>()).prop_map(|(list, is_group)| {
        let nets: Arc<Nets> = Arc::new(list.into_iter().collect());
        let origin = if is_group { Origin::PeerGroup("p-1".to_owned()) } else { Origin::Prefixes(nets.clone()) };
        HostSet { origins: BTreeSet::from([origin]), nets }
    });
    prop_oneof![1 => Just(HostSet::anyone()), 6 => nets]
}

fn gates() -> impl Strategy<Value = HostSet> {
    prop::collection::vec(addresses(), 0..4).prop_map(|nodes| HostSet {
        nets: Arc::new(nodes.into_iter().collect()),
        origins: BTreeSet::from([Origin::Gates]),
    })
}

fn services() -> impl Strategy<Value = Services> {
    let protocol = prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::SCTP)];
    let port = (protocol, 80u16..84, 0u16..3)
        .prop_map(|(protocol, port, more)| PortMatch { protocol, ports: Ports::Range(port, port + more) });
    let protocol = prop_oneof![Just(Protocol::ICMP), Just(Protocol::ICMPV6)];
    let icmp = (protocol, 0u8..3, prop::option::of(0u8..2))
        .prop_map(|(protocol, kind, code)| PortMatch { protocol, ports: Ports::Icmp(kind, code) });
    let whole = prop_oneof![Just(Protocol::TCP), Just(Protocol::ICMP), Just(Protocol::ICMPV6), Just(Protocol(47))]
        .prop_map(|protocol| PortMatch { protocol, ports: Ports::All });
    let list = prop::collection::btree_set(prop_oneof![6 => port, 2 => icmp, 1 => whole], 0..3);
    prop_oneof![1 => Just(Services::All), 6 => list.prop_map(Services::Only)]
}

/// Of one direction; and whether they block, which is all that a lack of a seal can do.
fn entries(outbound: bool, block: bool) -> impl Strategy<Value = Entries> {
    let hosts = (peers(), services()).prop_map(|(peers, services)| Match::Hosts { peers, services });
    let protocol = prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP)];
    let end = (addresses(), protocol, 80u16..84).prop_map(|(address, protocol, port)| End { address, protocol, port });
    let ends = prop::collection::btree_set(end, 0..4).prop_map(|ends| Match::Ends(Arc::new(ends)));
    let sealed = (gates(), services()).prop_map(|(nodes, services)| Match::Sealed { nodes, services });
    let unsealed = gates().prop_map(|nodes| Match::Unsealed { nodes });
    let special = match (outbound, block) {
        (true, _) => ends.boxed(),
        (false, true) => prop_oneof![Just(Match::OwnOrigin), sealed, unsealed].boxed(),
        (false, false) => prop_oneof![Just(Match::OwnOrigin), sealed].boxed(),
    };
    let entry = (prop_oneof![5 => hosts, 1 => special], any::<bool>());
    let entry = entry.prop_map(|(matching, reject)| Entry { matching, reject, rule: "r/r".to_owned() });
    prop::collection::vec(entry, 0..3).prop_map(Entries::from)
}

fn side(outbound: bool) -> impl Strategy<Value = crate::policy::Side> {
    let [passing, blocking] = [false, true].map(|block| move || entries(outbound, block));
    (passing(), blocking(), passing(), blocking()).prop_map(|(essential, override_deny, allow, deny)| {
        crate::policy::Side { essential, override_deny, allow, deny }
    })
}

fn policies() -> impl Strategy<Value = NetnsPolicy> {
    let state = prop_oneof![Just(Enforcement::VisibilityOnly), Just(Enforcement::Selective), Just(Enforcement::Full)];
    let place = prop_oneof![2 => Just(Place::Pod), 1 => Just(Place::Host)];
    let own = prop_oneof![Just(vec![OWN, OWN_V6]), Just(vec![OWN]), Just(vec![OWN_V6]), Just(vec![])];
    (place, own, state, side(false), side(true)).prop_map(|(place, own, state, mut inbound, mut outbound)| {
        // A node cannot reject: what resolves its policy asks for none.
        for side in [&mut inbound, &mut outbound].into_iter().filter(|_| place == Place::Host) {
            let blocking = side.override_deny.iter_mut().chain(&mut side.deny);
            blocking.for_each(|entry| entry.reject = false);
        }
        NetnsPolicy { place, state, own: own.into_iter().collect(), inbound, outbound }
    })
}

fn packets() -> impl Strategy<Value = Packet> {
    let protocol = prop_oneof![
        4 => Just(Protocol::TCP), 2 => Just(Protocol::UDP), 1 => Just(Protocol::ICMP), 1 => Just(Protocol(47))
    ];
    let direction = prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)];
    let strange = prop::bool::weighted(0.1);
    (direction, protocol, addresses(), 79u16..86, 79u16..86, 0u8..4, 0u8..3, strange).prop_map(
        |(direction, protocol, peer, sport, dport, kind, code, strange)| {
            let ports = protocol.has_ports();
            // Nobody sends the ICMP of the other family; if somebody did, its types would not be looked at.
            let protocol = if protocol == Protocol::ICMP && !strange { Family::of(peer).icmp() } else { protocol };
            let is_icmp = protocol == Family::of(peer).icmp();
            Packet {
                icmp: is_icmp.then_some((kind, code)),
                ..packet(direction, peer, protocol, if ports { sport } else { 0 }, if ports { dport } else { 0 })
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn rules_do_what_the_judge_says(
        policy in policies(),
        packets in prop::collection::vec(packets(), 8),
        syn: bool,
        overwritten: bool,
        rejected_before: bool,
    ) {
        let connmark = if rejected_before { REJECT } else { 0 };
        let kernels = Family::ALL.map(|family| Kernel::load(&render(&policy, 3), family));
        for packet in packets {
            let family = Family::of(packet.src);
            let kernel = &kernels[usize::from(family == Family::V6)];
            let old = packet.protocol == Protocol::TCP && !syn;
            let judged = policy.judge_flow(&packet, old);
            let passing = matches!(judged.decision, Decision::Essential | Decision::Allow);
            let expected = match (judged.blocks, judged.reject) {
                (true, true) => Fate::Rejected,
                (true, false) => Fate::Dropped,
                (false, _) if passing => Fate::Passed,
                (false, _) => Fate::WouldBlock,
            };
            let fate = kernel.fate(&Probe { syn, overwritten, connmark, sealed: true, ..Probe::new(packet) });
            prop_assert_eq!(fate, expected, "{:?}\n{}", packet, render(&policy, 3).text(family));
        }
    }
}
