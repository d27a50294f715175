//! Pods as workloads: their labels and class, and what of their addresses is not told to peers.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use ringfence_crds::common::NamespacedName;
use ringfence_model::DerivedLabels;
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

use super::ComputedPod;
use super::addresses::{AddressBook, Name, Owner, PodId};
use super::class::{Class, ClassId, ClassOrigin};
use super::classes::Classes;
use super::labels::NamespaceProfile;
use super::settings::Settings;
use crate::cluster::PodInfo;
use crate::policy::Policy;

/// How many texts are remembered per namespace, and how long they may be: whoever may annotate Pods must not fill the
/// memory.
const REMEMBERED: (usize, usize) = (4096, 1024);

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

/// What holds in a namespace, and the labels that were derived there.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Its profile.
    pub profile: NamespaceProfile,
    /// What its Pods' labels are.
    pub derived: DerivedMemo,
}

/// Labels by [what counts](super::labels::LabelReader::what_counts), as far as they are remembered.
#[derive(Debug, Clone, Default)]
pub struct DerivedMemo {
    known: FxHashMap<Vec<u8>, Derived>,
    /// Kept, because it is filled for every Pod.
    text: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Derived {
    labels: Arc<DerivedLabels>,
    class: Arc<Class>,
    /// The number that the class had last.
    number: ClassId,
}

/// The namespaces that were looked at.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    known: HashMap<String, Namespace, FxBuildHasher>,
}

/// A Pod with its labels.
pub struct Labelled {
    /// Its labels.
    pub labels: Arc<DerivedLabels>,
    /// Its class, acquired.
    pub class: Option<(ClassId, Arc<Class>)>,
}

impl Namespaces {
    /// What holds in a namespace.
    pub fn get(&mut self, policy: &Policy, name: &str) -> &mut Namespace {
        let of = || Namespace { profile: NamespaceProfile::of(policy, name), ..Namespace::default() };
        match self.known.entry_ref(name) {
            EntryRef::Occupied(known) => known.into_mut(),
            EntryRef::Vacant(vacant) => vacant.insert(of()),
        }
    }

    /// The profile of a namespace has changed, or nothing of the namespace is left.
    pub fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}

impl DerivedMemo {
    /// The labels and the class of a Pod of a managed namespace with a network of its own.
    pub fn label(
        &mut self,
        profile: &NamespaceProfile,
        pod: &PodInfo,
        settings: &Settings,
        classes: &mut Classes,
    ) -> Labelled {
        settings.labels.what_counts(pod, &mut self.text);
        if let Some(derived) = self.known.get_mut(&self.text) {
            derived.number = classes.acquire_as(derived.number, &derived.class);
            // A class that died and was born again since is another Arc: from now on that one is known.
            if let Some(living) = classes.get(derived.number) {
                derived.class = Arc::clone(&living.class);
            }
            let class = Some((derived.number, Arc::clone(&derived.class)));
            return Labelled { labels: Arc::clone(&derived.labels), class };
        }
        let labels = Arc::new(settings.labels.of_pod(profile, pod));
        let class = Arc::new(Class { labels: labels.labels.clone(), origin: ClassOrigin::Pods });
        let number = classes.acquire(&class);
        // One class has one Arc, so that knowing the number is enough the next time.
        let class = classes.get(number).map_or(class, |living| Arc::clone(&living.class));
        if self.known.len() >= REMEMBERED.0 {
            self.known.clear();
        }
        if self.text.len() <= REMEMBERED.1 {
            let derived = Derived { labels: Arc::clone(&labels), class: Arc::clone(&class), number };
            self.known.insert(self.text.clone(), derived);
        }
        Labelled { labels, class: Some((number, class)) }
    }
}

/// The addresses that a Pod claims: none if it uses those of its node.
pub fn claims(pod: &PodInfo) -> SmallVec<[IpAddr; 1]> {
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

/// What is shown of a Pod, but for its problems.
pub fn shown(pod: &PodInfo, profile: &NamespaceProfile, labels: Arc<DerivedLabels>) -> ComputedPod {
    ComputedPod {
        labels,
        state: profile.state.filter(|_| !pod.host_network),
        node: pod.node.clone(),
        host_network: pod.host_network,
        addresses: pod.ips.clone(),
        uid: pod.uid.clone(),
        problems: Vec::new(),
    }
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
