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
//! For those of Pods of other nodes see [`super::away`].
//!
//! Sets and chains are named after their content ([`super::names`]): a restore writes what is not there yet, in one
//! commit with what leads to it. Whatever passes leaves by RETURN, so that other people's rules still see it.
//!
//! A packet that begins no connection is judged only if the node translates it: anything else the Pod sees as it is.
//!
//! In POSTROUTING nothing can be rejected. So where a rule rejects, what is forwarded to these Pods goes through the same
//! chains in `filter` FORWARD before, where its destination is translated too; there they reject. What comes another way,
//! from the node itself, is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::away::GOING_ON;
use super::judging::{Ending, Judging, default, of_family, rules, set};
use super::names::{self, AWAY, REFUSE, SEALED};
use super::{Door, GatePolicy, away};
use crate::chains::Hook;
use crate::family::Family;
use crate::readback::{Installed, Readback};
use crate::render::ENDED;
use crate::render::lines::{SideLines, at_the_gate};
use crate::sets::SetDef;

/// Where the gate hangs.
const IN_MANGLE: [Hook; 2] = [
    Hook { table: "mangle", chain: "POSTROUTING", target: names::ENTRY },
    Hook { table: "mangle", chain: "PREROUTING", target: END },
];
/// Where it rejects.
const IN_FILTER: [Hook; 1] = [Hook { table: "filter", chain: "FORWARD", target: names::ENTRY }];
const END: &str = "RF-GATE-END";
const DOORS: &str = "RF-GATE-DOORS";

/// A gate as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RenderedGate {
    /// The sets that the rules name.
    pub sets: Vec<SetDef>,
    v4: Tables,
    v6: Tables,
}

/// Chains by name, with their rules (each without `-A CHAIN`).
pub type Chains = BTreeMap<String, Vec<String>>;

/// What a family has in both tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tables {
    filter: Chains,
    mangle: Chains,
}

impl Tables {
    /// Those that reject first: nothing is to be dropped that could have been rejected.
    fn each(&self) -> [(&'static str, &Chains, &'static [Hook]); 2] {
        [("filter", &self.filter, &IN_FILTER), ("mangle", &self.mangle, &IN_MANGLE)]
    }
}

impl RenderedGate {
    /// Renders a gate. Without doors it is nothing.
    pub fn of(gate: &GatePolicy) -> Self {
        Self::without(gate, &BTreeSet::new())
    }

    /// The same where the kernel refuses these chains: to a Pod in Full nothing passes then, and to others everything. Where it
    /// refuses a chain for Pods of other nodes, nothing is sealed.
    pub fn without(gate: &GatePolicy, refused: &BTreeSet<String>) -> Self {
        let (v4, v4_sets) = tables(gate, Family::V4, refused);
        let (v6, v6_sets) = tables(gate, Family::V6, refused);
        Self { sets: v4_sets.into_iter().chain(v6_sets).collect(), v4, v6 }
    }

    /// Whether what is installed is this gate.
    pub fn verify(&self, family: Family, installed: &Installed) -> Readback {
        let wanted = self.family(family);
        let right = wanted.each().iter().all(|(table, chains, hooks)| is_there(installed, table, chains, hooks));
        match right {
            true => Readback::Ok,
            false if installed.is_empty() => Readback::Missing,
            false => Readback::Changed,
        }
    }

    /// `iptables-restore --noflush` input that makes this of what is installed. Empty if nothing is to be done. The sets
    /// have to be there.
    pub fn restore_text(&self, family: Family, installed: &Installed) -> String {
        let tables = self.family(family).each();
        tables.iter().map(|(table, chains, hooks)| restore_text(installed, table, chains, hooks)).collect()
    }

    /// What is installed once [`RenderedGate::restore_text`] was restored.
    pub fn installed(&self, family: Family) -> Installed {
        let tables = self.family(family).each();
        Installed::with(names::CHAIN_PREFIX, tables.map(|(table, chains, hooks)| (table, chains.clone(), hooks)))
    }

    /// Whether it seals what it lets pass to Pods of other nodes, and takes seals from everything else.
    pub fn seals(&self) -> bool {
        [&self.v4, &self.v6].iter().all(|tables| tables.mangle.contains_key(AWAY))
    }

    /// The chains that judge or seal, each by name with restore input that makes it alone: nothing leads to it.
    pub fn judging(&self, family: Family) -> Vec<(String, String)> {
        let of = |(table, chains, _): (&'static str, &Chains, _)| -> Vec<(String, String)> {
            let judges = |name: &str| is_named_by_content(name) || name == SEALED;
            let judging = chains.iter().filter(|(name, rules)| judges(name) && !rules.is_empty());
            // Where a chain rejects, or seals, it leads to the one that does.
            let ends = [REFUSE, SEALED].map(|end| chains.get_key_value(end));
            let with_ends = |chain: (&'_ String, &'_ Vec<String>)| {
                let leads_to = |end: &str| chain.1.iter().any(|rule| rule.ends_with(end));
                let ends = ends.into_iter().flatten().filter(|(name, _)| leads_to(name));
                alone(table, ends.chain([chain]))
            };
            judging.map(|chain| (chain.0.clone(), with_ends(chain))).collect()
        };
        self.family(family).each().into_iter().flat_map(of).collect()
    }

    fn family(&self, family: Family) -> &Tables {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

fn alone<'a>(table: &str, chains: impl Iterator<Item = (&'a String, &'a Vec<String>)> + Clone) -> String {
    let declared: String = chains.clone().map(|(name, _)| format!(":{name} - [0:0]\n")).collect();
    let rules = chains.flat_map(|(name, rules)| rules.iter().map(move |rule| format!("-A {name} {rule}\n")));
    format!("*{table}\n{declared}{}COMMIT\n", rules.collect::<String>())
}

fn is_there(installed: &Installed, table: &str, wanted: &Chains, hooks: &[Hook]) -> bool {
    if wanted.is_empty() {
        return !installed.is_in(table);
    }
    installed.counts(table) == counts(wanted) && installed.is_hooked(hooks)
}

fn restore_text(installed: &Installed, table: &str, wanted: &Chains, hooks: &[Hook]) -> String {
    if is_there(installed, table, wanted, hooks) {
        return String::new();
    }
    let (present, counts) = (installed.counts(table), counts(wanted));
    // What leads to others is written with them: its name does not tell what it holds.
    let written: Vec<_> = wanted
        .iter()
        .filter(|(name, _)| !is_named_by_content(name) || present.get(*name) != counts.get(*name))
        .collect();
    let declared = written.iter().map(|(name, _)| format!(":{name} - [0:0]\n"));
    let rules = written.iter().flat_map(|(name, rules)| rules.iter().map(move |rule| format!("-A {name} {rule}\n")));
    let hooks = installed.hooks_to(table, if wanted.is_empty() { &[] } else { hooks });
    let stale = || present.keys().filter(|name| !wanted.contains_key(*name));
    let flushed = stale().map(|name| format!("-F {name}\n"));
    let deleted = stale().map(|name| format!("-X {name}\n"));
    let lines: String = declared.chain(rules).chain([hooks]).chain(flushed).chain(deleted).collect();
    format!("*{table}\n{lines}COMMIT\n")
}

fn counts(chains: &Chains) -> BTreeMap<String, usize> {
    chains.iter().map(|(name, rules)| (name.clone(), rules.len())).collect()
}

fn is_named_by_content(chain: &str) -> bool {
    ![names::ENTRY, names::ITSELF, DOORS, END, REFUSE, AWAY, SEALED].contains(&chain)
}

fn tables(gate: &GatePolicy, family: Family, refused: &BTreeSet<String>) -> (Tables, Vec<SetDef>) {
    let sealing = gate.away.as_ref().filter(|_| !refused.contains(SEALED));
    let away: Vec<&Door> = sealing.into_iter().flatten().collect();
    let sides = gate.doors.iter().chain(away.iter().copied()).map(|door| &door.inbound);
    let (lines, mut sets) = at_the_gate(sides, family);
    let (here, there) = lines.split_at(gate.doors.len());
    let behind = |door: &Door| of_family(&door.pods, family).next().is_some();
    let doors: Vec<_> = gate.doors.iter().zip(here).filter(|(door, _)| behind(door)).collect();
    let rejecting: Vec<_> = doors.iter().copied().filter(|(_, lines)| rejects(lines)).collect();
    let everybody =
        Group { doors: &doors, all: names::pods(family), ending: Ending::Drop { seals: sealing.is_some() } };
    let rejected = Group { doors: &rejecting, all: names::rejecting(family), ending: Ending::Reject };
    let mut mangle = local(&everybody, family, refused, &mut sets);
    let mut filter = local(&rejected, family, refused, &mut sets);
    let mut pods: Vec<String> = if mangle.is_empty() { Vec::new() } else { vec![everybody.all] };
    let elsewhere = if sealing.is_some() { format!("-g {}", AWAY) } else { "-j RETURN".to_owned() };
    let mut enter = entry(pods.first(), &elsewhere);
    // Behind what leaves for elsewhere, before what begins nothing leaves.
    enter.splice(1..1, datagrams(&mangle, family));
    if sealing.is_some() {
        let there: Vec<_> = away.into_iter().zip(there).collect();
        mangle.extend(away::chains(&there, family, refused, &mut sets));
        pods.push(names::away(family));
    }
    enter.splice(0..0, pods.iter().flat_map(|pods| [ended(pods, "dst"), ended(pods, "src")]));
    finish(&mut mangle, [(names::ENTRY, enter), (END, pods.iter().map(|pods| ended(pods, "src")).collect())]);
    let reject = |what: &str, with: &str| format!("{what}-j REJECT --reject-with {with}");
    let refuse = vec![reject("-p tcp ", "tcp-reset"), reject("", family.reject_with())];
    let mut enter = entry(Some(&rejected.all), "-j RETURN");
    enter.splice(0..0, [ended(&rejected.all, "dst"), ended(&rejected.all, "src")]);
    finish(&mut filter, [(names::ENTRY, enter), (REFUSE, refuse)]);
    let nothing = mangle.is_empty();
    (Tables { mangle, filter }, if nothing { Vec::new() } else { sets })
}

/// Puts chains with names of their own to others, and the one that tells what all of these hold.
fn finish(chains: &mut Chains, others: [(&str, Vec<String>); 2]) {
    if chains.is_empty() {
        return;
    }
    chains.extend(others.map(|(name, rules)| (name.to_owned(), rules)));
    let named = chains.iter().filter(|(name, _)| !is_named_by_content(name));
    let text: Vec<String> = named.flat_map(|(_, rules)| rules).cloned().collect();
    chains.insert(names::fingerprint(&text.join("\n")), Vec::new());
}

/// Doors that one table has.
struct Group<'a> {
    doors: &'a [(&'a Door, &'a SideLines)],
    /// The name of the set with all Pods behind them.
    all: String,
    ending: Ending,
}

fn rejects(lines: &SideLines) -> bool {
    lines.override_deny.iter().chain(&lines.deny).any(|line| line.reject)
}

/// The chains of one table for Pods of this node, with the sets that say who is behind which door.
fn local(group: &Group<'_>, family: Family, refused: &BTreeSet<String>, sets: &mut Vec<SetDef>) -> Chains {
    let judging = Judging::of(group.doors, family, |door, lines| {
        let ending = match group.ending {
            Ending::Drop { seals } => Ending::Drop { seals: seals && door.looks_for_seals() },
            other => other,
        };
        let rules = rules(door, lines, ending);
        match refused.contains(&names::of_rules(&rules)) {
            false => Some(rules),
            // What cannot reject is dropped by the other table.
            true if group.ending == Ending::Reject => None,
            true => Some(default(door)),
        }
    });
    if judging.is_empty() {
        return Chains::new();
    }
    let everybody = judging.pods();
    sets.push(set(family, group.all.clone(), &everybody));
    let mut leading = judging.lead(family, names::judged_by, sets);
    // Nobody is in the set of all and in no other; if so, then by somebody else's doing.
    leading.push("-j DROP".to_owned());
    let mut chains = Chains::from([(DOORS.to_owned(), leading), (names::ITSELF.to_owned(), itself(&everybody))]);
    chains.extend(judging.into_chains());
    chains
}

fn ended(pods: &str, pod: &str) -> String {
    format!("-m connmark --mark {ENDED:#x}/{ENDED:#x} -m set --match-set {pods} {pod} -j DROP")
}

/// A new connection towards a Pod goes on to its door, and what goes elsewhere does so. Of what conntrack does not follow, nothing
/// is translated.
fn entry(pods: Option<&String>, elsewhere: &str) -> Vec<String> {
    let Some(pods) = pods else { return vec![elsewhere.to_owned()] };
    vec![
        format!("-m set ! --match-set {pods} dst {elsewhere}"),
        "-m conntrack ! --ctstate NEW -j RETURN".to_owned(),
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack ! --ctstate DNAT -j RETURN".to_owned(),
        format!("-m set --match-set {pods} src -g {}", names::ITSELF),
        format!("-g {DOORS}"),
    ]
}

/// Of a connection of datagrams that a node translates for Pods that look for seals, those that it goes on with are sealed as well: the Pod's
/// network namespace may not have followed it yet. Rules that do not let it pass end it.
fn datagrams(judging: &Chains, family: Family) -> Vec<String> {
    let seal = format!("-g {SEALED}");
    let sealing = judging.iter().filter(|(_, rules)| rules.iter().any(|rule| rule.ends_with(&seal)));
    let rule = |chain: &String| {
        let pods = names::judged_by(family, chain);
        format!("{GOING_ON} -m conntrack --ctstate DNAT -m set --match-set {pods} dst {seal}")
    };
    sealing.map(|(chain, _)| rule(chain)).collect()
}

/// Nothing but the two addresses tells who reaches itself, and no set of all kernels holds pairs of them.
fn itself(pods: &BTreeSet<IpAddr>) -> Vec<String> {
    let own = pods.iter().map(|pod| format!("-s {pod} -d {pod} -j RETURN"));
    own.chain([format!("-g {DOORS}")]).collect()
}
