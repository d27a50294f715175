//! States about Pods: their labels, their addresses, what becomes of their classes.

use ringfence_model::Decision::{Allow, Default, Deny, Essential, External, Idle, Unmanaged};
use ringfence_model::PolicyState::{self, Full};
use ringfence_model::Protocol;
use ringfence_model::Verdict::{Allowed, Blocked, PotentiallyBlocked, Unknown};

use super::state::{State, allow, deny};
use super::text;

/// `a/a` (app=a, 10.0.0.1) and `b/b` (app=b, 10.0.0.2) in these states.
pub fn pair(name: &'static str, a: impl Into<Option<PolicyState>>, b: impl Into<Option<PolicyState>>) -> State {
    State::new(name)
        .namespace("a", a, "app=a")
        .namespace("b", b, "app=b")
        .pod("a/a", "10.0.0.1", "")
        .pod("b/b", "10.0.0.2", "")
}

fn one_pod(name: &'static str) -> State {
    State::new(name).namespace("a", Full, "app=a").pod("a/a", "10.0.0.1", "")
}

pub fn one_pod_no_rule() -> State {
    one_pod("one Pod, no rule")
        .says("a/a > 203.0.113.77 tcp/80", Blocked, (Default, External))
        .says("203.0.113.77 > a/a tcp/80", Blocked, (External, Default))
        .says("a/a > 10.0.0.1 tcp/80", Allowed, (Essential, Essential))
        .class("app=a|pods", "10.0.0.1")
}

pub fn one_pod_one_rule() -> State {
    one_pod("one Pod, one rule")
        .list("any", "0.0.0.0-255.255.255.255", "")
        .rules("r", &[""], [allow("app=a", "list:any", "tcp/80")])
        .says("a/a > 203.0.113.77 tcp/80", Allowed, (Allow, External))
        .says("a/a > 203.0.113.77 tcp/81", Blocked, (Default, External))
        .says("203.0.113.77 > a/a tcp/80", Blocked, (External, Default))
        .class("app=a|pods", "10.0.0.1")
}

pub fn two_pods() -> State {
    pair("two Pods", Full, Full)
        .rules("r", &[""], [allow("app=a", "app=b", "tcp/80")])
        .says("a/a > b/b tcp/80", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/5432", Blocked, (Default, Default))
        .says("b/b > a/a tcp/80", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn pods_share_an_address() -> State {
    // Two Pods with one address are no peers until that is resolved.
    two_pods()
        .but("two Pods share an address")
        .pod("b/b", "10.0.0.1", "")
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .says("203.0.113.77 > 10.0.0.1 tcp/80", Unknown, (External, External))
        .class("app=a|pods", "")
        .class("app=b|pods", "")
}

pub fn one_who_shared_has_ended() -> State {
    pods_share_an_address()
        .but("one of those who shared an address has ended")
        .pod_with("a/a", "10.0.0.1", "", |pod| pod.ended = true)
        .says("203.0.113.77 > 10.0.0.1 tcp/80", Blocked, (External, Default))
        .class("app=b|pods", "10.0.0.1")
}

pub fn ended_pod() -> State {
    two_pods()
        .but("a Pod has ended")
        .pod_with("a/a", "10.0.0.1", "", |pod| pod.ended = true)
        .says("10.0.0.1 > b/b tcp/80", Blocked, (External, Default))
        .class("app=b|pods", "10.0.0.2")
}

pub fn class_dies() -> State {
    two_pods()
        .but("a class dies")
        .with(|world| _ = world.pods.remove(&text::key("a/a")))
        .says("10.0.0.1 > b/b tcp/80", Blocked, (External, Default))
        .class("app=b|pods", "10.0.0.2")
}

pub fn pod_without_address() -> State {
    two_pods()
        .but("a Pod has no address yet")
        .pod("b/b", "", "")
        .says("a/a > b/b tcp/80", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/5432", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "")
}

pub fn two_addresses() -> State {
    two_pods()
        .but("a Pod has an address of each family")
        .pod("b/b", "10.0.0.2 fd00::2", "")
        .says("a/a > fd00::2 tcp/80", Allowed, (Allow, Allow))
        .says("a/a > 10.0.0.2 tcp/5432", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2 fd00::2")
}

pub fn address_of_a_node() -> State {
    // A Pod that says it has the address of a node is not known by it.
    two_pods()
        .but("a Pod claims the address of a node")
        .node("w1", "172.30.0.1")
        .pod("b/b", "172.30.0.1", "")
        .says("a/a > b/b tcp/80", Blocked, (Default, Allow))
        .says("a/a > node:w1 tcp/80", Blocked, (Default, Idle))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "")
        .class("|node w1", "172.30.0.1")
}

/// `a` in a state, with an Allow on 80 and a Deny on 445 to `b`, which is Idle.
fn flipped(name: &'static str, state: impl Into<Option<PolicyState>>) -> State {
    pair(name, state, PolicyState::Idle)
        .rules("r", &[""], [allow("app=a", "app=b", "tcp/80"), deny("app=a", "app=b", "tcp/445")])
        .class("app=b|pods", "10.0.0.2")
}

pub fn unmanaged() -> State {
    flipped("the profile is unmanaged", None).says("a/a > b/b tcp/80", Allowed, (Unmanaged, Idle)).says(
        "a/a > b/b tcp/445",
        Allowed,
        (Unmanaged, Idle),
    )
}

pub fn idle() -> State {
    flipped("the profile flips to Idle", PolicyState::Idle)
        .says("a/a > b/b tcp/80", Allowed, (Idle, Idle))
        .says("a/a > b/b tcp/445", Allowed, (Idle, Idle))
        .class("app=a|pods", "10.0.0.1")
}

pub fn visibility_only() -> State {
    flipped("the profile flips to VisibilityOnly", PolicyState::VisibilityOnly)
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .says("a/a > b/b tcp/445", PotentiallyBlocked, (Deny, Idle))
        .says("a/a > b/b tcp/81", PotentiallyBlocked, (Default, Idle))
        .class("app=a|pods", "10.0.0.1")
}

pub fn selective() -> State {
    flipped("the profile flips to Selective", PolicyState::Selective)
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .says("a/a > b/b tcp/445", Blocked, (Deny, Idle))
        .says("a/a > b/b tcp/81", PotentiallyBlocked, (Default, Idle))
        .class("app=a|pods", "10.0.0.1")
}

pub fn full() -> State {
    flipped("the profile flips to Full", Full)
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .says("a/a > b/b tcp/445", Blocked, (Deny, Idle))
        .says("a/a > b/b tcp/81", Blocked, (Default, Idle))
        .class("app=a|pods", "10.0.0.1")
}

pub fn no_profile() -> State {
    // A namespace without a profile has the default, which is unmanaged.
    full()
        .but("the profile is gone")
        .with(|world| _ = world.profiles.remove("a"))
        .says("a/a > b/b tcp/445", Allowed, (Unmanaged, Idle))
        .class("app=b|pods", "10.0.0.2")
}

/// `a/a` chooses its role; who is `web` may connect to `b`.
fn chooses(name: &'static str, chosen: &str) -> State {
    pair(name, Full, PolicyState::Idle)
        .namespace("a", Full, "app=a role=?web|db")
        .pod("a/a", "10.0.0.1", chosen)
        .rules("r", &[""], [allow("role=web", "app=b", "tcp/80")])
        .class("app=b|pods", "10.0.0.2")
}

pub fn label_chosen() -> State {
    chooses("a Pod chooses a label", "role=web")
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .class("app=a,role=web|pods", "10.0.0.1")
}

pub fn label_changes() -> State {
    chooses("a Pod chooses another label", "role=db")
        .says("a/a > b/b tcp/80", Blocked, (Default, Idle))
        .class("app=a,role=db|pods", "10.0.0.1")
}

pub fn label_refused() -> State {
    // A value outside the list is ignored, and nobody annotates away what is fixed.
    chooses("a Pod asks for labels that it may not choose", "role=root app=b env=prod")
        .says("a/a > b/b tcp/80", Blocked, (Default, Idle))
        .class("app=a|pods", "10.0.0.1")
}

pub fn label_of_mirror_pod() -> State {
    label_chosen()
        .but("a static Pod takes only fixed labels")
        .pod_with("a/a", "10.0.0.1", "role=web", |pod| pod.mirror = true)
        .says("a/a > b/b tcp/80", Blocked, (Default, Idle))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn label_mapped() -> State {
    // The label map comes before the annotation.
    label_changes()
        .but("the label map gives a label")
        .label_map("tier", "role")
        .pod_with("a/a", "10.0.0.1", "role=db", |pod| pod.labels = text::strings("tier=web"))
        .says("a/a > b/b tcp/80", Allowed, (Allow, Idle))
        .class("app=a,role=web|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn probe() -> State {
    two_pods()
        .but("a probe of the own node")
        .node("w1", "172.30.0.1")
        .node("w2", "172.30.0.2")
        .pod_with("b/b", "10.0.0.2", "", |pod| _ = pod.probe_ports.insert((Protocol::TCP, 9000)))
        .says("node:w1 > b/b tcp/9000", Allowed, (Idle, Essential))
        .says("node:w1 > b/b tcp/9001", Blocked, (Idle, Default))
        .says("node:w2 > b/b tcp/9000", Blocked, (Idle, Default))
        .says("a/a > b/b tcp/9000", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
        .class("|node w1", "172.30.0.1")
        .class("|node w2", "172.30.0.2")
}

/// `a` has so many Pods; all of them may connect to `b`.
fn crowd(name: &'static str, count: usize) -> State {
    let addresses: Vec<String> = (0..count).map(|number| format!("10.1.{}.{}", number / 100, number % 100)).collect();
    let state = pair(name, Full, Full).with(|world| world.pods.clear()).pod("b/b", "10.0.0.2", "");
    let numbered = addresses.iter().enumerate();
    let state = numbered.fold(state, |state, (number, address)| state.pod(&format!("a/p{number}"), address, ""));
    state
        .rules("r", &[""], [allow("app=a", "app=b", "tcp/80")])
        .says("a/p0 > b/b tcp/80", Allowed, (Allow, Allow))
        .says("a/p0 > b/b tcp/81", Blocked, (Default, Default))
        .class("app=a|pods", &addresses.join(" "))
        .class("app=b|pods", "10.0.0.2")
}

pub fn class_of_one_slice() -> State {
    crowd("a class of 95 Pods", 95)
}

pub fn class_of_several_slices() -> State {
    crowd("a class grows over 100 Pods", 115)
}

/// Two networks, `a/a` on the first.
fn networks(name: &'static str, address_of_b: &str) -> State {
    two_pods()
        .but(name)
        .network("one", "10.0.0.0-10.0.0.255")
        .network("two", "10.0.1.0-10.0.1.255")
        .pod("b/b", address_of_b, "")
        .class("app=a|pods", "10.0.0.1")
}

pub fn two_networks() -> State {
    networks("two Pod networks", "10.0.1.2")
        .says("a/a > b/b tcp/80", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/81", Blocked, (Default, Default))
        .class("app=b|pods", "10.0.1.2")
}

pub fn outside_of_both_networks() -> State {
    // An address outside its node's Pod network is refused.
    networks("an address outside of both Pod networks", "10.0.2.2")
        .says("a/a > b/b tcp/80", Blocked, (Default, Allow))
        .class("app=b|pods", "")
}
