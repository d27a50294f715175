//! Addresses, ports, and what a selector wants, as a sentence names them.

use ringfence_model::{Constraint, Dimension, PortMatch, Ports, Protocol, Values};

use super::super::Port;
use super::super::nearest::Party;

/// So many ports or values are named, and of more only how many they are.
const NAMED: usize = 8;

/// `address 10.1.2.3`
pub fn addresses(party: &Party<'_>) -> String {
    let texts: Vec<String> = party.addresses.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "its address".to_owned() } else { format!("address {}", texts.join(" and ")) }
}

/// `env=prod or staging`
pub fn wanted(dimension: &Dimension, constraint: &Constraint) -> String {
    let texts = |values: &Values| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    match constraint {
        Constraint::In(values) => format!("{dimension}={}", listed(&texts(values), " or ")),
        Constraint::NotIn(values) => format!("another {dimension} than {}", listed(&texts(values), " or ")),
    }
}

/// `80/TCP, 443/TCP`
pub fn some(texts: &[String]) -> String {
    listed(texts, ", ")
}

fn listed(texts: &[String], by: &str) -> String {
    let named = texts.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(by);
    match texts.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// `port 443/TCP`, `ICMP type 8`
pub fn port_text(port: Port) -> String {
    let Port { protocol, number } = port;
    if matches!(protocol, Protocol::ICMP | Protocol::ICMPV6) {
        return format!("{protocol} type {number}");
    }
    if protocol.has_ports() { format!("port {number}/{protocol}") } else { format!("protocol {protocol}") }
}

/// `80/TCP`, `9090-9100/TCP`, `ICMP type 8`
pub fn match_text(entry: &PortMatch) -> String {
    let protocol = entry.protocol;
    match entry.ports {
        Ports::All if protocol.has_ports() => format!("every port of {protocol}"),
        Ports::All => protocol.to_string(),
        Ports::Range(first, last) if first == last => format!("{first}/{protocol}"),
        Ports::Range(first, last) => format!("{first}-{last}/{protocol}"),
        Ports::Icmp(kind, None) => format!("{protocol} type {kind}"),
        Ports::Icmp(kind, Some(code)) => format!("{protocol} type {kind} code {code}"),
    }
}
