//! The gate as text for iptables-restore, and as sets.
//!
//! | chain | holds |
//! | --- | --- |
//! | `RF-GATE` | flows we end; what is no new connection towards a Pod behind the gate leaves |
//! | `RF-GATE-SELF` | who reaches itself through a Service leaves |
//! | `RF-GATE-DOORS` | which chain judges which Pods |
//! | `RF-GATE-<digest>` | essential, OverrideDeny, Allow, Deny, state: the inbound rules of these Pods |
//! | `RF-GATE-END` | flows we end, from a Pod to the node itself |
//! | `RF-GATE-FP-<digest>` | nothing: its name tells what the others hold |
//!
//! Sets and chains are named after their content ([`super::names`]): a restore writes what is not there yet, in one
//! commit with what leads to it. Whatever passes leaves by RETURN, so that other people's rules still see it.
//!
//! A packet that begins no connection is judged only if the node translates it: anything else the Pod sees as it is. In
//! POSTROUTING nothing can be rejected, so that whom a rule rejects is dropped here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::Direction;

use super::{Door, GatePolicy, names};
use crate::chains::Hook;
use crate::family::Family;
use crate::policy::{Enforcement, Nets};
use crate::readback::{Installed, Readback};
use crate::render::ENDED;
use crate::render::lines::{Line, Seen, SideLines, at_the_gate};
use crate::sets::{Members, SetDef};

/// Where the gate hangs.
pub const HOOKS: [Hook; 2] = [
    Hook { table: "mangle", chain: "POSTROUTING", target: names::ENTRY },
    Hook { table: "mangle", chain: "PREROUTING", target: END },
];
const END: &str = "RF-GATE-END";
const DOORS: &str = "RF-GATE-DOORS";

/// A gate as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RenderedGate {
    /// The sets that the rules name.
    pub sets: Vec<SetDef>,
    v4: Chains,
    v6: Chains,
}

/// Chains of table mangle by name, with their rules (each without `-A CHAIN`).
type Chains = BTreeMap<String, Vec<String>>;

impl RenderedGate {
    /// Renders a gate. Without doors it is nothing.
    pub fn of(gate: &GatePolicy) -> Self {
        if gate.doors.is_empty() {
            return Self::default();
        }
        let (v4, v4_sets) = chains(gate, Family::V4);
        let (v6, v6_sets) = chains(gate, Family::V6);
        Self { sets: v4_sets.into_iter().chain(v6_sets).collect(), v4, v6 }
    }

    /// Whether what is installed is this gate.
    pub fn verify(&self, family: Family, installed: &Installed) -> Readback {
        let wanted = self.family(family);
        if wanted.is_empty() {
            return if installed.is_empty() { Readback::Ok } else { Readback::Changed };
        }
        if installed.is_empty() {
            return Readback::Missing;
        }
        let holds = installed.counts("mangle") == counts(wanted) && installed.is_hooked(&HOOKS);
        if holds { Readback::Ok } else { Readback::Changed }
    }

    /// `iptables-restore --noflush` input that makes this of what is installed. Empty if nothing is to be done. The sets
    /// have to be there.
    pub fn restore_text(&self, family: Family, installed: &Installed) -> String {
        let wanted = self.family(family);
        if self.verify(family, installed) == Readback::Ok {
            return String::new();
        }
        let (present, counts) = (installed.counts("mangle"), counts(wanted));
        // What leads to others is written with them: its name does not tell what it holds.
        let written: Vec<_> = wanted
            .iter()
            .filter(|(name, _)| !is_named_by_content(name) || present.get(*name) != counts.get(*name))
            .collect();
        let declared = written.iter().map(|(name, _)| format!(":{name} - [0:0]\n"));
        let rules = written.iter().flat_map(|(name, rules)| rules.iter().map(move |rule| format!("-A {name} {rule}\n")));
        let hooks = installed.hooks_to("mangle", if wanted.is_empty() { &[] } else { &HOOKS });
        let stale = || present.keys().filter(|name| !wanted.contains_key(*name));
        let flushed = stale().map(|name| format!("-F {name}\n"));
        let deleted = stale().map(|name| format!("-X {name}\n"));
        let lines: String = declared.chain(rules).chain([hooks]).chain(flushed).chain(deleted).collect();
        format!("*mangle\n{lines}COMMIT\n")
    }

    /// What is installed once [`RenderedGate::restore_text`] was restored.
    pub fn installed(&self, family: Family) -> Installed {
        Installed::with("mangle", names::CHAIN_PREFIX, self.family(family).clone(), &HOOKS)
    }

    fn family(&self, family: Family) -> &Chains {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

fn counts(chains: &Chains) -> BTreeMap<String, usize> {
    chains.iter().map(|(name, rules)| (name.clone(), rules.len())).collect()
}

fn is_named_by_content(chain: &str) -> bool {
    ![names::ENTRY, names::ITSELF, DOORS, END].contains(&chain)
}

fn chains(gate: &GatePolicy, family: Family) -> (Chains, Vec<SetDef>) {
    let (lines, mut sets) = at_the_gate(gate.doors.iter().map(|door| &door.inbound), family);
    let mut judging: BTreeMap<String, (Vec<String>, BTreeSet<IpAddr>)> = BTreeMap::new();
    for (door, lines) in gate.doors.iter().zip(&lines) {
        let (rules, pods) = (rules(door, lines), of_family(&door.pods, family));
        if !pods.is_empty() {
            judging.entry(names::of_rules(&rules)).or_insert((rules, BTreeSet::new())).1.extend(pods);
        }
    }
    let all = of_family(&gate.pods(), family);
    sets.push(set(family, names::pods(family), &all));
    for (chain, (_, pods)) in &judging {
        sets.push(set(family, names::judged_by(family, chain), pods));
    }
    let leading =
        |chain: &String| format!("-m set --match-set {} dst -g {chain}", names::judged_by(family, chain));
    let doors = judging.keys().map(leading);
    // A Pod that goes from one chain to another is for a moment in none.
    let doors = doors.chain(["-j DROP".to_owned()]).collect();
    let mut chains = Chains::from([(DOORS.to_owned(), doors)]);
    chains.insert(names::ENTRY.to_owned(), entry(family));
    chains.insert(names::ITSELF.to_owned(), itself(&all));
    chains.insert(END.to_owned(), vec![ended(family, "src")]);
    let text: Vec<String> = chains.values().flatten().cloned().collect();
    chains.insert(names::fingerprint(&text.join("\n")), Vec::new());
    chains.extend(judging.into_iter().map(|(name, (rules, _))| (name, rules)));
    (chains, sets)
}

fn of_family(addresses: &BTreeSet<IpAddr>, family: Family) -> BTreeSet<IpAddr> {
    addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
}

fn set(family: Family, name: String, members: &BTreeSet<IpAddr>) -> SetDef {
    let nets: Nets = members.iter().copied().collect();
    SetDef { name, family, members: Members::Nets(Arc::new(nets)) }
}

fn ended(family: Family, pod: &str) -> String {
    format!("-m connmark --mark {ENDED:#x}/{ENDED:#x} -m set --match-set {} {pod} -j DROP", names::pods(family))
}

/// A new connection towards a Pod goes on to its door. Of what conntrack does not follow, nothing is translated.
fn entry(family: Family) -> Vec<String> {
    let pods = names::pods(family);
    vec![
        ended(family, "dst"),
        ended(family, "src"),
        format!("-m set ! --match-set {pods} dst -j RETURN"),
        "-m conntrack ! --ctstate NEW -j RETURN".to_owned(),
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack ! --ctstate DNAT -j RETURN".to_owned(),
        format!("-m set --match-set {pods} src -g {}", names::ITSELF),
        format!("-g {DOORS}"),
    ]
}

/// Nothing but the two addresses tells who reaches itself, and no set of all kernels holds pairs of them.
fn itself(pods: &BTreeSet<IpAddr>) -> Vec<String> {
    let own = pods.iter().map(|pod| format!("-s {pod} -d {pod} -j RETURN"));
    own.chain([format!("-g {DOORS}")]).collect()
}

/// In the order of the policy model's table `side`.
fn rules(door: &Door, lines: &SideLines) -> Vec<String> {
    let steps: [(&Vec<Line>, &str); 4] = [
        (&lines.essential, "RETURN"),
        (&lines.override_deny, "DROP"),
        (&lines.allow, "RETURN"),
        (&lines.deny, "DROP"),
    ];
    let mut rules: Vec<String> = Vec::new();
    for (lines, target) in steps {
        let matches = lines.iter().flat_map(|line| line.matches(Seen::first(Direction::Inbound), false));
        rules.extend(matches.map(|matching| format!("{matching} -j {target}")));
    }
    if door.state == Enforcement::Full {
        rules.push("-j DROP".to_owned());
    }
    rules
}
