//! What an agent keeps of what it finds, and what it writes anew.

use super::*;

#[test]
fn rules_that_are_as_they_were_are_kept() {
    let Some(pod) = Pod::new("rules_that_are_as_they_were_are_kept") else { return };
    let readings = pod.enforce(&policy(Enforcement::Full)).readings().expect("they were read back");
    // Counters do not matter, nor do rules of others.
    assert_eq!(pod.open(), AS_ALLOWED);
    pod.iptables("iptables-nft", "-t mangle -A OUTPUT -d 192.0.2.1 -j ACCEPT");
    let terms = Terms { readings, ..closing() };
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &terms).expect("nothing to do");
    assert_eq!((outcome.done, outcome.problem), (Done::Nothing, None));
    // Where nobody knows what they were, nobody can say that they are right.
    let outcome = pod.apply(&policy(Enforcement::Full), Known::Unread, &closing()).expect("the kernel takes it");
    assert_eq!((outcome.done, outcome.problem), (Done::Rules, None));
}

#[test]
fn what_nobody_has_written_since_is_not_read_again() {
    let Some(pod) = Pod::new("what_nobody_has_written_since_is_not_read_again") else { return };
    let unchanged = |policy: &NetnsPolicy, before: &Readings| {
        let sets = || Found::read(Place::Pod).expect("the kernel lists them");
        pod.0.within(|_| Kernel::unchanged(Backend::Nft, policy, before, &sets()).is_some())
    };
    let group = |members: &[&str]| with_group(members);
    let known = pod.enforce(&group(&["10.9.9.3"]));
    let readings = known.readings().expect("they were read back");
    assert!(unchanged(&group(&["10.9.9.3"]), &readings));
    assert!(unchanged(&group(&["10.9.9.2"]), &readings), "members are no rules");
    assert!(!unchanged(&policy(Enforcement::Full), &readings), "another rule is another text");
    assert!(!unchanged(&group(&["10.9.9.3"]), &Readings::default()), "nothing is remembered");
    // A member that somebody else put in goes, and no rule is written.
    pod.0.exec("ipset", &["add", "RF4-0-1", "10.9.9.2"], "");
    let terms = Terms { readings: readings.clone(), ..closing() };
    let outcome = pod.apply(&group(&["10.9.9.3"]), Known::Unread, &terms).expect("a member goes");
    assert_eq!((outcome.done, outcome.problem, pod.open()), (Done::Members, None, AS_ALLOWED));
    assert_eq!(outcome.known.readings(), Some(readings.clone()), "it is remembered again");

    // Whatever somebody writes, they are read: here a rule that is none of ours.
    pod.iptables("ip6tables-nft", "-t filter -A OUTPUT -d fd99:9::7 -j ACCEPT");
    assert!(!unchanged(&group(&["10.9.9.3"]), &readings));
    let outcome = pod.apply(&group(&["10.9.9.3"]), Known::Unread, &terms).expect("nothing to do");
    assert_eq!(outcome.done, Done::Nothing);
    let again = outcome.known.readings().expect("they were read back");
    assert!(unchanged(&group(&["10.9.9.3"]), &again) && again != readings, "with another number");
    // And one of ours, under a rule in front of them.
    pod.iptables("iptables-nft", "-t mangle -I OUTPUT 1 -j ACCEPT");
    assert_eq!(pod.open_by_family()[0], EVERYTHING);
    let terms = Terms { readings: again, ..closing() };
    let outcome = pod.apply(&group(&["10.9.9.3"]), Known::Unread, &terms).expect("the kernel takes it");
    assert_eq!((outcome.done, pod.open()), (Done::Rules, AS_ALLOWED));
}

#[test]
fn a_rule_that_somebody_else_changed_is_put_right_and_reported() {
    let Some(pod) = Pod::new("a_rule_that_somebody_else_changed_is_put_right_and_reported") else { return };
    let changes = [
        ("iptables-nft", "-t mangle -R RF-IN 1 -j RETURN"),
        ("iptables-nft", "-t mangle -R RF-OUT 1 -j RETURN"),
        ("iptables-nft", "-t filter -R RF-REJECT 1 -j ACCEPT"),
        ("ip6tables-nft", "-t mangle -R RF-OUT 1 -j RETURN"),
    ];
    // One that names a set has another text with every generation; one that names none is written again as it was.
    for policy in [policy(Enforcement::Full), NetnsPolicy::new(Enforcement::Full)].map(rejecting) {
        for (program, change) in changes {
            let known = pod.enforce(&policy);
            let terms = Terms { readings: known.readings().expect("they were read back"), ..closing() };
            pod.iptables(program, change);
            let outcome = pod.apply(&policy, Known::Unread, &terms).expect("the kernel takes it");
            let problem = outcome.problem.expect("it is reported");
            assert!(problem.contains("somebody else has changed"), "{problem}");
            let known = pod.clean_up(outcome.known).expect("it is as it was written").known;
            let saved = [program, "-save"].concat();
            let (rule, place) = (change.split(' ').skip(3).collect::<Vec<_>>(), change.split(' ').nth(1));
            let left = format!("-A {} {}\n", rule[0], rule[2..].join(" "));
            let text = pod.0.exec(&saved, &["-t", place.expect("a table")], "");
            assert!(!text.contains(&left), "{change}: {text}");
            let terms = Terms { readings: known.readings().expect("they were read back"), ..closing() };
            let outcome = pod.apply(&policy, Known::Unread, &terms).expect("nothing to do");
            assert_eq!((outcome.done, outcome.problem), (Done::Nothing, None), "{change}");
        }
    }
}

#[test]
fn what_was_not_written_is_compared_when_the_rest_is_read_back() {
    let Some(pod) = Pod::new("what_was_not_written_is_compared_when_the_rest_is_read_back") else { return };
    // The resolver has no IPv6 address: for that family there is no set, and without the resolver nothing changes.
    let mut before = policy(Enforcement::Full);
    if let Some(Match::Hosts { peers, .. }) = before.outbound.essential.first_mut().map(|entry| &mut entry.matching) {
        peers.nets = Arc::new(peers.nets.iter().filter(|net| net.addr().is_ipv4()).collect());
    }
    let known = pod.enforce(&before);
    pod.iptables("ip6tables-nft", "-t mangle -R RF-IN 1 -j RETURN");
    let mut fewer = before;
    fewer.outbound.essential.clear();
    let outcome = pod.apply(&fewer, known, &closing()).expect("the kernel takes it");
    assert_eq!(outcome.done, Done::Rules);
    let error = pod.clean_up(outcome.known).expect_err("IPv6 is not what it was");
    assert!(matches!(&error, ApplyError::Touched(families) if *families == [Family::V6]), "{error}");
}
