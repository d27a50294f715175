//! A control plane in its usual shape, static Pods of a master, on ports of its own: the master's policy in Full leaves
//! open what they are told on their command lines, to whom the policy model says, and nothing that the static Pod of a
//! worker says of itself.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Outcome;
use super::host::{Listener, address, ask, await_said, has_rules, release};
use super::outage::{MANIFESTS, write_static};
use crate::lab::{Lab, SLOW};
use crate::manifests::AGNHOST;
use crate::probe::{self, Seen, Try};
use crate::testbed::Testbed;
use crate::wait;

const KUBE_SYSTEM: &str = "kube-system";
/// By number: a master, and a node that is none and says that it were. Both get a policy.
const MASTER: &str = "1";
const WORKER: &str = "3";
/// Where the master's apiserver listens, and its etcd to clients and peers.
const APISERVER: u16 = 17443;
const ETCD: [u16; 2] = [12379, 12380];
/// Where etcd is as long as nobody says its ports.
const USUAL_ETCD: u16 = 2379;
/// Outside: one more etcd of which the apiserver is told, and a port beside it.
const OUTSIDE: [u16; 2] = [28092, 28093];
/// What the worker's static Pod says of itself: an apiserver's port, and etcd's.
const CLAIMED: [u16; 2] = [17444, 12381];
const KUBELET: u16 = 10250;
const PROXY_HEALTH: u16 = 10256;

/// A static Pod, until it is dropped: then its file goes, and the Pod with it.
struct StaticPod {
    bed: Testbed,
    component: &'static str,
    node: &'static str,
}

impl StaticPod {
    /// As kubeadm has one, but that what runs in it does not look at `flags`, and answers HTTP on `ports`. It is there
    /// once its mirror is ready.
    async fn start(
        lab: &Lab,
        component: &'static str,
        node: &'static str,
        flags: &[String],
        ports: &[u16],
    ) -> Result<Self> {
        let started = Self { bed: lab.bed.clone(), component, node };
        write_static(lab, node, &started.file(), &manifest(component, flags, ports))?;
        lab.await_pod(KUBE_SYSTEM, &started.mirror()).await?;
        Ok(started)
    }

    fn file(&self) -> String {
        format!("{}.yaml", self.component)
    }

    fn mirror(&self) -> String {
        format!("{}-node{}", self.component, self.node)
    }

    /// Takes them away, and awaits that no mirror of them is left.
    async fn end(lab: &Lab, pods: Vec<Self>) -> Result<()> {
        let mirrors: Vec<String> = pods.iter().map(Self::mirror).collect();
        drop(pods);
        for mirror in mirrors {
            wait::until(&format!("the mirror {mirror} to go"), SLOW, || async {
                Ok(lab.get("v1", "Pod", Some(KUBE_SYSTEM), &mirror).await?.is_none().then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}

impl Drop for StaticPod {
    fn drop(&mut self) {
        let file = format!("{MANIFESTS}/{}", self.file());
        // Where the node is gone, so is the file.
        let _ = self.bed.run(&["node-exec", self.bed.name(), self.node, "rm", "-f", &file]);
    }
}

fn manifest(component: &str, flags: &[String], ports: &[u16]) -> Value {
    let listeners: Vec<String> =
        ports.iter().map(|port| format!("/agnhost netexec --http-port={port} --udp-port=-1")).collect();
    let script = format!("{} & wait", listeners.join(" & "));
    let command = [&["/bin/sh", "-c", &script, component].map(str::to_owned)[..], flags].concat();
    // A container runs some time before its program listens; ready must mean that it does.
    let ready = json!({"httpGet": {"path": "/hostname", "port": ports.last()}, "periodSeconds": 1});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": component, "namespace": KUBE_SYSTEM, "labels": {"component": component, "tier": "control-plane"},
        },
        "spec": {
            "hostNetwork": true, "priorityClassName": "system-node-critical", "priority": 2_000_001_000,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": component, "image": AGNHOST, "imagePullPolicy": "IfNotPresent",
                "command": command,
                "readinessProbe": ready,
            }],
        },
    })
}

/// An end of connections.
struct End {
    netns: PathBuf,
    address: IpAddr,
}

impl End {
    fn of(lab: &Lab, netns: &str, part: &str) -> Result<Self> {
        Ok(Self { netns: lab.bed.netns(netns), address: address(lab, part)? })
    }
}

/// The parts of the cluster that connect to each other.
struct Ends {
    master: End,
    /// The same with its IPv6 address.
    master6: End,
    worker: End,
    /// A node without a policy.
    another: End,
    /// Where the cluster's own apiserver runs.
    apiserver: End,
    outside: End,
    /// A Pod.
    pod: PathBuf,
}

/// Who connects to whom on which port, and what becomes of it.
type Row<'a> = (&'a PathBuf, &'a End, u16, Seen);

impl Ends {
    async fn find(lab: &Lab) -> Result<Self> {
        let dns = lab.await_pods(KUBE_SYSTEM, "k8s-app=kube-dns", 1).await?;
        let dns = dns.first().and_then(|pod| pod.metadata.name.as_deref()).context("one Pod was awaited")?;
        Ok(Self {
            master: End::of(lab, "node1", "NODE1")?,
            master6: End { netns: lab.bed.netns("node1"), address: address6(lab, "NODE1")? },
            worker: End::of(lab, "node3", "NODE3")?,
            another: End::of(lab, "node2", "NODE2")?,
            apiserver: End::of(lab, "cp", "APISERVER")?,
            outside: End::of(lab, "ext", "EXT")?,
            pod: lab.netns(KUBE_SYSTEM, dns)?,
        })
    }

    /// What listens beside the static Pods.
    fn listen(&self, lab: &Lab) -> Result<Vec<Listener>> {
        let ports = [
            (&self.master, USUAL_ETCD),
            (&self.master, CLAIMED[0]),
            (&self.master, CLAIMED[1]),
            (&self.apiserver, ETCD[0]),
            (&self.another, ETCD[0]),
            (&self.outside, OUTSIDE[0]),
            (&self.outside, OUTSIDE[1]),
        ];
        ports.iter().map(|(end, port)| Listener::on(lab, &end.netns, *port)).collect()
    }

    /// While master and worker are in Full, and the master's static Pods say their ports.
    fn told(&self) -> Vec<Row<'_>> {
        use Seen::{Dropped, Open};
        let Self { master, master6, worker, another, apiserver, outside, pod } = self;
        vec![
            // The master's apiserver is open to anyone; what a worker says opens nothing, at the master or at itself.
            (&outside.netns, master, APISERVER, Open),
            (&outside.netns, master6, APISERVER, Open),
            (&another.netns, master, APISERVER, Open),
            (pod, master, APISERVER, Open),
            (&outside.netns, master, CLAIMED[0], Dropped),
            (&outside.netns, master6, CLAIMED[0], Dropped),
            (&outside.netns, worker, CLAIMED[0], Dropped),
            (&apiserver.netns, worker, CLAIMED[0], Dropped),
            // Its etcd to the control plane and to itself, on the ports that are said instead of the usual ones.
            (&apiserver.netns, master, ETCD[0], Open),
            (&apiserver.netns, master, ETCD[1], Open),
            (&master.netns, master, ETCD[0], Open),
            (&another.netns, master, ETCD[0], Dropped),
            (&another.netns, master, ETCD[1], Dropped),
            (&outside.netns, master, ETCD[0], Dropped),
            (pod, master, ETCD[0], Dropped),
            (&apiserver.netns, master, USUAL_ETCD, Dropped),
            (&apiserver.netns, master, CLAIMED[1], Dropped),
            (&apiserver.netns, worker, CLAIMED[1], Dropped),
            // It reaches etcd of the control plane, the one that its apiserver is told of, and kubelets as its own is.
            (&master.netns, apiserver, ETCD[0], Open),
            (&master.netns, another, ETCD[0], Dropped),
            (&master.netns, outside, OUTSIDE[0], Open),
            (&master.netns, outside, OUTSIDE[1], Dropped),
            (&master.netns, worker, KUBELET, Open),
            (&master.netns, another, KUBELET, Open),
            (&master.netns, another, PROXY_HEALTH, Dropped),
            (&apiserver.netns, master, KUBELET, Open),
            (&outside.netns, master, KUBELET, Dropped),
        ]
    }

    /// The same when nobody but the worker says ports: etcd is where it usually is.
    fn untold(&self) -> Vec<Row<'_>> {
        use Seen::{Dropped, Open};
        let Self { master, worker, another, apiserver, outside, .. } = self;
        vec![
            (&outside.netns, master, APISERVER, Dropped),
            (&outside.netns, master, CLAIMED[0], Dropped),
            (&apiserver.netns, master, USUAL_ETCD, Open),
            (&another.netns, master, USUAL_ETCD, Dropped),
            (&apiserver.netns, master, ETCD[0], Dropped),
            (&apiserver.netns, master, CLAIMED[1], Dropped),
            (&apiserver.netns, worker, CLAIMED[1], Dropped),
            (&master.netns, apiserver, ETCD[0], Dropped),
            (&master.netns, outside, OUTSIDE[0], Dropped),
        ]
    }

    /// Without a policy.
    fn open(&self) -> Vec<Row<'_>> {
        self.told().into_iter().map(|(from, to, port, _)| (from, to, port, Seen::Open)).collect()
    }
}

fn address6(lab: &Lab, part: &str) -> Result<IpAddr> {
    let addresses = lab.bed.addresses()?;
    let text = addresses.get(&format!("{part}_ADDRESS6")).with_context(|| format!("no IPv6 address of {part}"))?;
    text.parse().with_context(|| format!("'{text}' is no address"))
}

/// Every row that is not so.
fn sees(rows: &[Row<'_>]) -> Result<()> {
    let tries: Vec<Try> = rows
        .iter()
        .map(|(from, to, port, _)| Try {
            netns: (*from).clone(),
            target: SocketAddr::new(to.address, *port),
            udp: false,
        })
        .collect();
    let mut others = Vec::new();
    for ((attempt, row), seen) in tries.iter().zip(rows).zip(probe::all(&tries)) {
        let (seen, expected) = (seen?, row.3);
        if seen != expected {
            others.push(format!("{} to {} is {seen}, expected {expected}", attempt.netns.display(), attempt.target));
        }
    }
    if others.is_empty() { Ok(()) } else { bail!("{}", others.join("; ")) }
}

async fn await_sees(what: &str, rows: &[Row<'_>]) -> Result<()> {
    wait::until(what, SLOW, || std::future::ready(sees(rows).map(Some))).await
}

/// What the static Pods of the master say.
async fn control_plane(lab: &Lab, ends: &Ends) -> Result<Vec<StaticPod>> {
    let (own, outside) = (ends.master.address, ends.outside.address);
    let etcd = [
        format!("--listen-client-urls=https://127.0.0.1:{},https://{own}:{}", ETCD[0], ETCD[0]),
        format!("--listen-peer-urls=https://{own}:{}", ETCD[1]),
    ];
    let apiserver = [
        format!("--secure-port={APISERVER}"),
        format!("--etcd-servers=https://127.0.0.1:{},https://{outside}:{}", ETCD[0], OUTSIDE[0]),
    ];
    Ok(vec![
        StaticPod::start(lab, "etcd", MASTER, &etcd, &ETCD).await?,
        StaticPod::start(lab, "kube-apiserver", MASTER, &apiserver, &[APISERVER]).await?,
    ])
}

/// In Full, a master stays open where its static Pods say that apiserver and etcd listen, to whom that is essential; it
/// follows when they go and come. What a worker's static Pod says opens nothing.
pub async fn a_master_in_full_is_open_where_its_static_pods_listen(lab: Lab) -> Result<Outcome> {
    let ends = Ends::find(&lab).await?;
    let _listeners = ends.listen(&lab)?;
    let claims =
        [format!("--secure-port={}", CLAIMED[0]), format!("--listen-client-urls=https://127.0.0.1:{}", CLAIMED[1])];
    // Before those of the master, so that whoever knows these knows it too.
    let claiming = StaticPod::start(&lab, "kube-apiserver", WORKER, &claims, &CLAIMED).await?;
    let ran = in_full(&lab, &ends).await;
    let released = [release(&lab, "node1").await, release(&lab, "node3").await];
    let pods = ran?;
    released.into_iter().collect::<Result<()>>()?;
    for (node, end) in [("node1", &ends.master), ("node3", &ends.worker)] {
        await_said(&lab, node, None).await?;
        ensure!(!has_rules(&end.netns)?, "rules are left on an Idle node");
    }
    await_sees("all to be open again", &ends.open()).await?;
    StaticPod::end(&lab, pods.into_iter().chain([claiming]).collect()).await?;
    Ok(Outcome::Passed)
}

async fn in_full(lab: &Lab, ends: &Ends) -> Result<Vec<StaticPod>> {
    let pods = control_plane(lab, ends).await?;
    await_sees("all to be open", &ends.open()).await?;
    for node in ["node1", "node3"] {
        ask(lab, node, "Full").await?;
        await_said(lab, node, Some("InForce")).await?;
    }
    await_sees("a master in Full", &ends.told()).await?;
    // The control plane goes and comes while the policy is in force.
    StaticPod::end(lab, pods).await?;
    await_sees("a master in Full without static Pods", &ends.untold()).await?;
    let pods = control_plane(lab, ends).await?;
    await_sees("a master in Full with static Pods again", &ends.told()).await?;
    for node in ["node1", "node3"] {
        await_said(lab, node, Some("InForce")).await?;
    }
    Ok(pods)
}
