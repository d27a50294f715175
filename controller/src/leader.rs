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
/// How often a replica that waits looks at the lease.
const LOOK: Duration = Duration::from_secs(1);
/// How long the release of the lease may take when the process ends.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Which lease is asked for, and by whom.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease; it is made when there is none.
    pub name: String,
    /// Name of this replica.
    pub identity: String,
}

/// The lease, held by this process.
pub struct Lease {
    state: Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Candidate {
    /// Waits until this process holds the lease, whatever the apiserver says in between.
    pub async fn held(&self, client: &Client) -> Lease {
        loop {
            match self.attempt(client).await {
                Ok(Some(manager)) => {
                    let (state, task) = manager.watch().await;
                    return Lease { state, task };
                }
                Ok(None) => {}
                Err(error) => {
                    let Self { namespace, name, .. } = self;
                    tracing::warn!(%error, "failed to ask for lease {namespace}/{name}, trying again");
                    sleep(LOOK).await;
                }
            }
        }
    }

    /// Asks for the lease during [`LOOK`]. A manager reads the lease once and then sleeps until that would expire, even
    /// when its holder has released it; so each attempt has a new one.
    async fn attempt(&self, client: &Client) -> Result<Option<LeaseManager>, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client.clone(), &self.name)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await?;
        // Breaking off is safe: what an attempt has brought about the next one reads.
        let held = match timeout(LOOK, manager.changed()).await {
            Ok(held) => held?,
            Err(_) => false,
        };
        Ok(held.then_some(manager))
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
