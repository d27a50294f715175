//! What has to be done to inputs, one input at a time, to make others of them.

use std::collections::BTreeMap;

use ringfence_compile::cluster::ClusterState;
use ringfence_compile::compile::{Dirty, Input};
use ringfence_compile::policy::Policy;

/// Policy and cluster.
pub type Inputs = (Policy, ClusterState);

type Apply = Box<dyn Fn(&mut Inputs)>;

/// One input that comes, goes or becomes another.
pub struct Event {
    /// The input; nothing for the settings of the cluster, after which everything is marked.
    pub input: Option<Input>,
    apply: Apply,
}

impl Event {
    /// Makes the change.
    pub fn apply(&self, inputs: &mut Inputs) {
        (self.apply)(inputs);
    }

    /// Marks it.
    pub fn mark(&self, dirty: &mut Dirty) {
        match &self.input {
            Some(input) => dirty.mark(input.clone()),
            None => dirty.mark_everything(),
        }
    }

    /// For messages.
    pub fn text(&self) -> String {
        self.input.as_ref().map_or_else(|| "settings".to_owned(), |input| format!("{input:?}"))
    }
}

/// Differences of one kind.
fn of_kind<K: Ord + Clone + 'static, V: Clone + PartialEq + 'static>(
    (from, to): (&Inputs, &Inputs),
    read: for<'i> fn(&'i Inputs) -> &'i BTreeMap<K, V>,
    place: for<'i> fn(&'i mut Inputs) -> &'i mut BTreeMap<K, V>,
    mark: fn(K) -> Input,
) -> Vec<Event> {
    let (old, new) = (read(from), read(to));
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key, None));
    let come = new.iter().filter(|(key, value)| old.get(*key) != Some(*value)).map(|(key, value)| (key, Some(value)));
    let event = |(key, value): (&K, Option<&V>)| {
        let (input, key, value) = (Some(mark(key.clone())), key.clone(), value.cloned());
        let apply = move |inputs: &mut Inputs| {
            match &value {
                Some(value) => place(inputs).insert(key.clone(), value.clone()),
                None => place(inputs).remove(&key),
            };
        };
        Event { input, apply: Box::new(apply) as Apply }
    };
    gone.chain(come).map(event).collect()
}

macro_rules! differences {
    ($both:expr, $(($part:tt, $field:ident, $mark:expr)),* $(,)?) => {
        [$(of_kind($both, |inputs| &inputs.$part.$field, |inputs| &mut inputs.$part.$field, $mark)),*]
    };
}

/// All events that make `to` of `from`. Worlds have no owners, webhooks, origins and apiserver: of them there are none.
pub fn between(from: &Inputs, to: &Inputs) -> Vec<Event> {
    let mut events = Vec::new();
    let settings = |inputs: &Inputs| (inputs.0.cluster.clone(), inputs.1.uid.clone(), inputs.1.service_ranges.clone());
    if settings(from) != settings(to) {
        let (cluster, uid, ranges) = settings(to);
        let apply = move |inputs: &mut Inputs| {
            inputs.0.cluster = cluster.clone();
            inputs.1.uid.clone_from(&uid);
            inputs.1.service_ranges.clone_from(&ranges);
        };
        events.push(Event { input: None, apply: Box::new(apply) });
    }
    let kinds = differences![
        (from, to),
        (0, profiles, Input::Profile),
        (0, rule_sets, Input::RuleSet),
        (0, ip_lists, Input::IpList),
        (0, label_groups, Input::LabelGroup),
        (0, service_definitions, Input::ServiceDefinition),
        (0, workloads, Input::Workload),
        (0, virtual_services, Input::VirtualService),
        (1, nodes, Input::Node),
        (1, pods, Input::Pod),
        (1, services, Input::Service),
        (1, endpoint_slices, Input::EndpointSlice),
    ];
    events.extend(kinds.into_iter().flatten());
    events
}

/// A mark for every input there is.
pub fn all_marks(inputs: &Inputs) -> Dirty {
    let mut dirty = Dirty::default();
    let nothing = Inputs::default();
    for event in between(&nothing, inputs) {
        if let Some(input) = event.input {
            dirty.mark(input);
        }
    }
    [Input::Apiserver, Input::WebhookServices].into_iter().for_each(|input| dirty.mark(input));
    let namespaces = inputs.1.namespaces.keys();
    namespaces.for_each(|namespace| dirty.mark(Input::Owners(namespace.clone())));
    dirty
}
