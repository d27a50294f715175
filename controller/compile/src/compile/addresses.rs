//! Who has which address.
//!
//! Goals, and the design that meets them:
//! 1. The answer for an address depends on who claims it now, and on nothing else: [`AddressBook`] keeps every claim, and
//!    [`owner`] is a function of the claims of one address. Every claim is paired with its release.
//! 2. A claim costs the same however many addresses there are: an address that was touched is looked at once, at the
//!    end of an update.
//! 3. Nobody takes an address by saying so: what a kubelet or an agent reports counts only where it is plausible.
//!
//! A node's own Pods see it at addresses that Kubernetes does not know: that of a bridge, that of a tunnel. Its agent
//! reports them. A report is a claim by whoever holds the agent's credentials, so it adds nothing that anybody else has
//! or could have.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::class::ClassId;
use super::settings::Settings;

/// Number of a Pod, as long as the compiler knows it.
pub type PodId = u32;
/// Name of a node or machine, shared likewise.
pub type Name = Arc<str>;

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A Pod on the Pod network.
    Pod(PodId),
    /// A node.
    Node(Name),
    /// An unmanaged machine.
    Unmanaged(Name),
    /// Two of them say so, hence nobody until that is resolved.
    Disputed,
}

/// Who says that an address is theirs.
#[derive(Debug, Clone)]
pub enum Claim {
    /// A Pod that has not ended and has a network of its own.
    Pod(PodId),
    /// The status of a node.
    Node(Name),
    /// The agent of a node.
    Agent(Name),
    /// An unmanaged machine.
    Machine(Name),
    /// A Service, as a ClusterIP.
    ClusterIp,
    /// A Service, as any other address.
    ServiceAddress,
    /// The apiserver.
    Apiserver,
}

/// The class whose member an address is, and the Pod network it is on (none outside every Pod network).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The class.
    pub class: ClassId,
    /// Number of the network in [`Settings::networks`].
    pub network: Option<u16>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    pods: SmallVec<[PodId; 2]>,
    /// Rare claims; most addresses are those of one Pod.
    rest: Option<Box<Rest>>,
    owner: Option<Owner>,
    member: Option<Member>,
}

#[derive(Debug, Clone, Default)]
struct Rest {
    nodes: Vec<Name>,
    agents: Vec<Name>,
    machines: Vec<Name>,
    cluster_ips: u32,
    service_addresses: u32,
    apiserver: u32,
}

impl Rest {
    fn is_empty(&self) -> bool {
        let Self { nodes, agents, machines, cluster_ips, service_addresses, apiserver } = self;
        nodes.is_empty() && agents.is_empty() && machines.is_empty() && cluster_ips + service_addresses + apiserver == 0
    }
}

/// Every claim on every address.
#[derive(Debug, Clone, Default)]
pub struct AddressBook {
    entries: FxHashMap<IpAddr, Entry>,
    touched: Vec<IpAddr>,
}

impl AddressBook {
    /// Makes room for as many addresses more.
    pub fn reserve(&mut self, addresses: usize) {
        self.entries.reserve(addresses);
        self.touched.reserve(addresses);
    }

    /// Notes a claim.
    pub fn claim(&mut self, address: IpAddr, claim: Claim) {
        self.touched.push(address);
        let entry = self.entries.entry(address).or_default();
        if let Claim::Pod(number) = claim {
            entry.pods.push(number);
            return;
        }
        let rest = entry.rest.get_or_insert_default();
        match claim {
            Claim::Pod(_) => {}
            Claim::Node(name) => rest.nodes.push(name),
            Claim::Agent(name) => rest.agents.push(name),
            Claim::Machine(name) => rest.machines.push(name),
            Claim::ClusterIp => rest.cluster_ips += 1,
            Claim::ServiceAddress => rest.service_addresses += 1,
            Claim::Apiserver => rest.apiserver += 1,
        }
    }

    /// Takes a claim back that was noted before.
    pub fn release(&mut self, address: IpAddr, claim: &Claim) {
        self.touched.push(address);
        let Some(entry) = self.entries.get_mut(&address) else { return };
        if let Claim::Pod(number) = claim {
            entry.pods.retain(|own| own != number);
            return;
        }
        let Some(rest) = &mut entry.rest else { return };
        match claim {
            Claim::Pod(_) => {}
            Claim::Node(name) => rest.nodes.retain(|own| own != name),
            Claim::Agent(name) => rest.agents.retain(|own| own != name),
            Claim::Machine(name) => rest.machines.retain(|own| own != name),
            Claim::ClusterIp => rest.cluster_ips = rest.cluster_ips.saturating_sub(1),
            Claim::ServiceAddress => rest.service_addresses = rest.service_addresses.saturating_sub(1),
            Claim::Apiserver => rest.apiserver = rest.apiserver.saturating_sub(1),
        }
        if rest.is_empty() {
            entry.rest = None;
        }
    }

    /// Whoever has an address has changed without the address changing hands.
    pub fn touch(&mut self, address: IpAddr) {
        self.touched.push(address);
    }

    /// The addresses that were touched since the last call, sorted.
    pub fn take_touched(&mut self) -> Vec<IpAddr> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Decides anew who has an address, and says who had it before.
    pub fn settle(&mut self, address: IpAddr, settings: &Settings) -> Option<Owner> {
        let entry = self.entries.get_mut(&address)?;
        let now = owner(address, entry, settings);
        std::mem::replace(&mut entry.owner, now)
    }

    /// Notes the class that an address is a member of, and says which it was before.
    pub fn set_member(&mut self, address: IpAddr, member: Option<Member>) -> Option<Member> {
        let entry = self.entries.get_mut(&address)?;
        let before = std::mem::replace(&mut entry.member, member);
        if entry.pods.is_empty() && entry.rest.is_none() {
            self.entries.remove(&address);
        }
        before
    }

    /// Who has an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Owner> {
        self.entries.get(&address)?.owner.as_ref()
    }

    /// The Pods that claim an address.
    pub fn pods_at(&self, address: IpAddr) -> &[PodId] {
        self.entries.get(&address).map_or(&[], |entry| &entry.pods)
    }

    /// The nodes whose status or agent claims an address.
    pub fn nodes_at(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        let rest = self.entries.get(&address).and_then(|entry| entry.rest.as_deref());
        rest.into_iter().flat_map(|rest| rest.nodes.iter().chain(&rest.agents))
    }

    /// The machines that claim an address.
    pub fn machines_at(&self, address: IpAddr) -> &[Name] {
        let rest = self.entries.get(&address).and_then(|entry| entry.rest.as_deref());
        rest.map_or(&[], |rest| &rest.machines)
    }

    /// Whether an address that a node's agent reports is believed: it is the node's by its status, or free.
    pub fn is_believed(&self, address: IpAddr, node: &Name) -> bool {
        let entry = self.entries.get(&address);
        let in_status = entry.and_then(|entry| entry.rest.as_ref()).is_some_and(|rest| rest.nodes.contains(node));
        in_status || entry.is_some_and(|entry| entry.owner.as_ref() == Some(&Owner::Node(node.clone())))
    }

    /// Why an address cannot be a Pod's. A kubelet reports what it likes.
    pub fn implausible(&self, address: IpAddr, settings: &Settings) -> Option<String> {
        let rest = self.entries.get(&address).and_then(|entry| entry.rest.as_deref());
        implausible(address, rest, settings)
    }
}

/// Who has an address, by those who claim it.
fn owner(address: IpAddr, entry: &Entry, settings: &Settings) -> Option<Owner> {
    let rest = entry.rest.as_deref();
    match rest.map_or(&[][..], |rest| &rest.nodes) {
        [] => {}
        [name] => return Some(Owner::Node(name.clone())),
        _ => return Some(Owner::Disputed),
    }
    if let Some(name) = reporter(address, entry, settings) {
        return Some(Owner::Node(name.clone()));
    }
    if !entry.pods.is_empty() && implausible(address, rest, settings).is_none() {
        return Some(match entry.pods.as_slice() {
            [number] => Owner::Pod(*number),
            _ => Owner::Disputed,
        });
    }
    match rest.map_or(&[][..], |rest| &rest.machines) {
        [name] => Some(Owner::Unmanaged(name.clone())),
        _ => None,
    }
}

/// The one node whose agent reports an address that nobody else has or could have. What several report, such as the
/// bridge of a container engine, tells none of them.
fn reporter<'e>(address: IpAddr, entry: &'e Entry, settings: &Settings) -> Option<&'e Name> {
    let rest = entry.rest.as_deref()?;
    let [name] = rest.agents.as_slice() else { return None };
    let taken = !entry.pods.is_empty()
        || !rest.machines.is_empty()
        || rest.cluster_ips + rest.service_addresses + rest.apiserver > 0
        || settings.service_ranges.iter().any(|range| range.contains(&address));
    (!taken && !no_host_has(address)).then_some(name)
}

fn implausible(address: IpAddr, rest: Option<&Rest>, settings: &Settings) -> Option<String> {
    if no_host_has(address) {
        return Some("no Pod can have it".to_owned());
    }
    if rest.is_some_and(|rest| !rest.nodes.is_empty()) {
        return Some("it is that of a node".to_owned());
    }
    if rest.is_some_and(|rest| rest.cluster_ips > 0) {
        return Some("it is that of a Service".to_owned());
    }
    let outside = settings.networks.of_pod(address).is_none();
    outside.then(|| "it lies outside the Pod networks of the ContainerCluster".to_owned())
}

/// Whether no machine and no Pod has such an address for others to see.
fn no_host_has(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local
}
