//! Addresses: sets of prefixes, and the identity of a Pod network.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

/// Why a text is no address, prefix or range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// Neither an address nor a prefix nor a range.
    #[error(
        "'{0}' is no address range: write an address (192.0.2.1), a prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20)"
    )]
    Syntax(String),
    /// A prefix with bits below its length.
    #[error("'{text}' has bits set below its prefix length: write {fixed}")]
    HostBits {
        /// As written.
        text: String,
        /// The prefix it is part of.
        fixed: IpNet,
    },
    /// The range ends before it begins, or mixes families.
    #[error("'{0}' is no range: both ends must be of one family, the lower one first")]
    Backwards(String),
}

/// The identity of a Pod network: `<cluster uid>/<name>`. Two clusters may use the same addresses, so no Pod address
/// means anything without it. Empty for addresses outside every Pod network (nodes, unmanaged workloads).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub String);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of addresses as the fewest prefixes that cover exactly it, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressSet(Vec<IpNet>);

impl AddressSet {
    /// The set that these prefixes cover together.
    pub fn from_nets(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let nets: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        let mut merged = IpNet::aggregate(&nets);
        merged.sort();
        Self(merged)
    }

    /// Parses an address, a prefix or a range.
    ///
    /// # Errors
    /// Says what to write instead.
    pub fn parse(text: &str) -> Result<Vec<IpNet>, ParseAddressError> {
        let syntax = || ParseAddressError::Syntax(text.to_owned());
        if let Some((first, last)) = text.split_once('-') {
            let ends = (first.trim().parse::<IpAddr>(), last.trim().parse::<IpAddr>());
            return match ends {
                (Ok(IpAddr::V4(a)), Ok(IpAddr::V4(b))) if a <= b => {
                    Ok(Ipv4Subnets::new(a, b, 0).map(IpNet::V4).collect())
                }
                (Ok(IpAddr::V6(a)), Ok(IpAddr::V6(b))) if a <= b => {
                    Ok(Ipv6Subnets::new(a, b, 0).map(IpNet::V6).collect())
                }
                (Ok(_), Ok(_)) => Err(ParseAddressError::Backwards(text.to_owned())),
                _ => Err(syntax()),
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(vec![IpNet::from(address)]);
        }
        let net: IpNet = text.parse().map_err(|_| syntax())?;
        if net.trunc() != net {
            return Err(ParseAddressError::HostBits { text: text.to_owned(), fixed: net.trunc() });
        }
        Ok(vec![net])
    }

    /// What is in this set and not in the other, by exact prefix subtraction.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        // No machine holds so many prefixes.
        self.minus_up_to(other, usize::MAX).unwrap_or_default()
    }

    /// The same; nothing if it takes more than `most` prefixes. The work is bounded as well: one address that is taken out of
    /// everything leaves 32 or 128 prefixes, so that short lists may have long differences.
    pub fn minus_up_to(&self, other: &Self, most: usize) -> Option<Self> {
        // Both are sorted and their prefixes do not overlap, so that of a prefix the holes in it stand together, and what
        // contains it stands right before them. What is left is as few prefixes as possible: a half that is whole stays
        // whole, and its other half has a hole.
        let mut rest = Vec::new();
        for net in &self.0 {
            let from = other.0.partition_point(|hole| hole < net);
            let around = from.checked_sub(1).and_then(|before| other.0.get(before));
            if around.is_some_and(|hole| hole.contains(net)) {
                continue;
            }
            let holes = &other.0[from..];
            let inside = holes.partition_point(|hole| net.contains(hole) || hole.contains(net));
            split(*net, &holes[..inside], most, &mut rest)?;
        }
        Some(Self(rest))
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&address))
    }

    /// The prefixes, sorted.
    pub fn nets(&self) -> &[IpNet] {
        &self.0
    }

    /// Whether no address is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Adds `net` without the holes in it, which are sorted. Nothing as soon as there are more than `most`.
fn split(net: IpNet, holes: &[IpNet], most: usize, rest: &mut Vec<IpNet>) -> Option<()> {
    let Some(first) = holes.first() else {
        rest.push(net);
        return (rest.len() <= most).then_some(());
    };
    if first.contains(&net) {
        return Some(());
    }
    let (lower, upper) = halves(net);
    let (below, above) = holes.split_at(holes.partition_point(|hole| lower.contains(hole)));
    split(lower, below, most, rest)?;
    split(upper, above, most, rest)
}

/// Both halves of a prefix that is no single address; the prefix itself twice if it is one.
fn halves(net: IpNet) -> (IpNet, IpNet) {
    let length = net.prefix_len() + 1;
    let pair = match net {
        IpNet::V4(net) => net
            .subnets(length)
            .ok()
            .and_then(|mut s| Some((IpNet::V4(s.next()?), IpNet::V4(s.next()?))) as Option<(IpNet, IpNet)>),
        IpNet::V6(net) => net
            .subnets(length)
            .ok()
            .and_then(|mut s| Some((IpNet::V6(s.next()?), IpNet::V6(s.next()?))) as Option<(IpNet, IpNet)>),
    };
    pair.unwrap_or((net, net))
}

/// Every IPv4 address.
pub fn all_ipv4() -> IpNet {
    IpNet::V4(Ipv4Net::default())
}

/// Every IPv6 address.
pub fn all_ipv6() -> IpNet {
    IpNet::V6(Ipv6Net::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[&str]) -> AddressSet {
        AddressSet::from_nets(list.iter().flat_map(|text| AddressSet::parse(text).expect("valid")))
    }
    fn text(set: &AddressSet) -> Vec<String> {
        set.nets().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranges_become_prefixes() {
        assert_eq!(
            text(&set(&["198.51.100.10-198.51.100.20"])),
            ["198.51.100.10/31", "198.51.100.12/30", "198.51.100.16/30", "198.51.100.20/32"]
        );
    }

    #[test]
    fn exclusions_are_exact() {
        let list = set(&["203.0.113.0/24"]);
        assert_eq!(text(&list.minus(&set(&["203.0.113.128/25"]))), ["203.0.113.0/25"]);
        assert!(list.minus(&set(&["203.0.113.0/24"])).is_empty(), "equal");
        assert!(list.minus(&set(&["203.0.0.0/16"])).is_empty(), "wider");
        assert_eq!(text(&list.minus(&set(&["192.0.2.0/24"]))), ["203.0.113.0/24"], "elsewhere");
        let most = set(&["0.0.0.0/0"]).minus(&set(&["10.0.0.1"]));
        assert_eq!(most.nets().len(), 32);
        assert!(!most.contains("10.0.0.1".parse().expect("valid")));
        assert!(most.contains("10.0.0.2".parse().expect("valid")));
    }

    #[test]
    fn many_holes() {
        let holes =
            set(&["10.0.0.1", "10.0.0.4/30", "10.0.1.0/24", "10.0.0.255", "192.0.2.0/24", "::1", "2001:db8::/32"]);
        let rest = set(&["10.0.0.0/23", "192.0.2.7", "::/0"]).minus(&holes);
        assert_eq!(rest, AddressSet::from_nets(rest.nets().to_vec()), "sorted, and as few as possible");
        assert_eq!(rest.minus(&holes), rest, "no hole is in it");
        let v4: Vec<String> = text(&rest).into_iter().filter(|net| net.contains('.')).collect();
        let expected = [
            "10.0.0.0/32",
            "10.0.0.2/31",
            "10.0.0.8/29",
            "10.0.0.16/28",
            "10.0.0.32/27",
            "10.0.0.64/26",
            "10.0.0.128/26",
            "10.0.0.192/27",
            "10.0.0.224/28",
            "10.0.0.240/29",
            "10.0.0.248/30",
            "10.0.0.252/31",
            "10.0.0.254/32",
        ];
        assert_eq!(v4, expected);
        // On the way down to ::1 and to 2001:db8::/32: two bits are the same, and at the third each is the other's sibling.
        assert_eq!(rest.nets().len() - v4.len(), 128 + 32 - 2 - 2);
        for (address, inside) in
            [("::", true), ("::1", false), ("::2", true), ("2001:db7::", true), ("2001:db8::9", false)]
        {
            assert_eq!(rest.contains(address.parse().expect("valid")), inside, "{address}");
        }
    }

    #[test]
    fn a_long_difference_is_bounded() {
        let holes = AddressSet::from_nets(
            (0..10_000_u128).map(|number| IpNet::from(IpAddr::from((number << 64).to_be_bytes()))),
        );
        let everything = set(&["::/0"]);
        assert_eq!(everything.minus_up_to(&holes, 1_000), None);
        let one = AddressSet::from_nets([holes.nets()[0]]);
        assert_eq!(everything.minus_up_to(&one, 127), None);
        assert_eq!(everything.minus_up_to(&one, 128).map(|rest| rest.nets().len()), Some(128));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "10.0.0.1/8", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "example.org", "10.0.0.0/33"] {
            assert!(AddressSet::parse(bad).is_err(), "{bad:?}");
        }
    }
}
