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
use tokio::time::{sleep, timeout};

/// Seconds after which another replica may take a lease that is not renewed.
const DURATION_SECONDS: u64 = 15;
/// How many seconds before it expires the lease is renewed.
const GRACE_SECONDS: u64 = 5;
/// How often a replica that waits looks at the lease. Without that it would sleep until the lease expires, even when
/// its holder has released it.
const LOOK: Duration = Duration::from_secs(1);
/// How long the release of the lease may take when the process ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The Lease object cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[error("failed to open lease {namespace}/{name}")]
pub struct LeaderError {
    namespace: String,
    name: String,
    #[source]
    source: LeaseManagerError,
}

/// A replica that waits for the lease.
pub struct Candidate {
    manager: LeaseManager,
}

/// The lease, held by this process.
pub struct Lease {
    state: Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Candidate {
    /// Opens the Lease object, making it when there is none.
    ///
    /// # Errors
    /// When it can neither be read nor made.
    pub async fn open(client: Client, namespace: &str, name: &str, identity: &str) -> Result<Self, LeaderError> {
        let manager = LeaseManagerBuilder::new(client, name)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await
            .map_err(|source| LeaderError { namespace: namespace.to_owned(), name: name.to_owned(), source })?;
        Ok(Self { manager })
    }

    /// Waits until this process holds the lease.
    pub async fn held(self) -> Lease {
        loop {
            // Breaking off is safe: each attempt begins with what the apiserver says.
            match timeout(LOOK, self.manager.changed()).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "failed to ask for the lease, trying again");
                    sleep(LOOK).await;
                }
            }
        }
        let (state, task) = self.manager.watch().await;
        Lease { state, task }
    }
}

impl Lease {
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
