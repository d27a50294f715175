//! Nothing polls: what the apiserver itself counts in a minute in which nothing happens.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Outcome;
use crate::lab::Lab;

/// How long nothing happens.
const MINUTE: Duration = Duration::from_secs(60);
/// Kinds that controller and agents read, beside their own.
const READ: [&str; 9] = [
    "pods",
    "nodes",
    "namespaces",
    "services",
    "endpointslices",
    "replicasets",
    "daemonsets",
    "statefulsets",
    "replicationcontrollers",
];

/// No list of any kind that Ringfence reads is asked for in an idle minute.
pub async fn nothing_is_listed_in_an_idle_minute(lab: Lab) -> Result<Outcome> {
    let before = await_quiet(&lab).await?;
    ensure!(
        before.keys().any(|key| key.contains("ringfence.dev")),
        "the apiserver counts no list of our kinds at all, so its metric is not what this test takes it for"
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

/// Awaits ten seconds without a list: what an earlier test stopped or deleted is over by then.
async fn await_quiet(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut before = lists(lab)?;
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let after = lists(lab)?;
        if after == before {
            return Ok(after);
        }
        before = after;
    }
    bail!("there is a list request in every ten seconds of 90: {before:?}")
}

/// Lists so far, by group and resource, of what Ringfence reads.
fn lists(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    Ok(parse(&lab.kubectl(&["get", "--raw", "/metrics"], &[])?))
}

fn parse(metrics: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, count)) =
            line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim_matches('"')).to_owned()
        };
        let (group, resource) = (label("group"), label("resource"));
        if label("verb") == "LIST" && (group == "ringfence.dev" || READ.contains(&resource.as_str())) {
            // Counters are printed as floats: 1.234567e+06.
            let count = count.trim().parse::<f64>().map_or(0, |count| count as u64);
            *counts.entry(format!("{resource}.{group}")).or_insert(0) += count;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_summed_by_group_and_resource() {
        let text = "\
# TYPE apiserver_request_total counter
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"ringfence.dev\",resource=\"rulesets\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1alpha1\"} 3
apiserver_request_total{code=\"429\",component=\"apiserver\",dry_run=\"\",group=\"ringfence.dev\",resource=\"rulesets\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1alpha1\"} 1
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"ringfence.dev\",resource=\"rulesets\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1alpha1\"} 9
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 2e+01
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"secrets\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 7
";
        let expected = BTreeMap::from([("pods.".to_owned(), 20), ("rulesets.ringfence.dev".to_owned(), 4)]);
        assert_eq!(parse(text), expected);
    }
}
