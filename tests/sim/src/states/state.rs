//! A named state: a small world, and what must be true of it.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_model::{Action, Decision, PolicyState, Verdict};
use ringfence_oracle::World;
use ringfence_oracle::world::{
    Actor, Group, IpList, Mapping, Node, Pod, Profile, Rule, RuleServices, RuleSet, Service, Workload,
};

use super::text;

/// A small world with a name, and what follows from it, written by hand from the policy model.
#[derive(Debug, Clone)]
pub struct State {
    /// Name, for messages.
    pub name: &'static str,
    /// The world.
    pub world: World,
    /// Connections, and what becomes of them.
    pub said: Vec<Said>,
    /// Every class of workloads, and the addresses of its members.
    pub classes: BTreeMap<String, BTreeSet<String>>,
    /// Pieces of warnings, by RuleSet. Every RuleSet that has warnings is here.
    pub warnings: BTreeMap<&'static str, &'static str>,
}

/// What is said of a connection.
#[derive(Debug, Clone)]
pub struct Said {
    /// The connection, as [`text::connection`] reads it.
    pub connection: &'static str,
    /// Its verdict.
    pub verdict: Verdict,
    /// Why, at the end that connects and at the end that listens.
    pub decisions: (Decision, Decision),
}

/// A rule.
pub fn rule(action: Action, consumers: &str, providers: &str, services: &str) -> Rule {
    made(action, text::actors(consumers), text::actors(providers), text::services(services))
}

fn made(action: Action, consumers: Vec<Actor>, providers: Vec<Actor>, services: RuleServices) -> Rule {
    Rule {
        name: String::new(),
        enabled: true,
        action,
        extra_scope: false,
        consumers,
        providers,
        services,
        reject: false,
    }
}

/// An Allow.
pub fn allow(consumers: &str, providers: &str, services: &str) -> Rule {
    rule(Action::Allow, consumers, providers, services)
}

/// A Deny.
pub fn deny(consumers: &str, providers: &str, services: &str) -> Rule {
    rule(Action::Deny, consumers, providers, services)
}

/// An OverrideDeny.
pub fn override_deny(consumers: &str, providers: &str, services: &str) -> Rule {
    rule(Action::OverrideDeny, consumers, providers, services)
}

/// The rule with the scope for its providers only.
pub fn extra(rule: Rule) -> Rule {
    Rule { extra_scope: true, ..rule }
}

/// The rule, switched off.
pub fn off(rule: Rule) -> Rule {
    Rule { enabled: false, ..rule }
}

impl State {
    /// Nothing is there.
    pub fn new(name: &'static str) -> Self {
        let (classes, warnings) = (BTreeMap::new(), BTreeMap::new());
        Self { name, world: World::default(), said: Vec::new(), classes, warnings }
    }

    /// The same world under another name, to change something in it. What was said of it is forgotten.
    #[must_use]
    pub fn but(self, name: &'static str) -> Self {
        Self { world: self.world, ..Self::new(name) }
    }

    /// Changes the world by hand.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut World)) -> Self {
        change(&mut self.world);
        self
    }

    /// A namespace with a profile; without a state it is unmanaged.
    #[must_use]
    pub fn namespace(self, name: &str, state: impl Into<Option<PolicyState>>, labels: &str) -> Self {
        let profile = Profile { state: state.into(), labels: text::profile(labels) };
        self.with(|world| _ = world.profiles.insert(name.to_owned(), profile))
    }

    /// A Pod on node `w1`. `chooses`: labels by annotation.
    #[must_use]
    pub fn pod(self, name: &str, addresses: &str, chooses: &str) -> Self {
        self.pod_with(name, addresses, chooses, |_| {})
    }

    /// A Pod of which something else is not as usual.
    #[must_use]
    pub fn pod_with(self, name: &str, addresses: &str, chooses: &str, change: impl FnOnce(&mut Pod)) -> Self {
        let asked = text::strings(chooses);
        let mut pod = Pod {
            node: "w1".to_owned(),
            addresses: text::addresses(addresses),
            annotations: asked.into_iter().map(|(name, value)| (format!("ringfence.dev/{name}"), value)).collect(),
            ..Pod::default()
        };
        change(&mut pod);
        self.with(|world| _ = world.pods.insert(text::key(name), pod))
    }

    /// A Service, `selector` by Kubernetes labels; without a ClusterIP it is headless.
    #[must_use]
    pub fn service(self, name: &str, cluster_ips: &str, selector: &str, ports: &str) -> Self {
        let service = Service {
            selector: text::strings(selector),
            cluster_ips: text::addresses(cluster_ips),
            ports: text::service_ports(ports),
            ..Service::default()
        };
        self.with(|world| _ = world.services.insert(text::key(name), service))
    }

    /// A slice of a Service that was written before.
    #[must_use]
    pub fn slice(self, service: &str, name: &str, endpoints: &str, ports: &str) -> Self {
        let slice = text::slice(endpoints, ports);
        self.with(|world| {
            let service = world.services.get_mut(&text::key(service));
            service.map(|service| service.slices.insert(name.to_owned(), slice));
        })
    }

    /// A node.
    #[must_use]
    pub fn node(self, name: &str, addresses: &str) -> Self {
        let node = Node { addresses: text::addresses(addresses).into_iter().collect(), ..Node::default() };
        self.with(|world| _ = world.nodes.insert(name.to_owned(), node))
    }

    /// A Workload: labels of a node, or an unmanaged machine.
    #[must_use]
    pub fn workload(self, name: &str, addresses: &str, labels: &str) -> Self {
        let addresses = text::addresses(addresses).into_iter().collect();
        let workload = Workload { labels: text::labels(labels), addresses };
        self.with(|world| _ = world.workloads.insert(name.to_owned(), workload))
    }

    /// An IPList.
    #[must_use]
    pub fn list(self, name: &str, ranges: &str, exclusions: &str) -> Self {
        let list = IpList { ranges: text::ranges(ranges), exclusions: text::ranges(exclusions) };
        self.with(|world| _ = world.ip_lists.insert(name.to_owned(), list))
    }

    /// A LabelGroup of dimension `app`: values, and groups in it as `@NAME`.
    #[must_use]
    pub fn group(self, name: &str, content: &str) -> Self {
        let words = || content.split_whitespace();
        let group = Group {
            dimension: text::parsed("app"),
            values: words().filter(|word| !word.starts_with('@')).map(text::parsed).collect(),
            groups: words().filter_map(|word| word.strip_prefix('@')).map(str::to_owned).collect(),
        };
        self.with(|world| _ = world.groups.insert(name.to_owned(), group))
    }

    /// A ServiceDefinition.
    #[must_use]
    pub fn definition(self, name: &str, ports: &str) -> Self {
        let ports = ports.split_whitespace().map(text::port).collect();
        self.with(|world| _ = world.definitions.insert(name.to_owned(), ports))
    }

    /// A RuleSet; its rules are called `x0`, `x1`, …. A scope is written as [`text::terms`], one that is empty is everything.
    #[must_use]
    pub fn rules(self, name: &str, scopes: &[&str], rules: impl IntoIterator<Item = Rule>) -> Self {
        let rules = rules.into_iter().enumerate();
        let set = RuleSet {
            enabled: true,
            scopes: scopes.iter().map(|scope| text::terms(scope)).collect(),
            rules: rules.map(|(number, rule)| Rule { name: format!("x{number}"), ..rule }).collect(),
        };
        self.with(|world| _ = world.rule_sets.insert(name.to_owned(), set))
    }

    /// A line of the label map of Pods: the Kubernetes label becomes the policy label.
    #[must_use]
    pub fn label_map(self, from: &str, to: &str) -> Self {
        let line = Mapping { from: from.to_owned(), to: text::parsed(to), values: BTreeMap::new() };
        self.with(|world| world.settings.pod_label_map.push(line))
    }

    /// A Pod network.
    #[must_use]
    pub fn network(self, name: &str, range: &str) -> Self {
        let network = (name.to_owned(), text::ranges(range));
        self.with(|world| world.settings.networks.push(network))
    }

    /// What becomes of a connection, and why at either end.
    #[must_use]
    pub fn says(
        mut self,
        connection: &'static str,
        verdict: Verdict,
        decisions: impl Into<(Decision, Decision)>,
    ) -> Self {
        self.said.push(Said { connection, verdict, decisions: decisions.into() });
        self
    }

    /// A class of workloads, such as `app=web|pods`, and the addresses of all of its members.
    #[must_use]
    pub fn class(mut self, class: &str, members: &str) -> Self {
        self.classes.insert(class.to_owned(), members.split_whitespace().map(str::to_owned).collect());
        self
    }

    /// Warnings of a RuleSet hold this piece.
    #[must_use]
    pub fn warns(mut self, rule_set: &'static str, piece: &'static str) -> Self {
        self.warnings.insert(rule_set, piece);
        self
    }
}
