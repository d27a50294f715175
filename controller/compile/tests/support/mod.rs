//! A small cluster to ask questions about.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod source;

use std::collections::BTreeSet;

use ringfence_compile::cluster::{
    ClusterState, ContainerPortInfo, EndpointInfo, EndpointSliceInfo, NamespaceInfo, NodeInfo, PodInfo, ServiceInfo,
    ServicePortInfo, SlicePortInfo, TargetPortInfo,
};
use ringfence_compile::compile::{Computed, compile};
use ringfence_compile::evaluate::{Endpoint, Explanation, explain};
use ringfence_compile::policy::Policy;
use ringfence_crds::common::NamespacedName;
use ringfence_model::{Decision, Protocol, Verdict};
use serde::de::DeserializeOwned;

/// Policy and cluster under test. There are a master `cp` (172.30.0.10) and workers `n1` (.11) and `n2` (.12).
#[derive(Clone, Default)]
pub struct Lab {
    pub policy: Policy,
    pub cluster: ClusterState,
}

pub fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub fn key(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap();
    NamespacedName { namespace: namespace.to_owned(), name: name.to_owned() }
}

pub fn strings<M: FromIterator<(String, String)>>(pairs: &[(&str, &str)]) -> M {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// `5432/tcp`
pub fn port(text: &str) -> (u16, Protocol) {
    let (number, protocol) = text.split_once('/').unwrap();
    (number.parse().unwrap(), protocol.parse().unwrap())
}

impl Lab {
    pub fn new() -> Self {
        let mut lab = Self::default();
        lab.cluster.uid = "uid".to_owned();
        lab.cluster
            .namespaces
            .insert("kube-system".to_owned(), NamespaceInfo { uid: "uid".to_owned(), terminating: false });
        for (name, address, control_plane) in
            [("cp", "172.30.0.10", true), ("n1", "172.30.0.11", false), ("n2", "172.30.0.12", false)]
        {
            let node = NodeInfo {
                addresses: BTreeSet::from([address.parse().unwrap()]),
                machine_id: format!("machine-{name}"),
                control_plane,
                ..NodeInfo::default()
            };
            lab.cluster.nodes.insert(name.to_owned(), node);
        }
        lab.cluster.apiserver_addresses.insert("172.30.0.10".parse().unwrap());
        lab
    }

    /// A managed namespace: `app` and `env` fixed, `role` chosen by annotation.
    pub fn namespace(&mut self, name: &str, state: &str, app: &str, env: &str) -> &mut Self {
        self.cluster.namespaces.insert(name.to_owned(), NamespaceInfo::default());
        let profile = format!(
            "{{managed: true, policyState: {state}, labels: {{app: {{value: {app}}}, env: {{value: {env}}}, role: {{allowed: [web, api, db]}}}}}}"
        );
        self.policy.profiles.insert(name.to_owned(), yaml(&profile));
        self
    }

    /// A Pod with the Kubernetes label `app` and the annotation for role, both as given.
    pub fn pod(&mut self, name: &str, ip: &str, role: &str) -> &mut Self {
        let pod = PodInfo {
            uid: name.to_owned(),
            labels: strings(&[("app", role)]),
            annotations: strings(&[("ringfence.dev/role", role)]),
            node: Some("n1".to_owned()),
            ips: ip.parse().into_iter().collect(),
            container_ports: vec![ContainerPortInfo {
                name: Some("http".to_owned()),
                protocol: Protocol::TCP,
                port: 8080,
            }],
            ..PodInfo::default()
        };
        self.cluster.pods.insert(key(name), pod);
        self
    }

    pub fn pod_mut(&mut self, name: &str) -> &mut PodInfo {
        self.cluster.pods.get_mut(&key(name)).unwrap()
    }

    /// A Service `ip` in front of Pods with the Kubernetes label `app`, and a slice of all of them. Ports are
    /// `80:8080/tcp`.
    pub fn service(&mut self, name: &str, ip: &str, app: &str, ports: &[&str]) -> &mut Self {
        let name = key(name);
        let mut service = ServiceInfo {
            selector: strings(&[("app", app)]),
            cluster_ips: ip.parse().into_iter().collect(),
            ..ServiceInfo::default()
        };
        let mut slice = EndpointSliceInfo { service: Some(name.name.clone()), ..EndpointSliceInfo::default() };
        for text in ports {
            let (front, rest) = text.split_once(':').unwrap();
            let (target, protocol) = port(rest);
            let front: u16 = front.parse().unwrap();
            let port_name = format!("p{front}-{}", protocol.to_string().to_lowercase());
            service.ports.push(ServicePortInfo {
                name: port_name.clone(),
                protocol,
                port: front,
                target_port: TargetPortInfo::Number(target),
                node_port: None,
            });
            slice.ports.push(SlicePortInfo { name: port_name, protocol, port: target });
        }
        for (pod_key, pod) in &self.cluster.pods {
            if pod_key.namespace == name.namespace && pod.labels.get("app").is_some_and(|own| own == app) {
                slice.endpoints.push(EndpointInfo { addresses: pod.ips.clone(), target_pod: Some(pod_key.clone()) });
            }
        }
        self.cluster.endpoint_slices.insert(name.clone(), slice);
        self.cluster.services.insert(name, service);
        self
    }

    /// A RuleSet over everything with these rules.
    pub fn rules(&mut self, name: &str, rules: &str) -> &mut Self {
        self.rule_set(name, &format!("{{scopes: [{{}}], rules: {rules}}}"))
    }

    pub fn rule_set(&mut self, name: &str, spec: &str) -> &mut Self {
        self.policy.rule_sets.insert(name.to_owned(), yaml(spec));
        self
    }

    pub fn ip_list(&mut self, name: &str, spec: &str) -> &mut Self {
        self.policy.ip_lists.insert(name.to_owned(), yaml(spec));
        self
    }

    pub fn explain(&self, from: &str, to: &str, on: &str) -> Explanation {
        let (number, protocol) = port(on);
        let from: Endpoint = from.parse().unwrap();
        let to: Endpoint = to.parse().unwrap();
        explain(&self.policy, &self.cluster, &from, &to, protocol, number).unwrap()
    }

    pub fn verdict(&self, from: &str, to: &str, on: &str) -> Verdict {
        self.explain(from, to, on).verdict
    }

    /// Decisions of source and destination.
    pub fn decisions(&self, from: &str, to: &str, on: &str) -> (Decision, Decision) {
        let answer = self.explain(from, to, on);
        (answer.source.decision, answer.destination.decision)
    }

    pub fn compile(&self) -> Computed {
        compile(&self.policy, &self.cluster)
    }
}

/// Two namespaces in the given states: `a/a` (10.0.0.1, app=a, role=web) and `b/b` (10.0.0.2, app=b, role=db).
pub fn pair(state_a: &str, state_b: &str) -> Lab {
    let mut lab = Lab::new();
    lab.namespace("a", state_a, "a", "prod").namespace("b", state_b, "b", "prod");
    lab.pod("a/a", "10.0.0.1", "web").pod("b/b", "10.0.0.2", "db");
    lab.pod_mut("b/b").node = Some("n2".to_owned());
    lab
}
