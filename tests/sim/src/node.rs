//! What one node agent gets: the computed objects that its watches bring it, and its Pods.

use ringfence_model::StringMap;
use std::io::{BufRead, Write};

use ringfence_compile::compile::Compiler;
use ringfence_crds::{AddressGroupSpec, ContainerClusterSpec, NodePolicySpec, PeerGroupSpec, WorkloadPolicySpec};
use ringfence_dataplane::{Interest, LocalPod, ObjectStore, Profile, Resolver};
use serde::{Deserialize, Serialize};

use crate::shapes::Shape;

/// One object or Pod on its way to the agent. A line of JSON each.
#[derive(Serialize, Deserialize)]
enum Sent {
    NodePolicy(NodePolicySpec),
    Cluster(ContainerClusterSpec),
    Profile(String, Profile),
    WorkloadPolicy(String, WorkloadPolicySpec),
    PeerGroup(String, PeerGroupSpec),
    AddressGroup(String, AddressGroupSpec),
    Pod { namespace: String, name: String, annotations: StringMap, ips: Vec<std::net::IpAddr> },
}

/// What an agent has read.
#[derive(Debug, Default)]
pub struct Read {
    /// The objects.
    pub store: ObjectStore,
    /// The Pods of its node.
    pub pods: Vec<LocalPod>,
}

/// Writes what the agent of `node` gets.
///
/// # Errors
/// When it cannot be written.
pub fn send(shape: &Shape, node: &str, out: &mut impl Write) -> std::io::Result<()> {
    let compiler = Compiler::new(&shape.policy, &shape.cluster);
    let computed = compiler.computed();
    let mut read = Read::default();
    let mut say = |sent: Sent| -> std::io::Result<()> {
        serde_json::to_writer(&mut *out, &sent)?;
        out.write_all(b"\n")
    };
    for (key, pod) in shape.cluster.pods.iter().filter(|(_, pod)| pod.node.as_deref() == Some(node)) {
        let pod = Sent::Pod {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            annotations: pod.annotations.clone(),
            ips: pod.ips.clone(),
        };
        read.pods.extend(local(&pod));
        say(pod)?;
    }
    for (name, spec) in &shape.policy.profiles {
        let profile = Profile { spec: spec.clone(), enforced_state: spec.wanted_state() };
        read.store.profiles.insert(name.clone(), profile.clone());
        say(Sent::Profile(name.clone(), profile))?;
    }
    say(Sent::Cluster(shape.policy.cluster.clone()))?;
    read.store.cluster = Some(shape.policy.cluster.clone());
    if let Some(policy) = computed.node_policies.get(node) {
        say(Sent::NodePolicy(policy.clone()))?;
    }
    for (name, spec) in &computed.workload_policies {
        read.store.workload_policies.insert(name.clone(), spec.clone());
        say(Sent::WorkloadPolicy(name.clone(), spec.clone()))?;
    }
    let wanted = interest(&read).peer_groups;
    for (name, spec) in computed.peer_groups.iter().filter(|(name, _)| wanted.holds(name)) {
        read.store.peer_groups.insert(name.clone(), spec.clone());
        say(Sent::PeerGroup(name.clone(), spec.clone()))?;
    }
    let wanted = interest(&read).address_groups;
    for (name, spec) in computed.address_groups.iter().filter(|(_, spec)| wanted.holds(&spec.class)) {
        say(Sent::AddressGroup(name.clone(), spec.clone()))?;
    }
    Ok(())
}

fn interest(read: &Read) -> Interest {
    let mut resolver = Resolver::new(&read.store);
    read.pods.iter().for_each(|pod| drop(resolver.resolve(pod, &[])));
    resolver.into_interest()
}

fn local(sent: &Sent) -> Option<LocalPod> {
    let Sent::Pod { namespace, name, annotations, ips } = sent else { return None };
    Some(LocalPod {
        namespace: namespace.clone(),
        name: name.clone(),
        annotations: annotations.clone(),
        ips: ips.clone(),
        ..LocalPod::default()
    })
}

/// Reads what was written by [`send`].
///
/// # Errors
/// When it cannot be read or understood.
pub fn receive(lines: impl BufRead) -> std::io::Result<Read> {
    let mut read = Read::default();
    for line in lines.lines() {
        match serde_json::from_str(&line?)? {
            Sent::NodePolicy(spec) => read.store.node_policy = Some(spec),
            Sent::Cluster(spec) => read.store.cluster = Some(spec),
            Sent::Profile(name, profile) => drop(read.store.profiles.insert(name, profile)),
            Sent::WorkloadPolicy(name, spec) => drop(read.store.workload_policies.insert(name, spec)),
            Sent::PeerGroup(name, spec) => drop(read.store.peer_groups.insert(name, spec)),
            Sent::AddressGroup(name, spec) => drop(read.store.address_groups.insert(name, spec)),
            pod @ Sent::Pod { .. } => read.pods.extend(local(&pod)),
        }
    }
    Ok(read)
}
