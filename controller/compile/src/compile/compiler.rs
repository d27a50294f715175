//! The incremental compiler: marks in, changes out.
//!
//! Goals, and the design that meets them:
//! 1. What comes out is a function of policy and cluster as they are now, whatever the order in which they became so:
//!    the compiler holds facts and indexes, never a history, and each pairs what it adds with what it takes away. A
//!    compiler that is made anew says the same; tests hold the two together after every step.
//! 2. The cost of a Pod event depends on the number of groups that its class is in: not on the size of the groups, the
//!    number of Pods or the number of rules. It touches the Pod's facts, its addresses, and one slice of its class. Two
//!    things cost more, because what has to be written is larger: a Pod behind a Service has that Service's ends written
//!    anew, and a class that is born or dies has the PeerGroups that it is in written anew.
//! 3. Whatever depends on something else is found by an index and not by looking at everything: addresses know who
//!    claims them, Services which addresses they lead to, RuleSets what they refer to, classes which groups select them.
//!
//! An update goes once through the order of dependence:
//!
//! ```text
//! marks ─► nodes, machines, Pods ─► addresses ─► Services ─► RuleSets ─► classes, groups, slices ─► NodePolicies
//!          (labels, claims)         (owners)     (back ends)  (rules)
//! ```

mod exposed;
mod groups;
mod output;
mod pods;
mod rules;
mod services;
mod todo;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;
use rustc_hash::FxHashMap;

use super::Computed;
use super::addresses::{Claim, Name};
use super::dirty::Dirty;
use super::limits::POLICY_ITEMS;
use super::namespaces::Namespaces;
use super::peers::{GroupId, PeerGroups};
use super::pods::Pods;
use super::resolve;
use super::rule_sets::RuleSets;
use super::settings::Settings;
use super::world::{Facts, World};
use crate::cluster::ClusterState;
use crate::policy::Policy;
pub use output::Changes;
use services::ServiceIndex;
use todo::Todo;

/// Policy and cluster as facts, and what is written from them.
#[derive(Debug, Clone)]
pub struct Compiler {
    facts: Facts,
    namespaces: Namespaces,
    groups: PeerGroups,
    services: ServiceIndex,
    /// The group of all nodes, while a node's own traffic has a policy: nodes are essential to one another.
    hosts: Option<GroupId>,
    /// The virtual services whose Pods are exposed on every node.
    exposed: BTreeSet<NamespacedName>,
    /// Claims of the apiserver.
    apiserver: BTreeSet<IpAddr>,
    /// Per node, how many addresses of its Pods lie in which Pod network, if there are several.
    seen: BTreeMap<Name, BTreeMap<u16, usize>>,
    /// What was counted there, by address.
    counted: FxHashMap<IpAddr, (Name, u16)>,
    /// Pods of which an address is not told to peers, with the addresses that two claim.
    disputes: BTreeMap<Arc<NamespacedName>, Vec<IpAddr>>,
    computed: Computed,
}

/// Inputs of one update.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    policy: &'a Policy,
    cluster: &'a ClusterState,
}

impl Compiler {
    /// Knows nothing yet.
    fn empty(inputs: Inputs<'_>) -> Self {
        let facts = Facts {
            settings: Settings::new(inputs.policy, inputs.cluster),
            book: Default::default(),
            classes: Default::default(),
            pods: Pods::default(),
            nodes: BTreeMap::new(),
            machines: BTreeMap::new(),
            services: BTreeMap::new(),
            rule_sets: RuleSets::default(),
        };
        Self {
            facts,
            namespaces: Namespaces::default(),
            groups: PeerGroups::default(),
            services: ServiceIndex::default(),
            hosts: None,
            exposed: BTreeSet::new(),
            apiserver: BTreeSet::new(),
            seen: BTreeMap::new(),
            counted: FxHashMap::default(),
            disputes: BTreeMap::new(),
            computed: Computed::default(),
        }
    }

    /// What of RuleSets is over a limit, by RuleSet, as far as policy alone tells: without a cluster, names of what only
    /// the cluster makes stand for nothing. Ends with the RuleSet at which all together are too much.
    pub(crate) fn over_limits(policy: &Policy) -> BTreeMap<&str, Vec<String>> {
        let cluster = ClusterState::default();
        let facts = Self::empty(Inputs { policy, cluster: &cluster }).facts;
        let mut over: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut items = 0_usize;
        for (name, spec) in &policy.rule_sets {
            let resolved = resolve::resolve(name, spec, policy, &facts);
            if !resolved.over.is_empty() {
                over.insert(name, resolved.over.into_iter().collect());
            }
            items = items.saturating_add(resolved.items);
            if items > POLICY_ITEMS {
                let advice = "use fewer scopes, or shorter lists";
                let text = format!(
                    "with it, the RuleSets come to more than {POLICY_ITEMS} rules, terms, label values and prefixes over all \
                     of their scopes: {advice}"
                );
                over.entry(name).or_default().push(text);
                break;
            }
        }
        over
    }

    /// Compiles everything.
    pub fn new(policy: &Policy, cluster: &ClusterState) -> Self {
        let inputs = Inputs { policy, cluster };
        let mut compiler = Self::empty(inputs);
        compiler.run(inputs, Todo::everything(), &mut Changes::not_noted());
        compiler
    }

    /// Looks at what is marked, and says what changed by it. `policy` and `cluster` are what the compiler was given before,
    /// but for what is marked: a difference without a mark is not seen.
    pub fn update(&mut self, policy: &Policy, cluster: &ClusterState, dirty: Dirty) -> Changes {
        let inputs = Inputs { policy, cluster };
        if dirty.is_everything() {
            let before = std::mem::replace(self, Self::new(policy, cluster)).computed;
            return Changes::between(&before, &self.computed);
        }
        let todo = self.find_work(inputs, dirty);
        let mut changes = Changes::default();
        self.run(inputs, todo, &mut changes);
        changes
    }

    /// Everything that follows from policy and cluster.
    pub fn computed(&self) -> &Computed {
        &self.computed
    }

    /// The same, by value.
    pub fn into_computed(self) -> Computed {
        self.computed
    }

    /// Inputs and facts together, for the evaluator. The inputs are those of the last update.
    pub(crate) fn world<'a>(&'a self, policy: &'a Policy, cluster: &'a ClusterState) -> World<'a> {
        World { policy, cluster, facts: &self.facts, computed: &self.computed }
    }

    fn run(&mut self, inputs: Inputs<'_>, mut todo: Todo, changes: &mut Changes) {
        self.read_nodes(inputs, &mut todo);
        self.read_machines(inputs, &mut todo);
        self.read_pods(inputs, &mut todo, changes);
        self.claim_for_services(inputs, &mut todo);
        self.settle_addresses(inputs, &mut todo, changes);
        self.read_services(inputs, &mut todo, changes);
        self.write_gates(&todo, changes);
        let dead = self.settle_classes(changes);
        self.read_rule_sets(inputs, &mut todo, changes);
        self.hold_hosts();
        self.write_groups(dead, changes);
        self.write_machines(inputs, &todo, changes);
        self.write_node_policies(inputs, &todo, changes);
        self.write_warnings(inputs, &todo, changes);
    }

    /// The apiserver and the Services claim their addresses.
    fn claim_for_services(&mut self, inputs: Inputs<'_>, todo: &mut Todo) {
        if todo.apiserver && self.apiserver != inputs.cluster.apiserver_addresses {
            let now = inputs.cluster.apiserver_addresses.clone();
            for address in std::mem::replace(&mut self.apiserver, now) {
                self.facts.book.release(address, &Claim::Apiserver);
            }
            self.apiserver.iter().for_each(|address| self.facts.book.claim(*address, Claim::Apiserver));
        }
        let Self { services, facts, .. } = self;
        todo.services.each(&inputs.cluster.services, |key| {
            services.claim(key, inputs.cluster.services.get(key), &mut facts.book);
        });
    }
}

/// Keys of a namespace among those of a map.
fn of_namespace<'m, V>(
    map: &'m BTreeMap<NamespacedName, V>,
    namespace: &str,
) -> impl Iterator<Item = &'m NamespacedName> {
    let first = NamespacedName { namespace: namespace.to_owned(), name: String::new() };
    let namespace = namespace.to_owned();
    map.range(first..).map(|(key, _)| key).take_while(move |key| key.namespace == namespace)
}
