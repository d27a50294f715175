//! What a slot has done when, written out from the architecture: rules first, nothing left open, nothing forgotten.

use std::net::IpAddr;
use std::sync::Arc;

use super::progress::QUIET;
use super::*;
use crate::apply::{Done, Outcome, Terms};
use crate::lacking::PATIENCE;
use ringfence_dataplane::gate::Ports;
use ringfence_dataplane::policy::Origin;
use ringfence_dataplane::{Enforcement, Entry, HostSet, Match, Missing, NetnsPolicy, Packet, Resolution};
use ringfence_model::{Direction, PortMatch, Protocol, Services};

fn slot() -> Slot {
    Slot::new(
        serde_json::from_value(serde_json::json!({
            "id": "s", "uid": "u", "namespace": "shop", "name": "web", "labels": {}, "annotations": {},
            "created_at": 0, "host_network": false, "netns": {}, "ips": [], "dns_servers": []
        }))
        .expect("a sandbox"),
    )
}

fn finished(result: Result<Outcome, String>) -> Finished {
    Finished { id: "s".to_owned(), cookie: None, ear: None, result, took: Duration::ZERO }
}

fn outcome(known: Known, done: Done) -> Outcome {
    Outcome { known, done, problem: None }
}

fn at(now: Instant) -> Moment {
    Moment { now, fresh: true, closed: true }
}

fn incomplete(closed: Option<NetnsPolicy>) -> Resolution {
    Resolution::Incomplete { missing: vec![Missing::PeerGroup("p-1".to_owned())], closed }
}

#[tokio::test]
async fn a_new_pod_whose_rules_are_not_known_gets_essential_traffic_only() {
    let (mut slot, now) = (slot(), Instant::now());
    let closed = NetnsPolicy::new(Enforcement::Full);
    slot.resolved(incomplete(Some(closed.clone())), false, now);
    assert!(slot.begin(at(now)).is_none(), "not where it might lock out what brings the rules");
    slot.resolved(incomplete(Some(closed.clone())), true, now);
    let wanted = match slot.begin(at(now)) {
        Some(Job::Apply { wanted, terms: Terms { only_if_empty: true, may_close: true, .. }, .. }) => wanted,
        other => panic!("{other:?}"),
    };
    assert_eq!(wanted, Wanted::Policy(Arc::new(closed.clone())));
    // An agent that was restarted finds the rules of before: they stay.
    slot.finish(finished(Ok(outcome(Known::Unread, Done::Left))), now);
    assert!(slot.begin(at(now)).is_none() && !slot.is_settled());
    slot.resolved(Resolution::Enforce(closed), true, now);
    assert!(matches!(slot.begin(at(now)), Some(Job::Apply { terms: Terms { only_if_empty: false, .. }, .. })));
}

/// It had rules before that, and would have them: that it holds none is nothing to stay with.
#[tokio::test]
async fn a_pod_whose_rules_were_suspended_begins_anew() {
    let (mut slot, now) = (slot(), Instant::now());
    let closed = NetnsPolicy::new(Enforcement::Full);
    slot.suspend(now);
    assert!(slot.begin(at(now)).is_some());
    slot.finish(finished(Ok(outcome(Known::Nothing, Done::Removed))), now);
    slot.resolved(incomplete(Some(closed.clone())), true, now);
    match slot.begin(at(now)) {
        Some(Job::Apply { wanted, .. }) => assert_eq!(wanted, Wanted::Policy(Arc::new(closed))),
        other => panic!("{other:?}"),
    }
}

/// The CNI plugin waits, its namespace gets a profile, and the Pod itself is not known yet.
#[tokio::test]
async fn a_pod_that_is_about_to_start_does_not_stay_open_for_what_was_before() {
    let now = Instant::now();
    let mut slot = Slot::admitted(slot().sandbox, false, now);
    slot.resolved(Resolution::Unmanaged, true, now);
    assert!(slot.is_protected(), "there is nothing to protect");
    slot.resolved(incomplete(Some(NetnsPolicy::new(Enforcement::Full))), true, now);
    assert!(!slot.is_protected());
    assert!(matches!(slot.begin(at(now)), Some(Job::Apply { wanted: Wanted::Policy(_), .. })));
    // In Idle before, and running: that stays until the rules are known.
    let mut running = Slot::new(slot.sandbox);
    running.resolved(Resolution::Idle, true, now);
    running.resolved(incomplete(Some(NetnsPolicy::new(Enforcement::Full))), true, now);
    assert!(matches!(running.begin(at(now)), Some(Job::Apply { wanted: Wanted::Nothing, .. })));
}

#[tokio::test]
async fn an_incomplete_policy_keeps_what_is_in_force_and_stalls() {
    let (mut slot, now) = (slot(), Instant::now());
    slot.resolved(incomplete(None), true, now);
    assert!(slot.begin(at(now)).is_none(), "nothing is known to be wanted");
    assert!(!slot.is_settled());
    assert_eq!(slot.stalled(now), None);
    let late = now + PATIENCE;
    assert_eq!(slot.stalled(late).as_deref(), Some("shop/web: waits for PeerGroup p-1"));
}

#[tokio::test]
async fn a_failure_is_tried_again_later_and_news_at_once() {
    let (mut slot, now) = (slot(), Instant::now());
    slot.resolved(Resolution::Idle, true, now);
    assert!(slot.begin(at(now)).is_some());
    assert!(slot.begin(at(now)).is_none(), "one at a time");
    slot.finish(finished(Err("enter".to_owned())), now);
    assert!(slot.begin(at(now)).is_none());
    assert!(slot.deadline(now).is_some_and(|later| slot.begin(at(later)).is_some()));
    slot.finish(finished(Ok(outcome(Known::Nothing, Done::Removed))), now);
    assert!(slot.is_settled());
}

#[tokio::test]
async fn rules_in_the_kernel_outlast_a_view_that_is_not_fresh() {
    let (mut slot, now) = (slot(), Instant::now());
    slot.resolved(Resolution::Unmanaged, true, now);
    assert!(slot.begin(Moment { fresh: false, ..at(now) }).is_some());
    slot.finish(finished(Ok(outcome(Known::Unread, Done::Left))), now);
    assert!(slot.begin(Moment { fresh: false, ..at(now) }).is_none());
    assert!(slot.begin(at(now)).is_some());
}

#[tokio::test]
async fn a_pod_that_is_closed_instead_waits_for_its_policy() {
    let (mut slot, now) = (slot(), Instant::now());
    let closed = NetnsPolicy::new(Enforcement::Full);
    let mut whole = closed.clone();
    whole.own.insert("10.0.0.1".parse().expect("an address"));
    slot.resolved(Resolution::Enforce(whole.clone()), true, now);
    assert!(matches!(slot.begin(at(now)), Some(Job::Apply { terms: Terms { may_close: true, .. }, .. })));
    let problem = Some("load it".to_owned());
    slot.finish(finished(Ok(Outcome { known: Known::holding(&closed, false), done: Done::Closed, problem })), now);
    let said = Some("shop/web: failed to load it".to_owned());
    assert!(slot.has_rules() && !slot.is_settled());
    assert_eq!(slot.problem(), said);

    assert!(slot.begin(at(now)).is_none(), "it is tried again later");
    assert!(matches!(slot.begin(at(now + QUIET)), Some(Job::CleanUp(_))), "flows follow meanwhile");
    slot.finish(finished(Ok(outcome(Known::holding(&closed, true), Done::CleanedUp))), now + QUIET);
    assert!(!slot.is_settled() && slot.begin(at(now + QUIET)).is_none());
    assert_eq!(slot.problem(), said, "that is not over");

    let later = slot.deadline(now + QUIET).expect("it is tried again");
    assert!(matches!(slot.begin(at(later)), Some(Job::Apply { .. })));
    slot.finish(finished(Ok(outcome(Known::holding(&whole, true), Done::Rules))), later);
    assert!(slot.is_settled());
    assert_eq!(slot.problem(), None);
}

#[tokio::test]
async fn what_somebody_else_changed_is_reported_until_it_was_read_back() {
    let (mut slot, now) = (slot(), Instant::now());
    let policy = NetnsPolicy::new(Enforcement::Full);
    slot.resolved(Resolution::Enforce(policy.clone()), true, now);
    assert!(slot.begin(at(now)).is_some());
    let problem = Some("keep the rules".to_owned());
    slot.finish(finished(Ok(Outcome { known: Known::holding(&policy, false), done: Done::Rules, problem })), now);
    assert_eq!(slot.problem().as_deref(), Some("shop/web: failed to keep the rules"));
    assert!(matches!(slot.begin(at(now + QUIET)), Some(Job::CleanUp(_))), "and it is right already");
    slot.finish(finished(Ok(outcome(Known::holding(&policy, true), Done::CleanedUp))), now + QUIET);
    assert_eq!(slot.problem(), None);
}

#[tokio::test]
async fn a_namespace_once_known_is_not_forgotten_by_a_failure() {
    let (mut slot, now) = (slot(), Instant::now());
    let entered = Finished { cookie: Some(Cookie(7)), ..finished(Ok(outcome(Known::Nothing, Done::Removed))) };
    slot.finish(entered, now);
    slot.finish(finished(Err("enter".to_owned())), now);
    assert_eq!(slot.cookie, Some(Cookie(7)));
}

/// Flows that could not be looked at are no reason to write rules again, nor to acknowledge.
#[tokio::test]
async fn flows_that_do_not_follow_are_tried_again_later_each_time() {
    let (mut slot, now) = (slot(), Instant::now());
    let policy = NetnsPolicy::new(Enforcement::Full);
    slot.resolved(Resolution::Enforce(policy.clone()), true, now);
    assert!(slot.begin(at(now)).is_some());
    slot.finish(finished(Ok(outcome(Known::holding(&policy, false), Done::Rules))), now);
    let failed = || {
        let problem = Some("read conntrack".to_owned());
        finished(Ok(Outcome { known: Known::holding(&policy, false), done: Done::CleanedUp, problem }))
    };
    let (mut now, mut waited) = (now + QUIET, Vec::new());
    assert!(matches!(slot.begin(at(now)), Some(Job::CleanUp(_))));
    for _ in 0..3 {
        slot.finish(failed(), now);
        assert_eq!(slot.problem().as_deref(), Some("shop/web: failed to read conntrack"));
        assert!(slot.has_rules() && !slot.is_settled() && !slot.is_urgent());
        let failed_at = now;
        loop {
            match slot.begin(at(now)) {
                None => now = slot.deadline(now).expect("it is tried again"),
                Some(Job::CleanUp(_)) => break,
                other => panic!("{other:?}"),
            }
        }
        waited.push(now - failed_at);
    }
    assert!(waited[0] < waited[1] && waited[1] < waited[2], "{waited:?}");
    slot.finish(finished(Ok(outcome(Known::holding(&policy, true), Done::CleanedUp))), now);
    assert!(slot.is_settled());
    assert_eq!(slot.problem(), None);
}

/// What closes a Pod is what people have to know, and the clean-up waits for the policy to be tried again.
#[tokio::test]
async fn flows_that_do_not_follow_hide_no_policy_that_was_refused() {
    let (mut slot, now) = (slot(), Instant::now());
    let closed = NetnsPolicy::new(Enforcement::Full);
    let mut whole = closed.clone();
    whole.own.insert("10.0.0.1".parse().expect("an address"));
    slot.resolved(Resolution::Enforce(whole), true, now);
    assert!(slot.begin(at(now)).is_some());
    let problem = |text: &str| Some(text.to_owned());
    let known = || Known::holding(&closed, false);
    let refused = Outcome { known: known(), done: Done::Closed, problem: problem("load it") };
    slot.finish(finished(Ok(refused)), now);
    assert!(matches!(slot.begin(at(now + QUIET)), Some(Job::CleanUp(_))));
    let failed = Outcome { known: known(), done: Done::CleanedUp, problem: problem("read conntrack") };
    slot.finish(finished(Ok(failed)), now + QUIET);
    assert_eq!(slot.problem().as_deref(), Some("shop/web: failed to load it"));
    assert!(slot.begin(at(now + QUIET + QUIET)).is_none(), "not before the policy is tried again");
    let later = slot.deadline(now + QUIET + QUIET).expect("it is tried again");
    assert!(matches!(slot.begin(at(later)), Some(Job::Apply { .. })));
}

#[tokio::test]
async fn a_job_that_no_thread_is_free_for_is_begun_anew() {
    let (mut slot, now) = (slot(), Instant::now());
    let policy = |state| Resolution::Enforce(NetnsPolicy::new(state));
    slot.resolved(policy(Enforcement::Full), true, now);
    assert!(!slot.may_follow(), "where nothing is there are no members to change");
    slot.known = Known::holding(&NetnsPolicy::new(Enforcement::Full), true);
    slot.resolved(policy(Enforcement::Selective), true, now);
    assert!(slot.may_follow());
    let job = slot.begin(at(now)).expect("other rules");
    slot.put_back(job);
    assert!(slot.has_rules() && slot.is_urgent() && !slot.may_follow(), "it was found to take more than members");
    slot.resolved(policy(Enforcement::VisibilityOnly), true, now);
    assert!(slot.may_follow(), "something else may take less");
    let Some(Job::Apply { wanted, known, .. }) = slot.begin(at(now)) else { panic!("other rules") };
    assert_eq!(wanted, Wanted::Policy(Arc::new(NetnsPolicy::new(Enforcement::VisibilityOnly))));
    assert!(known.has_rules(), "what is known was not lost");
}

/// The CNI plugin tells of a Pod before anybody has told it of a gate.
#[tokio::test]
async fn a_pod_that_starts_lets_no_node_in_before_it_is_told_by_which_door() {
    let node: IpAddr = "10.244.1.1".parse().expect("an address");
    let nets = Arc::new([node].into_iter().collect());
    let port = PortMatch::single(Protocol::TCP, 8080);
    let peers = HostSet { origins: [Origin::Node].into(), nets };
    let matching = Match::Hosts { peers, services: Services::Only(port.into_iter().collect()) };
    let mut policy = NetnsPolicy::new(Enforcement::Full);
    policy.inbound.essential.push(Entry { matching, reject: false, rule: "essential:probe".to_owned() });
    let probe = Packet {
        direction: Direction::Inbound,
        protocol: Protocol::TCP,
        src: node,
        dst: "10.244.1.5".parse().expect("an address"),
        sport: 40000,
        dport: 8080,
        icmp: None,
    };
    let now = Instant::now();
    let mut slot = Slot::admitted(slot().sandbox, false, now);
    slot.resolved(Resolution::Enforce(policy), true, now);
    let lets_in = |slot: &Slot| match &slot.wanted {
        Some(Wanted::Policy(policy)) => !policy.judge(&probe).blocks,
        other => panic!("{other:?}"),
    };
    assert!(!lets_in(&slot));
    slot.let_in(Door::Gate { ports: Ports::Probes, nodes: [node].into() });
    assert!(lets_in(&slot), "the gate is in force for it");
    slot.let_in(Door::closed());
    assert!(!lets_in(&slot));
    slot.let_in(Door::NoGate);
    assert!(lets_in(&slot), "its node has no gate");
}
