//! A label that a Pod asked for and does not get is an Event on the Pod.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use ringfence_compile::compile::{Computed, ComputedPod};
use ringfence_crds::common::NamespacedName;
use ringfence_crds::names;
use ringfence_model::{LabelSource, Refusal};

const CONCURRENCY: usize = 4;

/// A refusal that its Pod is told of once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    pod: NamespacedName,
    uid: String,
    /// What asked: an annotation or a Kubernetes label.
    from: String,
    value: String,
    note: String,
}

/// Every refusal there is.
pub fn notices(computed: &Computed) -> BTreeSet<Notice> {
    let pods = computed.container_workloads.iter();
    pods.flat_map(|(key, pod)| pod.labels.refused.iter().map(move |refusal| notice(key, pod, refusal))).collect()
}

fn notice(key: &NamespacedName, pod: &ComputedPod, refusal: &Refusal) -> Notice {
    let from = match &refusal.from {
        LabelSource::Profile => "profile".to_owned(),
        LabelSource::LabelMap(label) => format!("label {label}"),
        LabelSource::Annotation(annotation) => format!("annotation {annotation}"),
    };
    let note = format!("{from}={} is not taken: {}", refusal.value, refusal.reason);
    Notice { pod: key.clone(), uid: pod.uid.clone(), from, value: refusal.value.clone(), note }
}

impl Notice {
    /// The same for the same Pod and value, so that a restarted controller does not tell it again.
    fn event_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.uid, &self.from, &self.value).hash(&mut hasher);
        format!("{}.{:016x}", self.pod.name, hasher.finish())
    }

    fn event(&self, instance: &str, now: &Time) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(self.event_name()),
                namespace: Some(self.pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(self.pod.name.clone()),
                namespace: Some(self.pod.namespace.clone()),
                uid: Some(self.uid.clone()),
                ..ObjectReference::default()
            }),
            type_: Some("Warning".to_owned()),
            reason: Some("LabelRefused".to_owned()),
            action: Some("DeriveLabels".to_owned()),
            // The apiserver takes 1024 bytes.
            note: Some(self.note.chars().take(250).collect()),
            event_time: Some(MicroTime(now.0)),
            reporting_controller: Some(format!("{}/{}", names::GROUP, names::MANAGER_CONTROLLER)),
            reporting_instance: Some(instance.to_owned()),
            ..Event::default()
        }
    }
}

/// Tells Pods of refusals; gives those that were told.
pub async fn tell(client: &Client, instance: &str, notices: Vec<Notice>, now: &Time) -> Vec<Notice> {
    let told = stream::iter(notices).map(|notice| async move {
        let events: Api<Event> = Api::namespaced(client.clone(), &notice.pod.namespace);
        match events.create(&PostParams::default(), &notice.event(instance, now)).await {
            Ok(_) => Some(notice),
            // Told before, or the namespace is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => Some(notice),
            Err(error) => {
                tracing::warn!(pod = %notice.pod, %error, "failed to write an Event, trying again");
                None
            }
        }
    });
    told.buffer_unordered(CONCURRENCY).filter_map(std::future::ready).collect().await
}
