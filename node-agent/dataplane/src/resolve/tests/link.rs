//! Addresses for one link alone (RFC 4291, section 2.5.6), which say nothing of who has them.

use super::*;

/// What becomes of a connection with a peer that is known by such an address.
fn decision(policy: &NetnsPolicy, direction: Direction, peer: &str) -> Decision {
    let (own, peer) = (ip("fd00::7"), ip(peer));
    let (src, dst) = if direction == Direction::Inbound { (peer, own) } else { (own, peer) };
    let packet = Packet { direction, protocol: Protocol::TCP, src, dst, sport: 40000, dport: 80, icmp: None };
    policy.judge(&packet).decision
}

#[rstest]
#[case(Action::Allow, Decision::Default)]
#[case(Action::Deny, Decision::Deny)]
#[case(Action::OverrideDeny, Decision::OverrideDeny)]
fn whoever_blocks_workloads_means_whoever_it_is_and_nobody_is_let_in_by_it(
    #[case] action: Action,
    #[case] expected: Decision,
) {
    let mut store = store();
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &[]);
    add_slice(&mut store, "c-1", 0, Some(1), &["10.244.1.5"], NETWORK);
    for direction in [Direction::Inbound, Direction::Outbound] {
        add_rule(&mut store, rule(direction, action, group("p-1")));
    }
    let policy = policy(&store, &pod());
    for address in ["fe80::1", "febf::2"] {
        for direction in [Direction::Inbound, Direction::Outbound] {
            assert_eq!(decision(&policy, direction, address), expected, "{address}");
        }
    }
    assert_eq!(inbound(&policy, "10.244.1.9", 80), Decision::Default, "others are not concerned");
}

#[test]
fn a_list_names_addresses_and_these_it_does_not() {
    let mut store = store();
    add_rule(&mut store, rule(Direction::Inbound, Action::Deny, list(&["2001:db8::/32"])));
    assert_eq!(decision(&policy(&store, &pod()), Direction::Inbound, "fe80::1"), Decision::Default);
}
