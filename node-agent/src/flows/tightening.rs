//! Whether a change of policy can end flows at all. Most changes only open something: a Pod that joins, a rule that is
//! added. In doubt the answer is that it can.

use std::sync::Arc;

use ringfence_dataplane::{Enforcement, Entry, HostSet, Match, NetnsPolicy, Side};
use ringfence_model::Services;

/// Whether something that passed under `before` may be blocked under `after`.
pub fn may_tighten(before: &NetnsPolicy, after: &NetnsPolicy) -> bool {
    let strictness = |state| match state {
        Enforcement::VisibilityOnly => 0,
        Enforcement::Selective => 1,
        Enforcement::Full => 2,
    };
    strictness(after.state) > strictness(before.state)
        || before.own != after.own
        || side_may_tighten(&before.inbound, &after.inbound)
        || side_may_tighten(&before.outbound, &after.outbound)
}

/// The same for one side: what let pass must still let pass, and what blocks must have blocked before.
pub fn side_may_tighten(before: &Side, after: &Side) -> bool {
    let within = |few: &[Entry], many: &[Entry]| few.iter().all(|entry| many.iter().any(|other| covers(other, entry)));
    !(within(&before.essential, &after.essential)
        && within(&before.allow, &after.allow)
        && within(&after.override_deny, &before.override_deny)
        && within(&after.deny, &before.deny))
}

/// Whether everything that `small` hits is hit by `big`. Services first: of peers there are many more.
fn covers(big: &Entry, small: &Entry) -> bool {
    match (&big.matching, &small.matching) {
        (
            Match::Hosts { peers: big_peers, services: big_services },
            Match::Hosts { peers: small_peers, services: small_services },
        ) => services_cover(big_services, small_services) && peers_cover(big_peers, small_peers),
        (Match::Ends(big), Match::Ends(small)) => small.is_subset(big),
        (Match::OwnOrigin, Match::OwnOrigin) => true,
        (
            Match::Sealed { nodes: big_nodes, services: big_services },
            Match::Sealed { nodes: small_nodes, services: small_services },
        ) => services_cover(big_services, small_services) && peers_cover(big_nodes, small_nodes),
        (Match::Unsealed { nodes: big }, Match::Unsealed { nodes: small }) => peers_cover(big, small),
        _ => false,
    }
}

fn peers_cover(big: &HostSet, small: &HostSet) -> bool {
    Arc::ptr_eq(&big.nets, &small.nets) || big.nets.covers_all(&small.nets)
}

fn services_cover(big: &Services, small: &Services) -> bool {
    match (big, small) {
        (Services::All, _) => true,
        (Services::Only(_), Services::All) => false,
        (Services::Only(big), Services::Only(small)) => small.is_subset(big),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_model::PortMatch;
    use std::net::IpAddr;

    fn entry(peers: &[&str], port: i32) -> Entry {
        let nets = Arc::new(peers.iter().map(|net| net.parse::<IpAddr>().expect("an address")).collect());
        let port = PortMatch::parse("TCP", Some(port), None, None, None).expect("a port");
        Entry {
            matching: Match::Hosts {
                peers: HostSet { nets, ..HostSet::default() },
                services: Services::Only([port].into()),
            },
            reject: false,
            rule: String::new(),
        }
    }

    fn allowing(entries: Vec<Entry>) -> NetnsPolicy {
        let mut policy = NetnsPolicy::new(Enforcement::Full);
        policy.inbound.allow = entries.into();
        policy
    }

    #[test]
    fn a_peer_or_rule_more_only_opens() {
        let before = allowing(vec![entry(&["10.0.0.1"], 80)]);
        let joined = allowing(vec![entry(&["10.0.0.1", "10.0.0.2"], 80)]);
        let added = allowing(vec![entry(&["10.0.0.1"], 80), entry(&["10.0.0.9"], 81)]);
        assert!(!may_tighten(&before, &joined));
        assert!(!may_tighten(&before, &added));
        assert!(may_tighten(&joined, &before), "a peer left");
        assert!(may_tighten(&added, &before), "a rule was revoked");
        assert!(!may_tighten(&before, &before));
    }

    #[test]
    fn a_deny_tightens_when_it_comes() {
        let before = allowing(Vec::new());
        let mut after = before.clone();
        after.outbound.override_deny.push(entry(&["10.0.0.1"], 80));
        assert!(may_tighten(&before, &after));
        assert!(!may_tighten(&after, &before));
    }

    #[test]
    fn a_stricter_state_tightens() {
        let selective = NetnsPolicy::new(Enforcement::Selective);
        let full = NetnsPolicy::new(Enforcement::Full);
        assert!(may_tighten(&selective, &full));
        assert!(!may_tighten(&full, &selective));
    }
}
