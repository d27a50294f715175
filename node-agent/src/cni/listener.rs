//! The unix socket on which the plugin asks: one request and one answer a connection. Only root may connect.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ringfence_cni::{Answer, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::{Ask, sandbox};

/// Longest request, in bytes.
const LONGEST: u64 = 1 << 16;
/// The plugin sends its request at once.
const SOON: Duration = Duration::from_secs(5);

/// Listens on a socket in place of whatever is there: an agent before this one has left its own.
///
/// # Errors
/// When the folder cannot be made or the socket not be bound.
pub fn bind(socket: &Path) -> Result<UnixListener, std::io::Error> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Bound aside and moved into place, so that nobody finds a socket that is not listened on or not closed to others.
    let aside = socket.with_extension("new");
    let _ = std::fs::remove_file(&aside);
    let listener = UnixListener::bind(&aside)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&aside, socket)?;
    Ok(listener)
}

/// Takes requests until the engine is gone.
pub async fn serve(listener: UnixListener, asks: UnboundedSender<Ask>) {
    loop {
        let stream = tokio::select! {
            () = asks.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Mostly no file descriptor is left.
                    tracing::warn!(%error, "failed to take a request of the CNI plugin");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let asks = asks.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &asks).await {
                tracing::debug!(%error, "failed to answer the CNI plugin");
            }
        });
    }
}

async fn converse(stream: UnixStream, asks: &UnboundedSender<Ask>) -> Result<(), std::io::Error> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading.take(LONGEST));
    let mut line = String::new();
    tokio::time::timeout(SOON, reading.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line)? {
        Request::Add(attachment) => {
            let (answer, answered) = oneshot::channel();
            let (id, again) = (attachment.sandbox.clone(), attachment.again);
            let ask = Ask::Add { sandbox: Box::new(sandbox(attachment)), again, answer };
            // An engine that has ended says nothing: the plugin then goes by the fallback.
            if asks.send(ask).is_err() {
                return Ok(());
            }
            tokio::select! {
                answered = answered => match answered {
                    Ok(answer) => answer,
                    Err(_) => return Ok(()),
                },
                // The plugin has hung up: nobody starts this Pod any more, or somebody asks anew.
                _ = reading.read_line(&mut line) => {
                    let _ = asks.send(Ask::Del { sandbox: id });
                    return Ok(());
                }
            }
        }
        Request::Del { sandbox } => {
            let _ = asks.send(Ask::Del { sandbox });
            Answer::protected()
        }
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writing.write_all(&text).await
}
