//! `/healthz` for the kubelet's probes: answers as long as the process runs its tasks.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

/// Answers probes on `address` for ever.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream));
            }
            Err(error) => tracing::debug!(%error, "failed to accept a probe"),
        }
    }
}

/// A probe whose connection breaks has no answer to wait for, so errors end it silently.
async fn answer(mut stream: TcpStream) {
    let mut request = [0; 1024];
    if stream.read(&mut request).await.is_ok() {
        let _ = stream.write_all(ANSWER).await;
        let _ = stream.shutdown().await;
    }
}
