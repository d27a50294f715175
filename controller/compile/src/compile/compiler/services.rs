//! Services, and who has to be told when what is behind one changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_crds::common::NamespacedName;
use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;

use super::todo::{Keys, Todo};
use super::{Changes, Compiler, Inputs};
use crate::cluster::{EndpointSliceInfo, ServiceInfo};
use crate::compile::addresses::{AddressBook, Claim};
use crate::compile::class::ClassId;
use crate::compile::names;
use crate::compile::rule::Ref;
use crate::compile::service_facts::ServiceFacts;
use crate::compile::services::{self, Reader};

/// What leads to a Service, and what a Service leads to.
#[derive(Debug, Clone, Default)]
pub struct ServiceIndex {
    /// What each Service claims.
    claims: BTreeMap<NamespacedName, Vec<(IpAddr, Claim)>>,
    /// The slices of each Service.
    slices: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// The Service of each slice.
    service_of: FxHashMap<NamespacedName, NamespacedName>,
    /// Services by the addresses in their slices, and by the Pods that these name.
    by_address: FxHashMap<IpAddr, BTreeSet<NamespacedName>>,
    by_pod: FxHashMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// What a Service was filed under there.
    filed: FxHashMap<NamespacedName, (BTreeSet<IpAddr>, BTreeSet<NamespacedName>)>,
    /// The classes behind each virtual service.
    behind: FxHashMap<NamespacedName, RoaringBitmap>,
    /// Numbers of virtual services with a class behind them, for bitmaps, and their class ids.
    numbers: FxHashMap<NamespacedName, u32>,
    ids: Vec<String>,
    free: Vec<u32>,
}

impl ServiceIndex {
    /// Notes which Service a slice belongs to, and says which Services are concerned.
    pub fn note_slice(&mut self, key: &NamespacedName, slice: Option<&EndpointSliceInfo>) -> Vec<NamespacedName> {
        let name = slice.and_then(|slice| slice.service.clone());
        let now = name.map(|name| NamespacedName { namespace: key.namespace.clone(), name });
        let before = match &now {
            Some(now) => self.service_of.insert(key.clone(), now.clone()),
            None => self.service_of.remove(key),
        };
        if let Some(before) = &before
            && let Some(slices) = self.slices.get_mut(before)
        {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(before);
            }
        }
        if let Some(now) = &now {
            self.slices.entry(now.clone()).or_default().insert(key.clone());
        }
        before.into_iter().chain(now).collect()
    }

    /// A Service claims its addresses, or takes its claims back.
    pub fn claim(&mut self, key: &NamespacedName, service: Option<&ServiceInfo>, book: &mut AddressBook) {
        let addresses = |claims: &[(IpAddr, Claim)]| -> Vec<(IpAddr, bool)> {
            claims.iter().map(|(address, claim)| (*address, matches!(claim, Claim::ClusterIp))).collect()
        };
        let now = service.map(services::claims).unwrap_or_default();
        let before = self.claims.get(key).map(Vec::as_slice).unwrap_or_default();
        if addresses(before) == addresses(&now) {
            return;
        }
        now.iter().for_each(|(address, claim)| book.claim(*address, claim.clone()));
        before.iter().for_each(|(address, claim)| book.release(*address, claim));
        if now.is_empty() {
            self.claims.remove(key);
        } else {
            self.claims.insert(key.clone(), now);
        }
    }

    /// The Services that a Pod at these addresses is behind, or is said to be.
    pub fn mark_pod(&self, key: &NamespacedName, addresses: &[IpAddr], todo: &mut Todo) {
        if matches!(todo.services, Keys::All) {
            return;
        }
        let by_address = addresses.iter().filter_map(|address| self.by_address.get(address));
        for services in by_address.chain(self.by_pod.get(key)) {
            services.iter().for_each(|service| todo.services.add(service.clone()));
        }
    }

    /// The Services that an address is behind.
    pub fn mark_address(&self, address: IpAddr, todo: &mut Todo) {
        if matches!(todo.services, Keys::All) {
            return;
        }
        let services = self.by_address.get(&address).into_iter().flatten();
        services.for_each(|service| todo.services.add(service.clone()));
    }

    fn file(&mut self, key: &NamespacedName, slices: &[&EndpointSliceInfo]) {
        let endpoints = || slices.iter().flat_map(|slice| &slice.endpoints);
        let addresses: BTreeSet<IpAddr> = endpoints().flat_map(|end| end.addresses.iter().copied()).collect();
        let pods: BTreeSet<NamespacedName> = endpoints().filter_map(|end| end.target_pod.clone()).collect();
        let (old_addresses, old_pods) = self.filed.remove(key).unwrap_or_default();
        refile(&mut self.by_address, key, &old_addresses, &addresses);
        refile(&mut self.by_pod, key, &old_pods, &pods);
        if !addresses.is_empty() || !pods.is_empty() {
            self.filed.insert(key.clone(), (addresses, pods));
        }
    }

    fn number(&mut self, key: &NamespacedName) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let id = names::service_id(key);
        let number = match self.free.pop() {
            Some(number) => {
                self.ids[number as usize] = id;
                number
            }
            None => {
                self.ids.push(id);
                u32::try_from(self.ids.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert(key.clone(), number);
        number
    }

    /// Class id of a virtual service, by its number.
    pub fn id(&self, number: u32) -> String {
        self.ids.get(number as usize).cloned().unwrap_or_default()
    }
}

fn refile<K: Clone + Eq + std::hash::Hash + Ord>(
    index: &mut FxHashMap<K, BTreeSet<NamespacedName>>,
    service: &NamespacedName,
    before: &BTreeSet<K>,
    now: &BTreeSet<K>,
) {
    for key in now.difference(before) {
        index.entry(key.clone()).or_default().insert(service.clone());
    }
    for key in before.difference(now) {
        if let Some(services) = index.get_mut(key) {
            services.remove(service);
            if services.is_empty() {
                index.remove(key);
            }
        }
    }
}

impl Compiler {
    pub(super) fn read_services(&mut self, inputs: Inputs<'_>, todo: &mut Todo, changes: &mut Changes) {
        if matches!(todo.services, Keys::All) {
            for (key, slice) in &inputs.cluster.endpoint_slices {
                self.services.note_slice(key, Some(slice));
            }
        }
        let keys = std::mem::replace(&mut todo.services, Keys::These(BTreeSet::new()));
        keys.each(&inputs.cluster.services, |key| self.read_service(inputs, key, todo, changes));
    }

    fn read_service(&mut self, inputs: Inputs<'_>, key: &NamespacedName, todo: &mut Todo, changes: &mut Changes) {
        let slices = self.services.slices.get(key).into_iter().flatten();
        let slices: Vec<&EndpointSliceInfo> =
            slices.filter_map(|slice| inputs.cluster.endpoint_slices.get(slice)).collect();
        let now = inputs.cluster.services.get(key).map(|service| {
            let profile = &self.namespaces.get(inputs.policy, &key.namespace).profile;
            let reader = Reader { policy: inputs.policy, cluster: inputs.cluster, facts: &self.facts };
            reader.read(key, service, &slices, profile)
        });
        self.services.file(key, if now.is_some() { &slices } else { &[] });
        let before = self.facts.services.remove(key);
        let known_as = |facts: &Option<ServiceFacts>| {
            facts.as_ref().filter(|facts| facts.managed).map(|facts| facts.labels.labels.clone())
        };
        if known_as(&before) != known_as(&now) {
            todo.mark_users(&self.facts, &Ref::VirtualService(key.clone()));
        }
        let managed = now.as_ref().filter(|now| now.managed);
        self.move_service(key, managed);
        self.show_service(key, managed, changes);
        self.show_exposed(inputs, key, managed, todo, changes);
        if let Some(now) = now {
            self.facts.services.insert(key.clone(), now);
        }
    }

    /// Files a virtual service under the classes behind it.
    fn move_service(&mut self, key: &NamespacedName, now: Option<&ServiceFacts>) {
        let classes = now.into_iter().flat_map(|facts| &facts.classes);
        let behind: RoaringBitmap = classes.filter_map(|class| self.facts.classes.number(class)).collect();
        let before = self.services.behind.remove(key).unwrap_or_default();
        if behind.is_empty() && before.is_empty() {
            return;
        }
        let number = self.services.number(key);
        for class in &before - &behind {
            self.put_behind(class, number, RoaringBitmap::remove);
        }
        for class in &behind - &before {
            self.put_behind(class, number, RoaringBitmap::insert);
        }
        if behind.is_empty() {
            self.services.numbers.remove(key);
            self.services.free.push(number);
        } else {
            self.services.behind.insert(key.clone(), behind);
        }
    }

    fn put_behind(&mut self, class: ClassId, service: u32, note: fn(&mut RoaringBitmap, u32) -> bool) {
        if let Some(living) = self.facts.classes.get_mut(class)
            && note(&mut living.services, service)
        {
            self.groups.touch(&living.groups);
        }
    }

    /// What is shown of a virtual service, and its AddressGroup.
    fn show_service(&mut self, key: &NamespacedName, now: Option<&ServiceFacts>, changes: &mut Changes) {
        let computed = &mut self.computed;
        let warnings = now.map(|now| now.warnings.clone()).filter(|warnings| !warnings.is_empty());
        let mut others = set(&mut computed.service_warnings, key, warnings);
        others |= set(&mut computed.hidden_sources, key, now.and_then(|now| now.hidden_source.clone()));
        others |= set(&mut computed.virtual_services, key, now.map(|now| now.shown.clone()));
        if others {
            changes.note_service(key);
        }
        let networks = &self.facts.settings.networks;
        match now.map(|now| now.address_group(key, networks)) {
            Some((name, spec)) => changes.put_address_group(computed, name, spec),
            None => changes.drop_address_group(computed, &names::address_group(&names::service_id(key), 0)),
        }
    }
}

/// Says whether that is another value than before.
fn set<V: PartialEq>(map: &mut BTreeMap<NamespacedName, V>, key: &NamespacedName, value: Option<V>) -> bool {
    if map.get(key) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    };
    true
}
