//! What a source declares, by name.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::LabelGroupSpec;

use super::places::{Faults, NO_FAULTS, Places};
use super::{LiveNames, Parsed, ParsedSpec, meaning};
use crate::policy::{Kind, ObjectKey, Origin};

/// A document as the checks see it, whole or broken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document<'a> {
    pub key: Option<&'a ObjectKey>,
    pub origin: &'a Origin,
    pub spec: Option<&'a ParsedSpec>,
    pub places: &'a Places,
    pub faults: &'a Faults,
}

/// Those of a source, in the order of the files.
pub(super) fn documents(parsed: &Parsed) -> Vec<Document<'_>> {
    let whole = parsed.objects.iter().map(|object| Document {
        key: Some(&object.key),
        origin: &object.origin,
        spec: Some(&object.spec),
        places: &object.places,
        faults: &NO_FAULTS,
    });
    let broken = parsed.broken.iter().map(|broken| Document {
        key: broken.key.as_ref(),
        origin: &broken.origin,
        spec: broken.spec.as_ref(),
        places: &broken.places,
        faults: &broken.faults,
    });
    let mut documents: Vec<Document<'_>> = whole.chain(broken).collect();
    documents.sort_by_key(|document| (&document.origin.file, document.origin.line));
    documents
}

/// A LabelGroup, and the document that declares it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'a> {
    pub document: Document<'a>,
    pub spec: &'a LabelGroupSpec,
}

/// What is there to refer to.
pub(super) struct Index<'a> {
    declared: BTreeSet<&'a ObjectKey>,
    /// Specs of whole documents: what the others say is not known.
    whole: BTreeMap<&'a ObjectKey, &'a ParsedSpec>,
    label_groups: BTreeMap<&'a str, Group<'a>>,
    /// LabelGroups and IPLists that are whole, as are all that they are made of, and hold nothing.
    empty: BTreeSet<(Kind, &'a str)>,
    live: &'a BTreeSet<ObjectKey>,
    /// IPLists with names that live in the cluster.
    live_with_names: &'a BTreeSet<String>,
}

impl<'a> Index<'a> {
    /// An index of the documents. Of duplicates the first counts.
    pub(super) fn new(documents: &[Document<'a>], parsed: &'a Parsed, live: &'a LiveNames) -> Self {
        let mut whole = BTreeMap::new();
        for object in &parsed.objects {
            whole.entry(&object.key).or_insert(&object.spec);
        }
        let mut label_groups = BTreeMap::new();
        for document in documents {
            if let (Some(key), Some(ParsedSpec::LabelGroup(spec))) = (document.key, document.spec) {
                label_groups.entry(key.name.as_str()).or_insert(Group { document: *document, spec });
            }
        }
        let declared = documents.iter().filter_map(|document| document.key).collect();
        let empty = empty_ones(&whole);
        Self { declared, whole, label_groups, empty, live: &live.keys, live_with_names: &live.lists_with_names }
    }

    /// Whether an object is there. One whose document lacks the namespace may be the one that is meant.
    pub(super) fn has(&self, key: &ObjectKey) -> bool {
        let nowhere = ObjectKey { namespace: None, ..key.clone() };
        self.declared.contains(key) || self.declared.contains(&nowhere) || self.live.contains(key)
    }

    /// The spec of a cluster-wide object without an error.
    pub(super) fn spec(&self, kind: Kind, name: &str) -> Option<&'a ParsedSpec> {
        self.whole.get(&ObjectKey::cluster_wide(kind, name)).copied()
    }

    /// Whether an IPList has names, here or, where it is not here, in the cluster.
    pub(super) fn has_names(&self, list: &str) -> bool {
        let key = ObjectKey::cluster_wide(Kind::IpList, list);
        match self.whole.get(&key) {
            Some(ParsedSpec::IpList(spec)) => !spec.fqdns.is_empty(),
            _ => !self.declared.contains(&key) && self.live_with_names.contains(list),
        }
    }

    /// A LabelGroup, as far as it could be read.
    pub(super) fn label_group(&self, name: &str) -> Option<Group<'a>> {
        self.label_groups.get(name).copied()
    }

    /// Every LabelGroup, by name.
    pub(super) fn label_groups(&self) -> impl Iterator<Item = (&'a str, Group<'a>)> {
        self.label_groups.iter().map(|(name, group)| (*name, *group))
    }

    /// Whether everything that the name stands for is in this source, and is nothing.
    pub(super) fn selects_nothing(&self, kind: Kind, name: &str) -> bool {
        self.empty.contains(&(kind, name))
    }
}

/// Objects that hold nothing. Each is looked at once, however many refer to it.
fn empty_ones<'a>(whole: &BTreeMap<&'a ObjectKey, &'a ParsedSpec>) -> BTreeSet<(Kind, &'a str)> {
    let mut empty = BTreeSet::new();
    let mut groups: BTreeMap<&str, &LabelGroupSpec> = BTreeMap::new();
    for (key, spec) in whole {
        let is_empty = match spec {
            ParsedSpec::IpList(spec) => {
                spec.fqdns.is_empty() && meaning::prefixes_of(spec).is_some_and(|set| set.is_empty())
            }
            ParsedSpec::ServiceDefinition(spec) => spec.ports.is_empty(),
            ParsedSpec::LabelGroup(spec) => {
                groups.insert(&key.name, spec);
                false
            }
            _ => false,
        };
        if is_empty {
            empty.insert((key.kind, key.name.as_str()));
        }
    }
    let full = full_groups(&groups);
    empty.extend(groups.into_keys().filter(|name| !full.contains(name)).map(|name| (Kind::LabelGroup, name)));
    empty
}

/// Groups that hold a value, or may: one that lives in the cluster only, or cannot be read, may hold some.
fn full_groups<'a>(groups: &BTreeMap<&'a str, &'a LabelGroupSpec>) -> BTreeSet<&'a str> {
    let mut around: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, spec) in groups {
        spec.groups.iter().for_each(|inner| around.entry(inner).or_default().push(name));
    }
    let may = |spec: &LabelGroupSpec| {
        !spec.values.is_empty() || spec.groups.iter().any(|inner| !groups.contains_key(inner.as_str()))
    };
    let mut open: Vec<&str> = groups.iter().filter(|(_, spec)| may(spec)).map(|(name, _)| *name).collect();
    let mut full = BTreeSet::new();
    while let Some(name) = open.pop() {
        if full.insert(name) {
            open.extend(around.get(name).into_iter().flatten());
        }
    }
    full
}
