//! The engine with real network namespaces: it writes into those of its sandboxes and no others. Needs root.

use std::os::unix::fs::symlink;
use std::path::Path;

use ringfence_cni::Fallback;
use ringfence_crds::names::MARKER;
use ringfence_crds::{ContainerWorkloadProfileSpec, NodePolicySpec, PeerGroupSpec, WorkloadPolicySpec};
use ringfence_dataplane::{Buckets, LocalPod, Profile};
use ringfence_model::PolicyState;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cni::Ask;
use crate::cri::Sandbox;
use crate::feed::{Change, NodeEntry, Object, Wanted};
use crate::lab::Netns;
use crate::ledger::Kept;
use crate::netns::{Cookie, Location};
use crate::readings::Readings;
use crate::report::Report;
use crate::sandboxes::Seen;

#[path = "engine_tests/admission.rs"]
mod admission;
#[path = "engine_tests/names.rs"]
mod names;
#[path = "engine_tests/node.rs"]
mod node;
#[path = "engine_tests/suspension.rs"]
mod suspension;

/// An engine that runs, and the ways to it.
struct Running {
    changes: UnboundedSender<Change>,
    sandboxes: UnboundedSender<Seen>,
    asks: UnboundedSender<Ask>,
    switch: watch::Sender<bool>,
    chaining: watch::Receiver<Option<Chaining>>,
    reports: watch::Receiver<Report>,
    ledger: watch::Receiver<Option<Kept>>,
    stop: CancellationToken,
}

impl Running {
    /// It has read a namespace `shop` in Full, takes `node` for the namespace of the node, and comes after an agent
    /// that has read back `readings`.
    fn start(node: Option<Cookie>, readings: BTreeMap<Cookie, Readings>) -> Self {
        let running = Self::start_blank(node, readings);
        running.reads_shop();
        running
    }

    /// It reads everything once: a namespace `shop` in Full.
    fn reads_shop(&self) {
        for kind in Kind::ALL {
            let objects = match kind {
                Kind::NodePolicy => {
                    let entry = NodeEntry::default();
                    [("n1".to_owned(), Object::NodePolicy(entry))].into()
                }
                Kind::Profile => [shop(PolicyState::Full)].into(),
                _ => BTreeMap::new(),
            };
            self.say(Change::All { kind, objects });
        }
    }

    /// It has read nothing.
    fn start_blank(node: Option<Cookie>, readings: BTreeMap<Cookie, Readings>) -> Self {
        Self::start_after(node, readings, None)
    }

    /// The same after an agent that has left word for when there is none.
    fn start_after(node: Option<Cookie>, readings: BTreeMap<Cookie, Readings>, before: Option<Fallback>) -> Self {
        let pod_start_wait = Duration::from_millis(500);
        let settings = Settings { pod_start_wait, before, readings, ..Settings::default() };
        Self::start_with(View::new(None), settings, node)
    }

    /// It begins with a view and settings, and takes `node` for the namespace of the node.
    fn start_with(view: View, settings: Settings, node: Option<Cookie>) -> Self {
        let (changes, changes_in) = unbounded_channel();
        let (sandboxes, sandboxes_in) = unbounded_channel();
        let (outputs, told) = Outputs::new();
        let (chaining_out, chaining) = watch::channel(None);
        let (asks_out, asks) = unbounded_channel();
        let outputs = Outputs { chaining: Some(chaining_out), ..outputs };
        let (mut engine, arrivals) = Engine::new(view, Backend::Nft, settings, outputs);
        engine.threads.own_cookie = node;
        // The CNI configuration is always what it is to be.
        let (mut wanted, done) = (chaining.clone(), asks_out.clone());
        tokio::spawn(async move {
            while wanted.changed().await.is_ok() {
                if let Some(wanted) = wanted.borrow_and_update().clone() {
                    let _ = done.send(Ask::Installed { wanted, result: Ok(()) });
                }
            }
        });
        let stop = CancellationToken::new();
        let (switch, off) = watch::channel(false);
        let inputs = Inputs {
            changes: changes_in,
            sandboxes: sandboxes_in,
            asks,
            off,
            missed: Arc::default(),
            stop: stop.clone(),
        };
        tokio::spawn(engine.run(inputs, arrivals));
        let (reports, ledger) = (told.reports, told.ledger);
        Self { changes, sandboxes, asks: asks_out, switch, chaining, reports, ledger, stop }
    }

    fn say(&self, change: Change) {
        self.changes.send(change).expect("it listens");
    }

    /// There is one sandbox, of the Pod shop/web.
    fn show(&self, path: &Path) {
        let mut sandbox: Sandbox = serde_json::from_value(serde_json::json!({
            "id": "s", "uid": "u", "namespace": "shop", "name": "web", "labels": {}, "annotations": {},
            "created_at": 0, "host_network": false, "netns": {}, "ips": [], "dns_servers": []
        }))
        .expect("a sandbox");
        sandbox.netns = Location::at(path);
        self.sandboxes.send(Seen { sandboxes: Some(vec![sandbox]), problem: None }).expect("it listens");
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&Report) -> bool) {
        let found = tokio::time::timeout(Duration::from_secs(20), self.reports.wait_for(holds)).await;
        found.unwrap_or_else(|_| panic!("gave up waiting for {what}")).expect("it runs");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn shop(state: PolicyState) -> (String, Object) {
    let spec = ContainerWorkloadProfileSpec { managed: true, ..ContainerWorkloadProfileSpec::default() };
    ("shop".to_owned(), Object::Profile(Profile { spec, enforced_state: Some(state) }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_path_leads_elsewhere_gets_nothing_there() {
    let test = "a_sandbox_whose_path_leads_elsewhere_gets_nothing_there";
    let (Some(own), Some(foreign)) = (Netns::new(test), Netns::new(test)) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cni-1");
    symlink(own.path(), &path).expect("made");
    let mut engine = Running::start(None, BTreeMap::new());
    engine.show(&path);
    engine.until("rules", |report| report.settled && report.pods_enforced == 1).await;
    assert!(own.holds().contains("RF-IN"));

    std::fs::remove_file(&path).expect("removed");
    symlink(foreign.path(), &path).expect("made");
    let (name, object) = shop(PolicyState::Selective);
    engine.say(Change::Put { name, object });
    let refused =
        |report: &Report| report.problems.iter().any(|problem| problem.contains("another namespace than before"));
    engine.until("a refusal", refused).await;
    assert!(!foreign.holds().contains("RF"), "{}", foreign.holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_path_leads_to_the_node_gets_nothing_there() {
    let Some(node) = Netns::new("a_sandbox_whose_path_leads_to_the_node_gets_nothing_there") else { return };
    let mut engine = Running::start(Some(node.cookie()), BTreeMap::new());
    engine.show(&node.path());
    let refused = |report: &Report| report.problems.iter().any(|problem| problem.contains("the namespace of the node"));
    engine.until("a refusal", refused).await;
    assert!(!node.holds().contains("RF"), "{}", node.holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_finds_what_somebody_changed_while_none_ran() {
    let Some(pod) = Netns::new("an_agent_finds_what_somebody_changed_while_none_ran") else { return };
    let mut first = Running::start(None, BTreeMap::new());
    first.show(&pod.path());
    first.until("rules", |report| report.settled && report.pods_enforced == 1).await;
    first.stop.cancel();
    let kept = first.ledger.wait_for(Option::is_some).await.expect("it is written at the end").clone();
    let readings = kept.expect("it was waited for").readings;
    assert!(readings.keys().eq([&pod.cookie()]));

    pod.exec("iptables-nft", &["-t", "mangle", "-R", "RF-IN", "1", "-j", "RETURN"], "");
    let mut second = Running::start(None, readings.clone());
    second.show(&pod.path());
    let reported =
        |report: &Report| report.problems.iter().any(|problem| problem.contains("somebody else has changed"));
    second.until("a report", reported).await;
    second.until("rules", |report| report.settled && !report.is_in_trouble()).await;
    assert!(!pod.holds().contains("-A RF-IN -j RETURN\n"), "{}", pod.holds());
}

/// Rules for the Pods of the namespace `shop`, whose peers are in a PeerGroup.
fn rules_with(peer_group: &str) -> Object {
    let rule = serde_json::json!({"name": "rule", "direction": "Inbound", "action": "Allow", "subjects": [{"labels": {}}],
        "peers": [{"peerGroup": peer_group}], "allServices": true});
    let rules = vec![serde_json::from_value(rule).expect("a rule")];
    Object::WorkloadPolicy(WorkloadPolicySpec { rules, ..WorkloadPolicySpec::default() })
}

fn buckets(ids: &[&str]) -> Option<Buckets> {
    let mut buckets = Buckets::default();
    ids.iter().for_each(|id| buckets.insert(id));
    Some(buckets)
}

fn all(kind: Kind, objects: impl IntoIterator<Item = (&'static str, Object)>) -> Change {
    Change::All { kind, objects: objects.into_iter().map(|(name, object)| (name.to_owned(), object)).collect() }
}

/// An engine that nothing has been told yet.
fn idle() -> Engine {
    Engine::new(View::new(None), Backend::Nft, Settings::default(), Outputs::new().0).0
}

impl Engine {
    fn hears(&mut self, change: Change) {
        self.take(change, &Notify::new());
        self.resolve_what_came();
        self.tell(Instant::now());
    }

    fn wishes(&self) -> Wanted {
        self.outputs.wanted.borrow().clone()
    }
}

fn local_pod() -> (&'static str, Object) {
    let pod = LocalPod { namespace: "shop".to_owned(), name: "web".to_owned(), ..LocalPod::default() };
    ("shop/web/u", Object::Pod(pod))
}

#[test]
fn groups_are_wanted_as_soon_as_it_is_known_which() {
    let mut engine = idle();
    let (shop, profile) = shop(PolicyState::Full);
    assert_eq!(shop, "shop");
    engine.hears(all(Kind::Cluster, []));
    engine.hears(all(Kind::Profile, [("shop", profile)]));
    engine.hears(all(Kind::WorkloadPolicy, [("set-1", rules_with("p-1"))]));
    assert_eq!(engine.wishes(), Wanted::default(), "a Pod may be missing");
    engine.hears(all(Kind::Pod, [local_pod()]));
    assert_eq!(engine.wishes(), Wanted { peer_groups: buckets(&["p-1"]), address_groups: None });
    let group = PeerGroupSpec { classes: vec!["c-1".to_owned()], ..PeerGroupSpec::default() };
    engine.hears(all(Kind::PeerGroup, [("p-1", Object::PeerGroup(group))]));
    let first = Wanted { peer_groups: buckets(&["p-1"]), address_groups: buckets(&["c-1"]) };
    assert_eq!(engine.wishes(), first, "a Pod that has no sandbox yet");
    engine.hears(all(Kind::AddressGroup, []));
    engine.hears(all(Kind::NodePolicy, []));
    assert!(engine.view.is_loaded());
    engine.hears(Change::Put { name: "set-2".to_owned(), object: rules_with("p-2") });
    assert_eq!(engine.wishes(), Wanted { peer_groups: buckets(&["p-1", "p-2"]), ..first });
}

#[test]
fn a_revision_is_acknowledged_once_its_peer_groups_are_here() {
    let number = |number| Revision { epoch: 0, number };
    let closes = |revision: i64| {
        let (revision, peer_group_revision) = (number(revision), Some(number(revision)));
        let spec = WorkloadPolicySpec { revision, peer_group_revision, ..WorkloadPolicySpec::default() };
        (MARKER, Object::WorkloadPolicy(spec))
    };
    let groups = |revision: i64| {
        let spec = PeerGroupSpec { revision: number(revision), ..PeerGroupSpec::default() };
        (MARKER, Object::PeerGroup(spec))
    };
    let put = |(name, object): (&str, Object)| Change::Put { name: name.to_owned(), object };
    let mut engine = idle();
    engine.sandboxes = Some(Ok(()));
    for kind in Kind::ALL {
        let object = match kind {
            Kind::WorkloadPolicy => Some(closes(7)),
            Kind::PeerGroup => Some(groups(7)),
            _ => None,
        };
        engine.hears(all(kind, object));
    }
    let said = |engine: &Engine| {
        let report = engine.outputs.report.borrow();
        (report.acknowledged, report.settled)
    };
    assert_eq!(said(&engine), (Some(number(7)), true));
    engine.hears(put(closes(8)));
    assert_eq!(said(&engine), (Some(number(7)), false));
    engine.hears(put(groups(8)));
    assert_eq!(said(&engine), (Some(number(8)), true));
    engine.hears(put(groups(9)));
    assert_eq!(said(&engine), (Some(number(8)), true), "the publication is not closed");
    engine.hears(put(closes(9)));
    assert_eq!(said(&engine), (Some(number(9)), true));
}

#[test]
fn nothing_is_settled_while_other_groups_are_being_read() {
    let mut engine = idle();
    engine.sandboxes = Some(Ok(()));
    Kind::ALL.into_iter().for_each(|kind| engine.hears(all(kind, [])));
    let settled = |engine: &Engine| engine.outputs.report.borrow().settled;
    assert!(settled(&engine));
    engine.hears(Change::Reading { kind: Kind::PeerGroup });
    assert!(!settled(&engine));
    engine.hears(all(Kind::AddressGroup, []));
    assert!(!settled(&engine));
    engine.hears(all(Kind::PeerGroup, []));
    assert!(settled(&engine));
}

/// The socket that is kept for changes of members holds the namespace, and must go with the sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_holds_the_namespace_of_a_sandbox_that_has_stopped() {
    let test = "nothing_holds_the_namespace_of_a_sandbox_that_has_stopped";
    let (Some(own), Some(node)) = (Netns::new(test), Netns::new(test)) else { return };
    let wire = ["link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", own.name()];
    node.exec("ip", &wire, "");
    // The node's end of a veth pair goes with the namespace that the other end is in.
    let has_wire = || node.exec("ip", &["-o", "link"], "").contains("wire@");
    let mut engine = Running::start(None, BTreeMap::new());
    engine.show(&own.path());
    engine.until("rules", |report| report.settled && report.pods_enforced == 1).await;
    drop(own);
    // Nothing tells that something does not happen.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(has_wire(), "it is held: otherwise this test shows nothing");
    engine.sandboxes.send(Seen { sandboxes: Some(Vec::new()), problem: None }).expect("it listens");
    let deadline = Instant::now() + Duration::from_secs(10);
    while has_wire() {
        assert!(Instant::now() < deadline, "something holds the namespace");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
