//! Every kind of actor, service and scope, on real connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::lab::{Lab, pod_ip};
use crate::manifests::{OURS, namespace, pod, rule_set};
use crate::probe::{self, Seen, Try};

const TARGET: &str = "ru-dst";
/// Namespaces of the clients, with their label `env`, if they have one, and their client's role.
const CLIENTS: [(&str, Option<&str>, &str); 3] =
    [("ru-prod", Some("prod"), "one"), ("ru-dev", Some("dev"), "two"), ("ru-none", None, "three")];

/// Who reaches which provider: under each client TCP 8080, TCP 8081 and UDP 8080; `o` open, `x` dropped, `r` refused.
/// `one` is a Pod of env=prod, `two` of env=dev, `three` has no env, `node` is another node, and `ext` is outside the
/// cluster. All Pods are in Full; the providers are of env=prod. Each provider has the rules below under its name.
const EXPECTED: &str = "
                 one  two  three  node  ext
    nobody       xxx  xxx  xxx    xxx   xxx
    values       oxx  oxx  xxx    xxx   xxx
    dimensions   oxx  xxx  xxx    xxx   xxx
    not-prod     xxx  oxx  xxx    xxx   xxx
    not-none     xxx  xxx  xxx    xxx   xxx
    group        oxx  oxx  xxx    xxx   xxx
    everyone     xxo  xxo  xxo    xxo   xxx
    list         xxx  xxx  xxx    xxx   oxx
    excluded     xxx  xxx  xxx    xxx   xxx
    machine      xxx  xxx  xxx    xxx   xox
    machine-app  xxx  xxx  xxx    xxx   xox
    hosts        xxx  xxx  xxx    oxx   xxx
    range        oxx  xxx  xxx    xxx   xxx
    range-both   oox  xxx  xxx    xxx   xxx
    definition   xoo  xxx  xxx    xxx   xxx
    anything     ooo  xxx  xxx    xxx   xxx
    off          xxx  xxx  xxx    xxx   xxx
    reject       rox  xxx  xxx    xxx   rxx
    intra        oxx  xxx  xxx    xxx   xxx
    extra        oxx  oxx  xxx    xxx   xxx
    other-scope  xxx  xxx  xxx    xxx   xxx
";

/// Rules with the scope of everything, as (provider, consumers, services and the rest).
fn rules() -> Vec<Value> {
    let eighty = || json!([{"protocol": "TCP", "port": 8080}]);
    let one = || json!([{"labels": {"role": ["one"]}}]);
    let all = || json!({"extraScope": true, "services": eighty()});
    let entries = [
        ("values", json!([{"labels": {"role": ["one", "two"]}}]), all()),
        ("dimensions", json!([{"labels": {"role": ["one", "two", "three"], "env": ["prod"]}}]), all()),
        ("not-prod", json!([{"not": {"env": ["prod"]}}]), all()),
        ("not-none", json!([{"not": {"env": ["prod", "dev"]}}]), all()),
        ("group", json!([{"labelGroups": ["ru-envs"]}]), all()),
        (
            "everyone",
            json!([{"allWorkloads": true}]),
            json!({"extraScope": true, "services": [{"protocol": "UDP", "port": 8080}]}),
        ),
        ("list", json!([{"ipList": "ru-list"}]), all()),
        ("excluded", json!([{"ipList": "ru-excluded"}]), all()),
        ("machine", json!([{"workload": "ru-machine"}]), json!({"services": [{"protocol": "TCP", "port": 8081}]})),
        (
            "machine-app",
            json!([{"labels": {"app": ["ru-machines"]}}]),
            json!({"services": [{"protocol": "TCP", "port": 8081}]}),
        ),
        ("hosts", json!([{"containerHosts": true}]), all()),
        ("range", one(), json!({"services": [{"protocol": "TCP", "port": 7000, "endPort": 8080}]})),
        ("range-both", one(), json!({"services": [{"protocol": "TCP", "port": 8080, "endPort": 8081}]})),
        ("definition", one(), json!({"services": [{"name": "ru-ports"}]})),
        ("anything", one(), json!({"allServices": true})),
        ("off", one(), json!({"enabled": false, "allServices": true})),
    ];
    let mut rules: Vec<Value> =
        entries.into_iter().map(|(role, consumers, rest)| rule(role, role, consumers, rest)).collect();
    let rejecting = json!({"action": "OverrideDeny", "reject": true, "services": eighty()});
    let both = json!([{"labels": {"role": ["one"]}}, {"ipList": "ru-list"}]);
    rules.push(rule("reject-8080", "reject", both, rejecting));
    let allowing = json!({"services": [{"protocol": "TCP", "port": 8080, "endPort": 8081}]});
    rules.push(rule("reject-allow", "reject", one(), allowing));
    rules
}

fn rule(name: &str, role: &str, consumers: Value, rest: Value) -> Value {
    let mut rule = json!({
        "name": name, "consumers": consumers, "providers": [{"labels": {"app": [TARGET], "role": [role]}}],
    });
    for (key, value) in rest.as_object().into_iter().flatten() {
        rule[key] = value.clone();
    }
    rule
}

/// A RuleSet with two scopes that never meet, and one whose scope does not hold the provider.
fn scoped() -> [Value; 2] {
    let consumers = || json!([{"labels": {"role": ["one", "two"]}}]);
    let services = json!([{"protocol": "TCP", "port": 8080}]);
    let mut inside = rule_set(
        "ru-scopes",
        &[
            rule("intra", "intra", consumers(), json!({"services": services})),
            rule("extra", "extra", consumers(), json!({"extraScope": true, "services": services})),
        ],
    );
    inside["spec"]["scopes"] = json!([{"labels": {"env": ["prod"]}}, {"labels": {"env": ["dev"]}}]);
    let mut outside = rule_set(
        "ru-outside",
        &[rule("extra", "other-scope", consumers(), json!({"extraScope": true, "services": services}))],
    );
    outside["spec"]["scopes"] = json!([{"labels": {"env": ["dev"]}}]);
    [inside, outside]
}

/// Objects that the rules name. `outside` is the client's address.
fn vocabulary(outside: IpAddr) -> Result<Vec<Value>> {
    let IpAddr::V4(address) = outside else { bail!("the client outside has no IPv4 address") };
    let number = u32::from(address);
    let around = format!("{}-{}", std::net::Ipv4Addr::from(number - 1), std::net::Ipv4Addr::from(number + 1));
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": OURS, "kind": kind, "metadata": {"name": name}, "spec": spec});
    Ok(vec![
        object("LabelGroup", "ru-inner", json!({"dimension": "env", "values": ["prod"]})),
        object("LabelGroup", "ru-envs", json!({"dimension": "env", "values": ["dev"], "groups": ["ru-inner"]})),
        object("IPList", "ru-list", json!({"ranges": [around], "exclusions": ["192.0.2.0/24"]})),
        object(
            "IPList",
            "ru-excluded",
            json!({"ranges": ["198.51.100.0/24"], "exclusions": [format!("{address}/31")]}),
        ),
        object(
            "ServiceDefinition",
            "ru-ports",
            json!({"ports": [
                {"protocol": "TCP", "port": 8081}, {"protocol": "UDP", "port": 8080},
            ]}),
        ),
        object("Workload", "ru-machine", json!({"addresses": [outside], "labels": {"app": "ru-machines"}})),
    ])
}

fn full(space: &str, env: Option<&str>, roles: &[&str]) -> Value {
    let mut labels = json!({"app": {"value": space}, "role": {"allowed": roles}});
    if let Some(env) = env {
        labels["env"] = json!({"value": env});
    }
    json!({
        "apiVersion": OURS, "kind": "ContainerWorkloadProfile", "metadata": {"name": space},
        "spec": {"managed": true, "policyState": "Full", "labels": labels},
    })
}

/// What [`EXPECTED`] says: from (provider, client) to the three marks.
fn expected() -> Result<(Vec<&'static str>, BTreeMap<(&'static str, &'static str), Vec<Seen>>)> {
    let mut lines = EXPECTED.lines().filter(|line| !line.trim().is_empty());
    let clients: Vec<&str> = lines.next().context("the table has a head")?.split_whitespace().collect();
    let (mut providers, mut cells) = (Vec::new(), BTreeMap::new());
    for line in lines {
        let mut words = line.split_whitespace();
        let provider = words.next().context("a row begins with its provider")?;
        providers.push(provider);
        for (client, marks) in clients.iter().zip(words) {
            let seen = marks.chars().map(|mark| match mark {
                'o' => Ok(Seen::Open),
                'x' => Ok(Seen::Dropped),
                'r' => Ok(Seen::Refused),
                other => bail!("'{other}' in row {provider} is none of o, x and r"),
            });
            cells.insert((provider, *client), seen.collect::<Result<Vec<_>>>()?);
        }
    }
    Ok((providers, cells))
}

/// Labels, `not`, groups, everyone, IP lists, machines, hosts; ports, ranges, definitions, everything; scopes; reject.
pub async fn every_kind_of_actor_service_and_scope(lab: Lab) -> Result<Outcome> {
    let (providers, cells) = expected()?;
    let outside = lab.bed.addresses()?.get("EXT_ADDRESS").context("no EXT_ADDRESS")?.parse()?;
    for object in vocabulary(outside)? {
        lab.apply(&object).await?;
    }
    lab.apply(&namespace(TARGET)).await?;
    lab.apply(&full(TARGET, Some("prod"), &providers)).await?;
    for provider in &providers {
        // On one node, so that the connection from another node has that node's own address.
        lab.apply(&pod(TARGET, provider, provider, Some("node3"))).await?;
    }
    for (space, env, role) in CLIENTS {
        lab.apply(&namespace(space)).await?;
        lab.apply(&full(space, env, &[role])).await?;
        lab.apply(&pod(space, role, role, None)).await?;
    }
    let [inside, elsewhere] = scoped();
    let sets = [rule_set("ru-rules", &rules()), inside, elsewhere];
    for set in &sets {
        lab.apply(set).await?;
    }
    let (clients, listeners) = places(&lab, &providers).await?;
    for (space, _, _) in CLIENTS {
        lab.await_ready("ContainerWorkloadProfile", None, space).await?;
    }
    lab.await_ready("ContainerWorkloadProfile", None, TARGET).await?;
    for set in ["ru-rules", "ru-scopes", "ru-outside"] {
        lab.await_ready("RuleSet", None, set).await?;
    }
    check(&cells, &clients, &listeners)?;

    for space in CLIENTS.map(|(space, _, _)| space).into_iter().chain([TARGET]) {
        lab.delete("v1", "Namespace", None, space).await?;
        lab.delete(OURS, "ContainerWorkloadProfile", None, space).await?;
    }
    for set in ["ru-rules", "ru-scopes", "ru-outside"] {
        lab.delete(OURS, "RuleSet", None, set).await?;
    }
    for object in vocabulary(outside)? {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        lab.delete(OURS, text("/kind"), None, text("/metadata/name")).await?;
    }
    Ok(Outcome::Passed)
}

/// Where the clients are, and the providers' addresses.
async fn places(lab: &Lab, providers: &[&str]) -> Result<(BTreeMap<String, PathBuf>, BTreeMap<String, IpAddr>)> {
    let mut clients =
        BTreeMap::from([("ext".to_owned(), lab.bed.client_netns()), ("node".to_owned(), lab.bed.netns("node2"))]);
    let mut listeners = BTreeMap::new();
    for provider in providers {
        listeners.insert((*provider).to_owned(), pod_ip(&lab.await_pod(TARGET, provider).await?)?);
    }
    for (space, _, role) in CLIENTS {
        lab.await_pod(space, role).await?;
        clients.insert(role.to_owned(), lab.netns(space, role)?);
    }
    Ok((clients, listeners))
}

/// Tries everything, and names every cell that is not as expected.
fn check(
    cells: &BTreeMap<(&str, &str), Vec<Seen>>,
    clients: &BTreeMap<String, PathBuf>,
    listeners: &BTreeMap<String, IpAddr>,
) -> Result<()> {
    let ports = [("TCP 8080", 8080, false), ("TCP 8081", 8081, false), ("UDP 8080", 8080, true)];
    let mut wrong = Vec::new();
    let all: Vec<_> = cells
        .iter()
        .flat_map(|((provider, client), marks)| {
            ports
                .iter()
                .zip(marks)
                .map(move |((what, port, udp), mark)| (*provider, *client, *what, *port, *udp, *mark))
        })
        .collect();
    // In portions: two hundred threads at once would make each other late.
    for portion in all.chunks(45) {
        let mut tries = Vec::new();
        for (provider, client, _, port, udp, _) in portion {
            let netns = clients.get(*client).with_context(|| format!("no client {client}"))?.clone();
            let address = listeners.get(*provider).with_context(|| format!("no provider {provider}"))?;
            tries.push(Try { netns, target: SocketAddr::new(*address, *port), udp: *udp });
        }
        for ((provider, client, what, _, _, mark), seen) in portion.iter().zip(probe::all(&tries)) {
            let seen = seen?;
            if seen != *mark {
                wrong.push(format!("{client} to {provider} on {what} is {seen}, expected {mark}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong.join("; "));
    Ok(())
}
