//! Pods that wait to start, with real network namespaces.

use ringfence_cni::{Answer, Start};
use ringfence_crds::ContainerClusterSpec;
use ringfence_crds::container_cluster::DefaultProfile;
use ringfence_crds::container_workload_profile::UnprotectedStart;
use tokio::sync::oneshot;

use super::*;
use crate::feed::ClusterEntry;

impl Running {
    /// The CNI plugin asks about a Pod `web` of a namespace.
    fn asks_about(&self, namespace: &str, path: &Path) -> oneshot::Receiver<Answer> {
        self.asks_about_sandbox("s", namespace, path)
    }

    fn asks_about_sandbox(&self, id: &str, namespace: &str, path: &Path) -> oneshot::Receiver<Answer> {
        let sandbox = Sandbox {
            id: id.to_owned(),
            uid: "u".to_owned(),
            namespace: namespace.to_owned(),
            name: "web".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            created_at: 0,
            host_network: false,
            netns: Location::at(path),
            ips: vec![IpAddr::from([10, 0, 0, 7])],
            dns_servers: Vec::new(),
        };
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Add { sandbox: Box::new(sandbox), again: false, answer };
        self.asks.send(ask).expect("it listens");
        answered
    }

    fn knows_the_pod(&self) {
        let (name, object) = local_pod();
        self.say(Change::Put { name: name.to_owned(), object });
    }
}

/// What comes of asking; the namespace is looked at by whoever is answered, before anything else can happen.
async fn answer_of(answered: oneshot::Receiver<Answer>) -> Answer {
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it decides in time").expect("it answers")
}

fn profile_with(state: PolicyState, start: Option<UnprotectedStart>) -> Change {
    let spec = ContainerWorkloadProfileSpec { managed: true, unprotected_start: start, ..Default::default() };
    Change::Put { name: "shop".to_owned(), object: Object::Profile(Profile { spec, enforced_state: Some(state) }) }
}

/// Both families are decided by rules of ours.
fn decides(netns: &Netns) -> bool {
    [netns.holds(), netns.saves("ip6tables-nft-save", &[])].iter().all(|save| save.contains("-A PREROUTING -j RF-IN"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_full_may_start_when_its_rules_are_there() {
    let Some(netns) = Netns::new("a_pod_in_full_may_start_when_its_rules_are_there") else { return };
    let mut engine = Running::start(None, BTreeMap::new());
    engine.knows_the_pod();
    assert_eq!(answer_of(engine.asks_about("shop", &netns.path())).await, Answer::protected());
    assert!(decides(&netns), "{}", netns.holds());
    // The runtime lists it a moment later, under the same id.
    engine.show(&netns.path());
    engine.until("rules", |report| report.settled && report.pods_enforced == 1).await;
}

/// Nothing comes in from the node before the Pod is told that no gate judges it, and it is told with its rules.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_starts_is_told_that_its_node_has_no_gate() {
    let Some(netns) = Netns::new("a_pod_that_starts_is_told_that_its_node_has_no_gate") else { return };
    let engine = Running::start(None, BTreeMap::new());
    let (name, Object::Pod(pod)) = local_pod() else { panic!("it is a Pod") };
    let probed = LocalPod { probe_ports: [(ringfence_model::Protocol::TCP, 8080)].into(), ..pod };
    engine.say(Change::Put { name: name.to_owned(), object: Object::Pod(probed) });
    assert_eq!(answer_of(engine.asks_about("shop", &netns.path())).await, Answer::protected());
    assert!(netns.holds().contains("--comment \"rf:essential:probe\""), "{}", netns.holds());
    assert!(!netns.holds().contains("rf:gate"), "{}", netns.holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_which_nothing_is_known_starts_closed() {
    let Some(netns) = Netns::new("a_pod_of_which_nothing_is_known_starts_closed") else { return };
    let mut engine = Running::start(None, BTreeMap::new());
    engine.say(Change::Put { name: "set".to_owned(), object: everybody_allows_80() });
    assert_eq!(answer_of(engine.asks_about("shop", &netns.path())).await, Answer::protected());
    assert!(decides(&netns), "{}", netns.holds());
    assert!(!netns.holds().contains("--dport 80 "), "which rules apply to it nobody knows: {}", netns.holds());
    engine.knows_the_pod();
    engine.show(&netns.path());
    engine.until("rules", |report| report.settled && report.pods_enforced == 1).await;
    assert!(netns.holds().contains("--dport 80 "), "{}", netns.holds());
}

fn everybody_allows_80() -> Object {
    let rule = serde_json::json!({"name": "rule", "direction": "Inbound", "action": "Allow", "subjects": [{"labels": {}}],
        "peers": [{"addresses": ["0.0.0.0/0"]}], "services": [{"protocol": "TCP", "port": 80}]});
    let rules = vec![serde_json::from_value(rule).expect("a rule")];
    Object::WorkloadPolicy(WorkloadPolicySpec { rules, ..WorkloadPolicySpec::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_may_follow_a_pod_that_has_started() {
    let Some(netns) = Netns::new("peers_may_follow_a_pod_that_has_started") else { return };
    let engine = Running::start(None, BTreeMap::new());
    engine.knows_the_pod();
    engine.say(Change::Put { name: "set".to_owned(), object: rules_with("p-1") });
    assert_eq!(answer_of(engine.asks_about("shop", &netns.path())).await, Answer::protected());
    assert!(decides(&netns), "{}", netns.holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmanaged_pod_waits_for_nothing() {
    let Some(netns) = Netns::new("an_unmanaged_pod_waits_for_nothing") else { return };
    let engine = Running::start(None, BTreeMap::new());
    assert_eq!(answer_of(engine.asks_about("blog", &netns.path())).await, Answer::protected());
    assert!(!netns.holds().contains("RF"), "{}", netns.holds());
}

/// What becomes of a Pod whose network namespace cannot be entered.
async fn unprotected(change: Change) -> Answer {
    let engine = Running::start(None, BTreeMap::new());
    engine.knows_the_pod();
    engine.say(change);
    answer_of(engine.asks_about("shop", Path::new("/run/netns/is-not-there"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_time_is_over_the_profile_decides() {
    use PolicyState::{Full, Selective, VisibilityOnly};
    use UnprotectedStart::{Allow, Refuse};
    for (state, chosen, expected) in [
        (Full, None, Start::Refuse),
        (Full, Some(Refuse), Start::Refuse),
        (Full, Some(Allow), Start::Allow),
        (Selective, None, Start::Allow),
        (Selective, Some(Refuse), Start::Refuse),
        (VisibilityOnly, None, Start::Allow),
    ] {
        let answer = unprotected(profile_with(state, chosen)).await;
        assert_eq!(answer.start, expected, "{state:?} {chosen:?}");
        let problem = answer.problem.expect("it says why");
        assert!(problem.starts_with("protect shop/web within 0.5 s: shop/web: failed to open"), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_nothing_refuses() {
    let Some(netns) = Netns::new("who_knows_nothing_refuses") else { return };
    let engine = Running::start_blank(None, BTreeMap::new());
    assert_eq!(answer_of(engine.asks_about("shop", &netns.path())).await.start, Start::Refuse);
    // Who knows what holds without an agent is no stricter than that.
    for (namespace, expected) in [("shop", Start::Refuse), ("blog", Start::Allow)] {
        let before = Fallback { refuse: ["shop".to_owned()].into() };
        let engine = Running::start_after(None, BTreeMap::new(), Some(before));
        assert_eq!(answer_of(engine.asks_about(namespace, &netns.path())).await.start, expected, "{namespace}");
    }
}

/// What was left on disk may be from before the namespace went to Full.
#[tokio::test(flavor = "multi_thread")]
async fn no_pod_starts_by_what_was_left_on_disk_while_the_apiserver_may_answer() {
    let test = "no_pod_starts_by_what_was_left_on_disk_while_the_apiserver_may_answer";
    let (Some(netns), Some(own)) = (Netns::new(test), Netns::new(test)) else { return };
    let settings = || Settings {
        own_namespace: Some("ringfence-system".to_owned()),
        pod_start_wait: Duration::from_secs(600),
        ledger_wait: Duration::from_secs(600),
        ..Settings::default()
    };
    let left = || View::new(Some(Default::default()));
    let engine = Running::start_with(left(), settings(), None);
    let mut answered = engine.asks_about("shop", &netns.path());
    // Our own Pods do not wait, and who has asked before has been heard by then.
    let own_answered = engine.asks_about_sandbox("own", "ringfence-system", &own.path());
    assert_eq!(answer_of(own_answered).await, Answer::protected());
    answered.try_recv().expect_err("nothing was read yet");
    engine.knows_the_pod();
    engine.reads_shop();
    assert_eq!(answer_of(answered).await, Answer::protected());
    assert!(decides(&netns), "{}", netns.holds());

    // Where nobody answers, it has to do.
    let engine = Running::start_with(left(), Settings { ledger_wait: Duration::ZERO, ..settings() }, None);
    assert_eq!(answer_of(engine.asks_about("blog", &own.path())).await, Answer::protected());
}

/// Whatever the default is: the controller, which would make a profile of it, may be away.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_has_no_profile_yet_holds_nobody_up() {
    let Some(netns) = Netns::new("a_namespace_that_has_no_profile_yet_holds_nobody_up") else { return };
    let default_profile =
        DefaultProfile { managed: true, policy_state: Some(PolicyState::Full), ..DefaultProfile::default() };
    let spec = ContainerClusterSpec { default_profile, ..Default::default() };
    let engine = Running::start(None, BTreeMap::new());
    engine.say(Change::Put { name: "this".to_owned(), object: Object::Cluster(ClusterEntry::new(1, spec, None)) });
    assert_eq!(answer_of(engine.asks_about("blog", &netns.path())).await, Answer::protected());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_never_came_to_be_is_forgotten() {
    let mut engine = Running::start(None, BTreeMap::new());
    engine.sandboxes.send(Seen { sandboxes: Some(Vec::new()), problem: None }).expect("it listens");
    let answered = engine.asks_about("shop", Path::new("/run/netns/is-not-there"));
    engine.until("a problem", |report| !report.problems.is_empty()).await;
    engine.asks.send(Ask::Del { sandbox: "s".to_owned() }).expect("it listens");
    engine.until("silence", |report| report.settled && report.problems.is_empty()).await;
    answered.await.expect_err("nobody waits any more");
}
