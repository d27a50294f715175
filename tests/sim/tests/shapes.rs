//! The shapes of the benchmarks, small: what the compiler makes of them, written by hand.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use ringfence_compile::compile::{Compiler, Computed, Dirty, Input};
use ringfence_compile::evaluate::{Endpoint, Evaluator};
use ringfence_model::{Protocol, Verdict};
use ringfence_sim::shapes::{self, Shape, pod_key};

fn compiled(shape: &Shape) -> Computed {
    Compiler::new(&shape.policy, &shape.cluster).into_computed()
}

/// Whether TCP connections pass: `(from, to, port)`, Pods by namespace and number.
fn passes(shape: &Shape, connections: &[((&str, usize), (&str, usize), u16)]) -> Vec<bool> {
    let compiler = Compiler::new(&shape.policy, &shape.cluster);
    let evaluator = Evaluator::new(&compiler, &shape.policy, &shape.cluster);
    let pod = |(namespace, number): (&str, usize)| Endpoint::Pod(pod_key(namespace, number));
    let verdicts = connections.iter().map(|(from, to, port)| {
        evaluator.explain(&pod(*from), &pod(*to), Protocol::TCP, *port).unwrap().verdict == Verdict::Allowed
    });
    verdicts.collect()
}

/// Members of every class of Pods, by its text.
fn members(computed: &Computed) -> BTreeMap<String, Vec<String>> {
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for group in computed.address_groups.values().filter(|group| group.class_text.ends_with("|pods")) {
        let own = members.entry(group.class_text.clone()).or_default();
        own.extend(group.members.iter().map(|member| member.address.to_string()));
        own.sort();
    }
    members
}

fn rules(computed: &Computed) -> usize {
    computed.workload_policies.values().map(|policy| policy.rules.len()).sum()
}

#[test]
fn small_namespaces() {
    let shape = shapes::small_namespaces(2, 2);
    let computed = compiled(&shape);
    let expected = [
        ("app=app-0,ns=ns-0|pods", ["10.0.0.1", "10.0.0.3"]),
        ("app=app-0,ns=ns-1|pods", ["10.0.0.5", "10.0.0.7"]),
        ("app=app-1,ns=ns-0|pods", ["10.0.0.2", "10.0.0.4"]),
        ("app=app-1,ns=ns-1|pods", ["10.0.0.6", "10.0.0.8"]),
    ];
    let expected = expected.map(|(class, list)| (class.to_owned(), list.map(str::to_owned).to_vec()));
    assert_eq!(members(&computed), BTreeMap::from(expected));
    // Two policies in each namespace have a rule, and each rule is programmed at both of its ends.
    assert_eq!((computed.workload_policies.len(), rules(&computed), computed.peer_groups.len()), (4, 8, 4));
    assert!(computed.peer_groups.values().all(|group| group.classes.len() == 1));
    let asked = [
        (("ns-0", 0), ("ns-0", 2), 80),
        (("ns-0", 0), ("ns-0", 2), 81),
        (("ns-0", 0), ("ns-0", 1), 80),
        (("ns-0", 0), ("ns-1", 4), 80),
        (("ns-1", 7), ("ns-1", 5), 80),
    ];
    assert_eq!(passes(&shape, &asked), [true, false, false, false, true]);
}

#[test]
fn large_namespaces() {
    let shape = shapes::large_namespaces(2, 20);
    let computed = compiled(&shape);
    assert_eq!(members(&computed).values().map(Vec::len).collect::<Vec<_>>(), [10, 10, 10, 10]);
    assert_eq!((computed.workload_policies.len(), rules(&computed)), (4, 8));
    let asked = [(("ns-0", 0), ("ns-0", 18), 80), (("ns-0", 0), ("ns-0", 1), 80), (("ns-0", 0), ("ns-1", 20), 80)];
    assert_eq!(passes(&shape, &asked), [true, false, false]);
}

#[test]
fn one_namespace() {
    let shape = shapes::one_namespace(3, 2);
    let computed = compiled(&shape);
    assert_eq!(members(&computed).len(), 1);
    // All policies ask for the same peers.
    assert_eq!((computed.workload_policies.len(), rules(&computed), computed.peer_groups.len()), (2, 4, 1));
    let asked = [(("ns", 0), ("ns", 1), 1), (("ns", 2), ("ns", 0), 2), (("ns", 0), ("ns", 1), 3)];
    assert_eq!(passes(&shape, &asked), [true, true, false]);
}

#[test]
fn policy_per_pod() {
    let shape = shapes::policy_per_pod(3);
    let computed = compiled(&shape);
    assert_eq!((members(&computed).len(), computed.workload_policies.len(), computed.peer_groups.len()), (3, 3, 3));
    // Each Pod may be reached by the next one, and by no other.
    let asked = [
        (("ns", 1), ("ns", 0), 80),
        (("ns", 2), ("ns", 1), 80),
        (("ns", 0), ("ns", 2), 80),
        (("ns", 2), ("ns", 0), 80),
        (("ns", 0), ("ns", 1), 80),
    ];
    assert_eq!(passes(&shape, &asked), [true, true, true, false, false]);
}

#[test]
fn cluster_scoped() {
    let shape = shapes::cluster_scoped(20, 10, 20);
    assert_eq!(compiled(&shape).workload_policies.len(), 20);
    // Policy 0 lets ten namespaces, 17 among them and 1 not, reach app-0 of namespace 0 on port 1.
    let asked = [(("ns-17", 173), ("ns-0", 0), 1), (("ns-1", 13), ("ns-0", 0), 1), (("ns-17", 173), ("ns-0", 1), 1)];
    assert_eq!(passes(&shape, &asked), [true, false, false]);
}

#[test]
fn isolated_customers() {
    let shape = shapes::isolated_customers(1000, 2, 3);
    let computed = compiled(&shape);
    assert_eq!(members(&computed).len(), 6, "three tiers of two customers");
    assert_eq!(computed.workload_policies.len(), 2);
    let asked = [(("customer-0", 0), ("customer-0", 2), 443), (("customer-0", 0), ("customer-1", 3), 443)];
    assert_eq!(passes(&shape, &asked), [true, false]);
}

/// A class of more members than one slice holds goes with all of its slices, when its namespace is not managed any more.
#[test]
fn a_large_class_dies_as_a_whole() {
    let mut shape = shapes::one_group(150);
    let mut compiler = Compiler::new(&shape.policy, &shape.cluster);
    let slices = |computed: &Computed| {
        computed.address_groups.values().filter(|group| group.class_text.ends_with("|pods")).count()
    };
    assert_eq!(slices(compiler.computed()), 2);
    shape.policy.profiles.get_mut("ns").unwrap().managed = false;
    let mut dirty = Dirty::default();
    dirty.mark(Input::Profile("ns".to_owned()));
    compiler.update(&shape.policy, &shape.cluster, dirty);
    assert_eq!(slices(compiler.computed()), 0);
    assert!(*compiler.computed() == compiled(&shape));
}
