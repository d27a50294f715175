//! Clusters in the shapes that the field publishes, said in Ringfence's terms: those of Antrea's controller
//! (`networkpolicy_controller_perf_test.go`) and of Felix's calculation graph (`calc_graph_bench_test.go`).
//!
//! A policy of theirs is a RuleSet of one rule, a Kubernetes label is a policy label that the Pod's annotation chooses,
//! and a policy that only isolates is the profile's state Full.

use std::net::{IpAddr, Ipv4Addr};

use ringfence_compile::cluster::{ClusterState, NamespaceInfo, NodeInfo, PodInfo};
use ringfence_compile::policy::Policy;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::compact::LabelTerms;
use ringfence_crds::container_workload_profile::DimensionLabels;
use ringfence_crds::rule_set::{Actor, PolicyRule, Scope, ServiceRef};
use ringfence_crds::{ContainerWorkloadProfileSpec, RuleSetSpec};
use ringfence_model::{Action, PolicyState};

/// Policy and cluster.
#[derive(Debug, Default)]
pub struct Shape {
    /// The policy.
    pub policy: Policy,
    /// The cluster.
    pub cluster: ClusterState,
}

type Pairs = Vec<(&'static str, String)>;

/// The key of a Pod.
pub fn pod_key(namespace: &str, number: usize) -> NamespacedName {
    NamespacedName { namespace: namespace.to_owned(), name: format!("pod-{number}") }
}

/// The nth address of a Pod: 10.0.0.1 and on.
pub fn address(number: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0001 + u32::try_from(number).unwrap_or(u32::MAX - 0x0a00_0001)).into()
}

fn one_of(pairs: &[(&str, &str)]) -> LabelTerms {
    let mut terms = LabelTerms::with_capacity(pairs.len());
    for (dimension, value) in pairs {
        terms.insert((*dimension).into(), vec![(*value).into()]);
    }
    terms
}

/// A term that selects by label.
pub fn term(pairs: &[(&str, &str)]) -> Actor {
    Actor { labels: one_of(pairs), ..Actor::default() }
}

/// A RuleSet of one rule on a TCP port.
pub fn rule_set(scope: &[(&str, &str)], consumers: Vec<Actor>, providers: Vec<Actor>, port: i32) -> RuleSetSpec {
    let service = ServiceRef { protocol: Some("TCP".to_owned()), port: Some(port), ..ServiceRef::default() };
    let rule = PolicyRule {
        name: "allow".to_owned(),
        enabled: true,
        action: Action::Allow,
        extra_scope: false,
        consumers,
        providers,
        services: vec![service],
        all_services: false,
        use_virtual_service_ports: false,
        reject: false,
    };
    RuleSetSpec { enabled: true, scopes: vec![Scope { labels: one_of(scope) }], rules: vec![rule] }
}

impl Shape {
    /// With this many nodes.
    pub fn new(nodes: usize) -> Self {
        let mut shape = Self::default();
        shape.cluster.uid = "6c1f0a3e-0000-4000-8000-000000000000".to_owned();
        for number in 0..nodes {
            let own = Ipv4Addr::from(0xac10_0001 + u32::try_from(number).unwrap_or_default());
            let node = NodeInfo { addresses: [own.into()].into(), ..NodeInfo::default() };
            shape.cluster.nodes.insert(format!("node-{number}"), node);
        }
        shape
    }

    /// A managed namespace in Full: these dimensions are fixed, and those a Pod may choose.
    pub fn namespace(&mut self, name: &str, fixed: &[(&str, &str)], chosen: &[(&str, Vec<String>)]) {
        self.cluster.namespaces.insert(name.to_owned(), NamespaceInfo::default());
        let fixed = fixed.iter().map(|(dimension, value)| {
            (
                (*dimension).to_owned(),
                DimensionLabels { value: Some((*value).to_owned()), ..DimensionLabels::default() },
            )
        });
        let chosen = chosen.iter().map(|(dimension, allowed)| {
            ((*dimension).to_owned(), DimensionLabels { allowed: allowed.clone(), ..DimensionLabels::default() })
        });
        let spec = ContainerWorkloadProfileSpec {
            managed: true,
            policy_state: Some(PolicyState::Full),
            labels: fixed.chain(chosen).collect(),
            ..ContainerWorkloadProfileSpec::default()
        };
        self.policy.profiles.insert(name.to_owned(), spec);
    }

    /// A Pod with the labels that its annotations choose.
    pub fn pod(&mut self, namespace: &str, number: usize, labels: &Pairs) {
        let nodes = self.cluster.nodes.len().max(1);
        let annotations = labels.iter().map(|(dimension, value)| (format!("ringfence.dev/{dimension}"), value.clone()));
        let pod = PodInfo {
            uid: format!("{number:08x}-0000-4000-8000-000000000000"),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            annotations: annotations.collect(),
            node: Some(format!("node-{}", number % nodes)),
            ips: vec![address(number)],
            ..PodInfo::default()
        };
        self.cluster.pods.insert(pod_key(namespace, number), pod);
    }
}

fn values(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

/// Antrea's `InitXSmallNamespaces`: namespaces of four Pods, three policies each: one that isolates (Full), and two that
/// let a half of the namespace reach itself.
pub fn small_namespaces(namespaces: usize, nodes: usize) -> Shape {
    let mut shape = Shape::new(nodes);
    for number in 0..namespaces {
        let name = format!("ns-{number}");
        shape.namespace(&name, &[("ns", &name)], &[("app", values("app-", 2))]);
        for pod in 0..4 {
            shape.pod(&name, number * 4 + pod, &vec![("app", format!("app-{}", pod % 2))]);
        }
        shape.policy.rule_sets.insert(format!("{name}-deny"), isolating(&name));
        for app in ["app-0", "app-1"] {
            let own = || vec![term(&[("app", app)])];
            shape.policy.rule_sets.insert(format!("{name}-{app}"), rule_set(&[("ns", &name)], own(), own(), 80));
        }
    }
    shape
}

/// What isolates: it selects the namespace and allows nothing.
fn isolating(namespace: &str) -> RuleSetSpec {
    RuleSetSpec { enabled: true, scopes: vec![Scope { labels: one_of(&[("ns", namespace)]) }], rules: Vec::new() }
}

/// Antrea's `InitXLargeNamespaces`: namespaces of a thousand Pods of a hundred apps, and a hundred and one policies each.
pub fn large_namespaces(namespaces: usize, pods: usize) -> Shape {
    let mut shape = Shape::new(1000);
    let apps = (pods / 10).max(1);
    for number in 0..namespaces {
        let name = format!("ns-{number}");
        shape.namespace(&name, &[("ns", &name)], &[("app", values("app-", apps))]);
        for pod in 0..pods {
            shape.pod(&name, number * pods + pod, &vec![("app", format!("app-{}", pod % apps))]);
        }
        shape.policy.rule_sets.insert(format!("{name}-deny"), isolating(&name));
        for app in values("app-", apps) {
            let own = || vec![term(&[("app", &app)])];
            shape.policy.rule_sets.insert(format!("{name}-{app}"), rule_set(&[("ns", &name)], own(), own(), 80));
        }
    }
    shape
}

/// Antrea's `InitXLargeOneNamespace`: policies that all select all Pods of one namespace, each on a port of its own.
pub fn one_namespace(pods: usize, policies: usize) -> Shape {
    let mut shape = Shape::new(1000);
    shape.namespace("ns", &[("ns", "ns")], &[]);
    (0..pods).for_each(|pod| shape.pod("ns", pod, &Vec::new()));
    for number in 0..policies {
        let everyone = || vec![Actor { all_workloads: true, ..Actor::default() }];
        let port = 1 + i32::try_from(number % 65_000).unwrap_or(0);
        shape
            .policy
            .rule_sets
            .insert(format!("policy-{number}"), rule_set(&[("ns", "ns")], everyone(), everyone(), port));
    }
    shape
}

/// As many policies as Pods, each of which selects one Pod and lets one other reach it.
pub fn policy_per_pod(pods: usize) -> Shape {
    let mut shape = Shape::new(1000);
    shape.namespace("ns", &[("ns", "ns")], &[("id", values("id-", pods))]);
    for pod in 0..pods {
        shape.pod("ns", pod, &vec![("id", format!("id-{pod}"))]);
        let (own, other) = (format!("id-{pod}"), format!("id-{}", (pod + 1) % pods));
        let spec = rule_set(&[("ns", "ns")], vec![term(&[("id", &other)])], vec![term(&[("id", &own)])], 80);
        shape.policy.rule_sets.insert(format!("policy-{pod}"), spec);
    }
    shape
}

/// Policies of the whole cluster, the peers of each of which are in ten namespaces.
pub fn cluster_scoped(namespaces: usize, pods_each: usize, policies: usize) -> Shape {
    let mut shape = Shape::new(1000);
    for number in 0..namespaces {
        let name = format!("ns-{number}");
        shape.namespace(&name, &[("ns", &name)], &[("app", values("app-", 10))]);
        for pod in 0..pods_each {
            shape.pod(&name, number * pods_each + pod, &vec![("app", format!("app-{}", pod % 10))]);
        }
    }
    for number in 0..policies {
        let peers = (0..10).map(|step| format!("ns-{}", (number + step * 97) % namespaces).into()).collect();
        let labels = LabelTerms::from_iter([("ns".into(), peers)]);
        let from = Actor { labels, ..Actor::default() };
        let (own, app) = (format!("ns-{}", number % namespaces), format!("app-{}", number % 10));
        let to = term(&[("ns", &own), ("app", &app)]);
        let port = 1 + i32::try_from(number % 65_000).unwrap_or(0);
        shape.policy.rule_sets.insert(format!("policy-{number}"), rule_set(&[], vec![from], vec![to], port));
    }
    shape
}

/// Felix's isolated customers: Pods with fifteen labels each, and policies that let a customer's Pods reach each other.
pub fn isolated_customers(nodes: usize, customers: usize, pods_each: usize) -> Shape {
    let mut shape = Shape::new(nodes);
    let dimensions: [&'static str; 13] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "da", "db", "dc"];
    for number in 0..customers {
        let name = format!("customer-{number}");
        let mut chosen: Vec<(&str, Vec<String>)> =
            dimensions.iter().map(|dimension| (*dimension, vec!["x".to_owned(), "y".to_owned()])).collect();
        chosen.push(("tier", values("tier-", 3)));
        shape.namespace(&name, &[("customer", &name)], &chosen);
        for pod in 0..pods_each {
            let mut labels: Pairs = dimensions.iter().map(|dimension| (*dimension, "x".to_owned())).collect();
            labels.push(("tier", format!("tier-{}", pod % 3)));
            shape.pod(&name, number * pods_each + pod, &labels);
        }
        let own = || vec![term(&[("customer", &name)])];
        shape.policy.rule_sets.insert(name.clone(), rule_set(&[("customer", &name)], own(), own(), 443));
    }
    shape
}

/// Felix's `benchInitialSnap` with tag policies: Pods of a hundred namespaces with five labels that nobody asks for and one
/// of 29 marks (two of them twice as often), and policies of five rules, each of which lets the Pods of one mark reach
/// those of another. In effect every Pod is the peer of some Pod of every node.
pub fn marked(nodes: usize, pods: usize, policies: usize) -> Shape {
    const SPREADS: [(&str, usize); 5] =
        [("one-in-10", 10), ("one-in-11", 11), ("one-in-20", 20), ("one-in-30", 30), ("one-in-40", 40)];
    let mark = |number: usize| match number % 31 {
        1 => "mark-0".to_owned(),
        30 => "mark-20".to_owned(),
        other => format!("mark-{other}"),
    };
    let mut shape = Shape::new(nodes);
    let mut chosen: Vec<(&str, Vec<String>)> =
        SPREADS.iter().map(|(dimension, count)| (*dimension, values("value-", *count))).collect();
    chosen.push(("mark", values("mark-", 31)));
    for number in 0..100 {
        shape.namespace(&format!("ns-{number}"), &[], &chosen);
    }
    for number in 0..pods {
        let mut labels: Pairs =
            SPREADS.iter().map(|(dimension, count)| (*dimension, format!("value-{}", number % count))).collect();
        labels.push(("mark", mark(number)));
        shape.pod(&format!("ns-{}", number % 100), number, &labels);
    }
    for number in 0..policies {
        let marked = |number: usize| vec![term(&[("mark", &mark(number))])];
        let mut spec = rule_set(&[], Vec::new(), marked(number), 80);
        let mut rules = Vec::new();
        for step in 0..5 {
            rules.extend(spec.rules.iter().map(|rule| PolicyRule {
                name: format!("from-{step}"),
                consumers: marked(number + step),
                services: Vec::new(),
                all_services: true,
                ..rule.clone()
            }));
        }
        spec.rules = rules;
        shape.policy.rule_sets.insert(format!("policy-{number}"), spec);
    }
    shape
}

/// One class of `members` Pods that one rule lets reach itself.
pub fn one_group(members: usize) -> Shape {
    let mut shape = Shape::new(1000);
    shape.namespace("ns", &[("ns", "ns")], &[("app", values("app-", 2))]);
    (0..members).for_each(|pod| shape.pod("ns", pod, &vec![("app", "app-0".to_owned())]));
    for app in ["app-0", "app-1"] {
        let own = || vec![term(&[("app", app)])];
        shape.policy.rule_sets.insert(format!("allow-{app}"), rule_set(&[("ns", "ns")], own(), own(), 80));
    }
    shape
}
