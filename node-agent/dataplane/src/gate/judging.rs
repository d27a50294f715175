//! The chains that judge, one for all Pods that are judged alike, and the sets that say who is behind which.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::Direction;

use super::Door;
use super::names::{self, REFUSE, SEALED};
use crate::family::Family;
use crate::policy::{Enforcement, Nets};
use crate::render::lines::{Line, Seen, SideLines};
use crate::sets::{Members, SetDef};

/// Chains by name, each with its rules and the Pods that it judges.
pub struct Judging(BTreeMap<String, (Vec<String>, BTreeSet<IpAddr>)>);

impl Judging {
    /// Those for Pods behind doors that have an address of the family. `rules`: those of a door; a door without is left out.
    pub fn of<'a>(
        doors: &[(&'a Door, &'a SideLines)],
        family: Family,
        rules: impl Fn(&Door, &SideLines) -> Option<Vec<String>>,
    ) -> Self {
        let mut judging: BTreeMap<String, (Vec<String>, BTreeSet<IpAddr>)> = BTreeMap::new();
        for (door, lines) in doors {
            let own: BTreeSet<IpAddr> = of_family(&door.pods, family).collect();
            if let Some(rules) = rules(door, lines).filter(|_| !own.is_empty()) {
                let (_, pods) = judging.entry(names::of_rules(&rules)).or_insert((rules, BTreeSet::new()));
                pods.extend(own);
            }
        }
        Self(judging)
    }

    /// Whether nobody is judged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All Pods that are judged.
    pub fn pods(&self) -> BTreeSet<IpAddr> {
        self.0.values().flat_map(|(_, pods)| pods).copied().collect()
    }

    /// The rules that lead to each chain whom it judges, and the sets that they name.
    pub fn lead(&self, family: Family, named: fn(Family, &str) -> String, sets: &mut Vec<SetDef>) -> Vec<String> {
        let mut leading = Vec::new();
        for (chain, (_, pods)) in &self.0 {
            let name = named(family, chain);
            leading.push(format!("-m set --match-set {name} dst -g {chain}"));
            sets.push(set(family, name, pods));
        }
        leading
    }

    /// The chains with their rules.
    pub fn into_chains(self) -> impl Iterator<Item = (String, Vec<String>)> {
        self.0.into_iter().map(|(name, (rules, _))| (name, rules))
    }
}

/// The addresses of a family.
pub fn of_family(addresses: &BTreeSet<IpAddr>, family: Family) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(move |address| Family::of(*address) == family)
}

/// A set of addresses.
pub fn set(family: Family, name: String, members: &BTreeSet<IpAddr>) -> SetDef {
    let nets: Nets = members.iter().copied().collect();
    SetDef { name, family, members: Members::Nets(Arc::new(nets)) }
}

/// What becomes of what a rule hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It passes, sealed or not, or is dropped.
    Drop { seals: bool },
    /// It passes, or is dropped, or rejected where a rule says so.
    Reject,
    /// It is sealed, or dropped; what no rule hits goes on.
    Seal,
}

/// In the order of the policy model's table `side`.
pub fn rules(door: &Door, lines: &SideLines, ending: Ending) -> Vec<String> {
    let steps: [(&Vec<Line>, bool); 4] =
        [(&lines.essential, true), (&lines.override_deny, false), (&lines.allow, true), (&lines.deny, false)];
    let mut rules: Vec<String> = Vec::new();
    for (lines, passes) in steps {
        for line in lines {
            let target = match (passes, ending) {
                (true, Ending::Seal | Ending::Drop { seals: true }) => format!("-g {}", SEALED),
                (true, _) => "-j RETURN".to_owned(),
                (false, Ending::Reject) if line.reject => format!("-g {REFUSE}"),
                (false, _) if door.state == Enforcement::VisibilityOnly => "-j RETURN".to_owned(),
                (false, _) => "-j DROP".to_owned(),
            };
            let matches = line.matches(Seen::first(Direction::Inbound), false);
            rules.extend(matches.into_iter().map(|matching| format!("{matching} {target}")));
        }
    }
    match ending {
        Ending::Seal => rules.extend(default_away(door)),
        Ending::Drop { .. } | Ending::Reject => rules.extend(default(door)),
    }
    rules
}

/// A Pod does not look for a seal in what begins no connection, which may be older than its rules.
fn default_away(door: &Door) -> Option<String> {
    let rule = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate DNAT -j DROP";
    (door.state == Enforcement::Full).then(|| rule.to_owned())
}

/// What becomes of what no rule hits.
pub fn default(door: &Door) -> Vec<String> {
    (door.state == Enforcement::Full).then(|| "-j DROP".to_owned()).into_iter().collect()
}
