//! Small matters of time.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// A random part of `most`, so that many agents do not act at one moment. Not for secrets.
pub fn jitter(most: Duration) -> Duration {
    // Each RandomState has fresh keys, which is all the randomness that spreading load needs.
    let random = RandomState::new().build_hasher().finish();
    let thousandth = u32::try_from(random % 1000).unwrap_or_default();
    most * thousandth / 1000
}

/// Waits until then; for ever where nothing is said.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
