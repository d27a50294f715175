//! What is written does not depend on the order of events.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use ringfence_compile::cluster::ClusterState;
use ringfence_compile::compile::{Compiler, Computed, Dirty, Input};
use ringfence_compile::policy::Policy;
use ringfence_oracle::World;
use ringfence_sim::convert;
use ringfence_sim::random::Random;

/// Puts one object into the inputs, and marks it.
type Event = Box<dyn Fn(&mut Policy, &mut ClusterState, &mut Dirty)>;

/// An event for each object of one kind.
fn each<K: Ord + Clone + 'static, V: Clone + 'static>(
    all: &BTreeMap<K, V>,
    place: for<'i> fn(&'i mut Policy, &'i mut ClusterState) -> &'i mut BTreeMap<K, V>,
    mark: fn(K) -> Input,
) -> Vec<Event> {
    let events = all.clone().into_iter().map(|(key, value)| {
        let event = move |policy: &mut Policy, cluster: &mut ClusterState, dirty: &mut Dirty| {
            place(policy, cluster).insert(key.clone(), value.clone());
            dirty.mark(mark(key.clone()));
        };
        Box::new(event) as Event
    });
    events.collect()
}

fn events(policy: &Policy, cluster: &ClusterState) -> Vec<Event> {
    [
        each(&policy.profiles, |policy, _| &mut policy.profiles, Input::Profile),
        each(&policy.rule_sets, |policy, _| &mut policy.rule_sets, Input::RuleSet),
        each(&policy.ip_lists, |policy, _| &mut policy.ip_lists, Input::IpList),
        each(&policy.label_groups, |policy, _| &mut policy.label_groups, Input::LabelGroup),
        each(&policy.service_definitions, |policy, _| &mut policy.service_definitions, Input::ServiceDefinition),
        each(&policy.workloads, |policy, _| &mut policy.workloads, Input::Workload),
        each(&policy.virtual_services, |policy, _| &mut policy.virtual_services, Input::VirtualService),
        each(&cluster.nodes, |_, cluster| &mut cluster.nodes, Input::Node),
        each(&cluster.pods, |_, cluster| &mut cluster.pods, Input::Pod),
        each(&cluster.services, |_, cluster| &mut cluster.services, Input::Service),
        each(&cluster.endpoint_slices, |_, cluster| &mut cluster.endpoint_slices, Input::EndpointSlice),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The computed objects as they are written.
fn bytes(computed: &Computed) -> Vec<u8> {
    let Computed { node_policies, workload_policies, peer_groups, address_groups, .. } = computed;
    let objects = serde_json::to_vec(&(node_policies, workload_policies, peer_groups, address_groups)).unwrap();
    let services: Vec<_> = computed.virtual_services.iter().collect();
    [objects, serde_json::to_vec(&services).unwrap(), format!("{:?}", computed.warnings).into_bytes()].concat()
}

#[test]
fn the_order_of_events_does_not_matter() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut world = World::default();
        (0..300).for_each(|_| random.change(&mut world));
        let (policy, cluster) = convert::inputs(&world);
        let expected = bytes(Compiler::new(&policy, &cluster).computed());
        for _ in 0..5 {
            let mut left = events(&policy, &cluster);
            let (mut now, mut there) = (
                Policy { cluster: policy.cluster.clone(), ..Policy::default() },
                ClusterState { uid: cluster.uid.clone(), ..ClusterState::default() },
            );
            let mut compiler = Compiler::new(&now, &there);
            while !left.is_empty() {
                // Sometimes several at once, and sometimes one of them twice.
                let mut dirty = Dirty::default();
                for _ in 0..=random.below(3) {
                    if !left.is_empty() {
                        let event = left.swap_remove(random.below(left.len()));
                        event(&mut now, &mut there, &mut dirty);
                        if random.chance(10) {
                            left.push(event);
                        }
                    }
                }
                compiler.update(&now, &there, dirty);
            }
            assert!(bytes(compiler.computed()) == expected, "seed {seed}");
        }
    }
}
