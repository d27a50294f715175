//! Whether a rule is programmed at a Pod, and on which of its ports.

use std::collections::BTreeSet;

use ringfence_crds::address_group::{ServiceEnds, TargetPort};
use ringfence_crds::common::PortSpec;
use ringfence_crds::workload_policy::CompiledRule;
use ringfence_model::{Direction, PortMatch, Ports, Protocol, Services};

use super::Missing;
use super::classes::Classes;
use crate::input::LocalPod;

/// The Pod's ports that an Inbound rule covers, if the Pod is a subject of the rule: by label, if it is `selected`, or
/// behind a Service. (For an Outbound rule only whether there is an answer counts: services belong to the provider.)
pub fn reach(
    rule: &CompiledRule,
    selected: bool,
    pod: &LocalPod,
    classes: &mut Classes<'_>,
    missing: &mut BTreeSet<Missing>,
) -> Option<Services> {
    let written = written_services(rule);
    let mut reached: Option<Services> = selected.then(|| written.clone());
    for subject in &rule.subjects {
        // Behind a virtual service are providers: it does not connect.
        let provider = subject.virtual_service.as_ref().filter(|_| rule.direction == Direction::Inbound);
        if let Some(service) = provider {
            let Some(ends) = service_of_pod(service, pod, classes, missing) else { continue };
            let ports = target_ports(ends, pod).filter(|port| covers_target(rule, &written, port));
            reached = Some(union(reached, Services::Only(ports.collect())));
        }
    }
    reached
}

/// The services that the rule writes out, in the form that rules can have. A rule that says neither `all` nor a port
/// covers none.
pub fn written_services(rule: &CompiledRule) -> Services {
    if rule.all_services && !rule.virtual_service_ports {
        Services::All
    } else {
        Services::Only(port_matches(&rule.services))
    }
}

/// The services that the rule can cover at most, whichever ports the Services have that it names.
pub fn widest_services(rule: &CompiledRule) -> Services {
    if rule.services.is_empty() && rule.virtual_service_ports { Services::All } else { written_services(rule) }
}

/// Valid port entries. Left out is what iptables takes for "any": protocol 0 and ICMP type 255, neither of which
/// is in use.
pub fn port_matches(specs: &[PortSpec]) -> BTreeSet<PortMatch> {
    let usable = |entry: &PortMatch| !matches!(entry.ports, Ports::Icmp(u8::MAX, _)) && entry.protocol != Protocol(0);
    specs.iter().filter_map(|spec| PortMatch::try_from(spec).ok()).filter(usable).collect()
}

/// Whether a rule towards a virtual service covers one of its target ports: each, unless the rule names services.
pub fn covers_target(rule: &CompiledRule, written: &Services, target: &PortMatch) -> bool {
    let every = rule.services.is_empty() && (rule.virtual_service_ports || rule.all_services);
    every || contains(written, target)
}

/// Whether services hold a single port.
pub fn contains(services: &Services, target: &PortMatch) -> bool {
    target.range().is_some_and(|range| services.contains(target.protocol, *range.start()))
}

/// The Service `namespace/name`, if the Pod is behind it.
fn service_of_pod<'a>(
    service: &str,
    pod: &LocalPod,
    classes: &mut Classes<'a>,
    missing: &mut BTreeSet<Missing>,
) -> Option<&'a ServiceEnds> {
    let (namespace, _) = service.split_once('/')?;
    // A Service opens Pods of its own namespace only.
    if namespace != pod.namespace {
        return None;
    }
    let ends = classes.service_named(service, missing)?;
    let selected =
        !ends.selector.is_empty() && ends.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
    (selected || ends.target_pods.contains(&pod.name)).then_some(ends)
}

/// The ports of the Pod that a Service leads to, names resolved with the Pod's own container ports.
fn target_ports<'a>(ends: &'a ServiceEnds, pod: &'a LocalPod) -> impl Iterator<Item = PortMatch> + 'a {
    ends.target_ports.iter().flat_map(|target| target_port(target, pod))
}

fn target_port(target: &TargetPort, pod: &LocalPod) -> Vec<PortMatch> {
    let Ok(protocol) = target.protocol.parse::<Protocol>() else { return Vec::new() };
    if let Some(port) = target.port {
        let port = u16::try_from(port).ok();
        return port.and_then(|port| PortMatch::single(protocol, port)).into_iter().collect();
    }
    match &target.name {
        Some(name) => named_ports(name, pod).filter(|port| port.protocol == protocol).collect(),
        None => Vec::new(),
    }
}

/// The container ports of a Pod that have this name.
pub fn named_ports<'a>(name: &'a str, pod: &'a LocalPod) -> impl Iterator<Item = PortMatch> + 'a {
    let named = pod.container_ports.iter().filter(move |port| port.name.as_deref() == Some(name));
    named.filter_map(|port| PortMatch::single(port.protocol, port.port))
}

fn union(a: Option<Services>, b: Services) -> Services {
    match (a, b) {
        (None, b) => b,
        (Some(Services::Only(a)), Services::Only(b)) => Services::Only(&a | &b),
        _ => Services::All,
    }
}
