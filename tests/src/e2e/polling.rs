//! Nothing polls: what the apiserver's audit says of a minute in which nothing happens.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Outcome;
use crate::lab::Lab;

/// How long nothing happens.
const MINUTE: Duration = Duration::from_secs(60);
/// So long without a list, what an earlier test stopped or deleted is over.
const QUIET: Duration = Duration::from_secs(10);

/// No list of any kind is asked for by Ringfence in an idle minute. The apiserver's own metric does not say who asked: it
/// itself does, every three minutes.
pub async fn nothing_is_listed_in_an_idle_minute(lab: Lab) -> Result<Outcome> {
    let before = await_quiet(&lab).await?;
    ensure!(
        before.keys().any(|key| key.contains("ringfence.dev")),
        "the audit knows of no list of our kinds at all, so it is not what this test takes it for"
    );
    tokio::time::sleep(MINUTE).await;
    let after = lists(&lab)?;
    let grown: Vec<String> = after
        .iter()
        .filter(|(key, count)| before.get(*key) != Some(*count))
        .map(|(key, count)| format!("{key}: {} to {count}", before.get(key).unwrap_or(&0)))
        .collect();
    ensure!(grown.is_empty(), "listed in an idle minute: {}", grown.join(", "));
    Ok(Outcome::Passed)
}

/// Awaits some seconds without a list.
async fn await_quiet(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut before = lists(lab)?;
    for _ in 0..9 {
        tokio::time::sleep(QUIET).await;
        let after = lists(lab)?;
        if after == before {
            return Ok(after);
        }
        before = after;
    }
    bail!("there is a list request in every {} seconds: {before:?}", QUIET.as_secs())
}

/// Lists so far, by who asked and for what.
fn lists(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let log = lab.bed.log("audit")?;
    // The last line may be on its way.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    parse(whole)
}

/// What is used of an event of `audit.k8s.io/v1`.
#[derive(Deserialize)]
struct Event {
    verb: String,
    user: User,
    #[serde(rename = "requestURI")]
    uri: String,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

fn parse(log: &str) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        let event: Event = serde_json::from_str(line).with_context(|| format!("failed to read an event: {line}"))?;
        if event.verb == "list" {
            let path = event.uri.split_once('?').map_or(event.uri.as_str(), |(path, _)| path);
            *counts.entry(format!("{path} by {}", event.user.username)).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted_by_who_asks_and_for_what() {
        let event = |verb: &str, user: &str, uri: &str| {
            format!(
                r#"{{"kind":"Event","stage":"ResponseComplete","requestURI":"{uri}","verb":"{verb}","user":{{"username":"{user}","groups":[]}}}}"#
            )
        };
        let log = [
            event("list", "agent", "/apis/ringfence.dev/v1alpha1/rulesets?limit=500"),
            event("list", "agent", "/apis/ringfence.dev/v1alpha1/rulesets?limit=500&resourceVersion=0"),
            event("watch", "agent", "/apis/ringfence.dev/v1alpha1/rulesets?watch=true"),
            event("list", "controller", "/api/v1/pods"),
        ];
        let expected = BTreeMap::from([
            ("/api/v1/pods by controller".to_owned(), 1),
            ("/apis/ringfence.dev/v1alpha1/rulesets by agent".to_owned(), 2),
        ]);
        assert_eq!(parse(&log.join("\n")).expect("events"), expected);
        assert!(parse("cut off").is_err());
    }
}
