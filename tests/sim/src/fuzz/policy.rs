//! Bytes as the files of a commit.

use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_compile::cluster::ClusterState;
use ringfence_compile::compile::{Computed, compile};
use ringfence_compile::policy::Policy;
use ringfence_compile::source::{
    LiveNames, Parsed, ParsedSpec, Problem, Severity, SourceFile, check, file, parse, to_policy,
};
use ringfence_crds::workload_policy::{CompiledRule, Peer};
use ringfence_crds::{IpListSpec, RuleSetSpec};
use ringfence_model::{Action, AddressSet, Direction, NamePattern};
use ringfence_oracle::World;
use serde_json::Value;

use crate::convert;
use crate::random::Random;

/// What stands between two files.
const NEXT_FILE: &str = "\n%%%\n";
/// The seed of the cluster that policy is compiled for.
const SEED: u64 = 1;

/// Reads bytes as a commit. Whatever they are, it ends, every problem says where it is, what is applied is what was checked,
/// and nothing is opened that is not written.
///
/// # Panics
/// When that is not so.
pub fn policy(bytes: &[u8]) {
    let Ok(all) = file("all".to_owned(), bytes.to_vec()) else { return };
    let texts = all.text.split(NEXT_FILE).enumerate();
    let files: Vec<SourceFile> =
        texts.map(|(number, text)| SourceFile { path: format!("{number}.yaml"), text: text.to_owned() }).collect();
    let parsed = parse(&files);
    let checked = check(&parsed, &LiveNames::default());
    parsed.problems.iter().chain(&checked).for_each(|problem| check_problem(problem, &files));
    let refused = |problems: &[Problem]| problems.iter().any(|problem| problem.severity == Severity::Error);
    if !refused(&parsed.problems) {
        check_applied(&parsed);
    }
    let policy = to_policy(&parsed);
    check_width(&policy, &compile(&policy, &cluster()));
}

/// A cluster in which some Pods, nodes and Services are.
fn cluster() -> ClusterState {
    let mut random = Random::new(SEED);
    let mut world = World::default();
    (0..60).for_each(|_| random.change(&mut world));
    convert::inputs(&world).1
}

/// A problem is at a place of a file, in so many words that people read them.
fn check_problem(problem: &Problem, files: &[SourceFile]) {
    let file = files.iter().find(|file| file.path == problem.path);
    let lines = file.unwrap_or_else(|| panic!("a problem of no file: {problem}")).text.split(['\n', '\r']).count();
    // Also one place behind the end, where something is missing.
    assert!(problem.line >= 1 && problem.line <= lines as u64 + 1 && problem.column >= 1, "{problem} of {lines} lines");
    assert!(!problem.message.is_empty() && problem.message.len() < 4096, "{} bytes of words", problem.message.len());
}

/// What the apiserver is given, the object as it is written, is what was checked: the same is read from it again.
fn check_applied(parsed: &Parsed) {
    for object in &parsed.objects {
        let text = serde_json::to_string(&object.json).unwrap_or_else(|error| panic!("{}: {error}", object.key));
        let again = parse(&[SourceFile { path: "again.yaml".to_owned(), text: text.clone() }]);
        let specs: Vec<&ParsedSpec> = again.objects.iter().map(|object| &object.spec).collect();
        assert_eq!(specs, [&object.spec], "{text}: {:?}", again.problems);
        assert_eq!(again.objects[0].key, object.key);
        let spec = serde_json::to_value(object.json.get("spec")).unwrap_or(Value::Null);
        assert_eq!(typed(&object.spec, spec), Ok(()), "{text}");
    }
}

/// The spec as the apiserver's clients will read it.
fn typed(checked: &ParsedSpec, applied: Value) -> Result<(), String> {
    macro_rules! same {
        ($($kind:ident),*) => {
            match checked {
                $(ParsedSpec::$kind(checked) => match serde_json::from_value(applied) {
                    Ok(applied) if *checked == applied => Ok(()),
                    Ok(applied) => Err(format!("checked {checked:?}, applied {:?}", ParsedSpec::$kind(applied))),
                    Err(error) => Err(error.to_string()),
                }),*
            }
        };
    }
    same!(
        ContainerCluster,
        ContainerWorkloadProfile,
        VirtualService,
        Workload,
        IpList,
        LabelGroup,
        ServiceDefinition,
        RuleSet,
        PolicyRepository
    )
}

/// Nothing is wider than it is written: not the ports, not the addresses, not who is meant.
fn check_width(policy: &Policy, computed: &Computed) {
    for object in computed.workload_policies.values() {
        let spec = policy.rule_sets.get(&object.rule_set);
        let spec = spec.unwrap_or_else(|| panic!("a policy of no RuleSet: {object:?}"));
        assert!(spec.enabled && !spec.scopes.is_empty(), "{object:?}");
        for rule in &object.rules {
            check_rule(policy, computed, spec, rule);
        }
    }
}

fn check_rule(policy: &Policy, computed: &Computed, spec: &RuleSetSpec, rule: &CompiledRule) {
    let written: Vec<_> = spec.rules.iter().filter(|own| own.enabled && own.name == rule.name).collect();
    assert!(written.iter().any(|own| own.action == rule.action), "{rule:?}");
    assert!(!rule.subjects.is_empty() && !rule.peers.is_empty(), "{rule:?}");
    assert!(!rule.all_services || written.iter().any(|own| own.all_services), "{rule:?}");
    let named = rule.all_services || rule.virtual_service_ports || !rule.services.is_empty();
    assert!(named, "no port means none, and such a rule is not written: {rule:?}");
    if rule.action != Action::Allow {
        assert!(rule.peers.iter().all(|peer| peer.names.is_none()), "{rule:?}");
        return;
    }
    let everywhere = spec.scopes.iter().any(|scope| scope.labels.is_empty());
    let mut actors = written.iter().flat_map(|own| own.consumers.iter().chain(&own.providers));
    let extra = written.iter().any(|own| own.extra_scope);
    let anybody = (everywhere || extra) && actors.any(|actor| actor.all_workloads);
    let lists: Vec<&IpListSpec> = written
        .iter()
        .flat_map(|own| own.consumers.iter().chain(&own.providers))
        .filter_map(|actor| policy.ip_lists.get(actor.ip_list.as_ref()?))
        .collect();
    let ranges: Vec<(IpAddr, IpAddr)> =
        lists.iter().flat_map(|list| list.ranges.iter().filter_map(|text| range(text))).collect();
    for Peer { peer_group, addresses, names, .. } in &rule.peers {
        assert!(names.is_none() || rule.direction == Direction::Outbound, "{rule:?}");
        for name in names.iter().flat_map(|names| &names.fqdns) {
            let is = |text: &String| text.parse().is_ok_and(|own: NamePattern| own.to_string() == *name);
            assert!(lists.iter().any(|list| list.fqdns.iter().any(is)), "{name} of {rule:?} is in no list");
        }
        if let Some(group) = peer_group {
            let group = computed.peer_groups.get(group).unwrap_or_else(|| panic!("there is no {group}: {rule:?}"));
            let wide = ["everything", "managed workloads"].contains(&group.selector.as_str());
            assert!(!wide || anybody, "{} of {rule:?}", group.selector);
        }
        for text in addresses.iter().flatten() {
            let net: IpNet = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(covers(&ranges, net), "{text} of {rule:?} is not in {ranges:?}");
        }
    }
}

/// Whether ranges together hold a whole prefix.
fn covers(ranges: &[(IpAddr, IpAddr)], net: IpNet) -> bool {
    let mut next = net.network();
    loop {
        let holding = ranges.iter().filter(|(first, last)| *first <= next && next <= *last);
        match holding.map(|(_, last)| *last).max() {
            Some(last) if last >= net.broadcast() => return true,
            Some(last) => next = after(last),
            None => return false,
        }
    }
}

/// The next address; it is only asked of one below the end of a prefix.
fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).wrapping_add(1).into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).wrapping_add(1).into()),
    }
}

/// First and last address of what is written in an IPList.
fn range(text: &str) -> Option<(IpAddr, IpAddr)> {
    let nets = AddressSet::parse(text).ok()?;
    Some((nets.first()?.network(), nets.last()?.broadcast()))
}
