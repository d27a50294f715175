//! Events on repositories and on the objects they own.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use ringfence_crds::names::MANAGER_CONTROLLER;

/// What an Event's note may hold.
const NOTE_LENGTH: usize = 1024;

/// Something to tell about an object.
///
/// Each is an object of its own: kube's recorder would count a second one of the same reason as a repetition of the
/// first and lose its text, and here the text says which commit or whose change is meant.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    /// What it is about.
    pub(super) about: ObjectReference,
    /// Whether somebody should look.
    pub(super) warning: bool,
    /// One word.
    pub(super) reason: &'static str,
    /// What was done, one word.
    pub(super) action: &'static str,
    /// The text.
    pub(super) note: String,
}

impl Notice {
    /// Emits the Event. A failure is logged and nothing else: what it tells about has happened all the same.
    pub(super) async fn emit(self, client: &Client) {
        let namespace = self.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let reason = self.reason;
        if let Err(error) = api.create(&PostParams::default(), &self.event()).await {
            tracing::warn!(%error, reason, "failed to emit an event");
        }
    }

    fn event(self) -> Event {
        let now = Timestamp::now();
        let name = self.about.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta { name: Some(format!("{name}.{:x}", now.as_nanosecond())), ..ObjectMeta::default() },
            event_time: Some(MicroTime(now)),
            regarding: Some(self.about),
            type_: Some(if self.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.reason.to_owned()),
            action: Some(self.action.to_owned()),
            note: Some(shortened(self.note)),
            reporting_controller: Some(format!("{}/repository", ringfence_crds::names::GROUP)),
            reporting_instance: Some(std::env::var("POD_NAME").unwrap_or_else(|_| MANAGER_CONTROLLER.to_owned())),
            ..Event::default()
        }
    }
}

fn shortened(mut note: String) -> String {
    const ELLIPSIS: &str = "…";
    if note.len() > NOTE_LENGTH {
        note.truncate(note.floor_char_boundary(NOTE_LENGTH - ELLIPSIS.len()));
        note.push_str(ELLIPSIS);
    }
    note
}
