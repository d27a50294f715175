//! Rules of Pods that may connect to names.

use super::*;

/// A policy that opens port 443 to what was learned of a name, with these resolvers.
fn with_names(resolvers: &[IpAddr], learned: &[IpAddr]) -> NetnsPolicy {
    let names =
        crate::names::Names { patterns: ["*.example.com".parse().expect("a name")].into(), except: Nets::default() };
    let nets = Arc::new(learned.iter().copied().collect());
    let peers = HostSet { origins: [Origin::Names(Arc::new(names))].into(), nets };
    let allow = (Action::Allow, entry(peers, only(Protocol::TCP, 443), false));
    let mut policy = with(Enforcement::Full, Direction::Outbound, &[allow]);
    let nets = Arc::new(resolvers.iter().copied().collect());
    let resolvers = HostSet { origins: [Origin::Resolvers].into(), nets };
    policy.outbound.essential.push(entry(resolvers, only(Protocol::UDP, 53), false));
    policy
}

#[test]
fn answers_are_copied_where_a_pod_may_connect_to_names() {
    let rendered = render(&with_names(&[OTHER], &[PEER]), 1);
    let lines = |text: &str, word: &str| text.lines().filter(|line| line.contains(word)).count();
    assert_eq!((lines(&rendered.v4, "NFLOG"), lines(&rendered.v6, "NFLOG")), (1, 0), "UDP, of one family");
    let place = |word: &str| rendered.v4.lines().position(|line| line.starts_with("-A RF-IN ") && line.contains(word));
    assert!(place("NFLOG") < place("RELATED,ESTABLISHED"), "what is established passes there: {}", rendered.v4);
    assert!(rendered.v4.contains(" --match-set RF4-1-0 src "), "it is the set of the resolvers: {}", rendered.v4);
    let plain =
        with(Enforcement::Full, Direction::Outbound, &[(Action::Allow, entry(listed(&[PEER]), Services::All, false))]);
    let without = [render(&plain, 1), render(&with_names(&[], &[PEER]), 1)];
    assert!(without.iter().all(|rendered| lines(&rendered.v4, "NFLOG") == 0));
}

#[test]
fn what_is_learned_changes_no_rule() {
    let rendered = render(&with_names(&[OTHER], &[]), 1);
    let sets = rendered.sets_of(&with_names(&[OTHER], &[]), &with_names(&[OTHER], &[PEER, PEER_V6]));
    let text = sets::change_text(&sets::changes(&rendered.sets, &sets.expect("members alone differ")));
    assert_eq!(text, "add RF4-1-1 10.0.0.1\nadd RF6-1-0 fd00::1\n");
}

#[test]
fn a_name_opens_what_was_learned_of_it_and_no_more() {
    for policy in [with_names(&[OTHER], &[PEER, PEER_V6]), with_names(&[OTHER], &[])] {
        for (peer, is_learned) in [(PEER, true), (PEER_V6, true), (OTHER, false), (OTHER_V6, false)] {
            let opened = is_learned
                && policy.outbound.allow.iter().any(|entry| match &entry.matching {
                    Match::Hosts { peers, .. } => !peers.nets.is_empty(),
                    _ => false,
                });
            let packet = packet(Direction::Outbound, peer, Protocol::TCP, 1, 443);
            assert_eq!(fate(&policy, &Probe::new(packet)) == Fate::Passed, opened, "{peer}");
        }
    }
    // An answer itself goes the way that it would go without being copied.
    let answer = packet(Direction::Inbound, OTHER, Protocol::UDP, 53, 4000);
    let policy = with_names(&[OTHER], &[]);
    assert_eq!(fate(&policy, &Probe { state: "ESTABLISHED", ..Probe::new(answer) }), Fate::Passed);
    assert_eq!(fate(&policy, &Probe::new(answer)), Fate::Dropped, "nobody has asked");
}
