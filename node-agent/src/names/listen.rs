//! Listening at one ear: of what it hears, answers to names of the policy go on to the engine.

use std::io::ErrorKind;
use std::sync::Arc;

use ringfence_dataplane::Names;
use ringfence_dataplane::names::{message, read_answer};
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use super::{Ear, Heard, What};

/// The names that a Pod may connect to, by list.
pub type Named = Vec<Arc<Names>>;

/// Listens until the ear is deaf or nobody wants to know.
pub async fn listen(id: String, ear: Ear, named: watch::Receiver<Named>, tell: Sender<Heard>) {
    if let Err(error) = follow(&id, ear, &named, &tell).await {
        let what = What::Deaf(format!("listen to what resolvers answer: {error}"));
        // Nobody wants to know when the engine has ended.
        let _ = tell.send(Heard { id, what }).await;
    }
}

async fn follow(
    id: &str,
    ear: Ear,
    named: &watch::Receiver<Named>,
    tell: &Sender<Heard>,
) -> Result<(), std::io::Error> {
    let mut ear = ear.awaited()?;
    let (mut lost, mut malformed) = (0_u64, 0_u64);
    loop {
        let mut ready = ear.readable_mut().await?;
        let heard = match ready.try_io(|ear| ear.get_mut().hear()) {
            Ok(Ok(Some(packet))) => packet,
            Ok(Ok(None)) | Err(_) => continue,
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                lost += 1;
                // A Pod that asks without end is not to fill the log.
                if lost.is_power_of_two() {
                    tracing::warn!(id, lost, "failed to hear every answer of a resolver: there were too many at once");
                }
                continue;
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(Err(error)) => return Err(error),
        };
        match message(&heard).and_then(read_answer) {
            Ok(Some(answer)) if named.borrow().iter().any(|names| names.matches(&answer.name)) => {
                let what = What::Answer(answer);
                if tell.send(Heard { id: id.to_owned(), what }).await.is_err() {
                    return Ok(());
                }
            }
            Ok(_) => {}
            Err(_) => {
                malformed += 1;
                tracing::debug!(id, malformed, "not understood: what a resolver has sent");
            }
        }
    }
}
