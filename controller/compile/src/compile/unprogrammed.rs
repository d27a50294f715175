//! What policy can say and no agent programs yet. Whoever writes it is told: in the status of a RuleSet, and by `check`.

use ringfence_model::{PortMatch, Ports, Protocol};

/// What is said of an IPv6 address or range.
pub(crate) const IPV6_SELECTS_NOTHING: &str = "IPv6 selects nothing yet: rules are programmed for IPv4 only";

/// Why an entry of a rule's services is never programmed, if it is not.
pub(crate) fn without_effect(entry: &PortMatch) -> Option<&'static str> {
    match (entry.protocol, &entry.ports) {
        (Protocol::ICMPV6, _) => Some("ICMPv6 is not programmed yet, as rules are for IPv4 only"),
        // iptables takes these for "any".
        (Protocol(0), _) => Some("protocol 0 cannot be programmed"),
        (_, Ports::Icmp(u8::MAX, _)) => Some("ICMP type 255 cannot be programmed"),
        _ => None,
    }
}
