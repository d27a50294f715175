//! Pods as workloads: their labels and class, and what of their addresses is not told to peers.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::ComputedPod;
use super::addresses::{AddressBook, Name, Owner, PodId};
use super::class::{Class, ClassId};
use super::namespaces::{Derived, Namespace};
use super::settings::Settings;
use crate::cluster::PodInfo;

/// What the compiler remembers of a Pod that has not ended.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// Its namespace and name.
    pub key: Arc<NamespacedName>,
    /// Its class; none in an unmanaged namespace and for a host-network Pod.
    pub class: Option<(ClassId, Arc<Class>)>,
    /// The addresses that it claims.
    pub claimed: SmallVec<[IpAddr; 1]>,
    /// Its node.
    pub node: Option<Name>,
    /// Whether something is said of its addresses.
    pub troubled: bool,
}

/// The Pods that have not ended, by name and by number.
#[derive(Debug, Clone, Default)]
pub struct Pods {
    numbers: FxHashMap<Arc<NamespacedName>, PodId>,
    known: Vec<Option<PodFacts>>,
    free: Vec<PodId>,
    /// Numbers that nobody has any more, but of which the addresses still speak.
    left: Vec<PodId>,
}

impl Pods {
    /// Makes room for as many Pods more.
    pub fn reserve(&mut self, pods: usize) {
        self.numbers.reserve(pods);
        self.known.reserve(pods);
    }

    /// The number of a Pod.
    pub fn number(&self, key: &NamespacedName) -> Option<PodId> {
        self.numbers.get(key).copied()
    }

    /// A Pod by its number.
    pub fn at(&self, number: PodId) -> Option<&PodFacts> {
        self.known.get(number as usize)?.as_ref()
    }

    /// The same, to be changed.
    pub fn at_mut(&mut self, number: PodId) -> Option<&mut PodFacts> {
        self.known.get_mut(number as usize)?.as_mut()
    }

    /// The number for a Pod that is about to be known.
    pub fn next(&mut self) -> PodId {
        self.free.pop().unwrap_or_else(|| {
            self.known.push(None);
            // Four thousand million Pods do not fit into any memory.
            PodId::try_from(self.known.len() - 1).unwrap_or(PodId::MAX)
        })
    }

    /// Knows a Pod by a number that was its own before, or that [`next`](Self::next) gave.
    pub fn insert(&mut self, number: PodId, facts: PodFacts) {
        self.numbers.insert(Arc::clone(&facts.key), number);
        if let Some(slot) = self.known.get_mut(number as usize) {
            *slot = Some(facts);
        }
    }

    /// Takes what is known of a Pod; it keeps its number until [`remove`](Self::remove).
    pub fn take(&mut self, number: PodId) -> Option<PodFacts> {
        self.known.get_mut(number as usize)?.take()
    }

    /// A Pod is gone, or did not come to be known.
    pub fn remove(&mut self, key: &NamespacedName, number: PodId) {
        self.numbers.remove(key);
        self.left.push(number);
    }

    /// The addresses were settled: numbers of Pods that are gone may be given to others.
    pub fn forget(&mut self) {
        self.free.append(&mut self.left);
    }
}

/// A Pod as it was read: what follows from it and its namespace, whatever else there is.
#[derive(Debug)]
pub struct ReadPod {
    /// Its namespace and name.
    pub key: Arc<NamespacedName>,
    /// Its class; none in an unmanaged namespace and for a host-network Pod.
    pub class: Option<Arc<Class>>,
    /// The addresses that it claims.
    pub claimed: SmallVec<[IpAddr; 1]>,
    /// What is shown of it, but for its problems.
    pub shown: ComputedPod,
}

impl ReadPod {
    /// Reads a Pod of a namespace.
    pub fn new(key: Arc<NamespacedName>, pod: &PodInfo, namespace: &mut Namespace, settings: &Settings) -> Self {
        let (labels, class) = match namespace.derive(pod, settings) {
            Some(Derived { labels, class }) => (labels, Some(class)),
            None => Default::default(),
        };
        let shown = ComputedPod {
            labels,
            state: namespace.profile.state.filter(|_| !pod.host_network),
            node: pod.node.clone(),
            host_network: pod.host_network,
            addresses: pod.ips.clone(),
            uid: pod.uid.clone(),
            problems: Vec::new(),
        };
        Self { key, class, claimed: claims(pod), shown }
    }
}

/// The addresses that a Pod claims: none if it uses those of its node.
fn claims(pod: &PodInfo) -> SmallVec<[IpAddr; 1]> {
    let mut claimed = SmallVec::new();
    if !pod.host_network {
        for address in &pod.ips {
            if !claimed.contains(address) {
                claimed.push(*address);
            }
        }
    }
    claimed
}

/// Why addresses of a Pod are not told to its peers, and which of them two claim.
pub fn problems(book: &AddressBook, settings: &Settings, pod: &PodInfo) -> (Vec<String>, Vec<IpAddr>) {
    let mut problems = Vec::new();
    let mut disputed = Vec::new();
    if pod.host_network {
        return (problems, disputed);
    }
    for address in &pod.ips {
        if let Some(reason) = book.implausible(*address, settings) {
            problems.push(format!("address {address} is refused: {reason}"));
        }
    }
    for address in &pod.ips {
        if book.owner(*address) == Some(&Owner::Disputed) {
            problems.push(format!("address {address} is also that of another Pod: neither is a peer"));
            disputed.push(*address);
        }
    }
    (problems, disputed)
}

/// Whether an address is simply the Pod's.
pub fn is_plain(book: &AddressBook, address: IpAddr, number: PodId) -> bool {
    book.owner(address) == Some(&Owner::Pod(number))
}
