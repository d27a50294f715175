//! Addresses that no name opens. Whoever answers for a name would otherwise open the machine's own services, its metadata or
//! its neighbours by an answer of his (DNS rebinding). An IP list opens them all the same where it has them in its ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds answer a machine about itself, beside the link-local address that most have (169.254.169.254).
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
/// See [`METADATA_V4`].
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)];
/// The first words of those of AWS: metadata, time, names, the credentials of Pods.
const AWS_V6: [u16; 2] = [0xfd00, 0x0ec2];

/// Whether an address is never opened by a name, whatever the cluster's networks are.
pub fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_reserved_v4(address),
        IpAddr::V6(address) => is_reserved_v6(address),
    }
}

fn is_reserved_v4(address: Ipv4Addr) -> bool {
    // 0.0.0.0/8 is this machine to some kernels, and 240.0.0.0/4 nobody's.
    let nobody = address.octets()[0] == 0 || address.octets()[0] >= 240;
    nobody
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || METADATA_V4.contains(&address)
}

fn is_reserved_v6(address: Ipv6Addr) -> bool {
    // NAT64 (RFC 6052) leads to the IPv4 address in it, and so did 6to4.
    let inner = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
        // IPv4 in the form of IPv6, and what was for that before.
        [0, 0, 0, 0, 0, _, ..] => return true,
        _ => None,
    };
    let inner = inner.map(|(high, low)| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    inner.is_some_and(is_reserved_v4)
        || address.is_unicast_link_local()
        || address.is_multicast()
        || METADATA_V6.contains(&address)
        || address.segments().starts_with(&AWS_V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_never_opens() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:192.0.2.1",
            "::192.0.2.1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
        ] {
            assert!(is_reserved(text.parse().expect("an address")), "{text}");
        }
        for text in [
            "192.0.2.1",
            "10.1.2.3",
            "100.64.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::c000:201",
            "2606:4700::1",
        ] {
            assert!(!is_reserved(text.parse().expect("an address")), "{text}");
        }
    }
}
