//! The ledger: what the agent has read, on disk, in the form that the folder feed reads. An agent that starts without
//! an apiserver goes on from there.
//!
//! ```text
//! STATE_DIR/node                         whose ledger it is
//! STATE_DIR/objects/<kind>/<name>.json   computed objects
//! STATE_DIR/pods.json                    local Pods
//! STATE_DIR/rules.json                   what was read back of the rules in each network namespace
//! ```
//!
//! A file is replaced as a whole. A ledger in which anything is unreadable counts as none: a missing object might widen
//! what is allowed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ringfence_crds::container_workload_profile::ContainerWorkloadProfileStatus;
use ringfence_crds::names::CLUSTER;
use ringfence_crds::{AddressGroup, ContainerCluster, ContainerWorkloadProfile, NodePolicy, PeerGroup, WorkloadPolicy};
use ringfence_dataplane::{LocalPod, ObjectStore, Profile};
use serde::{Deserialize, Serialize};

use crate::feed::folder::{self, FolderError};
use crate::feed::pod_file::PodEntry;
use crate::feed::{Change, Object, pods};
use crate::netns::Cookie;
use crate::readings::Readings;

/// Why the ledger could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file could not be written or read.
    #[error("use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// An object could not be written as JSON, or Pods not be read.
    #[error("write or read JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The objects could not be read.
    #[error(transparent)]
    Objects(#[from] FolderError),
}

/// What a ledger holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// The objects.
    pub store: ObjectStore,
    /// The Pods.
    pub pods: BTreeMap<String, LocalPod>,
    /// What was read back of the rules in each network namespace.
    pub readings: BTreeMap<Cookie, Readings>,
}

/// `rules.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RulesFile {
    era: Option<String>,
    namespaces: BTreeMap<Cookie, Readings>,
}

/// The ledger of one node.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    node: String,
    era: Option<String>,
    /// What is on disk, if that is known.
    saved: Option<Kept>,
}

impl Ledger {
    /// The ledger of `node` in this folder, and what it holds; nothing if it is new, unreadable (which is logged), or
    /// another node's. What was read back counts only in the `era` in which it was: cookies are of one boot, and the form
    /// in which rules come back is of one version of iptables.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path, node: &str, era: Option<String>) -> Result<(Self, Option<Kept>), LedgerError> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let mut ledger = Self { folder: folder.to_owned(), node: node.to_owned(), era, saved: None };
        let found = match fs::read_to_string(folder.join("node")) {
            Ok(owner) if owner.trim() == node => ledger.load(),
            _ => Ok(None),
        };
        match found {
            Ok(Some(kept)) => {
                ledger.saved = Some(kept.clone());
                Ok((ledger, Some(kept)))
            }
            other => {
                if let Err(error) = other {
                    tracing::warn!(%error, "failed to read the ledger: starting without it");
                }
                ledger.clear()?;
                Ok((ledger, None))
            }
        }
    }

    fn load(&self) -> Result<Option<Kept>, LedgerError> {
        let objects = self.folder.join("objects");
        let pods_file = self.folder.join("pods.json");
        if !objects.is_dir() || !pods_file.is_file() {
            return Ok(None);
        }
        let mut store = ObjectStore::default();
        for change in folder::read(&objects, Some(&self.node))? {
            let Change::All { objects, .. } = change else { continue };
            objects.into_iter().for_each(|(name, object)| insert(&mut store, name, object));
        }
        let text = fs::read_to_string(&pods_file).map_err(at(&pods_file))?;
        let entries: Vec<PodEntry> = serde_json::from_str(&text)?;
        let pods = entries.into_iter().map(LocalPod::from).map(|pod| (pods::key(&pod), pod)).collect();
        Ok(Some(Kept { store, pods, readings: self.load_readings()? }))
    }

    fn load_readings(&self) -> Result<BTreeMap<Cookie, Readings>, LedgerError> {
        let path = self.folder.join("rules.json");
        // Agents before this one did not write it.
        if !path.is_file() {
            return Ok(BTreeMap::new());
        }
        let file: RulesFile = serde_json::from_str(&fs::read_to_string(&path).map_err(at(&path))?)?;
        let counts = self.era.is_some() && self.era == file.era;
        Ok(if counts { file.namespaces } else { BTreeMap::new() })
    }

    /// Removes what is on disk.
    ///
    /// # Errors
    /// When a file cannot be removed or written.
    pub fn clear(&self) -> Result<(), LedgerError> {
        let objects = self.folder.join("objects");
        for file in ["node", "rules.json"].map(|name| self.folder.join(name)) {
            gone(fs::remove_file(&file)).map_err(at(&file))?;
        }
        gone(fs::remove_dir_all(&objects)).map_err(at(&objects))
    }

    /// Writes what differs from what is on disk.
    ///
    /// # Errors
    /// When a file cannot be written; what was written until then stays.
    pub fn save(&mut self, kept: Kept) -> Result<(), LedgerError> {
        let result = self.write(&kept);
        // After a failure nobody knows which files were written: next time all of them are.
        self.saved = result.is_ok().then_some(kept);
        result
    }

    /// Everything that is new before anything that goes, groups before the policies that refer to them, and gone the
    /// other way round: a crash in between leaves nothing referred to missing.
    fn write(&self, Kept { store, pods, readings }: &Kept) -> Result<(), LedgerError> {
        let nothing = ObjectStore::default();
        let saved = self.saved.as_ref();
        let old = saved.map_or(&nothing, |saved| &saved.store);
        let node = |s: &ObjectStore| s.node_policy.iter().map(|p| (self.node.clone(), p.clone())).collect();
        let cluster = |s: &ObjectStore| s.cluster.iter().map(|c| (CLUSTER.to_owned(), c.clone())).collect();
        let nodes: (BTreeMap<_, _>, BTreeMap<_, _>) = (node(old), node(store));
        let clusters: (BTreeMap<_, _>, BTreeMap<_, _>) = (cluster(old), cluster(store));
        self.put("nodepolicies", &nodes.0, &nodes.1, NodePolicy::new)?;
        self.put("containerclusters", &clusters.0, &clusters.1, ContainerCluster::new)?;
        self.put("containerworkloadprofiles", &old.profiles, &store.profiles, profile)?;
        self.put("addressgroups", &old.address_groups, &store.address_groups, AddressGroup::new)?;
        self.put("peergroups", &old.peer_groups, &store.peer_groups, PeerGroup::new)?;
        self.put("workloadpolicies", &old.workload_policies, &store.workload_policies, WorkloadPolicy::new)?;
        if saved.map(|saved| &saved.pods) != Some(pods) {
            let entries: Vec<PodEntry> = pods.values().map(PodEntry::from).collect();
            replace(&self.folder.join("pods.json"), &entries)?;
        }
        if saved.map(|saved| &saved.readings) != Some(readings) {
            let file = RulesFile { era: self.era.clone(), namespaces: readings.clone() };
            replace(&self.folder.join("rules.json"), &file)?;
        }
        if saved.is_none() {
            replace_text(&self.folder.join("node"), self.node.as_bytes())?;
        }
        self.forget("workloadpolicies", &old.workload_policies, &store.workload_policies)?;
        self.forget("peergroups", &old.peer_groups, &store.peer_groups)?;
        self.forget("addressgroups", &old.address_groups, &store.address_groups)?;
        self.forget("containerworkloadprofiles", &old.profiles, &store.profiles)?;
        self.forget("containerclusters", &clusters.0, &clusters.1)?;
        self.forget("nodepolicies", &nodes.0, &nodes.1)
    }

    fn put<S: PartialEq + Clone, K: Serialize>(
        &self,
        kind: &str,
        old: &BTreeMap<String, S>,
        new: &BTreeMap<String, S>,
        object: impl Fn(&str, S) -> K,
    ) -> Result<(), LedgerError> {
        let folder = self.folder.join("objects").join(kind);
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        for (name, spec) in new.iter().filter(|(name, spec)| old.get(*name) != Some(spec)) {
            replace(&folder.join(format!("{name}.json")), &object(name, spec.clone()))?;
        }
        Ok(())
    }

    /// Removes the files of objects that are gone; of any that is not known, if what is on disk is not known.
    fn forget<S>(&self, kind: &str, old: &BTreeMap<String, S>, new: &BTreeMap<String, S>) -> Result<(), LedgerError> {
        if self.saved.is_some() && old.keys().all(|name| new.contains_key(name)) {
            return Ok(());
        }
        let folder = self.folder.join("objects").join(kind);
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let path = entry.map_err(at(&folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.strip_suffix(".json").is_some_and(|name| new.contains_key(name)) {
                gone(fs::remove_file(&path)).map_err(at(&path))?;
            }
        }
        Ok(())
    }
}

fn insert(store: &mut ObjectStore, name: String, object: Object) {
    match object {
        Object::NodePolicy(entry) => store.node_policy = Some(entry.spec),
        Object::Cluster(entry) => store.cluster = Some(entry.spec),
        Object::Profile(profile) => drop(store.profiles.insert(name, profile)),
        Object::WorkloadPolicy(spec) => drop(store.workload_policies.insert(name, spec)),
        Object::PeerGroup(spec) => drop(store.peer_groups.insert(name, spec)),
        Object::AddressGroup(spec) => drop(store.address_groups.insert(name, spec)),
        Object::Pod(_) => {}
    }
}

fn profile(name: &str, profile: Profile) -> ContainerWorkloadProfile {
    let mut object = ContainerWorkloadProfile::new(name, profile.spec);
    object.status = Some(ContainerWorkloadProfileStatus {
        enforced_state: profile.enforced_state,
        ..ContainerWorkloadProfileStatus::default()
    });
    object
}

fn replace(path: &Path, value: &impl Serialize) -> Result<(), LedgerError> {
    replace_text(path, &serde_json::to_vec(value)?)
}

/// Replaces a file as a whole: whoever reads it, also after a crash, finds the old or the new content.
fn replace_text(path: &Path, text: &[u8]) -> Result<(), LedgerError> {
    let aside = path.with_extension("new");
    let write = || {
        let mut file = fs::File::create(&aside)?;
        file.write_all(text)?;
        file.sync_data()?;
        fs::rename(&aside, path)
    };
    write().map_err(at(path))
}

/// Something to remove that is not there is as good as removed.
fn gone(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_crds::{ContainerClusterSpec, NodePolicySpec, PeerGroupSpec};
    use ringfence_model::PolicyState;

    fn store() -> ObjectStore {
        let mut store = ObjectStore {
            node_policy: Some(NodePolicySpec { cluster_uid: "u".to_owned(), ..NodePolicySpec::default() }),
            cluster: Some(ContainerClusterSpec { policy_epoch: Some(3), ..ContainerClusterSpec::default() }),
            ..ObjectStore::default()
        };
        let group = PeerGroupSpec { classes: vec!["c-1".to_owned()], ..PeerGroupSpec::default() };
        store.peer_groups.insert("p-1".to_owned(), group);
        let profile = Profile { enforced_state: Some(PolicyState::Full), ..Profile::default() };
        store.profiles.insert("shop".to_owned(), profile);
        store
    }

    /// What the store above is kept with: nothing.
    fn kept(store: ObjectStore) -> Kept {
        Kept { store, ..Kept::default() }
    }

    fn open(folder: &Path, node: &str) -> (Ledger, Option<Kept>) {
        Ledger::open(folder, node, Some("boot 1".to_owned())).expect("opened")
    }

    #[test]
    fn what_is_saved_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let pod = LocalPod { uid: "u-1".to_owned(), name: "web".to_owned(), ..LocalPod::default() };
        let (mut ledger, found) = open(folder.path(), "n1");
        assert!(found.is_none());
        let whole = Kept { pods: [(pods::key(&pod), pod)].into(), ..kept(store()) };
        ledger.save(whole.clone()).expect("saved");
        let (mut ledger, found) = open(folder.path(), "n1");
        assert_eq!(found, Some(whole));

        let mut fewer = store();
        fewer.peer_groups.clear();
        ledger.save(kept(fewer.clone())).expect("saved");
        assert_eq!(open(folder.path(), "n1").1, Some(kept(fewer)));
    }

    #[test]
    fn what_was_read_back_counts_in_its_era_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let readings: Readings =
            serde_json::from_str(r#"{"v4": {"written": "RF-FP-1", "digest": "d"}}"#).expect("a literal of the test");
        let (mut ledger, _) = open(folder.path(), "n1");
        ledger.save(Kept { readings: [(Cookie(0x4711), readings.clone())].into(), ..kept(store()) }).expect("saved");
        let found = |era: Option<&str>| {
            let (_, found) = Ledger::open(folder.path(), "n1", era.map(str::to_owned)).expect("opened");
            found.expect("the rest counts all the same").readings
        };
        assert_eq!(found(Some("boot 1")), [(Cookie(0x4711), readings)].into());
        assert!(found(Some("boot 2")).is_empty());
        assert!(found(None).is_empty());
        fs::remove_file(folder.path().join("rules.json")).expect("removed");
        assert!(found(Some("boot 1")).is_empty(), "a ledger of an agent that kept none");
    }

    #[test]
    fn what_a_failed_save_wrote_does_not_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut ledger, _) = open(folder.path(), "n1");
        ledger.save(kept(store())).expect("saved");
        let mut more = store();
        for name in ["p-2", "p-3"] {
            more.peer_groups.insert(name.to_owned(), PeerGroupSpec::default());
        }
        let in_the_way = folder.path().join("objects/peergroups/p-3.new");
        fs::create_dir(&in_the_way).expect("made");
        ledger.save(kept(more)).expect_err("p-3 cannot be written, p-2 was");
        fs::remove_dir(&in_the_way).expect("removed");
        ledger.save(kept(store())).expect("saved");
        assert_eq!(open(folder.path(), "n1").1, Some(kept(store())));
    }

    #[test]
    fn the_ledger_of_another_node_counts_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut ledger, _) = open(folder.path(), "n1");
        ledger.save(kept(store())).expect("saved");
        assert!(open(folder.path(), "n2").1.is_none());
    }

    #[test]
    fn a_broken_file_makes_the_ledger_count_as_none() {
        for file in ["objects/peergroups/p-1.json", "rules.json"] {
            let folder = tempfile::tempdir().expect("a folder");
            let (mut ledger, _) = open(folder.path(), "n1");
            ledger.save(kept(store())).expect("saved");
            fs::write(folder.path().join(file), "{").expect("written");
            assert!(open(folder.path(), "n1").1.is_none(), "{file}");
        }
    }
}
