//! What a schema cannot say about one object: labels, addresses, ports, and what selects nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ringfence_crds::compact::LabelTerms;
use ringfence_crds::container_cluster::LabelMapKind;
use ringfence_crds::container_workload_profile::DimensionLabels;
use ringfence_crds::rule_set::{Actor, ServiceRef};
use ringfence_crds::{
    ContainerClusterSpec, ContainerWorkloadProfileSpec, IpListSpec, PortSpec, RuleSetSpec, WorkloadSpec,
};
use ringfence_model::{AddressSet, Dimension, LabelValue, NamePattern, ParsePortError, PortMatch};

use super::ParsedSpec;
use super::places::{Report, at, field};
use crate::compile::labels::{KUBELET_CAN_SET, kubelet_cannot_set};
use crate::compile::limits::LIST_PREFIXES;
use crate::compile::unprogrammed::without_effect;

/// Checks what the fields of a spec mean.
pub(super) fn check(spec: &ParsedSpec, report: &mut Report<'_>) {
    match spec {
        ParsedSpec::ContainerCluster(spec) => check_cluster(spec, report),
        ParsedSpec::ContainerWorkloadProfile(spec) => check_profile(spec, report),
        ParsedSpec::VirtualService(spec) => check_labels("spec.labels", &spec.labels, report),
        ParsedSpec::Workload(spec) => check_workload(spec, report),
        ParsedSpec::IpList(spec) => check_ip_list(spec, report),
        ParsedSpec::ServiceDefinition(spec) => check_ports("spec.ports", &spec.ports, report),
        ParsedSpec::RuleSet(spec) => check_rule_set(spec, report),
        ParsedSpec::LabelGroup(_) | ParsedSpec::PolicyRepository(_) => {}
    }
}

fn check_profile(spec: &ContainerWorkloadProfileSpec, report: &mut Report<'_>) {
    check_profile_labels("spec.labels", &spec.labels, report);
    if spec.visibility.is_some() {
        report.warning("spec.visibility", "visibility has no effect yet: nothing is reported per connection");
    }
}

fn check_cluster(spec: &ContainerClusterSpec, report: &mut Report<'_>) {
    check_profile_labels("spec.defaultProfile.labels", &spec.default_profile.labels, report);
    check_ports("spec.failsafePorts", &spec.failsafe_ports, report);
    for (index, destination) in spec.failsafe_destinations.iter().enumerate() {
        let path = at("spec.failsafeDestinations", index);
        check_ranges(&field(&path, "ranges"), &destination.ranges, report);
        check_ports(&field(&path, "ports"), &destination.ports, report);
    }
    check_ranges("spec.externalIpRanges", &spec.external_ip_ranges, report);
    for (index, entry) in spec.label_map.iter().enumerate() {
        let path = at("spec.labelMap", index);
        for (from, value) in &entry.values {
            check_value(&field(&field(&path, "values"), from), value, report);
        }
        let on_node = entry.kind == LabelMapKind::Node && !report.is_faulty(&field(&path, "kind"));
        if on_node && !kubelet_cannot_set(&entry.from) {
            let path = field(&path, "from");
            report.warning(&path, format!("'{}' has no effect: {KUBELET_CAN_SET}", entry.from));
        }
    }
    for (index, network) in spec.pod_networks.iter().enumerate() {
        let path = at("spec.podNetworks", index);
        check_ranges(&field(&path, "cidrs"), &network.cidrs, report);
        if spec.pod_networks[..index].iter().any(|other| other.name == network.name) {
            report.error(&field(&path, "name"), format!("two Pod networks are named '{}': rename one", network.name));
        }
    }
}

fn check_workload(spec: &WorkloadSpec, report: &mut Report<'_>) {
    check_labels("spec.labels", &spec.labels, report);
    for (index, address) in spec.addresses.iter().enumerate() {
        let path = at("spec.addresses", index);
        if address.parse::<IpAddr>().is_err() && !report.is_faulty(&path) {
            report.error(&path, format!("'{address}' is no address: write one such as 192.0.2.10 or 2001:db8::10"));
        }
    }
}

fn check_ip_list(spec: &IpListSpec, report: &mut Report<'_>) {
    check_ranges("spec.ranges", &spec.ranges, report);
    check_ranges("spec.exclusions", &spec.exclusions, report);
    for (index, name) in spec.fqdns.iter().enumerate() {
        let path = at("spec.fqdns", index);
        if let Err(error) = name.parse::<NamePattern>()
            && !report.is_faulty(&path)
        {
            report.error(&path, error.to_string());
        }
    }
    if !report.is_faulty("spec") && prefixes_of(spec).is_none() {
        let field = if spec.exclusions.is_empty() { "spec.ranges" } else { "spec.exclusions" };
        let advice = "write fewer or shorter ones, or ranges that leave the hole out";
        report
            .error(field, format!("the list comes to more than {LIST_PREFIXES} prefixes, which is too many: {advice}"));
    }
}

/// The prefixes of a list, unless they are too many.
pub(super) fn prefixes_of(spec: &IpListSpec) -> Option<AddressSet> {
    let set = |list: &[String]| {
        let nets = list.iter().filter_map(|text| AddressSet::parse(text).ok());
        AddressSet::from_nets(nets.flatten())
    };
    set(&spec.ranges).minus_up_to(&set(&spec.exclusions), LIST_PREFIXES)
}

fn check_rule_set(spec: &RuleSetSpec, report: &mut Report<'_>) {
    for (index, scope) in spec.scopes.iter().enumerate() {
        check_terms(&field(&at("spec.scopes", index), "labels"), &scope.labels, report);
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = at("spec.rules", index);
        for (name, actors) in [("consumers", &rule.consumers), ("providers", &rule.providers)] {
            for (index, actor) in actors.iter().enumerate() {
                check_actor(&at(&field(&path, name), index), actor, report);
            }
        }
        for (index, service) in rule.services.iter().enumerate() {
            check_service(&at(&field(&path, "services"), index), service, report);
        }
    }
}

fn check_actor(path: &str, actor: &Actor, report: &mut Report<'_>) {
    check_terms(&field(path, "labels"), &actor.labels, report);
    check_terms(&field(path, "not"), &actor.not, report);
}

/// Label terms: from dimension to the values it may have.
fn check_terms(path: &str, terms: &LabelTerms, report: &mut Report<'_>) {
    for (dimension, values) in terms {
        let path = field(path, dimension);
        check_dimension(&path, dimension, report);
        if values.is_empty() {
            let advice = format!("list one, or remove {dimension}");
            report.warning(&path, format!("no value of {dimension} is listed, so this selects nothing: {advice}"));
        }
        for (index, value) in values.iter().enumerate() {
            check_value(&at(&path, index), value, report);
        }
    }
}

fn check_labels(path: &str, labels: &BTreeMap<String, String>, report: &mut Report<'_>) {
    for (dimension, value) in labels {
        let path = field(path, dimension);
        check_dimension(&path, dimension, report);
        check_value(&path, value, report);
    }
}

fn check_profile_labels(path: &str, labels: &BTreeMap<String, DimensionLabels>, report: &mut Report<'_>) {
    for (dimension, entry) in labels {
        let path = field(path, dimension);
        check_dimension(&path, dimension, report);
        if let Some(value) = &entry.value {
            check_value(&field(&path, "value"), value, report);
        }
        for (index, value) in entry.allowed.iter().enumerate() {
            check_value(&at(&field(&path, "allowed"), index), value, report);
        }
    }
}

fn check_dimension(path: &str, dimension: &str, report: &mut Report<'_>) {
    if let Err(error) = dimension.parse::<Dimension>()
        && !report.is_faulty(path)
    {
        report.error_at_key(path, error.to_string());
    }
}

fn check_value(path: &str, value: &str, report: &mut Report<'_>) {
    if let Err(error) = value.parse::<LabelValue>()
        && !report.is_faulty(path)
    {
        report.error(path, error.to_string());
    }
}

fn check_ranges(path: &str, ranges: &[String], report: &mut Report<'_>) {
    for (index, range) in ranges.iter().enumerate() {
        let path = at(path, index);
        match AddressSet::parse(range) {
            Err(_) if report.is_faulty(&path) => {}
            Err(error) => report.error(&path, error.to_string()),
            Ok(_) => {}
        }
    }
}

fn check_ports(path: &str, ports: &[PortSpec], report: &mut Report<'_>) {
    for (index, port) in ports.iter().enumerate() {
        check_port(&at(path, index), PortMatch::try_from(port), report);
    }
}

fn check_service(path: &str, service: &ServiceRef, report: &mut Report<'_>) {
    let Some(protocol) = &service.protocol else { return };
    let parsed = PortMatch::parse(protocol, service.port, service.end_port, service.icmp_type, service.icmp_code);
    check_port(path, parsed, report);
}

fn check_port(path: &str, parsed: Result<PortMatch, ParsePortError>, report: &mut Report<'_>) {
    let error = match parsed {
        Err(error) => error,
        Ok(entry) => {
            if let Some(reason) = without_effect(&entry) {
                report.warning(path, format!("this selects nothing: {reason}"));
            }
            return;
        }
    };
    // A protocol is wrong whatever the ports beside it are, unless a rule about both has said so.
    let own = matches!(error, ParsePortError::Protocol(_)) && !report.is_faulty_itself(path);
    let path = if own { field(path, "protocol") } else { path.to_owned() };
    if !report.is_faulty(&path) {
        report.error(&path, error.to_string());
    }
}
