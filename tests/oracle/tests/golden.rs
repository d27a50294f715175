//! The golden cases of the policy model, and its table of states and actions; verdicts written by hand from the page.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringfence_model::{Action, Decision as D, PolicyState as S, PortMatch, Protocol, Verdict as V};
use ringfence_oracle::world::{Actor, IpList, LabelRule, Pod, Profile, Rule, RuleServices, RuleSet, ServiceRef, World};
use ringfence_oracle::{Answer, Connection, Party, Target, judge};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `a/a` (app=a, 10.0.0.1) and `b/b` (app=b, 10.0.0.2) in these states; nothing: unmanaged.
fn pair(a: Option<S>, b: Option<S>) -> World {
    let mut world = World::default();
    for (name, state, address) in [("a", a, "10.0.0.1"), ("b", b, "10.0.0.2")] {
        let labels = BTreeMap::from([("app".parse().unwrap(), LabelRule::Fixed(name.parse().unwrap()))]);
        world.profiles.insert(name.to_owned(), Profile { state, labels });
        let pod = Pod { node: format!("node-{name}"), addresses: vec![ip(address)], ..Pod::default() };
        world.pods.insert((name.to_owned(), name.to_owned()), pod);
    }
    world
}

fn app(name: &str) -> Actor {
    let is = BTreeMap::from([("app".parse().unwrap(), BTreeSet::from([name.parse().unwrap()]))]);
    Actor::Labels { is, not: BTreeMap::new(), groups: BTreeSet::new() }
}

/// Every address there is.
fn any(world: &mut World) -> Actor {
    let ranges = vec![(ip("0.0.0.0"), ip("255.255.255.255"))];
    world.ip_lists.insert("any".to_owned(), IpList { ranges, exclusions: Vec::new() });
    Actor::IpList("any".to_owned())
}

fn port(number: i32) -> RuleServices {
    let port = PortMatch::parse("TCP", Some(number), None, None, None).unwrap();
    RuleServices::Listed(vec![ServiceRef::Port(port)])
}

fn add(world: &mut World, action: Action, from: Actor, to: Actor, services: RuleServices) {
    let set = world.rule_sets.entry("r".to_owned()).or_insert_with(|| RuleSet {
        enabled: true,
        scopes: vec![BTreeMap::new()],
        rules: Vec::new(),
    });
    set.rules.push(Rule {
        name: format!("x{}", set.rules.len()),
        enabled: true,
        action,
        reject: false,
        extra_scope: false,
        consumers: vec![from],
        providers: vec![to],
        services,
    });
}

/// From Pod a to Pod b.
fn ask(world: &World, number: u16) -> Answer {
    let pod = |name: &str| Party::Pod((name.to_owned(), name.to_owned()));
    let connection = Connection { from: pod("a"), to: Target::Direct(pod("b"), number), protocol: Protocol::TCP };
    judge(world, &connection).unwrap().remove(0)
}

fn says(answer: &Answer) -> (V, D, D) {
    (answer.verdict, answer.source.decision, answer.destination.decision)
}

#[test]
fn visibility_only_without_an_outbound_allow_to_full_with_any() {
    let mut world = pair(Some(S::VisibilityOnly), Some(S::Full));
    let any = any(&mut world);
    add(&mut world, Action::Allow, any, app("b"), RuleServices::All);
    let answer = ask(&world, 80);
    assert_eq!(says(&answer), (V::PotentiallyBlocked, D::Default, D::Allow));
    // Counted once, at B.
    assert!(answer.source.hits.is_empty());
    assert_eq!(answer.destination.hits, BTreeSet::from(["r/x0".to_owned()]));
}

#[test]
fn full_without_an_outbound_allow_to_full_with_any() {
    let mut world = pair(Some(S::Full), Some(S::Full));
    let any = any(&mut world);
    add(&mut world, Action::Allow, any, app("b"), RuleServices::All);
    assert_eq!(says(&ask(&world, 80)), (V::Blocked, D::Default, D::Allow));
}

#[test]
fn selective_with_a_deny_on_445_outbound() {
    let mut world = pair(Some(S::Selective), Some(S::Idle));
    add(&mut world, Action::Deny, app("a"), app("b"), port(445));
    assert_eq!(says(&ask(&world, 445)), (V::Blocked, D::Deny, D::Idle));
    assert_eq!(says(&ask(&world, 446)), (V::PotentiallyBlocked, D::Default, D::Idle));
}

#[test]
fn both_full_and_one_rule_that_names_both() {
    let mut world = pair(Some(S::Full), Some(S::Full));
    add(&mut world, Action::Allow, app("a"), app("b"), port(80));
    let answer = ask(&world, 80);
    assert_eq!(says(&answer), (V::Allowed, D::Allow, D::Allow));
    // Counted at both ends.
    assert_eq!((answer.source.hits.len(), answer.destination.hits.len()), (1, 1));
    // B listens on 443 too: blocked at both ends, each for itself.
    assert_eq!(says(&ask(&world, 443)), (V::Blocked, D::Default, D::Default));
}

#[test]
fn unmanaged_to_full_by_an_ip_list_that_holds_its_address() {
    let mut world = pair(None, Some(S::Full));
    let any = any(&mut world);
    add(&mut world, Action::Allow, any, app("b"), RuleServices::All);
    assert_eq!(says(&ask(&world, 80)), (V::Allowed, D::Unmanaged, D::Allow));
}

/// The table of the page: what each state makes of nothing, an Allow, a Deny and an OverrideDeny, at the end that connects.
#[test]
fn every_state_and_action() {
    use V::{Allowed, Blocked, PotentiallyBlocked};
    let table = [
        (S::Idle, [Allowed, Allowed, Allowed, Allowed]),
        (S::VisibilityOnly, [PotentiallyBlocked, Allowed, PotentiallyBlocked, PotentiallyBlocked]),
        (S::Selective, [PotentiallyBlocked, Allowed, Blocked, Blocked]),
        (S::Full, [Blocked, Allowed, Blocked, Blocked]),
    ];
    for (state, verdicts) in table {
        let actions = [None, Some(Action::Allow), Some(Action::Deny), Some(Action::OverrideDeny)];
        for (action, verdict) in actions.into_iter().zip(verdicts) {
            let mut world = pair(Some(state), None);
            if let Some(action) = action {
                let any = any(&mut world);
                add(&mut world, action, app("a"), any, RuleServices::All);
            }
            assert_eq!(ask(&world, 80).verdict, verdict, "{state} {action:?}");
        }
    }
}

#[test]
fn override_deny_before_allow_before_deny_whatever_the_order() {
    for actions in
        [[Action::OverrideDeny, Action::Allow, Action::Deny], [Action::Deny, Action::Allow, Action::OverrideDeny]]
    {
        let mut world = pair(Some(S::Full), None);
        let any = any(&mut world);
        for action in actions {
            add(&mut world, action, app("a"), any.clone(), RuleServices::All);
        }
        let answer = ask(&world, 80);
        assert_eq!((answer.verdict, answer.source.decision), (V::Blocked, D::OverrideDeny));
        assert_eq!(answer.source.hits.len(), 3);
        world.rule_sets.get_mut("r").unwrap().rules.retain(|rule| rule.action != Action::OverrideDeny);
        assert_eq!(ask(&world, 80).source.decision, D::Allow);
    }
}

#[test]
fn all_except_means_another_value() {
    let mut world = pair(Some(S::Full), None);
    let any = any(&mut world);
    let not = BTreeMap::from([("app".parse().unwrap(), BTreeSet::from(["b".parse().unwrap()]))]);
    let other = Actor::Labels { is: BTreeMap::new(), not, groups: BTreeSet::new() };
    add(&mut world, Action::Allow, other, any, RuleServices::All);
    assert_eq!(ask(&world, 80).verdict, V::Allowed, "app=a is another app than b");
    // Without the dimension there is no other value.
    world.profiles.get_mut("a").unwrap().labels.clear();
    assert_eq!(ask(&world, 80).verdict, V::Blocked);
}

#[test]
fn nothing_empty_widens() {
    let mut world = pair(Some(S::Full), None);
    add(&mut world, Action::Allow, app("a"), Actor::IpList("missing".to_owned()), RuleServices::All);
    assert_eq!(ask(&world, 80).verdict, V::Blocked, "a list that is not there");
    let mut world = pair(Some(S::Full), None);
    let any = any(&mut world);
    add(&mut world, Action::Allow, app("a"), any, RuleServices::Listed(Vec::new()));
    assert_eq!(ask(&world, 80).verdict, V::Blocked, "no services");
}

#[test]
fn exclusions_are_exact() {
    let mut world = pair(Some(S::Full), None);
    let list = |exclusions| IpList { ranges: vec![(ip("10.0.0.0"), ip("10.0.0.255"))], exclusions };
    add(&mut world, Action::Allow, app("a"), Actor::IpList("l".to_owned()), RuleServices::All);
    for (exclusions, verdict) in [
        (vec![], V::Allowed),
        (vec![(ip("10.0.0.3"), ip("10.0.0.9"))], V::Allowed),
        (vec![(ip("10.0.0.2"), ip("10.0.0.2"))], V::Blocked),
        (vec![(ip("10.0.0.0"), ip("10.0.0.255"))], V::Blocked),
        (vec![(ip("0.0.0.0"), ip("255.255.255.255"))], V::Blocked),
    ] {
        world.ip_lists.insert("l".to_owned(), list(exclusions.clone()));
        assert_eq!(ask(&world, 80).verdict, verdict, "{exclusions:?}");
    }
}
