//! Actors: who the terms of consumers and providers stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_crds::IpListSpec;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::compact::LabelTerms;
use ringfence_crds::rule_set::Actor;
use ringfence_model::address::{all_ipv4, all_ipv6};
use ringfence_model::{Action, AddressSet, Constraint, Dimension, LabelValue, Labels, NamePattern, Selector, Values};

use super::limits::{GROUP_VALUES, LIST_PREFIXES};
use super::rule::{NamedList, Ref, ResolvedActor};
use super::selector::{PeerSelector, WorkloadKind, WorkloadSelector};
use super::world::Facts;
use crate::policy::Policy;

/// Why the names of a list count for nothing where it says who connects.
pub const NAMES_FROM: &str = "who connects is known by address, and not by a name; list addresses under ranges";
/// Why they count for nothing in a rule that blocks.
pub const NAMES_BLOCK: &str = "what a name leads to is not known before it is asked for, so that it cannot be blocked; list addresses under ranges";

/// Reads the actors of one RuleSet and collects what they refer to in vain.
pub struct ActorReader<'a> {
    /// Policy that they refer to.
    pub policy: &'a Policy,
    facts: &'a Facts,
    /// What they refer to, found or not: when one of these changes, the RuleSet is read again.
    pub refs: BTreeSet<Ref>,
    /// What selects nothing and why.
    pub warnings: BTreeSet<String>,
    /// Those of them about what is over a limit.
    pub over: BTreeSet<String>,
    rule: Option<String>,
    /// The selector that was read last: most rules name the same on both sides.
    last: Option<Arc<PeerSelector>>,
    /// Whether the rule blocks: what is over a limit blocks whoever it may mean, and opens nothing.
    blocks: bool,
    /// Lists and groups that were read, with the warnings about them; by name, and what for.
    lists: BTreeMap<(String, Use), Read<ResolvedActor>>,
    groups: BTreeMap<(String, bool), Read<(Dimension, Constraint)>>,
    /// Objects that lie in a scope, and objects that lie outside of one.
    inside: BTreeSet<String>,
    outside: BTreeSet<String>,
}

/// What a rule uses an IP list for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Whom to let in.
    From,
    /// Whom to let out to.
    To,
    /// Whom to block.
    Block,
}

/// What was read of an object that rules refer to.
#[derive(Debug, Clone)]
struct Read<T> {
    /// What it stands for; nothing if it selects nothing.
    found: Option<T>,
    warnings: Vec<String>,
    /// Whether it is over a limit, which the last warning says.
    over: bool,
}

/// Every rule that refers to an object repeats what is said of it: the first warnings, and the last, which says what follows.
fn few(name: &str, mut warnings: Vec<String>) -> Vec<String> {
    const MOST: usize = 10;
    if warnings.len() > MOST {
        let last = warnings.split_off(warnings.len() - 1);
        let more = warnings.len() + 1 - MOST;
        warnings.truncate(MOST - 1);
        warnings.push(format!("{name}: and {more} more of the same"));
        warnings.extend(last);
    }
    warnings
}

/// The selector of a scope or label term: dimensions AND, values of one dimension OR. Nothing if a dimension is not
/// valid, because no workload has it.
pub fn scope_selector(labels: &LabelTerms) -> Option<Selector> {
    constrain(Selector::everything(), labels, Constraint::In)
}

/// A value that is not valid is on no workload: it matches nothing.
fn constrain(selector: Selector, labels: &LabelTerms, make: fn(Values) -> Constraint) -> Option<Selector> {
    labels.iter().try_fold(selector, |selector, (name, values)| {
        let dimension: Dimension = name.parse().ok()?;
        let values: Values = values.iter().filter_map(|value| value.parse().ok()).collect();
        // "Another value than none of these" would be any value: an empty list selects nothing instead.
        let constraint = if values.is_empty() { Constraint::In(values) } else { make(values) };
        Some(selector.and(dimension, constraint))
    })
}

impl<'a> ActorReader<'a> {
    /// A reader for one RuleSet.
    pub fn new(policy: &'a Policy, facts: &'a Facts) -> Self {
        Self {
            policy,
            facts,
            refs: BTreeSet::new(),
            warnings: BTreeSet::new(),
            over: BTreeSet::new(),
            rule: None,
            last: None,
            blocks: false,
            lists: BTreeMap::new(),
            groups: BTreeMap::new(),
            inside: BTreeSet::new(),
            outside: BTreeSet::new(),
        }
    }

    /// Begins a rule.
    pub fn enter(&mut self, rule: &str, action: Action) {
        self.rule = Some(rule.to_owned());
        self.blocks = action != Action::Allow;
        self.inside.clear();
        self.outside.clear();
    }

    /// Ends a rule. An object that is named lies in one scope and outside of the others; outside of all it is in vain.
    pub fn leave(&mut self) {
        let lost: Vec<String> = self.outside.difference(&self.inside).cloned().collect();
        for object in lost {
            self.warn(&format!("{object} lies outside every scope of the RuleSet: it selects nothing"));
        }
        self.rule = None;
    }

    /// Whether an object that is named lies in a scope.
    fn in_scope(&mut self, object: String, labels: &Labels, scope: &Selector) -> bool {
        let inside = scope.matches(labels);
        let list = if inside { &mut self.inside } else { &mut self.outside };
        list.insert(object);
        inside
    }

    /// Notes something that selects nothing.
    pub fn warn(&mut self, text: &str) {
        let place = self.rule.as_ref().map(|rule| format!("rule {rule}: ")).unwrap_or_default();
        self.warnings.insert(format!("{place}{text}"));
    }

    /// Notes something that is over a limit.
    pub fn warn_over(&mut self, text: &str) {
        self.warn(text);
        self.over.insert(text.to_owned());
    }

    /// What was read, with its warnings given for this rule too.
    fn told<T>(&mut self, read: Read<T>) -> Option<T> {
        read.warnings.iter().for_each(|text| self.warn(text));
        self.over.extend(read.warnings.last().filter(|_| read.over).cloned());
        read.found
    }

    /// A term of consumers. `scope`: that of an intra-scope rule; nothing for an extra-scope rule.
    pub fn consumer(&mut self, actor: &Actor, scope: Option<&Selector>) -> Option<ResolvedActor> {
        if actor.virtual_service.is_some() {
            self.warn("a virtual service does not connect: as a consumer it selects nothing");
            return None;
        }
        self.actor(actor, scope, if self.blocks { Use::Block } else { Use::From })
    }

    /// A term of providers; the scope always holds for them.
    pub fn provider(&mut self, actor: &Actor, scope: &Selector) -> Option<ResolvedActor> {
        self.actor(actor, Some(scope), if self.blocks { Use::Block } else { Use::To })
    }

    fn actor(&mut self, actor: &Actor, scope: Option<&Selector>, list_for: Use) -> Option<ResolvedActor> {
        let everything = Selector::everything();
        let limit = scope.unwrap_or(&everything);
        if let Some(name) = &actor.ip_list {
            return self.ip_list(name, list_for);
        }
        if let Some(text) = &actor.virtual_service {
            return self.virtual_service(text, limit).map(ResolvedActor::VirtualService);
        }
        let (kind, labels) = if let Some(name) = &actor.workload {
            self.named(name, limit)?;
            (WorkloadKind::Named(name.clone()), limit.clone())
        } else if actor.container_hosts {
            self.refs.insert(Ref::Nodes);
            (WorkloadKind::ContainerHosts, limit.clone())
        } else if actor.all_workloads {
            // As extra-scope consumers: everyone who is managed, and never a machine outside.
            let kind = if scope.is_none() { WorkloadKind::Managed } else { WorkloadKind::Any };
            (kind, limit.clone())
        } else {
            (WorkloadKind::Any, self.labels(actor)?.intersect(limit))
        };
        // A term outside the scope is no mistake (another scope of the RuleSet may hold it), and selects nothing.
        (!labels.is_nothing()).then(|| ResolvedActor::Workloads(self.shared(WorkloadSelector { kind, labels })))
    }

    fn shared(&mut self, selector: WorkloadSelector) -> Arc<PeerSelector> {
        match &self.last {
            Some(last) if **last.as_ref() == selector => Arc::clone(last),
            _ => Arc::clone(self.last.insert(Arc::new(selector.into()))),
        }
    }

    /// The labels of a term: `labels`, `not` and `labelGroups` together.
    fn labels(&mut self, actor: &Actor) -> Option<Selector> {
        if actor.labels.is_empty() && actor.not.is_empty() && actor.label_groups.is_empty() {
            self.warn("a term that names nobody selects nothing");
            return None;
        }
        let read = constrain(Selector::everything(), &actor.labels, Constraint::In);
        let Some(mut selector) = read.and_then(|selector| constrain(selector, &actor.not, Constraint::NotIn)) else {
            self.warn("a term with a dimension that is not valid selects nothing");
            return None;
        };
        let mut groups: BTreeMap<Dimension, Constraint> = BTreeMap::new();
        for name in &actor.label_groups {
            let (dimension, values) = self.group(name)?;
            let both = match (groups.remove(&dimension), values) {
                (Some(Constraint::In(a)), Constraint::In(b)) => Constraint::In(a.either(&b)),
                (Some(Constraint::NotIn(any)), _) | (_, Constraint::NotIn(any)) => Constraint::NotIn(any),
                (None, values) => values,
            };
            groups.insert(dimension, both);
        }
        for (dimension, constraint) in groups {
            selector = selector.and(dimension, constraint);
        }
        if selector.is_nothing() {
            self.warn(&format!("the term '{selector}' selects nothing: a dimension without a value"));
            return None;
        }
        Some(selector)
    }

    /// Dimension and values of a group, those of the groups in it included.
    fn group(&mut self, name: &str) -> Option<(Dimension, Constraint)> {
        let key = (name.to_owned(), self.blocks);
        if !self.groups.contains_key(&key) {
            let read = self.read_group(name);
            self.groups.insert(key.clone(), Read { warnings: few(name, read.warnings), ..read });
        }
        let read = self.groups.get(&key).cloned()?;
        self.told(read)
    }

    fn read_group(&mut self, name: &str) -> Read<(Dimension, Constraint)> {
        let mut read = Read { found: None, warnings: Vec::new(), over: false };
        read.found = self.group_values(name, &mut read.warnings).and_then(|(dimension, values)| {
            read.over = values.len() > GROUP_VALUES;
            if !read.over {
                return Some((dimension, Constraint::In(values.into_iter().collect())));
            }
            let count = values.len();
            let effect = if self.blocks { "this rule blocks every value of its dimension" } else { "it opens nothing" };
            let text = format!("LabelGroup {name} comes to {count} values and at most {GROUP_VALUES} count: {effect}");
            read.warnings.push(text);
            self.blocks.then_some((dimension, Constraint::NotIn(Values::new())))
        });
        read
    }

    fn group_values(&mut self, name: &str, warnings: &mut Vec<String>) -> Option<(Dimension, BTreeSet<LabelValue>)> {
        self.refs.insert(Ref::LabelGroup(name.to_owned()));
        let Some(root) = self.policy.label_groups.get(name) else {
            warnings.push(format!("there is no LabelGroup {name}: the term selects nothing"));
            return None;
        };
        let dimension: Dimension = root.dimension.parse().ok()?;
        let mut values: BTreeSet<LabelValue> = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![name.to_owned()];
        // Groups may be written in a circle: each is read once.
        while let Some(current) = open.pop() {
            if !seen.insert(current.clone()) {
                continue;
            }
            self.refs.insert(Ref::LabelGroup(current.clone()));
            match self.policy.label_groups.get(&current) {
                None => warnings.push(format!("there is no LabelGroup {current}: it adds nothing to {name}")),
                Some(group) if group.dimension != root.dimension => {
                    warnings.push(format!("LabelGroup {current} is of another dimension: it adds nothing to {name}"));
                }
                Some(group) => {
                    values.extend(group.values.iter().filter_map(|value| value.parse::<LabelValue>().ok()));
                    open.extend(group.groups.iter().filter(|inner| !seen.contains(*inner)).cloned());
                }
            }
        }
        if values.is_empty() {
            warnings.push(format!("LabelGroup {name} is empty: the term selects nothing"));
            return None;
        }
        Some((dimension, values))
    }

    fn ip_list(&mut self, name: &str, list_for: Use) -> Option<ResolvedActor> {
        let key = (name.to_owned(), list_for);
        if !self.lists.contains_key(&key) {
            self.refs.insert(Ref::IpList(name.to_owned()));
            let read = match self.policy.ip_lists.get(name) {
                Some(list) => read_list(name, list, list_for),
                None => {
                    let warnings = vec![format!("there is no IPList {name}: it selects nothing")];
                    Read { found: None, warnings, over: false }
                }
            };
            self.lists.insert(key.clone(), Read { warnings: few(name, read.warnings), ..read });
        }
        let read = self.lists.get(&key).cloned()?;
        self.told(read)
    }

    fn virtual_service(&mut self, text: &str, scope: &Selector) -> Option<NamespacedName> {
        let key = text
            .split_once('/')
            .map(|(namespace, name)| NamespacedName { namespace: namespace.to_owned(), name: name.to_owned() })?;
        self.refs.insert(Ref::VirtualService(key.clone()));
        let facts = self.facts;
        let Some(service) = facts.services.get(&key).filter(|service| service.managed) else {
            self.warn(&format!("there is no VirtualService {text}: it selects nothing"));
            return None;
        };
        self.in_scope(format!("VirtualService {text}"), &service.labels.labels, scope).then_some(key)
    }

    /// Checks a Workload that is named.
    fn named(&mut self, name: &str, scope: &Selector) -> Option<()> {
        self.refs.insert(Ref::Workload(name.to_owned()));
        let facts = self.facts;
        let node = facts.nodes.get(name).and_then(|node| node.workload.as_ref());
        let Some(machine) = node.or_else(|| facts.machines.get(name).map(|machine| &machine.facts)) else {
            self.warn(&format!("there is no Workload {name}: it selects nothing"));
            return None;
        };
        self.in_scope(format!("Workload {name}"), &machine.labels, scope).then_some(())
    }
}

/// What a list stands for. Over the limit, it opens nothing, and blocks its ranges whatever is excluded from them.
fn read_list(name: &str, list: &IpListSpec, list_for: Use) -> Read<ResolvedActor> {
    let blocks = list_for == Use::Block;
    let mut read = Read { found: None, warnings: Vec::new(), over: false };
    let names = read_names(name, list, list_for, &mut read.warnings);
    // A range that cannot be read selects nothing; with an exclusion that cannot be read nobody knows what to
    // leave out, and the whole list selects nothing.
    let (ranges, bad) = parse_ranges(&list.ranges);
    for text in bad {
        read.warnings.push(format!("IPList {name}: the range '{text}' cannot be read and selects nothing"));
    }
    let (exclusions, bad) = parse_ranges(&list.exclusions);
    if let Some(text) = bad.first() {
        read.warnings.push(format!("IPList {name} selects nothing: its exclusion '{text}' cannot be read"));
        return read;
    }
    let (ranges, except) = (AddressSet::from_nets(ranges), AddressSet::from_nets(exclusions));
    match ranges.minus_up_to(&except, LIST_PREFIXES) {
        Some(addresses) if !names.is_empty() => {
            read.found = Some(ResolvedActor::Names(Arc::new(NamedList { addresses, names, except })));
        }
        Some(set) if set.is_empty() => read.warnings.push(format!("IPList {name} is empty and selects nothing")),
        Some(set) => read.found = Some(ResolvedActor::Addresses(Arc::new(set))),
        None => {
            let effect = if blocks { "this rule blocks what may be in it" } else { "it opens nothing" };
            let advice = "write fewer or shorter exclusions";
            let text = format!("IPList {name} comes to more than {LIST_PREFIXES} prefixes: {effect}; {advice}");
            read.warnings.push(text);
            read.over = true;
            let short = ranges.nets().len() <= LIST_PREFIXES;
            let most = || if short { ranges } else { whole_families(&ranges) };
            read.found = blocks.then(|| ResolvedActor::Addresses(Arc::new(most())));
        }
    }
    read
}

/// The names of a list that count for a rule: who a connection comes from has no name, and what a name leads to is known to
/// those only that have asked for it, so that a rule that blocks by it would block nobody.
fn read_names(name: &str, list: &IpListSpec, list_for: Use, warnings: &mut Vec<String>) -> BTreeSet<NamePattern> {
    let useless = match list_for {
        _ if list.fqdns.is_empty() => return BTreeSet::new(),
        Use::To => None,
        Use::From => Some(NAMES_FROM),
        Use::Block => Some(NAMES_BLOCK),
    };
    if let Some(why) = useless {
        warnings.push(format!("IPList {name}: its names select nothing here: {why}"));
        return BTreeSet::new();
    }
    let mut names = BTreeSet::new();
    for text in &list.fqdns {
        match text.parse() {
            Ok(pattern) => drop(names.insert(pattern)),
            Err(_) => warnings.push(format!("IPList {name}: '{text}' is no domain name and selects nothing")),
        }
    }
    names
}

/// Every address of the families that are in a set.
fn whole_families(set: &AddressSet) -> AddressSet {
    let of = |v4: bool| set.nets().iter().any(|net| net.network().is_ipv4() == v4);
    let all = [(true, all_ipv4()), (false, all_ipv6())];
    AddressSet::from_nets(all.into_iter().filter(|(v4, _)| of(*v4)).map(|(_, net)| net))
}

/// The prefixes of ranges, and the texts that are none.
fn parse_ranges(texts: &[String]) -> (Vec<IpNet>, Vec<&String>) {
    let mut nets = Vec::new();
    let mut bad = Vec::new();
    for text in texts {
        match AddressSet::parse(text) {
            Ok(parsed) => nets.extend(parsed),
            Err(_) => bad.push(text),
        }
    }
    (nets, bad)
}
