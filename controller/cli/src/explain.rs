//! `ringfence explain`: what becomes of a connection, and why.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use ringfence_compile::evaluate::{BackendExplanation, Endpoint, Explanation, RuleRef, Side, explain};
use ringfence_model::Protocol;
use serde::Serialize;

use crate::{Format, Outcome, compile};

/// Arguments of `ringfence explain`.
#[derive(clap::Args)]
#[command(after_help = "\
An end is pod/NAMESPACE/NAME, svc/NAMESPACE/NAME, node/NAME or an address. For a Service the answer is that of the worst
back end, with all of them listed. Profiles and the ContainerCluster come from the folder of policy.

Exit status: 0 whatever the verdict, 2 bad input.

Example:
  kubectl get ns,nodes,pods,services,endpointslices,replicasets,daemonsets,statefulsets,replicationcontrollers \\
    -A -o yaml > cluster.yaml
  ringfence explain --policy examples/policy-repo --cluster cluster.yaml \\
    --from pod/shop/api-0 --to svc/shop/db --port 5432/tcp")]
pub struct Arguments {
    /// Folder of policy.
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// What `kubectl get … -A -o yaml` prints.
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Who connects.
    #[arg(long, value_name = "END")]
    from: Endpoint,
    /// Who listens.
    #[arg(long, value_name = "END")]
    to: Endpoint,
    /// Port and protocol, as in 5432/tcp; of ICMP the type, as in 8/icmp; 0 of a protocol that has neither, as in 0/47.
    #[arg(long, value_name = "PORT/PROTOCOL")]
    port: PortArgument,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// `5432/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PortArgument {
    port: u16,
    protocol: Protocol,
}

impl FromStr for PortArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no port with its protocol: write one such as 5432/tcp or 53/udp (of ICMP its type: 8/icmp)"
            )
        };
        let (port, protocol) = text.split_once('/').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let protocol: Protocol = protocol.parse().map_err(|_| wrong())?;
        let possible = match protocol {
            Protocol::ICMP | Protocol::ICMPV6 => 0..=u16::from(u8::MAX),
            protocol if protocol.has_ports() => 1..=u16::MAX,
            _ => 0..=0,
        };
        if !possible.contains(&port) {
            return Err(wrong());
        }
        Ok(Self { port, protocol })
    }
}

/// Explains one connection.
pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let Some((policy, cluster)) = compile::read_input(&arguments.policy, &arguments.cluster)? else {
        return Ok(Outcome::BadInput);
    };
    let PortArgument { port, protocol } = arguments.port;
    let explanation = explain(&policy, &cluster, &arguments.from, &arguments.to, protocol, port)
        .map_err(|error| anyhow::anyhow!("failed to {error}"))?;
    match arguments.output {
        Format::Text => print!("{}", text(&explanation, &arguments.from, &arguments.to)?),
        Format::Json => println!("{}", serde_json::to_string_pretty(&explanation)?),
    }
    Ok(Outcome::Done)
}

fn text(explanation: &Explanation, from: &Endpoint, to: &Endpoint) -> Result<String> {
    let mut out = String::new();
    writeln!(out, "{}", word(&explanation.verdict)?)?;
    if let Some(reason) = &explanation.reason {
        writeln!(out, "  because {reason}")?;
    }
    write!(out, "  from {from}: {}", side(&explanation.source)?)?;
    write!(out, "  to   {to}: {}", side(&explanation.destination)?)?;
    for backend in explanation.backends.iter().flatten() {
        write!(out, "  back end {}", backend_text(backend)?)?;
    }
    Ok(out)
}

fn backend_text(backend: &BackendExplanation) -> Result<String> {
    let BackendExplanation { endpoint, address, port, .. } = backend;
    let verdict = word(&backend.verdict)?;
    Ok(format!("{endpoint} at {address} port {port}: {verdict}; {}", side(&backend.destination)?))
}

/// What an end is and decides; below it the other rules that hit, or the one that nearly did.
fn side(side: &Side) -> Result<String> {
    let labels: Vec<String> = side.labels.iter().map(|(dimension, value)| format!("{dimension}={value}")).collect();
    let labels = if labels.is_empty() { "no labels".to_owned() } else { labels.join(",") };
    let mut text = format!("{}, {labels}, {}", word(&side.state)?, word(&side.decision)?);
    if let Some(rule) = &side.rule {
        write!(text, " by {}", rule_text(rule))?;
    }
    text.push('\n');
    for other in &side.others {
        writeln!(text, "       hits too: {} ({})", rule_text(&other.rule), other.action)?;
    }
    if let Some(near) = &side.nearest {
        writeln!(text, "       no rule hits; the nearest Allow is {}, which misses:", rule_text(&near.rule))?;
        for reason in &near.why {
            writeln!(text, "       - {reason}")?;
        }
    }
    Ok(text)
}

/// `shop/web-to-api at rules/shop.yaml:7`
fn rule_text(rule: &RuleRef) -> String {
    let name = format!("{}/{}", rule.rule_set, rule.name);
    match (&rule.file, rule.line) {
        (Some(file), Some(line)) => format!("{name} at {file}:{line}"),
        _ => name,
    }
}

/// A word of the vocabulary, as the JSON answer has it.
fn word(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_value(value)?;
    json.as_str().map(str::to_owned).context("failed to name a word of the vocabulary")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_its_protocol() {
        let parsed = "5432/tcp".parse::<PortArgument>();
        assert_eq!(parsed, Ok(PortArgument { port: 5432, protocol: Protocol::TCP }));
        let echo = "8/icmp".parse::<PortArgument>();
        assert_eq!(echo, Ok(PortArgument { port: 8, protocol: Protocol::ICMP }));
        for bad in ["5432", "tcp/5432", "0/tcp", "65536/tcp", "53/dns", "/tcp", "256/icmp", "1/47"] {
            assert!(bad.parse::<PortArgument>().is_err(), "{bad}");
        }
    }
}
