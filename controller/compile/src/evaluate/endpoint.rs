//! How a user names the ends of a connection.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ringfence_crds::common::NamespacedName;
use ringfence_model::Protocol;

/// One end of a connection, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// `pod/NAMESPACE/NAME`
    Pod(NamespacedName),
    /// `svc/NAMESPACE/NAME`
    Service(NamespacedName),
    /// `node/NAME`
    Node(String),
    /// An address, whoever has it.
    Address(IpAddr),
}

/// Why a text names no end of a connection. Phrased to follow "failed to".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read '{0}' as an end of a connection: write pod/NAMESPACE/NAME, svc/NAMESPACE/NAME, node/NAME or an address")]
pub struct ParseEndpointError(String);

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(ParseEndpointError(text.to_owned()));
        }
        let key =
            |namespace: &str, name: &str| NamespacedName { namespace: namespace.to_owned(), name: name.to_owned() };
        match parts.as_slice() {
            ["pod", namespace, name] => Ok(Self::Pod(key(namespace, name))),
            ["svc", namespace, name] => Ok(Self::Service(key(namespace, name))),
            ["node", name] => Ok(Self::Node((*name).to_owned())),
            [address] => address.parse().map(Self::Address).map_err(|_| ParseEndpointError(text.to_owned())),
            _ => Err(ParseEndpointError(text.to_owned())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod/{key}"),
            Self::Service(key) => write!(f, "svc/{key}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Why a connection cannot be explained. Phrased to follow "failed to".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// There is no such end.
    #[error("find {0} in the cluster")]
    NotFound(Endpoint),
    /// The Pod is over and has no connections.
    #[error("explain a connection of {0}: the Pod has ended")]
    Ended(Endpoint),
    /// A Service does not connect.
    #[error("explain a connection from {0}: a Service listens and does not connect")]
    ServiceConnects(Endpoint),
    /// The Service does not have the port.
    #[error("find port {port}/{protocol} of {service}")]
    NoSuchPort {
        /// The Service.
        service: Endpoint,
        /// The protocol asked for.
        protocol: Protocol,
        /// The port asked for.
        port: u16,
    },
}
