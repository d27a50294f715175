//! The two address families, and in what the commands and the words of rules differ between them.

use std::net::IpAddr;

use ringfence_model::Protocol;

/// An address family, with the commands it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4: iptables.
    V4,
    /// IPv6: ip6tables.
    V6,
}

/// How messages of ICMP are written in rules of a family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IcmpWords {
    /// Protocol, as `-p` takes it.
    pub protocol: &'static str,
    /// Match that knows types.
    pub module: &'static str,
    /// Its option.
    pub option: &'static str,
}

impl Family {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The protocol that carries its control messages: a rule on ICMP is about IPv4, one on ICMPv6 about IPv6.
    pub fn icmp(self) -> Protocol {
        match self {
            Self::V4 => Protocol::ICMP,
            Self::V6 => Protocol::ICMPV6,
        }
    }

    pub(crate) fn icmp_words(self) -> IcmpWords {
        match self {
            Self::V4 => IcmpWords { protocol: "icmp", module: "icmp", option: "--icmp-type" },
            Self::V6 => IcmpWords { protocol: "ipv6-icmp", module: "icmp6", option: "--icmpv6-type" },
        }
    }

    /// What tells a sender that nobody takes its packet.
    pub(crate) fn reject_with(self) -> &'static str {
        match self {
            Self::V4 => "icmp-port-unreachable",
            Self::V6 => "icmp6-port-unreachable",
        }
    }
}
