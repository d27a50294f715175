//! States about nodes and unmanaged machines.

use ringfence_model::Decision::{Allow, Default, External, Idle, Unmanaged};
use ringfence_model::PolicyState::Full;
use ringfence_model::Verdict::{Allowed, Blocked};

use super::state::{State, allow, extra};
use super::text;

/// `b/b`, which is Full, and the node `w1`.
fn node_and_pod(name: &'static str) -> State {
    State::new(name).node("w1", "172.30.0.1").namespace("b", Full, "app=b").pod("b/b", "10.0.0.2", "")
}

pub fn node_as_workload() -> State {
    node_and_pod("node as workload")
        .workload("w1", "", "role=node")
        .rules("r", &[""], [allow("role=node", "app=b", "tcp/80")])
        .says("node:w1 > b/b tcp/80", Allowed, (Idle, Allow))
        .says("node:w1 > b/b tcp/81", Blocked, (Idle, Default))
        .class("role=node|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn node_relabelled() -> State {
    node_as_workload()
        .but("a node has another label")
        .workload("w1", "", "role=edge")
        .says("node:w1 > b/b tcp/80", Blocked, (Idle, Default))
        .class("role=edge|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn host_network_pod() -> State {
    node_as_workload()
        .but("a host-network Pod is its node")
        .namespace("a", Full, "app=a")
        .pod_with("a/h", "172.30.0.1", "", |pod| pod.host_network = true)
        .says("a/h > b/b tcp/80", Allowed, (Idle, Allow))
        .says("a/h > b/b tcp/81", Blocked, (Idle, Default))
        .class("role=node|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn container_hosts() -> State {
    node_and_pod("container hosts")
        .node("w2", "172.30.0.2")
        .rules("r", &[""], [allow("hosts", "app=b", "tcp/80")])
        .says("node:w1 > b/b tcp/80", Allowed, (Idle, Allow))
        .says("172.30.0.2 > b/b tcp/80", Allowed, (Idle, Allow))
        .says("203.0.113.77 > b/b tcp/80", Blocked, (External, Default))
        .class("|node w1", "172.30.0.1")
        .class("|node w2", "172.30.0.2")
        .class("app=b|pods", "10.0.0.2")
}

pub fn node_reports_an_address() -> State {
    container_hosts()
        .but("a node reports an address")
        .with(|world| {
            world.nodes.values_mut().take(1).for_each(|node| node.reported = [text::parsed("10.0.0.254")].into())
        })
        .says("10.0.0.254 > b/b tcp/80", Allowed, (Idle, Allow))
        .class("|node w1", "172.30.0.1 10.0.0.254")
        .class("|node w2", "172.30.0.2")
        .class("app=b|pods", "10.0.0.2")
}

pub fn two_nodes_report_it() -> State {
    // Then neither has it.
    container_hosts()
        .but("two nodes report one address")
        .with(|world| world.nodes.values_mut().for_each(|node| node.reported = [text::parsed("10.0.0.254")].into()))
        .says("10.0.0.254 > b/b tcp/80", Blocked, (External, Default))
        .class("|node w1", "172.30.0.1")
        .class("|node w2", "172.30.0.2")
        .class("app=b|pods", "10.0.0.2")
}

pub fn master_of_a_provider() -> State {
    // The masters of a managed cluster are the provider's and no workloads.
    container_hosts()
        .but("a provider's master is no workload")
        .with(|world| {
            world.settings.cloud = true;
            world.nodes.values_mut().take(1).for_each(|node| node.control_plane = true);
        })
        .says("node:w1 > b/b tcp/80", Blocked, (External, Default))
        .says("node:w2 > b/b tcp/80", Allowed, (Idle, Allow))
        .class("|node w2", "172.30.0.2")
        .class("app=b|pods", "10.0.0.2")
}

pub fn unmanaged_machine() -> State {
    node_and_pod("unmanaged machine")
        .workload("m", "192.0.2.1", "app=legacy")
        .rules("r", &[""], [allow("app=legacy", "app=b", "tcp/80")])
        .says("192.0.2.1 > b/b tcp/80", Allowed, (Unmanaged, Allow))
        .says("192.0.2.1 > b/b tcp/81", Blocked, (Unmanaged, Default))
        .class("app=legacy|workload m", "192.0.2.1")
        .class("|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn machine_by_name() -> State {
    unmanaged_machine()
        .but("a machine by name")
        .workload("m", "192.0.2.1 192.0.2.2", "")
        .rules("r", &[""], [allow("workload:m", "app=b", "tcp/80")])
        .says("192.0.2.2 > b/b tcp/80", Allowed, (Unmanaged, Allow))
        .class("|workload m", "192.0.2.1 192.0.2.2")
        .class("|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn machine_gone() -> State {
    machine_by_name()
        .but("the machine is gone")
        .with(|world| world.workloads.clear())
        .says("192.0.2.2 > b/b tcp/80", Blocked, (External, Default))
        .warns("r", "there is no Workload m")
        .class("|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn machine_named_like_a_node() -> State {
    // Then it is the node's: discovery finds the addresses of a node.
    unmanaged_machine()
        .but("a machine named like a node")
        .with(|world| world.workloads.clear())
        .workload("w1", "192.0.2.1", "app=legacy")
        .says("192.0.2.1 > b/b tcp/80", Blocked, (External, Default))
        .says("node:w1 > b/b tcp/80", Allowed, (Idle, Allow))
        .class("app=legacy|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn machine_in_all_workloads() -> State {
    // All workloads of the scope; a machine outside is one.
    unmanaged_machine()
        .but("a machine among all workloads")
        .rules("r", &[""], [allow("workloads", "app=b", "tcp/80")])
        .says("192.0.2.1 > b/b tcp/80", Allowed, (Unmanaged, Allow))
        .says("203.0.113.77 > b/b tcp/80", Blocked, (External, Default))
        .class("app=legacy|workload m", "192.0.2.1")
        .class("|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn machine_not_in_managed() -> State {
    // As extra-scope consumers, all managed workloads: never an address outside.
    machine_in_all_workloads()
        .but("a machine among all managed workloads")
        .rules("r", &[""], [extra(allow("workloads", "app=b", "tcp/80"))])
        .says("192.0.2.1 > b/b tcp/80", Blocked, (Unmanaged, Default))
        .says("node:w1 > b/b tcp/80", Allowed, (Idle, Allow))
        .class("app=legacy|workload m", "192.0.2.1")
        .class("|node w1", "172.30.0.1")
        .class("app=b|pods", "10.0.0.2")
}
