//! What counts beside the rules: loopback, what conntrack knows of a packet, and our marks.

use super::*;

#[rstest]
fn what_comes_before_every_rule(#[values(PEER, PEER_V6)] peer: IpAddr) {
    let policy = with(Enforcement::Full, Direction::Inbound, &[]);
    let probe = Probe::new(packet(Direction::Inbound, peer, Protocol::TCP, 1, 80));
    assert_eq!(fate(&policy, &probe), Fate::Dropped);
    assert_eq!(fate(&policy, &Probe { interface: "lo", ..probe }), Fate::Passed);
    for state in ["ESTABLISHED", "RELATED"] {
        let known = Probe { state, syn: false, ..probe };
        assert_eq!(fate(&policy, &known), Fate::Passed);
        assert_eq!(fate(&policy, &Probe { connmark: ENDED, ..known }), Fate::Dropped, "ended");
    }
    let invalid = Probe { state: "INVALID", syn: false, ..probe };
    assert_eq!(fate(&policy, &invalid), Fate::Dropped);
    let selective = with(Enforcement::Selective, Direction::Inbound, &[]);
    assert_eq!(fate(&selective, &invalid), Fate::WouldBlock, "INVALID alone blocks in Full only");
    let visibility = with(Enforcement::VisibilityOnly, Direction::Inbound, &[]);
    let ended = Probe { state: "ESTABLISHED", connmark: ENDED, ..probe };
    assert_eq!(fate(&visibility, &ended), Fate::Passed, "VisibilityOnly blocks nothing");
}

/// What a rule lets pass does so only in a connection that is one: whether something overrides or not, wherever it stands.
#[rstest]
fn an_allow_lets_no_ended_flow_pass_and_in_full_nothing_invalid(
    #[values(PEER, PEER_V6)] peer: IpAddr,
    #[values(false, true)] overridden: bool,
    #[values(Direction::Inbound, Direction::Outbound)] direction: Direction,
) {
    let mut entries = vec![(Action::Allow, entry(listed(&[peer]), only(Protocol::UDP, 80), false))];
    if overridden {
        entries.push((Action::OverrideDeny, entry(listed(&[peer]), only(Protocol::UDP, 81), false)));
    }
    let probe = Probe::new(packet(direction, peer, Protocol::UDP, 1, 80));
    let fates = |state| {
        let policy = with(state, direction, &entries);
        let probes = ["NEW", "UNTRACKED", "INVALID"].map(|state| Probe { state, ..probe });
        let ended = ["NEW", "ESTABLISHED", "RELATED"].map(|state| Probe { state, connmark: ENDED, ..probe });
        (probes.map(|probe| fate(&policy, &probe)), ended.map(|probe| fate(&policy, &probe)))
    };
    use Fate::{Dropped, Passed};
    assert_eq!(fates(Enforcement::Full), ([Passed, Passed, Dropped], [Dropped; 3]));
    assert_eq!(fates(Enforcement::Selective), ([Passed; 3], [Dropped; 3]));
    assert_eq!(fates(Enforcement::VisibilityOnly), ([Passed; 3], [Passed; 3]));
    // No policy looks at loopback, whatever conntrack calls it.
    let full = with(Enforcement::Full, direction, &entries);
    for state in ["NEW", "INVALID"] {
        assert_eq!(fate(&full, &Probe { interface: "lo", state, ..probe }), Passed, "{state}");
    }
    // Nor does Selective by its default.
    let selective = with(Enforcement::Selective, direction, &entries);
    let other = packet(direction, peer, Protocol::UDP, 1, 82);
    assert_eq!(fate(&selective, &Probe { connmark: ENDED, ..Probe::new(other) }), Dropped);
}

/// Deny and OverrideDeny on port 80 ask to reject.
#[rstest]
#[case::deny(Action::Deny)]
#[case::override_deny(Action::OverrideDeny)]
fn a_mark_that_others_overwrite_is_not_what_blocks(#[case] action: Action) {
    for state in [Enforcement::Selective, Enforcement::Full] {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let policy = with(state, direction, &[(action, entry(listed(&[PEER]), only(Protocol::TCP, 80), true))]);
            let probe = Probe::new(packet(direction, PEER, Protocol::TCP, 1, 80));
            let overwritten = Probe { overwritten: true, ..probe };
            assert_eq!(fate(&policy, &overwritten), Fate::Rejected, "{state:?} {direction:?}");
            for untracked in ["INVALID", "UNTRACKED"] {
                let packet = Probe { state: untracked, ..overwritten };
                assert_eq!(fate(&policy, &packet), Fate::Dropped, "{state:?} {direction:?} {untracked}");
            }
        }
    }
}

/// A connection was rejected, nobody has answered it, and a later policy lets its next packet pass.
#[test]
fn an_old_mark_rejects_nothing_that_passes() {
    let marked = |state, actions: &[Action], ct_state| {
        let entries: Vec<_> =
            actions.iter().map(|action| (*action, entry(listed(&[PEER]), only(Protocol::UDP, 53), true))).collect();
        let policy = with(state, Direction::Outbound, &entries);
        let packet = packet(Direction::Outbound, PEER, Protocol::UDP, 4000, 53);
        fate(&policy, &Probe { connmark: REJECT, state: ct_state, ..Probe::new(packet) })
    };
    assert_eq!(marked(Enforcement::Full, &[Action::Allow], "NEW"), Fate::Passed);
    assert_eq!(marked(Enforcement::Selective, &[Action::Allow, Action::Deny], "NEW"), Fate::Passed);
    assert_eq!(marked(Enforcement::Selective, &[], "NEW"), Fate::WouldBlock);
    assert_eq!(marked(Enforcement::VisibilityOnly, &[Action::OverrideDeny], "NEW"), Fate::WouldBlock);
    assert_eq!(marked(Enforcement::Selective, &[Action::Deny], "NEW"), Fate::Rejected);
    assert_eq!(marked(Enforcement::Full, &[], "ESTABLISHED"), Fate::Passed, "it was answered before");
}

#[rstest]
fn an_older_flow_is_hit_by_a_rule_of_either_orientation(#[values(PEER, PEER_V6)] peer: IpAddr) {
    let web = entry(listed(&[peer]), only(Protocol::TCP, 80), false);
    let policy = with(Enforcement::Full, Direction::Inbound, &[(Action::Allow, web)]);
    // A reply of the Pod's own server on port 80, the first that conntrack sees of the flow.
    let reply = packet(Direction::Outbound, peer, Protocol::TCP, 80, 40000);
    assert_eq!(fate(&policy, &Probe { syn: false, ..Probe::new(reply) }), Fate::Passed);
    assert_eq!(fate(&policy, &Probe::new(reply)), Fate::Dropped, "a SYN from port 80 opens a new connection");
    assert!(!policy.judge_flow(&reply, true).blocks);
    assert!(policy.judge_flow(&reply, false).blocks, "its direction is known: it is the Pod's own");
}

/// A packet in the middle of a flow whose beginning nobody knows: what overrides in one orientation blocks what is allowed in the other.
#[rstest]
fn an_older_flow_is_blocked_by_an_override_of_either_orientation(#[values(PEER, PEER_V6)] peer: IpAddr) {
    let allowed = entry(listed(&[peer]), only(Protocol::TCP, 80), false);
    let mut policy = with(Enforcement::Full, Direction::Inbound, &[(Action::Allow, allowed)]);
    let request = packet(Direction::Inbound, peer, Protocol::TCP, 40000, 80);
    let older = Probe { syn: false, ..Probe::new(request) };
    assert_eq!(fate(&policy, &older), Fate::Passed);
    policy.outbound.override_deny.push(entry(listed(&[peer]), only(Protocol::TCP, 40000), false));
    assert_eq!(fate(&policy, &older), Fate::Dropped);
    assert_eq!(fate(&policy, &Probe::new(request)), Fate::Passed, "a SYN says who begins");
}
