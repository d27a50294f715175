//! Pods as workloads: their labels and class, and what of their addresses is not told to peers.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_crds::common::NamespacedName;
use ringfence_model::DerivedLabels;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::ComputedPod;
use super::addresses::{AddressBook, Claim, Name, Owner, PodKey};
use super::classes::{Class, ClassId, ClassOrigin, Classes};
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
    /// Its name, as shared with its addresses.
    pub key: PodKey,
    /// Its class; none in an unmanaged namespace and for a host-network Pod.
    pub class: Option<(ClassId, Arc<Class>)>,
    /// The addresses that it claims.
    pub claimed: SmallVec<[IpAddr; 1]>,
    /// Its node.
    pub node: Option<Name>,
}

/// What holds in a namespace, and the labels that were derived there.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Its profile.
    pub profile: NamespaceProfile,
    /// By [`what counts`](super::labels::LabelReader::what_counts).
    derived: FxHashMap<String, Derived>,
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
    known: FxHashMap<String, Namespace>,
    /// Kept, because it is filled for every Pod.
    text: String,
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
        if !self.known.contains_key(name) {
            let namespace = Namespace { profile: NamespaceProfile::of(policy, name), ..Namespace::default() };
            self.known.insert(name.to_owned(), namespace);
        }
        // Put there just now, if it was not there before.
        self.known.entry(name.to_owned()).or_default()
    }

    /// The profile of a namespace has changed, or nothing of the namespace is left.
    pub fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// The labels and the class of a Pod of a managed namespace with a network of its own.
    pub fn label(
        &mut self,
        policy: &Policy,
        settings: &Settings,
        classes: &mut Classes,
        namespace: &str,
        pod: &PodInfo,
    ) -> Labelled {
        let mut text = std::mem::take(&mut self.text);
        settings.labels.what_counts(pod, &mut text);
        let known = self.get(policy, namespace);
        let labelled = match known.derived.get_mut(text.as_str()) {
            Some(derived) => {
                derived.number = classes.acquire_as(derived.number, &derived.class);
                // A class that died and was born again since is another Arc: from now on that one is known.
                if let Some(living) = classes.get(derived.number) {
                    derived.class = Arc::clone(&living.class);
                }
                Labelled { labels: Arc::clone(&derived.labels), class: Some((derived.number, derived.class.clone())) }
            }
            None => {
                let labels = Arc::new(settings.labels.of_pod(&known.profile, pod));
                let class = Arc::new(Class { labels: labels.labels.clone(), origin: ClassOrigin::Pods });
                let number = classes.acquire(&class);
                // One class has one Arc, so that knowing the number is enough the next time.
                let class = classes.get(number).map_or(class, |living| Arc::clone(&living.class));
                if known.derived.len() >= REMEMBERED.0 {
                    known.derived.clear();
                }
                if text.len() <= REMEMBERED.1 {
                    let derived = Derived { labels: Arc::clone(&labels), class: Arc::clone(&class), number };
                    known.derived.insert(text.clone(), derived);
                }
                Labelled { labels, class: Some((number, class)) }
            }
        };
        self.text = text;
        labelled
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

/// Notes or takes back what a Pod claims.
pub fn note_claims(book: &mut AddressBook, facts: &PodFacts, claimed: &[IpAddr], keep: bool) {
    let claim = Claim::Pod(Arc::clone(&facts.key));
    for address in claimed {
        if keep {
            book.claim(*address, claim.clone());
        } else {
            book.release(*address, &claim);
        }
    }
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
pub fn is_plain(book: &AddressBook, address: IpAddr, key: &NamespacedName) -> bool {
    matches!(book.owner(address), Some(Owner::Pod(own)) if **own == *key)
}
