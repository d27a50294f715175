//! The chains of one direction, in the order of the policy model's table `side`.

use ringfence_model::{DISCOVERY, Direction};

use super::lines::{Line, Lines, Seen, SideLines};
use super::{ANSWERS, Chain, ENDED, MARKS, REJECT};
use crate::chains::{Names, Place};
use crate::family::Family;
use crate::policy::{Enforcement, NetnsPolicy};
use crate::sets::SetDef;

/// What a family puts into table mangle, with the sets it names.
pub struct Chains {
    pub sets: Vec<SetDef>,
    pub chains: Vec<Chain>,
}

/// What becomes of a packet that an entry hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Pass,
    Block { reject: bool },
}

/// The rules of both directions and the chains they lead to.
pub fn chains(policy: &NetnsPolicy, family: Family, generation: u32) -> Chains {
    let lines = Lines::new(policy, family, generation);
    let names = policy.place.names();
    let mut chains = Vec::new();
    for (name, old, direction) in
        [(names.input, names.input_old, Direction::Inbound), (names.output, names.output_old, Direction::Outbound)]
    {
        // A node learns no names.
        let learns = policy.place == Place::Pod && direction == Direction::Inbound;
        let answers = lines.resolvers().filter(|_| learns);
        let mut rules = head(policy, family, answers);
        let let_go = [local(direction), format!("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -g {old}")];
        rules.extend(steps(policy, &lines, &[Seen::first(direction)], &let_go));
        chains.push(Chain::new(name, rules));
        let both = [Seen::first(direction), Seen::backwards(direction)];
        chains.push(Chain::new(old, steps(policy, &lines, &both, &[])));
    }
    chains.push(Chain::new(names.drop, ["-j DROP".to_owned()]));
    chains.extend(last(policy, names));
    Chains { sets: lines.into_sets(), chains }
}

/// Where a packet that passes leaves our chains. Of a node they touch no mark: those of its packets and connections are
/// those of its network plugin.
fn last(policy: &NetnsPolicy, names: &Names) -> Vec<Chain> {
    match policy.place {
        Place::Pod => vec![
            Chain::new("RF-MARK", mark_to_reject()),
            Chain::new(names.pass, passing(policy.state)),
            Chain::new(names.would, passing(policy.state)),
        ],
        Place::Host => vec![Chain::new(names.pass, []), Chain::new(names.would, [])],
    }
}

/// What does not pass although the rules let it: packets of ended flows, and in Full what conntrack calls invalid. Nearly every
/// packet leaves at the first rule, since its connection has no bit of ours; looked at here, before the rules it need not be.
fn passing(state: Enforcement) -> Vec<String> {
    let ended = format!("-m connmark --mark {ENDED:#x}/{ENDED:#x} -j DROP");
    let mut rules = vec![format!("-m connmark --mark 0x0/{:#x} -j RETURN", ENDED | REJECT)];
    match state {
        Enforcement::VisibilityOnly => {}
        Enforcement::Selective => rules.push(ended),
        // Conntrack may call invalid what never leaves the Pod, which no policy looks at.
        Enforcement::Full => {
            rules.extend(["! -i lo ! -o lo -m conntrack --ctstate INVALID -j DROP".to_owned(), ended]);
        }
    }
    rules.push(take_back_mark());
    rules
}

/// Marks a packet, and its connection as well: rules of others that come after ours may overwrite the mark of a packet,
/// as a sidecar's TPROXY does. Where conntrack knows no connection the packet's mark would be alone, so it is dropped.
fn mark_to_reject() -> [String; 3] {
    [
        "-m conntrack ! --ctstate NEW -j DROP".to_owned(),
        format!("-j MARK --set-xmark {REJECT:#x}/{REJECT:#x}"),
        format!("-j CONNMARK --set-xmark {REJECT:#x}/{REJECT:#x}"),
    ]
}

/// A connection that nobody has answered, such as one of datagrams, outlives its rejection and carries the bit until a
/// packet of it passes.
fn take_back_mark() -> String {
    format!("-j CONNMARK --set-xmark 0x0/{REJECT:#x}")
}

/// Chains that let nothing pass but what never leaves the Pod, and discovery.
pub fn closed(family: Family) -> Vec<Chain> {
    let chain = |name, direction| {
        let drop = "-j DROP".to_owned();
        Chain::new(name, [local(direction)].into_iter().chain(discovery(family)).chain([drop]))
    };
    vec![chain("RF-IN", Direction::Inbound), chain("RF-OUT", Direction::Outbound)]
}

/// What never leaves the Pod.
fn local(direction: Direction) -> String {
    let option = match direction {
        Direction::Inbound => "-i",
        Direction::Outbound => "-o",
    };
    format!("{option} lo -j RETURN")
}

/// Conntrack does not follow it, and no policy touches it: without it an interface has no IPv6.
fn discovery(family: Family) -> Vec<String> {
    let words = family.icmp_words();
    let rule = |kind: &u8| format!("-p {} -m {} {} {kind} -j RETURN", words.protocol, words.module, words.option);
    match family {
        Family::V4 => Vec::new(),
        Family::V6 => DISCOVERY.iter().map(rule).collect(),
    }
}

/// Copies what resolvers answer: of questions that the Pod itself has asked, so that nobody teaches it anything unasked, nor does
/// it itself.
///
/// Of a stream of TCP a segment does not say where a message begins, so that whoever has text in an answer could have it taken
/// for one of its own.
fn copy_answers(resolvers: &str, unless: &str) -> String {
    format!(
        "! -i lo -p udp -m udp --sport 53 -m conntrack --ctstate ESTABLISHED --ctdir REPLY {unless}-m set --match-set {resolvers} src \
         -m comment --comment \"rf:names\" -j NFLOG --nflog-group {ANSWERS} --nflog-threshold 1"
    )
}

/// Who takes the DNS of a node out of conntrack, as node-local caches do, does so on purpose, and answers are then not known by
/// their questions.
fn untracked_names() -> [String; 4] {
    let rule = |protocol: &str, port: &str| {
        format!("-p {protocol} -m {protocol} --{port} 53 -m conntrack --ctstate UNTRACKED -j RETURN")
    };
    [rule("udp", "dport"), rule("udp", "sport"), rule("tcp", "dport"), rule("tcp", "sport")]
}

/// What comes before every rule. `answers`: the set with the resolvers whose answers are to be copied.
fn head(policy: &NetnsPolicy, family: Family, answers: Option<&str>) -> Vec<String> {
    let ends = policy.state != Enforcement::VisibilityOnly && policy.place == Place::Pod;
    let unless_ended = if ends { format!("-m connmark ! --mark {ENDED:#x}/{ENDED:#x} ") } else { String::new() };
    let going_on = format!("-m conntrack --ctstate RELATED,ESTABLISHED {unless_ended}-j RETURN");
    let mut rules: Vec<String> = answers.map(|answers| copy_answers(answers, &unless_ended)).into_iter().collect();
    // What nearly all packets are leaves here.
    rules.push(going_on);
    rules.extend(discovery(family));
    // A node's own connections may be older than conntrack, whose settings are not ours: they are judged like others.
    if policy.place == Place::Host {
        rules.extend(untracked_names());
    }
    rules
}

/// Essential, OverrideDeny, Allow, Deny, default; within each step, every orientation that the packet may have. `let_go`: rules that
/// come before the first one that blocks. What an Allow hits need not come by them: where nothing overrides, it passes whatever else it is.
fn steps(policy: &NetnsPolicy, lines: &Lines, orientations: &[Seen], let_go: &[String]) -> Vec<String> {
    let order: [(fn(&SideLines) -> &Vec<Line>, bool); 4] = [
        (|side| &side.essential, false),
        (|side| &side.override_deny, true),
        (|side| &side.allow, false),
        (|side| &side.deny, true),
    ];
    // Of either direction: nobody knows in which one an older flow began.
    let overridden =
        [Direction::Inbound, Direction::Outbound].into_iter().any(|side| !lines.side(side).override_deny.is_empty());
    let first_to_block = if overridden { 1 } else { 3 };
    let mut rules = Vec::new();
    for (step, (pick, blocks)) in order.into_iter().enumerate() {
        if step == first_to_block {
            rules.extend_from_slice(let_go);
        }
        for seen in orientations {
            for line in pick(lines.side(seen.rules_of)) {
                let effect = if blocks { Effect::Block { reject: line.reject } } else { Effect::Pass };
                let matches = line.matches(*seen, orientations.len() > 1);
                rules.extend(matches.into_iter().map(|matching| format!("{matching} {}", target(policy, effect))));
            }
        }
    }
    let names = policy.place.names();
    let default = match policy.state {
        Enforcement::Full => names.drop,
        Enforcement::Selective | Enforcement::VisibilityOnly => names.would,
    };
    rules.push(format!("-g {default}"));
    rules
}

fn target(policy: &NetnsPolicy, effect: Effect) -> String {
    let names = policy.place.names();
    match (effect, policy.state) {
        (Effect::Pass, _) => format!("-g {}", names.pass),
        (Effect::Block { .. }, Enforcement::VisibilityOnly) => format!("-g {}", names.would),
        // A node marks nothing, and so cannot reject.
        (Effect::Block { reject: true }, _) if policy.place == Place::Pod => MARKS.to_owned(),
        (Effect::Block { .. }, _) => format!("-g {}", names.drop),
    }
}
