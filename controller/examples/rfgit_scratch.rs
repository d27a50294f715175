//! Scratch.
use tokio_util::sync::CancellationToken;
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("info,ringfence_controller=debug").init();
    let client = kube::Client::try_default().await?;
    Ok(ringfence_controller::repository::run(client, CancellationToken::new()).await?)
}
