//! A cluster from the text that `kubectl get … -A -o yaml` prints.

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use ringfence_crds::NodePolicy;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::node_policy::NodePolicyStatus;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    ClusterState, KUBE_SYSTEM, NamespaceInfo, NodeInfo, OwnerKey, ServicePorts, services_of_api_service,
    services_of_conversion, services_of_mutating, services_of_validating,
};

/// Why a text is no cluster. Phrased to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The text is not YAML.
    #[error("read the cluster as YAML: {0}")]
    Yaml(String),
    /// The text is no list of objects.
    #[error("find a list of objects in the cluster file: write what 'kubectl get … -A -o yaml' prints")]
    NoList,
    /// An object does not have the shape of its kind.
    #[error("read {kind} {namespace}/{name} of the cluster file: {reason}")]
    Object {
        /// Kind of the object.
        kind: String,
        /// Its namespace, empty for none.
        namespace: String,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// By node, what its agent reports.
type Reports = BTreeMap<String, NodePolicyStatus>;

#[derive(Deserialize)]
struct OwnedObject {
    metadata: ObjectMeta,
}

impl ClusterState {
    /// Reads what `kubectl get ns,nodes,pods,services,endpointslices,replicasets,… -A -o yaml` prints. Kinds that
    /// policy does not depend on are passed over. What agents report of their nodes is read from NodePolicies, if they
    /// are there too.
    ///
    /// # Errors
    /// When the text is no list, or an object in it does not have the shape of its kind.
    pub fn from_list_yaml(text: &str) -> Result<Self, ClusterError> {
        // A list of a big cluster is beyond the budget that guards against hostile policy files.
        let options = serde_saphyr::options! { budget: None };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| ClusterError::Yaml(error.to_string()))?;
        let mut cluster = Self::default();
        let mut reports = Reports::new();
        let mut lists = 0;
        for mut document in documents {
            let Some(Value::Array(items)) = document.get_mut("items").map(Value::take) else {
                continue;
            };
            lists += 1;
            for item in items {
                cluster.add(item, &mut reports)?;
            }
        }
        if lists == 0 {
            return Err(ClusterError::NoList);
        }
        for (name, node) in &mut cluster.nodes {
            node.take_report(reports.get(name));
        }
        let found = cluster.find_apiserver_addresses();
        cluster.apiserver_addresses = found;
        if let Some(namespace) = cluster.namespaces.get(KUBE_SYSTEM) {
            cluster.uid.clone_from(&namespace.uid);
        }
        Ok(cluster)
    }

    fn add(&mut self, item: Value, reports: &mut Reports) -> Result<(), ClusterError> {
        let kind = item.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = key_of(&item);
        match kind.as_str() {
            "Namespace" => {
                self.namespaces.insert(key.name.clone(), NamespaceInfo::from(&typed::<Namespace>(&kind, &key, item)?));
            }
            "Node" => {
                self.nodes.insert(key.name.clone(), NodeInfo::from(&typed::<Node>(&kind, &key, item)?));
            }
            "Pod" => {
                let pod = (&typed::<Pod>(&kind, &key, item)?).into();
                self.pods.insert(key, pod);
            }
            "Service" => {
                let service = (&typed::<Service>(&kind, &key, item)?).into();
                self.services.insert(key, service);
            }
            "EndpointSlice" => {
                let slice = (&typed::<EndpointSlice>(&kind, &key, item)?).into();
                self.endpoint_slices.insert(key, slice);
            }
            "ServiceCIDR" => {
                let spec = typed::<ServiceCIDR>(&kind, &key, item)?.spec;
                let cidrs = spec.and_then(|spec| spec.cidrs).unwrap_or_default();
                self.service_ranges.extend(cidrs.iter().filter_map(|text| text.parse::<IpNet>().ok()));
            }
            "NodePolicy" => {
                let status = typed::<NodePolicy>(&kind, &key, item)?.status.unwrap_or_default();
                reports.insert(key.name, status);
            }
            listed if OwnerKey::LISTED.contains(&listed) => self.add_owner(&kind, &key, item)?,
            _ => self.add_callers(&kind, &key, item)?,
        }
        Ok(())
    }

    fn add_owner(&mut self, kind: &str, key: &NamespacedName, item: Value) -> Result<(), ClusterError> {
        let meta = typed::<OwnedObject>(kind, key, item)?.metadata;
        let owner = OwnerKey { kind: kind.to_owned(), namespace: key.namespace.clone(), name: key.name.clone() };
        let parent = OwnerKey::controller_of(&key.namespace, meta.owner_references.as_ref());
        self.owners.insert(owner, parent);
        Ok(())
    }

    fn add_callers(&mut self, kind: &str, key: &NamespacedName, item: Value) -> Result<(), ClusterError> {
        let called: ServicePorts = match kind {
            "ValidatingWebhookConfiguration" => {
                services_of_validating(&typed::<ValidatingWebhookConfiguration>(kind, key, item)?)
            }
            "MutatingWebhookConfiguration" => {
                services_of_mutating(&typed::<MutatingWebhookConfiguration>(kind, key, item)?)
            }
            "APIService" => services_of_api_service(&typed::<APIService>(kind, key, item)?),
            "CustomResourceDefinition" => services_of_conversion(&typed::<CustomResourceDefinition>(kind, key, item)?),
            _ => Vec::new(),
        };
        for (service, port) in called {
            self.webhook_services.entry(service).or_default().insert(port);
        }
        Ok(())
    }
}

fn key_of(item: &Value) -> NamespacedName {
    let field = |name: &str| {
        let value = item.get("metadata").and_then(|meta| meta.get(name));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    NamespacedName { namespace: field("namespace"), name: field("name") }
}

fn typed<T: DeserializeOwned>(kind: &str, key: &NamespacedName, item: Value) -> Result<T, ClusterError> {
    serde_json::from_value(item).map_err(|error| ClusterError::Object {
        kind: kind.to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        reason: error.to_string(),
    })
}
