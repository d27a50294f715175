//! States about Services.

use ringfence_model::Decision::{Allow, Default, Essential, External, Unmanaged};
use ringfence_model::PolicyState::Full;
use ringfence_model::Protocol;
use ringfence_model::Verdict::{Allowed, Blocked};

use super::pods::pair;
use super::state::{State, allow, deny, extra};
use super::text;

/// `a/a`, and `b/b` behind the Service `b/db`: 80 leads to 5432.
fn behind(name: &'static str) -> State {
    pair(name, Full, Full)
        .pod_with("b/b", "10.0.0.2", "", |pod| pod.labels = text::strings("tier=db"))
        .service("b/db", "10.96.0.1", "tier=db", "pg:80>5432/tcp")
        .slice("b/db", "e", "10.0.0.2=b/b", "pg:5432/tcp")
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn by_name() -> State {
    behind("VirtualService by name")
        .rules("r", &[""], [allow("app=a", "svc:b/db", "own")])
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/5432", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .says("a/a > b/b udp/5432", Blocked, (Default, Default))
}

pub fn by_label() -> State {
    // A rule whose provider is a label reaches it through the Service in front of it.
    behind("a label through its Service")
        .rules("r", &[""], [allow("app=a", "app=b", "tcp/5432")])
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/5432", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
}

pub fn denied_by_label() -> State {
    // A Deny hits a front end only when everything behind it is denied: here it is.
    behind("a label is denied through its Service")
        .rules("r", &[""], [allow("app=a", "svc:b/db", "own"), deny("app=a", "app=b", "tcp/5432")])
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
}

/// Both Pods have an address of each family, and so has the Service.
fn behind_both(name: &'static str, cluster_ips: &str) -> State {
    behind(name)
        .pod("a/a", "10.0.0.1 fd00::1", "")
        .pod_with("b/b", "10.0.0.2 fd00::2", "", |pod| pod.labels = text::strings("tier=db"))
        .service("b/db", cluster_ips, "tier=db", "pg:80>5432/tcp")
        .slice("b/db", "e", "10.0.0.2=b/b", "pg:5432/tcp")
        .slice("b/db", "e6", "fd00::2=b/b", "pg:5432/tcp")
        .class("app=a|pods", "10.0.0.1 fd00::1")
        .class("app=b|pods", "10.0.0.2 fd00::2")
}

pub fn of_both_families() -> State {
    behind_both("a Service of both families", "10.96.0.1 fd96::1")
        .rules("r", &[""], [allow("app=a", "svc:b/db", "own")])
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
        .says("a/a > 10.0.0.2 tcp/5432", Allowed, (Allow, Allow))
        .says("a/a > fd00::2 tcp/5432", Allowed, (Allow, Allow))
        .says("a/a > fd00::2 tcp/80", Blocked, (Default, Default))
}

pub fn of_ipv6_first() -> State {
    // Its first ClusterIP leads to back ends of IPv6 alone.
    behind_both("a Service of IPv6 first", "fd96::1 10.96.0.1")
        .list("v4", "10.0.0.0-10.255.255.255", "")
        .rules("r", &[""], [allow("list:v4", "app=b", "tcp/5432"), allow("app=a", "svc:b/db", "own")])
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
        .says("10.0.0.9 > 10.0.0.2 tcp/5432", Allowed, (External, Allow))
        .says("fd00::9 > fd00::2 tcp/5432", Blocked, (External, Default))
}

pub fn headless() -> State {
    by_name()
        .but("headless Service")
        .with(|world| world.services.values_mut().for_each(|service| service.cluster_ips.clear()))
        .says("a/a > b/b tcp/5432", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/80", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn without_slices() -> State {
    // The consumer knows no back end; the provider knows by the selector that it is one.
    by_name()
        .but("a Service without slices")
        .with(|world| world.services.values_mut().for_each(|service| service.slices.clear()))
        .says("a/a > b/b tcp/5432", Blocked, (Default, Allow))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn named_port() -> State {
    by_name()
        .but("a Service port leads to a named one")
        .service("b/db", "10.96.0.1", "tier=db", "pg:80>postgres/tcp")
        .slice("b/db", "e", "10.0.0.2=b/b", "pg:5432/tcp")
        .pod_with("b/b", "10.0.0.2", "", |pod| {
            pod.labels = text::strings("tier=db");
            pod.ports = vec![("postgres".to_owned(), Protocol::TCP, 5432)];
        })
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/5432", Allowed, (Allow, Allow))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn two_ports() -> State {
    // Each port and protocol is a pair, and never the cross product.
    by_name()
        .but("a Service of two ports")
        .service("b/db", "10.96.0.1", "tier=db", "pg:80>5432/tcp dns:53>5353/udp")
        .slice("b/db", "e", "10.0.0.2=b/b", "pg:5432/tcp dns:5353/udp")
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
        .says("a/a > svc:b/db udp/53", Allowed, (Allow, Allow))
        .says("a/a > b/b tcp/5353", Blocked, (Default, Default))
        .says("a/a > b/b udp/5432", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn into_another_namespace() -> State {
    // CVE-2021-25740: what is behind is neither a Pod of the Service's namespace nor a declared machine.
    by_name()
        .but("Service into another namespace")
        .namespace("c", Full, "app=c")
        .pod("c/c", "10.0.0.3", "")
        .service("b/db", "10.96.0.1", "", "pg:80>5432/tcp")
        .slice("b/db", "e", "10.0.0.3=c/c", "pg:5432/tcp")
        .says("a/a > svc:b/db tcp/80", Blocked, (Default, Default))
        .says("a/a > c/c tcp/5432", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
        .class("app=c|pods", "10.0.0.3")
}

pub fn declared_machine_behind() -> State {
    by_name()
        .but("a declared machine behind a Service")
        .workload("m", "192.0.2.1", "app=legacy")
        .service("b/db", "10.96.0.1", "", "pg:80>5432/tcp")
        .slice("b/db", "e", "192.0.2.1", "pg:5432/tcp")
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Unmanaged))
        .says("a/a > 192.0.2.1 tcp/5432", Allowed, (Allow, Unmanaged))
        .says("a/a > b/b tcp/5432", Blocked, (Default, Default))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
        .class("app=legacy|workload m", "192.0.2.1")
}

pub fn service_gone() -> State {
    by_name()
        .but("the Service is gone")
        .with(|world| world.services.clear())
        .says("a/a > b/b tcp/5432", Blocked, (Default, Default))
        .warns("r", "there is no VirtualService b/db")
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn service_unmanaged() -> State {
    by_name()
        .but("the namespace of the Service is unmanaged")
        .namespace("b", None, "app=b")
        .says("a/a > svc:b/db tcp/80", Blocked, (Default, Unmanaged))
        .says("a/a > b/b tcp/5432", Blocked, (Default, Unmanaged))
        .warns("r", "there is no VirtualService b/db")
        .class("app=a|pods", "10.0.0.1")
}

pub fn service_out_of_scope() -> State {
    by_name()
        .but("the Service lies outside the scope")
        .with(|world| _ = world.written.insert(text::key("b/db"), text::labels("env=dev")))
        .rules("r", &["env=prod"], [extra(allow("app=a", "svc:b/db", "own"))])
        .says("a/a > svc:b/db tcp/80", Blocked, (Default, Default))
        .warns("r", "lies outside every scope")
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn service_in_scope() -> State {
    service_out_of_scope()
        .but("the Service comes into the scope")
        .with(|world| _ = world.written.insert(text::key("b/db"), text::labels("env=prod")))
        .says("a/a > svc:b/db tcp/80", Allowed, (Allow, Allow))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
}

pub fn cluster_dns() -> State {
    pair("the cluster's DNS", Full, Full)
        .namespace("kube-system", Full, "app=dns")
        .pod_with("kube-system/dns", "10.0.0.53", "", |pod| pod.labels = text::strings("k8s-app=kube-dns"))
        .service("kube-system/kube-dns", "10.96.0.10", "k8s-app=kube-dns", "dns:53>1053/udp")
        .slice("kube-system/kube-dns", "e", "10.0.0.53=kube-system/dns", "dns:1053/udp")
        .says("a/a > svc:kube-system/kube-dns udp/53", Allowed, (Essential, Essential))
        .says("a/a > kube-system/dns udp/1053", Blocked, (Default, Essential))
        .class("app=a|pods", "10.0.0.1")
        .class("app=b|pods", "10.0.0.2")
        .class("app=dns|pods", "10.0.0.53")
}
