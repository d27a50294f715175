//! The report: what is in force on this node, as the status of its NodePolicy, at most once a second.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use ringfence_crds::names::{API_VERSION, MANAGER_AGENT, REASON_SUSPENDED};
use ringfence_crds::{NodePolicy, NodePolicyStatus, Revision};
use tokio::sync::watch;

use crate::clock::jitter;
use crate::health::Health;
use crate::host::State;

/// At least so long between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Reports of many agents are spread over so long a time.
const SPREAD: Duration = Duration::from_millis(250);
/// An apiserver that does not answer a report within this time is asked again.
const LIMIT: Duration = Duration::from_secs(10);
/// Conditions that are ours; others may add their own.
const OWN: [&str; 4] = ["Ready", "Stalled", "Degraded", "HostPolicy"];
/// How many problems a report names.
const MOST_PROBLEMS: usize = 20;

/// Why nothing is enforced on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspension {
    /// `cven off`.
    Off,
    /// `ContainerCluster.spec.enforcement`.
    Cluster,
}

/// What the engine says is in force.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Whether everything has been read.
    pub loaded: bool,
    /// Generation of the NodePolicy; `None` while there is none to report to.
    pub node_generation: Option<i64>,
    /// What was reported, as the apiserver has it.
    pub published: Option<Arc<NodePolicyStatus>>,
    /// Newest policy revision that was in force in every Pod.
    pub acknowledged: Option<Revision>,
    /// Whether every Pod holds what it is to hold.
    pub settled: bool,
    /// Why nothing is enforced, if so.
    pub suspended: Option<Suspension>,
    /// The published revision and the newer one that was seen before.
    pub went_back: Option<(Revision, Revision)>,
    /// What has been missing for too long.
    pub stalled: Vec<String>,
    /// What failed.
    pub problems: Vec<String>,
    /// Which of that is a watch that was interrupted.
    pub interruptions: Vec<String>,
    /// What is in force on the node itself.
    pub node: State,
    /// Which of the problems is about that.
    pub node_problem: Option<String>,
    /// What Pods do not learn of the names that they may connect to.
    pub names: Vec<String>,
    /// Pods with rules of ours.
    pub pods_enforced: usize,
    /// Addresses of the node.
    pub node_addresses: Vec<IpAddr>,
    /// Whether its gate seals what it lets pass to exposed Pods of other nodes.
    pub seals: bool,
}

impl Report {
    /// Whether something failed or is missing for too long.
    pub fn is_in_trouble(&self) -> bool {
        !(self.problems.is_empty() && self.stalled.is_empty())
    }
}

/// What never changes while the agent runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the node.
    pub node: String,
    /// machine-id.
    pub machine_id: Option<String>,
    /// What the kernel calls the time since it was started.
    pub boot_id: Option<String>,
    /// Back end of iptables.
    pub backend: &'static str,
}

/// Reports until the engine has ended.
pub async fn follow(
    client: Client,
    identity: Identity,
    mut reports: watch::Receiver<Report>,
    mut health: watch::Receiver<Health>,
) {
    let api: Api<NodePolicy> = Api::all(client);
    let mut sent: Option<NodePolicyStatus> = None;
    let mut failed = false;
    loop {
        if !failed {
            tokio::select! {
                told = reports.changed() => if told.is_err() { return },
                Ok(()) = health.changed() => {}
            }
        }
        // That a change is on its way is worth a write only if it takes long.
        let over = reports.wait_for(|report| report.settled || report.is_in_trouble());
        if matches!(tokio::time::timeout(INTERVAL, over).await, Ok(Err(_))) {
            return;
        }
        tokio::time::sleep(jitter(SPREAD)).await;
        let report = reports.borrow_and_update().clone();
        let health = health.borrow_and_update().clone();
        failed = false;
        if report.loaded && report.node_generation.is_some() {
            let before = sent.as_ref().map_or(&[][..], |sent| &sent.conditions);
            let status = status(&report, &health, &identity, before, Timestamp::now());
            // Somebody may have taken it away or written over it, if only a request of ours that was looked at late.
            let known = says(sent.as_ref(), &status) && says(report.published.as_deref(), &status);
            if !known && let Err(error) = send(&api, &identity.node, &status).await {
                tracing::warn!(%error, "failed to report: trying again");
                failed = true;
            }
            sent = Some(status);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether a status says what another one does. Since when a condition is so, and what others say beside it, makes no difference.
fn says(status: Option<&NodePolicyStatus>, wanted: &NodePolicyStatus) -> bool {
    let Some(status) = status else { return false };
    let own: Vec<&Condition> =
        status.conditions.iter().filter(|condition| OWN.contains(&condition.type_.as_str())).collect();
    let is_said = |wanted: &Condition| {
        let since = &wanted.last_transition_time;
        own.iter().any(|own| Condition { last_transition_time: since.clone(), ..(*own).clone() } == *wanted)
    };
    own.len() == wanted.conditions.len()
        && wanted.conditions.iter().all(is_said)
        && NodePolicyStatus { conditions: wanted.conditions.clone(), ..status.clone() } == *wanted
}

async fn send(api: &Api<NodePolicy>, node: &str, status: &NodePolicyStatus) -> Result<(), String> {
    let body = serde_json::json!({
        "apiVersion": API_VERSION,
        "kind": "NodePolicy",
        "metadata": { "name": node },
        "status": status,
    });
    let now = patch(api, node, PatchParams::apply(MANAGER_AGENT).force(), Patch::Apply(body)).await?.status;
    let Some(now) = now.filter(|now| !says(Some(now), status)) else { return Ok(()) };
    // What others have written into fields that ours leaves out stays by server-side apply.
    let body = serde_json::json!({ "status": in_place_of(&now, status) });
    let parameters = PatchParams { field_manager: Some(MANAGER_AGENT.to_owned()), ..PatchParams::default() };
    patch(api, node, parameters, Patch::Merge(body)).await.map(drop)
}

async fn patch(
    api: &Api<NodePolicy>,
    node: &str,
    parameters: PatchParams,
    patch: Patch<serde_json::Value>,
) -> Result<NodePolicy, String> {
    match tokio::time::timeout(LIMIT, api.patch_status(node, &parameters, &patch)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// A merge patch (RFC 7386) by which a status comes to say what another one says, but for conditions that are not ours.
fn in_place_of(now: &NodePolicyStatus, wanted: &NodePolicyStatus) -> serde_json::Value {
    let others = now.conditions.iter().filter(|condition| !OWN.contains(&condition.type_.as_str()));
    let conditions = wanted.conditions.iter().chain(others).cloned().collect();
    let mut patch = serde_json::json!(NodePolicyStatus { conditions, ..wanted.clone() });
    let now = serde_json::json!(now);
    for (field, _) in now.as_object().into_iter().flatten() {
        if patch.get(field).is_none() {
            patch[field] = serde_json::Value::Null;
        }
    }
    patch
}

fn status(
    report: &Report,
    health: &Health,
    identity: &Identity,
    before: &[Condition],
    now: Timestamp,
) -> NodePolicyStatus {
    let faults = health.faults().map(|fault| &fault.message);
    let said = report.stalled.iter().chain(&report.problems).chain(&report.names);
    let problems = faults.chain(said).take(MOST_PROBLEMS).cloned().collect();
    NodePolicyStatus {
        observed_generation: report.node_generation,
        conditions: conditions(report)
            .into_iter()
            .chain([degraded(report, health)])
            .chain(host(report))
            .map(|said| said.condition(report.node_generation, before, now))
            .collect(),
        acknowledged: report.acknowledged,
        machine_id: identity.machine_id.clone(),
        boot_id: identity.boot_id.clone(),
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        backend: Some(identity.backend.to_owned()),
        node_addresses: report.node_addresses.iter().map(ToString::to_string).collect(),
        seals: report.seals,
        pods_enforced: i32::try_from(report.pods_enforced).ok(),
        problems,
    }
}

/// A condition without its times.
struct Said {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

impl Said {
    fn condition(self, generation: Option<i64>, before: &[Condition], now: Timestamp) -> Condition {
        let status = if self.status { "True" } else { "False" };
        let same = before.iter().find(|old| old.type_ == self.kind && old.status == status);
        Condition {
            last_transition_time: same.map_or(Time(now), |old| old.last_transition_time.clone()),
            message: self.message,
            observed_generation: generation,
            reason: self.reason.to_owned(),
            status: status.to_owned(),
            type_: self.kind.to_owned(),
        }
    }
}

fn conditions(report: &Report) -> Vec<Said> {
    let ready = |status, reason, message: String| Said { kind: "Ready", status, reason, message };
    let stalled = |status, reason, message: String| Said { kind: "Stalled", status, reason, message };
    let moving = stalled(false, "Current", String::new());
    if let Some(suspension) = report.suspended.filter(|_| report.settled) {
        let why = match suspension {
            Suspension::Off => "this node was turned off: 'cven on' in its agent turns it on",
            Suspension::Cluster => "ContainerCluster.spec.enforcement is Suspended",
        };
        let message = format!("nothing is in force, and nothing of Ringfence is left on this node: {why}");
        return vec![ready(false, REASON_SUSPENDED, message), moving];
    }
    if let Some((published, seen)) = report.went_back {
        let message = format!(
            "revision {published} is published, and {seen} was in force here: raise ContainerCluster.spec.policyEpoch \
             if the cluster's database was restored from a backup"
        );
        return vec![ready(false, "Stalled", message.clone()), stalled(true, "RevisionWentBack", message)];
    }
    if let Some(first) = report.stalled.first() {
        return vec![ready(false, "Stalled", first.clone()), stalled(true, "Incomplete", first.clone())];
    }
    if let Some(first) = report.problems.first() {
        return vec![ready(false, "Failed", first.clone()), moving];
    }
    if !report.settled {
        let message = "a change is on its way to the kernel".to_owned();
        return vec![ready(false, "Applying", message), moving];
    }
    let revision = report.acknowledged.unwrap_or_default();
    let message = format!("revision {revision} is in force in {} Pods", report.pods_enforced);
    vec![ready(true, "InForce", message), moving]
}

/// What became of the policy of the node itself; nothing where it has none.
fn host(report: &Report) -> Option<Said> {
    let (status, reason, otherwise) = match report.node {
        State::Unknown | State::Nothing => return None,
        State::InForce => (true, "InForce", "the policy of the node itself is in force"),
        State::TakenBack => (false, "TakenBack", "the policy of the node itself was taken back"),
        State::Failed => (false, "Failed", "the policy of the node itself is not in force"),
    };
    let message = report.node_problem.clone().unwrap_or_else(|| otherwise.to_owned());
    Some(Said { kind: "HostPolicy", status, reason, message })
}

/// What is worse than it should be, whatever is in force.
fn degraded(report: &Report, health: &Health) -> Said {
    let watches = report.interruptions.iter().map(|message| ("WatchInterrupted", message.as_str()));
    let faults = health.faults().map(|fault| (fault.reason, fault.message.as_str()));
    let names = report.names.iter().map(|message| ("NamesNotLearned", message.as_str()));
    let (reasons, messages): (Vec<_>, Vec<_>) = faults.chain(watches).chain(names).unzip();
    let reason = reasons.first().copied().unwrap_or("AsExpected");
    Said { kind: "Degraded", status: !reasons.is_empty(), reason, message: messages.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Fault;

    fn identity() -> Identity {
        Identity {
            node: "n1".to_owned(),
            machine_id: Some("m".to_owned()),
            boot_id: Some("b".to_owned()),
            backend: "nft",
        }
    }

    fn condition<'a>(status: &'a NodePolicyStatus, kind: &str) -> &'a Condition {
        status.conditions.iter().find(|condition| condition.type_ == kind).expect("it is said")
    }

    #[test]
    fn ready_when_everything_is_in_force() {
        let report = Report { loaded: true, settled: true, node_generation: Some(4), ..Report::default() };
        let status = status(&report, &Health::default(), &identity(), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&status, "Ready").status, "True");
        assert_eq!(condition(&status, "Stalled").status, "False");
        assert_eq!(status.observed_generation, Some(4));
    }

    #[test]
    fn stalled_names_what_is_missing_and_keeps_its_time() {
        let stalled = vec!["shop/web: waits for PeerGroup p-1".to_owned()];
        let report = Report { loaded: true, stalled, ..Report::default() };
        let first = status(&report, &Health::default(), &identity(), &[], Timestamp::UNIX_EPOCH);
        assert!(condition(&first, "Stalled").message.contains("p-1"));
        assert_eq!(condition(&first, "Ready").reason, "Stalled");
        let second = status(&report, &Health::default(), &identity(), &first.conditions, Timestamp::MAX);
        assert_eq!(condition(&second, "Stalled").last_transition_time.0, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn what_others_write_over_a_report_is_told_from_what_they_add() {
        let report = Report { loaded: true, settled: true, node_generation: Some(4), ..Report::default() };
        let ours = status(&report, &Health::default(), &identity(), &[], Timestamp::MAX);
        assert!(!says(None, &ours), "nothing was reported");
        let mut theirs = status(&report, &Health::default(), &identity(), &[], Timestamp::UNIX_EPOCH);
        assert!(says(Some(&theirs), &ours), "since when it is so makes no difference");
        theirs.conditions.push(Condition { type_: "Audited".to_owned(), ..theirs.conditions[0].clone() });
        assert!(says(Some(&theirs), &ours), "nor what somebody adds");
        theirs.conditions.push(Condition { type_: "HostPolicy".to_owned(), ..theirs.conditions[0].clone() });
        assert!(!says(Some(&theirs), &ours), "this is ours, and is not so any more");
        let written: [fn(&mut NodePolicyStatus); 5] = [
            |theirs| theirs.acknowledged = Some(Revision { epoch: 0, number: 1 }),
            |theirs| theirs.observed_generation = Some(3),
            |theirs| theirs.conditions[0].message = "in force, they say".to_owned(),
            |theirs| drop(theirs.conditions.remove(0)),
            |theirs| *theirs = NodePolicyStatus::default(),
        ];
        for (number, write) in written.into_iter().enumerate() {
            let mut theirs = ours.clone();
            write(&mut theirs);
            assert!(!says(Some(&theirs), &ours), "{number}");
        }
    }

    #[test]
    fn a_report_takes_the_place_of_what_others_wrote_and_leaves_what_they_added() {
        let report = Report { loaded: true, settled: true, node_generation: Some(4), ..Report::default() };
        let ours = status(&report, &Health::default(), &identity(), &[], Timestamp::UNIX_EPOCH);
        let condition = |kind: &str| Condition { type_: kind.to_owned(), ..ours.conditions[0].clone() };
        let conditions = vec![condition("Audited"), condition("HostPolicy")];
        let theirs = NodePolicyStatus { conditions, seals: true, ..NodePolicyStatus::default() };
        let patch = in_place_of(&theirs, &ours);
        assert_eq!(patch["seals"], serde_json::Value::Null);
        assert_eq!((&patch["observedGeneration"], &patch["bootID"]), (&4.into(), &"b".into()));
        let kinds = patch["conditions"].as_array().expect("they are written");
        let kinds: Vec<_> = kinds.iter().filter_map(|condition| condition["type"].as_str()).collect();
        assert_eq!(kinds, ["Ready", "Stalled", "Degraded", "Audited"]);
    }

    #[test]
    fn a_revision_that_went_back_says_what_to_do() {
        let (old, new) = (Revision { epoch: 0, number: 5 }, Revision { epoch: 0, number: 7 });
        let report = Report { went_back: Some((old, new)), settled: true, ..Report::default() };
        let status = status(&report, &Health::default(), &identity(), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(condition(&status, "Stalled").reason, "RevisionWentBack");
        assert!(condition(&status, "Stalled").message.contains("policyEpoch"));
    }

    #[test]
    fn what_is_worse_than_it_should_be_is_said_beside_ready() {
        let report = Report { loaded: true, settled: true, ..Report::default() };
        let said = |report: &Report, health: &Health| {
            let status = status(report, health, &identity(), &[], Timestamp::UNIX_EPOCH);
            let degraded = condition(&status, "Degraded");
            let ready = condition(&status, "Ready").status.clone();
            (ready, degraded.status.clone(), degraded.reason.clone(), degraded.message.clone(), status.problems)
        };
        let text = str::to_owned;
        let nothing = (text("True"), text("False"), text("AsExpected"), String::new(), vec![]);
        assert_eq!(said(&report, &Health::default()), nothing);

        let message = text("failed to keep the ledger: use /l: No space left on device");
        let health =
            Health { ledger: Some(Fault::ledger_not_kept("use /l: No space left on device")), ..Health::default() };
        let kept = (text("True"), text("True"), text("LedgerNotKept"), message.clone(), vec![message]);
        assert_eq!(said(&report, &health), kept, "what is in force is");

        // A watch that is interrupted may have missed something: that is not Ready either.
        let watch = text("failed to watch PeerGroup: gone");
        let (problems, interruptions) = (vec![watch.clone()], vec![watch.clone()]);
        let report = Report { problems, interruptions, ..report };
        let interrupted = (text("False"), text("True"), text("WatchInterrupted"), watch.clone(), vec![watch]);
        assert_eq!(said(&report, &Health::default()), interrupted);
    }

    #[test]
    fn what_became_of_the_node_itself_is_said_in_a_condition_of_its_own() {
        let said = |node, problem: Option<&str>| {
            let report = Report { node, node_problem: problem.map(str::to_owned), ..Report::default() };
            host(&report).map(|said| (said.status, said.reason, said.message))
        };
        assert!(said(State::Unknown, None).is_none() && said(State::Nothing, None).is_none());
        let in_force = "the policy of the node itself is in force".to_owned();
        assert_eq!(said(State::InForce, None), Some((true, "InForce", in_force)));
        for (state, status, reason) in [
            (State::InForce, true, "InForce"),
            (State::TakenBack, false, "TakenBack"),
            (State::Failed, false, "Failed"),
        ] {
            assert_eq!(said(state, Some("whatever is wrong")), Some((status, reason, "whatever is wrong".to_owned())));
        }
    }
}
