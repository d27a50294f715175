//! Reads a live cluster: policy objects, and what of Kubernetes they concern.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_compile::cluster::{ClusterState, KUBE_SYSTEM};
use ringfence_compile::policy::Policy;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::{ContainerCluster, ContainerWorkloadProfile, VirtualService, Workload};
use serde::de::DeserializeOwned;

/// Runs an online command.
pub fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start")?.block_on(command)
}

/// A client of the cluster that KUBECONFIG names.
pub async fn client() -> Result<Client> {
    Client::try_default().await.context("failed to find a cluster: set KUBECONFIG")
}

/// All objects of a kind, sorted by namespace and name.
pub async fn list<K>(client: &Client) -> Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let listed = api.list(&ListParams::default()).await;
    let plural = K::plural(&());
    let mut items = listed.with_context(|| format!("failed to list {plural}: is Ringfence installed?"))?.items;
    items.sort_by_key(|item| (item.namespace(), item.name_any()));
    Ok(items)
}

/// The `Ready` condition.
pub fn ready(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

/// The policy that labels come from: cluster, profiles, Workloads and VirtualServices.
pub async fn policy(client: &Client) -> Result<(Policy, Vec<ContainerWorkloadProfile>)> {
    let clusters: Vec<ContainerCluster> = list(client).await?;
    let profiles: Vec<ContainerWorkloadProfile> = list(client).await?;
    let workloads: Vec<Workload> = list(client).await?;
    let services: Vec<VirtualService> = list(client).await?;
    let key = |service: &VirtualService| NamespacedName {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
    };
    let policy = Policy {
        cluster: the_cluster(clusters).map(|cluster| cluster.spec).unwrap_or_default(),
        profiles: profiles.iter().map(|profile| (profile.name_any(), profile.spec.clone())).collect(),
        workloads: workloads.iter().map(|workload| (workload.name_any(), workload.spec.clone())).collect(),
        virtual_services: services.iter().map(|service| (key(service), service.spec.clone())).collect(),
        ..Policy::default()
    };
    Ok((policy, profiles))
}

/// The ContainerCluster that counts: the oldest, and of equally old ones the first by name.
pub fn the_cluster(clusters: Vec<ContainerCluster>) -> Option<ContainerCluster> {
    clusters.into_iter().min_by_key(|cluster| (cluster.creation_timestamp().map(|time| time.0), cluster.name_any()))
}

/// The part of the cluster's state that decides about labels.
pub async fn cluster(client: &Client) -> Result<ClusterState> {
    let namespaces: Vec<Namespace> = list(client).await?;
    let nodes: Vec<Node> = list(client).await?;
    let pods: Vec<Pod> = list(client).await?;
    let services: Vec<Service> = list(client).await?;
    let kube_system = namespaces.iter().find(|namespace| namespace.name_any() == KUBE_SYSTEM);
    Ok(ClusterState {
        uid: kube_system.and_then(ResourceExt::uid).unwrap_or_default(),
        namespaces: by_name(&namespaces),
        nodes: by_name(&nodes),
        pods: by_key(&pods),
        services: by_key(&services),
        ..ClusterState::default()
    })
}

fn by_name<'a, K, V>(objects: &'a [K]) -> BTreeMap<String, V>
where
    K: Resource,
    V: From<&'a K>,
{
    objects.iter().map(|object| (object.name_any(), V::from(object))).collect()
}

fn by_key<'a, K, V>(objects: &'a [K]) -> BTreeMap<NamespacedName, V>
where
    K: Resource,
    V: From<&'a K>,
{
    let key =
        |object: &K| NamespacedName { namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
    objects.iter().map(|object| (key(object), V::from(object))).collect()
}
