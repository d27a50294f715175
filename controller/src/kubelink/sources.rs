//! Which kinds are watched, and to what each object is reduced.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ReplicationController, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::core::PartialObjectMeta;
use ringfence_compile::cluster::{
    OwnerKey, services_of_api_service, services_of_conversion, services_of_mutating, services_of_validating,
};
use ringfence_crds as crds;
use tokio::sync::mpsc::UnboundedSender;

use super::watch::Watches;
use crate::engine::input::{Caller, Input, trimmed};

/// Starts every watch.
pub fn start(client: Client, sender: UnboundedSender<Input>) {
    let watches = Watches::new(client, sender);
    start_ours(&watches);
    start_kubernetes(&watches);
    start_owners(&watches);
    start_callers(&watches);
}

fn start_ours(watches: &Watches<Input>) {
    watches.all(|object: crds::ContainerCluster| Some(trimmed(object)), Input::Cluster);
    watches.all(|object: crds::ContainerWorkloadProfile| Some(trimmed(object)), Input::Profile);
    watches.all(|object: crds::VirtualService| Some(trimmed(object)), Input::VirtualService);
    watches.all(|object: crds::Workload| Some(trimmed(object)), Input::Workload);
    watches.all(|object: crds::RuleSet| Some(trimmed(object)), Input::RuleSet);
    watches.all(|object: crds::IpList| Some(trimmed(object)), Input::IpList);
    watches.all(|object: crds::LabelGroup| Some(trimmed(object)), Input::LabelGroup);
    watches.all(|object: crds::ServiceDefinition| Some(trimmed(object)), Input::ServiceDefinition);
    watches.all(|object: crds::NodePolicy| Some(trimmed(object)), Input::NodePolicy);
    watches.all(|object: crds::WorkloadPolicy| Some(trimmed(object)), Input::WorkloadPolicy);
    watches.all(|object: crds::PeerGroup| Some(trimmed(object)), Input::PeerGroup);
    watches.all(|object: crds::AddressGroup| Some(trimmed(object)), Input::AddressGroup);
}

fn start_kubernetes(watches: &Watches<Input>) {
    watches.all(|object: Namespace| Some((&object).into()), Input::Namespace);
    watches.all(|object: Node| Some((&object).into()), Input::Node);
    watches.all(|object: Pod| Some((&object).into()), Input::Pod);
    watches.all(|object: Service| Some((&object).into()), Input::Service);
    watches.all(|object: EndpointSlice| Some((&object).into()), Input::EndpointSlice);
    let ranges = |object: ServiceCIDR| object.spec.and_then(|spec| spec.cidrs);
    watches.if_served().all(ranges, Input::ServiceRange);
}

/// Of the controllers of Pods, only what controls them matters.
fn start_owners(watches: &Watches<Input>) {
    fn owner<K>(object: PartialObjectMeta<K>) -> Option<Option<OwnerKey>> {
        let namespace = object.metadata.namespace.unwrap_or_default();
        Some(OwnerKey::controller_of(&namespace, object.metadata.owner_references.as_ref()))
    }
    watches.all(owner::<ReplicaSet>, |change| Input::Owner("ReplicaSet", change));
    watches.all(owner::<DaemonSet>, |change| Input::Owner("DaemonSet", change));
    watches.all(owner::<StatefulSet>, |change| Input::Owner("StatefulSet", change));
    watches.all(owner::<ReplicationController>, |change| Input::Owner("ReplicationController", change));
}

/// What makes the apiserver call Services; objects that name none do not concern us.
fn start_callers(watches: &Watches<Input>) {
    fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
        (!list.is_empty()).then_some(list)
    }
    watches.all(
        |object: ValidatingWebhookConfiguration| some(services_of_validating(&object)),
        |change| Input::Caller(Caller::ValidatingWebhookConfiguration, change),
    );
    watches.all(
        |object: MutatingWebhookConfiguration| some(services_of_mutating(&object)),
        |change| Input::Caller(Caller::MutatingWebhookConfiguration, change),
    );
    watches.if_served().all(
        |object: APIService| some(services_of_api_service(&object)),
        |change| Input::Caller(Caller::ApiService, change),
    );
    watches.all(
        |object: CustomResourceDefinition| some(services_of_conversion(&object)),
        |change| Input::Caller(Caller::CustomResourceDefinition, change),
    );
}
