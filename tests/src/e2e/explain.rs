//! `ringfence explain` against real connections: two hundred random pairs under random rules, over IPv4 and IPv6.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
use crate::lab::{Lab, SLOW, pod_ips};
use crate::manifests::{OURS, namespace, pod, service};
use crate::probe::{self, Seen, Try};
use crate::testbed::root;

const PAIRS: usize = 200;
/// So many connections are tried at a time.
const AT_ONCE: usize = 40;
const RULE_SETS: usize = 4;
const ROLES: [&str; 3] = ["web", "api", "db"];
const ENVS: [&str; 2] = ["prod", "dev"];

/// A namespace: its state (none: unmanaged) and its fixed label `env`, if it has one.
const SPACES: [(&str, Option<&str>, Option<&str>); 6] = [
    ("ex-unmanaged", None, None),
    ("ex-idle", Some("Idle"), Some("prod")),
    ("ex-visibility", Some("VisibilityOnly"), Some("dev")),
    ("ex-selective", Some("Selective"), Some("prod")),
    ("ex-full", Some("Full"), Some("prod")),
    ("ex-full-dev", Some("Full"), Some("dev")),
];

/// What `ringfence explain` reads of a cluster.
const RESOURCES: &str =
    "ns,nodes,pods,services,endpointslices,replicasets,daemonsets,statefulsets,replicationcontrollers";

/// Numbers that look random and come again with the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or_default()
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }

    /// At least one of a list.
    fn some(&mut self, list: &[&str]) -> Vec<String> {
        let mut chosen: Vec<String> = list.iter().filter(|_| self.one_in(2)).map(|text| (*text).to_owned()).collect();
        if chosen.is_empty() {
            chosen.extend(self.pick(list).map(|text| (*text).to_owned()));
        }
        chosen
    }
}

/// A random term of labels that no dimension makes empty.
fn labels(random: &mut Random) -> Value {
    let apps: Vec<&str> = SPACES.iter().filter(|space| space.1.is_some()).map(|space| space.0).collect();
    match random.below(6) {
        0 => json!({"labels": {"role": random.some(&ROLES)}}),
        1 => json!({"labels": {"app": random.some(&apps)}}),
        2 => json!({"labels": {"app": random.some(&apps), "role": random.some(&ROLES)}}),
        3 => json!({"not": {"env": random.some(&ENVS)}}),
        4 => json!({"labelGroups": ["ex-live"], "not": {"role": random.some(&ROLES)}}),
        _ => json!({"labels": {"env": random.some(&ENVS)}}),
    }
}

fn consumers(random: &mut Random) -> Value {
    match random.below(7) {
        0 => json!([{"allWorkloads": true}]),
        1 => json!([{"ipList": "ex-outside"}, labels(random)]),
        2 => json!([{"workload": "ex-machine"}]),
        _ => json!([labels(random)]),
    }
}

fn services(random: &mut Random) -> Value {
    match random.below(5) {
        0 => json!([{"protocol": "TCP", "port": 8000, "endPort": 8080}]),
        1 => json!([{"protocol": "TCP", "port": 8081}, {"protocol": "UDP", "port": 8080}]),
        2 => json!([{"name": "ex-both"}]),
        _ => json!([{"protocol": "TCP", "port": 8080}]),
    }
}

fn random_rule(random: &mut Random, number: usize) -> Value {
    let action = random.pick(&["Allow", "Allow", "Allow", "Deny", "OverrideDeny"]).copied().unwrap_or("Allow");
    let mut rule = json!({"name": format!("rule-{number}"), "action": action, "extraScope": random.one_in(2)});
    rule["consumers"] = consumers(random);
    rule["providers"] = json!([labels(random)]);
    match random.below(6) {
        0 => rule["allServices"] = json!(true),
        1 => {
            let space = random.pick(&SPACES[1..]).map_or("ex-full", |space| space.0);
            let name = random.pick(&ROLES).copied().unwrap_or("web");
            rule["providers"] = json!([{"virtualService": format!("{space}/{name}")}]);
            rule["useVirtualServicePorts"] = json!(true);
        }
        2 => rule["providers"] = json!([{"allWorkloads": true}]),
        _ => {}
    }
    if rule["allServices"].is_null() && rule["useVirtualServicePorts"].is_null() {
        rule["services"] = services(random);
    }
    rule
}

fn rule_sets(random: &mut Random) -> Vec<Value> {
    let mut number = 0;
    (0..RULE_SETS)
        .map(|set| {
            let rules: Vec<Value> = (0..4 + random.below(3))
                .map(|_| {
                    number += 1;
                    random_rule(random, number)
                })
                .collect();
            let scopes = match random.below(4) {
                0 => json!([{"labels": {"env": ["prod"]}}, {"labels": {"env": ["dev"]}}]),
                1 => json!([{"labels": {"role": random.some(&ROLES)}}]),
                _ => json!([{}]),
            };
            object("RuleSet", &format!("ex-{set}"), json!({"scopes": scopes, "rules": rules}))
        })
        .collect()
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": OURS, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn profile(space: &str, state: Option<&str>, env: Option<&str>) -> Value {
    let Some(state) = state else {
        return object("ContainerWorkloadProfile", space, json!({"managed": false}));
    };
    let mut labels = json!({"app": {"value": space}, "role": {"allowed": ROLES}});
    if let Some(env) = env {
        labels["env"] = json!({"value": env});
    }
    object("ContainerWorkloadProfile", space, json!({"managed": true, "policyState": state, "labels": labels}))
}

/// Everything that is written to the cluster and, the same, to files.
fn policy(random: &mut Random, outside: &[String; 2]) -> Vec<Value> {
    // A list may name one family and not the other.
    let list = random.some(&outside.each_ref().map(String::as_str));
    let mut objects = vec![
        object("LabelGroup", "ex-live", json!({"dimension": "env", "values": ["prod"]})),
        object("IPList", "ex-outside", json!({"ranges": list})),
        object("Workload", "ex-machine", json!({"addresses": outside, "labels": {"app": "ex-machines"}})),
        object(
            "ServiceDefinition",
            "ex-both",
            json!({"ports": [{"protocol": "TCP", "port": 8080}, {"protocol": "UDP", "port": 8080}]}),
        ),
    ];
    objects.extend(SPACES.map(|(space, state, env)| profile(space, state, env)));
    objects.extend(rule_sets(random));
    objects
}

/// An end of a connection as `explain` names it, over IPv4 and over IPv6, and where it is.
struct Client {
    names: [String; 2],
    netns: PathBuf,
}

struct Listener {
    /// By name over IPv4, by address over IPv6.
    name: String,
    is_service: bool,
    address: IpAddr,
    /// (port, whether it is UDP)
    ports: Vec<(u16, bool)>,
}

struct Pair {
    from: String,
    to: String,
    port: String,
    attempt: Try,
}

/// Two hundred random pairs of a live cluster in all states: what `explain` says is what happens.
pub async fn explain_agrees_with_real_connections(lab: Lab) -> Result<Outcome> {
    let seed = std::env::var("RINGFENCE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs()));
    println!("         explain: RINGFENCE_SEED={seed} repeats these pairs and rules");
    let mut random = Random(seed);
    let addresses = lab.bed.addresses()?;
    let outside = ["EXT_ADDRESS", "EXT_ADDRESS6"].map(|name| addresses.get(name).cloned().unwrap_or_default());
    let objects = policy(&mut random, &outside);
    let (clients, listeners) = deploy(&lab, &outside).await?;
    for object in &objects {
        lab.apply(object).await?;
    }
    for object in &objects {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        lab.await_ready(text("/kind"), None, text("/metadata/name")).await?;
    }
    let folder = std::env::temp_dir().join(format!("ringfence-explain-{}", lab.bed.name()));
    write(&lab, &folder, &objects)?;
    let pairs = pairs(&mut random, &clients, &listeners)?;
    let compared = compare(&folder, &pairs);

    for object in objects.iter().rev() {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        lab.delete(OURS, text("/kind"), None, text("/metadata/name")).await?;
    }
    for (space, ..) in SPACES {
        lab.delete("v1", "Namespace", None, space).await?;
    }
    compared.with_context(|| format!("with RINGFENCE_SEED={seed}; policy and cluster are in {}", folder.display()))?;
    std::fs::remove_dir_all(&folder).context("failed to remove a folder")?;
    Ok(Outcome::Passed)
}

/// Pods and Services of every namespace, reached once while nothing is enforced yet.
async fn deploy(lab: &Lab, outside: &[String; 2]) -> Result<(Vec<Client>, Vec<Listener>)> {
    for (space, _, env) in SPACES {
        lab.apply(&namespace(space)).await?;
        lab.apply(&profile(space, Some("Idle"), env)).await?;
        for role in ROLES {
            lab.apply(&pod(space, role, role, None)).await?;
            lab.apply(&service(space, role)).await?;
        }
    }
    let mut clients = vec![Client { names: outside.clone(), netns: lab.bed.client_netns() }];
    let mut listeners = Vec::new();
    let mut fronts = Vec::new();
    for (space, ..) in SPACES {
        for role in ROLES {
            let pod = format!("{space}/{role}");
            let addresses = pod_ips(&lab.await_pod(space, role).await?)?;
            clients.push(Client { names: [(); 2].map(|()| format!("pod/{pod}")), netns: lab.netns(space, role)? });
            let ports = [(8080, false), (8081, false), (8080, true)];
            listeners.extend(of_each_family(&pod, "pod", &addresses, &ports)?);
            let addresses = lab.cluster_ips(space, role).await?;
            listeners.extend(of_each_family(&pod, "svc", &addresses, &[(80, false)])?);
            fronts.extend(addresses.into_iter().map(|front| SocketAddr::new(front, 80)));
        }
    }
    // A Service refuses until kube-proxy has its back ends, on every node.
    for client in &clients[1..] {
        for front in &fronts {
            lab.await_seen(&client.netns, *front, Seen::Open, SLOW).await?;
        }
    }
    Ok((clients, listeners))
}

fn of_each_family(pod: &str, kind: &str, addresses: &[IpAddr], ports: &[(u16, bool)]) -> Result<[Listener; 2]> {
    let [v4, v6] = addresses else { bail!("{kind}/{pod} has {addresses:?} instead of an address of each family") };
    let listener =
        |name, address: &IpAddr| Listener { name, is_service: kind == "svc", address: *address, ports: ports.to_vec() };
    Ok([listener(format!("{kind}/{pod}"), v4), listener(v6.to_string(), v6)])
}

/// The policy as files, and the cluster as kubectl prints it.
fn write(lab: &Lab, folder: &Path, objects: &[Value]) -> Result<()> {
    let policy = folder.join("policy");
    std::fs::create_dir_all(&policy).context("failed to make a folder")?;
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for object in objects {
        let file = object["kind"].as_str().unwrap_or_default().to_lowercase();
        let text = serde_saphyr::to_string(object).context("failed to write YAML")?;
        files.entry(file).or_default().push_str(&format!("---\n{text}\n"));
    }
    for (file, text) in files {
        std::fs::write(policy.join(format!("{file}.yaml")), text).context("failed to write a policy file")?;
    }
    let cluster = lab.kubectl(&["get", RESOURCES, "-A", "-o", "yaml"], &[])?;
    std::fs::write(folder.join("cluster.yaml"), cluster).context("failed to write the cluster")
}

fn pairs(random: &mut Random, clients: &[Client], listeners: &[Listener]) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    while pairs.len() < PAIRS {
        // One in six from outside, which otherwise would be one in nineteen.
        let from = if random.one_in(6) { clients.first() } else { random.pick(clients) }.context("no clients")?;
        let to = random.pick(listeners).context("no listeners")?;
        let from_name = &from.names[usize::from(to.address.is_ipv6())];
        let (port, udp) = *random.pick(&to.ports).context("no ports")?;
        if to.is_service && !from_name.starts_with("pod/") {
            // A ClusterIP has no meaning outside the cluster.
            continue;
        }
        let attempt = Try { netns: from.netns.clone(), target: SocketAddr::new(to.address, port), udp };
        let port = format!("{port}/{}", if udp { "udp" } else { "tcp" });
        pairs.push(Pair { from: from_name.clone(), to: to.name.clone(), port, attempt });
    }
    Ok(pairs)
}

/// Asks and tries every pair, and names those of which the two differ.
fn compare(folder: &Path, pairs: &[Pair]) -> Result<()> {
    let mut wrong = Vec::new();
    let mut passing = 0;
    let answers = explain_all(folder, pairs)?;
    for (portion, answers) in pairs.chunks(AT_ONCE).zip(answers.chunks(AT_ONCE)) {
        let tries: Vec<Try> = portion.iter().map(|pair| pair.attempt.clone()).collect();
        for ((pair, answer), seen) in portion.iter().zip(answers).zip(probe::all(&tries)) {
            let seen = seen?;
            let verdict = answer["verdict"].as_str().unwrap_or_default();
            let passes = matches!(verdict, "allowed" | "potentiallyBlocked");
            let expected = if passes { Seen::Open } else { Seen::Dropped };
            passing += usize::from(passes);
            if seen != expected {
                let Pair { from, to, port, .. } = pair;
                wrong.push(format!("{from} to {to} on {port} is {seen}, and explain says {answer}"));
            }
        }
    }
    println!("         explain: {passing} of {} pairs pass, {} differ", pairs.len(), wrong.len());
    ensure!(wrong.is_empty(), "{} of {} pairs differ: {}", wrong.len(), pairs.len(), wrong.join("\n  "));
    ensure!(passing > 20 && passing + 20 < pairs.len(), "{passing} pairs pass: too one-sided to show anything");
    Ok(())
}

/// What is said of each pair. Every run reads the whole cluster anew, so that several go at a time.
fn explain_all(folder: &Path, pairs: &[Pair]) -> Result<Vec<Value>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let explain_some = |some: &[Pair]| some.iter().map(|pair| explain(folder, pair)).collect::<Result<Vec<_>>>();
    thread::scope(|scope| {
        let parts = pairs.chunks(pairs.len().div_ceil(threads));
        let asked: Vec<_> = parts.map(|part| scope.spawn(move || explain_some(part))).collect();
        let answers = asked.into_iter().map(|asked| asked.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Ok(answers.collect::<Result<Vec<_>>>()?.concat())
    })
}

fn explain(folder: &Path, pair: &Pair) -> Result<Value> {
    let output = Command::new(root().join("bin/ringfence"))
        .arg("explain")
        .arg("--policy")
        .arg(folder.join("policy"))
        .arg("--cluster")
        .arg(folder.join("cluster.yaml"))
        .args(["--from", &pair.from, "--to", &pair.to, "--port", &pair.port, "-o", "json"])
        .output()
        .context("failed to run bin/ringfence")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ringfence explain ended with {}: {}", output.status, said.trim());
    serde_json::from_slice(&output.stdout).context("ringfence explain printed no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_rules() {
        assert_eq!(rule_sets(&mut Random(7)), rule_sets(&mut Random(7)));
        assert_ne!(rule_sets(&mut Random(7)), rule_sets(&mut Random(8)));
    }
}
