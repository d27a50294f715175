//! One watch per kind, each with an index of its own: what lives in the cluster becomes [`Change`]s for the engine.
//!
//! An object is reduced to what the engine needs right here, in the task of its kind, so that the engine neither holds
//! nor compares anything else.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, ExponentialBackoff, InitialListStrategy};
use kube::{Api, Client, Resource, ResourceExt};
use ringfence_crds::common::NamespacedName;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

/// What has become of the objects of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<T> {
    /// These and no others live in the cluster.
    Listed(BTreeMap<NamespacedName, T>),
    /// This one is new or has changed.
    Applied(NamespacedName, T),
    /// This one is gone.
    Deleted(NamespacedName),
}

impl<T> Change<T> {
    /// The one object that it is about; none when it is about all.
    pub fn key(&self) -> Option<&NamespacedName> {
        match self {
            Self::Listed(_) => None,
            Self::Applied(key, _) | Self::Deleted(key) => Some(key),
        }
    }
}

/// Namespace (empty for a cluster-wide kind) and name of an object.
pub fn key_of(object: &impl ResourceExt) -> NamespacedName {
    NamespacedName { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

/// Collects the objects of an initial list, which counts only once it is complete.
struct Gathered<T> {
    initial: BTreeMap<NamespacedName, T>,
}

impl<T> Gathered<T> {
    /// The change that an event means, when it means one. `reduce` gives nothing for an object that does not concern
    /// the engine: to it such an object does not exist.
    fn take<K: ResourceExt>(&mut self, event: Event<K>, reduce: &impl Fn(K) -> Option<T>) -> Option<Change<T>> {
        match event {
            Event::Init => {
                self.initial.clear();
                None
            }
            Event::InitApply(object) => {
                let key = key_of(&object);
                self.initial.extend(reduce(object).map(|value| (key, value)));
                None
            }
            Event::InitDone => Some(Change::Listed(std::mem::take(&mut self.initial))),
            Event::Apply(object) => {
                let key = key_of(&object);
                Some(match reduce(object) {
                    Some(value) => Change::Applied(key, value),
                    None => Change::Deleted(key),
                })
            }
            Event::Delete(object) => Some(Change::Deleted(key_of(&object))),
        }
    }
}

/// Starts watches whose changes all go to one place.
pub struct Watches<I> {
    client: Client,
    sender: UnboundedSender<I>,
    optional: bool,
}

impl<I: Send + 'static> Watches<I> {
    /// Watches that send to `sender`.
    pub fn new(client: Client, sender: UnboundedSender<I>) -> Self {
        Self { client, sender, optional: false }
    }

    /// The same for kinds that an apiserver need not serve: one that it does not know has no objects.
    #[must_use]
    pub fn if_served(&self) -> Self {
        Self { client: self.client.clone(), sender: self.sender.clone(), optional: true }
    }

    /// Watches a kind: whole objects, or their metadata with `PartialObjectMeta<K>`.
    pub fn all<K, T, R, S>(&self, reduce: R, input: S)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        T: Send + 'static,
        R: Fn(K) -> Option<T> + Send + Sync + 'static,
        S: Fn(Change<T>) -> I + Send + 'static,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let open = move |config| watcher::watcher(api.clone(), config).boxed();
        let kind = Kind { name: K::kind(&()).into_owned(), optional: self.optional };
        tokio::spawn(forward(kind, open, reduce, input, self.sender.clone()));
    }
}

struct Kind {
    name: String,
    optional: bool,
}

/// How long to wait before an interrupted watch is tried again: up to ten seconds. Nothing is published while one is
/// away, and there is one controller only: the half minute that is kind to an apiserver is too long for policy.
pub fn patience() -> ExponentialBackoff {
    let delays = backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        // Jitter adds up to as much again.
        .with_max_delay(Duration::from_secs(5))
        .with_jitter();
    delays.without_max_times().into()
}

/// Forwards the changes of one kind until nobody listens any more.
async fn forward<K, T, I, O, W>(
    kind: Kind,
    open: O,
    reduce: impl Fn(K) -> Option<T>,
    input: impl Fn(Change<T>) -> I,
    sender: UnboundedSender<I>,
) where
    K: ResourceExt,
    O: Fn(watcher::Config) -> W,
    W: Stream<Item = watcher::Result<Event<K>>> + Send + Unpin + 'static,
{
    let mut config = watcher::Config::default().streaming_lists();
    let mut events = open(config.clone()).backoff(patience()).boxed();
    let mut gathered = Gathered { initial: BTreeMap::new() };
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(event) => gathered.take(event, &reduce),
            Err(error) if kind.optional && is_unknown(&error) => {
                tracing::debug!(kind = kind.name, "kind is not served");
                Some(Change::Listed(BTreeMap::new()))
            }
            Err(error) if streaming(&config) && refuses_streaming(&error) => {
                tracing::debug!(kind = kind.name, error = %chain(&error), "no streaming list, listing instead");
                config.initial_list_strategy = InitialListStrategy::ListWatch;
                events = open(config.clone()).backoff(patience()).boxed();
                None
            }
            Err(error) => {
                tracing::warn!(kind = kind.name, error = %chain(&error), "failed to watch, trying again");
                None
            }
        };
        if let Some(change) = change
            && sender.send(input(change)).is_err()
        {
            return;
        }
    }
}

/// An error with what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn start_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::InitialListFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

fn is_unknown(error: &watcher::Error) -> bool {
    start_code(error) == Some(404)
}

fn streaming(config: &watcher::Config) -> bool {
    config.initial_list_strategy == InitialListStrategy::StreamingList
}

/// An apiserver that knows no streaming lists says so with 400 or 422; one whose etcd cannot support them (before 3.4.31 and 3.5.13)
/// with an error of the watch itself. Any other error of the watch costs no more than a list in place of a stream.
fn refuses_streaming(error: &watcher::Error) -> bool {
    matches!(start_code(error), Some(400 | 422))
        || matches!(error, watcher::Error::WatchError(status) if status.code != 410)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("shop".to_owned());
        object
    }
    fn key(name: &str) -> NamespacedName {
        NamespacedName { namespace: "shop".to_owned(), name: name.to_owned() }
    }
    fn reduce(object: ConfigMap) -> Option<usize> {
        let name = object.name_any();
        (name != "ignored").then_some(name.len())
    }

    #[test]
    fn an_initial_list_counts_once_it_is_complete() {
        let mut gathered = Gathered { initial: BTreeMap::new() };
        assert_eq!(gathered.take(Event::Init, &reduce), None);
        assert_eq!(gathered.take(Event::InitApply(object("a")), &reduce), None);
        assert_eq!(gathered.take(Event::Init, &reduce), None, "a list that broke off is forgotten");
        assert_eq!(gathered.take(Event::InitApply(object("bb")), &reduce), None);
        assert_eq!(gathered.take(Event::InitApply(object("ignored")), &reduce), None);
        let listed = Change::Listed(BTreeMap::from([(key("bb"), 2)]));
        assert_eq!(gathered.take(Event::InitDone, &reduce), Some(listed));
    }

    #[test]
    fn an_object_that_stops_concerning_us_is_gone() {
        let mut gathered = Gathered { initial: BTreeMap::new() };
        assert_eq!(gathered.take(Event::Apply(object("a")), &reduce), Some(Change::Applied(key("a"), 1)));
        assert_eq!(gathered.take(Event::Apply(object("ignored")), &reduce), Some(Change::Deleted(key("ignored"))));
        assert_eq!(gathered.take(Event::Delete(object("a")), &reduce), Some(Change::Deleted(key("a"))));
    }
}
