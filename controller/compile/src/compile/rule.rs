//! Rules as they are once they are resolved: the one form that emission and the evaluator read, so that they cannot
//! differ.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;
use ringfence_model::{Action, AddressSet, NamePattern, Services};
use smol_str::SmolStr;

use super::selector::PeerSelector;

/// A rule of one RuleSet in one scope.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedRule {
    /// Name of the RuleSet.
    pub rule_set: SmolStr,
    /// The scope as one line.
    pub scope: SmolStr,
    /// Name of the rule.
    pub name: SmolStr,
    /// What it does.
    pub action: Action,
    /// Reject instead of drop.
    pub reject: bool,
    /// Who connects.
    pub consumers: Vec<ResolvedActor>,
    /// Who listens.
    pub providers: Vec<ResolvedActor>,
    /// On what.
    pub services: RuleServices,
}

/// The services of a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleServices {
    /// As the rule states them.
    Stated(Services),
    /// The ports of the virtual services that are its providers.
    VirtualServicePorts,
}

impl RuleServices {
    /// The ports of workloads and addresses that the rule covers.
    pub fn stated(&self) -> Option<&Services> {
        match self {
            Self::Stated(services) => Some(services),
            Self::VirtualServicePorts => None,
        }
    }
}

/// One term of consumers or providers.
#[derive(Debug, Clone, PartialEq)]
pub enum ResolvedActor {
    /// Workloads.
    Workloads(Arc<PeerSelector>),
    /// The addresses of an IP list, its exclusions taken out.
    Addresses(Arc<AddressSet>),
    /// The same with the names of the list: of an Allow towards it.
    Names(Arc<NamedList>),
    /// A Service of a managed namespace.
    VirtualService(NamespacedName),
}

/// An IP list with names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NamedList {
    /// Its addresses, its exclusions taken out.
    pub addresses: AddressSet,
    /// Its names.
    pub names: BTreeSet<NamePattern>,
    /// Where its names open nothing: its exclusions.
    pub except: AddressSet,
}

impl ResolvedActor {
    /// The addresses that are known to be meant; nothing if it is no IP list. Those of names only the Pods know that ask for
    /// them.
    pub fn addresses(&self) -> Option<&AddressSet> {
        match self {
            Self::Addresses(set) => Some(set),
            Self::Names(list) => Some(&list.addresses),
            Self::Workloads(_) | Self::VirtualService(_) => None,
        }
    }

    /// What it comes to, counted as [`RULE_SET_ITEMS`](super::limits::RULE_SET_ITEMS) is.
    pub fn items(&self) -> usize {
        match self {
            Self::Workloads(selector) => {
                1 + selector.labels.constraints().map(|(_, asked)| asked.values().len()).sum::<usize>()
            }
            Self::Addresses(set) => 1 + set.nets().len(),
            Self::Names(list) => 1 + list.addresses.nets().len() + list.names.len() + list.except.nets().len(),
            Self::VirtualService(_) => 1,
        }
    }
}

/// What the rules of a RuleSet refer to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ref {
    /// An IPList.
    IpList(String),
    /// A LabelGroup.
    LabelGroup(String),
    /// A ServiceDefinition.
    ServiceDefinition(String),
    /// A VirtualService: whether it is there, and its labels.
    VirtualService(NamespacedName),
    /// A Workload: whether it is there, and its labels.
    Workload(String),
    /// Which nodes there are, and their labels.
    Nodes,
}

/// The rules of a RuleSet that are switched on.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// The rules, by scope and name.
    pub rules: Vec<ResolvedRule>,
    /// What selects nothing and why.
    pub warnings: Vec<String>,
    /// Those of the warnings about what is over a limit.
    pub over: BTreeSet<String>,
    /// What they come to, counted as [`RULE_SET_ITEMS`](super::limits::RULE_SET_ITEMS) is.
    pub items: usize,
    /// What they refer to, found or not.
    pub refs: BTreeSet<Ref>,
}
