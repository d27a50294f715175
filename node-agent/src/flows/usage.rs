//! How full connection tracking is. Every network namespace has a table of its own; when one is full, no new connection
//! begins there, whatever the rules say.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use crate::health::{Fault, Health};
use crate::lasting::of_thread;
use crate::netns::{self, Location};

/// How often tables are looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// A table is nearly full when more than this part of it is in use.
const PERCENT: u64 = 90;
/// Where the kernel says it, for the network namespace of the thread that reads.
const FOLDER: &str = "/proc/sys/net/netfilter";
/// How many tables a message names.
const MOST_NAMES: usize = 3;

/// A Pod, and where its network namespace is.
pub type Place = (String, Location);

/// Looks at the tables of the calling thread's network namespace, the node's, and of these Pods from time to time, and
/// says in `health` which are nearly full, until the agent has ended.
pub async fn watch(places: watch::Receiver<Vec<Place>>, health: watch::Sender<Health>) {
    loop {
        let now = places.borrow().clone();
        let Some(full) = of_thread(tokio::task::spawn_blocking(move || nearly_full(&now))).await else { return };
        let fault = fault(&full);
        health.send_if_modified(|health| {
            let differs = health.conntrack != fault;
            if let Some(fault) = fault.as_ref().filter(|_| differs) {
                tracing::warn!("{}", fault.message);
            }
            health.conntrack = fault;
            differs
        });
        tokio::time::sleep(INTERVAL).await;
        if places.has_changed().is_err() {
            return;
        }
    }
}

fn nearly_full(places: &[Place]) -> Vec<String> {
    let is_full = || is_nearly_full(Path::new(FOLDER));
    let node = is_full().then(|| "the node".to_owned());
    // One that cannot be entered is reported by whoever has something to do there.
    let pods = places.iter().filter(|(_, location)| netns::run_in(location, |_| is_full()).unwrap_or_default());
    node.into_iter().chain(pods.map(|(pod, _)| pod.clone())).collect()
}

/// Without numbers, which would make another report of every look.
fn fault(full: &[String]) -> Option<Fault> {
    let (named, more) = full.split_at(full.len().min(MOST_NAMES));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    let message = format!(
        "conntrack is more than {PERCENT} % full in {}{more}: when it is full, no connection can begin there; \
         raise net.netfilter.nf_conntrack_max",
        named.join(", ")
    );
    (!full.is_empty()).then_some(Fault { reason: "ConntrackNearlyFull", message })
}

/// Where there is no connection tracking, nothing is full.
fn is_nearly_full(folder: &Path) -> bool {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    match (read("nf_conntrack_count"), read("nf_conntrack_max")) {
        // None is no limit.
        (Some(count), Some(most)) => most > 0 && count.saturating_mul(100) > most.saturating_mul(PERCENT),
        _ => false,
    }
}

/// Whether the table of the calling thread's network namespace is nearly full.
#[cfg(test)]
pub fn is_full_here() -> bool {
    is_nearly_full(Path::new(FOLDER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Netns;

    #[test]
    fn a_table_is_nearly_full_above_nine_tenths() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!is_nearly_full(folder.path()), "there is none");
        for (count, most, full) in [("90", "100", false), ("91", "100", true), ("101", "100", true), ("5", "0", false)]
        {
            std::fs::write(folder.path().join("nf_conntrack_count"), format!("{count}\n")).expect("written");
            std::fs::write(folder.path().join("nf_conntrack_max"), format!("{most}\n")).expect("written");
            assert_eq!(is_nearly_full(folder.path()), full, "{count} of {most}");
        }
    }

    #[test]
    fn what_is_nearly_full_is_named() {
        assert_eq!(fault(&[]), None);
        let names = ["the node", "shop/web", "shop/api", "shop/db", "shop/cache"].map(str::to_owned);
        let said = fault(&names).expect("it is said");
        assert_eq!(said.reason, "ConntrackNearlyFull");
        assert!(said.message.contains(" full in the node, shop/web, shop/api and 2 more: "), "{}", said.message);
    }

    #[test]
    fn each_network_namespace_has_a_table_of_its_own() {
        let test = "each_network_namespace_has_a_table_of_its_own";
        let (Some(busy), Some(idle)) = (Netns::new(test), Netns::new(test)) else { return };
        for netns in [&busy, &idle] {
            netns.exec("iptables-nft", &["-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"], "");
        }
        let socket = |netns: &Netns| {
            netns.within(|_| {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
                socket.send_to(b"x", "127.0.0.1:9").expect("it is sent");
            });
        };
        socket(&busy);
        let count = |netns: &Netns| {
            let text = netns.within(|_| std::fs::read_to_string(Path::new(FOLDER).join("nf_conntrack_count")));
            text.expect("it is there").trim().parse::<u64>().expect("a number")
        };
        assert_eq!((count(&busy) > 0, count(&idle)), (true, 0));
    }
}
