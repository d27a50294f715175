//! Names in IP lists: what is computed of them, and that nobody goes by what they may lead to. Expectations by hand.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ringfence_compile::cluster::ClusterState;
use ringfence_crds::workload_policy::{CompiledRule, Peer, PeerNames};
use ringfence_model::{Decision, Direction, Verdict};
use rstest::rstest;
use support::{Lab, pair};

const LIST: &str = "{ranges: [192.0.2.0/24], exclusions: [192.0.2.128/25], fqdns: [DB.example.com., '*.example.org']}";

/// Pod `a/a` in Full, with a rule towards an IP list and one from it, of this action.
fn lab(list: &str, action: &str) -> Lab {
    let mut lab = pair("Full", "Full");
    lab.ip_list("names", list);
    lab.rules(
        "r",
        &format!(
            "[{{name: to, {action} consumers: [{{labels: {{app: [a]}}}}], providers: [{{ipList: names}}], services: [{{protocol: TCP, port: 443}}]}},
              {{name: from, {action} consumers: [{{ipList: names}}], providers: [{{labels: {{app: [b]}}}}], services: [{{protocol: TCP, port: 443}}]}}]"
        ),
    );
    lab
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn rules(lab: &Lab) -> Vec<CompiledRule> {
    let policies = lab.compile().workload_policies.into_values();
    let mut rules: Vec<CompiledRule> = policies.flat_map(|policy| policy.rules).collect();
    rules.sort_by(|a, b| b.name.cmp(&a.name));
    rules
}

#[test]
fn names_go_to_where_a_pod_connects_from() {
    let lab = lab(LIST, "");
    let [to, from] = rules(&lab).try_into().unwrap();
    assert_eq!((to.direction, from.direction), (Direction::Outbound, Direction::Inbound));
    let addresses = Some(texts(&["192.0.2.0/25"]));
    let names = PeerNames { fqdns: texts(&["db.example.com", "*.example.org"]), except: texts(&["192.0.2.128/25"]) };
    assert_eq!(to.peers, [Peer { addresses: addresses.clone(), names: Some(names), ..Peer::default() }]);
    assert_eq!(from.peers, [Peer { addresses, ..Peer::default() }]);
    let warnings = lab.compile().warnings;
    let warnings: Vec<&String> = warnings.values().flatten().collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("rule from: IPList names: its names select nothing here"), "{warnings:?}");
}

#[test]
fn a_list_of_names_alone_opens_no_address() {
    let [to] = rules(&lab("{fqdns: [db.example.com]}", "")).try_into().unwrap();
    let names = PeerNames { fqdns: texts(&["db.example.com"]), except: Vec::new() };
    assert_eq!(to.peers, [Peer { names: Some(names), ..Peer::default() }], "and lets nobody in");
}

#[rstest]
fn a_rule_that_blocks_goes_by_addresses_alone(#[values("action: Deny,", "action: OverrideDeny,")] action: &str) {
    let lab = lab(LIST, action);
    let addresses = Some(texts(&["192.0.2.0/25"]));
    for rule in rules(&lab) {
        assert_eq!(rule.peers, [Peer { addresses: addresses.clone(), ..Peer::default() }], "{}", rule.name);
    }
    let warnings = lab.compile().warnings;
    assert_eq!(warnings.values().flatten().filter(|text| text.contains("so that it cannot be blocked")).count(), 2);
}

#[test]
fn what_cannot_be_read_is_told_and_opens_nothing() {
    let lab = lab("{fqdns: [localhost, db.example.com], exclusions: [nonsense]}", "");
    assert!(rules(&lab).is_empty(), "nobody knows what is excluded");
    let warnings = lab.compile().warnings;
    assert!(warnings.values().flatten().any(|text| text.contains("'localhost' is no domain name")), "{warnings:?}");
}

/// What a name leads to is not known offline: the answer is the default, and says why it may be another.
#[test]
fn explain_does_not_go_by_what_a_name_may_lead_to() {
    let lab = lab(LIST, "");
    assert_eq!(lab.verdict("pod/a/a", "192.0.2.1", "443/tcp"), Verdict::Allowed, "it is among the ranges");
    for address in ["192.0.2.129", "198.51.100.1"] {
        let answer = lab.explain("pod/a/a", address, "443/tcp");
        assert_eq!((answer.verdict, answer.source.decision), (Verdict::Blocked, Decision::Default), "{address}");
        let why = answer.source.nearest.unwrap().why.join("; ");
        let unknown =
            "of its names (db.example.com, *.example.org) what they lead to is known only to the agent of the Pod";
        assert!(why.contains(unknown), "{why}");
    }
}

#[test]
fn names_change_nothing_for_a_cluster_without_pods() {
    let mut lab = lab(LIST, "");
    lab.cluster = ClusterState::default();
    assert!(lab.compile().peer_groups.is_empty());
}
