//! IPv6 beside IPv4, on real connections.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::Outcome;
use crate::kernel;
use crate::lab::{Lab, SLOW, pod_ips};
use crate::manifests::{OURS, namespace, pod, profile, rule, rule_set, service};
use crate::probe::{LongDatagrams, LongFlow, Seen};

const NAME: &str = "ds";

/// Who connects to what. The server and `near` are on one node, `far` and `stranger` on another; `near` and `far` are
/// clients, of whom rules speak.
struct Scene {
    near: PathBuf,
    far: PathBuf,
    stranger: PathBuf,
    outside: PathBuf,
    server_netns: PathBuf,
    /// The server's addresses.
    server: [IpAddr; 2],
    /// Those of the Service in front of it.
    service: [IpAddr; 2],
}

/// A label means both families; an IP list means the one that it names; what is tightened ends flows of both.
pub async fn rules_hold_over_both_families(lab: Lab) -> Result<Outcome> {
    let scene = Scene::create(&lab).await?;
    let client = rule("client-to-server", "Allow", (NAME, "client"), (NAME, "server"));
    let outside = json!({
        "name": "outside-to-server", "consumers": [{"ipList": NAME}],
        "providers": [{"labels": {"app": [NAME], "role": ["server"]}}],
        "services": [{"protocol": "TCP", "port": 8081}],
    });
    let address = lab.bed.addresses()?.get("EXT_ADDRESS6").context("no EXT_ADDRESS6")?.clone();
    let list = json!({"apiVersion": OURS, "kind": "IPList", "metadata": {"name": NAME}, "spec": {"ranges": [address]}});
    lab.apply(&list).await?;
    lab.apply(&rule_set(NAME, &[client.clone(), outside])).await?;
    lab.await_ready("RuleSet", None, NAME).await?;
    scene.full(&lab).await?;
    scene.tightened(&lab).await?;
    scene.selective(&lab).await?;
    lab.delete("v1", "Namespace", None, NAME).await?;
    for kind in ["RuleSet", "IPList", "ContainerWorkloadProfile"] {
        lab.delete(OURS, kind, None, NAME).await?;
    }
    Ok(Outcome::Passed)
}

impl Scene {
    /// Everybody reaches everybody, as nothing is enforced yet; then the Pods go to Full.
    async fn create(lab: &Lab) -> Result<Self> {
        let roles = ["client", "server", "stranger"];
        lab.apply(&namespace(NAME)).await?;
        lab.apply(&profile(NAME, "Idle", &roles)).await?;
        for (name, role, node) in [
            ("server", "server", "node2"),
            ("near", "client", "node2"),
            ("far", "client", "node3"),
            ("stranger", "stranger", "node3"),
        ] {
            lab.apply(&pod(NAME, name, role, Some(node))).await?;
        }
        lab.apply(&service(NAME, "server")).await?;
        for name in ["near", "far", "stranger"] {
            lab.await_pod(NAME, name).await?;
        }
        let scene = Self {
            near: lab.netns(NAME, "near")?,
            far: lab.netns(NAME, "far")?,
            stranger: lab.netns(NAME, "stranger")?,
            outside: lab.bed.client_netns(),
            server_netns: lab.netns(NAME, "server")?,
            server: both(&pod_ips(&lab.await_pod(NAME, "server").await?)?)?,
            service: both(&lab.cluster_ips(NAME, "server").await?)?,
        };
        for netns in [&scene.near, &scene.far, &scene.stranger] {
            scene.each_family(lab, netns, [Seen::Open; 2]).await?;
        }
        lab.await_seen(&scene.near, scene.on_the_link(8080)?, Seen::Open, SLOW).await?;
        lab.apply(&profile(NAME, "Full", &roles)).await?;
        lab.await_ready("ContainerWorkloadProfile", None, NAME).await?;
        Ok(scene)
    }

    /// What is seen of the server and of its Service, over each family.
    async fn each_family(&self, lab: &Lab, netns: &Path, seen: [Seen; 2]) -> Result<()> {
        for ((server, service), seen) in self.server.iter().zip(&self.service).zip(seen) {
            lab.await_seen(netns, SocketAddr::new(*server, 8080), seen, SLOW).await?;
            lab.await_seen(netns, SocketAddr::new(*service, 80), seen, SLOW).await?;
        }
        Ok(())
    }

    async fn full(&self, lab: &Lab) -> Result<()> {
        for client in [&self.near, &self.far] {
            self.each_family(lab, client, [Seen::Open; 2]).await?;
        }
        self.each_family(lab, &self.stranger, [Seen::Dropped; 2]).await?;
        for (address, from_outside) in self.server.iter().zip([Seen::Dropped, Seen::Open]) {
            let other = SocketAddr::new(*address, 8081);
            lab.await_seen(&self.outside, other, from_outside, SLOW).await?;
            lab.await_seen(&self.far, other, Seen::Dropped, SLOW).await?;
        }
        Ok(())
    }

    /// An Allow on UDP that is there and is taken back, and then an OverrideDeny: exactly their flows end.
    async fn tightened(&self, lab: &Lab) -> Result<()> {
        let mut client = rule("client-to-server", "Allow", (NAME, "client"), (NAME, "server"));
        client["services"] = json!([{"protocol": "TCP", "port": 8080}, {"protocol": "UDP", "port": 8080}]);
        lab.apply(&rule_set(NAME, &[client.clone()])).await?;
        lab.await_ready("RuleSet", None, NAME).await?;
        let mut streams = Vec::new();
        let mut datagrams = Vec::new();
        for address in self.server {
            let target = SocketAddr::new(address, 8080);
            streams.push(LongFlow::open(&self.far, target)?);
            datagrams.push(LongDatagrams::open(&self.far, target)?);
        }
        ensure!(streams.iter_mut().all(LongFlow::speaks), "not all TCP flows work to begin with");
        ensure!(datagrams.iter().all(LongDatagrams::speaks), "not all UDP flows work to begin with");

        client["services"] = json!([{"protocol": "TCP", "port": 8080}]);
        lab.apply(&rule_set(NAME, &[client.clone()])).await?;
        lab.await_ready("RuleSet", None, NAME).await?;
        ensure!(streams.iter_mut().all(LongFlow::speaks), "a TCP flow that is still allowed was ended");
        ensure!(!datagrams.iter().any(LongDatagrams::speaks), "a UDP flow that is not allowed any more goes on");

        let quarantine = rule("quarantine", "OverrideDeny", (NAME, "client"), (NAME, "server"));
        lab.apply(&rule_set(NAME, &[client, quarantine])).await?;
        lab.await_ready("RuleSet", None, NAME).await?;
        ensure!(!streams.iter_mut().any(LongFlow::speaks), "a TCP flow goes on in spite of an OverrideDeny");
        Ok(())
    }

    /// The OverrideDeny alone blocks in Selective, and it rejects if it is asked to.
    async fn selective(&self, lab: &Lab) -> Result<()> {
        let mut quarantine = rule("quarantine", "OverrideDeny", (NAME, "client"), (NAME, "server"));
        quarantine["reject"] = json!(true);
        lab.apply(&rule_set(NAME, &[quarantine])).await?;
        lab.apply(&profile(NAME, "Selective", &["client", "server", "stranger"])).await?;
        lab.await_ready("RuleSet", None, NAME).await?;
        lab.await_ready("ContainerWorkloadProfile", None, NAME).await?;
        self.each_family(lab, &self.stranger, [Seen::Open; 2]).await?;
        for client in [&self.near, &self.far] {
            self.each_family(lab, client, [Seen::Refused; 2]).await?;
        }
        // Whom it blocks it blocks by an address that only the link knows, too; what it says nothing of it does not.
        lab.await_seen(&self.near, self.on_the_link(8080)?, Seen::Refused, SLOW).await?;
        lab.await_seen(&self.near, self.on_the_link(8081)?, Seen::Open, SLOW).await
    }

    /// A port of the server by the address that its interface has for the link, as `near` dials it.
    fn on_the_link(&self, port: u16) -> Result<SocketAddr> {
        let address = kernel::link_local(&self.server_netns)?;
        Ok(SocketAddrV6::new(address, port, 0, kernel::index(&self.near, "eth0")?).into())
    }
}

/// An IPv4 and an IPv6 address, in this order.
pub fn both(addresses: &[IpAddr]) -> Result<[IpAddr; 2]> {
    match addresses {
        [v4, v6] if v4.is_ipv4() && v6.is_ipv6() => Ok([*v4, *v6]),
        other => bail!("{other:?} are not an IPv4 and an IPv6 address"),
    }
}
