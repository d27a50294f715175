//! Random worlds, one change at a time. The universe is small on purpose: names and addresses meet again and again.

mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use arbitrary::Unstructured;
use fastrand::Rng;
use ringfence_model::{Dimension, LabelValue, PolicyState, Protocol};
use ringfence_oracle::world::{
    Key, Labels, Node, Pod, Range, Service, ServicePort, Slice, TargetPort, Workload, World,
};

/// Namespaces.
pub const NAMESPACES: [&str; 4] = ["n0", "n1", "n2", "kube-system"];
/// Nodes; the first is a master.
pub const NODES: [&str; 3] = ["cp", "w1", "w2"];
/// Ports that rules, Services and probes speak of.
pub const PORTS: [u16; 5] = [53, 80, 443, 8080, 9000];
/// Protocols.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// Ports of Services on nodes.
pub const NODE_PORTS: [u16; 3] = [30000, 30001, 30002];
/// ICMP types and codes that rules speak of.
pub const ICMP_TYPES: [u8; 3] = [3, 8, 13];
/// See [`ICMP_TYPES`].
pub const ICMP_CODES: [u8; 2] = [0, 4];

const DIMENSIONS: [&str; 3] = ["app", "env", "role"];
const VALUES: [&str; 3] = ["a", "b", "c"];

/// Where Pods live.
const PODS: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.1.1", "10.0.1.2"];
const PODS_V6: [&str; 4] = ["fd00::1", "fd00::2", "fd00::3", "fd00:1::1"];
const NODE_ADDRESSES: [&str; 3] = ["172.30.0.1", "172.30.0.2", "172.30.0.3"];
const NODE_ADDRESSES_V6: [&str; 2] = ["fd30::1", "fd30::2"];
const BRIDGE: &str = "10.0.0.254";
const MACHINES: [&str; 3] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
/// Nobody's, and everybody's own.
const OTHERS: [&str; 2] = ["198.51.100.1", "127.0.0.1"];
const CLUSTER_IPS: [&[&str]; 4] = [&["10.96.0.1", "fd96::1"], &["10.96.0.2"], &["10.96.0.3", "fd96::3"], &["fd96::4"]];

/// A literal of this file.
fn parsed<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    // Only the literals above come here.
    text.parse().unwrap_or_else(|error| panic!("'{text}' is a literal: {error:?}"))
}

/// Chance and choice.
pub struct Random<'b>(Source<'b>);

/// Where choices come from.
enum Source<'b> {
    Seed(Rng),
    Bytes(Unstructured<'b>),
}

impl Random<'static> {
    /// The same seed gives the same choices.
    pub fn new(seed: u64) -> Self {
        Self(Source::Seed(Rng::with_seed(seed)))
    }
}

impl<'b> Random<'b> {
    /// Every choice is made by the next of these bytes, so that who varies bytes varies choices. Without bytes left, the
    /// first of all that is possible is chosen.
    pub fn of_bytes(bytes: &'b [u8]) -> Self {
        Self(Source::Bytes(Unstructured::new(bytes)))
    }

    /// Whether no byte is left to choose by.
    pub fn is_spent(&self) -> bool {
        matches!(&self.0, Source::Bytes(bytes) if bytes.is_empty())
    }

    /// Whether something happens that happens in so many of a hundred cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent as usize
    }

    /// A number below a bound that is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        match &mut self.0 {
            Source::Seed(rng) => rng.usize(..bound),
            Source::Bytes(bytes) => bytes.choose_index(bound).unwrap_or(0),
        }
    }

    /// One of a list that is not empty.
    pub fn one<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    fn several<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    /// Any address of the universe: of a Pod, a node, a machine, or nobody. Some are at more than one of them.
    pub fn address(&mut self) -> IpAddr {
        match self.below(20) {
            0..=7 => self.among(&PODS),
            8..=10 => self.among(&PODS_V6),
            11..=13 => self.among(&NODE_ADDRESSES),
            14 => self.among(&NODE_ADDRESSES_V6),
            15 => parsed(BRIDGE),
            16..=17 => self.among(&MACHINES),
            _ => self.among(&OTHERS),
        }
    }
    fn among(&mut self, list: &[&str]) -> IpAddr {
        parsed(self.one(list))
    }

    fn dimension(&mut self) -> Dimension {
        parsed(self.one(&DIMENSIONS))
    }
    fn value(&mut self) -> LabelValue {
        parsed(self.one(&VALUES))
    }
    fn labels(&mut self) -> Labels {
        self.several(3, |r| (r.dimension(), r.value())).into_iter().collect()
    }
    fn values(&mut self) -> BTreeSet<LabelValue> {
        self.several(3, Self::value).into_iter().collect()
    }
    /// What a scope or term asks: mostly something that somebody can have.
    fn asked(&mut self, most: usize) -> BTreeMap<Dimension, BTreeSet<LabelValue>> {
        let asked = self.several(most, |r| {
            let mut values = r.values();
            if !r.chance(5) {
                values.insert(r.value());
            }
            (r.dimension(), values)
        });
        asked.into_iter().collect()
    }
    /// One dimension, with somebody's value.
    fn term(&mut self) -> BTreeMap<Dimension, BTreeSet<LabelValue>> {
        let values = self.values().into_iter().chain([self.value()]).collect();
        BTreeMap::from([(self.dimension(), values)])
    }
    fn range(&mut self) -> Range {
        let (a, b) = (self.address(), self.address());
        if a.is_ipv4() == b.is_ipv4() { (a.min(b), a.max(b)) } else { (a, a) }
    }
    fn state(&mut self) -> Option<PolicyState> {
        self.one(&[
            None,
            Some(PolicyState::Idle),
            Some(PolicyState::VisibilityOnly),
            Some(PolicyState::VisibilityOnly),
            Some(PolicyState::Selective),
            Some(PolicyState::Selective),
            Some(PolicyState::Full),
            Some(PolicyState::Full),
            Some(PolicyState::Full),
        ])
    }
    fn pod_key(&mut self) -> Key {
        (self.one(&NAMESPACES).to_owned(), format!("p{}", self.below(4)))
    }
    fn service_key(&mut self) -> Key {
        match self.below(5) {
            0 => ("kube-system".to_owned(), "kube-dns".to_owned()),
            number => (NAMESPACES[number % 3].to_owned(), format!("s{}", number % 2)),
        }
    }

    /// Changes one thing of a world.
    pub fn change(&mut self, world: &mut World) {
        let gone = self.chance(20);
        match self.below(100) {
            0..=1 => world.settings = self.settings(),
            2..=11 => {
                let name = self.one(&NAMESPACES).to_owned();
                set(&mut world.profiles, name, (!gone).then(|| self.profile()));
            }
            12..=16 => {
                let name = self.one(&NODES);
                let node = Node { control_plane: name == "cp", ..self.node() };
                set(&mut world.nodes, name.to_owned(), (!gone).then_some(node));
            }
            17..=21 => {
                let name = self.one(&["cp", "w1", "m0", "m1"]).to_owned();
                set(&mut world.workloads, name, (!gone).then(|| self.workload()));
            }
            22..=51 => {
                let key = self.pod_key();
                set(&mut world.pods, key, (!gone).then(|| self.pod()));
            }
            52..=64 => {
                let key = self.service_key();
                let service = self.service(&key);
                set(&mut world.services, key, (!gone).then_some(service));
            }
            65..=67 => {
                let key = self.service_key();
                set(&mut world.written, key, (!gone).then(|| self.labels()));
            }
            68..=72 => {
                let name = format!("l{}", self.below(2));
                set(&mut world.ip_lists, name, (!gone).then(|| self.ip_list()));
            }
            73..=77 => {
                let name = format!("g{}", self.below(3));
                set(&mut world.groups, name, (!gone).then(|| self.group()));
            }
            78..=80 => {
                let name = format!("d{}", self.below(2));
                set(&mut world.definitions, name, (!gone).then(|| self.several(2, Self::port)));
            }
            _ => {
                let name = format!("r{}", self.below(4));
                set(&mut world.rule_sets, name, (!gone).then(|| self.rule_set()));
            }
        }
    }

    fn node(&mut self) -> Node {
        let own = |r: &mut Self| r.among(&NODE_ADDRESSES);
        let mut addresses: BTreeSet<IpAddr> = self.several(1, own).into_iter().collect();
        addresses.insert(own(self));
        if self.chance(40) {
            addresses.insert(self.among(&NODE_ADDRESSES_V6));
        }
        let reported = self.several(2, |r| match r.below(10) {
            0..=3 => r.among(&NODE_ADDRESSES),
            4..=5 => parsed(BRIDGE),
            _ => r.address(),
        });
        Node { addresses, reported: reported.into_iter().collect(), ..Node::default() }
    }

    fn workload(&mut self) -> Workload {
        let address = |r: &mut Self| if r.chance(80) { r.among(&MACHINES) } else { r.address() };
        Workload { labels: self.labels(), addresses: self.several(2, address).into_iter().collect() }
    }

    fn texts(&mut self, keys: &[&str], most: usize) -> BTreeMap<String, String> {
        self.several(most, |r| (r.one(keys).to_owned(), r.one(&["a", "b", "c", "not valid!"]).to_owned()))
            .into_iter()
            .collect()
    }

    fn pod(&mut self) -> Pod {
        let address = |r: &mut Self| if r.chance(85) { r.among(&PODS) } else { r.address() };
        let mut addresses = vec![address(self)];
        if self.chance(30) {
            addresses.push(self.among(&PODS_V6));
        }
        if self.chance(15) {
            addresses.push(address(self));
        }
        if self.chance(8) {
            addresses.clear();
        }
        let host_network = self.chance(10);
        Pod {
            node: self.one(&NODES).to_owned(),
            host_network,
            mirror: self.chance(8),
            ended: self.chance(8),
            addresses: if host_network { vec![self.among(&NODE_ADDRESSES)] } else { addresses },
            labels: self.texts(&["app", "tier"], 2),
            annotations: self
                .texts(&["ringfence.dev/app", "ringfence.dev/role", "ringfence.dev/env", "x.io/app", "x.io/role"], 3),
            ports: self.several(2, |r| (r.one(&["http", "dns"]).to_owned(), r.one(&PROTOCOLS), r.one(&PORTS))),
            probe_ports: self.several(2, |r| (Protocol::TCP, r.one(&PORTS))).into_iter().collect(),
            resolvers: self.several(1, Self::address),
        }
    }

    fn service(&mut self, key: &Key) -> Service {
        let mut ports: Vec<ServicePort> = Vec::new();
        for index in 0..=self.below(2) {
            let port = ServicePort {
                name: format!("q{index}"),
                protocol: self.one(&PROTOCOLS),
                port: self.one(&PORTS),
                target: if self.chance(75) {
                    TargetPort::Number(self.one(&PORTS))
                } else {
                    TargetPort::Name(self.one(&["http", "dns"]).to_owned())
                },
                node_port: self.chance(20).then(|| self.one(&NODE_PORTS)),
            };
            // Of one protocol no port twice.
            if !ports.iter().any(|other| other.port == port.port && other.protocol == port.protocol) {
                ports.push(port);
            }
        }
        let names: Vec<(String, Protocol)> = ports.iter().map(|port| (port.name.clone(), port.protocol)).collect();
        let namespace = key.0.clone();
        let slices = (0..self.below(3)).map(|number| (format!("e{number}"), self.slice(&namespace, &names))).collect();
        Service {
            selector: self.texts(&["app", "tier"], 1),
            cluster_ips: cluster_ips_of(key).iter().map(|text| parsed(text)).collect(),
            external_ips: self.several(1, Self::address).into_iter().filter(|_| self.chance(30)).collect(),
            ingress_ips: self.several(1, Self::address).into_iter().filter(|_| self.chance(15)).collect(),
            ports,
            local: self.chance(30),
            annotations: self.texts(&["ringfence.dev/app", "ringfence.dev/role"], 2),
            slices,
        }
    }

    fn slice(&mut self, namespace: &str, ports: &[(String, Protocol)]) -> Slice {
        let endpoints = self.several(3, |r| {
            let address = match r.below(10) {
                0..=6 => r.among(&PODS),
                7 => r.among(&PODS_V6),
                _ => r.address(),
            };
            let target = match r.below(10) {
                0..=4 => Some((namespace.to_owned(), format!("p{}", r.below(4)))),
                5 => Some(r.pod_key()),
                _ => None,
            };
            (vec![address], target)
        });
        let ports = ports.iter().map(|(name, protocol)| (name.clone(), *protocol, self.one(&PORTS)));
        Slice { endpoints, ports: ports.collect() }
    }
}

/// Kubernetes gives no ClusterIP twice; some Services have none, some one of each family.
fn cluster_ips_of(key: &Key) -> &'static [&'static str] {
    match (key.0.as_str(), key.1.as_str()) {
        ("kube-system", "kube-dns") => CLUSTER_IPS[0],
        ("n0", "s0") => CLUSTER_IPS[1],
        ("n0", "s1") => CLUSTER_IPS[2],
        ("n1", "s0") => CLUSTER_IPS[3],
        _ => &[],
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
