//! Writes to the apiserver as plain data: planned by pure functions, carried out here, their results fed back.
//!
//! Every plan compares what should be with what is known to live in the cluster, so a write that fails or comes too
//! late costs another round and nothing else.

use std::fmt;

use futures::{StreamExt, stream};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client};
use ringfence_crds as crds;
use ringfence_crds::common::NamespacedName;
use ringfence_crds::names;
use serde_json::{Value, json};

/// How many writes go on at the same time.
const CONCURRENCY: usize = 16;

/// What etcd and the connection to it say of an object that is too large.
const TOO_LARGE: [&str; 2] = ["etcdserver: request is too large", "trying to send message larger than max"];

/// A kind that the controller writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Each is the kind it is named like.
pub enum Target {
    ContainerCluster,
    ContainerWorkloadProfile,
    VirtualService,
    Workload,
    RuleSet,
    IpList,
    LabelGroup,
    ServiceDefinition,
    NodePolicy,
    WorkloadPolicy,
    PeerGroup,
    AddressGroup,
}

impl Target {
    fn resource(self) -> ApiResource {
        match self {
            Self::ContainerCluster => ApiResource::erase::<crds::ContainerCluster>(&()),
            Self::ContainerWorkloadProfile => ApiResource::erase::<crds::ContainerWorkloadProfile>(&()),
            Self::VirtualService => ApiResource::erase::<crds::VirtualService>(&()),
            Self::Workload => ApiResource::erase::<crds::Workload>(&()),
            Self::RuleSet => ApiResource::erase::<crds::RuleSet>(&()),
            Self::IpList => ApiResource::erase::<crds::IpList>(&()),
            Self::LabelGroup => ApiResource::erase::<crds::LabelGroup>(&()),
            Self::ServiceDefinition => ApiResource::erase::<crds::ServiceDefinition>(&()),
            Self::NodePolicy => ApiResource::erase::<crds::NodePolicy>(&()),
            Self::WorkloadPolicy => ApiResource::erase::<crds::WorkloadPolicy>(&()),
            Self::PeerGroup => ApiResource::erase::<crds::PeerGroup>(&()),
            Self::AddressGroup => ApiResource::erase::<crds::AddressGroup>(&()),
        }
    }

    fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(client.clone(), &self.resource()),
            namespace => Api::namespaced_with(client.clone(), namespace, &self.resource()),
        }
    }

    /// `apiVersion`, `kind` and the given metadata and content as one object.
    fn object(self, key: &NamespacedName, mut content: Value) -> Value {
        let resource = self.resource();
        content["apiVersion"] = json!(resource.api_version);
        content["kind"] = json!(resource.kind);
        content["metadata"]["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            content["metadata"]["namespace"] = json!(key.namespace);
        }
        content
    }
}

/// What to do with an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// Make it, in the name of this field manager; one that already exists stays as it is. The content has `spec`,
    /// and `metadata` with labels if any.
    Create(&'static str, Value),
    /// Put this in place of the version that `metadata.resourceVersion` names.
    Replace(&'static str, Value),
    /// Make this its status, with nothing left of an older one.
    Status(Value),
    /// The same, if it still is of this version: what somebody else writes meanwhile is not undone.
    StatusOf(String, Value),
    /// Delete it, if it still is the one with this UID.
    Delete(String),
}

/// One write to one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Kind of the object.
    pub target: Target,
    /// Namespace (empty for a cluster-wide kind) and name.
    pub key: NamespacedName,
    /// What to do.
    pub operation: Operation,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.operation {
            Operation::Create(..) => "create",
            Operation::Replace(..) => "replace",
            Operation::Status(_) | Operation::StatusOf(..) => "report",
            Operation::Delete(_) => "delete",
        };
        let namespace = &self.key.namespace;
        let slash = if namespace.is_empty() { "" } else { "/" };
        write!(f, "{verb} {:?} {namespace}{slash}{}", self.target, self.key.name)
    }
}

/// What is known of an object after a write.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It now reads so: as written, or, when somebody was faster, as it was found.
    Lives(Box<DynamicObject>),
    /// It does not exist.
    Gone,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {kind} {key}")]
pub struct WriteError {
    kind: String,
    key: NamespacedName,
    #[source]
    source: kube::Error,
}

impl WriteError {
    /// What the apiserver says, when it will say the same again as long as the content is the same: it is invalid or too
    /// large.
    pub fn refusal(&self) -> Option<&str> {
        let kube::Error::Api(status) = &self.source else { return None };
        let reason = matches!(status.reason.as_str(), "Invalid" | "RequestEntityTooLarge");
        // etcd's own limits are lower than the apiserver's, which passes them on as an error of its own.
        let etcd = TOO_LARGE.iter().any(|text| status.message.contains(text));
        (reason || etcd || matches!(status.code, 413 | 422)).then_some(status.message.as_str())
    }
}

/// Carries out the writes, several at a time, in no order. Gives each write's result with the write.
pub async fn all(client: &Client, writes: Vec<Write>) -> Vec<(Write, Result<Outcome, WriteError>)> {
    stream::iter(writes)
        .map(|write| async move {
            let result = one(client, &write).await;
            tracing::debug!(%write, ok = result.is_ok());
            if let Err(error) = &result {
                tracing::warn!(error = %error, cause = %error.source, "a write did not happen");
            }
            (write, result)
        })
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await
}

/// Whether an outcome is what the write wanted; else somebody was faster, and it is to be planned again.
pub fn took(write: &Write, outcome: &Outcome) -> bool {
    match (&write.operation, outcome) {
        (Operation::Delete(_), Outcome::Gone) => true,
        (Operation::Delete(_), Outcome::Lives(_)) | (_, Outcome::Gone) => false,
        (Operation::Create(_, content) | Operation::Replace(_, content), Outcome::Lives(object)) => {
            covers(&object.data["spec"], &content["spec"])
        }
        (Operation::Status(_), Outcome::Lives(_)) => true,
        (Operation::StatusOf(_, status), Outcome::Lives(object)) => covers(&object.data["status"], status),
    }
}

/// Whether an object holds everything that was written; the apiserver may have added defaults.
fn covers(live: &Value, written: &Value) -> bool {
    match (live, written) {
        (Value::Object(live), Value::Object(written)) => {
            written.iter().all(|(key, value)| covers(live.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Array(live), Value::Array(written)) => {
            live.len() == written.len() && live.iter().zip(written).all(|(live, written)| covers(live, written))
        }
        (live, written) => live == written,
    }
}

async fn one(client: &Client, write: &Write) -> Result<Outcome, WriteError> {
    let api = write.target.api(client, &write.key.namespace);
    attempt(&api, write).await.map_err(|source| WriteError {
        kind: write.target.resource().kind,
        key: write.key.clone(),
        source,
    })
}

async fn attempt(api: &Api<DynamicObject>, write: &Write) -> Result<Outcome, kube::Error> {
    let name = &write.key.name;
    let result = match &write.operation {
        Operation::Create(manager, content) => {
            let object = parse(write.target.object(&write.key, content.clone()))?;
            api.create(&post_params(manager), &object).await
        }
        Operation::Replace(manager, content) => {
            let object = parse(write.target.object(&write.key, content.clone()))?;
            api.replace(name, &post_params(manager), &object).await
        }
        Operation::Status(status) => apply_status(api, write, json!({ "status": status })).await,
        Operation::StatusOf(version, status) => {
            apply_status(api, write, json!({ "metadata": { "resourceVersion": version }, "status": status })).await
        }
        Operation::Delete(uid) => return delete(api, name, uid).await,
    };
    match result {
        Ok(object) => Ok(Outcome::Lives(Box::new(object))),
        Err(error) if code(&error) == Some(404) => Ok(Outcome::Gone),
        Err(error) if code(&error) == Some(409) => found(api, name).await,
        Err(error) => Err(error),
    }
}

async fn apply_status(api: &Api<DynamicObject>, write: &Write, content: Value) -> Result<DynamicObject, kube::Error> {
    let object = write.target.object(&write.key, content);
    let params = PatchParams::apply(names::MANAGER_CONTROLLER).force();
    api.patch_status(&write.key.name, &params, &Patch::Apply(&object)).await
}

fn post_params(manager: &str) -> PostParams {
    PostParams { dry_run: false, field_manager: Some(manager.to_owned()) }
}

fn parse(object: Value) -> Result<DynamicObject, kube::Error> {
    serde_json::from_value(object).map_err(kube::Error::SerdeError)
}

async fn delete(api: &Api<DynamicObject>, name: &str, uid: &str) -> Result<Outcome, kube::Error> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(name, &params).await {
        // Whatever holds it still (a finalizer): it lives until the watch says that it is gone.
        Ok(answer) => Ok(answer.left().map_or(Outcome::Gone, |object| Outcome::Lives(Box::new(object)))),
        Err(error) if code(&error) == Some(404) => Ok(Outcome::Gone),
        Err(error) if code(&error) == Some(409) => found(api, name).await,
        Err(error) => Err(error),
    }
}

/// What lives under the name: somebody was faster, or a finalizer holds the object.
async fn found(api: &Api<DynamicObject>, name: &str) -> Result<Outcome, kube::Error> {
    Ok(api.get_opt(name).await?.map_or(Outcome::Gone, |object| Outcome::Lives(Box::new(object))))
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn refusal(code: u16, reason: &str, message: &str) -> Option<String> {
        let status = Status { code, reason: reason.to_owned(), message: message.to_owned(), ..Status::default() };
        let source = kube::Error::Api(Box::new(status));
        let key = NamespacedName { namespace: String::new(), name: "shop-1".to_owned() };
        WriteError { kind: "WorkloadPolicy".to_owned(), key, source }.refusal().map(str::to_owned)
    }

    #[test]
    fn a_status_that_came_too_late_is_planned_again() {
        let write = |operation| Write {
            target: Target::ContainerWorkloadProfile,
            key: NamespacedName { namespace: String::new(), name: "shop".to_owned() },
            operation,
        };
        let lives = |state: &str| {
            let resource = Target::ContainerWorkloadProfile.resource();
            let mut object = DynamicObject::new("shop", &resource);
            object.data = json!({ "status": { "enforcedState": state } });
            Outcome::Lives(Box::new(object))
        };
        let late = write(Operation::StatusOf("7".to_owned(), json!({ "enforcedState": "Idle" })));
        assert!(took(&late, &lives("Idle")));
        assert!(!took(&late, &lives("Full")), "somebody was faster");
    }

    #[test]
    fn only_what_will_not_pass_by_itself_is_a_refusal() {
        assert_eq!(refusal(422, "Invalid", "too long"), Some("too long".to_owned()));
        assert!(refusal(413, "RequestEntityTooLarge", "limit is 3145728").is_some());
        assert!(refusal(500, "", "etcdserver: request is too large").is_some());
        assert_eq!(refusal(409, "Conflict", "the object has been modified"), None);
        assert_eq!(refusal(429, "TooManyRequests", "try again"), None);
        assert_eq!(refusal(500, "InternalError", "etcdserver: request timed out"), None);
        assert_eq!(refusal(504, "Timeout", "timed out"), None);
        assert_eq!(refusal(403, "Forbidden", "no"), None, "a role may be given later");
    }
}
