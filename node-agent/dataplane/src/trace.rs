//! A small fake kernel: loads restore text and sets, and walks a packet through them. It knows only what we emit, and
//! refuses everything else by a panic: unknown matches, chains and sets that are not there, names that are too long.
//!
//! It is for tests, those of other crates among them (feature `trace`).

mod words;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use ringfence_model::{Direction, Protocol};

use crate::chains::Place;
use crate::family::Family;
use crate::gate::{self, RenderedGate, SEAL};
use crate::judge::Packet;
use crate::readback::Installed;
use crate::render::Rendered;
use crate::sets::{SetDef, SetKind};
use words::{comment_of, icmp_is, in_range, masked, net, protocol_named};

/// A packet with what the kernel knows about it.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// The packet.
    pub packet: Packet,
    /// Where it comes from or goes to: `eth0`, or `lo` for what never leaves the Pod.
    pub interface: &'static str,
    /// NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED.
    pub state: &'static str,
    /// A TCP packet that opens a connection.
    pub syn: bool,
    /// The mark of its connection.
    pub connmark: u32,
    /// Its destination was translated.
    pub translated: bool,
    /// It comes from an address of the network namespace itself.
    pub local: bool,
    /// Its codepoint is that of a gate's seal.
    pub sealed: bool,
    /// A rule of somebody else, after ours in mangle, overwrites the mark of the packet, as Istio's TPROXY does.
    pub overwritten: bool,
}

impl Probe {
    /// The first packet of a connection.
    pub fn new(packet: Packet) -> Self {
        Self {
            packet,
            interface: "eth0",
            state: "NEW",
            syn: true,
            connmark: 0,
            translated: false,
            local: false,
            sealed: false,
            overwritten: false,
        }
    }

    fn is_tracked(&self) -> bool {
        !["INVALID", "UNTRACKED"].contains(&self.state)
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It passed.
    Passed,
    /// It passed, and was counted as what a stricter state would block.
    WouldBlock,
    /// It is gone, and nobody is told.
    Dropped,
    /// It is gone, and the sender is told.
    Rejected,
}

/// A packet's way through the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// What became of it.
    pub fate: Fate,
    /// The comment, without `rf:`, of the rule of a policy that hit: `ruleset/rule` or `essential:reason`. None if no
    /// rule did.
    pub rule: Option<String>,
    /// How many rules it was held against, until one decided.
    pub looked_at: usize,
}

/// Tables, chains and sets.
pub struct Kernel {
    tables: BTreeMap<String, BTreeMap<String, Vec<Vec<String>>>>,
    sets: BTreeMap<String, Members>,
}

/// The members of a set.
enum Members {
    Nets(Vec<IpNet>),
    /// As they are written.
    Ends(BTreeSet<String>),
}

enum Verdict {
    Continue,
    Drop,
    Reject,
}

/// A packet's walk: what it has picked up on the way.
struct Walk {
    mark: u32,
    connmark: u32,
    sealed: bool,
    would: bool,
    rule: Option<String>,
    looked_at: usize,
}

impl Walk {
    fn of(probe: &Probe) -> Self {
        let Probe { connmark, sealed, .. } = *probe;
        Self { mark: 0, connmark, sealed, would: false, rule: None, looked_at: 0 }
    }
}

impl Kernel {
    /// A kernel that nothing was in before.
    pub fn load(rendered: &Rendered, family: Family) -> Self {
        Self::with(&rendered.sets, &rendered.restore_text(family, &Installed::default()))
    }

    /// A kernel that holds a gate.
    pub fn load_gate(gate: &RenderedGate, family: Family) -> Self {
        Self::with(&gate.sets, &gate.restore_text(family, &Installed::parse_of(gate::names::CHAIN_PREFIX, "")))
    }

    fn with(sets: &[SetDef], text: &str) -> Self {
        let mut kernel = Self { tables: BTreeMap::new(), sets: BTreeMap::new() };
        for set in sets {
            assert!(set.name.len() <= 31, "{} is too long", set.name);
            // As the kernel does, of what it is told.
            let texts = set.members().into_iter().map(|member| member.to_string());
            let members = match set.kind() {
                SetKind::HashNet => Members::Nets(texts.map(|member| net(&member)).collect()),
                SetKind::HashIpPort => Members::Ends(texts.collect()),
            };
            assert!(kernel.sets.insert(set.name.clone(), members).is_none(), "{} is there twice", set.name);
        }
        kernel.restore(text);
        kernel
    }

    fn restore(&mut self, text: &str) {
        let mut table = String::new();
        for line in text.lines() {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
                let base = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]
                    .map(|name| (name.to_owned(), Vec::new()));
                self.tables.entry(table.clone()).or_insert_with(|| BTreeMap::from(base));
                continue;
            }
            let chains = self.tables.get_mut(&table).expect("a table comes first");
            match words[0].as_str() {
                "COMMIT" => {}
                "-A" => chains.get_mut(&words[1]).expect("the chain is declared").push(words[2..].to_vec()),
                "-I" => chains.get_mut(&words[1]).expect("the chain is there").insert(0, words[3..].to_vec()),
                name => {
                    let name = name.strip_prefix(':').expect("a declaration");
                    assert!(name.len() <= 28, "{name} is too long");
                    chains.insert(name.to_owned(), Vec::new());
                }
            }
        }
        self.check_targets();
    }

    fn check_targets(&self) {
        for chains in self.tables.values() {
            for rule in chains.values().flatten() {
                for pair in rule.windows(2).filter(|pair| pair[0] == "-j" || pair[0] == "-g") {
                    let builtin =
                        ["RETURN", "DROP", "MARK", "CONNMARK", "DSCP", "REJECT", "NFLOG"].contains(&pair[1].as_str());
                    assert!(builtin || chains.contains_key(&pair[1]), "{rule:?} leads nowhere");
                }
            }
        }
    }

    /// What becomes of a packet.
    pub fn fate(&self, probe: &Probe) -> Fate {
        self.trace(probe).fate
    }

    /// Walks a packet through mangle and filter, as the network namespace does.
    pub fn trace(&self, probe: &Probe) -> Trace {
        let chains: &[_] = match probe.packet.direction {
            Direction::Inbound => &[("mangle", "PREROUTING"), ("mangle", "INPUT"), ("filter", "INPUT")],
            Direction::Outbound => &[("mangle", "OUTPUT"), ("filter", "OUTPUT")],
        };
        let mut walk = Walk::of(probe);
        let fate = self.walk_tables(chains, probe, &mut walk);
        Trace { fate, rule: walk.rule, looked_at: walk.looked_at }
    }

    /// Walks a packet through the gate of its node.
    pub fn gate_fate(&self, probe: &Probe) -> Fate {
        self.gate_seal(probe).0
    }

    /// The same, and whether it leaves the node sealed.
    pub fn gate_seal(&self, probe: &Probe) -> (Fate, bool) {
        let mut walk = Walk::of(probe);
        let forwarded = if probe.local { ("filter", "OUTPUT") } else { ("filter", "FORWARD") };
        let chains = [("mangle", "PREROUTING"), forwarded, ("mangle", "POSTROUTING")];
        (self.walk_tables(&chains, probe, &mut walk), walk.sealed)
    }

    fn walk_tables(&self, chains: &[(&str, &str)], probe: &Probe, walk: &mut Walk) -> Fate {
        for (table, chain) in chains {
            let Some(chains) = self.tables.get(*table) else { continue };
            if *table == "filter" && probe.overwritten {
                walk.mark = 0x539;
            }
            match self.walk(chains, chain, probe, walk) {
                Verdict::Continue => {}
                Verdict::Drop => return Fate::Dropped,
                Verdict::Reject => return Fate::Rejected,
            }
        }
        if walk.would { Fate::WouldBlock } else { Fate::Passed }
    }

    fn walk(
        &self,
        chains: &BTreeMap<String, Vec<Vec<String>>>,
        chain: &str,
        probe: &Probe,
        walk: &mut Walk,
    ) -> Verdict {
        walk.would |= Place::ALL.iter().any(|place| chain == place.names().would);
        for rule in &chains[chain] {
            walk.looked_at += 1;
            let Some(target) = self.matches(rule, probe, walk) else { continue };
            if target.starts_with(&["-j", "NFLOG"]) {
                // A copy of it, which decides nothing.
                continue;
            }
            if let Some(comment) = comment_of(rule) {
                walk.rule = Some(comment.to_owned());
            }
            match target.as_slice() {
                ["-j", "RETURN"] => return Verdict::Continue,
                ["-j", "DROP"] => return Verdict::Drop,
                ["-j", "REJECT", "--reject-with", with] => {
                    let tcp = probe.packet.protocol == Protocol::TCP;
                    assert_eq!(*with == "tcp-reset", tcp, "{rule:?}");
                    return Verdict::Reject;
                }
                ["-j", "DSCP", "--set-dscp", codepoint] => walk.sealed = *codepoint == SEAL,
                ["-j", "MARK", "--set-xmark", mark] => {
                    let (value, mask) = masked(mark);
                    walk.mark = (walk.mark & !mask) ^ value;
                }
                // Of a packet without a connection nobody looks at it.
                ["-j", "CONNMARK", "--set-xmark", mark] => {
                    let (value, mask) = masked(mark);
                    walk.connmark = (walk.connmark & !mask) ^ value;
                }
                // A goto does not come back here.
                ["-g", next] => return self.walk(chains, next, probe, walk),
                ["-j", next] => match self.walk(chains, next, probe, walk) {
                    Verdict::Continue => {}
                    verdict => return verdict,
                },
                other => panic!("unknown target {other:?}"),
            }
        }
        Verdict::Continue
    }

    /// The target of a rule, if its matches hold.
    fn matches<'r>(&self, rule: &'r [String], probe: &Probe, walk: &Walk) -> Option<Vec<&'r str>> {
        let words: Vec<&str> = rule.iter().map(String::as_str).collect();
        let mut rest = &words[..];
        let mut module = "";
        loop {
            let negated = rest.first() == Some(&"!");
            let body = if negated { &rest[1..] } else { rest };
            let (holds, used) = match body {
                ["-j" | "-g", ..] => return Some(body.to_vec()),
                ["-m", name, ..] => {
                    module = name;
                    (!negated, 2)
                }
                ["--mark", mark, ..] => (marked(module, mark, probe, walk), 2),
                ["--dscp", SEAL, ..] => (walk.sealed, 2),
                [option, ..] => self.option(option, &body[1..], probe),
                [] => panic!("{rule:?} has no target"),
            };
            if holds == negated {
                return None;
            }
            rest = &body[used..];
        }
    }

    /// Whether an option holds, and how many words it takes.
    fn option(&self, option: &str, args: &[&str], probe: &Probe) -> (bool, usize) {
        let Packet { protocol, src, dst, sport, dport, icmp, .. } = probe.packet;
        match (option, args) {
            ("-i" | "-o", [name, ..]) => (*name == probe.interface, 2),
            ("-p", [name, ..]) => (protocol_named(name) == protocol, 2),
            ("--comment", [_, ..]) => (true, 2),
            ("--dport", [range, ..]) => (in_range(range, dport), 2),
            ("--sport", [range, ..]) => (in_range(range, sport), 2),
            ("--dports", [ranges, ..]) => (ranges.split(',').any(|range| in_range(range, dport)), 2),
            ("--sports", [ranges, ..]) => (ranges.split(',').any(|range| in_range(range, sport)), 2),
            ("--icmp-type", [text, ..]) => (icmp_is(text, icmp), 2),
            ("--tcp-flags", ["FIN,SYN,RST,ACK", "SYN", ..]) => (probe.syn, 3),
            ("--ctstate", ["DNAT", ..]) => (probe.translated, 2),
            ("--ctstate", [list, ..]) => (list.split(',').any(|state| state == probe.state), 2),
            ("--src-type", ["LOCAL", ..]) => (probe.local, 2),
            ("-s", [address, ..]) => (src.to_string() == **address, 2),
            ("-d", [address, ..]) => (dst.to_string() == **address, 2),
            ("--ctdir", ["REPLY" | "ORIGINAL", ..]) => (true, 2),
            ("--ctorigsrc", [address, ..]) => (src.to_string() == **address, 2),
            ("--match-set", [name, dirs, ..]) => (self.in_set(name, dirs, &probe.packet), 3),
            ("--icmpv6-type", [text, ..]) => (icmp_is(text, icmp), 2),
            _ => panic!("unknown match {option} {args:?}"),
        }
    }

    fn in_set(&self, name: &str, dirs: &str, packet: &Packet) -> bool {
        let members = self.sets.get(name).unwrap_or_else(|| panic!("set {name} is not there"));
        let address = |dir: &str| if dir == "src" { packet.src } else { packet.dst };
        let port = |dir: &str| if dir == "src" { packet.sport } else { packet.dport };
        match (members, dirs.split(',').collect::<Vec<_>>().as_slice()) {
            (Members::Nets(nets), [dir]) => nets.iter().any(|net| net.contains(&address(dir))),
            (Members::Ends(ends), [first, second]) => {
                let protocol = packet.protocol.to_string().to_lowercase();
                ends.contains(&format!("{},{protocol}:{}", address(first), port(second)))
            }
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
}

/// Whether the mark of the packet, or of its connection if it has one, is this.
fn marked(module: &str, mark: &str, probe: &Probe, walk: &Walk) -> bool {
    let (value, mask) = masked(mark);
    match module {
        "mark" => walk.mark & mask == value,
        "connmark" => probe.is_tracked() && walk.connmark & mask == value,
        other => panic!("--mark of {other}"),
    }
}
