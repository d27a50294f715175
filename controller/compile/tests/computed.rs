//! The shape of computed objects.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ringfence_compile::cluster::{ClusterState, TargetPortInfo};
use ringfence_crds::node_policy::NamedPort;
use ringfence_crds::workload_policy::LabelSelector;
use ringfence_model::{Action, Direction};
use support::{Lab, key, pair, yaml};

const SHOP: &str = "{scopes: [{labels: {env: [prod]}}], rules: [
  {name: ab, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{protocol: TCP, port: 8080}]},
  {name: deny, action: Deny, reject: true, consumers: [{ipList: office}], providers: [{virtualService: b/db}], useVirtualServicePorts: true}]}";

fn shop() -> Lab {
    let mut lab = pair("Full", "Full");
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.ip_list("office", "{ranges: [203.0.113.0/24]}").rule_set("shop", SHOP);
    lab
}

#[test]
fn a_rule_is_written_at_both_managed_ends() {
    let computed = shop().compile();
    assert!(computed.warnings.is_empty() && computed.cluster_warnings.is_empty(), "{:?}", computed.warnings);
    let (name, policy) = computed.workload_policies.iter().next().unwrap();
    assert_eq!(name.len(), "shop-".len() + 8);
    assert_eq!((policy.rule_set.as_str(), policy.scope.as_str()), ("shop", "env in (prod)"));
    let shape: Vec<_> =
        policy.rules.iter().map(|rule| (rule.name.as_str(), rule.direction, rule.action, rule.reject)).collect();
    assert_eq!(
        shape,
        [
            ("ab", Direction::Inbound, Action::Allow, false),
            ("ab", Direction::Outbound, Action::Allow, false),
            ("deny", Direction::Inbound, Action::Deny, true),
        ]
    );
    let inbound = &policy.rules[0];
    let subject: LabelSelector = yaml("{in: {app: [b], env: [prod]}}");
    assert_eq!(inbound.subjects[0].labels, Some(subject));
    let group = &computed.peer_groups[inbound.peers[0].peer_group.as_ref().unwrap()];
    assert_eq!(group.selector, "app in (a),env in (prod)");
    assert!(group.services.is_empty());
    let members = &computed.address_groups[&format!("{}-0", group.classes[0])];
    assert_eq!(members.class_text, "app=a,env=prod,role=web|pods");
    assert_eq!((members.slices, members.members.len()), (Some(1), 1));
    assert_eq!((members.members[0].network.as_str(), members.members[0].address.as_str()), ("uid/default", "10.0.0.1"));
    let deny = &policy.rules[2];
    assert_eq!(deny.subjects[0].virtual_service.as_deref(), Some("b/db"));
    assert!(deny.virtual_service_ports && !deny.all_services && deny.services.is_empty());
}

#[test]
fn a_peer_group_lists_the_services_in_front_of_its_classes() {
    let computed = shop().compile();
    let group = computed.peer_groups.values().find(|group| group.selector.starts_with("app in (b)")).unwrap();
    let ends = computed.address_groups[&format!("{}-0", group.services[0])].service.clone().unwrap();
    assert_eq!((ends.namespace.as_str(), ends.name.as_str()), ("b", "db"));
    assert_eq!(ends.back_end_classes, group.classes);
    assert_eq!(ends.front_ends.len(), 1);
    let front = &ends.front_ends[0];
    assert_eq!(
        (front.address.as_str(), front.port, front.target_ports.as_slice()),
        ("10.96.0.5", 80, [8080].as_slice())
    );
}

#[test]
fn every_reference_of_a_computed_object_is_there() {
    let mut lab = shop();
    lab.rules("more", "[{name: x, extraScope: true, consumers: [{allWorkloads: true}, {containerHosts: true}, {workload: n1}], providers: [{virtualService: b/db}], allServices: true}]");
    let computed = lab.compile();
    for policy in computed.workload_policies.values() {
        for peer in policy.rules.iter().flat_map(|rule| &rule.peers) {
            if let Some(group) = &peer.peer_group {
                assert!(computed.peer_groups.contains_key(group));
            }
            if let Some(class) = &peer.virtual_service {
                assert!(computed.address_groups.contains_key(&format!("{class}-0")));
            }
        }
    }
    for group in computed.peer_groups.values() {
        for class in group.classes.iter().chain(&group.services) {
            assert!(computed.address_groups.contains_key(&format!("{class}-0")));
        }
    }
}

#[test]
fn the_order_of_anything_does_not_matter() {
    let lab = shop();
    let mut shuffled = lab.clone();
    let rules = shuffled.policy.rule_sets.get_mut("shop").unwrap();
    rules.rules.reverse();
    let slice = shuffled.cluster.endpoint_slices.get_mut(&key("b/db")).unwrap();
    slice.endpoints.reverse();
    shuffled.cluster.pods.values_mut().for_each(|pod| pod.container_ports.reverse());
    assert_eq!(lab.compile(), shuffled.compile());
}

#[test]
fn a_pod_without_an_address_has_a_class_and_no_member() {
    let mut lab = shop();
    lab.pod("a/new", "", "api");
    let computed = lab.compile();
    let group =
        computed.address_groups.values().find(|group| group.class_text == "app=a,env=prod,role=api|pods").unwrap();
    assert_eq!((group.slices, group.members.len()), (Some(1), 0));
}

#[test]
fn given_pod_networks_hold_their_addresses_and_no_others() {
    let mut lab = shop();
    lab.policy.cluster = yaml("{podNetworks: [{name: blue, cidrs: [10.0.0.0/31]}]}");
    let computed = lab.compile();
    let networks: Vec<&str> = computed
        .address_groups
        .values()
        .filter(|group| group.class_text.ends_with("|pods"))
        .flat_map(|group| group.members.iter().map(|member| member.network.as_str()))
        .collect();
    assert_eq!(networks, ["uid/blue"], "10.0.0.2 lies outside");
    assert_eq!(computed.container_workloads[&key("b/b")].problems.len(), 1);
    assert_eq!(computed.node_policies["n1"].pod_network, "uid/blue");
}

#[test]
fn a_node_policy_holds_dns_and_webhooks() {
    let mut lab = shop();
    lab.pod("kube-system/coredns", "10.0.0.53", "db");
    lab.service("kube-system/kube-dns", "10.96.0.10", "db", &["53:1053/udp", "53:1053/tcp", "9153:9153/tcp"]);
    lab.cluster.webhook_services.entry(key("b/db")).or_default().insert(80);
    let computed = lab.compile();
    assert_eq!(computed.node_policies.len(), 3);
    let policy = &computed.node_policies["n1"];
    assert_eq!(policy.dns_servers, ["10.96.0.10"]);
    let [dns, webhook] = policy.inbound_essentials.as_slice() else { panic!("{policy:?}") };
    assert_eq!((dns.reason.as_str(), dns.namespace.as_str(), dns.any_source), ("dns", "kube-system", true));
    let ports: Vec<_> = dns.ports.iter().map(|port| (port.protocol.as_str(), port.port)).collect();
    assert_eq!(ports, [("TCP", Some(1053)), ("UDP", Some(1053))]);
    assert_eq!((webhook.reason.as_str(), webhook.any_source), ("webhook", false));
    assert_eq!(webhook.from, ["172.30.0.10/32"]);
    assert_eq!(webhook.ports[0].port, Some(8080));
}

/// The port of the Pods that the DNS Service names is one of a protocol.
#[test]
fn a_dns_port_by_name_keeps_its_protocol() {
    let mut lab = shop();
    lab.service("kube-system/kube-dns", "10.96.0.10", "db", &["53:1053/udp"]);
    let service = lab.cluster.services.get_mut(&key("kube-system/kube-dns")).unwrap();
    service.ports[0].target_port = TargetPortInfo::Name("dns".to_owned());
    let computed = lab.compile();
    let [dns] = computed.node_policies["n1"].inbound_essentials.as_slice() else { panic!("one essential") };
    assert!(dns.ports.is_empty());
    assert_eq!(dns.named_ports, [NamedPort { protocol: "UDP".to_owned(), name: "dns".to_owned() }]);
}

#[test]
fn a_node_is_ready_when_kubernetes_says_so_and_a_heartbeat_is_no_news() {
    let node = |conditions: &str| {
        let item = format!("{{kind: Node, metadata: {{name: node1}}, status: {{conditions: {conditions}}}}}");
        ClusterState::from_list_yaml(&format!("items: [{item}]")).unwrap().nodes.remove("node1").unwrap()
    };
    let ready = |status: &str, heartbeat: &str| {
        let time = format!("2026-01-01T00:00:{heartbeat}Z");
        node(&format!(
            "[{{type: DiskPressure, status: 'True'}}, {{type: Ready, status: '{status}', lastHeartbeatTime: '{time}'}}]"
        ))
    };
    assert!(ready("True", "00").ready);
    assert!(!ready("False", "00").ready);
    assert!(!ready("Unknown", "00").ready);
    assert!(!node("[]").ready);
    assert_eq!(ready("True", "00"), ready("True", "10"));
}

#[test]
fn a_list_as_kubectl_prints_it_is_a_cluster() {
    let text = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: kube-system, uid: "1234"}}
- apiVersion: v1
  kind: Node
  metadata: {name: cp, labels: {node-role.kubernetes.io/control-plane: ""}}
  spec: {podCIDRs: [10.244.0.0/24]}
  status: {addresses: [{type: InternalIP, address: 172.30.0.10}, {type: Hostname, address: cp}], nodeInfo: {machineID: m, architecture: a, bootID: b, containerRuntimeVersion: c, kernelVersion: k, kubeProxyVersion: p, kubeletVersion: v, operatingSystem: linux, osImage: o, systemUUID: u}}
- apiVersion: v1
  kind: Pod
  metadata:
    name: web-1
    namespace: shop
    uid: p1
    annotations: {ringfence.dev/role: web}
    ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: r1, controller: true}]
  spec:
    nodeName: cp
    containers:
    - name: c
      ports: [{name: http, containerPort: 8080}]
      livenessProbe: {httpGet: {port: http}}
      readinessProbe: {tcpSocket: {port: 8081}}
      startupProbe: {grpc: {port: 8082}}
      lifecycle: {preStop: {httpGet: {port: 8083, host: 192.0.2.1}}}
  status: {phase: Running, podIP: 10.244.0.5, podIPs: [{ip: 10.244.0.5}]}
- apiVersion: v1
  kind: Service
  metadata: {name: kubernetes, namespace: default}
  spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{name: https, port: 443, targetPort: 6443}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
  addressType: IPv4
  endpoints: [{addresses: [172.30.0.10]}]
  ports: [{name: https, port: 6443, protocol: TCP}]
- apiVersion: apps/v1
  kind: ReplicaSet
  metadata: {name: web, namespace: shop, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: d1, controller: true}]}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: passed-over, namespace: shop}}
"#;
    let cluster = ClusterState::from_list_yaml(text).unwrap();
    assert_eq!(cluster.uid, "1234");
    assert!(cluster.nodes["cp"].control_plane);
    assert_eq!(cluster.nodes["cp"].addresses.len(), 1);
    let pod = &cluster.pods[&key("shop/web-1")];
    let ports: Vec<u16> = pod.probe_ports.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports, [8080, 8081, 8082], "a hook that calls another host does not call the Pod");
    assert_eq!(pod.owner.as_ref().unwrap().kind, "ReplicaSet");
    assert_eq!(cluster.apiserver_addresses.len(), 1);
    assert_eq!(cluster.owners.len(), 1);
    assert!(ClusterState::from_list_yaml("kind: Pod").is_err());
    assert!(ClusterState::from_list_yaml("items: [{kind: Pod, metadata: {name: x}, spec: {containers: 7}}]").is_err());
}

/// Both addresses of a Pod, both ClusterIPs of a Service and both families of a list are told to the agents.
#[test]
fn a_dual_stack_cluster_is_told_as_it_is() {
    let mut lab = shop();
    for (name, address) in [("a/a", "fd00:10::1"), ("b/b", "fd00:10::2")] {
        lab.pod_mut(name).ips.push(address.parse().unwrap());
    }
    lab.service("b/db", "10.96.0.5", "db", &["80:8080/tcp"]);
    lab.cluster.services.get_mut(&key("b/db")).unwrap().cluster_ips.push("fd00:96::5".parse().unwrap());
    lab.ip_list("office", "{ranges: [203.0.113.0/24, '2001:db8::/32'], exclusions: ['2001:db8::/33']}");
    let computed = lab.compile();
    let members = |class: &str| -> Vec<String> {
        let group = computed.address_groups.values().find(|group| group.class_text == class).unwrap();
        group.members.iter().map(|member| format!("{} {}", member.network, member.address)).collect()
    };
    assert_eq!(members("app=a,env=prod,role=web|pods"), ["uid/default 10.0.0.1", "uid/default fd00:10::1"]);
    assert_eq!(members("app=b,env=prod,role=db|pods"), ["uid/default 10.0.0.2", "uid/default fd00:10::2"]);
    let ends = computed.address_groups.values().find_map(|group| group.service.clone()).unwrap();
    let fronts: Vec<&str> = ends.front_ends.iter().map(|front| front.address.as_str()).collect();
    let backs: Vec<&str> = ends.back_ends.iter().map(|back| back.address.as_str()).collect();
    assert_eq!((fronts, backs), (vec!["10.96.0.5", "fd00:96::5"], vec!["10.0.0.2", "fd00:10::2"]));
    let policy = computed.workload_policies.values().next().unwrap();
    let deny = policy.rules.iter().find(|rule| rule.name == "deny").unwrap();
    let prefixes = deny.peers[0].addresses.clone().unwrap();
    assert_eq!(prefixes, ["203.0.113.0/24", "2001:db8:8000::/33"]);
    assert!(!computed.warnings.contains_key("shop"), "{:?}", computed.warnings);
}

#[test]
fn what_is_never_programmed_is_told() {
    let mut lab = pair("Full", "Full");
    lab.rules("r", "[{name: six, consumers: [{labels: {app: [a]}}], providers: [{labels: {app: [b]}}], services: [{protocol: ICMPv6}, {protocol: \"0\"}]}]");
    assert_eq!(lab.compile().warnings["r"], ["rule six: a service selects nothing: protocol 0 cannot be programmed"]);
}
