//! Rules that reject, next to rules of others.

use ringfence_dataplane::{Enforcement, NetnsPolicy};
use ringfence_model::{Action, Direction, Protocol};

use crate::lab::{Addresses, At, Lab, Reach};
use crate::{everywhere_a, policy, ports, rule, three_actions};

/// As Istio's TPROXY does with what comes in, after our rules: the whole mark is the sidecar's.
fn overwrite_marks(lab: &Lab) {
    append(lab, "mangle", &["-j", "MARK", "--set-xmark", "0x539/0xffffffff"]);
}

/// A rule of somebody else for all that comes in and goes out.
fn append(lab: &Lab, table: &str, rule: &[&str]) {
    for chain in ["PREROUTING", "OUTPUT"] {
        let args: Vec<&str> = ["-t", table, "-A", chain].into_iter().chain(rule.iter().copied()).collect();
        for command in ["iptables-nft", "ip6tables-nft"] {
            lab.exec(At::Pod, command, &args, "");
        }
    }
}

/// What becomes of a new connection by TCP and of one by UDP, over IPv4 and over IPv6.
fn reach(lab: &Lab, direction: Direction, port: u16) -> [[Reach; 2]; 2] {
    Addresses::BOTH.map(|of| {
        let (from, to) = ends(of, direction, port);
        [lab.tcp(from, to), lab.udp(from, to)]
    })
}

fn ends(of: Addresses, direction: Direction, port: u16) -> (At, (At, &'static str, u16)) {
    match direction {
        Direction::Inbound => (At::A, (At::Pod, of.pod_a, port)),
        Direction::Outbound => (At::Pod, (At::A, of.a, port)),
    }
}

/// Ports are those of [`three_actions`]: 80 allowed, 81 denied, 82 allowed and denied, 83 allowed and override-denied.
#[test]
fn a_rejection_holds_though_others_overwrite_the_mark_and_ends_with_the_rule() {
    let Some(mut lab) = Lab::new("a_rejection_holds_though_others_overwrite_the_mark_and_ends_with_the_rule") else {
        return;
    };
    overwrite_marks(&lab);
    for direction in [Direction::Inbound, Direction::Outbound] {
        for state in [Enforcement::Selective, Enforcement::Full] {
            lab.enforce(&three_actions(state, direction, true));
            for (port, expected) in [(80, Reach::Open), (81, Reach::Refused), (82, Reach::Open), (83, Reach::Refused)] {
                assert_eq!(reach(&lab, direction, port), [[expected; 2]; 2], "{state:?} {direction:?} {port}");
            }
        }
        lab.enforce(&policy(Enforcement::Selective));
        assert_eq!(reach(&lab, direction, 83), [[Reach::Open; 2]; 2], "{direction:?}");
    }
}

#[test]
fn what_conntrack_does_not_track_is_dropped_where_it_cannot_be_rejected() {
    let Some(mut lab) = Lab::new("what_conntrack_does_not_track_is_dropped_where_it_cannot_be_rejected") else {
        return;
    };
    overwrite_marks(&lab);
    append(&lab, "raw", &["-j", "CT", "--notrack"]);
    for direction in [Direction::Inbound, Direction::Outbound] {
        lab.enforce(&three_actions(Enforcement::Selective, direction, true));
        assert_eq!(reach(&lab, direction, 80), [[Reach::Open; 2]; 2], "{direction:?}");
        for port in [81, 83] {
            assert_eq!(reach(&lab, direction, port), [[Reach::Dropped; 2]; 2], "{direction:?} {port}");
        }
    }
}

/// Selective, with an OverrideDeny on UDP 83 that rejects.
fn quarantine(direction: Direction) -> NetnsPolicy {
    let mut policy = policy(Enforcement::Selective);
    rule(&mut policy, direction, Action::OverrideDeny, everywhere_a(), ports(Protocol::UDP, &[83]), true);
    policy
}

#[test]
fn a_connection_that_outlives_its_rejection_passes_when_the_rule_is_lifted() {
    let Some(mut lab) = Lab::new("a_connection_that_outlives_its_rejection_passes_when_the_rule_is_lifted") else {
        return;
    };
    overwrite_marks(&lab);
    let families = Addresses::BOTH.into_iter().zip(["ipv4", "ipv6"]);
    let both = [Direction::Inbound, Direction::Outbound];
    for ((of, family), direction) in families.flat_map(|family| both.map(|direction| (family, direction))) {
        let (from, to) = ends(of, direction, 83);
        let source = if direction == Direction::Inbound { of.a } else { of.pod_a };
        let marks =
            |lab: &Lab| lab.exec(At::Pod, "conntrack", &["-L", "-f", family, "-p", "udp", "--orig-src", source], "");
        lab.enforce(&policy(Enforcement::Selective));
        let flow = lab.udp_flow(from, to);
        assert_eq!(flow.send(), Reach::Open);
        lab.enforce(&quarantine(direction));
        assert_eq!(flow.send(), Reach::Refused, "{direction:?}: unanswered, it is still new");
        assert!(marks(&lab).contains("mark=536870912"), "the entry lives on: {}", marks(&lab));
        lab.enforce(&policy(Enforcement::Selective));
        assert_eq!(flow.send(), Reach::Open, "{direction:?}");
        assert!(!marks(&lab).contains("mark=536870912"), "{}", marks(&lab));
    }
}
