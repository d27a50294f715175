//! Services that the apiserver calls: admission webhooks, aggregated APIs, conversion of custom resources.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use ringfence_crds::common::NamespacedName;

/// Services with the Service port that is called.
pub type ServicePorts = Vec<(NamespacedName, i32)>;

/// The port that is called when none is named.
const DEFAULT_PORT: i32 = 443;

fn called(namespace: &str, name: &str, port: Option<i32>) -> (NamespacedName, i32) {
    let service = NamespacedName { namespace: namespace.to_owned(), name: name.to_owned() };
    (service, port.unwrap_or(DEFAULT_PORT))
}

fn of_client(client: &WebhookClientConfig) -> Option<(NamespacedName, i32)> {
    let service = client.service.as_ref()?;
    Some(called(&service.namespace, &service.name, service.port))
}

/// The Services that validating webhooks name.
pub fn services_of_validating(object: &ValidatingWebhookConfiguration) -> ServicePorts {
    object.webhooks.iter().flatten().filter_map(|webhook| of_client(&webhook.client_config)).collect()
}

/// The Services that mutating webhooks name.
pub fn services_of_mutating(object: &MutatingWebhookConfiguration) -> ServicePorts {
    object.webhooks.iter().flatten().filter_map(|webhook| of_client(&webhook.client_config)).collect()
}

/// The Service that an aggregated API names.
pub fn services_of_api_service(object: &APIService) -> ServicePorts {
    let service = object.spec.as_ref().and_then(|spec| spec.service.as_ref());
    let named =
        service.and_then(|service| Some(called(service.namespace.as_ref()?, service.name.as_ref()?, service.port)));
    named.into_iter().collect()
}

/// The Service that converts a custom resource.
pub fn services_of_conversion(object: &CustomResourceDefinition) -> ServicePorts {
    let conversion = object.spec.conversion.as_ref();
    let client = conversion
        .and_then(|conversion| conversion.webhook.as_ref())
        .and_then(|webhook| webhook.client_config.as_ref());
    let service = client.and_then(|client| client.service.as_ref());
    service.map(|service| called(&service.namespace, &service.name, service.port)).into_iter().collect()
}
