//! Labels of Pods and Services (policy model, "Labels of a container workload").

use std::collections::BTreeMap;

use ringfence_model::Dimension;

use crate::world::{Key, LabelRule, Labels, Profile, World};

/// The prefix under which annotations always choose labels.
const PREFIX: &str = "ringfence.dev/";

impl World {
    /// What holds in a namespace.
    pub fn profile(&self, namespace: &str) -> &Profile {
        self.profiles.get(namespace).unwrap_or(&self.settings.default_profile)
    }

    /// The labels of a Pod of a managed namespace.
    pub fn pod_labels(&self, key: &Key) -> Labels {
        let (Some(pod), profile) = (self.pods.get(key), self.profile(&key.0)) else { return Labels::new() };
        let mut labels = Labels::new();
        for (dimension, rule) in &profile.labels {
            let mapped = || {
                // The first line of the map that yields a value.
                self.settings.pod_label_map.iter().filter(|line| line.to == *dimension).find_map(|line| {
                    let value = pod.labels.get(&line.from)?;
                    if line.values.is_empty() { value.parse().ok() } else { line.values.get(value).cloned() }
                })
            };
            let value = match rule {
                LabelRule::Fixed(value) => Some(value.clone()),
                // A mirror Pod takes only fixed labels.
                _ if pod.mirror => None,
                LabelRule::FromLabelMap => mapped(),
                LabelRule::Choice(allowed) => mapped().filter(|value| allowed.contains(value)).or_else(|| {
                    let asked = self.annotation(&pod.annotations, dimension)?.parse().ok()?;
                    allowed.contains(&asked).then_some(asked)
                }),
            };
            if let Some(value) = value {
                labels.insert(dimension.clone(), value);
            }
        }
        labels
    }

    /// The labels of a Service's VirtualService: profile and annotations, then what its user wrote, within the profile's
    /// fixed values.
    pub fn service_labels(&self, key: &Key) -> Labels {
        let (Some(service), profile) = (self.services.get(key), self.profile(&key.0)) else { return Labels::new() };
        let mut labels = Labels::new();
        for (dimension, rule) in &profile.labels {
            let value = match rule {
                LabelRule::Fixed(value) => Some(value.clone()),
                LabelRule::FromLabelMap => None,
                LabelRule::Choice(allowed) => self
                    .annotation(&service.annotations, dimension)
                    .and_then(|asked| asked.parse().ok())
                    .filter(|asked| allowed.contains(asked)),
            };
            if let Some(value) = value {
                labels.insert(dimension.clone(), value);
            }
        }
        for (dimension, value) in self.written.get(key).into_iter().flatten() {
            if !matches!(profile.labels.get(dimension), Some(LabelRule::Fixed(_))) {
                labels.insert(dimension.clone(), value.clone());
            }
        }
        labels
    }

    /// What annotations say about a dimension, under whichever prefix comes first.
    fn annotation<'a>(&self, annotations: &'a BTreeMap<String, String>, dimension: &Dimension) -> Option<&'a String> {
        let mut prefixes = vec![PREFIX];
        prefixes.extend(self.settings.prefixes.iter().map(String::as_str));
        prefixes.into_iter().find_map(|prefix| annotations.get(&format!("{prefix}{dimension}")))
    }
}
