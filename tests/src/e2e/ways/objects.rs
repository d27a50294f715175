//! What the scene is made of: two namespaces, Pods, Services of every kind, and the rules.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::manifests::{AGNHOST, OURS, rule_set};

/// Namespace of the clients; it and its RuleSet, IPList and webhook have one name.
pub const CLIENTS: &str = "ways";
/// Namespace of the servers.
pub const SERVERS: &str = "ways-to";

/// Of TCP and SCTP the first is what rules allow, of UDP the second: a match that mixes up protocols and ports would open the others.
pub const PORTS: [u16; 2] = [8080, 8081];
/// The same on the Pod of the host network.
pub const HOST_NETWORK_PORTS: [u16; 2] = [18080, 18081];
/// Where what a sidecar has redirected arrives.
pub const PROXY_PORT: u16 = 15006;
/// UDP that rules allow and nobody listens on.
pub const CLOSED_PORT: u16 = 8089;
/// hostPorts in front of TCP and UDP of the first port, then of the second.
pub const HOST_PORTS: [(u16, &str, u16); 4] =
    [(28080, "TCP", PORTS[0]), (28081, "UDP", PORTS[1]), (28082, "TCP", PORTS[1]), (28083, "UDP", PORTS[0])];
/// Ports of a Service, and whether each leads to the first or the second port behind it.
const SERVICE_PORTS: [(u16, &str, usize); 4] = [(80, "TCP", 0), (81, "UDP", 1), (81, "TCP", 1), (80, "UDP", 0)];
/// The same of SCTP, which one Service has.
const SCTP_SERVICE_PORTS: [(u16, &str, usize); 2] = [(80, "SCTP", 0), (81, "SCTP", 1)];

/// Ports of the Service in front of the webhook: the one that it names, and one more.
pub const WEBHOOK_PORTS: [u16; 2] = [443, 444];
/// The EndpointSlice of an apiserver.
pub const APISERVER: &str = "ways-apiserver";

/// Addresses of load balancers: with policy Local, and two with policy Cluster.
pub const LOAD_BALANCERS: [[&str; 2]; 3] =
    [["203.0.113.10", "2001:db8:113::10"], ["203.0.113.11", "2001:db8:113::11"], ["203.0.113.12", "2001:db8:113::12"]];
/// The same, as externalIPs.
pub const EXTERNAL_IPS: [[&str; 2]; 3] =
    [["203.0.113.20", "2001:db8:113::20"], ["203.0.113.21", "2001:db8:113::21"], ["203.0.113.22", "2001:db8:113::22"]];
/// Where the router sends each of them: to the node of the servers, but for the last.
pub const ENTERED: [&str; 3] = ["NODE2", "NODE2", "NODE3"];
/// The IPList of a name.
pub const NAMED: &str = "ways-named";
/// That name, which the cluster's DNS answers, and one that no rule has.
pub const NAME: &str = "named.ringfence.test";
/// See [`NAME`].
pub const OTHER_NAME: &str = "other.ringfence.test";
/// What they lead to outside; the Corefile of the test cluster says so.
pub const NAMED_ADDRESSES: [[&str; 2]; 2] =
    [["203.0.113.30", "2001:db8:113::30"], ["203.0.113.31", "2001:db8:113::31"]];

fn netexec(name: &str, port: u16) -> Value {
    json!({
        "name": name, "image": AGNHOST, "imagePullPolicy": "IfNotPresent",
        "args": ["netexec", format!("--http-port={port}"), format!("--udp-port={port}")],
        // A probe over the network would make its port essential.
        "startupProbe": {
            "exec": {"command": ["/agnhost", "connect", format!("127.0.0.1:{port}"), "--timeout=1s"]},
            "periodSeconds": 1, "failureThreshold": 60, "timeoutSeconds": 5,
        },
    })
}

fn pod(space: &str, name: &str, role: &str, node: &str, containers: Vec<Value>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": space, "name": name,
            "labels": {"name": name}, "annotations": {"ringfence.dev/role": role},
        },
        "spec": {
            "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "nodeSelector": {"kubernetes.io/hostname": node}, "containers": containers,
        },
    })
}

fn listening(space: &str, name: &str, role: &str, node: &str, ports: &[u16]) -> Value {
    let containers = ports.iter().map(|port| netexec(&format!("port-{port}"), *port)).collect();
    pod(space, name, role, node, containers)
}

fn client(name: &str, role: &str, node: &str) -> Value {
    let pause = json!({"name": "main", "image": AGNHOST, "imagePullPolicy": "IfNotPresent", "args": ["pause"]});
    pod(CLIENTS, name, role, node, vec![pause])
}

/// Every Pod but those with probes over the network.
pub fn pods() -> Vec<Value> {
    let mut server = listening(SERVERS, "server", "server", "node2", &PORTS);
    server["spec"]["containers"][0]["ports"] = HOST_PORTS
        .map(|(host, protocol, port)| json!({"hostPort": host, "protocol": protocol, "containerPort": port}))
        .into();
    let mut host = listening(SERVERS, "host", "server", "node2", &HOST_NETWORK_PORTS);
    host["spec"]["hostNetwork"] = json!(true);
    let mut node = listening(SERVERS, "node", "server", "node1", &HOST_NETWORK_PORTS);
    node["spec"]["hostNetwork"] = json!(true);
    node["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    vec![
        server,
        host,
        node,
        listening(SERVERS, "tunnelled", "server", "node2", &PORTS),
        listening(SERVERS, "webhook", "webhook", "node2", &PORTS),
        listening(SERVERS, "small-mtu", "server", "node2", &PORTS[..1]),
        listening(SERVERS, "redirect", "server", "node2", &[PROXY_PORT]),
        listening(SERVERS, "rejecting", "rejecting", "node2", &PORTS),
        listening(CLIENTS, "redirecting", "client", "node3", &[PROXY_PORT]),
        client("near", "client", "node2"),
        client("far", "client", "node3"),
        client("near-stranger", "stranger", "node2"),
        client("far-stranger", "stranger", "node3"),
    ]
}

/// Ports that probes name, by kind of probe and handler; and one that none does.
pub const PROBE_PORTS: [u16; 9] = [9100, 9101, 9102, 9110, 9111, 9112, 9120, 9121, 9122];
/// Nothing probes it.
pub const UNPROBED_PORT: u16 = 9123;

/// A Pod that is ready only if probes of every kind and every handler succeed, each on a port of its own.
pub fn probed(name: &str) -> Value {
    let grpc = |number: u16| json!({"grpc": {"port": 9100 + number}});
    let http = |number: u16| json!({"httpGet": {"path": "/make-serving", "port": 9110 + number}});
    let tcp = |number: u16| json!({"tcpSocket": {"port": 9120 + number}});
    let exec = || json!({"exec": {"command": ["/agnhost", "connect", "127.0.0.1:9120", "--timeout=1s"]}});
    let timed = |mut handler: Value, failures: u16| {
        handler["periodSeconds"] = json!(2);
        handler["timeoutSeconds"] = json!(2);
        handler["failureThreshold"] = json!(failures);
        handler
    };
    let with_probes = |mut container: Value, [startup, liveness, readiness]: [Value; 3]| {
        container["image"] = json!(AGNHOST);
        container["imagePullPolicy"] = json!("IfNotPresent");
        let mut startup = timed(startup, 60);
        startup["periodSeconds"] = json!(1);
        container["startupProbe"] = startup;
        // A liveness probe that fails shows as a restart.
        container["livenessProbe"] = timed(liveness, 2);
        container["readinessProbe"] = timed(readiness, 2);
        container
    };
    let health = |number: u16| {
        json!({
            "name": format!("health-{number}"),
            "args": [
                "grpc-health-checking", format!("--port={}", 9100 + number), format!("--http-port={}", 9110 + number),
            ],
        })
    };
    let served =
        [9120, 9121, 9122, UNPROBED_PORT].map(|port| json!({"name": format!("SERVE_PORT_{port}"), "value": "x"}));
    let porter = json!({"name": "porter", "args": ["porter"], "env": served});
    let containers = vec![
        with_probes(porter, [exec(), exec(), exec()]),
        with_probes(health(0), [http(0), tcp(0), grpc(0)]),
        with_probes(health(1), [tcp(1), grpc(1), http(1)]),
        with_probes(health(2), [grpc(2), http(2), tcp(2)]),
    ];
    let mut pod = pod(SERVERS, name, "probed", "node2", containers);
    pod["metadata"]["labels"]["app"] = json!("probed");
    pod
}

fn service_ports(ports: &[(u16, &str, usize)], targets: [u16; 2]) -> Vec<Value> {
    let port = |(port, protocol, target): &(u16, &str, usize)| {
        let target = targets[*target];
        let name = format!("{}-{target}", protocol.to_lowercase());
        json!({"name": name, "port": port, "protocol": protocol, "targetPort": target})
    };
    ports.iter().map(port).collect()
}

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": SERVERS, "name": name},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack", "selector": {"name": "server"},
            "ports": service_ports(&SERVICE_PORTS, PORTS),
        },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}

/// Services of every kind.
pub fn services() -> Vec<Value> {
    let alias = json!({"type": "ExternalName", "externalName": format!("server.{SERVERS}.svc.cluster.local")});
    let with_sctp = [&SERVICE_PORTS[..], &SCTP_SERVICE_PORTS].concat();
    let mut services = vec![
        service("server", json!({"ports": service_ports(&with_sctp, PORTS)})),
        service("headless", json!({"clusterIP": "None"})),
        service("manual", json!({"selector": null})),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": SERVERS, "name": "alias"}, "spec": alias,
        }),
    ];
    let ports = json!([{"name": "probe", "port": 80, "protocol": "TCP", "targetPort": PROBE_PORTS[3]}]);
    services.push(service("probed", json!({"type": "NodePort", "selector": {"app": "probed"}, "ports": ports})));
    services.push(service("rejecting", json!({"type": "NodePort", "selector": {"name": "rejecting"}})));
    // In front of Pods of the host network.
    for name in ["host", "node"] {
        let ports = service_ports(&SERVICE_PORTS, HOST_NETWORK_PORTS);
        services.push(service(name, json!({"selector": {"name": name}, "ports": ports})));
    }
    for (policy, of_policy) in [("Local", 0..1), ("Cluster", 1..3)] {
        let (balancers, external) = (&LOAD_BALANCERS[of_policy.clone()], &EXTERNAL_IPS[of_policy]);
        let suffix = policy.to_lowercase();
        let policy = || json!(policy);
        services.push(service(
            &format!("node-port-{suffix}"),
            json!({"type": "NodePort", "externalTrafficPolicy": policy()}),
        ));
        let mut balanced = service(
            &format!("load-balancer-{suffix}"),
            json!({"type": "LoadBalancer", "externalTrafficPolicy": policy()}),
        );
        let ingress: Vec<Value> = balancers.iter().flatten().map(|address| json!({"ip": address})).collect();
        balanced["status"] = json!({"loadBalancer": {"ingress": ingress}});
        services.push(balanced);
        services.push(service(
            &format!("external-ip-{suffix}"),
            json!({"externalIPs": external.concat(), "externalTrafficPolicy": policy()}),
        ));
    }
    services
}

/// What is behind the Service that selects nothing.
pub fn slices(server: [IpAddr; 2]) -> [Value; 2] {
    server.map(|address| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let ports = SERVICE_PORTS.map(|(_, protocol, target)| {
            let target = PORTS[target];
            json!({"name": format!("{}-{target}", protocol.to_lowercase()), "protocol": protocol, "port": target})
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": SERVERS, "name": format!("manual-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "manual"},
            },
            "addressType": family, "ports": ports,
            "endpoints": [{
                "addresses": [address], "nodeName": "node2", "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": SERVERS, "name": "server"},
            }],
        })
    })
}

/// A webhook that the apiserver never calls: only that it is there makes its port essential. Its Service has a second port,
/// which it does not name.
pub fn webhook() -> [Value; 2] {
    let port = |number: usize| json!({"name": format!("port-{number}"), "port": WEBHOOK_PORTS[number], "targetPort": PORTS[number]});
    let spec = json!({"selector": {"name": "webhook"}, "ports": [port(0), port(1)]});
    let service = service("webhook", spec);
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": CLIENTS},
        "webhooks": [{
            "name": "never.ringfence.test", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore",
            "rules": [{
                "apiGroups": ["never.ringfence.test"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["nevers"],
            }],
            "clientConfig": {"service": {"namespace": SERVERS, "name": "webhook", "port": WEBHOOK_PORTS[0]}},
        }],
    });
    [service, configuration]
}

/// A node that is labelled as one of the control plane, or no longer.
pub fn master(name: &str, is_one: bool) -> Value {
    let labels = if is_one { json!({"node-role.kubernetes.io/control-plane": ""}) } else { json!({}) };
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

/// Where another apiserver is: on a node, and of one family, as all that apiservers say of themselves. It is not ready, so that
/// nobody is sent there.
pub fn apiserver(address: IpAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": APISERVER, "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "ports": [{"name": "https", "protocol": "TCP", "port": 6443}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": false}}],
    })
}

/// The client outside, a name, and the rules.
pub fn policy(outside: [IpAddr; 2]) -> [Value; 3] {
    let list =
        json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": CLIENTS}, "spec": {"ranges": outside}});
    let named = json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": NAMED}, "spec": {"fqdns": [NAME]}});
    let label = |app: &str, role: &str| json!({"labels": {"app": [app], "role": [role]}});
    let clients = || label(CLIENTS, "client");
    let listed = || json!({"ipList": CLIENTS});
    let hosts = || json!({"containerHosts": true});
    let allowed = |tcp: u16, udp: u16| json!([{"protocol": "TCP", "port": tcp}, {"protocol": "UDP", "port": udp}]);
    let usual = || allowed(PORTS[0], PORTS[1]);
    let rule = |name: &str, consumers: Vec<Value>, provider: Value, services: Value| {
        let providers = [provider];
        json!({"name": name, "consumers": consumers, "providers": providers, "services": services})
    };
    let special = json!([
        {"protocol": "UDP", "port": CLOSED_PORT}, {"protocol": "SCTP", "port": PORTS[0]},
        {"protocol": "ICMP", "icmpType": 8}, {"protocol": "ICMPv6", "icmpType": 128},
    ]);
    let mut reject = rule("reject", vec![clients()], label(SERVERS, "rejecting"), allowed(PORTS[1], PORTS[0]));
    reject["action"] = json!("OverrideDeny");
    reject["reject"] = json!(true);
    let rules = [
        rule("server", vec![clients(), listed(), hosts()], label(SERVERS, "server"), usual()),
        rule("itself", vec![label(SERVERS, "server")], label(SERVERS, "server"), usual()),
        rule("special", vec![clients()], label(SERVERS, "server"), special),
        rule("rejecting", vec![clients()], label(SERVERS, "rejecting"), usual()),
        reject,
        rule("outside", vec![clients()], listed(), usual()),
        rule("name", vec![clients()], json!({"ipList": NAMED}), usual()),
        rule("host-network", vec![clients()], hosts(), allowed(HOST_NETWORK_PORTS[0], HOST_NETWORK_PORTS[1])),
        rule("node", vec![listed()], hosts(), allowed(HOST_NETWORK_PORTS[0], HOST_NETWORK_PORTS[1])),
        rule(
            "host-ports",
            vec![clients(), label(SERVERS, "server")],
            hosts(),
            allowed(HOST_PORTS[0].0, HOST_PORTS[1].0),
        ),
    ];
    [list, named, rule_set(CLIENTS, &rules)]
}
