//! The few messages of the Container Runtime Interface (runtime.v1) that are used here, with the field numbers of its
//! api.proto. Fields that nobody reads are left out: protobuf skips them.

use std::collections::HashMap;

/// Asks for sandboxes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodSandboxRequest {
    /// Which ones.
    #[prost(message, optional, tag = "1")]
    pub filter: Option<PodSandboxFilter>,
}

/// Narrows a list of sandboxes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxFilter {
    /// In this state only.
    #[prost(message, optional, tag = "2")]
    pub state: Option<PodSandboxStateValue>,
}

/// A state as a message, so that it can be left out.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct PodSandboxStateValue {
    /// 0 is ready, 1 is not.
    #[prost(int32, tag = "1")]
    pub state: i32,
}

/// The state of a sandbox that runs.
pub const SANDBOX_READY: i32 = 0;

/// The sandboxes asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodSandboxResponse {
    /// The sandboxes.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<PodSandbox>,
}

/// A sandbox as a list shows it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whose it is.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Whether it runs.
    #[prost(int32, tag = "3")]
    pub state: i32,
    /// When it was made, in nanoseconds.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// The Pod's labels, and some of the kubelet's.
    #[prost(map = "string, string", tag = "5")]
    pub labels: HashMap<String, String>,
    /// The Pod's annotations, and some of the kubelet's.
    #[prost(map = "string, string", tag = "6")]
    pub annotations: HashMap<String, String>,
}

/// The Pod of a sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxMetadata {
    /// Name of the Pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its uid; of a static Pod, the hash of its manifest.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// Asks for one sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatusRequest {
    /// Its id.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// With the runtime's own information.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// One sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatusResponse {
    /// What every runtime tells.
    #[prost(message, optional, tag = "1")]
    pub status: Option<PodSandboxStatus>,
    /// What this runtime tells besides: JSON under `info`.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// What every runtime tells about a sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxStatus {
    /// Its addresses.
    #[prost(message, optional, tag = "5")]
    pub network: Option<PodSandboxNetworkStatus>,
    /// Its namespaces.
    #[prost(message, optional, tag = "6")]
    pub linux: Option<LinuxPodSandboxStatus>,
}

/// Addresses of a sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxNetworkStatus {
    /// The first.
    #[prost(string, tag = "1")]
    pub ip: String,
    /// The others.
    #[prost(message, repeated, tag = "2")]
    pub additional_ips: Vec<PodIp>,
}

/// An address.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodIp {
    /// The address.
    #[prost(string, tag = "1")]
    pub ip: String,
}

/// Linux part of a sandbox's status.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxPodSandboxStatus {
    /// Its namespaces.
    #[prost(message, optional, tag = "1")]
    pub namespaces: Option<Namespace>,
}

/// Namespaces of a sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Namespace {
    /// Whose they are.
    #[prost(message, optional, tag = "2")]
    pub options: Option<NamespaceOption>,
}

/// Whose namespaces a sandbox uses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NamespaceOption {
    /// The network namespace: 0 its own, 2 the node's.
    #[prost(int32, tag = "1")]
    pub network: i32,
}

/// The node's own namespace.
pub const NAMESPACE_OF_NODE: i32 = 2;
