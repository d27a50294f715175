//! What the gate does for Pods of other nodes: it judges what is to go on to them, and seals what passes.
//!
//! | chain | holds |
//! | --- | --- |
//! | `RF-GATE-AWAY` | the seal is taken from everything; what this node translates for exposed Pods, or begins itself, is judged |
//! | `RF-GATE-SEAL` | the seal |
//! | `RF-GATE-<digest>` | the inbound rules of these Pods, as for those of this node; what passes is sealed |
//!
//! What no rule lets pass goes on without a seal: the Pod blocks it in Full, and nobody else's traffic depends on what this node
//! knows. (Nor in Selective, where a Deny of nodes then hits it at the Pod: a seal that says no more than that nothing was denied
//! would open a Pod that is in Full by now, where this node has not been told.)
//!
//! Only what a rule denies is dropped here, since in Selective nobody else would; not where its Pod blocks nothing.
//!
//! Of a connection of datagrams every packet is sealed, since the Pod's network namespace may have forgotten it, or not have followed it
//! yet. Of TCP those that begin one are enough.

use std::collections::BTreeSet;

use super::judging::{Ending, Judging, rules, set};
use super::names::{self, AWAY, SEALED};
use super::render::Chains;
use super::{Door, SEAL};
use crate::family::Family;
use crate::render::lines::SideLines;
use crate::sets::SetDef;

/// A datagram of a connection that goes on, from who began it.
pub const GOING_ON: &str = "! -p tcp -m conntrack --ctstate ESTABLISHED --ctdir ORIGINAL";

/// The chains for these doors without those that the kernel refuses, and the sets that say who is behind which.
pub fn chains(
    doors: &[(&Door, &SideLines)],
    family: Family,
    refused: &BTreeSet<String>,
    sets: &mut Vec<SetDef>,
) -> Chains {
    let judging = Judging::of(doors, family, |door, lines| {
        let rules = rules(door, lines, Ending::Seal);
        // For whom nobody judges, nothing is sealed.
        (!refused.contains(&names::of_rules(&rules))).then_some(rules)
    });
    let all = names::away(family);
    sets.push(set(family, all.clone(), &judging.pods()));
    let leading = judging.lead(family, names::judged_away, sets);
    let mut away = vec![
        format!("-m dscp --dscp {SEAL} -j DSCP --set-dscp 0x00"),
        format!("-m set ! --match-set {all} dst -j RETURN"),
        // The Pod sees who anybody else is.
        "-m conntrack ! --ctstate DNAT -m addrtype ! --src-type LOCAL -j RETURN".to_owned(),
        format!("{GOING_ON} -g {SEALED}"),
        "-m conntrack ! --ctstate NEW -j RETURN".to_owned(),
    ];
    away.extend(leading);
    // Sealing takes a match and a target, either of which a kernel may lack: the chain with the seal tells of both.
    let mut chains = Chains::from([
        (AWAY.to_owned(), away),
        (SEALED.to_owned(), vec![format!("-m dscp ! --dscp {SEAL} -j DSCP --set-dscp {SEAL}")]),
    ]);
    chains.extend(judging.into_chains());
    chains
}
