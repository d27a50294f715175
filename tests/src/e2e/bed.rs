//! The test cluster itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Outcome;
use crate::lab::Lab;
use crate::testbed::Testbed;
use crate::wait;

/// A cluster beside the one under test, of which nothing but its beginning is needed.
const NAME: &str = "half";

/// `down` works after a run that was killed while it brought a cluster up: no network namespace, no link and no process
/// of it is left.
pub async fn a_cluster_that_was_killed_half_way_is_taken_down(_lab: Lab) -> Result<Outcome> {
    let half = Testbed::new(NAME);
    half.down()?;
    let mut run = half.begin_up()?;
    let node = format!("/run/netns/rf-{NAME}-node2");
    let begun = wait::until("the killed run to have made a node", Duration::from_secs(60), || async {
        Ok(Path::new(&node).exists().then_some(()))
    })
    .await;
    run.kill()?;
    let downed = half.down();
    begun?;
    downed?;
    let left: Vec<String> = std::fs::read_dir("/run/netns")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&format!("rf-{NAME}-")))
        .collect();
    ensure!(left.is_empty(), "network namespaces are left: {left:?}");
    ensure!(!Path::new(&format!("/sys/class/net/rf-{NAME}")).exists(), "the link of the cluster is left");
    let processes = half.processes()?;
    ensure!(processes.is_empty(), "processes are left: {processes:?}");
    Ok(Outcome::Passed)
}
