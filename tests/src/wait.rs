//! Awaiting conditions, with a limit, and with a clear word when the limit passes.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Tries `check` again and again, quickly at first, until it gives a value.
///
/// # Errors
/// After `limit`, saying what was awaited and what was seen last. An error of `check` itself counts as "not yet",
/// since an apiserver that is being restarted refuses for a while.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let begin = Instant::now();
    let mut pause = Duration::from_millis(20);
    let mut last = String::from("nothing yet");
    loop {
        match check().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        if begin.elapsed() > limit {
            bail!("gave up after {}s waiting for {what} (last seen: {last})", limit.as_secs());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(500));
    }
}
