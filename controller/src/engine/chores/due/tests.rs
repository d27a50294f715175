//! Chores that look at what is marked find all that is due.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use ringfence_compile::cluster::{NamespaceInfo, NodeInfo, ServiceInfo};
use ringfence_compile::compile::{Computed, ComputedWorkload};
use ringfence_crds::node_policy::NodePolicyStatus;
use ringfence_crds::{
    NodePolicy, NodePolicySpec, VirtualService, VirtualServiceSpec, VirtualServiceStatus, Workload, WorkloadSpec,
};

use super::*;
use crate::engine::world::{World, cluster_wide};
use crate::kubelink::watch::Change;
use crate::kubelink::{virtual_services, workloads};
use crate::write::{Operation, Target, Write};

/// Numbers that look random and come again with the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn change<T>(key: NamespacedName, value: Option<T>) -> Change<T> {
    match value {
        Some(value) => Change::Applied(key, value),
        None => Change::Deleted(key),
    }
}

/// One change of the cluster, of what is computed, or of an object that somebody edits.
fn step(random: &mut Random, world: &mut World, computed: &mut Computed) {
    let service = NamespacedName { namespace: format!("ns{}", random.below(2)), name: format!("s{}", random.below(3)) };
    let node = format!("n{}", random.below(3));
    let there = random.below(3) > 0;
    let before = computed.clone();
    let input = match random.below(9) {
        0 => {
            let info = NamespaceInfo { uid: String::new(), terminating: random.below(2) == 0 };
            Input::Namespace(change(cluster_wide(service.namespace), there.then_some(info)))
        }
        1 => Input::Service(change(service, there.then(ServiceInfo::default))),
        2 => {
            let object = VirtualService::new(&service.name, VirtualServiceSpec::default());
            Input::VirtualService(change(service, there.then_some(object)))
        }
        3 => {
            let info = NodeInfo { machine_id: format!("m{}", random.below(2)), ..NodeInfo::default() };
            Input::Node(change(cluster_wide(node), there.then_some(info)))
        }
        4 => {
            let mut policy = NodePolicy::new(&node, NodePolicySpec::default());
            let machine_id = Some(format!("m{}", random.below(2)));
            policy.status = Some(NodePolicyStatus { machine_id, ..NodePolicyStatus::default() });
            Input::NodePolicy(change(cluster_wide(node), there.then_some(policy)))
        }
        5 => {
            let object = Workload::new(&node, WorkloadSpec::default());
            Input::Workload(change(cluster_wide(node), there.then_some(object)))
        }
        6 => {
            let label_text = Some(random.below(3).to_string());
            let shown = VirtualServiceStatus { label_text, ..VirtualServiceStatus::default() };
            put(&mut computed.virtual_services, service, there.then_some(shown));
            return world.due.add_computed(&Changes::between(&before, computed));
        }
        7 => {
            put(&mut computed.service_warnings, service, there.then(|| vec![random.below(3).to_string()]));
            return world.due.add_computed(&Changes::between(&before, computed));
        }
        _ => {
            let role = ["worker", "unmanaged"][usize::from(random.below(2) == 0)].to_owned();
            let shown = ComputedWorkload { role, ..ComputedWorkload::default() };
            put(&mut computed.workloads, node, there.then_some(shown));
            return world.due.add_computed(&Changes::between(&before, computed));
        }
    };
    world.take(input);
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

fn plan(world: &World, computed: &Computed, look: &Due) -> Vec<Write> {
    let now = Time(Timestamp::UNIX_EPOCH);
    let mut writes = virtual_services::plan(world, computed, look.services(), &now);
    writes.extend(workloads::plan(world, computed, look.workloads(), &now));
    writes
}

/// What a watch tells of a write.
fn carry_out(world: &mut World, write: &Write) {
    macro_rules! told {
        ($index:ident, $kind:ident, $input:ident) => {{
            let known = world.$index.get(&write.key).cloned();
            let object = match &write.operation {
                Operation::Create(_, content) => {
                    let mut object = $kind::new(&write.key.name, Default::default());
                    let labels = content["metadata"]["labels"].clone();
                    object.metadata.labels = serde_json::from_value(labels).expect("what was planned");
                    Some(object)
                }
                Operation::Delete(_) => None,
                Operation::Replace(..) => panic!("{write:?}"),
                Operation::Status(status) | Operation::StatusOf(_, status) => known.map(|mut object| {
                    object.status = Some(serde_json::from_value(status.clone()).expect("what was planned"));
                    object
                }),
            };
            world.take(Input::$input(change(write.key.clone(), object)));
        }};
    }
    match write.target {
        Target::VirtualService => told!(virtual_services, VirtualService, VirtualService),
        Target::Workload => told!(workloads, Workload, Workload),
        other => panic!("{other:?}"),
    }
}

#[test]
fn random_changes_and_failures() {
    let mut random = Random(1);
    let (mut world, mut computed) = (World::default(), Computed::default());
    let mut planned = 0;
    for _ in 0..20_000 {
        step(&mut random, &mut world, &mut computed);
        let look = std::mem::replace(&mut world.due, Due::nowhere());
        let writes = plan(&world, &computed, &look);
        assert_eq!(writes, plan(&world, &computed, &Due::Everything), "{look:?}");
        planned += writes.len();
        let mut complete = true;
        for write in &writes {
            if random.below(4) == 0 {
                complete = false;
            } else {
                carry_out(&mut world, write);
            }
        }
        if !complete {
            world.due.merge(look);
        }
    }
    assert!(planned > 5_000, "{planned} writes show little");
}
