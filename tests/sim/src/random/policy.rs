//! What people write: settings, profiles, IP lists, groups, ports, rules.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_model::{Action, PortMatch};
use ringfence_oracle::world::{
    Actor, Group, IpList, LabelRule, Mapping, Profile, Rule, RuleServices, RuleSet, ServiceRef, Settings,
};

use super::{DIMENSIONS, ICMP_CODES, ICMP_TYPES, PORTS, PROTOCOLS, Random, parsed};

impl Random<'_> {
    pub(super) fn settings(&mut self) -> Settings {
        let networks = if self.chance(70) {
            Vec::new()
        } else {
            let network = |name: &str, v4: [&str; 2], v6: [&str; 2]| {
                (name.to_owned(), [v4, v6].map(|[first, last]| (parsed(first), parsed(last))).to_vec())
            };
            let first = network("one", ["10.0.0.0", "10.0.0.255"], ["fd00::", "fd00::ff"]);
            let second = network("two", ["10.0.1.0", "10.0.1.255"], ["fd00:1::", "fd00:1::ff"]);
            if self.chance(50) { vec![first] } else { vec![first, second] }
        };
        Settings {
            cloud: self.chance(30),
            default_profile: if self.chance(50) { Profile::default() } else { self.profile() },
            prefixes: if self.chance(50) { vec!["x.io/".to_owned()] } else { Vec::new() },
            pod_label_map: self.several(2, |r| Mapping {
                from: r.one(&["tier", "app"]).to_owned(),
                to: r.dimension(),
                values: if r.chance(50) { BTreeMap::new() } else { BTreeMap::from([("a".to_owned(), r.value())]) },
            }),
            networks,
            external_ranges: self.several(1, Self::range),
        }
    }

    pub(super) fn profile(&mut self) -> Profile {
        let mut labels = BTreeMap::new();
        for dimension in DIMENSIONS {
            let rule = match self.below(10) {
                0..=3 => LabelRule::Fixed(self.value()),
                4 => LabelRule::FromLabelMap,
                5 => continue,
                _ => LabelRule::Choice(self.values().into_iter().chain([self.value()]).collect()),
            };
            labels.insert(parsed(dimension), rule);
        }
        Profile { state: self.state(), labels }
    }

    pub(super) fn ip_list(&mut self) -> IpList {
        let mut ranges = self.several(3, Self::range);
        if self.chance(20) {
            ranges.push((parsed("0.0.0.0"), parsed("255.255.255.255")));
        }
        if self.chance(20) {
            ranges.push((parsed("::"), parsed("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
        }
        IpList { ranges, exclusions: self.several(2, Self::range) }
    }

    pub(super) fn group(&mut self) -> Group {
        Group {
            dimension: self.dimension(),
            values: self.values(),
            groups: self.several(2, |r| format!("g{}", r.below(4))).into_iter().collect(),
        }
    }

    pub(super) fn port(&mut self) -> PortMatch {
        let protocol = self.one(&PROTOCOLS).to_string();
        let first = i32::from(self.one(&PORTS));
        let made = match self.below(10) {
            0 => PortMatch::parse(&protocol, None, None, None, None),
            1 => PortMatch::parse(&protocol, Some(first), Some(first + 400), None, None),
            2 => {
                let code = if self.chance(50) { Some(self.one(&ICMP_CODES)) } else { None };
                let kind = self.one(&ICMP_TYPES);
                PortMatch::parse(
                    self.one(&["ICMP", "ICMP", "ICMPv6"]),
                    None,
                    None,
                    Some(kind.into()),
                    code.map(i32::from),
                )
            }
            3 => PortMatch::parse(self.one(&["ICMP", "ICMP", "ICMPv6"]), None, None, None, None),
            4 => PortMatch::parse("47", None, None, None, None),
            _ => PortMatch::parse(&protocol, Some(first), None, None, None),
        };
        // Every arm is valid by construction.
        made.unwrap_or_else(|error| panic!("a port of the generator is valid: {error}"))
    }

    pub(super) fn rule_set(&mut self) -> RuleSet {
        let mut scopes = if self.chance(60) { vec![BTreeMap::new()] } else { Vec::new() };
        scopes.extend(self.several(2, |r| r.asked(1)));
        let count = 1 + self.below(4);
        RuleSet {
            enabled: !self.chance(5),
            scopes,
            rules: (0..count).map(|number| self.rule(format!("x{number}"))).collect(),
        }
    }

    fn rule(&mut self, name: String) -> Rule {
        let services = match self.below(10) {
            0..=3 => RuleServices::All,
            4 => RuleServices::OwnPorts,
            _ => RuleServices::Listed(self.several(4, |r| {
                if r.chance(25) { ServiceRef::Named(format!("d{}", r.below(3))) } else { ServiceRef::Port(r.port()) }
            })),
        };
        Rule {
            name,
            enabled: !self.chance(5),
            action: self.one(&[Action::Allow, Action::Allow, Action::Deny, Action::OverrideDeny]),
            reject: self.chance(30),
            extra_scope: self.chance(40),
            consumers: self.actors(),
            providers: self.actors(),
            services,
        }
    }

    fn actors(&mut self) -> Vec<Actor> {
        let mut actors = self.several(1, Self::actor);
        actors.push(self.actor());
        actors
    }

    fn actor(&mut self) -> Actor {
        match self.below(13) {
            0..=5 => Actor::Labels {
                is: if self.chance(85) { self.term() } else { self.asked(3) },
                not: if self.chance(20) { self.asked(1) } else { BTreeMap::new() },
                groups: if self.chance(15) { BTreeSet::from([format!("g{}", self.below(4))]) } else { BTreeSet::new() },
            },
            6 | 11 => Actor::AllWorkloads,
            7 | 8 => Actor::IpList(format!("l{}", self.below(3))),
            9 => Actor::VirtualService(self.service_key()),
            10 => Actor::Workload(self.one(&["cp", "w1", "m0", "m1", "nobody"]).to_owned()),
            _ => Actor::ContainerHosts,
        }
    }
}
