//! Changes that are taken back, by the agent that made them or by the next one.

use ringfence_dataplane::policy::End;

use super::super::marker::Unconfirmed;
use super::super::probe::Answered;
use super::*;

#[test]
fn a_policy_that_cuts_the_apiserver_is_taken_back_and_not_tried_again() {
    let Some(scene) = Scene::new("a_policy_that_cuts_the_apiserver_is_taken_back_and_not_tried_again") else { return };
    let mut keeper = scene.keeper();
    let (state, problem) = bring(&mut keeper, &wanted(without(0)));
    assert_eq!(state, State::TakenBack);
    assert!(problem.contains("the apiserver at 10.9.0.2:6443 did not answer any more"), "{problem}");
    assert!(!scene.holds_ours() && scene.has_foreign() && scene.reaches(8080), "{}", scene.node.holds());

    // One is in force, and the next is bad: that one is in force again, down to the rule.
    assert_eq!(bring(&mut keeper, &wanted(good())).0, State::InForce);
    let (before, sets) = (scene.rules(), scene.node.exec("ipset", &["list", "-name"], ""));
    assert_eq!(bring(&mut keeper, &wanted(without(0))).0, State::TakenBack);
    assert_eq!((scene.rules(), scene.node.exec("ipset", &["list", "-name"], "")), (before, sets));
    assert!(scene.reaches(22) && !scene.reaches(8080));

    // Neither this agent tries it again nor the next one.
    let generation = scene.generation();
    assert_eq!(bring(&mut keeper, &wanted(without(0))).0, State::TakenBack);
    let (_, readings) = keeper.readings(Some(scene.node.cookie())).expect("it was read back");
    let mut next = scene.keeper().remembering(Some(readings));
    let (state, problem) = bring(&mut next, &wanted(without(0)));
    assert_eq!(state, State::TakenBack);
    assert!(problem.contains("not tried again until it changes"), "{problem}");
    assert_eq!(scene.generation(), generation);
    assert_eq!(bring(&mut next, &wanted(good())).0, State::InForce);
    assert_eq!(notes_in(scene.folder.path()), ["host-confirmed.json"]);
    assert_eq!(bring(&mut next, &Wanted::Nothing).0, State::Nothing);
    assert_eq!(notes_in(scene.folder.path()), [""; 0]);
}

/// Nodes join and Pods start, whatever becomes of a newer policy; and an agent that starts anew knows which one holds.
#[test]
fn the_policy_of_before_follows_members_while_a_newer_one_is_refused() {
    let Some(scene) = Scene::new("the_policy_of_before_follows_members_while_a_newer_one_is_refused") else { return };
    let probes = |pod: &str| {
        let end = End { address: address(pod), protocol: Protocol::TCP, port: 80 };
        let matching = Match::Ends(Arc::new([end].into()));
        Entry { matching, reject: false, rule: "essential:probe".to_owned() }
    };
    let with_probes = |mut policy: NetnsPolicy, pod: &str| {
        policy.outbound.essential.push(probes(pod));
        policy
    };
    // It names the group and does not let the node reach it.
    let newer = |member: &str, pod: &str| {
        let mut policy = without(0);
        policy.inbound.allow.push(entry(only(member), tcp(9)));
        wanted(with_probes(policy, pod))
    };
    let holds = |text: &str| scene.node.exec("ipset", &["save"], "").contains(text);
    let mut keeper = scene.keeper();
    assert_eq!(bring(&mut keeper, &wanted(with_probes(good(), "10.244.0.1"))).0, State::InForce);
    assert_eq!(bring(&mut keeper, &newer(OTHER, "10.244.0.1")).0, State::TakenBack);
    assert_eq!(bring(&mut keeper, &newer("10.9.0.3", "10.244.0.3")).0, State::TakenBack);
    assert!(holds(" 10.9.0.3\n") && holds(" 10.244.0.3,tcp:80\n") && !holds(" 10.9.0.2\n"));

    let generation = scene.generation();
    let mut next = scene.keeper();
    assert_eq!(bring(&mut next, &newer(OTHER, "10.244.0.4")).0, State::TakenBack);
    assert!(holds(" 10.9.0.2\n") && holds(" 10.244.0.4,tcp:80\n") && !holds(" 10.9.0.3\n"));
    assert!(scene.reaches(22) && !scene.reaches(8080));
    assert!(scene.generation() >= generation);
}

#[test]
fn a_policy_that_cuts_other_nodes_off_is_taken_back() {
    let Some(scene) = Scene::new("a_policy_that_cuts_other_nodes_off_is_taken_back") else { return };
    let mut keeper = scene.keeper();
    let (state, problem) = bring(&mut keeper, &wanted(without(1)));
    assert_eq!(state, State::TakenBack);
    assert!(problem.contains("did not answer any more on the Pod network (10.9.0.2)"), "{problem}");
    // Who did not answer before need not answer after it.
    let elsewhere = Wanted::Policy(
        Arc::new(NetnsPolicy { state: Enforcement::Selective, ..without(1) }),
        vec![address("10.9.0.77")],
    );
    assert_eq!(bring(&mut keeper, &elsewhere).0, State::InForce);
}

/// Written, and not confirmed: so an agent was killed in between.
fn crashed(scene: &Scene, policy: NetnsPolicy) {
    let before = scene.rules();
    let answered = Answered { apiserver: true, witnesses: vec![address(OTHER)] };
    let mut notes = Notes::in_folder(Some(scene.folder.path()));
    let boot = crate::machine::boot_id();
    notes.begin(Unconfirmed { fingerprint: fingerprint(&policy), before, answered, boot }).expect("written");
    let terms = Terms { place: Place::Host, ..Terms::default() };
    let put = |_| {
        apply::apply(Backend::Nft, &apply::Wanted::Policy(Arc::new(policy.clone())), Known::Unread, &terms).map(drop)
    };
    scene.node.within(put).expect("the kernel takes it");
}

#[test]
fn an_agent_finds_a_change_that_nobody_has_confirmed() {
    let Some(scene) = Scene::new("an_agent_finds_a_change_that_nobody_has_confirmed") else { return };
    crashed(&scene, without(0));
    assert!(scene.holds_ours());
    let mut keeper = scene.keeper();
    assert_eq!(bring(&mut keeper, &Wanted::Keep).0, State::Unknown);
    assert!(!scene.node.holds().contains("RF-HOST"), "taken back before anything is known");
    assert_eq!(bring(&mut keeper, &wanted(without(0))).0, State::TakenBack, "it is known to be bad");

    crashed(&scene, good());
    let mut keeper = scene.keeper();
    assert_eq!(bring(&mut keeper, &Wanted::Keep).0, State::Unknown);
    assert!(scene.node.holds().contains("RF-HOST"), "it is good");
    assert_eq!(notes_in(scene.folder.path()), ["host-refused.json"], "that is another one");
}

#[test]
fn a_policy_is_not_to_blame_for_what_fails_without_it_too() {
    let Some(mut scene) = Scene::new("a_policy_is_not_to_blame_for_what_fails_without_it_too") else { return };
    crashed(&scene, good());
    scene.listeners.remove(0);
    scene.await_silence();
    let mut keeper = scene.keeper();
    let (state, problem) = bring(&mut keeper, &Wanted::Keep);
    assert_eq!(state, State::Failed);
    assert!(problem.contains("something else is broken"), "{problem}");
    assert!(!scene.node.holds().contains("RF-HOST"));
    let (state, problem) = bring(&mut keeper, &wanted(good()));
    assert_eq!(state, State::Failed);
    assert!(problem.contains("the apiserver does not answer, so that no change could be confirmed"), "{problem}");
    assert_eq!(notes_in(scene.folder.path()), [""; 0]);
}
