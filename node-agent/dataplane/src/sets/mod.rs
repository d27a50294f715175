//! Address sets of the kernel (ipset): definitions, how one revision's become the next one's, and all of it as text for
//! `ipset restore`, which tests and people read; the agent sends messages instead.
//!
//! Members stay what they are, shared by all who have the same, until they are written: an agent keeps what it has
//! put into each of its Pods, and its Pods mostly know the same peers.

mod save;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::Protocol;

use crate::chains::Place;
use crate::family::Family;
use crate::policy::{End, Nets};
pub use save::parse_save;

/// Prefix of the names of our IPv4 sets.
pub const PREFIX_V4: &str = "RF4-";
/// Prefix of the names of our IPv6 sets.
pub const PREFIX_V6: &str = "RF6-";

/// What the names of the sets of one purpose begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetNames {
    /// Those of IPv4.
    pub v4: &'static str,
    /// Those of IPv6.
    pub v6: &'static str,
}

/// What the names of the sets of a policy begin with.
pub fn names(place: Place) -> SetNames {
    match place {
        Place::Pod => SetNames { v4: PREFIX_V4, v6: PREFIX_V6 },
        Place::Host => SetNames { v4: "RFH4-", v6: "RFH6-" },
    }
}

impl SetNames {
    /// What the names of a family begin with.
    pub fn prefix(&self, family: Family) -> &'static str {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The family of a set, if it is one of these.
    pub fn family(&self, name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| name.starts_with(self.prefix(*family)))
    }
}

/// What the names of the sets of a policy of a family begin with.
pub fn prefix(place: Place, family: Family) -> &'static str {
    names(place).prefix(family)
}

/// The type of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    /// Prefixes.
    HashNet,
    /// Pairs of address and port.
    HashIpPort,
}

impl SetKind {
    /// Both types.
    pub const ALL: [Self; 2] = [Self::HashNet, Self::HashIpPort];

    /// The name that ipset knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HashNet => "hash:net",
            Self::HashIpPort => "hash:ip,port",
        }
    }
}

/// A set with its members. Equal are those that the kernel cannot tell apart.
#[derive(Debug, Clone)]
pub struct SetDef {
    /// Name, at most 31 characters.
    pub name: String,
    /// Family of its addresses.
    pub family: Family,
    /// Members; those that are of another family are not in it.
    pub members: Members,
}

/// The members of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// Prefixes.
    Nets(Arc<Nets>),
    /// Pairs of address and port.
    Ends(Arc<BTreeSet<End>>),
}

/// One member, as `ipset save` writes it: `10.0.0.1`, `10.0.0.0/8`, or `10.0.0.1,tcp:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// A prefix.
    Net(IpNet),
    /// A pair of address and port.
    End(End),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Self::Net(net) => write!(f, "{net}"),
            Self::End(End { address, protocol, port }) => {
                write!(f, "{address},{}:{port}", protocol_name(*protocol).unwrap_or_default())
            }
        }
    }
}

/// The protocols that a pair of address and port can have.
const PROTOCOLS: [(Protocol, &str); 3] = [(Protocol::TCP, "tcp"), (Protocol::UDP, "udp"), (Protocol::SCTP, "sctp")];

/// Whether a pair of address and port of this protocol can be a member: any other is in no set of ours.
pub fn has_ends_of(protocol: Protocol) -> bool {
    protocol_name(protocol).is_some()
}

fn protocol_name(protocol: Protocol) -> Option<&'static str> {
    PROTOCOLS.iter().find(|(own, _)| *own == protocol).map(|(_, name)| *name)
}

impl PartialEq for SetDef {
    fn eq(&self, other: &Self) -> bool {
        let same_set = self.name == other.name && self.family == other.family && self.kind() == other.kind();
        same_set && self.more_than(other).is_empty() && other.more_than(self).is_empty()
    }
}

impl Eq for SetDef {}

impl SetDef {
    /// Its type.
    pub fn kind(&self) -> SetKind {
        match self.members {
            Members::Nets(_) => SetKind::HashNet,
            Members::Ends(_) => SetKind::HashIpPort,
        }
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        match (&self.members, self.family) {
            (Members::Nets(nets), Family::V4) => nets.v4.len(),
            (Members::Nets(nets), Family::V6) => nets.v6.len(),
            (Members::Ends(ends), family) => ends.iter().filter(|end| is_member(end, family)).count(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its members, in order.
    pub fn members(&self) -> Vec<Member> {
        match (&self.members, self.family) {
            (Members::Nets(nets), Family::V4) => nets.v4.iter().map(|net| Member::Net(IpNet::V4(*net))).collect(),
            (Members::Nets(nets), Family::V6) => nets.v6.iter().map(|net| Member::Net(IpNet::V6(*net))).collect(),
            (Members::Ends(ends), family) => {
                ends.iter().filter(|end| is_member(end, family)).copied().map(Member::End).collect()
            }
        }
    }

    /// The members that another set lacks.
    fn more_than(&self, other: &Self) -> Vec<Member> {
        match (&self.members, &other.members) {
            (Members::Nets(own), Members::Nets(other)) if Arc::ptr_eq(own, other) => Vec::new(),
            (Members::Nets(own), Members::Nets(other)) => match self.family {
                Family::V4 => own.v4.difference(&other.v4).map(|net| Member::Net(IpNet::V4(*net))).collect(),
                Family::V6 => own.v6.difference(&other.v6).map(|net| Member::Net(IpNet::V6(*net))).collect(),
            },
            (Members::Ends(own), Members::Ends(other)) => {
                own.difference(other).filter(|end| is_member(end, self.family)).copied().map(Member::End).collect()
            }
            _ => self.members(),
        }
    }
}

fn is_member(end: &End, family: Family) -> bool {
    Family::of(end.address) == family && protocol_name(end.protocol).is_some()
}

/// What changes in one set. Additions come first, so that what is in the set before and after is in it throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetChange {
    /// Name of the set.
    pub set: String,
    /// Type of the set.
    pub kind: SetKind,
    /// Members to add.
    pub add: Vec<Member>,
    /// Members to delete.
    pub del: Vec<Member>,
}

/// `ipset restore` input (with `-exist`) that creates and fills sets. A set that was left behind under the same name
/// is emptied first: nobody may be in a set who was in it once.
pub fn create_text(sets: &[SetDef]) -> String {
    let mut text = String::new();
    for set in sets {
        let SetDef { name, family, .. } = set;
        let kind = set.kind().as_str();
        let family = match family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        // Room for what the largest IP lists need; memory is taken by members only.
        push(&mut text, format_args!("create {name} {kind} family {family} hashsize 64 maxelem 1048576"));
        push(&mut text, format_args!("flush {name}"));
        for member in set.members() {
            push(&mut text, format_args!("add {name} {member}"));
        }
    }
    text
}

/// `ipset restore` input that destroys sets.
pub fn destroy_text<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for name in names {
        push(&mut text, format_args!("destroy {name}"));
    }
    text
}

/// One step of a change: members of one set that come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Members to add.
    Add {
        /// Name of the set.
        set: &'a str,
        /// Who comes.
        members: &'a [Member],
    },
    /// Members to delete.
    Delete {
        /// Name of the set.
        set: &'a str,
        /// Who goes.
        members: &'a [Member],
    },
}

/// The changes in the order in which they are to be made: first everything that is added, then everything that goes.
/// Whoever moves from one set to another is in at least one of them throughout; what leaves, leaves the sets that are
/// asked last first, so that no deny is gone before the allow that it overrides.
pub fn steps(changes: &[SetChange]) -> impl Iterator<Item = Step<'_>> {
    let adds = changes.iter().filter(|change| !change.add.is_empty());
    let dels = changes.iter().rev().filter(|change| !change.del.is_empty());
    let adds = adds.map(|SetChange { set, add, .. }| Step::Add { set, members: add });
    adds.chain(dels.map(|SetChange { set, del, .. }| Step::Delete { set, members: del }))
}

/// `ipset restore` input (with `-exist`) that makes the changes, in the order of [`steps`].
pub fn change_text(changes: &[SetChange]) -> String {
    let mut text = String::new();
    for step in steps(changes) {
        let (verb, set, members) = match step {
            Step::Add { set, members } => ("add", set, members),
            Step::Delete { set, members } => ("del", set, members),
        };
        members.iter().for_each(|member| push(&mut text, format_args!("{verb} {set} {member}")));
    }
    text
}

/// What turns the members of `present` into those of `wanted`, set by set in order; names are those of `present`.
pub fn changes(present: &[SetDef], wanted: &[SetDef]) -> Vec<SetChange> {
    let one = |(old, new): (&SetDef, &SetDef)| SetChange {
        set: old.name.clone(),
        kind: old.kind(),
        add: new.more_than(old),
        del: old.more_than(new),
    };
    let differs = |change: &SetChange| !(change.add.is_empty() && change.del.is_empty());
    present.iter().zip(wanted).map(one).filter(differs).collect()
}

/// The generation in the name of a set of ours.
pub fn generation(name: &str) -> Option<u32> {
    let prefixes = Place::ALL.into_iter().flat_map(|place| Family::ALL.map(|family| prefix(place, family)));
    let rest = prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix))?;
    rest.split('-').next()?.parse().ok()
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
