//! Which states follow each other.

use super::expand::Sequence;
use super::state::State;
use super::{machines as m, pods as p, references as r, rules as u, services as s};

/// Sequences of states, each with what it is about.
pub fn sequences() -> Vec<(&'static str, Sequence)> {
    vec![
        ("a Pod and a rule", vec![p::one_pod_no_rule(), p::one_pod_one_rule(), p::two_pods(), p::one_pod_no_rule()]),
        (
            "an address is shared",
            vec![
                p::two_pods(),
                p::pods_share_an_address(),
                p::one_who_shared_has_ended(),
                p::pods_share_an_address(),
                p::two_pods(),
            ],
        ),
        (
            "a class comes and goes",
            vec![
                p::two_pods(),
                p::class_dies(),
                p::two_pods(),
                p::ended_pod(),
                p::pod_without_address(),
                p::two_addresses(),
            ],
        ),
        ("an address is refused", vec![p::two_pods(), p::address_of_a_node(), p::probe(), p::address_of_a_node()]),
        (
            "a profile flips",
            vec![
                p::unmanaged(),
                p::idle(),
                p::visibility_only(),
                p::selective(),
                p::full(),
                p::no_profile(),
                p::full(),
                p::unmanaged(),
            ],
        ),
        (
            "a label is chosen",
            vec![
                p::label_chosen(),
                p::label_changes(),
                p::label_mapped(),
                p::label_refused(),
                p::label_of_mirror_pod(),
                p::label_chosen(),
            ],
        ),
        ("Pod networks", vec![p::two_pods(), p::two_networks(), p::outside_of_both_networks(), p::two_networks()]),
        (
            "actions",
            vec![
                u::deny_beats_nothing(),
                u::allow_beats_deny(),
                u::override_deny_beats_all(),
                u::rule_switched_off(),
                u::rule_set_switched_off(),
                u::override_deny_beats_all(),
            ],
        ),
        (
            "scopes",
            vec![
                u::intra_scope(),
                u::extra_scope(),
                u::two_scopes(),
                u::scope_of_nobody(),
                u::no_scope(),
                u::intra_scope(),
            ],
        ),
        ("terms", vec![u::all_except(), u::all_except_itself(), u::every_workload(), u::all_except()]),
        (
            "lists",
            vec![
                r::list(),
                r::list_with_exclusion(),
                r::list_of_one_family(),
                r::list_of_the_other_family(),
                r::list_all_excluded(),
                r::list_missing(),
                r::list_with_exclusion(),
            ],
        ),
        (
            "groups",
            vec![
                r::group(),
                r::nested_groups(),
                r::group_cycle(),
                r::empty_group_cycle(),
                r::nested_group_missing(),
                r::nested_group_of_another_dimension(),
                r::group_missing(),
                r::group_cycle(),
            ],
        ),
        (
            "definitions",
            vec![
                r::definition(),
                r::definition_changes(),
                r::definition_empty(),
                r::definition_missing(),
                r::definition(),
            ],
        ),
        (
            "Services",
            vec![
                s::by_name(),
                s::by_label(),
                s::denied_by_label(),
                s::of_both_families(),
                s::of_ipv6_first(),
                s::headless(),
                s::without_slices(),
                s::named_port(),
                s::two_ports(),
                s::service_gone(),
                s::service_unmanaged(),
                s::cluster_dns(),
            ],
        ),
        (
            "what is behind a Service",
            vec![s::by_name(), s::into_another_namespace(), s::declared_machine_behind(), s::by_name()],
        ),
        ("a Service and its scope", vec![s::service_out_of_scope(), s::service_in_scope(), s::service_out_of_scope()]),
        (
            "nodes",
            vec![
                m::node_as_workload(),
                m::node_relabelled(),
                m::host_network_pod(),
                m::container_hosts(),
                m::node_reports_an_address(),
                m::two_nodes_report_it(),
                m::master_of_a_provider(),
                m::node_as_workload(),
            ],
        ),
        (
            "machines",
            vec![
                m::unmanaged_machine(),
                m::machine_by_name(),
                m::machine_gone(),
                m::machine_named_like_a_node(),
                m::machine_in_all_workloads(),
                m::machine_not_in_managed(),
                m::unmanaged_machine(),
            ],
        ),
        (
            "slices",
            vec![p::class_of_one_slice(), p::class_of_several_slices(), p::class_of_one_slice(), p::class_dies()],
        ),
        ("everything after everything", everything()),
    ]
}

/// One of each, so that states follow each other that have nothing to do with each other.
fn everything() -> Sequence {
    vec![
        p::pods_share_an_address(),
        s::two_ports(),
        u::two_scopes(),
        r::nested_groups(),
        m::machine_by_name(),
        p::label_mapped(),
        s::into_another_namespace(),
        m::master_of_a_provider(),
        p::two_networks(),
        r::list_with_exclusion(),
        u::override_deny_beats_all(),
        p::full(),
        s::cluster_dns(),
        r::definition_changes(),
        m::node_reports_an_address(),
        p::one_pod_one_rule(),
    ]
}

/// Every state that a sequence holds, once.
pub fn all() -> Vec<State> {
    let mut states: Vec<State> = Vec::new();
    for state in sequences().into_iter().flat_map(|(_, sequence)| sequence) {
        if states.iter().all(|other| other.name != state.name) {
            states.push(state);
        }
    }
    states
}
