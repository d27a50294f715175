//! States about rules: actions, scopes, terms.

use ringfence_model::Decision::{Allow, Default, Deny, Idle, OverrideDeny};
use ringfence_model::PolicyState::{self, Full, Selective};
use ringfence_model::Verdict::{Allowed, Blocked, PotentiallyBlocked};

use super::pods::pair;
use super::state::{State, allow, deny, extra, off, override_deny};

fn with_classes(state: State) -> State {
    state.class("app=a|pods", "10.0.0.1").class("app=b|pods", "10.0.0.2")
}

pub fn deny_beats_nothing() -> State {
    with_classes(pair("deny beats nothing", Selective, PolicyState::Idle))
        .rules("r", &[""], [deny("app=a", "app=b", "tcp/80")])
        .says("a/a > b/b tcp/80", Blocked, (Deny, Idle))
        .says("a/a > b/b tcp/5432", PotentiallyBlocked, (Default, Idle))
}

pub fn allow_beats_deny() -> State {
    // In another RuleSet: their order does not matter.
    with_classes(deny_beats_nothing().but("allow beats deny"))
        .rules("a", &[""], [allow("app=a", "app=b", "tcp")])
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .says("a/a > b/b tcp/5432", Allowed, (Allow, Idle))
}

pub fn override_deny_beats_all() -> State {
    with_classes(allow_beats_deny().but("override deny"))
        .rules("z", &[""], [override_deny("app=a", "app=b", "tcp/80")])
        .says("a/a > b/b tcp/80", Blocked, (OverrideDeny, Idle))
        .says("a/a > b/b tcp/5432", Allowed, (Allow, Idle))
}

pub fn rule_switched_off() -> State {
    with_classes(override_deny_beats_all().but("a rule is switched off"))
        .rules("z", &[""], [off(override_deny("app=a", "app=b", "tcp/80"))])
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
}

pub fn rule_set_switched_off() -> State {
    with_classes(allow_beats_deny().but("a RuleSet is switched off"))
        .with(|world| {
            world.rule_sets.values_mut().filter(|set| set.rules.len() == 1).for_each(|set| set.enabled = false)
        })
        .says("a/a > b/b tcp/80", PotentiallyBlocked, (Default, Idle))
}

/// `a` is of `env=dev`, `b` and `c` of `env=prod`; all are Full.
fn environments(name: &'static str) -> State {
    pair(name, Full, Full)
        .namespace("a", Full, "app=a env=dev")
        .namespace("b", Full, "app=b env=prod")
        .namespace("c", Full, "app=c env=prod")
        .pod("c/c", "10.0.0.3", "")
        .class("app=a,env=dev|pods", "10.0.0.1")
        .class("app=b,env=prod|pods", "10.0.0.2")
        .class("app=c,env=prod|pods", "10.0.0.3")
}

pub fn intra_scope() -> State {
    // The scope holds for both ends.
    environments("intra-scope")
        .rules("r", &["env=prod"], [allow("app=a|c", "app=b", "tcp/80")])
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .says("c/c > b/b tcp/80", Allowed, (Allow, Allow))
}

pub fn extra_scope() -> State {
    // It holds for the providers only.
    environments("extra-scope")
        .rules("r", &["env=prod"], [extra(allow("app=a|c", "app=b", "tcp/80"))])
        .says("a/a > b/b tcp/80", Allowed, (Allow, Allow))
        .says("c/c > b/b tcp/80", Allowed, (Allow, Allow))
        .says("a/a > c/c tcp/80", Blocked, (Default, Default))
}

pub fn two_scopes() -> State {
    // Each is taken on its own: no rule leads from one to the other.
    environments("two scopes")
        .rules("r", &["env=dev", "env=prod"], [allow("workloads", "workloads", "all")])
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .says("c/c > b/b tcp/80", Allowed, (Allow, Allow))
        .says("b/b > c/c udp/53", Allowed, (Allow, Allow))
}

pub fn scope_of_nobody() -> State {
    environments("a scope of nobody").rules("r", &["env=test"], [allow("workloads", "workloads", "all")]).says(
        "c/c > b/b tcp/80",
        Blocked,
        (Default, Default),
    )
}

pub fn no_scope() -> State {
    environments("no scope at all")
        .rules("r", &[], [allow("workloads", "workloads", "all")])
        .says("c/c > b/b tcp/80", Blocked, (Default, Default))
        .warns("r", "scopes is empty")
}

/// `d` has no app.
pub fn all_except() -> State {
    // Another value in the dimension; who has none does not match.
    with_classes(pair("all except", Full, PolicyState::Idle))
        .namespace("d", Full, "")
        .pod("d/d", "10.0.0.4", "")
        .rules("r", &[""], [allow("app!=b", "app=b", "tcp/80")])
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .says("d/d > b/b tcp/80", Blocked, (Default, Idle))
        .class("|pods", "10.0.0.4")
}

pub fn all_except_itself() -> State {
    with_classes(all_except().but("all except oneself"))
        .rules("r", &[""], [allow("app!=a", "app=b", "tcp/80")])
        .says("a/a > b/b tcp/80", Blocked, (Default, Idle))
        .class("|pods", "10.0.0.4")
}

pub fn every_workload() -> State {
    with_classes(all_except().but("all workloads"))
        .rules("r", &[""], [allow("workloads", "app=b", "tcp/80")])
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .says("d/d > b/b tcp/80", Allowed, (Allow, Idle))
        .class("|pods", "10.0.0.4")
}
