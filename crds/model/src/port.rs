//! Protocols, ports and services: what a provider listens on.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a port or protocol is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePortError {
    /// Not a protocol name or number.
    #[error("'{0}' is no protocol: write TCP, UDP, SCTP, ICMP, ICMPv6 or a number from 0 to 255")]
    Protocol(String),
    /// Not a port number.
    #[error("{0} is no port: ports are 1 to 65535")]
    Port(i64),
    /// The range ends before it begins.
    #[error("endPort {end} is below port {start}: swap them")]
    Backwards {
        /// First port.
        start: u16,
        /// Last port.
        end: u16,
    },
    /// Ports given for a protocol without ports.
    #[error("{0} has no ports: remove port and endPort")]
    NoPorts(Protocol),
    /// `endPort` without `port`.
    #[error("endPort needs port")]
    EndWithoutStart,
    /// An ICMP type or code on another protocol, or a code without a type.
    #[error("icmpType and icmpCode belong to ICMP and ICMPv6, and icmpCode needs icmpType")]
    IcmpMisplaced,
    /// Not an ICMP type or code.
    #[error("{0} is no ICMP type or code: they are 0 to 255")]
    Icmp(i64),
}

/// Types of ICMPv6 that no policy touches: MLD (RFC 2710, RFC 3810), router and neighbour discovery (RFC 4861).
pub const DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

/// An IP protocol, by its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// Whether the protocol has ports that rules can name.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl FromStr for Protocol {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, ParsePortError> {
        match text.to_ascii_uppercase().as_str() {
            "TCP" => Ok(Self::TCP),
            "UDP" => Ok(Self::UDP),
            "SCTP" => Ok(Self::SCTP),
            "ICMP" => Ok(Self::ICMP),
            "ICMPV6" => Ok(Self::ICMPV6),
            number => number.parse().map(Self).map_err(|_| ParsePortError::Protocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::SCTP => f.write_str("SCTP"),
            Self::ICMP => f.write_str("ICMP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// What of a protocol is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ports {
    /// The whole protocol.
    All,
    /// A range of ports (never of a protocol without ports).
    Range(u16, u16),
    /// An ICMP type, and a code of it unless every code is meant.
    Icmp(u8, Option<u8>),
}

/// One entry of a rule's services. The text form is `tcp/8080`, `tcp/9090-9100`, `icmp/8`, `icmp/3:4`, `udp`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// The part of it.
    pub ports: Ports,
}

impl PortMatch {
    /// Checks the fields of a port entry as the custom resources write them. A port left out means all ports.
    ///
    /// # Errors
    /// Says which field to change.
    pub fn parse(
        protocol: &str,
        port: Option<i32>,
        end_port: Option<i32>,
        icmp_type: Option<i32>,
        icmp_code: Option<i32>,
    ) -> Result<Self, ParsePortError> {
        let protocol: Protocol = protocol.parse()?;
        let is_icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
        let icmp = |value: i32| u8::try_from(value).map_err(|_| ParsePortError::Icmp(value.into()));
        let ports = match (port, end_port, icmp_type, icmp_code) {
            (None, None, None, None) => Ports::All,
            (Some(port), end, None, None) => Self::parse_range(protocol, port, end)?,
            (None, Some(_), ..) => return Err(ParsePortError::EndWithoutStart),
            (None, None, Some(kind), code) if is_icmp => Ports::Icmp(icmp(kind)?, code.map(icmp).transpose()?),
            _ => return Err(ParsePortError::IcmpMisplaced),
        };
        Ok(Self { protocol, ports })
    }

    fn parse_range(protocol: Protocol, port: i32, end: Option<i32>) -> Result<Ports, ParsePortError> {
        if !protocol.has_ports() {
            return Err(ParsePortError::NoPorts(protocol));
        }
        let check = |value: i32| match u16::try_from(value) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(ParsePortError::Port(value.into())),
        };
        let start = check(port)?;
        let end = end.map(check).transpose()?.unwrap_or(start);
        if end < start {
            return Err(ParsePortError::Backwards { start, end });
        }
        Ok(Ports::Range(start, end))
    }

    /// One port of a protocol that has ports; `None` for any other protocol.
    pub fn single(protocol: Protocol, port: u16) -> Option<Self> {
        (protocol.has_ports() && port > 0).then_some(Self { protocol, ports: Ports::Range(port, port) })
    }

    /// Whether a packet to `port` of `protocol` is meant.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol
            && match self.ports {
                Ports::All => true,
                Ports::Range(start, end) => (start..=end).contains(&port),
                Ports::Icmp(..) => false,
            }
    }

    /// Whether an ICMP message is meant.
    pub fn contains_icmp(&self, protocol: Protocol, kind: u8, code: u8) -> bool {
        self.protocol == protocol
            && match self.ports {
                Ports::All => true,
                Ports::Range(..) => false,
                Ports::Icmp(k, c) => k == kind && c.is_none_or(|c| c == code),
            }
    }

    /// The port range, when it is one; all ports of a protocol with ports count as 0 to 65535.
    pub fn range(&self) -> Option<RangeInclusive<u16>> {
        match self.ports {
            Ports::Range(start, end) => Some(start..=end),
            Ports::All if self.protocol.has_ports() => Some(0..=u16::MAX),
            _ => None,
        }
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protocol.to_string().to_ascii_lowercase())?;
        match self.ports {
            Ports::All => Ok(()),
            Ports::Range(start, end) if start == end => write!(f, "/{start}"),
            Ports::Range(start, end) => write!(f, "/{start}-{end}"),
            Ports::Icmp(kind, None) => write!(f, "/{kind}"),
            Ports::Icmp(kind, Some(code)) => write!(f, "/{kind}:{code}"),
        }
    }
}

/// The services of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Services {
    /// Every protocol and port; always written out by the user.
    All,
    /// These and no others. An empty set means nothing.
    Only(BTreeSet<PortMatch>),
}

impl Services {
    /// Whether a packet to `port` of `protocol` is meant (port 0 for a protocol without ports).
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Only(entries) => entries.iter().any(|entry| entry.contains(protocol, port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let text = |p, a, b, t, c| PortMatch::parse(p, a, b, t, c).map(|m| m.to_string());
        assert_eq!(text("TCP", Some(80), None, None, None).as_deref(), Ok("tcp/80"));
        assert_eq!(text("udp", Some(1), Some(9), None, None).as_deref(), Ok("udp/1-9"));
        assert_eq!(text("ICMP", None, None, Some(3), Some(4)).as_deref(), Ok("icmp/3:4"));
        assert_eq!(text("47", None, None, None, None).as_deref(), Ok("47"));
    }

    #[test]
    fn nonsense_is_refused() {
        for (p, a, b, t, c) in [
            ("TPC", None, None, None, None),
            ("TCP", Some(0), None, None, None),
            ("TCP", Some(65536), None, None, None),
            ("TCP", Some(9), Some(8), None, None),
            ("TCP", None, Some(8), None, None),
            ("TCP", None, None, Some(8), None),
            ("ICMP", Some(8), None, None, None),
            ("ICMP", None, None, None, Some(0)),
            ("ICMP", None, None, Some(256), None),
            ("256", None, None, None, None),
        ] {
            assert!(PortMatch::parse(p, a, b, t, c).is_err(), "{p} {a:?} {b:?} {t:?} {c:?}");
        }
    }

    #[test]
    fn a_range_holds_both_of_its_ends() {
        let range = PortMatch::parse("TCP", Some(9090), Some(9100), None, None).expect("valid");
        assert!(range.contains(Protocol::TCP, 9090) && range.contains(Protocol::TCP, 9100));
        assert!(!range.contains(Protocol::TCP, 9101) && !range.contains(Protocol::UDP, 9090));
    }
}
