//! Namespaces: what their profiles say, and the labels that their Pods were found to have.

use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use ringfence_model::DerivedLabels;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::class::{Class, ClassOrigin};
use super::labels::NamespaceProfile;
use super::settings::Settings;
use crate::cluster::PodInfo;
use crate::policy::Policy;

/// How many texts are remembered per namespace, and how long they may be: whoever may annotate Pods must not fill the
/// memory.
const REMEMBERED: (usize, usize) = (4096, 1024);

/// The labels of a Pod and the class that they make.
#[derive(Debug, Clone)]
pub struct Derived {
    /// The labels.
    pub labels: Arc<DerivedLabels>,
    /// The class.
    pub class: Arc<Class>,
}

/// What holds in a namespace, and the labels that were derived there.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Its profile.
    pub profile: NamespaceProfile,
    /// By [what counts](super::labels::LabelReader::what_counts).
    known: FxHashMap<Vec<u8>, Derived>,
}

impl Namespace {
    /// A namespace of which no Pod was looked at yet.
    pub fn new(policy: &Policy, name: &str) -> Self {
        Self { profile: NamespaceProfile::of(policy, name), known: FxHashMap::default() }
    }

    /// The labels and the class of a Pod; none in an unmanaged namespace, and for a Pod without a network of its own.
    pub fn derive(&mut self, pod: &PodInfo, settings: &Settings) -> Option<Derived> {
        if self.profile.state.is_none() || pod.host_network {
            return None;
        }
        let text = settings.labels.what_counts(pod);
        if let Some(derived) = self.known.get(&text) {
            return Some(derived.clone());
        }
        let labels = Arc::new(settings.labels.of_pod(&self.profile, pod));
        let class = Arc::new(Class::new(labels.labels.clone(), ClassOrigin::Pods));
        let derived = Derived { labels, class };
        if self.known.len() >= REMEMBERED.0 {
            self.known.clear();
        }
        if text.len() <= REMEMBERED.1 {
            self.known.insert(text, derived.clone());
        }
        Some(derived)
    }
}

/// The namespaces that were looked at.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    known: HashMap<String, Namespace, FxBuildHasher>,
}

impl Namespaces {
    /// A namespace.
    pub fn get(&mut self, policy: &Policy, name: &str) -> &mut Namespace {
        match self.known.entry_ref(name) {
            EntryRef::Occupied(known) => known.into_mut(),
            EntryRef::Vacant(vacant) => vacant.insert(Namespace::new(policy, name)),
        }
    }

    /// Knows namespaces that were looked at elsewhere.
    pub fn extend(&mut self, namespaces: impl IntoIterator<Item = (String, Namespace)>) {
        self.known.extend(namespaces);
    }

    /// The profile of a namespace has changed.
    pub fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}
