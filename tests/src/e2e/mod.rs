//! The real-cluster tests. Each is a function that gets the lab; expected verdicts are written from the policy model.

mod agent;
mod bed;
mod cli;
mod delivery;
mod dual_stack;
mod essential;
mod explain;
mod exposed;
mod flows;
mod git;
mod git_access;
mod git_owned;
mod host;
mod lifecycle;
mod master;
mod off;
mod outage;
mod placement;
mod polling;
mod robust;
mod rules;
mod scene;
mod services;
mod starts;
mod states;
mod upgrade;
mod waiting;
mod ways;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::lab::Lab;

/// What a test came to, when it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything held.
    Passed,
    /// Everything that ran held; these parts could not run, and why.
    Partly(Vec<String>),
    /// It could not run, and why.
    NotRun(String),
}

/// A test under way.
pub type Running = Pin<Box<dyn Future<Output = Result<Outcome>>>>;

/// A test.
pub struct Case {
    /// What it shows.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(Lab) -> Running,
}

/// Makes a [`Case`] of an async function.
macro_rules! case {
    ($function:path) => {
        Case { name: stringify!($function), run: |lab| Box::pin($function(lab)) }
    };
}

/// Every test, in the order in which they run.
pub fn cases() -> Vec<Case> {
    vec![
        case!(states::every_state_direction_and_action),
        case!(rules::every_kind_of_actor_service_and_scope),
        case!(explain::explain_agrees_with_real_connections),
        case!(dual_stack::rules_hold_over_both_families),
        case!(lifecycle::a_namespace_is_created_managed_and_unmanaged),
        case!(lifecycle::pods_are_added_scaled_relabelled_and_deleted),
        case!(services::virtual_services_list_their_controllers),
        case!(services::a_virtual_service_opens_exactly_its_ports),
        case!(git::a_broken_commit_is_refused_whole),
        case!(git::a_repository_that_cannot_be_read_says_why),
        case!(git_access::a_private_repository_needs_its_password),
        case!(git_owned::git_owned_objects_are_put_back_and_pruned),
        case!(git_owned::what_is_not_to_be_pruned_stays),
        case!(git::two_owners_of_one_object_are_an_error_on_the_second),
        case!(delivery::argo_cd_delivers_the_example),
        case!(delivery::flux_delivers_the_example),
        case!(placement::the_container_cluster_says_what_was_found),
        case!(placement::host_network_pods_follow_their_node),
        case!(host::a_node_in_full_is_open_where_it_must_be),
        case!(host::a_node_policy_that_cuts_the_apiserver_is_taken_back),
        case!(host::a_node_policy_that_cuts_pods_of_two_nodes_is_taken_back),
        case!(master::a_master_in_full_is_open_where_its_static_pods_listen),
        case!(polling::nothing_is_listed_in_an_idle_minute),
        case!(ways::every_way_of_the_table),
        case!(essential::names_are_resolved_without_a_rule),
        case!(flows::a_tightened_policy_ends_exactly_its_flows),
        case!(flows::a_tightened_policy_ends_what_a_server_pushes),
        case!(flows::a_loosened_policy_ends_nothing),
        case!(flows::a_tightened_policy_ends_flows_through_the_gate),
        case!(flows::flows_older_than_the_rules_are_judged_as_new_ones),
        case!(robust::a_rule_set_waits_for_every_node),
        case!(waiting::full_waits_for_every_node),
        case!(robust::large_annotations_hide_no_pod),
        case!(robust::a_report_that_is_lost_is_made_again),
        case!(robust::a_killed_agent_changes_no_verdict),
        case!(robust::a_replaced_agent_changes_no_verdict),
        case!(robust::pods_are_enforced_without_the_controller),
        case!(robust::a_second_controller_takes_over),
        case!(outage::enforcement_stays_without_the_apiserver),
        case!(starts::no_pod_in_full_starts_while_its_agent_is_silent),
        case!(starts::a_node_restarts_before_the_apiserver_is_there),
        case!(off::suspended_enforcement_leaves_nothing),
        case!(off::one_node_is_turned_off_and_on),
        case!(off::an_uninstallation_that_an_agent_does_not_answer_is_refused),
        case!(off::an_uninstallation_leaves_nothing_on_any_node),
        case!(bed::a_cluster_that_was_killed_half_way_is_taken_down),
        case!(placement::a_node_joins_and_leaves),
        case!(placement::management_decides_where_agents_run),
        case!(upgrade::helm_upgrades_from_the_previous_commit),
    ]
}

/// Prints what helps to understand a failure: what is not Ready, and the last words of controller and agents.
pub fn dump(lab: &Lab) {
    let said = "jsonpath={range .items[*]}{.metadata.name}: {.status.conditions} {.status.problems}{\"\\n\"}{end}";
    let commands: [&[&str]; 5] = [
        &["get", "ringfence", "-A"],
        // Why a node is not Ready.
        &["get", "nodepolicies", "-o", said],
        &["get", "pods", "-A", "-o", "wide"],
        &["logs", "-n", "ringfence-system", "-l", "app.kubernetes.io/component=controller", "--tail=40"],
        &["logs", "-n", "ringfence-system", "-l", "app.kubernetes.io/component=agent", "--tail=25", "--prefix"],
    ];
    for command in commands {
        match lab.kubectl(command, &[]) {
            Ok(text) => eprintln!("--- kubectl {}\n{text}", command.join(" ")),
            Err(error) => eprintln!("--- kubectl {}: {error:#}", command.join(" ")),
        }
    }
}
