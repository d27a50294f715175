//! The words of rules and sets, read. What is not as we write it is a panic.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_model::Protocol;

/// The comment of a rule, without `rf:`. Only rules of a policy have one.
pub fn comment_of(rule: &[String]) -> Option<&str> {
    let pair = rule.windows(2).find(|pair| pair[0] == "--comment")?;
    Some(pair[1].trim_matches('"').trim_start_matches("rf:"))
}

/// A member of a set of prefixes.
pub fn net(member: &str) -> IpNet {
    let net = member.parse().or_else(|_| member.parse::<IpAddr>().map(IpNet::from)).expect("an address or a prefix");
    assert_ne!(net.prefix_len(), 0, "a set cannot hold /0");
    net
}

/// A protocol as iptables is told it.
pub fn protocol_named(name: &str) -> Protocol {
    match name {
        "ipv6-icmp" => Protocol::ICMPV6,
        name => {
            let protocol: Protocol = name.parse().expect("a protocol");
            assert_ne!(protocol, Protocol(0), "iptables takes 0 for any");
            protocol
        }
    }
}

/// Whether a port is in a range `first:last`, or the one port.
pub fn in_range(range: &str, port: u16) -> bool {
    let (start, end) = range.split_once(':').unwrap_or((range, range));
    (start.parse::<u16>().expect("a port")..=end.parse().expect("a port")).contains(&port)
}

/// Whether an ICMP message is of a type, or `type/code`.
pub fn icmp_is(text: &str, icmp: Option<(u8, u8)>) -> bool {
    let (kind, code) = text.split_once('/').map_or((text, None), |(kind, code)| (kind, Some(code)));
    let kind: u8 = kind.parse().expect("an ICMP type");
    assert_ne!(kind, 255, "iptables takes 255 for any");
    let code: Option<u8> = code.map(|code| code.parse().expect("an ICMP code"));
    icmp.is_some_and(|(k, c)| k == kind && code.is_none_or(|code| code == c))
}

/// The value and the mask of `value/mask`.
pub fn masked(text: &str) -> (u32, u32) {
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
    let (value, mask) = text.split_once('/').expect("a mask");
    (hex(value), hex(mask))
}
