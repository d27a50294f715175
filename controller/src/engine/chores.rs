//! Chores: what is due beside publishing. Objects that Kubelink keeps, every status, Events.

pub mod due;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use ringfence_compile::compile::Computed;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::{LabelGroupSpec, ObjectStatus};
use serde::Serialize;
use serde_json::json;

use super::world::World;
use crate::kubelink::refusals::{self, Notice};
use crate::kubelink::{cluster, profiles, virtual_services, workloads};
use crate::publish::Memory;
use crate::publish::refused::Reasons;
use crate::status::rule_set::Rules;
use crate::status::{self, Ready, Reports};
use crate::write::{self, Operation, Outcome, Target, Write};
use due::Due;

/// What need not be done again.
#[derive(Debug, Default)]
pub struct Settled {
    told: BTreeSet<Notice>,
    kubernetes_version: Option<String>,
}

impl Settled {
    /// Notes what was done, and forgets what does not concern anybody any more.
    pub fn note(&mut self, told: Vec<Notice>, kubernetes_version: Option<String>, computed: &Computed) {
        self.told.extend(told);
        let live = refusals::notices(computed);
        self.told.retain(|notice| live.contains(notice));
        self.kubernetes_version = kubernetes_version.or(self.kubernetes_version.take());
    }
}

/// What is due.
#[derive(Debug)]
pub struct Chores {
    /// Objects and statuses to write.
    pub writes: Vec<Write>,
    /// Refusals to tell.
    pub notices: Vec<Notice>,
    /// Whether to ask for the version of Kubernetes.
    ask_version: bool,
    now: Time,
}

/// What came of chores.
pub struct Done {
    /// What was learned about objects.
    pub outcomes: Vec<(Write, Outcome)>,
    /// Refusals that were told.
    pub notices: Vec<Notice>,
    /// The version of Kubernetes, when it was asked for.
    pub kubernetes_version: Option<String>,
    /// Whether everything was done.
    pub complete: bool,
}

impl Chores {
    /// Everything that is not as it should be, of VirtualServices and Workloads as far as is looked at. `published` says whether all that is known has been published: else
    /// nothing can be said about policy yet, since what nodes have acknowledged is older than what it asks for now.
    pub fn plan(
        world: &World,
        computed: &Computed,
        memory: &Memory,
        published: bool,
        settled: &Settled,
        look: &Due,
        now: &Time,
    ) -> Self {
        let version = settled.kubernetes_version.as_deref();
        let reasons = memory.refused.reasons(computed);
        let mut writes = [
            profiles::plan(world),
            cluster::plan(world, computed, &reasons.cluster, version, now),
            workloads::plan(world, computed, look.workloads(), now),
            virtual_services::plan(world, computed, look.services(), now),
            definition_statuses(world, now),
        ]
        .concat();
        if published {
            writes.extend(policy_statuses(world, computed, memory, &reasons, now));
        }
        let notices = refusals::notices(computed).difference(&settled.told).cloned().collect();
        Self { writes, notices, ask_version: version.is_none(), now: now.clone() }
    }

    /// Whether nothing is due.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.notices.is_empty() && !self.ask_version
    }

    /// Does everything.
    pub async fn carry_out(self, client: Client, instance: String) -> Done {
        let mut done = Done { outcomes: Vec::new(), notices: Vec::new(), kubernetes_version: None, complete: true };
        for (write, result) in write::all(&client, self.writes).await {
            match result {
                Ok(outcome) => {
                    done.complete &= write::took(&write, &outcome);
                    done.outcomes.push((write, outcome));
                }
                Err(_) => done.complete = false,
            }
        }
        let due = self.notices.len();
        done.notices = refusals::tell(&client, &instance, self.notices, &self.now).await;
        done.complete &= done.notices.len() == due;
        if self.ask_version {
            match client.apiserver_version().await {
                Ok(version) => done.kubernetes_version = Some(version.git_version),
                Err(error) => {
                    tracing::warn!(%error, "failed to read the version of Kubernetes, trying again");
                    done.complete = false;
                }
            }
        }
        done
    }
}

/// The same for a profile, whose status says what agents enforce: what was put in force meanwhile is not undone.
fn of_version(write: Write, version: Option<String>) -> Write {
    match (write.operation, version) {
        (Operation::Status(status), Some(version)) => {
            Write { operation: Operation::StatusOf(version, status), ..write }
        }
        (operation, _) => Write { operation, ..write },
    }
}

fn due<S: Serialize + PartialEq>(target: Target, key: &NamespacedName, known: Option<&S>, status: &S) -> Option<Write> {
    (known != Some(status)).then(|| Write { target, key: key.clone(), operation: Operation::Status(json!(status)) })
}

fn policy_statuses(world: &World, computed: &Computed, memory: &Memory, reasons: &Reasons, now: &Time) -> Vec<Write> {
    let since = &memory.since;
    let reports = Reports::of(world);
    let enforced = world.first_cluster().is_none_or(|cluster| cluster.spec.enforcement.is_enforced());
    let suspended = (!enforced)
        .then(|| Ready::no("Suspended", "ContainerCluster.spec.enforcement is Suspended: nothing is in force"));
    let rule_sets = world.rule_sets.iter().filter_map(|(key, rule_set)| {
        let rules = Rules {
            since: since.rule_set(&key.name),
            warnings: computed.warnings.get(&key.name).map_or(&[][..], Vec::as_slice),
            refused: reasons.rule_sets.get(&key.name).map(String::as_str),
        };
        let mut status = status::rule_set::status(rule_set, rules, &reports, now);
        if let Some(ready) = &suspended {
            let previous = rule_set.status.as_ref().map_or(&[][..], |status| &status.conditions);
            status.conditions = ready.conditions(previous, rule_set.metadata.generation, now);
        }
        due(Target::RuleSet, key, rule_set.status.as_ref(), &status)
    });
    let profiles = world.profiles.iter().filter_map(|(key, profile)| {
        let uid = world.cluster.namespaces.get(&key.name).map(|info| info.uid.as_str());
        let mut status = status::profile::status(profile, uid, since.of_profile(&key.name), &reports, now);
        if let Some(ready) = suspended.as_ref().filter(|_| profile.spec.managed) {
            let previous = profile.status.as_ref().map_or(&[][..], |status| &status.conditions);
            status.conditions = ready.conditions(previous, profile.metadata.generation, now);
        }
        let write = due(Target::ContainerWorkloadProfile, key, profile.status.as_ref(), &status)?;
        Some(of_version(write, profile.metadata.resource_version.clone()))
    });
    rule_sets.chain(profiles).collect()
}

fn definition_statuses(world: &World, now: &Time) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut push = |target, key: &NamespacedName, known: Option<&ObjectStatus>, status: ObjectStatus| {
        writes.extend(due(target, key, known, &status));
    };
    for (key, list) in &world.ip_lists {
        let problem = status::definitions::ip_list_problem(&list.spec);
        let status = status::definitions::status(list, list.status.as_ref(), problem, now);
        push(Target::IpList, key, list.status.as_ref(), status);
    }
    for (key, service) in &world.service_definitions {
        let problem = status::definitions::service_problem(&service.spec);
        let status = status::definitions::status(service, service.status.as_ref(), problem, now);
        push(Target::ServiceDefinition, key, service.status.as_ref(), status);
    }
    let groups: BTreeMap<&str, &LabelGroupSpec> =
        world.label_groups.iter().map(|(key, group)| (key.name.as_str(), &group.spec)).collect();
    for (key, group) in &world.label_groups {
        let problem = status::definitions::label_group_problem(&key.name, &groups);
        let status = status::definitions::status(group, group.status.as_ref(), problem, now);
        push(Target::LabelGroup, key, group.status.as_ref(), status);
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::world::cluster_wide;
    use k8s_openapi::jiff::Timestamp;
    use ringfence_compile::cluster::NamespaceInfo;
    use ringfence_crds::container_cluster::Enforcement;
    use ringfence_crds::node_policy::NodePolicyStatus;
    use ringfence_crds::{
        ContainerCluster, ContainerClusterSpec, ContainerWorkloadProfile, ContainerWorkloadProfileSpec, NodePolicy,
        NodePolicySpec, Revision, RuleSet, RuleSetSpec,
    };

    /// A RuleSet and a profile of generation 2, and a node that has everything in force that was published.
    fn edited() -> World {
        let mut world = World::default();
        let mut rule_set = RuleSet::new("shop", RuleSetSpec { enabled: true, ..RuleSetSpec::default() });
        rule_set.metadata.generation = Some(2);
        world.rule_sets.insert(cluster_wide("shop"), rule_set);
        let mut profile = ContainerWorkloadProfile::new("shop", ContainerWorkloadProfileSpec::default());
        profile.metadata.generation = Some(2);
        world.profiles.insert(cluster_wide("shop"), profile);
        world.cluster.namespaces.insert("shop".to_owned(), NamespaceInfo::default());
        world.cluster.namespaces.insert("new".to_owned(), NamespaceInfo::default());
        let mut node = NodePolicy::new("node1", NodePolicySpec::default());
        let acknowledged = Some(Revision { epoch: 0, number: 7 });
        node.status = Some(NodePolicyStatus { acknowledged, ..NodePolicyStatus::default() });
        world.node_policies.insert(cluster_wide("node1"), node);
        world
    }
    fn steps(published: bool) -> Vec<String> {
        let (memory, settled) = (Memory::default(), Settled::default());
        let now = Time(Timestamp::UNIX_EPOCH);
        let chores =
            Chores::plan(&edited(), &Computed::default(), &memory, published, &settled, &Due::Everything, &now);
        chores.writes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn while_enforcement_is_suspended_no_policy_is_ready() {
        let mut world = edited();
        let spec = ContainerClusterSpec { enforcement: Enforcement::Suspended, ..ContainerClusterSpec::default() };
        world.clusters.insert(cluster_wide("this"), ContainerCluster::new("this", spec));
        world.profiles.values_mut().for_each(|profile| profile.spec.managed = true);
        let (computed, memory, now) = (Computed::default(), Memory::default(), Time(Timestamp::UNIX_EPOCH));
        let writes = policy_statuses(&world, &computed, &memory, &memory.refused.reasons(&computed), &now);
        assert_eq!(writes.len(), 2, "the RuleSet and the profile");
        for write in writes {
            let text = format!("{:?}", write.operation);
            assert!(text.contains("Suspended") && !text.contains("InForce"), "{text}");
        }
    }

    #[test]
    fn policy_is_not_called_ready_while_something_newer_waits_to_be_published() {
        let others = ["create ContainerWorkloadProfile new", "create ContainerCluster this"];
        assert_eq!(steps(false), others, "discovery goes on");
        let statuses = ["report RuleSet shop", "report ContainerWorkloadProfile shop"];
        assert_eq!(steps(true), [others, statuses].concat());
    }

    #[test]
    fn a_report_on_a_profile_undoes_nothing_that_is_put_in_force_meanwhile() {
        let mut world = edited();
        let profile = world.profiles.get_mut(&cluster_wide("shop")).expect("it is there");
        profile.metadata.resource_version = Some("7".to_owned());
        let memory = Memory::default();
        let reasons = memory.refused.reasons(&Computed::default());
        let writes = policy_statuses(&world, &Computed::default(), &memory, &reasons, &Time(Timestamp::UNIX_EPOCH));
        let write = writes.iter().find(|write| write.target == Target::ContainerWorkloadProfile).expect("it is due");
        assert!(matches!(&write.operation, Operation::StatusOf(version, _) if version == "7"), "{write:?}");
    }
}
