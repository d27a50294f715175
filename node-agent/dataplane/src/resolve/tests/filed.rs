//! Rules are found by the labels that they ask for: whatever form a selector has, it selects the same as without.

use super::*;

/// Whether a rule whose subject is this selector applies to the Pod of the fixture, app=shop and role=web, among rules
/// that ask for the same labels.
fn applies(subject: LabelSelector) -> bool {
    let mut store = store();
    for role in ["db", "web"] {
        let mut other = rule(Direction::Inbound, Action::Allow, list(&["192.0.2.9"]));
        other.subjects = vec![Subject { labels: Some(selector(&[("role", role)])), ..Subject::default() }];
        add_rule(&mut store, other);
    }
    let mut rule = rule(Direction::Inbound, Action::Allow, list(&["192.0.2.1"]));
    rule.subjects.insert(0, Subject { labels: Some(subject), ..Subject::default() });
    rule.subjects.truncate(1);
    add_rule(&mut store, rule);
    let policy = policy(&store, &pod());
    assert_eq!(inbound(&policy, "192.0.2.9", 80), Decision::Allow);
    inbound(&policy, "192.0.2.1", 80) == Decision::Allow
}

/// A selector as `app=shop|bank,role!=db`.
fn of(text: &str) -> LabelSelector {
    let mut selector = LabelSelector::default();
    for term in text.split(',').filter(|term| !term.is_empty()) {
        let (dimension, values) = term.split_once('=').expect("a literal of the test");
        let (map, dimension) = match dimension.strip_suffix('!') {
            Some(dimension) => (&mut selector.not_in, dimension),
            None => (&mut selector.is_in, dimension),
        };
        let values = values.split('|').filter(|value| !value.is_empty()).map(Into::into).collect();
        map.insert(dimension.into(), values);
    }
    selector
}

#[rstest]
#[case::everything("", true)]
#[case::one_value("app=shop", true)]
#[case::one_of_several("role=db|web", true)]
#[case::another_value("role=db", false)]
#[case::all_dimensions("app=shop|bank,role=web", true)]
#[case::one_dimension_of_two("app=shop,role=db", false)]
#[case::a_dimension_that_it_has_not("app=shop,env=prod", false)]
#[case::another_than("role!=db", true)]
#[case::another_than_its_own("role!=web", false)]
#[case::both("app=shop,role!=db", true)]
#[case::both_and_its_own("app=shop,role!=web", false)]
#[case::no_value("app=shop,role=", false)]
fn selectors(#[case] selector: &str, #[case] expected: bool) {
    assert_eq!(applies(of(selector)), expected);
}

#[test]
fn a_rule_with_several_subjects_counts_once() {
    let mut store = store();
    let mut rule = rule(Direction::Inbound, Action::Allow, list(&["192.0.2.1"]));
    rule.subjects = [&[("app", "shop")], &[("role", "db")], &[("role", "web")]]
        .map(|pairs| Subject { labels: Some(selector(pairs)), ..Subject::default() })
        .into();
    add_rule(&mut store, rule);
    let policy = policy(&store, &pod());
    assert_eq!(inbound(&policy, "192.0.2.1", 80), Decision::Allow);
    assert_eq!(policy.inbound.allow.len(), 1);
}

#[test]
fn pods_that_are_resolved_together_get_what_each_gets_alone() {
    let mut store = store();
    add_group(&mut store, "p-1", "c-1", &["10.244.1.5"], &["s-1"]);
    add_group(&mut store, "p-2", "c-2", &["10.244.2.5"], &[]);
    add_service(&mut store, "s-1", &["c-1"]);
    for direction in [Direction::Inbound, Direction::Outbound] {
        add_rule(&mut store, rule(direction, Action::Allow, group("p-1")));
        add_rule(&mut store, rule(direction, Action::Allow, group("p-2")));
        add_rule(&mut store, rule(direction, Action::Deny, group("missing")));
        let mut other = rule(direction, Action::Allow, group("p-2"));
        other.subjects = vec![Subject { labels: Some(selector(&[("role", "db")])), ..Subject::default() }];
        add_rule(&mut store, other);
    }
    let web = pod();
    let db = LocalPod { annotations: map(&[("ringfence.dev/role", "db")]), ..pod() };
    let mut together = Resolver::new(&store);
    for pod in [&web, &db, &web, &db] {
        assert_eq!(together.resolve(pod, &[ip(NODE)]), resolve(&store, pod, &[ip(NODE)]));
    }
    assert!(matches!(resolve(&store, &db, &[]), Resolution::Enforce(_)));
    assert_eq!(missing(&store), ["PeerGroup missing"]);
}

#[test]
fn pods_of_equal_labels_differ_by_the_services_they_are_behind() {
    let mut store = store();
    add_service(&mut store, "s-1", &["c-1"]);
    let mut served = rule(Direction::Inbound, Action::Allow, list(&["192.0.2.1"]));
    served.subjects = vec![Subject { virtual_service: Some("shop/front".to_owned()), ..Subject::default() }];
    add_rule(&mut store, served);
    let (behind, other) = (pod(), LocalPod { labels: map(&[("app", "db")]), ..pod() });
    let mut together = Resolver::new(&store);
    for pod in [&behind, &other, &behind] {
        assert_eq!(together.resolve(pod, &[ip(NODE)]), resolve(&store, pod, &[ip(NODE)]));
    }
    assert_eq!(inbound(&policy(&store, &behind), "192.0.2.1", 80), Decision::Allow);
    assert_eq!(inbound(&policy(&store, &other), "192.0.2.1", 80), Decision::Default);
}
