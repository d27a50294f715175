//! A disk that takes nothing.

use tokio::sync::watch;

use super::*;
use crate::health::{Fault, Health};
use crate::lab::Small;

/// More than a page in the middle of which the disk could end.
fn large() -> Kept {
    let mut kept = second();
    let classes: Vec<String> = (0..2000).map(|number| format!("c-{number}")).collect();
    kept.store.peer_groups.insert("p-3".to_owned(), PeerGroupSpec { classes, ..PeerGroupSpec::default() });
    kept
}

#[test]
fn a_full_disk_keeps_what_was_saved() {
    let Some(disk) = Small::new("a_full_disk_keeps_what_was_saved") else { return };
    let folder = disk.path();
    let mut ledger = open(folder).0;
    disk.fill();
    let error = ledger.save(first()).expect_err("there is no space for a file");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    disk.free();
    ledger.save(first()).expect("saved");
    disk.fill();
    for kept in [large(), large()] {
        ledger.save(kept).expect_err("there is no space for more");
        assert_eq!(found(folder), (Some(first()), None));
    }
    disk.free();
    ledger.save(large()).expect("saved");
    assert_eq!(found(folder), (Some(large()), None));
}

#[tokio::test]
async fn what_cannot_be_kept_is_reported_and_tried_again() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("state");
    fs::write(&folder, "in its place").expect("written");
    let (ledger, kept, problem) = open(&folder);
    assert_eq!(kept, None);
    let problem = problem.expect("it cannot be read");
    let (health, mut healths) =
        watch::channel(Health { ledger: Some(Fault::ledger_damaged(&problem)), ..Health::default() });
    let (news_out, news) = watch::channel(None);
    let keeping = tokio::spawn(keep(ledger, news, health));
    news_out.send_replace(Some(first()));
    let said = |health: &Health| health.ledger.as_ref().is_some_and(|fault| fault.reason == "LedgerNotKept");
    let health = healths.wait_for(said).await.expect("it runs").clone();
    let message = &health.ledger.expect("it was waited for").message;
    assert!(message.starts_with("failed to keep the ledger: use "), "{message}");
    // What is news meanwhile is what is written when that is possible.
    news_out.send_replace(Some(second()));
    fs::remove_file(&folder).expect("removed");
    healths.wait_for(|health| health.ledger.is_none()).await.expect("it runs");
    assert_eq!(found(&folder), (Some(second()), None));
    drop(news_out);
    keeping.await.expect("it ends");
}

#[tokio::test]
async fn an_agent_that_ends_does_not_wait_for_a_disk() {
    let folder = tempfile::NamedTempFile::new().expect("a file");
    let (health, mut healths) = watch::channel(Health::default());
    let (news_out, news) = watch::channel(None);
    let keeping = tokio::spawn(keep(open(folder.path()).0, news, health));
    news_out.send_replace(Some(first()));
    healths.wait_for(|health| health.ledger.is_some()).await.expect("it runs");
    drop(news_out);
    tokio::time::timeout(std::time::Duration::from_millis(900), keeping).await.expect("at once").expect("it ends");
}
