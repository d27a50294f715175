//! The folder feed: computed objects as files, one or more documents each, in any layout of folders. A folder counts
//! whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringfence_crds::{AddressGroup, ContainerCluster, ContainerWorkloadProfile, NodePolicy, PeerGroup, WorkloadPolicy};
use ringfence_dataplane::Profile;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Change, ClusterEntry, Kind, NodeEntry, Object};

/// Why a folder of objects could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file or folder could not be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file holds something else than objects.
    #[error("understand {}: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Why not.
        message: String,
    },
}

/// Everything in a folder, kind by kind; of a kind that no file holds, an empty list. NodePolicies of other nodes are
/// left out when `node` is given.
///
/// # Errors
/// The first file that cannot be read or understood.
pub fn read(folder: &Path, node: Option<&str>) -> Result<Vec<Change>, FolderError> {
    let mut kinds: BTreeMap<Kind, BTreeMap<String, Object>> =
        Kind::ALL.iter().filter(|kind| **kind != Kind::Pod).map(|kind| (*kind, BTreeMap::new())).collect();
    for path in files_below(folder)? {
        for (name, object) in objects_in(&path)? {
            let foreign = matches!(object, Object::NodePolicy(_)) && node.is_some_and(|node| node != name);
            if !foreign {
                kinds.entry(object.kind()).or_default().insert(name, object);
            }
        }
    }
    Ok(kinds.into_iter().map(|(kind, objects)| Change::All { kind, objects }).collect())
}

/// A folder and all folders below it.
///
/// # Errors
/// When one cannot be read.
pub fn folders_below(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let fail = |source| FolderError::Read { path: folder.to_owned(), source };
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            found.extend(folders_below(&path)?);
        }
    }
    Ok(found)
}

/// The files with objects below a folder, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let fail = |source| FolderError::Read { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else if matches!(extension, Some("yaml" | "yml" | "json")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The objects of one file. Kinds that agents do not read are passed over.
fn objects_in(path: &Path) -> Result<Vec<(String, Object)>, FolderError> {
    let text = std::fs::read_to_string(path).map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
    let syntax = |message: String| FolderError::Syntax { path: path.to_owned(), message };
    let documents: Vec<Value> = if path.extension().is_some_and(|extension| extension == "json") {
        vec![serde_json::from_str(&text).map_err(|error| syntax(error.to_string()))?]
    } else {
        serde_saphyr::from_multiple(&text).map_err(|error| syntax(error.to_string()))?
    };
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        objects.extend(object_of(document).map_err(|error| syntax(error.to_string()))?);
    }
    Ok(objects)
}

/// The object that a document describes, with its name; nothing if agents do not read its kind.
///
/// # Errors
/// When it is not what its kind says.
pub fn object_of(document: Value) -> Result<Option<(String, Object)>, serde_json::Error> {
    fn typed<K: DeserializeOwned>(document: Value) -> Result<K, serde_json::Error> {
        serde_json::from_value(document)
    }
    let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let object = match document["kind"].as_str().unwrap_or_default() {
        "NodePolicy" => {
            Object::NodePolicy(NodeEntry { spec: typed::<NodePolicy>(document)?.spec, ..NodeEntry::default() })
        }
        "ContainerCluster" => {
            let object = typed::<ContainerCluster>(document)?;
            Object::Cluster(ClusterEntry::new(0, object.spec, object.status.as_ref()))
        }
        "ContainerWorkloadProfile" => Object::Profile(profile_of(typed(document)?)),
        "WorkloadPolicy" => Object::WorkloadPolicy(typed::<WorkloadPolicy>(document)?.spec),
        "PeerGroup" => Object::PeerGroup(typed::<PeerGroup>(document)?.spec),
        "AddressGroup" => Object::AddressGroup(typed::<AddressGroup>(document)?.spec),
        _ => return Ok(None),
    };
    Ok(Some((name, object)))
}

/// A profile as written by hand has no status: what it asks for is then what counts.
fn profile_of(object: ContainerWorkloadProfile) -> Profile {
    let enforced_state = match object.status {
        Some(status) => status.enforced_state,
        None => object.spec.wanted_state(),
    };
    Profile { spec: object.spec, enforced_state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_counts_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let good = "apiVersion: ringfence.dev/v1alpha1\nkind: PeerGroup\nmetadata: {name: p-1}\nspec: {classes: [c-1]}\n---\nkind: Other\nmetadata: {name: x}\n";
        std::fs::write(folder.path().join("a.yaml"), good).expect("written");
        let changes = read(folder.path(), None).expect("readable");
        let groups = changes.iter().find_map(|change| match change {
            Change::All { kind: Kind::PeerGroup, objects } => Some(objects.len()),
            _ => None,
        });
        assert_eq!((changes.len(), groups), (6, Some(1)));
        std::fs::write(folder.path().join("b.yaml"), "kind: PeerGroup\nspec: [").expect("written");
        assert!(matches!(read(folder.path(), None), Err(FolderError::Syntax { .. })));
    }

    #[test]
    fn policies_of_other_nodes_are_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        for node in ["n1", "n2"] {
            let text = format!(
                "kind: NodePolicy\napiVersion: ringfence.dev/v1alpha1\nmetadata: {{name: {node}}}\nspec: {{clusterUid: u}}\n"
            );
            std::fs::write(folder.path().join(format!("{node}.yaml")), text).expect("written");
        }
        let changes = read(folder.path(), Some("n2")).expect("readable");
        assert!(changes.iter().any(|change| matches!(change,
            Change::All { kind: Kind::NodePolicy, objects } if objects.keys().eq(["n2"]))));
    }
}
