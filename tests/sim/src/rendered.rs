//! The rules that an agent renders for its Pods, traced packet by packet and held against the oracle.
//!
//! ```text
//! World ──convert──► compiler ──► ObjectStore + LocalPod ──resolve, render──► text ──► trace ──┐
//!   └──────────────► oracle: one packet at one Pod ────────────────────────────────────────────┴──► same?
//! ```
//!
//! An agent sees computed objects, profiles with the state that the controller released, and its local Pods; so does this
//! one. It is asked for the first packets of connections: before the node translates an outbound one, after it has
//! translated an inbound one. So what a Pod sends to a Service is judged by its front end, and who connects by the
//! address that arrives; what the node does in between is the gate's to judge, which is not built yet.
//!
//! Held against each other are what becomes of a packet, and why: the class of the rule that hit. Set aside, and counted, is
//! exactly what the kernel is known to do otherwise than by the model (README, "Limits that matter"):
//!
//! 1. [`OTHER_NETWORK`]: a node's agent knows the Pods on the Pod network of its own Pods only.
//! 2. [`TWO_SERVICES`]: an address and port of two Services, of which the model does not say which one a node takes.
//!
//! No packet is sent from or to Pods of a node without an agent ([`NO_AGENT`]), or to Pods without an address
//! ([`NO_ADDRESS`]).

mod sample;
mod traced;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringfence_compile::compile::Computed;
use ringfence_compile::policy::Policy;
use ringfence_dataplane::trace::{Fate, Kernel, Probe, Trace};
use ringfence_dataplane::{
    Enforcement, Family, LocalPod, NetnsPolicy, ObjectStore, Packet, Profile, Rendered, Resolution, render, resolve,
};
use ringfence_model::{Action, Decision, Direction, PolicyState, Protocol};
use ringfence_oracle::holder::Holder;
use ringfence_oracle::world::{Key, Pod};
use ringfence_oracle::{Does, Ruling, World, judge_packet};

use crate::convert;
use crate::random::{NAMESPACES, Random};
pub use traced::Traced;

/// Packets that are traced at each Pod, whenever rules are looked at, in each family that it has.
const PACKETS: usize = 8;
/// ICMPv6 types that keep an interface alive: MLD, router and neighbour discovery.
const DISCOVERY: [u8; 8] = [130, 131, 132, 133, 134, 135, 136, 143];

/// See the module.
pub const OTHER_NETWORK: &str = "a Pod on another Pod network";
/// See the module.
pub const TWO_SERVICES: &str = "an address and port of two Services";
/// Pods of a node without an agent: a provider's master, or a node that Kubernetes does not know.
pub const NO_AGENT: &str = "Pods without an agent";
/// Pods without an address.
pub const NO_ADDRESS: &str = "Pods without an address";

/// Traces packets at every Pod of every node that has an agent.
///
/// # Errors
/// The Pod, the packet, and what differs.
pub fn look(
    world: &World,
    policy: &Policy,
    computed: &Computed,
    random: &mut Random,
    traced: &mut Traced,
) -> Result<(), String> {
    let mut store = store(world, policy, computed);
    let fronts = sample::fronts(world);
    for (key, pod) in world.pods.iter().filter(|(_, pod)| !pod.ended && !pod.host_network) {
        let Some(node) = computed.node_policies.get(&pod.node) else {
            traced.set_aside(NO_AGENT);
            continue;
        };
        store.node_policy = Some(node.clone());
        let local = convert::local_pod(key, pod);
        let resolution = resolve(&store, &local, &world.addresses_of_node(&pod.node));
        let Some(policy) =
            rules_of(world.profile(&key.0).state, resolution).map_err(|text| format!("{key:?}: {text}"))?
        else {
            traced.note("without rules".to_owned());
            continue;
        };
        let network = node.pod_network.rsplit('/').next().unwrap_or_default();
        let at = AtPod { world, key, pod, network, rendered: render(&policy, 1), policy };
        at.look(&local, &fronts, random, traced)?;
    }
    Ok(())
}

/// What an agent has read, but for the NodePolicy of its node.
fn store(world: &World, policy: &Policy, computed: &Computed) -> ObjectStore {
    let profiles = NAMESPACES.iter().map(|name| {
        let profile = world.profile(name);
        // Nothing holds a state back here.
        let released = Profile { spec: convert::profile_spec(profile), enforced_state: profile.state };
        ((*name).to_owned(), released)
    });
    ObjectStore {
        node_policy: None,
        cluster: Some(policy.cluster.clone()),
        // Nobody knows what names lead to.
        networks: BTreeSet::new(),
        profiles: profiles.collect(),
        workload_policies: computed.workload_policies.clone(),
        peer_groups: computed.peer_groups.clone(),
        address_groups: computed.address_groups.clone(),
    }
}

/// The rules of a Pod, or none if its state puts none into the kernel. All objects are there: nothing may be missing.
fn rules_of(state: Option<PolicyState>, resolution: Resolution) -> Result<Option<NetnsPolicy>, String> {
    let expected = match state {
        Some(PolicyState::VisibilityOnly) => Some(Enforcement::VisibilityOnly),
        Some(PolicyState::Selective) => Some(Enforcement::Selective),
        Some(PolicyState::Full) => Some(Enforcement::Full),
        None | Some(PolicyState::Idle) => None,
    };
    match (resolution, expected) {
        (Resolution::Enforce(policy), Some(expected)) if policy.state == expected => Ok(Some(policy)),
        (Resolution::Unmanaged, None) if state.is_none() => Ok(None),
        (Resolution::Idle, None) if state.is_some() => Ok(None),
        (other, _) => Err(format!("{state:?} is resolved to {other:?}")),
    }
}

/// A Pod with the rules of its network namespace.
struct AtPod<'w> {
    world: &'w World,
    key: &'w Key,
    pod: &'w Pod,
    /// The Pod network whose Pods its agent knows.
    network: &'w str,
    policy: NetnsPolicy,
    rendered: Rendered,
}

/// What becomes of a packet, and why.
type Outcome = (Decision, Fate);

impl AtPod<'_> {
    fn look(
        &self,
        local: &LocalPod,
        fronts: &[sample::Front],
        random: &mut Random,
        traced: &mut Traced,
    ) -> Result<(), String> {
        // Whatever its status says: the runtime gives no Pod a loopback address for others to see.
        let ips = || local.ips.iter().filter(|address| !address.is_loopback());
        if ips().next().is_none() {
            traced.set_aside(NO_ADDRESS);
        }
        for family in [Family::V4, Family::V6] {
            let is_v4 = family == Family::V4;
            let Some(own) = ips().find(|address| address.is_ipv4() == is_v4) else { continue };
            let kernel = Kernel::load(&self.rendered, family);
            for _ in 0..PACKETS {
                let asked = sample::packet(self.world, self.pod, is_v4, fronts, random);
                let packet = wire(&asked, *own, random);
                let interface = if self.never_leaves(&packet) { "lo" } else { "eth0" };
                // Conntrack does not follow discovery.
                let state = if is_discovery(&packet) { "UNTRACKED" } else { "NEW" };
                let probe = Probe { interface, state, ..Probe::new(packet) };
                let Some(ruling) = judge_packet(self.world, self.key, &asked) else {
                    traced.set_aside(TWO_SERVICES);
                    continue;
                };
                self.hold(&asked, &probe, &ruling, &kernel, traced).map_err(|text| {
                    let (sets, rules) = (&self.rendered.sets, self.rendered.text(family));
                    format!("{:?}: {probe:?}: {text}\nthe oracle says {ruling:?}\n{sets:#?}\n{rules}", self.key)
                })?;
            }
        }
        Ok(())
    }

    /// Whether the kernel keeps a packet within the Pod.
    fn never_leaves(&self, packet: &Packet) -> bool {
        packet.direction == Direction::Outbound
            && (packet.dst.is_loopback() || self.pod.addresses.contains(&packet.dst))
    }

    fn hold(
        &self,
        asked: &ringfence_oracle::Packet,
        probe: &Probe,
        ruling: &Ruling,
        kernel: &Kernel,
        traced: &mut Traced,
    ) -> Result<(), String> {
        if self.is_elsewhere(asked.peer) {
            traced.set_aside(OTHER_NETWORK);
            return Ok(());
        }
        let trace = kernel.trace(probe);
        let (expected, found) = (expected(ruling), (self.decision(&trace, probe)?, trace.fate));
        let judged = self.policy.judge(&probe.packet);
        let blocks = matches!(expected.1, Fate::Dropped | Fate::Rejected);
        let told = (judged.decision, judged.blocks, judged.reject);
        if found != expected || told != (expected.0, blocks, expected.1 == Fate::Rejected) {
            return Err(format!("expected {expected:?}, the rules say {trace:?}, their judge {judged:?}"));
        }
        let end = if asked.direction == Direction::Inbound { "in" } else { "out" };
        let family = if probe.packet.src.is_ipv4() { "" } else { " IPv6" };
        traced.note(format!("{end}:{:?} {:?}{family}", expected.0, expected.1));
        Ok(())
    }

    /// Whether an address is that of a Pod which this agent is not told about.
    fn is_elsewhere(&self, address: IpAddr) -> bool {
        matches!(self.world.holder(address), Holder::Pod(_)) && self.world.network_of_pod(address) != Some(self.network)
    }

    /// Why a packet fared as it did: the class of the rule that hit.
    fn decision(&self, trace: &Trace, probe: &Probe) -> Result<Decision, String> {
        let Some(name) = &trace.rule else {
            let essential = probe.interface == "lo" || is_discovery(&probe.packet);
            return Ok(if essential { Decision::Essential } else { Decision::Default });
        };
        let action = |(set, rule): (&str, &str)| {
            let rules = &self.world.rule_sets.get(set)?.rules;
            rules.iter().find(|own| own.name == rule).map(|own| own.action)
        };
        match name.split_once('/').and_then(action) {
            _ if name.starts_with("essential:") => Ok(Decision::Essential),
            // Loopback is let go before the first rule that blocks: an Allow that hits it first only does the same sooner.
            Some(Action::Allow) if probe.interface == "lo" => Ok(Decision::Essential),
            Some(Action::Allow) => Ok(Decision::Allow),
            Some(Action::Deny) => Ok(Decision::Deny),
            Some(Action::OverrideDeny) => Ok(Decision::OverrideDeny),
            None => Err(format!("'{name}' names no rule")),
        }
    }
}

fn is_discovery(packet: &Packet) -> bool {
    packet.protocol == Protocol::ICMPV6 && packet.icmp.is_some_and(|(kind, _)| DISCOVERY.contains(&kind))
}

/// What the model says of a packet.
fn expected(ruling: &Ruling) -> Outcome {
    let fate = match ruling.does {
        Does::Pass => Fate::Passed,
        Does::WouldBlock => Fate::WouldBlock,
        Does::Block if ruling.rejects() => Fate::Rejected,
        Does::Block => Fate::Dropped,
    };
    (ruling.side.decision, fate)
}

/// The packet as it is on the wire. The port of who asks says nothing.
fn wire(asked: &ringfence_oracle::Packet, own: IpAddr, random: &mut Random) -> Packet {
    let ringfence_oracle::Packet { direction, peer, ask } = *asked;
    let (src, dst) = match direction {
        Direction::Inbound => (peer, own),
        Direction::Outbound => (own, peer),
    };
    let sport = if ask.protocol.has_ports() { random.one(&[40000, 53, 80]) } else { 0 };
    Packet { direction, protocol: ask.protocol, src, dst, sport, dport: ask.port, icmp: ask.icmp }
}
