//! `ringfence status`: the cluster, its nodes, what is in force, and what is not Ready.

use anyhow::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Client, Resource, ResourceExt};
use ringfence_crds::{
    ContainerCluster, ContainerWorkloadProfile, IpList, LabelGroup, NodePolicy, PolicyRepository, Revision, RuleSet,
    ServiceDefinition, VirtualService, Workload, WorkloadPolicy, names,
};
use ringfence_model::PolicyState;
use serde::Serialize;

use crate::table::table;
use crate::{Format, Outcome, live};

/// Arguments of `ringfence status`.
#[derive(clap::Args)]
#[command(after_help = "\
MATCHED says whether the machine-id of the agent and that of Kubernetes agree. IN FORCE is the newest policy revision
that the node's agent has acknowledged, of the newest published.

Example:
  ringfence status -o json")]
pub struct Arguments {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Everything that is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    cluster: Option<ClusterLine>,
    /// Newest published policy revision, `epoch.number`.
    published: Option<String>,
    nodes: Vec<NodeLine>,
    profiles: Vec<ProfileLine>,
    repositories: Vec<RepositoryLine>,
    rule_sets: usize,
    not_ready: Vec<NotReady>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterLine {
    name: String,
    uid: String,
    kubernetes_version: String,
    kubelink_version: String,
    kubelink_last_contact: String,
    nodes_matched: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeLine {
    name: String,
    role: String,
    matched: String,
    agent_version: String,
    acknowledged: Option<String>,
    /// Whether what is published is in force on the node.
    current: bool,
    pods_enforced: Option<i32>,
    problems: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProfileLine {
    namespace: String,
    wanted_state: Option<PolicyState>,
    enforced_state: Option<PolicyState>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RepositoryLine {
    namespace: String,
    name: String,
    applied_commit: String,
    problems: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NotReady {
    object: String,
    reason: String,
    message: String,
}

/// Shows the state of the live cluster.
pub async fn run(arguments: &Arguments) -> Result<Outcome> {
    let status = read(&live::client().await?).await?;
    match arguments.output {
        Format::Text => print!("{}", text(&status)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
    }
    Ok(Outcome::Done)
}

async fn read(client: &Client) -> Result<Status> {
    let clusters: Vec<ContainerCluster> = live::list(client).await?;
    let workloads: Vec<Workload> = live::list(client).await?;
    let node_policies: Vec<NodePolicy> = live::list(client).await?;
    let workload_policies: Vec<WorkloadPolicy> = live::list(client).await?;
    let profiles: Vec<ContainerWorkloadProfile> = live::list(client).await?;
    let rule_sets: Vec<RuleSet> = live::list(client).await?;
    let repositories: Vec<PolicyRepository> = live::list(client).await?;
    let marker = workload_policies.iter().find(|policy| policy.name_any() == names::MARKER);
    let published = marker.map(|marker| marker.spec.revision);

    let mut not_ready = NotReadyList::default();
    not_ready.add(&clusters, |object| object.status.as_ref().map(|status| &status.conditions));
    not_ready.add(&repositories, |object| object.status.as_ref().map(|status| &status.conditions));
    not_ready.add(&node_policies, |object| object.status.as_ref().map(|status| &status.conditions));
    not_ready.add(&workloads, |object| object.status.as_ref().map(|status| &status.conditions));
    not_ready.add(&profiles, |object| object.status.as_ref().map(|status| &status.conditions));
    not_ready.add(&rule_sets, |object| object.status.as_ref().map(|status| &status.conditions));
    let groups: Vec<LabelGroup> = live::list(client).await?;
    not_ready.add(&groups, |object| object.status.as_ref().map(|status| &status.conditions));
    let lists: Vec<IpList> = live::list(client).await?;
    not_ready.add(&lists, |object| object.status.as_ref().map(|status| &status.conditions));
    let definitions: Vec<ServiceDefinition> = live::list(client).await?;
    not_ready.add(&definitions, |object| object.status.as_ref().map(|status| &status.conditions));
    let services: Vec<VirtualService> = live::list(client).await?;
    not_ready.add(&services, |object| object.status.as_ref().map(|status| &status.conditions));

    Ok(Status {
        published: published.map(|revision| revision.to_string()),
        nodes: node_lines(&workloads, &node_policies, published),
        profiles: profiles.iter().map(profile_line).collect(),
        repositories: repositories.iter().map(repository_line).collect(),
        rule_sets: rule_sets.len(),
        not_ready: not_ready.0,
        cluster: live::the_cluster(clusters).map(cluster_line),
    })
}

#[derive(Default)]
struct NotReadyList(Vec<NotReady>);

impl NotReadyList {
    /// Adds the objects whose `Ready` is not true. One without a status was not looked at yet.
    fn add<K: Resource<DynamicType = ()>>(
        &mut self,
        objects: &[K],
        conditions: impl Fn(&K) -> Option<&Vec<Condition>>,
    ) {
        for object in objects {
            let name = match object.namespace() {
                Some(namespace) => format!("{} {namespace}/{}", K::kind(&()), object.name_any()),
                None => format!("{} {}", K::kind(&()), object.name_any()),
            };
            let (reason, message) = match conditions(object).and_then(|list| live::ready(list)) {
                Some(ready) if ready.status == "True" => continue,
                Some(ready) => (ready.reason.clone(), ready.message.clone()),
                None => ("NoStatus".to_owned(), "nobody has reported on it yet".to_owned()),
            };
            self.0.push(NotReady { object: name, reason, message });
        }
    }
}

fn cluster_line(cluster: ContainerCluster) -> ClusterLine {
    let name = cluster.name_any();
    let status = cluster.status.unwrap_or_default();
    ClusterLine {
        name,
        uid: status.cluster_uid.unwrap_or_default(),
        kubernetes_version: status.kubernetes_version.unwrap_or_default(),
        kubelink_version: status.kubelink_version.unwrap_or_default(),
        kubelink_last_contact: status.kubelink_last_contact.unwrap_or_default(),
        nodes_matched: status.nodes_matched.unwrap_or_default(),
    }
}

fn node_lines(workloads: &[Workload], policies: &[NodePolicy], published: Option<Revision>) -> Vec<NodeLine> {
    let is_node = |workload: &&Workload| {
        let role = workload.status.as_ref().and_then(|status| status.role.as_deref());
        matches!(role, Some("master" | "worker"))
    };
    let lines = workloads.iter().filter(is_node).map(|workload| {
        let status = workload.status.clone().unwrap_or_default();
        let policy = policies.iter().find(|policy| policy.name_any() == workload.name_any());
        let report = policy.and_then(|policy| policy.status.clone()).unwrap_or_default();
        NodeLine {
            name: workload.name_any(),
            role: status.role.unwrap_or_default(),
            matched: status.matched.unwrap_or_else(|| "Unknown".to_owned()),
            agent_version: report.agent_version.or(status.agent_version).unwrap_or_default(),
            acknowledged: report.acknowledged.map(|revision| revision.to_string()),
            current: published.is_some() && report.acknowledged == published,
            pods_enforced: report.pods_enforced,
            problems: report.problems,
        }
    });
    lines.collect()
}

fn profile_line(profile: &ContainerWorkloadProfile) -> ProfileLine {
    ProfileLine {
        namespace: profile.name_any(),
        wanted_state: profile.spec.wanted_state(),
        enforced_state: profile.status.as_ref().and_then(|status| status.enforced_state),
    }
}

fn repository_line(repository: &PolicyRepository) -> RepositoryLine {
    let status = repository.status.clone().unwrap_or_default();
    RepositoryLine {
        namespace: repository.namespace().unwrap_or_default(),
        name: repository.name_any(),
        applied_commit: status.applied_commit.unwrap_or_default(),
        problems: status.problems,
    }
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    match &status.cluster {
        None => out.push_str("no ContainerCluster: the controller has not run here\n"),
        Some(cluster) => {
            out.push_str(&format!(
                "cluster {} ({}): Kubernetes {}, Kubelink {}, last contact {}, nodes matched {}\n",
                cluster.name,
                or_dash(&cluster.uid),
                or_dash(&cluster.kubernetes_version),
                or_dash(&cluster.kubelink_version),
                or_dash(&cluster.kubelink_last_contact),
                or_dash(&cluster.nodes_matched),
            ));
        }
    }
    let published = status.published.as_deref().unwrap_or("none");
    out.push_str(&format!("policy revision {published} published, {} RuleSets\n", status.rule_sets));
    for section in [nodes(status, published), profiles(status), repositories(status), not_ready(status)] {
        if !section.is_empty() {
            out.push('\n');
            out.push_str(&section);
        }
    }
    out
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn nodes(status: &Status, published: &str) -> String {
    let rows = status.nodes.iter().map(|node| {
        let acknowledged = node.acknowledged.as_deref().unwrap_or("none");
        let pods = node.pods_enforced.map(|pods| pods.to_string()).unwrap_or_default();
        vec![
            node.name.clone(),
            node.role.clone(),
            node.matched.clone(),
            node.agent_version.clone(),
            format!("{acknowledged} of {published}"),
            pods,
        ]
    });
    let mut out = table(&["node", "role", "matched", "agent", "in force", "pods"], rows.collect());
    for node in &status.nodes {
        for problem in &node.problems {
            out.push_str(&format!("{}: {problem}\n", node.name));
        }
    }
    out
}

fn profiles(status: &Status) -> String {
    let state = |state: Option<PolicyState>, none: &str| state.map_or(none.to_owned(), |state| state.to_string());
    let rows = status.profiles.iter().map(|profile| {
        let none = if profile.wanted_state.is_some() { "(not yet)" } else { "(unmanaged)" };
        let wanted = state(profile.wanted_state, "(unmanaged)");
        vec![profile.namespace.clone(), wanted, state(profile.enforced_state, none)]
    });
    table(&["namespace", "wanted", "enforced"], rows.collect())
}

fn repositories(status: &Status) -> String {
    let rows = status.repositories.iter().map(|repository| {
        let name = format!("{}/{}", repository.namespace, repository.name);
        vec![name, repository.applied_commit.clone()]
    });
    let mut out = table(&["repository", "commit in force"], rows.collect());
    for problem in status.repositories.iter().flat_map(|repository| &repository.problems) {
        out.push_str(&format!("{problem}\n"));
    }
    out
}

fn not_ready(status: &Status) -> String {
    if status.not_ready.is_empty() {
        return "everything is Ready\n".to_owned();
    }
    let rows = status.not_ready.iter();
    let rows = rows.map(|entry| vec![entry.object.clone(), entry.reason.clone(), entry.message.clone()]);
    table(&["not ready", "reason", "message"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_lags_behind_shows_both_revisions() {
        let status = Status {
            published: Some("0.7".to_owned()),
            nodes: vec![NodeLine {
                name: "n1".to_owned(),
                role: "worker".to_owned(),
                matched: "True".to_owned(),
                agent_version: "0.1.0".to_owned(),
                acknowledged: Some("0.6".to_owned()),
                ..NodeLine::default()
            }],
            not_ready: vec![NotReady {
                object: "RuleSet shop".to_owned(),
                reason: "Progressing".to_owned(),
                message: "waiting for n1".to_owned(),
            }],
            ..Status::default()
        };
        let expected = "\
no ContainerCluster: the controller has not run here
policy revision 0.7 published, 0 RuleSets

NODE   ROLE     MATCHED   AGENT   IN FORCE     PODS
n1     worker   True      0.1.0   0.6 of 0.7   -

NOT READY      REASON        MESSAGE
RuleSet shop   Progressing   waiting for n1
";
        assert_eq!(text(&status), expected);
    }
}
