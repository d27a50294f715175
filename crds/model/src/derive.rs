//! How a container workload gets its labels: profile, label map, annotation (policy model, "Labels of a container
//! workload"). Controller, agent and offline commands all call this, so that they cannot differ.

use std::collections::BTreeMap;

use litemap::LiteMap;

use crate::label::{Dimension, LabelValue, Labels};
use crate::values::Values;

/// Labels or annotations of a Kubernetes object. There may be a hundred thousand such maps, most with few entries, and a
/// `BTreeMap` takes the room of eleven.
pub type StringMap = LiteMap<String, String>;

/// What a profile says about one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DimensionRule {
    /// The value is fixed; nothing else counts.
    Fixed(LabelValue),
    /// A Pod or Service may choose one of these, by annotation or, if `from_label_map`, by a mapped label.
    Choice {
        /// The values that may be chosen.
        allowed: Values,
    },
    /// The dimension takes any value that the label map yields, and no annotation.
    FromLabelMap,
}

/// What a profile says about labels; a dimension that is not here gets no label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileLabels(pub LiteMap<Dimension, DimensionRule>);

/// One line of a ContainerCluster's label map: a Kubernetes label and the policy label it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMapping {
    /// Key of the Kubernetes label.
    pub from: String,
    /// The dimension it fills.
    pub to: Dimension,
    /// From Kubernetes value to policy value. Empty: the value is taken as it is.
    pub values: BTreeMap<String, LabelValue>,
}

impl LabelMapping {
    /// The policy value for a Kubernetes value; nothing if it is not mapped or not valid.
    pub fn map(&self, value: &str) -> Option<LabelValue> {
        if self.values.is_empty() { value.parse().ok() } else { self.values.get(value).cloned() }
    }
}

/// Where a label came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelSource {
    /// The profile fixes it.
    Profile,
    /// The label map made it from this Kubernetes label.
    LabelMap(String),
    /// This annotation chose it.
    Annotation(String),
}

/// A value that was asked for and not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The dimension.
    pub dimension: Dimension,
    /// The value as written.
    pub value: String,
    /// The annotation or Kubernetes label that asked.
    pub from: LabelSource,
    /// Why not, for an Event.
    pub reason: String,
}

/// The labels of a workload with their origins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DerivedLabels {
    /// The labels.
    pub labels: Labels,
    /// Where each came from.
    pub sources: LiteMap<Dimension, LabelSource>,
    /// What was asked for and not taken.
    pub refused: Vec<Refusal>,
}

impl DerivedLabels {
    fn take(&mut self, dimension: &Dimension, value: LabelValue, source: LabelSource) {
        self.labels.insert(dimension.clone(), value);
        self.sources.insert(dimension.clone(), source);
    }
}

/// Derives the labels of a Pod or Service.
///
/// * `annotations`, `kube_labels`: of the object. Pass no `kube_labels` and no `mappings` for a mirror Pod, which
///   takes fixed labels only (and no annotations either).
/// * `prefixes`: annotation prefixes such as `ringfence.dev/`, the first that is present counts.
///
/// A fixed value wins over the label map, the label map over an annotation. A value outside the profile's list is
/// refused, so that nobody can annotate their way into a label.
pub fn derive_labels(
    profile: &ProfileLabels,
    annotations: &StringMap,
    kube_labels: &StringMap,
    prefixes: &[String],
    mappings: &[LabelMapping],
) -> DerivedLabels {
    let mut derived = DerivedLabels {
        labels: Labels::with_capacity(profile.0.len()),
        sources: LiteMap::with_capacity(profile.0.len()),
        refused: Vec::new(),
    };
    for (dimension, rule) in &profile.0 {
        let annotation = prefixes.iter().find_map(|prefix| {
            let key = format!("{prefix}{dimension}");
            annotations.get(&key).map(|value| (key, value))
        });
        let mapped = mappings
            .iter()
            .filter(|mapping| mapping.to == *dimension)
            .find_map(|mapping| Some((&mapping.from, mapping.map(kube_labels.get(&mapping.from)?)?)));
        match rule {
            DimensionRule::Fixed(value) => {
                derived.take(dimension, value.clone(), LabelSource::Profile);
                if let Some((key, asked)) = annotation.filter(|(_, asked)| *asked != value.as_str()) {
                    let reason = format!("the profile fixes {dimension} to '{value}'");
                    derived.refuse(dimension, asked, LabelSource::Annotation(key), reason);
                }
            }
            DimensionRule::FromLabelMap => {
                if let Some((from, value)) = mapped {
                    derived.take(dimension, value, LabelSource::LabelMap(from.clone()));
                }
                if let Some((key, asked)) = annotation {
                    let reason = format!("the profile takes {dimension} from the label map only");
                    derived.refuse(dimension, asked, LabelSource::Annotation(key), reason);
                }
            }
            DimensionRule::Choice { allowed } => {
                choose(&mut derived, dimension, allowed, mapped, annotation);
            }
        }
    }
    refuse_unmentioned(&mut derived, profile, annotations, prefixes);
    derived
}

impl DerivedLabels {
    fn refuse(&mut self, dimension: &Dimension, value: &str, from: LabelSource, reason: String) {
        self.refused.push(Refusal { dimension: dimension.clone(), value: value.to_owned(), from, reason });
    }
}

fn choose(
    derived: &mut DerivedLabels,
    dimension: &Dimension,
    allowed: &Values,
    mapped: Option<(&String, LabelValue)>,
    annotation: Option<(String, &String)>,
) {
    // Written only when something is refused: a profile may allow thousands of values.
    let outside = || {
        let list = allowed.iter().map(LabelValue::as_str).collect::<Vec<_>>().join(", ");
        format!("the profile allows only: {list}")
    };
    if let Some((from, value)) = mapped {
        let source = LabelSource::LabelMap(from.clone());
        if allowed.contains(&value) {
            derived.take(dimension, value, source);
            return;
        }
        derived.refuse(dimension, value.as_str(), source, outside());
    }
    if let Some((key, asked)) = annotation {
        let source = LabelSource::Annotation(key);
        match asked.parse().ok().filter(|value| allowed.contains(value)) {
            Some(value) => derived.take(dimension, value, source),
            None => derived.refuse(dimension, asked, source, outside()),
        }
    }
}

/// An annotation for a dimension that the profile does not mention is refused too, so that it is not silently lost.
fn refuse_unmentioned(
    derived: &mut DerivedLabels,
    profile: &ProfileLabels,
    annotations: &StringMap,
    prefixes: &[String],
) {
    for (key, asked) in annotations {
        let Some(name) = prefixes.iter().find_map(|prefix| key.strip_prefix(prefix.as_str())) else {
            continue;
        };
        // Annotations of ours that are no dimension (such as tool settings) contain a character no dimension has.
        let Ok(dimension) = name.parse::<Dimension>() else { continue };
        if !profile.0.contains_key(&dimension) {
            let reason = format!("the profile does not mention {dimension}");
            derived.refuse(&dimension, asked, LabelSource::Annotation(key.clone()), reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dimension {
        text.parse().expect("a literal of the test")
    }
    fn val(text: &str) -> LabelValue {
        text.parse().expect("a literal of the test")
    }
    fn map(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }
    fn profile() -> ProfileLabels {
        let rules = [
            (dim("app"), DimensionRule::Fixed(val("shop"))),
            (dim("role"), DimensionRule::Choice { allowed: [val("web"), val("db")].into_iter().collect() }),
        ];
        ProfileLabels(rules.into_iter().collect())
    }
    fn prefixes() -> Vec<String> {
        vec!["ringfence.dev/".to_owned(), "com.illumio.".to_owned()]
    }

    #[test]
    fn an_allowed_annotation_is_taken_under_any_prefix() {
        for key in ["ringfence.dev/role", "com.illumio.role"] {
            let derived = derive_labels(&profile(), &map(&[(key, "web")]), &map(&[]), &prefixes(), &[]);
            assert_eq!(derived.labels.to_string(), "app=shop,role=web");
            assert!(derived.refused.is_empty());
        }
    }

    #[test]
    fn nobody_annotates_their_way_into_a_label() {
        let asked =
            map(&[("ringfence.dev/role", "admin"), ("ringfence.dev/app", "bank"), ("ringfence.dev/env", "prod")]);
        let derived = derive_labels(&profile(), &asked, &map(&[]), &prefixes(), &[]);
        assert_eq!(derived.labels.to_string(), "app=shop");
        assert_eq!(derived.refused.len(), 3);
    }

    #[test]
    fn the_label_map_wins_over_the_annotation_within_the_list() {
        let mapping = LabelMapping { from: "tier".to_owned(), to: dim("role"), values: BTreeMap::new() };
        let labels = map(&[("tier", "db")]);
        let asked = map(&[("ringfence.dev/role", "web")]);
        let derived = derive_labels(&profile(), &asked, &labels, &prefixes(), std::slice::from_ref(&mapping));
        assert_eq!(derived.labels.to_string(), "app=shop,role=db");
        let derived = derive_labels(&profile(), &asked, &map(&[("tier", "admin")]), &prefixes(), &[mapping]);
        assert_eq!(derived.labels.to_string(), "app=shop,role=web");
        assert_eq!(derived.refused.len(), 1);
    }
}
