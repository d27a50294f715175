//! Address sets of the kernel (ipset): definitions, and the text for `ipset restore`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::family::Family;

/// Prefix of the names of our IPv4 sets.
pub const PREFIX_V4: &str = "RF4-";
/// Prefix of the names of our IPv6 sets.
pub const PREFIX_V6: &str = "RF6-";

/// What the names of our sets of a family begin with.
pub fn prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => PREFIX_V4,
        Family::V6 => PREFIX_V6,
    }
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
    const ALL: [Self; 2] = [Self::HashNet, Self::HashIpPort];

    /// The name that ipset knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HashNet => "hash:net",
            Self::HashIpPort => "hash:ip,port",
        }
    }
}

/// A set with its members, each written as `ipset save` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetDef {
    /// Name, at most 31 characters.
    pub name: String,
    /// Family of its addresses.
    pub family: Family,
    /// Type.
    pub kind: SetKind,
    /// Members: `10.0.0.1`, `10.0.0.0/8`, or `10.0.0.1,tcp:80`.
    pub members: BTreeSet<String>,
}

/// What changes in one set. Additions come first, so that what is in the set before and after is in it throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetChange {
    /// Name of the set.
    pub set: String,
    /// Type of the set.
    pub kind: SetKind,
    /// Members to add.
    pub add: Vec<String>,
    /// Members to delete.
    pub del: Vec<String>,
}

/// `ipset restore` input (with `-exist`) that creates and fills sets. A set that was left behind under the same name
/// is emptied first: nobody may be in a set who was in it once.
pub fn create_text(sets: &[SetDef]) -> String {
    let mut text = String::new();
    for set in sets {
        let SetDef { name, family, kind, members } = set;
        let kind = kind.as_str();
        let family = match family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        // Room for what the largest IP lists need; memory is taken by members only.
        push(&mut text, format_args!("create {name} {kind} family {family} hashsize 64 maxelem 1048576"));
        push(&mut text, format_args!("flush {name}"));
        for member in members {
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

/// `ipset restore` input (with `-exist`) that makes the changes: first everything that is added, then everything that
/// goes. Whoever moves from one set to another is in at least one of them throughout; what leaves, leaves the sets that
/// are asked last first, so that no deny is gone before the allow that it overrides.
pub fn change_text(changes: &[SetChange]) -> String {
    let mut text = String::new();
    for SetChange { set, add, .. } in changes {
        add.iter().for_each(|member| push(&mut text, format_args!("add {set} {member}")));
    }
    for SetChange { set, del, .. } in changes.iter().rev() {
        del.iter().for_each(|member| push(&mut text, format_args!("del {set} {member}")));
    }
    text
}

/// What turns the members of `present` into those of `wanted`, set by set in order; names are those of `present`.
pub fn changes(present: &[SetDef], wanted: &[SetDef]) -> Vec<SetChange> {
    let one = |(old, new): (&SetDef, &SetDef)| SetChange {
        set: old.name.clone(),
        kind: old.kind,
        add: new.members.difference(&old.members).cloned().collect(),
        del: old.members.difference(&new.members).cloned().collect(),
    };
    let differs = |change: &SetChange| !(change.add.is_empty() && change.del.is_empty());
    present.iter().zip(wanted).map(one).filter(differs).collect()
}

/// Our sets as `ipset save` prints them, sorted by name. Left out are sets of others, and any that has our prefix and a
/// type that we do not use.
pub fn parse_save(text: &str) -> Vec<SetDef> {
    let mut sets: BTreeMap<String, SetDef> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(verb), Some(name), Some(what)) = (words.next(), words.next(), words.next()) else { continue };
        let Some(family) = Family::ALL.into_iter().find(|family| name.starts_with(prefix(*family))) else { continue };
        match verb {
            "create" => {
                let Some(kind) = SetKind::ALL.into_iter().find(|kind| kind.as_str() == what) else { continue };
                let def = SetDef { name: name.to_owned(), family, kind, members: BTreeSet::new() };
                sets.insert(name.to_owned(), def);
            }
            "add" => {
                if let Some(set) = sets.get_mut(name) {
                    let member = if set.family == Family::V6 { canonical(what) } else { what.to_owned() };
                    set.members.insert(member);
                }
            }
            _ => {}
        }
    }
    sets.into_values().collect()
}

/// The generation in the name of a set of ours.
pub fn generation(name: &str) -> Option<u32> {
    let rest = Family::ALL.into_iter().find_map(|family| name.strip_prefix(prefix(family)))?;
    rest.split('-').next()?.parse().ok()
}

/// Whether a set of this name is ours.
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX_V4) || name.starts_with(PREFIX_V6)
}

/// A member as we write it. There is more than one way to write an IPv6 address, and `ipset` has its own.
fn canonical(member: &str) -> String {
    let (address, port) = member.split_once(',').map_or((member, None), |(address, port)| (address, Some(port)));
    let text = |written: &str| -> Option<String> {
        let address = written.parse::<IpAddr>().map(|address| address.to_string());
        address.ok().or_else(|| Some(written.parse::<IpNet>().ok()?.to_string()))
    };
    let address = text(address).unwrap_or_else(|| address.to_owned());
    port.map_or(address.clone(), |port| format!("{address},{port}"))
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
