//! Leader election: one active replica by Lease.
//!
//! The process leaves when the lease is lost, so that no state of a former leader lives on. What a partitioned leader
//! might still write is harmless: it is compared with what lives in the cluster, and never refers to a revision that
//! the new leader has not seen.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

/// Seconds after which another replica may take a lease that is not renewed.
const DURATION_SECONDS: u64 = 15;
/// How many seconds before it expires the lease is renewed.
const GRACE_SECONDS: u64 = 5;
/// How long the release of the lease may take when the process ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The Lease object cannot be read or made.
    #[error("failed to open lease {namespace}/{name}")]
    Open {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// What the apiserver said.
        #[source]
        source: LeaseManagerError,
    },
    /// The task that renews the lease has ended.
    #[error("failed to renew the lease: its task has ended")]
    Ended,
}

/// A lease that this process holds or waits for.
pub struct Lease {
    state: Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Lease {
    /// Begins to ask for the lease; see [`Lease::held`].
    ///
    /// # Errors
    /// When the Lease object can neither be read nor made.
    pub async fn open(client: Client, namespace: &str, name: &str, identity: &str) -> Result<Self, LeaderError> {
        let manager = LeaseManagerBuilder::new(client, name)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await
            .map_err(|source| LeaderError::Open { namespace: namespace.to_owned(), name: name.to_owned(), source })?;
        let (state, task) = manager.watch().await;
        Ok(Self { state, task })
    }

    /// Waits until this process holds the lease.
    ///
    /// # Errors
    /// When the lease cannot be renewed any more.
    pub async fn held(&mut self) -> Result<(), LeaderError> {
        self.state.wait_for(|leading| *leading).await.map(drop).map_err(|_| LeaderError::Ended)
    }

    /// Waits until this process has lost the lease, for whatever reason.
    pub async fn lost(&mut self) {
        // An error means that the renewing task has ended, and then the lease is as good as lost.
        let _ = self.state.wait_for(|leading| !*leading).await;
    }

    /// Gives the lease back, so that another replica need not wait until it expires.
    pub async fn release(self) {
        drop(self.state);
        match tokio::time::timeout(RELEASE_TIMEOUT, self.task).await {
            Ok(Ok(Ok(_))) => tracing::info!("lease released"),
            Ok(Ok(Err(error))) => tracing::warn!(%error, "failed to release the lease; it expires by itself"),
            Ok(Err(error)) => tracing::warn!(%error, "failed to release the lease; it expires by itself"),
            Err(_) => tracing::warn!("failed to release the lease in time; it expires by itself"),
        }
    }
}
