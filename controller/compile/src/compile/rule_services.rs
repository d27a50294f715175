//! The services of a rule: ports in place, and those of ServiceDefinitions.

use std::collections::BTreeSet;

use ringfence_crds::rule_set::{PolicyRule, ServiceRef};
use ringfence_crds::{PortSpec, ServiceDefinitionSpec};
use ringfence_model::{PortMatch, Services};

use super::actors::ActorReader;
use super::rule::{Ref, RuleServices};
use super::unprogrammed::without_effect;

/// The services of a rule; nothing when it has none.
pub fn read_services(rule: &PolicyRule, reader: &mut ActorReader<'_>) -> Option<RuleServices> {
    if rule.use_virtual_service_ports {
        return Some(RuleServices::VirtualServicePorts);
    }
    if rule.all_services {
        return Some(RuleServices::Stated(Services::All));
    }
    let ports: BTreeSet<PortMatch> = rule.services.iter().flat_map(|service| read_service(service, reader)).collect();
    if ports.is_empty() {
        reader.warn("it names no port and so selects nothing");
        return None;
    }
    Some(RuleServices::Stated(Services::Only(ports)))
}

fn definition<'a>(name: &str, reader: &mut ActorReader<'a>) -> Option<&'a ServiceDefinitionSpec> {
    reader.refs.insert(Ref::ServiceDefinition(name.to_owned()));
    reader.policy.service_definitions.get(name)
}

fn read_service(service: &ServiceRef, reader: &mut ActorReader<'_>) -> Vec<PortMatch> {
    let ports = match (&service.name, &service.protocol) {
        (Some(name), _) => match definition(name, reader) {
            Some(definition) if definition.ports.is_empty() => {
                reader.warn(&format!("ServiceDefinition {name} is empty and selects nothing"));
                return Vec::new();
            }
            Some(definition) => definition.ports.clone(),
            None => {
                reader.warn(&format!("there is no ServiceDefinition {name}: it selects nothing"));
                return Vec::new();
            }
        },
        (None, Some(protocol)) => vec![PortSpec {
            protocol: protocol.clone(),
            port: service.port,
            end_port: service.end_port,
            icmp_type: service.icmp_type,
            icmp_code: service.icmp_code,
        }],
        (None, None) => {
            reader.warn("a service without name and protocol selects nothing");
            return Vec::new();
        }
    };
    let mut matches = Vec::new();
    for port in &ports {
        match PortMatch::try_from(port) {
            Ok(port) => {
                if let Some(reason) = without_effect(&port) {
                    reader.warn(&format!("a service selects nothing: {reason}"));
                }
                matches.push(port);
            }
            Err(error) => reader.warn(&format!("a service selects nothing: {error}")),
        }
    }
    matches
}
