//! What a source declares, by name.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_crds::{IpListSpec, LabelGroupSpec};
use ringfence_model::AddressSet;

use super::places::{Faults, NO_FAULTS, Places};
use super::{LiveNames, Parsed, ParsedSpec};
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
    live: &'a BTreeSet<ObjectKey>,
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
        Self { declared, whole, label_groups, live: &live.keys }
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
        match self.spec(kind, name) {
            Some(ParsedSpec::IpList(spec)) => is_empty_list(spec),
            Some(ParsedSpec::ServiceDefinition(spec)) => spec.ports.is_empty(),
            Some(ParsedSpec::LabelGroup(spec)) => self.is_empty_group(spec, &mut BTreeSet::new()),
            _ => false,
        }
    }

    fn is_empty_group(&self, spec: &'a LabelGroupSpec, seen: &mut BTreeSet<&'a str>) -> bool {
        spec.values.is_empty()
            && spec.groups.iter().all(|name| {
                let first_time = seen.insert(name);
                match self.spec(Kind::LabelGroup, name) {
                    Some(ParsedSpec::LabelGroup(group)) => !first_time || self.is_empty_group(group, seen),
                    // A group that lives in the cluster only, or cannot be read, may hold values.
                    _ => false,
                }
            })
    }
}

fn is_empty_list(spec: &IpListSpec) -> bool {
    let set =
        |list: &[String]| AddressSet::from_nets(list.iter().filter_map(|text| AddressSet::parse(text).ok()).flatten());
    set(&spec.ranges).minus(&set(&spec.exclusions)).is_empty()
}
