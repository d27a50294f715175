//! The engine with real network namespaces: it writes into those of its sandboxes and no others. Needs root.

use std::os::unix::fs::symlink;
use std::path::Path;

use ringfence_crds::{ContainerWorkloadProfileSpec, NodePolicySpec};
use ringfence_dataplane::Profile;
use ringfence_model::PolicyState;

use super::*;
use crate::cri::Sandbox;
use crate::feed::NodeEntry;
use crate::lab::Netns;
use crate::netns::Location;

/// An engine that runs, and the ways to it.
struct Running {
    changes: UnboundedSender<Change>,
    sandboxes: UnboundedSender<Seen>,
    reports: watch::Receiver<Report>,
    ledger: watch::Receiver<Option<Kept>>,
    stop: CancellationToken,
}

impl Running {
    /// It has read a namespace `shop` in Full, takes `node` for the namespace of the node, and comes after an agent that
    /// has read back `readings`.
    fn start(node: Option<Cookie>, readings: BTreeMap<Cookie, Readings>) -> Self {
        let (changes, changes_in) = unbounded_channel();
        let (sandboxes, sandboxes_in) = unbounded_channel();
        let (report, reports) = watch::channel(Report::default());
        let (ledger_out, ledger) = watch::channel(None);
        let outputs = Outputs { report, ledger: ledger_out };
        let (engine, arrivals) = Engine::new(View::new(None), Backend::Nft, outputs);
        let mut engine = engine.remembering(readings);
        engine.own_cookie = node;
        let stop = CancellationToken::new();
        let inputs =
            Inputs { changes: changes_in, sandboxes: sandboxes_in, missed: Arc::default(), stop: stop.clone() };
        tokio::spawn(engine.run(inputs, arrivals));
        let running = Self { changes, sandboxes, reports, ledger, stop };
        for kind in Kind::ALL {
            let objects = match kind {
                Kind::NodePolicy => {
                    let entry = NodeEntry { generation: None, spec: NodePolicySpec::default() };
                    [("n1".to_owned(), Object::NodePolicy(entry))].into()
                }
                Kind::Profile => [shop(PolicyState::Full)].into(),
                _ => BTreeMap::new(),
            };
            running.say(Change::All { kind, objects });
        }
        running
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
