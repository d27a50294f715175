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
        let mut rest = self.0.clone();
        for hole in &other.0 {
            rest = rest.into_iter().flat_map(|net| subtract(net, *hole)).collect();
        }
        Self::from_nets(rest)
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

/// `net` without `hole`: the sibling of every prefix on the way down from `net` to `hole`.
fn subtract(net: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&net) {
        return Vec::new();
    }
    if !net.contains(&hole) {
        return vec![net];
    }
    let mut rest = Vec::new();
    let mut current = net;
    while current != hole {
        let (lower, upper) = halves(current);
        let (inside, outside) = if lower.contains(&hole) { (lower, upper) } else { (upper, lower) };
        rest.push(outside);
        current = inside;
    }
    rest
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
    fn nonsense_is_refused() {
        for bad in ["", "10.0.0.1/8", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "example.org", "10.0.0.0/33"] {
            assert!(AddressSet::parse(bad).is_err(), "{bad:?}");
        }
    }
}
