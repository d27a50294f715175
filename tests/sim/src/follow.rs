//! A compiler that follows its inputs, held after every update against one that is made anew.

use std::collections::BTreeMap;
use std::fmt::Debug;

use ringfence_compile::cluster::ClusterState;
use ringfence_compile::compile::{Changes, Compiler, Computed, Dirty};
use ringfence_compile::evaluate::Evaluator;
use ringfence_compile::policy::Policy;
use ringfence_oracle::World;

use crate::convert;

/// A compiler with the inputs that it was given last.
#[derive(Debug, Clone)]
pub struct Follower {
    policy: Policy,
    cluster: ClusterState,
    compiler: Compiler,
}

impl Follower {
    /// One that begins with a world.
    pub fn of(world: &World) -> Self {
        let (policy, cluster) = convert::inputs(world);
        let compiler = Compiler::new(&policy, &cluster);
        Self { policy, cluster, compiler }
    }

    /// The inputs of the last update.
    pub fn inputs(&self) -> (&Policy, &ClusterState) {
        (&self.policy, &self.cluster)
    }

    /// What the compiler has made of them.
    pub fn computed(&self) -> &Computed {
        self.compiler.computed()
    }

    /// Answers questions about them.
    pub fn evaluator(&self) -> Evaluator<'_> {
        Evaluator::new(&self.compiler, &self.policy, &self.cluster)
    }

    /// Follows to a world, its differences marked.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn follow(&mut self, world: &World) -> Result<Changes, String> {
        let (policy, cluster) = convert::inputs(world);
        self.follow_to(policy, cluster)
    }

    /// Follows to new inputs, their differences marked.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn follow_to(&mut self, policy: Policy, cluster: ClusterState) -> Result<Changes, String> {
        let dirty = Dirty::between((&self.policy, &self.cluster), (&policy, &cluster));
        self.update(policy, cluster, dirty)
    }

    /// Follows to new inputs with these marks.
    ///
    /// # Errors
    /// What differs from a compiler made anew, or from what is said to have changed.
    pub fn update(&mut self, policy: Policy, cluster: ClusterState, dirty: Dirty) -> Result<Changes, String> {
        let before = self.compiler.computed().clone();
        let changes = self.compiler.update(&policy, &cluster, dirty);
        (self.policy, self.cluster) = (policy, cluster);
        let anew = Compiler::new(&self.policy, &self.cluster);
        same(self.compiler.computed(), anew.computed())?;
        let truly = Changes::between(&before, anew.computed());
        let mut told = changes.clone();
        told.others = true;
        if told != truly {
            return Err(format!("said to have changed: {changes:?}\nchanged: {truly:?}"));
        }
        if !changes.others && others_differ(&before, anew.computed()) {
            return Err("what is shown or warned of changed, and the changes do not say so".to_owned());
        }
        Ok(changes)
    }
}

/// Whether anything differs that [`Changes`] does not name one by one.
fn others_differ(before: &Computed, after: &Computed) -> bool {
    let rest = |computed: &Computed| Computed {
        node_policies: BTreeMap::new(),
        workload_policies: BTreeMap::new(),
        peer_groups: BTreeMap::new(),
        address_groups: BTreeMap::new(),
        service_warnings: BTreeMap::new(),
        hidden_sources: BTreeMap::new(),
        virtual_services: BTreeMap::new(),
        workloads: BTreeMap::new(),
        ..computed.clone()
    };
    rest(before) != rest(after)
}

fn same(followed: &Computed, anew: &Computed) -> Result<(), String> {
    if followed == anew {
        return Ok(());
    }
    macro_rules! differing {
        ($($field:ident),*) => {$(
            if followed.$field != anew.$field {
                let what = stringify!($field);
                return Err(format!("{what}: {}", first_difference(&followed.$field, &anew.$field)));
            }
        )*};
    }
    if followed.cluster_warnings != anew.cluster_warnings {
        return Err(format!("followed: {:#?}\nanew: {:#?}", followed.cluster_warnings, anew.cluster_warnings));
    }
    differing!(
        node_policies,
        workload_policies,
        peer_groups,
        address_groups,
        warnings,
        service_warnings,
        hidden_sources,
        virtual_services,
        workloads,
        container_workloads
    );
    Err("a field that is not compared".to_owned())
}

fn first_difference<K: Ord + Debug, V: PartialEq + Debug>(followed: &BTreeMap<K, V>, anew: &BTreeMap<K, V>) -> String {
    let keys = followed.keys().chain(anew.keys());
    let differing = keys.filter(|key| followed.get(key) != anew.get(key)).min();
    differing.map_or_else(String::new, |key| {
        format!("{key:?} followed: {:#?}\nmade anew: {:#?}", followed.get(key), anew.get(key))
    })
}
