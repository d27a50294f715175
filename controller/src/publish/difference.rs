//! The writes that bring the objects of one computed kind to what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use ringfence_crds::{
    AddressGroup, AddressGroupSpec, NodePolicy, NodePolicySpec, PeerGroup, PeerGroupSpec, Revision, WorkloadPolicy,
    WorkloadPolicySpec, names,
};
use serde::Serialize;
use serde_json::json;

use super::look;
use crate::engine::world::{Index, cluster_wide};
use crate::write::{Operation, Target, Write};

/// A kind of computed object.
pub trait Published: ResourceExt {
    /// What it says.
    type Spec: Clone + PartialEq + Serialize;
    /// The kind, for writes.
    const TARGET: Target;
    /// What this one says.
    fn spec(&self) -> &Self::Spec;
    /// The revision that it was published in.
    fn published_in(&self) -> Revision;
    /// The revision within a spec.
    fn revision(spec: &mut Self::Spec) -> &mut Revision;
    /// Where it came from does not count as content: what did not change is not written.
    fn ignore(_spec: &mut Self::Spec) {}
    /// The bucket that it lies in, for a kind that has buckets.
    fn bucket(_name: &str, _spec: &Self::Spec) -> Option<String> {
        None
    }

    /// Whether it says what is wanted, in this epoch, and agents that watch its bucket find it.
    fn same(&self, name: &str, wanted: &Self::Spec, epoch: i64) -> bool {
        let found = labels::<Self>(name, wanted).iter().all(|(key, value)| self.labels().get(*key) == Some(value));
        let mut known = self.spec().clone();
        let mut wanted = wanted.clone();
        let current = Self::revision(&mut known).epoch == epoch;
        *Self::revision(&mut wanted) = *Self::revision(&mut known);
        Self::ignore(&mut known);
        Self::ignore(&mut wanted);
        found && current && known == wanted
    }
}

macro_rules! published {
    ($kind:ident, $spec:ident { $($extra:item)* }) => {
        impl Published for $kind {
            type Spec = $spec;
            const TARGET: Target = Target::$kind;
            fn spec(&self) -> &$spec {
                &self.spec
            }
            fn published_in(&self) -> Revision {
                self.spec.revision
            }
            fn revision(spec: &mut $spec) -> &mut Revision {
                &mut spec.revision
            }
            $($extra)*
        }
    };
}
published!(NodePolicy, NodePolicySpec {});
published!(WorkloadPolicy, WorkloadPolicySpec {
    fn ignore(spec: &mut WorkloadPolicySpec) {
        spec.commit = None;
    }
});
published!(PeerGroup, PeerGroupSpec {
    fn bucket(name: &str, _spec: &PeerGroupSpec) -> Option<String> {
        Some(if name == names::MARKER { names::BUCKET_MARKER.to_owned() } else { names::bucket(name).to_string() })
    }
});
published!(AddressGroup, AddressGroupSpec {
    fn bucket(_name: &str, spec: &AddressGroupSpec) -> Option<String> {
        let everywhere = spec.exposed.is_some() || spec.class == names::CLASS_GATES;
        Some(if everywhere { names::BUCKET_EXPOSED.to_owned() } else { names::bucket(&spec.class).to_string() })
    }
});

/// Writes that bring the objects of one kind to what is wanted.
pub struct Difference {
    /// What is new or has changed.
    pub upserts: Vec<Write>,
    /// What is not wanted any more.
    pub deletions: Vec<Write>,
}

/// What to write so that of one kind there is what is wanted and nothing else, as far as is looked at: `names`, or all
/// without any.
pub fn difference<K: Published>(
    known: &Index<K>,
    wanted: &BTreeMap<String, K::Spec>,
    names: Option<&BTreeSet<String>>,
    revision: Revision,
) -> Difference {
    let mut upserts = Vec::new();
    for (name, spec) in look::wanted(wanted, names) {
        let live = known.get(&cluster_wide(name));
        if live.is_none_or(|live| !live.same(name, spec, revision.epoch)) {
            upserts.push(upsert(live, name, spec.clone(), revision));
        }
    }
    let gone = look::seen(known, names).filter(|(key, _)| key.name != names::MARKER && !wanted.contains_key(&key.name));
    let deletions = gone
        .map(|(key, object)| Write {
            target: K::TARGET,
            key: key.clone(),
            operation: Operation::Delete(object.uid().unwrap_or_default()),
        })
        .collect();
    Difference { upserts, deletions }
}

/// The labels of an object.
fn labels<K: Published + ?Sized>(name: &str, spec: &K::Spec) -> BTreeMap<&'static str, String> {
    K::bucket(name, spec).map(|bucket| (names::LABEL_BUCKET, bucket)).into_iter().collect()
}

/// Replaced whole, so that nothing that somebody added by hand is left.
pub fn upsert<K: Published>(live: Option<&K>, name: &str, mut spec: K::Spec, revision: Revision) -> Write {
    *K::revision(&mut spec) = revision;
    let labels = labels::<K>(name, &spec);
    let operation = match live {
        None => Operation::Create(names::MANAGER_CONTROLLER, json!({ "metadata": { "labels": labels }, "spec": spec })),
        Some(live) => {
            let metadata = json!({ "labels": labels, "resourceVersion": live.resource_version() });
            Operation::Replace(names::MANAGER_CONTROLLER, json!({ "metadata": metadata, "spec": spec }))
        }
    };
    Write { target: K::TARGET, key: cluster_wide(name), operation }
}
