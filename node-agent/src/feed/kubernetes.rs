//! The Kubernetes feed: one watch per kind, each with its own index of what it is about to hand over. A watch is
//! resumed where it ended; only when the apiserver has forgotten that place is the kind listed again.
//!
//! Of groups, only the buckets of interest are watched. When others are needed the watch ends and one of those begins:
//! what was read counts until the list of the new one is whole. The marker of PeerGroups is watched with any of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crds::names::MARKER;
use ringfence_crds::{AddressGroup, ContainerCluster, ContainerWorkloadProfile, NodePolicy, PeerGroup, WorkloadPolicy};
use ringfence_dataplane::{Buckets, Profile};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::{Change, ClusterEntry, Kind, NodeEntry, Object, Wanted, pods};
use crate::host::Apiserver;
use crate::lasting::lasting;

/// An apiserver that does not answer within this time is asked again.
const LIMIT: Duration = Duration::from_secs(10);

/// The next part of a list that does not come within this time is not waited for: a connection may have died without a word, and what
/// is wanted is in no list that nobody reads to its end.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// An object of the apiserver that the agent reads.
trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    /// What it is to us.
    const KIND: Kind;

    /// Its key and what is used of it; `None` if it does not concern this node.
    fn trim(self) -> Option<(String, Object)>;

    /// Its key.
    fn key(&self) -> String {
        self.name_any()
    }
}

macro_rules! watched {
    ($kind:ident, $type:ty, $trim:expr) => {
        impl Watched for $type {
            const KIND: Kind = Kind::$kind;

            fn trim(self) -> Option<(String, Object)> {
                let trim: fn($type) -> _ = $trim;
                Some((self.key(), Object::$kind(trim(self))))
            }
        }
    };
}
watched!(NodePolicy, NodePolicy, |object| NodeEntry {
    generation: object.metadata.generation,
    status: object.status.map(Arc::new),
    spec: object.spec,
});
watched!(Cluster, ContainerCluster, |object| {
    let created = object.metadata.creation_timestamp.map_or(i64::MAX, |time| time.0.as_second());
    ClusterEntry::new(created, object.spec, object.status.as_ref())
});
watched!(Profile, ContainerWorkloadProfile, |object| Profile {
    spec: object.spec,
    enforced_state: object.status.and_then(|status| status.enforced_state),
});
watched!(WorkloadPolicy, WorkloadPolicy, |object| object.spec);
watched!(PeerGroup, PeerGroup, |object| object.spec);
watched!(AddressGroup, AddressGroup, |object| object.spec);

impl Watched for Pod {
    const KIND: Kind = Kind::Pod;

    fn trim(self) -> Option<(String, Object)> {
        Some((self.key(), Object::Pod(pods::local_pod(&self)?)))
    }

    fn key(&self) -> String {
        pods::api_key(self)
    }
}

/// Where the apiserver is found, as the client finds it.
///
/// # Errors
/// When there is no configuration, or it names none.
pub async fn apiserver() -> Result<Apiserver, kube::config::InferConfigError> {
    let url = kube::Config::infer().await?.cluster_url;
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    let host = url.host().unwrap_or_default();
    Ok(Apiserver { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port })
}

/// Watches everything that the agent of `node` reads, of groups what is `wanted`, and hands it to `changes`; returns at
/// once.
pub fn start(client: &Client, node: &str, wanted: &watch::Receiver<Wanted>, changes: &UnboundedSender<Change>) {
    // A connection that died without a word is noticed within a minute: a watch that ends is resumed, not listed again.
    let all = watcher::Config::default().timeout(55);
    let named = all.clone().fields(&format!("metadata.name={node}"));
    let local = all.clone().fields(&format!("spec.nodeName={node}"));
    follow::<NodePolicy>(Api::all(client.clone()), named, changes);
    follow::<ContainerCluster>(Api::all(client.clone()), all.clone(), changes);
    follow::<ContainerWorkloadProfile>(Api::all(client.clone()), all.clone(), changes);
    follow::<WorkloadPolicy>(Api::all(client.clone()), all.clone(), changes);
    follow::<Pod>(Api::all(client.clone()), local, changes);
    let peer_groups = Following {
        kind: |wanted| wanted.peer_groups.as_ref(),
        selector: Buckets::of_peer_groups,
        wanted: wanted.clone(),
        changes: changes.clone(),
    };
    let address_groups = Following {
        kind: |wanted| wanted.address_groups.as_ref(),
        selector: Buckets::of_address_groups,
        wanted: wanted.clone(),
        changes: changes.clone(),
    };
    lasting("PeerGroups", peer_groups.run::<PeerGroup>(Api::all(client.clone()), all.clone()));
    lasting("AddressGroups", address_groups.run::<AddressGroup>(Api::all(client.clone()), all));
}

fn follow<K: Watched>(api: Api<K>, config: watcher::Config, changes: &UnboundedSender<Change>) {
    let changes = changes.clone();
    lasting(K::kind(&()).into_owned(), async move { relay(api, config, &changes, &mut false).await });
}

/// Hands over what a watch tells, until nobody listens. `listed`: whether a list was handed over before.
async fn relay<K: Watched>(api: Api<K>, config: watcher::Config, changes: &UnboundedSender<Change>, listed: &mut bool) {
    let markers: Api<WorkloadPolicy> = Api::all(api.clone().into_client());
    let begin = || watcher::watcher(api.clone(), config.clone()).backoff(patience()).boxed();
    let (mut stream, mut listing, mut whole) = (begin(), BTreeMap::new(), false);
    loop {
        let next =
            if whole { Ok(stream.try_next().await) } else { tokio::time::timeout(LIST_LIMIT, stream.try_next()).await };
        let Ok(next) = next else {
            let error = format!("no list within {} s", LIST_LIMIT.as_secs());
            tracing::warn!(kind = ?K::KIND, %error, "the watch was interrupted and is tried again");
            if changes.send(Change::Interrupted { kind: K::KIND, error }).is_err() {
                return;
            }
            stream = begin();
            continue;
        };
        match &next {
            Ok(Some(Event::InitDone)) => whole = true,
            Ok(Some(Event::Init)) => whole = false,
            _ => {}
        }
        let change = match next {
            Ok(Some(event)) => match translate(event, &mut listing) {
                Some(list @ Change::All { .. }) if std::mem::replace(listed, true) => {
                    let Some(before) = marker(&markers, K::KIND, changes).await else { return };
                    if changes.send(before).is_err() || changes.send(list).is_err() {
                        return;
                    }
                    // Once more behind it: a publication may have come on its own watch since the marker was read.
                    marker(&markers, K::KIND, changes).await
                }
                other => other,
            },
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(kind = ?K::KIND, %error, "the watch was interrupted and is tried again");
                Some(Change::Interrupted { kind: K::KIND, error: error.to_string() })
            }
        };
        if let Some(change) = change
            && changes.send(change).is_err()
        {
            return;
        }
    }
}

/// The marker as it is now, which says whether lists are of a time that was before: only after a gap can policy have gone back, as when
/// etcd was restored from a backup. A list does not count before that is known. Nothing when nobody listens any more.
async fn marker(api: &Api<WorkloadPolicy>, kind: Kind, changes: &UnboundedSender<Change>) -> Option<Change> {
    let mut waits = patience();
    loop {
        let error = match tokio::time::timeout(LIMIT, api.get_opt(MARKER)).await {
            Ok(Ok(marker)) => return Some(Change::Marker(marker.map(|marker| marker.spec))),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
        };
        tracing::warn!(?kind, %error, "the marker cannot be read, and is tried again");
        if changes.send(Change::Interrupted { kind, error }).is_err() {
            return None;
        }
        tokio::time::sleep(waits.next().unwrap_or(LIMIT)).await;
    }
}

/// A kind of which the buckets that are wanted are watched.
struct Following {
    kind: fn(&Wanted) -> Option<&Buckets>,
    /// What selects them.
    selector: fn(&Buckets) -> String,
    wanted: watch::Receiver<Wanted>,
    changes: UnboundedSender<Change>,
}

impl Following {
    async fn run<K: Watched>(mut self, api: Api<K>, config: watcher::Config) {
        let Some(mut watched) = self.first().await else { return };
        let mut listed = false;
        loop {
            let (changes, selector) = (self.changes.clone(), (self.selector)(&watched));
            tokio::select! {
                () = relay(api.clone(), config.clone().labels(&selector), &changes, &mut listed) => return,
                next = self.next(&watched) => {
                    let Some(next) = next else { return };
                    tracing::debug!(kind = ?K::KIND, buckets = next.len(), "other groups are of interest");
                    watched = next;
                }
            }
            // Said before the watch ends that knows.
            if changes.send(Change::Reading { kind: K::KIND }).is_err() {
                return;
            }
        }
    }

    /// What is wanted, once that is known; `None` when nobody will ever say.
    async fn first(&mut self) -> Option<Buckets> {
        let wanted = self.wanted.wait_for(|wanted| (self.kind)(wanted).is_some()).await.ok()?;
        (self.kind)(&wanted).cloned()
    }

    /// What to watch in place of what is `watched`, as soon as that is something else.
    async fn next(&mut self, watched: &Buckets) -> Option<Buckets> {
        let next = |wanted: &Wanted| watched.next((self.kind)(wanted)?);
        let wanted = self.wanted.wait_for(|wanted| next(wanted).is_some()).await.ok()?;
        next(&wanted)
    }
}

/// What an event means; a list is gathered in `listing` until it is whole.
fn translate<K: Watched>(event: Event<K>, listing: &mut BTreeMap<String, Object>) -> Option<Change> {
    let gone = |name| Change::Gone { kind: K::KIND, name };
    match event {
        Event::Init => {
            listing.clear();
            None
        }
        Event::InitApply(object) => {
            listing.extend(object.trim());
            None
        }
        Event::InitDone => Some(Change::All { kind: K::KIND, objects: std::mem::take(listing) }),
        Event::Apply(object) => {
            let name = object.key();
            Some(match object.trim() {
                Some((name, object)) => Change::Put { name, object },
                None => gone(name),
            })
        }
        Event::Delete(object) => Some(gone(object.key())),
    }
}

/// How long to wait before an interrupted watch is tried again: up to five seconds, spread so that the agents of a big
/// cluster do not come back all at once.
fn patience() -> ExponentialBackoff {
    let delays = backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        // Jitter adds up to as much again.
        .with_max_delay(Duration::from_millis(2500))
        .with_jitter();
    delays.without_max_times().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_crds::PeerGroupSpec;

    fn group(name: &str) -> PeerGroup {
        PeerGroup::new(name, PeerGroupSpec::default())
    }

    #[test]
    fn a_list_is_handed_over_whole() {
        let mut listing = BTreeMap::new();
        assert_eq!(translate::<PeerGroup>(Event::Init, &mut listing), None);
        assert_eq!(translate(Event::InitApply(group("a")), &mut listing), None);
        assert_eq!(translate(Event::InitApply(group("b")), &mut listing), None);
        let Some(Change::All { kind: Kind::PeerGroup, objects }) =
            translate::<PeerGroup>(Event::InitDone, &mut listing)
        else {
            panic!("no list");
        };
        assert_eq!(objects.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(listing.is_empty());
    }

    #[test]
    fn a_list_holds_every_pod_whatever_uids_they_claim() {
        let pod = |namespace: &str, more: serde_json::Value| -> Pod {
            let mut pod = serde_json::json!({"metadata": {"name": "web", "namespace": namespace}});
            pod["metadata"].as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            serde_json::from_value(pod).expect("a Pod")
        };
        let victim = pod("shop", serde_json::json!({"uid": "u-1"}));
        let forged = serde_json::json!({"uid": "u-2", "annotations": {"kubernetes.io/config.mirror": "u-1"}});
        let mut listing = BTreeMap::new();
        assert_eq!(translate(Event::InitApply(victim), &mut listing), None);
        assert_eq!(translate(Event::InitApply(pod("elsewhere", forged)), &mut listing), None);
        assert_eq!(listing.len(), 2);
    }

    #[test]
    fn patience_is_bounded_and_never_ends() {
        let waits: Vec<Duration> = patience().take(50).collect();
        assert_eq!(waits.len(), 50);
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(5)), "{waits:?}");
    }
}
