//! States about what rules refer to: IPLists, LabelGroups, ServiceDefinitions.

use ringfence_model::Decision::{self, Allow, Default, External, Unmanaged};
use ringfence_model::PolicyState::{Full, Idle};
use ringfence_model::Verdict::{Allowed, Blocked};
use ringfence_oracle::world::Group;

use super::pods::pair;
use super::state::{State, allow};
use super::text;

/// `a` may connect to a list; `b` is unmanaged.
fn listed(name: &'static str) -> State {
    pair(name, Full, None).rules("r", &[""], [allow("app=a", "list:net", "tcp/80")]).class("app=a|pods", "10.0.0.1")
}

pub fn list() -> State {
    listed("an IPList")
        .list("net", "10.0.0.0-10.0.0.255 203.0.113.77", "")
        .says("a/a > b/b tcp/80", Allowed, (Allow, Unmanaged))
        .says("a/a > 203.0.113.77 tcp/80", Allowed, (Allow, External))
        .says("a/a > 203.0.113.77 tcp/81", Blocked, (Default, External))
}

pub fn list_with_exclusion() -> State {
    listed("IPList with exclusion")
        .list("net", "10.0.0.0-10.0.0.255 203.0.113.77", "10.0.0.2")
        .says("a/a > b/b tcp/80", Blocked, (Default, Unmanaged))
        .says("a/a > 10.0.0.3 tcp/80", Allowed, (Allow, External))
        .says("a/a > 203.0.113.77 tcp/80", Allowed, (Allow, External))
}

pub fn list_of_one_family() -> State {
    // Both Pods have an address of each family: what the list says holds for one of them.
    listed("an IPList of one family")
        .pod("a/a", "10.0.0.1 fd00::1", "")
        .pod("b/b", "10.0.0.2 fd00::2", "")
        .class("app=a|pods", "10.0.0.1 fd00::1")
        .list("net", "10.0.0.0-10.0.0.255", "")
        .says("a/a > 10.0.0.2 tcp/80", Allowed, (Allow, Unmanaged))
        .says("a/a > fd00::2 tcp/80", Blocked, (Default, Unmanaged))
}

pub fn list_of_the_other_family() -> State {
    list_of_one_family()
        .but("an IPList of the other family, with a hole")
        .list("net", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::2")
        .class("app=a|pods", "10.0.0.1 fd00::1")
        .says("a/a > 10.0.0.2 tcp/80", Blocked, (Default, Unmanaged))
        .says("a/a > fd00::2 tcp/80", Blocked, (Default, Unmanaged))
        .says("a/a > fd00::3 tcp/80", Allowed, (Allow, External))
        .says("a/a > 203.0.113.77 tcp/80", Blocked, (Default, External))
}

pub fn list_all_excluded() -> State {
    listed("everything of an IPList is excluded")
        .list("net", "10.0.0.0-10.0.0.255", "0.0.0.0-255.255.255.255")
        .says("a/a > b/b tcp/80", Blocked, (Default, Unmanaged))
        .warns("r", "IPList net is empty")
}

pub fn list_missing() -> State {
    listed("an IPList is missing")
        .says("a/a > b/b tcp/80", Blocked, (Default, Unmanaged))
        .warns("r", "there is no IPList net")
}

/// Who is of a group may connect to `c`.
fn grouped(name: &'static str) -> State {
    pair(name, Full, Full)
        .namespace("c", Idle, "app=c")
        .pod("c/c", "10.0.0.3", "")
        .rules("r", &[""], [allow("@g", "app=c", "tcp/80")])
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
        .class("app=c|pods", "10.0.0.3")
}

/// Of who is in the group, and of who is not.
const MEMBER: (Decision, Decision) = (Allow, Decision::Idle);
const NOBODY: (Decision, Decision) = (Default, Decision::Idle);

pub fn group() -> State {
    grouped("a label group").group("g", "a").says("a/a > c/c tcp/80", Allowed, MEMBER).says(
        "b/b > c/c tcp/80",
        Blocked,
        NOBODY,
    )
}

pub fn nested_groups() -> State {
    grouped("nested label groups")
        .group("g", "a @h")
        .group("h", "@i")
        .group("i", "b")
        .says("a/a > c/c tcp/80", Allowed, MEMBER)
        .says("b/b > c/c tcp/80", Allowed, MEMBER)
        .says("b/b > c/c tcp/81", Blocked, NOBODY)
}

pub fn group_cycle() -> State {
    grouped("group cycle").group("g", "@h").group("h", "a @g @h").says("a/a > c/c tcp/80", Allowed, MEMBER).says(
        "b/b > c/c tcp/80",
        Blocked,
        NOBODY,
    )
}

pub fn empty_group_cycle() -> State {
    grouped("group cycle without a value")
        .group("g", "@h")
        .group("h", "@g")
        .says("a/a > c/c tcp/80", Blocked, NOBODY)
        .warns("r", "LabelGroup g is empty")
}

pub fn nested_group_missing() -> State {
    grouped("a nested label group is missing")
        .group("g", "a @h")
        .says("a/a > c/c tcp/80", Allowed, MEMBER)
        .says("b/b > c/c tcp/80", Blocked, NOBODY)
        .warns("r", "there is no LabelGroup h")
}

pub fn nested_group_of_another_dimension() -> State {
    grouped("a nested label group is of another dimension")
        .group("g", "a @h")
        .group("h", "b")
        .with(|world| world.groups.values_mut().filter(|group| group.groups.is_empty()).for_each(to_env))
        .says("a/a > c/c tcp/80", Allowed, MEMBER)
        .says("b/b > c/c tcp/80", Blocked, NOBODY)
        .warns("r", "LabelGroup h is of another dimension")
}

fn to_env(group: &mut Group) {
    group.dimension = text::parsed("env");
}

pub fn group_missing() -> State {
    grouped("a label group is missing").says("a/a > c/c tcp/80", Blocked, NOBODY).warns("r", "there is no LabelGroup g")
}

/// `a` may connect to `b`, on what a definition says.
fn defined(name: &'static str) -> State {
    pair(name, Full, Full)
        .rules("r", &[""], [allow("app=a", "app=b", "@web")])
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn definition() -> State {
    defined("a ServiceDefinition")
        .definition("web", "tcp/80 udp/5000-5002")
        .says("a/a > b/b tcp/80", Allowed, (Allow, Allow))
        .says("a/a > b/b udp/5002", Allowed, (Allow, Allow))
        .says("a/a > b/b udp/5003", Blocked, (Default, Default))
        .says("a/a > b/b udp/80", Blocked, (Default, Default))
}

pub fn definition_changes() -> State {
    defined("a ServiceDefinition has other ports")
        .definition("web", "tcp/81 icmp")
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .says("a/a > b/b tcp/81", Allowed, (Allow, Allow))
        .says("a/a > b/b icmp", Allowed, (Allow, Allow))
}

pub fn definition_empty() -> State {
    defined("a ServiceDefinition is empty")
        .definition("web", "")
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .warns("r", "ServiceDefinition web is empty")
}

pub fn definition_missing() -> State {
    defined("a ServiceDefinition is missing")
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .warns("r", "there is no ServiceDefinition web")
}
