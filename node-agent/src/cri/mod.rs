//! The container runtime: which sandboxes run on this node, and where their network namespaces are.

pub mod messages;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use crate::netns::Location;
use messages::{
    ListPodSandboxRequest, ListPodSandboxResponse, NAMESPACE_OF_NODE, PodSandbox, PodSandboxFilter,
    PodSandboxStateValue, PodSandboxStatusRequest, PodSandboxStatusResponse, SANDBOX_READY,
};

/// The largest answer that is taken in, in bytes: as much as any runtime sends, which is 80 MiB for CRI-O and 16 MiB for
/// containerd. A list holds all annotations of all Pods, which whoever makes Pods fills as he likes.
const LARGEST_ANSWER: usize = 80 << 20;

/// Why the container runtime gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The socket does not lead to a runtime.
    #[error("prepare a connection to the container runtime: {0}")]
    Connect(#[from] tonic::transport::Error),
    /// The runtime refused or failed.
    #[error("ask the container runtime: {0}")]
    Call(#[from] tonic::Status),
}

/// A sandbox that runs: one Pod's network namespace, and what the runtime knows of the Pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Id of the sandbox.
    pub id: String,
    /// The Pod's uid as the kubelet uses it: of a static Pod, the hash of its manifest.
    pub uid: String,
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
    /// The Pod's labels, and the kubelet's.
    pub labels: BTreeMap<String, String>,
    /// The Pod's annotations, and the kubelet's.
    pub annotations: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Whether it has no network namespace of its own.
    pub host_network: bool,
    /// Where its network namespace is.
    pub netns: Location,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its resolvers.
    pub dns_servers: Vec<IpAddr>,
}

/// The part of the runtime's own information that is needed; containerd and CRI-O write it alike.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    pid: u32,
    #[serde(rename = "runtimeSpec")]
    runtime_spec: RuntimeSpec,
    config: InfoConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeSpec {
    linux: SpecLinux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecLinux {
    namespaces: Vec<SpecNamespace>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecNamespace {
    #[serde(rename = "type")]
    kind: String,
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfoConfig {
    dns_config: InfoDns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfoDns {
    servers: Vec<String>,
}

/// A client of the runtime; it connects when first used, and again when the runtime was restarted.
#[derive(Debug, Clone)]
pub struct Runtime {
    channel: Channel,
}

impl Runtime {
    /// The runtime that listens on this unix socket.
    ///
    /// # Errors
    /// Never for a well-formed address; the socket itself is tried with the first call.
    pub fn at(socket: &Path) -> Result<Self, CriError> {
        let socket = socket.to_owned();
        // The address only fills the request's authority; the connector knows the way.
        let endpoint = Endpoint::try_from("http://localhost")?.timeout(Duration::from_secs(10));
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        }));
        Ok(Self { channel })
    }

    /// The sandboxes that run, as the list shows them.
    ///
    /// # Errors
    /// When the runtime cannot be asked.
    pub async fn ready_sandboxes(&self) -> Result<Vec<PodSandbox>, CriError> {
        let request = ListPodSandboxRequest {
            filter: Some(PodSandboxFilter { state: Some(PodSandboxStateValue { state: SANDBOX_READY }) }),
        };
        let answer: ListPodSandboxResponse = self.call("ListPodSandbox", request).await?;
        Ok(answer.items)
    }

    /// One sandbox with its network namespace; `None` if it has gone in the meantime.
    ///
    /// # Errors
    /// When the runtime cannot be asked.
    pub async fn sandbox(&self, listed: PodSandbox) -> Result<Option<Sandbox>, CriError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: listed.id.clone(), verbose: true };
        match self.call("PodSandboxStatus", request).await {
            Ok(answer) => Ok(Some(sandbox_from(listed, answer))),
            Err(CriError::Call(status)) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, CriError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER);
        client.ready().await?;
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))
            .map_err(|error| tonic::Status::internal(error.to_string()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(client.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }
}

/// Puts together what a list and a verbose status say. Information in an unknown form leaves the location empty, which
/// is reported when the namespace is to be entered.
fn sandbox_from(listed: PodSandbox, answer: PodSandboxStatusResponse) -> Sandbox {
    let info: Info = answer.info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let status = answer.status.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    let host_network = status
        .linux
        .and_then(|linux| linux.namespaces?.options)
        .is_some_and(|options| options.network == NAMESPACE_OF_NODE);
    let path = info.runtime_spec.linux.namespaces.iter().find(|ns| ns.kind == "network").map(|ns| &ns.path);
    let mut netns = path.filter(|p| !p.as_os_str().is_empty()).map(|p| Location::at(p)).unwrap_or_default();
    netns.pid = (info.pid != 0).then_some(info.pid);
    let metadata = listed.metadata.unwrap_or_default();
    Sandbox {
        id: listed.id,
        uid: metadata.uid,
        namespace: metadata.namespace,
        name: metadata.name,
        labels: listed.labels.into_iter().collect(),
        annotations: listed.annotations.into_iter().collect(),
        created_at: listed.created_at,
        host_network,
        netns,
        ips: std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|entry| entry.ip))
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        dns_servers: info.config.dns_config.servers.iter().filter_map(|ip| ip.parse().ok()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_information_leads_to_the_namespace() {
        let info = r#"{"pid": 4711, "config": {"dns_config": {"servers": ["10.96.0.10"]}},
            "runtimeSpec": {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-7"}]}}}"#;
        let answer = PodSandboxStatusResponse { status: None, info: [("info".to_owned(), info.to_owned())].into() };
        let sandbox = sandbox_from(PodSandbox { id: "s1".to_owned(), ..PodSandbox::default() }, answer);
        assert_eq!(sandbox.netns.path.as_deref(), Some(Path::new("/run/netns/cni-7")));
        assert_eq!(sandbox.netns.pid, Some(4711));
        assert_eq!(sandbox.dns_servers, ["10.96.0.10".parse::<IpAddr>().expect("valid")]);
        assert!(!sandbox.host_network);
    }

    #[test]
    fn information_in_an_unknown_form_leads_nowhere() {
        let answer =
            PodSandboxStatusResponse { status: None, info: [("info".to_owned(), "not json".to_owned())].into() };
        assert_eq!(sandbox_from(PodSandbox::default(), answer).netns, Location::default());
    }
}
