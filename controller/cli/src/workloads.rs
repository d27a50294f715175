//! `ringfence workloads`: container workloads, their labels and where each came from.

use std::collections::BTreeMap;

use anyhow::Result;
use kube::ResourceExt;
use ringfence_compile::compile::{ComputedPod, compile};
use ringfence_crds::ContainerWorkloadProfile;
use ringfence_crds::common::NamespacedName;
use ringfence_model::{DerivedLabels, LabelSource, PolicyState};
use serde::Serialize;

use crate::table::table;
use crate::{Format, Outcome, live};

/// Arguments of `ringfence workloads`.
#[derive(clap::Args)]
#[command(after_help = "\
A label's source stands in brackets: the profile of the namespace, an annotation, or a Kubernetes label by the cluster's
label map. WANTED is the state that the profile asks for, ENFORCED the one that the controller has told the agents.

Examples:
  ringfence workloads -n shop
  ringfence workloads -o json")]
pub struct Arguments {
    /// Only this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A Pod as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    labels: Vec<Label>,
    /// What was asked for and not taken, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<String>,
    managed: bool,
    wanted_state: Option<PolicyState>,
    enforced_state: Option<PolicyState>,
    host_network: bool,
    node: Option<String>,
    addresses: Vec<String>,
}

/// A label with its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Label {
    dimension: String,
    value: String,
    source: String,
}

/// Lists the container workloads of the live cluster.
pub async fn run(arguments: &Arguments) -> Result<Outcome> {
    let client = live::client().await?;
    let (policy, profiles) = live::policy(&client).await?;
    let computed = compile(&policy, &live::cluster(&client).await?);
    let profiles: BTreeMap<String, ContainerWorkloadProfile> =
        profiles.into_iter().map(|profile| (profile.name_any(), profile)).collect();
    let wanted = |key: &NamespacedName| arguments.namespace.as_ref().is_none_or(|name| *name == key.namespace);
    let pods = computed.container_workloads.iter().filter(|(key, _)| wanted(key));
    let rows: Vec<Row> = pods.map(|(key, pod)| row(key, pod, profiles.get(&key.namespace))).collect();
    match arguments.output {
        Format::Text if rows.is_empty() => println!("no container workloads"),
        Format::Text => print!("{}", text(&rows)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
    }
    Ok(Outcome::Done)
}

fn row(key: &NamespacedName, pod: &ComputedPod, profile: Option<&ContainerWorkloadProfile>) -> Row {
    let status = profile.and_then(|profile| profile.status.as_ref());
    // A host-network Pod is its node: no profile concerns it.
    let enforced_state = status.and_then(|status| status.enforced_state).filter(|_| !pod.host_network);
    Row {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        labels: labels(&pod.labels),
        refused: refused(&pod.labels),
        managed: pod.state.is_some(),
        wanted_state: pod.state,
        enforced_state,
        host_network: pod.host_network,
        node: pod.node.clone(),
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
    }
}

fn labels(derived: &DerivedLabels) -> Vec<Label> {
    let pairs = derived.labels.iter().map(|(dimension, value)| Label {
        dimension: dimension.to_string(),
        value: value.to_string(),
        source: derived.sources.get(dimension).map(source).unwrap_or_default(),
    });
    pairs.collect()
}

fn refused(derived: &DerivedLabels) -> Vec<String> {
    let lines = derived.refused.iter().map(|refusal| {
        format!("{}={} of {}: {}", refusal.dimension, refusal.value, source(&refusal.from), refusal.reason)
    });
    lines.collect()
}

fn source(source: &LabelSource) -> String {
    match source {
        LabelSource::Profile => "profile".to_owned(),
        LabelSource::Annotation(key) => format!("annotation {key}"),
        LabelSource::LabelMap(key) => format!("label map {key}"),
    }
}

fn text(rows: &[Row]) -> String {
    let cells = rows.iter().map(|row| {
        let labels: Vec<String> =
            row.labels.iter().map(|label| format!("{}={} [{}]", label.dimension, label.value, label.source)).collect();
        let state = |state: Option<PolicyState>| match state {
            Some(state) => state.to_string(),
            None if row.host_network => "(node)".to_owned(),
            None if row.managed => "(not yet)".to_owned(),
            None => "(unmanaged)".to_owned(),
        };
        vec![
            row.namespace.clone(),
            row.name.clone(),
            state(row.wanted_state),
            state(row.enforced_state),
            row.node.clone().unwrap_or_default(),
            labels.join(", "),
        ]
    });
    let mut out = table(&["namespace", "pod", "wanted", "enforced", "node", "labels"], cells.collect());
    for row in rows {
        for refusal in &row.refused {
            out.push_str(&format!("not taken: {}/{}: {refusal}\n", row.namespace, row.name));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> ComputedPod {
        let dimension = |text: &str| text.parse().expect("a dimension");
        let mut derived = DerivedLabels::default();
        derived.labels.insert(dimension("app"), "shop".parse().expect("a value"));
        derived.labels.insert(dimension("role"), "web".parse().expect("a value"));
        derived.sources.insert(dimension("app"), LabelSource::Profile);
        derived.sources.insert(dimension("role"), LabelSource::Annotation("ringfence.dev/role".to_owned()));
        ComputedPod {
            labels: derived.into(),
            state: Some(PolicyState::Full),
            node: Some("n1".to_owned()),
            ..ComputedPod::default()
        }
    }

    #[test]
    fn each_label_shows_its_source_and_a_state_not_yet_told_is_no_state() {
        let key = NamespacedName { namespace: "shop".to_owned(), name: "web-0".to_owned() };
        let rows = [row(&key, &pod(), None)];
        let expected = "\
NAMESPACE   POD     WANTED   ENFORCED    NODE   LABELS
shop        web-0   Full     (not yet)   n1     app=shop [profile], role=web [annotation ringfence.dev/role]
";
        assert_eq!(text(&rows), expected);
    }
}
