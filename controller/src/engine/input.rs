//! What the engine hears: one message per change of one kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use ringfence_compile::cluster::{
    EndpointSliceInfo, NamespaceInfo, NodeInfo, OwnerKey, PodInfo, ServiceInfo, ServicePorts,
};
use ringfence_crds as crds;
use serde::de::DeserializeOwned;

use crate::kubelink::watch::Change;
use crate::write::{Outcome, Target, Write};

/// What can name Services that the apiserver calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Each is the kind it is named like.
pub enum Caller {
    ValidatingWebhookConfiguration,
    MutatingWebhookConfiguration,
    ApiService,
    CustomResourceDefinition,
}

/// A change of one kind.
#[derive(Debug)]
#[allow(missing_docs)] // Each is the kind it is named like.
pub enum Input {
    Namespace(Change<NamespaceInfo>),
    Node(Change<NodeInfo>),
    Pod(Change<PodInfo>),
    Service(Change<ServiceInfo>),
    EndpointSlice(Change<EndpointSliceInfo>),
    /// A controller of Pods: its kind, and what controls it.
    Owner(&'static str, Change<Option<OwnerKey>>),
    /// Services that the apiserver calls because of an object of this kind.
    Caller(Caller, Change<ServicePorts>),
    /// Ranges of ClusterIPs.
    ServiceRange(Change<Vec<String>>),
    Cluster(Change<crds::ContainerCluster>),
    Profile(Change<crds::ContainerWorkloadProfile>),
    VirtualService(Change<crds::VirtualService>),
    Workload(Change<crds::Workload>),
    RuleSet(Change<crds::RuleSet>),
    IpList(Change<crds::IpList>),
    LabelGroup(Change<crds::LabelGroup>),
    ServiceDefinition(Change<crds::ServiceDefinition>),
    NodePolicy(Change<crds::NodePolicy>),
    WorkloadPolicy(Change<crds::WorkloadPolicy>),
    PeerGroup(Change<crds::PeerGroup>),
    AddressGroup(Change<crds::AddressGroup>),
}

/// An object of ours as the engine keeps it: of its managed fields only who, beside us, has written the spec.
pub fn trimmed<K: Resource>(mut object: K) -> K {
    trim(object.meta_mut());
    object
}

fn trim(meta: &mut ObjectMeta) {
    let mut entries = meta.managed_fields.take().unwrap_or_default();
    entries.retain(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        entry.subresource.is_none() && fields.is_some_and(|fields| fields.get("f:spec").is_some())
    });
    for entry in &mut entries {
        entry.fields_v1 = None;
        entry.time = None;
    }
    meta.managed_fields = Some(entries);
}

/// What a write has taught us, as if a watch had said it: the next plan need not wait for the watch.
pub fn of_outcome(write: &Write, outcome: Outcome) -> Option<Input> {
    Some(match write.target {
        Target::ContainerCluster => Input::Cluster(change(write, outcome)?),
        Target::ContainerWorkloadProfile => Input::Profile(change(write, outcome)?),
        Target::VirtualService => Input::VirtualService(change(write, outcome)?),
        Target::Workload => Input::Workload(change(write, outcome)?),
        Target::RuleSet => Input::RuleSet(change(write, outcome)?),
        Target::IpList => Input::IpList(change(write, outcome)?),
        Target::LabelGroup => Input::LabelGroup(change(write, outcome)?),
        Target::ServiceDefinition => Input::ServiceDefinition(change(write, outcome)?),
        Target::NodePolicy => Input::NodePolicy(change(write, outcome)?),
        Target::WorkloadPolicy => Input::WorkloadPolicy(change(write, outcome)?),
        Target::PeerGroup => Input::PeerGroup(change(write, outcome)?),
        Target::AddressGroup => Input::AddressGroup(change(write, outcome)?),
    })
}

/// An object that does not parse (made by a newer version) is left to the watch, which says so.
fn change<K: Resource + DeserializeOwned>(write: &Write, outcome: Outcome) -> Option<Change<K>> {
    match outcome {
        Outcome::Gone => Some(Change::Deleted(write.key.clone())),
        Outcome::Lives(object) => {
            let parsed: Result<K, _> = DynamicObject::try_parse(*object);
            parsed.map(|object| Change::Applied(write.key.clone(), trimmed(object))).ok()
        }
    }
}

/// The version of an object, to tell which of two is newer; 0 when it cannot be told.
pub fn version(object: &impl ResourceExt) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}
