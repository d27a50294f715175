//! What identifies the policy of a node, so that one that was taken back is known again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::policy::{Entry, Match, NetnsPolicy, Nets, Origin, Side};

/// A hash over everything that people have written into a policy, and nothing that comes and goes by itself: members of groups
/// and ends of Services are not in it, so that a Pod that starts makes no other policy of it.
pub fn fingerprint(policy: &NetnsPolicy) -> String {
    let mut text = format!("{:?}", policy.state);
    for side in [&policy.inbound, &policy.outbound] {
        let Side { essential, override_deny, allow, deny } = side;
        for (step, entries) in [essential, override_deny, allow, deny].into_iter().enumerate() {
            entries.iter().for_each(|entry| note(&mut text, step, entry));
        }
        text.push('|');
    }
    Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A policy with the members that another one has of the same groups, and the Pods of now to probe. (Which Services a rule is about
/// people have written: these ends stay.)
#[must_use]
pub fn with_members_of(policy: &NetnsPolicy, newer: &NetnsPolicy) -> NetnsPolicy {
    let mut members: BTreeMap<&BTreeSet<Origin>, &Arc<Nets>> = BTreeMap::new();
    for entry in entries(newer) {
        if let Match::Hosts { peers, .. } = &entry.matching {
            members.insert(&peers.origins, &peers.nets);
        }
    }
    let essential = newer.outbound.essential.iter();
    let ends: BTreeMap<&str, &Match> = essential
        .filter(|entry| matches!(entry.matching, Match::Ends(_)))
        .map(|entry| (&*entry.rule, &entry.matching))
        .collect();
    let mut policy = policy.clone();
    for side in [&mut policy.inbound, &mut policy.outbound] {
        let Side { essential, override_deny, allow, deny } = side;
        for entry in &mut *essential {
            if let Match::Ends(_) = entry.matching
                && let Some(newer) = ends.get(&*entry.rule)
            {
                entry.matching = (*newer).clone();
            }
        }
        for entry in essential.iter_mut().chain(override_deny).chain(allow).chain(deny) {
            if let Match::Hosts { peers, .. } = &mut entry.matching
                && let Some(nets) = members.get(&peers.origins)
            {
                peers.nets = Arc::clone(nets);
            }
        }
    }
    policy
}

fn entries(policy: &NetnsPolicy) -> impl Iterator<Item = &Entry> {
    [&policy.inbound, &policy.outbound]
        .into_iter()
        .flat_map(|side| side.essential.iter().chain(&side.override_deny).chain(&side.allow).chain(&side.deny))
}

fn note(text: &mut String, step: usize, Entry { matching, rule, .. }: &Entry) {
    // Writing to a String cannot fail.
    let _ = match matching {
        Match::Hosts { peers, services } => write!(text, "\n{step} {rule} {:?} {services:?}", peers.origins),
        Match::Ends(_) => write!(text, "\n{step} {rule} ends"),
        Match::OwnOrigin => write!(text, "\n{step} {rule} own"),
        Match::Sealed { services, .. } => write!(text, "\n{step} {rule} sealed {services:?}"),
        Match::Unsealed { .. } => write!(text, "\n{step} {rule} unsealed"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{End, Enforcement, HostSet};
    use ringfence_model::{Protocol, Services};

    fn entry(group: &str, address: &str) -> Entry {
        let nets = Arc::new([address.parse::<std::net::IpAddr>().expect("an address")].into_iter().collect());
        let peers = HostSet { origins: [Origin::PeerGroup(group.to_owned())].into(), nets };
        Entry { matching: Match::Hosts { peers, services: Services::All }, reject: false, rule: group.to_owned() }
    }

    fn ends(rule: &str, address: &str) -> Entry {
        let end = End { address: address.parse().expect("an address"), protocol: Protocol::TCP, port: 80 };
        Entry { matching: Match::Ends(Arc::new([end].into())), reject: false, rule: rule.to_owned() }
    }

    #[test]
    fn pods_are_probed_that_came_since_and_no_service_is_opened_that_a_newer_rule_is_about() {
        let (mut old, mut new) = (NetnsPolicy::new(Enforcement::Full), NetnsPolicy::new(Enforcement::Full));
        old.outbound.essential = vec![ends("essential:probe", "10.0.0.1")].into();
        old.outbound.allow = vec![ends("r/web", "10.96.0.1")].into();
        new.outbound.essential = vec![ends("essential:probe", "10.0.0.2")].into();
        new.outbound.allow = vec![ends("r/web", "10.96.0.2")].into();
        let mixed = with_members_of(&old, &new);
        assert_eq!(mixed.outbound.essential, new.outbound.essential);
        assert_eq!(mixed.outbound.allow, old.outbound.allow);
        assert_eq!(fingerprint(&mixed), fingerprint(&old));
    }

    #[test]
    fn groups_have_the_members_of_the_newer_policy_and_rules_stay() {
        let (mut old, mut new) = (NetnsPolicy::new(Enforcement::Full), NetnsPolicy::new(Enforcement::Full));
        old.inbound.allow = vec![entry("p-1", "192.0.2.1"), entry("p-2", "192.0.2.2")].into();
        new.outbound.essential = vec![entry("p-1", "192.0.2.9")].into();
        let expected = vec![entry("p-1", "192.0.2.9"), entry("p-2", "192.0.2.2")];
        let mixed = with_members_of(&old, &new);
        assert_eq!((mixed.inbound.allow, mixed.outbound.essential), (expected.into(), Vec::new().into()));
        assert_eq!(fingerprint(&with_members_of(&old, &new)), fingerprint(&old));
    }
}
