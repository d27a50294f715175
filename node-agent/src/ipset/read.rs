//! The sets of a network namespace, read over netlink as `ipset save` reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_dataplane::sets::{self, Members, SetDef, SetKind, SetNames};
use ringfence_dataplane::{End, Place};
use ringfence_model::Protocol;

use super::SetError;
use super::message::{
    ATTR_ADT, ATTR_CIDR, ATTR_DATA, ATTR_IP, ATTR_IPADDR_IPV4, ATTR_IPADDR_IPV6, ATTR_PORT, ATTR_PROTO, ATTR_PROTOCOL,
    ATTR_SETNAME, ATTR_TYPENAME, PROTOCOL,
};
use crate::netfilter::{IPSET, attribute, attributes, dump};

/// Lists sets with their members.
const SAVE: u8 = 8;

/// Our sets in a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that we would make, sorted by name.
    pub sets: Vec<SetDef>,
    /// The names of those that have our prefix and are not as we would make them: of another type, or with a member of
    /// another form.
    pub odd: BTreeSet<String>,
}

impl Found {
    /// Reads those of the calling thread's network namespace, which is such a place.
    ///
    /// # Errors
    /// When the kernel has no sets, or does not list them, or they change meanwhile.
    pub fn read(place: Place) -> Result<Self, SetError> {
        Self::read_named(&sets::names(place))
    }

    /// Reads those with these names.
    ///
    /// # Errors
    /// As [`Found::read`].
    pub fn read_named(names: &SetNames) -> Result<Self, SetError> {
        let entries = dump(IPSET, SAVE, &attribute(ATTR_PROTOCOL, &[PROTOCOL])).map_err(SetError::Read)?;
        Ok(Self::of(names, &entries))
    }

    /// From what the kernel lists: several entries for one set, where it is large.
    fn of(names: &SetNames, entries: &[Vec<u8>]) -> Self {
        let mut read: BTreeMap<String, Option<Read>> = BTreeMap::new();
        for entry in entries {
            let name = find(entry, ATTR_SETNAME).and_then(text);
            let Some(name) = name.filter(|name| names.family(name).is_some()) else { continue };
            let set = read.entry(name.to_owned()).or_insert_with(|| Read::new(find(entry, ATTR_TYPENAME)?));
            for (_, member) in
                find(entry, ATTR_ADT).into_iter().flat_map(attributes).filter(|(kind, _)| *kind == ATTR_DATA)
            {
                *set = set.take().and_then(|set| set.with(member));
            }
        }
        let mut found = Self::default();
        for (name, read) in read {
            match (names.family(&name), read) {
                (Some(family), Some(read)) => found.sets.push(SetDef { name, family, members: read.members() }),
                _ => drop(found.odd.insert(name)),
            }
        }
        found
    }
}

/// A set that is being read.
enum Read {
    Nets(Vec<IpNet>),
    Ends(BTreeSet<End>),
}

impl Read {
    fn new(kind: &[u8]) -> Option<Self> {
        let kind = text(kind)?;
        match SetKind::ALL.into_iter().find(|own| own.as_str() == kind)? {
            SetKind::HashNet => Some(Self::Nets(Vec::new())),
            SetKind::HashIpPort => Some(Self::Ends(BTreeSet::new())),
        }
    }

    /// With a member; nothing where it says more than ours do, such as that it does not count.
    fn with(mut self, member: &[u8]) -> Option<Self> {
        let address = address(find(member, ATTR_IP)?)?;
        let known: &[u16] = match &mut self {
            Self::Nets(nets) => {
                let [length] = find(member, ATTR_CIDR)?.try_into().ok()?;
                nets.push(IpNet::new(address, length).ok()?);
                &[ATTR_IP, ATTR_CIDR]
            }
            Self::Ends(ends) => {
                let port = u16::from_be_bytes(find(member, ATTR_PORT)?.try_into().ok()?);
                let [protocol] = find(member, ATTR_PROTO)?.try_into().ok()?;
                sets::has_ends_of(Protocol(protocol)).then_some(())?;
                ends.insert(End { address, protocol: Protocol(protocol), port });
                &[ATTR_IP, ATTR_PORT, ATTR_PROTO]
            }
        };
        attributes(member).all(|(kind, _)| known.contains(&kind)).then_some(self)
    }

    fn members(self) -> Members {
        match self {
            Self::Nets(nets) => Members::Nets(Arc::new(nets.into_iter().collect())),
            Self::Ends(ends) => Members::Ends(Arc::new(ends)),
        }
    }
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

/// A text of the kernel ends with a zero.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()?.strip_suffix('\0')
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || Some(IpAddr::from(<[u8; 4]>::try_from(find(bytes, ATTR_IPADDR_IPV4)?).ok()?));
    let v6 = || Some(IpAddr::from(<[u8; 16]>::try_from(find(bytes, ATTR_IPADDR_IPV6)?).ok()?));
    v4().or_else(v6)
}
