//! The ledger: what the agent has read, on disk. An agent that starts without an apiserver goes on from there.
//!
//! ```text
//! STATE_DIR/ledger.jsonl           everything, and behind it what has changed since (see `records`)
//! STATE_DIR/ledger.previous.jsonl  the file before it
//! ```
//!
//! What changes is appended, with one checksum and one sync a save, so that a save costs what has changed and not what
//! there is. When as much was appended as there is, the file is written anew, next to the old one, which stays until
//! the next time. Whatever happens between two instructions, or to a byte on the disk, a whole save is found and never
//! a mix of two: the newest that is as it was written, in this file or else in the one before.

mod keeper;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use kube::Resource;
use ringfence_crds::container_cluster::PodNetworkStatus;
use ringfence_crds::container_workload_profile::ContainerWorkloadProfileStatus;
use ringfence_crds::names::CLUSTER;
use ringfence_crds::{
    AddressGroup, ContainerCluster, ContainerClusterSpec, ContainerClusterStatus, ContainerWorkloadProfile, NodePolicy,
    PeerGroup, WorkloadPolicy,
};
use ringfence_dataplane::{Learned, LocalPod, ObjectStore, Profile};
use serde::Serialize;

use crate::feed::pod_file::PodEntry;
use crate::netns::Cookie;
use crate::readings::Readings;
pub use keeper::keep;
use records::{End, FORMAT, Found, NAMES, Owner, POD, RULES, ReadError, Record, Writer};

/// The file in use.
const CURRENT: &str = "ledger.jsonl";
/// The one before.
const PREVIOUS: &str = "ledger.previous.jsonl";
/// The next one, until it is whole.
const ASIDE: &str = "ledger.new";
/// Files of agents before this one, which nobody reads any more.
const FORMER: [&str; 3] = ["node", "pods.json", "rules.json"];
/// A folder of theirs.
const FORMER_OBJECTS: &str = "objects";
/// So many bytes are appended in any case before a file is written anew.
const ROOM: u64 = 1 << 20;

/// Why the ledger could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("use {}: {source}", path.display())]
pub struct LedgerError {
    /// What could not be used.
    path: PathBuf,
    /// Why not.
    source: io::Error,
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
    /// What each sandbox has learned of names.
    pub learned: BTreeMap<String, Learned>,
}

/// The ledger of one node.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    owner: Owner,
    /// The file in use, if more can be appended to it.
    file: Option<Appendable>,
    /// Whether the file in use can be read and is this node's: only then it replaces the one before.
    is_good: bool,
}

#[derive(Debug)]
struct Appendable {
    kept: Kept,
    end: End,
    whole: u64,
}

impl Ledger {
    /// The ledger of `node` in this folder, and what it holds: nothing if it is new, if nothing in it is as it was
    /// written, or if it is another node's or another machine's, as on a cloned disk. What was read back counts only in the
    /// `era` in which it was: cookies are of one boot, and the form in which rules come back is of one version of iptables.
    /// Says what is wrong with it, if anything is.
    pub fn open(
        folder: &Path,
        node: &str,
        machine_id: Option<&str>,
        era: Option<String>,
    ) -> (Self, Option<Kept>, Option<String>) {
        let owner = Owner { format: FORMAT, node: node.to_owned(), machine_id: machine_id.map(str::to_owned), era };
        let mut ledger = Self { folder: folder.to_owned(), owner, file: None, is_good: false };
        let current = match records::read(&ledger.path(CURRENT)) {
            Ok(found) => {
                let fault = found.fault.as_ref();
                let problem =
                    fault.map(|fault| format!("read all of the ledger: {fault}; that of {} is used", found.at));
                let kept = ledger.take(found, true);
                return (ledger, kept, problem);
            }
            Err(error) => error,
        };
        match records::read(&ledger.path(PREVIOUS)) {
            Ok(found) => {
                let problem = format!("read the ledger: {current}; that of {} is used", found.at);
                let kept = ledger.take(found, false);
                (ledger, kept, Some(problem))
            }
            Err(ReadError::Missing) if matches!(current, ReadError::Missing) => (ledger, None, None),
            Err(previous) => {
                let problem = format!("read the ledger: {current}, and of the one before, {previous}; there is none");
                (ledger, None, Some(problem))
            }
        }
    }

    /// What counts of what was found.
    fn take(&mut self, found: Found, current: bool) -> Option<Kept> {
        let Found { owner, mut kept, end, whole, fault, .. } = found;
        if !self.is_of(&owner) {
            tracing::warn!(node = owner.node, machine_id = owner.machine_id, "the ledger is another machine's");
            return None;
        }
        if owner.era.is_none() || owner.era != self.owner.era {
            kept.readings.clear();
        }
        self.is_good = current && fault.is_none();
        // One of another era, or of a machine that was not known then, is written anew.
        self.file = (self.is_good && owner == self.owner).then(|| Appendable { kept: kept.clone(), end, whole });
        Some(kept)
    }

    /// Whether a file is of this node on this machine. That nobody knows the machine does not make it another.
    fn is_of(&self, owner: &Owner) -> bool {
        let other = matches!((&owner.machine_id, &self.owner.machine_id), (Some(theirs), Some(ours)) if theirs != ours);
        owner.node == self.owner.node && !other
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes what differs from what is on disk.
    ///
    /// # Errors
    /// When that is not possible; what was saved before stays.
    pub fn save(&mut self, kept: Kept) -> Result<(), LedgerError> {
        let length = fs::metadata(self.path(CURRENT)).map(|file| file.len());
        // One that somebody cut off or took away is none to go on with, nor to keep.
        if self.file.as_ref().is_some_and(|file| length.as_ref().ok() != Some(&file.end.length)) {
            (self.file, self.is_good) = (None, false);
        }
        match self.file.take_if(|file| file.end.length - file.whole <= file.whole.max(ROOM)) {
            Some(file) => self.append(file, kept),
            None => self.write_anew(kept),
        }
    }

    fn append(&mut self, mut file: Appendable, kept: Kept) -> Result<(), LedgerError> {
        let path = self.path(CURRENT);
        let append = || {
            let out = BufWriter::new(fs::OpenOptions::new().append(true).open(&path)?);
            let mut writer = Writer::behind(Some(&file.end), out);
            write_changes(&mut writer, &self.owner.node, &file.kept, &kept)?;
            if writer.is_empty() { Ok(None) } else { close(writer).map(Some) }
        };
        match append() {
            Ok(end) => {
                file.end = end.unwrap_or(file.end);
                self.file = Some(Appendable { kept, ..file });
                Ok(())
            }
            Err(error) => {
                // What was cut off must not come between what was saved and what will be.
                let cut = fs::OpenOptions::new().write(true).open(&path).and_then(|out| out.set_len(file.end.length));
                self.is_good = cut.is_ok();
                self.file = cut.is_ok().then_some(file);
                Err(at(&path)(error))
            }
        }
    }

    /// Writes everything into a new file, which then takes the place of the one in use.
    fn write_anew(&mut self, kept: Kept) -> Result<(), LedgerError> {
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        let (aside, current) = (self.path(ASIDE), self.path(CURRENT));
        let written = self.write_aside(&aside, &kept).and_then(|end| {
            self.keep_previous();
            fs::rename(&aside, &current)?;
            fs::File::open(&self.folder)?.sync_all()?;
            Ok(end)
        });
        match written {
            Ok(end) => {
                self.file = Some(Appendable { kept, whole: end.length, end });
                self.is_good = true;
                // They do no harm, and cost a disk that is full what it needs.
                let _ = clear_former(&self.folder);
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_file(&aside);
                Err(at(&aside)(error))
            }
        }
    }

    fn write_aside(&self, aside: &Path, kept: &Kept) -> io::Result<End> {
        // Annotations of Pods are in it, which are nobody's business who cannot read Pods.
        let out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(aside)?;
        let mut writer = Writer::behind(None, BufWriter::new(out));
        writer.put(&Record::<()>::Owner(self.owner.clone()))?;
        write_changes(&mut writer, &self.owner.node, &Kept::default(), kept)?;
        close(writer)
    }

    /// Gives the file in use the name of the one before, under which it stays. Without one the ledger is as good.
    fn keep_previous(&self) {
        let previous = self.path(PREVIOUS);
        if self.is_good
            && let Err(error) =
                gone(fs::remove_file(&previous)).and_then(|()| fs::hard_link(self.path(CURRENT), &previous))
        {
            tracing::warn!("failed to keep the ledger before this one: {error}");
        }
    }
}

fn clear_former(folder: &Path) -> Result<(), LedgerError> {
    for file in FORMER.map(|name| folder.join(name)) {
        gone(fs::remove_file(&file)).map_err(at(&file))?;
    }
    let objects = folder.join(FORMER_OBJECTS);
    gone(fs::remove_dir_all(&objects)).map_err(at(&objects))
}

/// Closes a save and waits until the disk has it.
fn close(writer: Writer<BufWriter<fs::File>>) -> io::Result<End> {
    let (mut out, end) = writer.close()?;
    out.flush()?;
    out.get_ref().sync_data()?;
    Ok(end)
}

/// Writes what is new, different or gone.
fn write_changes(writer: &mut Writer<impl Write>, node: &str, old: &Kept, new: &Kept) -> io::Result<()> {
    fn named<S: Clone>(name: &str, spec: Option<&S>) -> BTreeMap<String, S> {
        spec.map(|spec| (name.to_owned(), spec.clone())).into_iter().collect()
    }
    let (before, now) = (&old.store, &new.store);
    let [was, is] = [before, now].map(|store| named(node, store.node_policy.as_ref()));
    write_objects(writer, &was, &is, NodePolicy::new)?;
    let [was, is] = [before, now].map(|store| {
        let cluster = store.cluster.as_ref().map(|spec| (spec.clone(), store.networks.clone()));
        named(CLUSTER, cluster.as_ref())
    });
    write_objects(writer, &was, &is, cluster)?;
    write_objects(writer, &before.profiles, &now.profiles, profile)?;
    write_objects(writer, &before.address_groups, &now.address_groups, AddressGroup::new)?;
    write_objects(writer, &before.peer_groups, &now.peer_groups, PeerGroup::new)?;
    write_objects(writer, &before.workload_policies, &now.workload_policies, WorkloadPolicy::new)?;
    let pod = |_: &String, pod: &LocalPod| Record::<()>::Pod(Box::new(PodEntry::from(pod)));
    write_map(writer, POD, &old.pods, &new.pods, pod)?;
    let rules =
        |cookie: &Cookie, readings: &Readings| Record::<()>::Rules { cookie: *cookie, readings: readings.clone() };
    write_map(writer, RULES, &old.readings, &new.readings, rules)?;
    let names = |sandbox: &String, learned: &Learned| Record::<()>::Names {
        sandbox: sandbox.clone(),
        learned: learned.clone(),
    };
    write_map(writer, NAMES, &old.learned, &new.learned, names)
}

fn write_objects<S: PartialEq + Clone, K: Serialize + Resource<DynamicType = ()>>(
    writer: &mut Writer<impl Write>,
    old: &BTreeMap<String, S>,
    new: &BTreeMap<String, S>,
    object: impl Fn(&str, S) -> K,
) -> io::Result<()> {
    write_map(writer, &K::kind(&()), old, new, |name, spec| Record::Put(object(name, spec.clone())))
}

fn write_map<K: Ord + ToString, S: PartialEq, O: Serialize>(
    writer: &mut Writer<impl Write>,
    kind: &str,
    old: &BTreeMap<K, S>,
    new: &BTreeMap<K, S>,
    record: impl Fn(&K, &S) -> Record<O>,
) -> io::Result<()> {
    for (name, value) in new.iter().filter(|(name, value)| old.get(*name) != Some(*value)) {
        writer.put(&record(name, value))?;
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        writer.put(&Record::<()>::Gone { kind: kind.to_owned(), name: name.to_string() })?;
    }
    Ok(())
}

fn cluster(name: &str, (spec, networks): (ContainerClusterSpec, BTreeSet<IpNet>)) -> ContainerCluster {
    let cidrs = networks.iter().map(ToString::to_string).collect();
    let mut object = ContainerCluster::new(name, spec);
    // Which of them is whose does not matter to an agent.
    let known = PodNetworkStatus { cidrs, ..PodNetworkStatus::default() };
    object.status = Some(ContainerClusterStatus { pod_networks: vec![known], ..ContainerClusterStatus::default() });
    object
}

fn profile(name: &str, profile: Profile) -> ContainerWorkloadProfile {
    let mut object = ContainerWorkloadProfile::new(name, profile.spec);
    object.status = Some(ContainerWorkloadProfileStatus {
        enforced_state: profile.enforced_state,
        ..ContainerWorkloadProfileStatus::default()
    });
    object
}

/// Something to remove that is not there is as good as removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        other => other,
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError { path: path.clone(), source }
}

#[cfg(test)]
mod tests;
