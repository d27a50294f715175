//! What a file of the ledger is made of: records in JSON, one a line. A save is some records and one that closes it,
//! with a checksum of them and of every save before. What is not closed, or not as it was written, does not count, and
//! nothing behind it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::{fs, io};

use k8s_openapi::jiff::Timestamp;
use ringfence_dataplane::{Learned, LocalPod, ObjectStore};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Kept;
use crate::feed::pod_file::PodEntry;
use crate::feed::{Object, folder, pods};
use crate::netns::Cookie;
use crate::readings::Readings;

/// The form of these records. Another one is another version's, and is not read.
pub const FORMAT: u32 = 1;
/// As what Pods are named by [`Record::Gone`].
pub const POD: &str = "Pod";
/// As what rules are named by [`Record::Gone`]; their name is the cookie.
pub const RULES: &str = "Rules";

/// As what names that were learned are named by [`Record::Gone`]; their name is the sandbox.
pub const NAMES: &str = "Names";

/// Whose a file is, and of when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the node.
    pub node: String,
    /// Its machine-id, if that is known.
    pub machine_id: Option<String>,
    /// The time in which what was read back of rules counts.
    pub era: Option<String>,
}

/// A line. Objects are in the form that the apiserver gives them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Record<O> {
    /// The first one of a file.
    Owner(Owner),
    /// This object is new or different.
    Put(O),
    /// This Pod is.
    Pod(Box<PodEntry>),
    /// What was read back of the rules of this network namespace is.
    Rules {
        /// The namespace.
        cookie: Cookie,
        /// What was read back.
        readings: Readings,
    },
    /// What this sandbox has learned of names is.
    Names {
        /// The sandbox.
        sandbox: String,
        /// What it has learned.
        learned: Learned,
    },
    /// This is gone.
    Gone {
        /// Kind of an object, [`POD`], [`RULES`] or [`NAMES`].
        kind: String,
        /// Its name.
        name: String,
    },
    /// Everything since the last one of these counts.
    Saved {
        /// When it was written.
        at: String,
        /// Checksum, in hexadecimal.
        sum: String,
    },
}

/// Where a file ends whose saves are all closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its length in bytes.
    pub length: u64,
    /// Checksum of its last save.
    pub sum: String,
}

/// Adds a save to a file.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    digest: Sha256,
    length: u64,
    is_empty: bool,
}

impl<W: Write> Writer<W> {
    /// Behind what ends so; `None` at the beginning of a file.
    pub fn behind(end: Option<&End>, out: W) -> Self {
        let digest = Sha256::new_with_prefix(end.map_or("", |end| &end.sum));
        Self { out, digest, length: end.map_or(0, |end| end.length), is_empty: true }
    }

    /// Whether it has written nothing.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&mut self, record: &Record<impl Serialize>) -> io::Result<()> {
        let line = line(record)?;
        self.digest.update(&line);
        self.is_empty = false;
        self.write(&line)
    }

    /// Closes the save.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn close(mut self) -> io::Result<(W, End)> {
        let at = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
        let sum = sum_of(self.digest.clone(), &at);
        self.write(&line(&Record::<()>::Saved { at, sum: sum.clone() })?)?;
        Ok((self.out, End { length: self.length, sum }))
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.length += u64::try_from(line.len()).unwrap_or_default();
        self.out.write_all(line)
    }
}

fn line(record: &Record<impl Serialize>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}

fn sum_of(digest: Sha256, at: &str) -> String {
    digest.chain_update(at).finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a file, or the rest of it, does not count.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("it is not there")]
    Missing,
    /// The disk does not give it.
    #[error("{0}")]
    Disk(io::Error),
    /// Another version of the agent has written it.
    #[error("it is in form {0} and not {FORMAT}")]
    Format(u32),
    /// It ends before a save is closed.
    #[error("it ends in the middle of a save")]
    Torn,
    /// A line is not what was written.
    #[error("line {0} is not what was written")]
    Damaged(usize),
}

/// What was found in a file.
#[derive(Debug)]
pub struct Found {
    /// Whose it is.
    pub owner: Owner,
    /// What it holds.
    pub kept: Kept,
    /// When that was saved.
    pub at: String,
    /// Where what counts ends.
    pub end: End,
    /// Length of the first save, which is everything that there was.
    pub whole: u64,
    /// Why what is behind does not count, if anything is.
    pub fault: Option<ReadError>,
}

/// Reads as many saves as are as they were written.
///
/// # Errors
/// When not even the first one is.
pub fn read(path: &Path) -> Result<Found, ReadError> {
    let file = fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Missing,
        _ => ReadError::Disk(error),
    })?;
    let mut reader = Reader { input: BufReader::new(file), number: 0, length: 0, sum: String::new() };
    let (owner, first) = match reader.save() {
        Ok(Some(Save { owner: Some(owner), entries, at })) => (owner, (entries, at)),
        Ok(Some(_)) => return Err(ReadError::Damaged(1)),
        Ok(None) => return Err(ReadError::Torn),
        Err(error) => return Err(error),
    };
    let (entries, at) = first;
    let (kept, end) = (Kept::default(), reader.end());
    let mut found = Found { owner, kept, at, whole: end.length, end, fault: None };
    entries.into_iter().for_each(|entry| entry.apply(&mut found.kept));
    loop {
        match reader.save() {
            Ok(Some(Save { owner: None, entries, at })) => {
                entries.into_iter().for_each(|entry| entry.apply(&mut found.kept));
                (found.at, found.end) = (at, reader.end());
            }
            Ok(Some(_)) => found.fault = Some(ReadError::Damaged(reader.number)),
            Ok(None) => return Ok(found),
            Err(error) => found.fault = Some(error),
        }
        if found.fault.is_some() {
            return Ok(found);
        }
    }
}

struct Reader {
    input: BufReader<fs::File>,
    /// Of the last line that was read.
    number: usize,
    length: u64,
    sum: String,
}

struct Save {
    owner: Option<Owner>,
    entries: Vec<Entry>,
    at: String,
}

impl Reader {
    fn end(&self) -> End {
        End { length: self.length, sum: self.sum.clone() }
    }

    /// The next save; none at the end of the file.
    fn save(&mut self) -> Result<Option<Save>, ReadError> {
        let mut digest = Sha256::new_with_prefix(&self.sum);
        let (mut owner, mut entries, mut line) = (None, Vec::new(), Vec::new());
        loop {
            line.clear();
            let length = self.input.read_until(b'\n', &mut line).map_err(ReadError::Disk)?;
            if length == 0 && owner.is_none() && entries.is_empty() {
                return Ok(None);
            }
            if !line.ends_with(b"\n") {
                return Err(ReadError::Torn);
            }
            self.number += 1;
            self.length += u64::try_from(length).unwrap_or_default();
            let damaged = || ReadError::Damaged(self.number);
            let record: Record<Value> = serde_json::from_slice(&line).map_err(|_| damaged())?;
            match record {
                Record::Saved { at, sum } => {
                    if sum_of(digest, &at) != sum {
                        return Err(damaged());
                    }
                    self.sum = sum;
                    return Ok(Some(Save { owner, entries, at }));
                }
                Record::Owner(said) if said.format != FORMAT => return Err(ReadError::Format(said.format)),
                Record::Owner(said) => owner = Some(said),
                other => entries.push(Entry::of(other).ok_or_else(damaged)?),
            }
            digest.update(&line);
        }
    }
}

/// A change of what is kept.
enum Entry {
    Put(String, Object),
    Rules(Cookie, Readings),
    Names(String, Learned),
    Gone(String, String),
}

impl Entry {
    fn of(record: Record<Value>) -> Option<Self> {
        match record {
            Record::Put(document) => folder::object_of(document).ok()?.map(|(name, object)| Self::Put(name, object)),
            Record::Pod(entry) => {
                let pod = LocalPod::from(*entry);
                Some(Self::Put(pods::key(&pod), Object::Pod(pod)))
            }
            Record::Rules { cookie, readings } => Some(Self::Rules(cookie, readings)),
            Record::Names { sandbox, learned } => Some(Self::Names(sandbox, learned)),
            Record::Gone { kind, name } => Some(Self::Gone(kind, name)),
            Record::Owner(_) | Record::Saved { .. } => None,
        }
    }

    fn apply(self, Kept { store, pods, readings, learned }: &mut Kept) {
        match self {
            Self::Put(name, Object::Pod(pod)) => drop(pods.insert(name, pod)),
            Self::Put(name, object) => insert(store, name, object),
            Self::Rules(cookie, read) => drop(readings.insert(cookie, read)),
            Self::Names(sandbox, names) => drop(learned.insert(sandbox, names)),
            Self::Gone(kind, name) => match kind.as_str() {
                "NodePolicy" => store.node_policy = None,
                "ContainerCluster" => (store.cluster, store.networks) = (None, BTreeSet::new()),
                "ContainerWorkloadProfile" => drop(store.profiles.remove(&name)),
                "WorkloadPolicy" => drop(store.workload_policies.remove(&name)),
                "PeerGroup" => drop(store.peer_groups.remove(&name)),
                "AddressGroup" => drop(store.address_groups.remove(&name)),
                POD => drop(pods.remove(&name)),
                NAMES => drop(learned.remove(&name)),
                _ => readings.retain(|cookie, _| cookie.to_string() != name),
            },
        }
    }
}

fn insert(store: &mut ObjectStore, name: String, object: Object) {
    match object {
        Object::NodePolicy(entry) => store.node_policy = Some(entry.spec),
        Object::Cluster(entry) => (store.cluster, store.networks) = (Some(entry.spec), entry.networks),
        Object::Profile(profile) => drop(store.profiles.insert(name, profile)),
        Object::WorkloadPolicy(spec) => drop(store.workload_policies.insert(name, spec)),
        Object::PeerGroup(spec) => drop(store.peer_groups.insert(name, spec)),
        Object::AddressGroup(spec) => drop(store.address_groups.insert(name, spec)),
        Object::Pod(_) => {}
    }
}
