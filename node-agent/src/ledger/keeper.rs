//! Keeps the ledger on disk up to date. A disk that takes nothing holds nobody up and changes nothing that is in force:
//! it is reported, and tried again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Kept, Ledger};
use crate::health::{Fault, Health};
use crate::memory;
use crate::retry::Retry;

/// Wait after the first failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Writes the ledger whenever it differs, until whoever has the news has ended, and says in `health` how that goes.
pub async fn keep(mut ledger: Ledger, mut news: watch::Receiver<Option<Kept>>, health: watch::Sender<Health>) {
    let mut retry = Retry::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let ended = match retry.at() {
            None => news.changed().await.is_err(),
            Some(at) => tokio::time::timeout_at(at, end_of(&mut news)).await.is_ok(),
        };
        let kept = news.borrow_and_update().clone();
        if let Some(kept) = kept {
            let writing = tokio::task::spawn_blocking(move || {
                let result = ledger.save(kept);
                // A change, and what was made for it, is over by now.
                memory::give_back();
                (ledger, result)
            });
            let result = match writing.await {
                Ok((back, result)) => {
                    ledger = back;
                    result.map_err(|error| error.to_string())
                }
                Err(panic) => return tell(&health, Some(Fault::ledger_not_kept(&panic.to_string()))),
            };
            match result {
                Ok(()) => retry.succeeded(),
                Err(_) => retry.failed(Instant::now()),
            }
            tell(&health, result.err().map(|error| Fault::ledger_not_kept(&error)));
        }
        if ended {
            return;
        }
    }
}

/// News meanwhile are not lost: the last are what is written next.
async fn end_of(news: &mut watch::Receiver<Option<Kept>>) {
    while news.changed().await.is_ok() {}
}

fn tell(health: &watch::Sender<Health>, fault: Option<Fault>) {
    health.send_if_modified(|health| {
        let differs = health.ledger != fault;
        if differs {
            match &fault {
                Some(fault) => tracing::warn!("{}", fault.message),
                None => tracing::info!("the ledger is kept again"),
            }
            health.ledger = fault;
        }
        differs
    });
}
