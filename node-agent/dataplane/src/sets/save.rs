//! Reading what `ipset save` prints, for tests; the agent asks the kernel itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Member, Members, PROTOCOLS, SetDef, SetKind, names};
use crate::chains::Place;
use crate::policy::End;

/// Our sets of a Pod as `ipset save` prints them, sorted by name. Left out are sets of others, and any that has our prefix and is
/// not one that we would make: of another type, or with a member of another form.
pub fn parse_save(text: &str) -> Vec<SetDef> {
    let mut sets: BTreeMap<&str, Option<Read>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(verb), Some(name), Some(what)) = (words.next(), words.next(), words.next()) else { continue };
        if names(Place::Pod).family(name).is_none() {
            continue;
        }
        if verb == "create" {
            sets.insert(name, Read::new(what));
        } else if verb == "add" {
            let set = sets.entry(name).or_default();
            *set = set.take().and_then(|set| set.with(Member::parse(what)?));
        }
    }
    let defs = sets.into_iter().filter_map(|(name, read)| {
        let family = names(Place::Pod).family(name)?;
        Some(SetDef { name: name.to_owned(), family, members: read?.members() })
    });
    defs.collect()
}

/// The members of a set that is being read.
enum Read {
    Nets(Vec<IpNet>),
    Ends(BTreeSet<End>),
}

impl Read {
    fn new(kind: &str) -> Option<Self> {
        match SetKind::ALL.into_iter().find(|own| own.as_str() == kind)? {
            SetKind::HashNet => Some(Self::Nets(Vec::new())),
            SetKind::HashIpPort => Some(Self::Ends(BTreeSet::new())),
        }
    }

    fn with(mut self, member: Member) -> Option<Self> {
        match (&mut self, member) {
            (Self::Nets(nets), Member::Net(net)) => nets.push(net),
            (Self::Ends(ends), Member::End(end)) => {
                ends.insert(end);
            }
            _ => return None,
        }
        Some(self)
    }

    fn members(self) -> Members {
        match self {
            Self::Nets(nets) => Members::Nets(Arc::new(nets.into_iter().collect())),
            Self::Ends(ends) => Members::Ends(Arc::new(ends)),
        }
    }
}

impl Member {
    /// Reads one as `ipset save` writes it. There is more than one way to write an IPv6 address, and `ipset` has its own.
    fn parse(text: &str) -> Option<Self> {
        let Some((address, end)) = text.split_once(',') else {
            let net = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
            return net.ok().map(Self::Net);
        };
        let (name, port) = end.split_once(':')?;
        let (protocol, _) = PROTOCOLS.iter().find(|(_, own)| *own == name)?;
        Some(Self::End(End { address: address.parse().ok()?, protocol: *protocol, port: port.parse().ok()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_however_they_are_written() {
        let save = "create RF6-1-0 hash:net family inet6 hashsize 64 maxelem 1048576 bucketsize 12 initval 0x1\n\
                    add RF6-1-0 ::1.2.3.4\nadd RF6-1-0 FD00:0::/64\n\
                    create RF4-1-0 hash:ip,port family inet hashsize 64 maxelem 1048576\n\
                    add RF4-1-0 10.0.0.1,sctp:80\ncreate KUBE-1 hash:net family inet\nadd KUBE-1 10.0.0.1\n";
        let sets = parse_save(save);
        let texts = |set: &SetDef| set.members().iter().map(Member::to_string).collect::<Vec<_>>();
        let names: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
        assert_eq!(names, ["RF4-1-0", "RF6-1-0"]);
        assert_eq!(texts(&sets[0]), ["10.0.0.1,sctp:80"]);
        assert_eq!(texts(&sets[1]), ["::102:304", "fd00::/64"]);
    }

    #[test]
    fn a_set_that_we_would_not_make_is_none_of_ours() {
        for odd in [
            "create RF4-1-0 hash:ip family inet\n",
            "create RF4-1-0 hash:net family inet\nadd RF4-1-0 10.0.0.1,tcp:80\n",
        ] {
            assert_eq!(parse_save(odd), []);
        }
    }
}
