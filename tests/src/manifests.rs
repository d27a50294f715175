//! Objects that tests apply, as JSON.

use serde_json::{Map, Value, json};

/// Image of the upstream network test tool, as the test bed loads it.
pub const AGNHOST: &str = "ringfence.test/agnhost:1";
/// `apiVersion` of our kinds.
pub const OURS: &str = "ringfence.dev/v1alpha1";

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A managed profile: `app` is fixed to the namespace's name, `role` may be chosen among `roles`.
pub fn profile(namespace: &str, state: &str, roles: &[&str]) -> Value {
    json!({
        "apiVersion": OURS, "kind": "ContainerWorkloadProfile", "metadata": {"name": namespace},
        "spec": {
            "managed": true, "policyState": state,
            "labels": {"app": {"value": namespace}, "role": {"allowed": roles}},
        },
    })
}

/// The template of a Pod that answers HTTP and UDP on 8080 and HTTP on 8081, with a role.
pub fn template(name: &str, role: &str) -> Value {
    // A container runs some time before its program listens; ready must mean that it does.
    let container = |suffix: &str, port: u16, arguments: &[&str]| {
        json!({
            "name": suffix, "image": AGNHOST, "imagePullPolicy": "IfNotPresent", "args": arguments,
            "startupProbe": {"httpGet": {"path": "/hostname", "port": port}, "periodSeconds": 1, "failureThreshold": 60},
        })
    };
    json!({
        "metadata": {"labels": {"name": name}, "annotations": {"ringfence.dev/role": role}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [
                container("main", 8080, &["netexec", "--http-port=8080", "--udp-port=8080"]),
                container("second", 8081, &["netexec", "--http-port=8081", "--udp-port=-1"]),
            ],
        },
    })
}

/// A Pod from [`template`], on a node of its own choice or on `node`.
pub fn pod(namespace: &str, name: &str, role: &str, node: Option<&str>) -> Value {
    let mut pod = template(name, role);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!(namespace);
    if let Some(node) = node {
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    pod
}

/// A Service on port 80, of both families, in front of the Pods labelled `name=<name>`.
pub fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "selector": {"name": name}, "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

/// A controller (Deployment, ReplicaSet, DaemonSet, StatefulSet, ReplicationController) of Pods from [`template`].
pub fn controller(kind: &str, namespace: &str, name: &str, role: &str, replicas: u32) -> Value {
    let version = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
    let selector =
        if kind == "ReplicationController" { json!({"name": name}) } else { json!({"matchLabels": {"name": name}}) };
    let mut spec = Map::from_iter([("selector".to_owned(), selector), ("template".to_owned(), template(name, role))]);
    if kind != "DaemonSet" {
        spec.insert("replicas".to_owned(), json!(replicas));
    }
    if kind == "StatefulSet" {
        spec.insert("serviceName".to_owned(), json!(name));
    }
    json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A RuleSet over everything with these rules.
pub fn rule_set(name: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": OURS, "kind": "RuleSet", "metadata": {"name": name},
        "spec": {"scopes": [{}], "rules": rules},
    })
}

/// A rule from one `app`/`role` to another on TCP 8080.
pub fn rule(name: &str, action: &str, consumer: (&str, &str), provider: (&str, &str)) -> Value {
    let term = |(app, role): (&str, &str)| json!({"labels": {"app": [app], "role": [role]}});
    json!({
        "name": name, "action": action, "consumers": [term(consumer)], "providers": [term(provider)],
        "services": [{"protocol": "TCP", "port": 8080}],
    })
}
