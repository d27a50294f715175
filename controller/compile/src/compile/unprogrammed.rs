//! What policy can say and no agent programs yet. Whoever writes it is told: in the status of a RuleSet, and by `check`.

use ringfence_model::{PortMatch, Ports, Protocol};

/// Why an entry of a rule's services is never programmed, if it is not.
pub(crate) fn without_effect(entry: &PortMatch) -> Option<&'static str> {
    match (entry.protocol, &entry.ports) {
        // iptables takes these for "any".
        (Protocol(0), _) => Some("protocol 0 cannot be programmed"),
        (_, Ports::Icmp(u8::MAX, _)) => Some("ICMP type 255 cannot be programmed"),
        _ => None,
    }
}
