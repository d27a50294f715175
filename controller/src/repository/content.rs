//! What an object from git should be, and how it differs from what lives.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::api::DynamicObject;
use ringfence_compile::policy::ObjectKey;
use ringfence_compile::source::{Parsed, ParsedObject};
use ringfence_crds::names::{
    ANNOTATION_COMMIT, ANNOTATION_FILE, ANNOTATION_LINE, API_VERSION, LABEL_CREATED_BY, LABEL_REPOSITORY,
};
use serde_json::{Value, json};

use super::{kinds, managers};

/// The annotations that say where an object comes from.
pub(super) const ORIGIN: [&str; 3] = [ANNOTATION_COMMIT, ANNOTATION_FILE, ANNOTATION_LINE];

/// An object as git wants it.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    /// Which object.
    pub(super) key: ObjectKey,
    /// File, relative to the repository's root.
    pub(super) file: String,
    /// Line its document begins on.
    pub(super) line: u64,
    spec: Value,
    labels: BTreeMap<String, String>,
    /// Without those of [`ORIGIN`].
    annotations: BTreeMap<String, String>,
}

/// How an object that should be there differs from what lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    /// Not at all.
    None,
    /// In where it stands in git only: what it says is the same.
    Place,
    /// In what it says.
    Content,
    /// It does not live.
    Missing,
}

impl Desired {
    /// The policy of a commit, for the repository of this name.
    pub(super) fn all(commit: &Parsed, repository: &str) -> Vec<Self> {
        let policy = commit.objects.iter().filter(|object| object.is_policy());
        policy.map(|object| Self::new(object, repository)).collect()
    }

    /// The object as written in git, for the repository of this name.
    pub(super) fn new(object: &ParsedObject, repository: &str) -> Self {
        let mut labels = strings(&object.json, "/metadata/labels");
        labels.retain(|key, _| key != LABEL_CREATED_BY);
        labels.insert(LABEL_REPOSITORY.to_owned(), repository.to_owned());
        let mut annotations = strings(&object.json, "/metadata/annotations");
        annotations.retain(|key, _| !ORIGIN.contains(&key.as_str()));
        Self {
            key: object.key.clone(),
            file: object.origin.file.clone(),
            line: object.origin.line,
            spec: object.json.get("spec").cloned().unwrap_or_else(|| json!({})),
            labels,
            annotations,
        }
    }

    /// `rules/shop.yaml:12`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The spec as written.
    pub(super) fn spec(&self) -> &Value {
        &self.spec
    }

    /// The object for server-side apply; `commit` is the one that last changed what it says.
    pub(super) fn body(&self, commit: &str) -> Value {
        let mut annotations = self.annotations.clone();
        annotations.insert(ANNOTATION_COMMIT.to_owned(), commit.to_owned());
        annotations.insert(ANNOTATION_FILE.to_owned(), self.file.clone());
        annotations.insert(ANNOTATION_LINE.to_owned(), self.line.to_string());
        let mut metadata = json!({ "name": self.key.name, "labels": self.labels, "annotations": annotations });
        if let Some(namespace) = &self.key.namespace {
            metadata["namespace"] = json!(namespace);
        }
        json!({
            "apiVersion": API_VERSION,
            "kind": self.key.kind.as_str(),
            "metadata": metadata,
            "spec": self.spec,
        })
    }

    /// How the object differs from what lives.
    pub(super) fn difference(&self, live: Option<&DynamicObject>) -> Difference {
        let Some(live) = live else { return Difference::Missing };
        if !self.says_the_same(live) {
            return Difference::Content;
        }
        let annotations = live.annotations();
        let same_place = annotations.get(ANNOTATION_FILE) == Some(&self.file)
            && annotations.get(ANNOTATION_LINE).is_some_and(|line| *line == self.line.to_string())
            && annotations.contains_key(ANNOTATION_COMMIT);
        if same_place { Difference::None } else { Difference::Place }
    }

    fn says_the_same(&self, live: &DynamicObject) -> bool {
        self.spec_is(live.data.get("spec"))
            && !live.labels().contains_key(LABEL_CREATED_BY)
            && agrees(&self.labels, live.labels(), &managers::from_git(live, "labels"), &[])
            && agrees(&self.annotations, live.annotations(), &managers::from_git(live, "annotations"), &ORIGIN)
    }

    /// Whether this spec says the same as ours.
    pub(super) fn spec_is(&self, spec: Option<&Value>) -> bool {
        let (ours, theirs) = self.normal_specs(spec);
        ours.is_some() && ours == theirs
    }

    /// The paths of the fields that somebody may have changed: where what lives differs from ours. A label that git
    /// has dropped is not among them, since it is git's own change.
    pub(super) fn differing(&self, live: &DynamicObject) -> Vec<Vec<String>> {
        let (ours, theirs) = self.normal_specs(live.data.get("spec"));
        let mut paths = Vec::new();
        let mut at = vec!["spec".to_owned()];
        differing(&ours.unwrap_or_default(), &theirs.unwrap_or_default(), &mut at, &mut paths);
        let metadata = |map: &str, key: &String| vec!["metadata".to_owned(), map.to_owned(), key.clone()];
        let mark = live.labels().get_key_value(LABEL_CREATED_BY).map(|(key, _)| key);
        paths.extend(lacking(&self.labels, live.labels()).chain(mark).map(|key| metadata("labels", key)));
        paths.extend(lacking(&self.annotations, live.annotations()).map(|key| metadata("annotations", key)));
        paths
    }

    fn normal_specs(&self, spec: Option<&Value>) -> (Option<Value>, Option<Value>) {
        let empty = json!({});
        let kind = self.key.kind;
        (kinds::normal(kind, &self.spec), kinds::normal(kind, spec.unwrap_or(&empty)))
    }
}

/// Whether everything wanted is there, and nothing that came from git earlier is there without being wanted. What
/// others added stays theirs.
fn agrees(
    wanted: &BTreeMap<String, String>,
    live: &BTreeMap<String, String>,
    from_git: &BTreeSet<String>,
    except: &[&str],
) -> bool {
    lacking(wanted, live).next().is_none()
        && from_git.iter().all(|key| wanted.contains_key(key) || except.contains(&key.as_str()))
}

/// The keys that are wanted and do not live with that value.
fn lacking<'a>(
    wanted: &'a BTreeMap<String, String>,
    live: &BTreeMap<String, String>,
) -> impl Iterator<Item = &'a String> {
    wanted.iter().filter(|(key, value)| live.get(*key) != Some(value)).map(|(key, _)| key)
}

/// The paths at which two values differ. Lists are whole: the apiserver merges none of ours item by item.
fn differing(a: &Value, b: &Value, at: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    let (Value::Object(left), Value::Object(right)) = (a, b) else {
        if a != b {
            out.push(at.clone());
        }
        return;
    };
    let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for key in keys {
        at.push(key.clone());
        let get = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        differing(&get(left), &get(right), at, out);
        at.pop();
    }
}

fn strings(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = object.pointer(pointer).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
