//! The scene that all rows share: who connects, what is dialled, and what stands in between.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::dual_stack::both;
use super::super::host;
use super::bed::{self, Bed, Listeners, SMALL_MTU};
use super::doors::{Door, doors};
use super::objects::{
    self, APISERVER, CLIENTS, EXTERNAL_IPS, NAME, NAMED, NAMED_ADDRESSES, OTHER_NAME, PORTS, PROBE_PORTS, SERVERS,
};
use super::paths::Phase;
use super::table::{Client, Origin, Packets, Row, Target};
use super::tunnel::Tunnel;
use crate::kernel::{in_netns, knows};
use crate::lab::{Lab, SLOW, pod_ips};
use crate::manifests::{OURS, namespace, profile};
use crate::packets;
use crate::sctp;
use crate::wait;

/// A client: its network namespace and its addresses, IPv4 first.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where connections are opened.
    pub netns: PathBuf,
    /// One of each family.
    pub addresses: [IpAddr; 2],
}

/// Everything that rows name.
pub struct Scene {
    places: BTreeMap<String, Place>,
    doors: BTreeMap<Target, Door>,
    /// Addresses of the bridge that the servers' node has in the Pod network.
    bridge: [IpAddr; 2],
    /// Addresses of the Pod behind the cluster's DNS Service.
    pub dns_pod: [Option<IpAddr>; 2],
    tunnel: Tunnel,
    /// Listeners outside, which end with the scene.
    _outside: Listeners,
    /// In the server's Pod, whose programs know no SCTP.
    _sctp: sctp::Listener,
}

impl Scene {
    /// Makes the scene, with nothing enforced yet.
    ///
    /// # Errors
    /// When something of it does not come up.
    pub async fn create(lab: &Lab) -> Result<Self> {
        let bed = Bed::new(lab)?;
        for space in [CLIENTS, SERVERS] {
            lab.apply(&namespace(space)).await?;
        }
        enforce(lab, Phase { consumers: false, providers: false }).await?;
        lab.apply(&external_ranges(&EXTERNAL_IPS.concat())).await?;
        for object in objects::policy(bed.address("EXT")?).iter().chain(&objects::webhook()).chain(&objects::pods()) {
            lab.apply(object).await?;
        }
        lab.apply(&objects::probed("probed")).await?;
        for service in objects::services() {
            lab.apply(&service).await?;
            if let Some(status) = service.get("status") {
                let name = service["metadata"]["name"].as_str().context("a Service has a name")?;
                let patch = json!({"status": status}).to_string();
                let arguments = ["patch", "service", name, "-n", SERVERS, "--subresource=status", "--type=merge", "-p"];
                lab.kubectl(&[&arguments[..], &[&patch]].concat(), &[])?;
            }
        }
        bed.routes()?;
        bed.named()?;
        let outside = bed::listeners(lab)?;
        let places = places(lab, &bed).await?;
        let server = place(&places, "server")?.addresses;
        lab.apply(&objects::master("node3", true)).await?;
        let [apiserver, _] = bed.address("NODE3")?;
        for slice in objects::slices(server).iter().chain([&objects::apiserver(apiserver)]) {
            lab.apply(slice).await?;
        }
        let tunnel = Tunnel::create(&bed)?;
        tunnel.leads_to(place(&places, "tunnelled")?.addresses)?;
        bed::redirects(&places)?;
        let small = place(&places, "small-mtu")?.addresses;
        bed.small_mtu(place(&places, "far")?.addresses, small)?;
        let dns_pod = lab.await_pods("kube-system", "k8s-app=kube-dns", 1).await?;
        let dns_pod = pod_ips(dns_pod.first().context("one Pod was awaited")?)?;
        let mut scene = Self {
            doors: doors(lab, &bed, &places).await?,
            bridge: bed.bridge()?,
            dns_pod: [false, true].map(|v6| dns_pod.iter().find(|address| address.is_ipv6() == v6).copied()),
            _sctp: sctp::Listener::listen(&place(&places, "server")?.netns, &PORTS)?,
            places,
            tunnel,
            _outside: outside,
        };
        scene.doors.insert(Target::Probe, Door::new(scene.probed(lab, "probed").await?, [PROBE_PORTS[0]; 2]));
        lab.await_ready("RuleSet", None, CLIENTS).await?;
        scene.known().await?;
        scene.ask_for_names()?;
        Ok(scene)
    }

    /// Awaits that the servers' node knows what only agents and EndpointSlices tell: where the tunnel of another node is, and the
    /// apiserver.
    async fn known(&self) -> Result<()> {
        for (name, addresses) in
            [("tunnelled", self.tunnel.client()), ("webhook", place(&self.places, "NODE3")?.addresses)]
        {
            let netns = &place(&self.places, name)?.netns;
            wait::until(&format!("{addresses:?} to be known to {name}"), SLOW, || async {
                let [first, second] = addresses.map(|address| knows(netns, address));
                Ok((first? && second?).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Who dials by name asks for it, and for the name that no rule has; strangers do so too.
    fn ask_for_names(&self) -> Result<()> {
        let server = self.door(Target::Dns)?.addresses[0];
        for netns in ["far", "far-stranger"] {
            for (name, addresses) in [NAME, OTHER_NAME].into_iter().zip(NAMED_ADDRESSES) {
                for (v6, address) in [false, true].into_iter().zip(addresses) {
                    let netns = &place(&self.places, netns)?.netns;
                    let found = packets::addresses_of(netns, SocketAddr::new(server, 53), false, name, v6)?;
                    ensure!(found.iter().map(ToString::to_string).eq([address]), "{name} means {found:?}");
                }
            }
        }
        Ok(())
    }

    /// A Pod with probes that starts now; from here on it is the one that rows mean.
    ///
    /// # Errors
    /// When a probe fails.
    pub async fn another_probed(&mut self, lab: &Lab) -> Result<()> {
        lab.apply(&objects::probed("probed-in-full")).await?;
        let addresses = self.probed(lab, "probed-in-full").await?;
        self.doors.insert(Target::Probe, Door::new(addresses, [PROBE_PORTS[0]; 2]));
        Ok(())
    }

    async fn probed(&self, lab: &Lab, name: &str) -> Result<[IpAddr; 2]> {
        let pod = lab.await_pod(SERVERS, name).await?;
        both(&pod_ips(&pod)?)
    }

    /// That no probe has failed.
    ///
    /// # Errors
    /// When a Pod with probes is not ready, or a container was started again.
    pub async fn probes_succeed(&self, lab: &Lab) -> Result<()> {
        for name in ["probed", "probed-in-full"] {
            let pod = lab.await_pod(SERVERS, name).await?;
            let containers = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
            let restarts: i32 = containers.iter().map(|container| container.restart_count).sum();
            ensure!(restarts == 0, "a liveness or startup probe of {name} failed: {restarts} restarts");
        }
        Ok(())
    }

    /// Who a row's client is.
    ///
    /// # Errors
    /// When there is none.
    pub fn client(&self, client: Client) -> Result<&Place> {
        place(
            &self.places,
            match client {
                Client::Near => "near",
                Client::Far => "far",
                Client::Itself => "server",
                Client::NearNode | Client::Kubelet => "NODE2",
                // Of the nodes that are not the servers', it has clients, and is said to have an apiserver.
                Client::FarNode | Client::Apiserver => "NODE3",
                Client::Outside => "EXT",
                Client::ApiserverApart => "APISERVER",
                Client::Redirecting => "redirecting",
            },
        )
    }

    /// Clients in the same place whom no rule names.
    pub fn strangers(&self, client: Client) -> Vec<PathBuf> {
        let names: &[&str] = match client {
            Client::Near => &["near-stranger"],
            Client::Far | Client::Itself => &["far-stranger"],
            Client::Kubelet => &["near-stranger", "far-stranger"],
            Client::Outside | Client::ApiserverApart => &["FABRIC"],
            // A node without an apiserver.
            Client::Apiserver => &["NODE2"],
            // Every node is a container host, and a redirect is one Pod's own.
            Client::NearNode | Client::FarNode | Client::Redirecting => &[],
        };
        names.iter().filter_map(|name| self.places.get(*name)).map(|place| place.netns.clone()).collect()
    }

    /// What a row dials.
    ///
    /// # Errors
    /// When the scene does not have it.
    pub fn door(&self, target: Target) -> Result<&Door> {
        self.doors.get(&target).with_context(|| format!("the scene has no {target:?}"))
    }

    /// Says where a server does not see who the row says.
    ///
    /// # Errors
    /// When the scene does not have what the row names.
    pub fn wrong_origin(&self, row: &Row, family: usize) -> Result<Option<String>> {
        let (client, door) = (self.client(row.from)?, self.door(row.to)?);
        let expected = match row.origin {
            Origin::Client | Origin::ClientNode => client.addresses[family],
            Origin::Bridge => self.bridge[family],
            // Of the nodes that are not the servers', one is dialled and has clients.
            Origin::Translating => place(&self.places, "NODE3")?.addresses[family],
            Origin::Tunnel => self.tunnel.client()[family],
            Origin::Nobody => return Ok(None),
        };
        let target = SocketAddr::new(door.addresses[family], door.tcp[0]);
        let seen = match row.packets {
            Packets::Sctp => vec![(target, sctp::seen_as(&client.netns, target))],
            Packets::Both => {
                let by_udp = SocketAddr::new(target.ip(), door.udp[0]);
                let seen_by_udp = packets::seen_as_by_udp(&client.netns, by_udp);
                vec![(target, packets::seen_as(&client.netns, target)), (by_udp, seen_by_udp)]
            }
            _ => vec![(target, packets::seen_as(&client.netns, target))],
        };
        let wrong = seen.into_iter().find_map(|(target, seen)| match seen {
            Ok(seen) if seen == expected => None,
            Ok(seen) => Some(format!("{}: who dials {target} is seen as {seen}, expected {expected}", row.key)),
            Err(error) => Some(format!("{}: {target} does not say whom it sees: {error}", row.key)),
        });
        Ok(wrong)
    }

    /// Makes neighbours and path MTUs be found anew.
    ///
    /// # Errors
    /// When a command fails.
    pub fn forget(&self) -> Result<()> {
        for name in ["near", "server"] {
            in_netns(&place(&self.places, name)?.netns, &["ip", "-6", "neighbour", "flush", "dev", "eth0"])?;
        }
        for name in ["far", "small-mtu"] {
            for family in ["-4", "-6"] {
                in_netns(&place(&self.places, name)?.netns, &["ip", family, "route", "flush", "cache"])?;
            }
        }
        Ok(())
    }

    /// That neighbours were asked for, and that both ends learned the smaller MTU.
    ///
    /// # Errors
    /// When one of them does not know.
    pub fn found_again(&self) -> Result<()> {
        let [near, server] = [place(&self.places, "near")?, place(&self.places, "server")?];
        let known = in_netns(&near.netns, &["ip", "-6", "neighbour", "show", &server.addresses[1].to_string()])?;
        ensure!(known.contains("lladdr"), "neighbour-discovery: the server is no neighbour: '{}'", known.trim());
        let [far, small] = [place(&self.places, "far")?, place(&self.places, "small-mtu")?];
        for (from, to) in [(far, small), (small, far)] {
            for address in to.addresses {
                let route = in_netns(&from.netns, &["ip", "route", "get", &address.to_string()])?;
                ensure!(route.contains(&format!("mtu {SMALL_MTU}")), "path-mtu: not learned: '{}'", route.trim());
            }
        }
        Ok(())
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// When the apiserver refuses.
    pub async fn remove(self, lab: &Lab) -> Result<()> {
        for space in [CLIENTS, SERVERS] {
            lab.delete("v1", "Namespace", None, space).await?;
            lab.delete(OURS, "ContainerWorkloadProfile", None, space).await?;
        }
        for (kind, name) in [("RuleSet", CLIENTS), ("IPList", CLIENTS), ("IPList", NAMED)] {
            lab.delete(OURS, kind, None, name).await?;
        }
        lab.delete("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", None, CLIENTS).await
    }
}

/// What concerns other tests is as it was, also after a failure.
///
/// # Errors
/// When it cannot be made so.
pub async fn restore(lab: &Lab) -> Result<()> {
    Bed::new(lab)?.restore()?;
    host::release(lab, "node1").await?;
    lab.delete("discovery.k8s.io/v1", "EndpointSlice", Some("default"), APISERVER).await?;
    lab.apply(&objects::master("node3", false)).await?;
    lab.apply(&external_ranges(&[])).await.map(drop)
}

/// Puts each namespace into its state of a phase.
///
/// # Errors
/// When it is not in force in time.
pub async fn enforce(lab: &Lab, phase: Phase) -> Result<()> {
    let state = |full| if full { "Full" } else { "VisibilityOnly" };
    lab.apply(&profile(CLIENTS, state(phase.consumers), &["client", "stranger"])).await?;
    lab.apply(&profile(SERVERS, state(phase.providers), &["server", "rejecting", "probed", "webhook"])).await?;
    // The node that is dialled itself: no other row's.
    host::ask(lab, "node1", if phase.providers { "Full" } else { "Idle" }).await?;
    for space in [CLIENTS, SERVERS] {
        lab.await_ready("ContainerWorkloadProfile", None, space).await?;
    }
    host::await_said(lab, "node1", phase.providers.then_some("InForce")).await.map(drop)
}

fn external_ranges(addresses: &[&str]) -> Value {
    let mut object = json!({"apiVersion": OURS, "kind": "ContainerCluster", "metadata": {"name": "this"}});
    // Without a spec nothing tells any more that somebody has written to it.
    if !addresses.is_empty() {
        let host = |address: &&str| format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
        let ranges: Vec<String> = addresses.iter().map(host).collect();
        object["spec"] = json!({"externalIpRanges": ranges});
    }
    object
}

async fn places(lab: &Lab, bed: &Bed) -> Result<BTreeMap<String, Place>> {
    let mut places = BTreeMap::new();
    for (part, netns) in [("NODE2", "node2"), ("NODE3", "node3"), ("EXT", "ext"), ("APISERVER", "cp")] {
        places.insert(part.to_owned(), Place { netns: bed.netns(netns), addresses: bed.address(part)? });
    }
    // Nothing compares the router's address.
    places.insert("FABRIC".to_owned(), Place { netns: bed.netns("fabric"), addresses: bed.address("HOST")? });
    for pod in objects::pods() {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (space, name) = (text("namespace"), text("name"));
        let addresses = both(&pod_ips(&lab.await_pod(&space, &name).await?)?)?;
        // A Pod of the host network has no sandbox of its own.
        if pod["spec"]["hostNetwork"] != true {
            places.insert(name.clone(), Place { netns: lab.netns(&space, &name)?, addresses });
        }
    }
    Ok(places)
}

/// A place by name.
pub fn place<'a>(places: &'a BTreeMap<String, Place>, name: &str) -> Result<&'a Place> {
    places.get(name).with_context(|| format!("the scene has no {name}"))
}
