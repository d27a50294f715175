//! What an agent watches is enough: its Pods get what they would get if it watched everything.

use ringfence_compile::compile::Compiler;
use ringfence_dataplane::{ObjectStore, Resolution, Resolver};
use ringfence_sim::node;
use ringfence_sim::shapes::{self, Shape};

const NODE: &str = "node-0";

/// What the agent reads, and a store of everything.
fn both(shape: &Shape) -> (node::Read, ObjectStore) {
    let mut sent = Vec::new();
    node::send(shape, NODE, &mut sent).expect("memory");
    let read = node::receive(sent.as_slice()).expect("what was sent");
    let compiler = Compiler::new(&shape.policy, &shape.cluster);
    let computed = compiler.computed();
    let everything = ObjectStore {
        peer_groups: computed.peer_groups.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect(),
        address_groups: computed.address_groups.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect(),
        ..read.store.clone()
    };
    (read, everything)
}

fn resolved(store: &ObjectStore, read: &node::Read) -> Vec<Resolution> {
    let mut resolver = Resolver::new(store);
    read.pods.iter().map(|pod| resolver.resolve(pod, &[])).collect()
}

#[test]
fn it_is_enough() {
    for (shape, pods) in [(shapes::isolated_customers(50, 100, 10), 20), (shapes::marked(5, 100, 62), 20)] {
        let (read, everything) = both(&shape);
        assert_eq!(read.pods.len(), pods);
        let resolved_here = resolved(&read.store, &read);
        assert!(resolved_here.iter().all(|resolution| matches!(resolution, Resolution::Enforce(_))));
        assert!(resolved_here == resolved(&everything, &read));
    }
}

/// Pods of twenty of a hundred customers: twenty PeerGroups and sixty classes, and what shares a bucket with them.
#[test]
fn it_is_little_more_than_what_concerns_its_pods() {
    let (read, everything) = both(&shapes::isolated_customers(50, 100, 10));
    // Three tiers of a hundred customers, and fifty nodes.
    assert_eq!((everything.peer_groups.len(), everything.address_groups.len()), (100, 350));
    assert!((20..30).contains(&read.store.peer_groups.len()), "{}", read.store.peer_groups.len());
    assert!((60..90).contains(&read.store.address_groups.len()), "{}", read.store.address_groups.len());
}
