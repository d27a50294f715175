//! The test bed around the scene: its parts, routes, redirects and listeners outside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::objects::{ENTERED, EXTERNAL_IPS, LOAD_BALANCERS, NAMED_ADDRESSES, PORTS, PROXY_PORT};
use super::scene::{Place, place};
use crate::kernel::in_netns;
use crate::lab::Lab;
use crate::testbed::Testbed;

/// The smallest MTU that IPv6 allows.
pub const SMALL_MTU: u16 = 1280;

/// What translates, IPv4 first.
const NAT: [&str; 2] = ["iptables-nft", "ip6tables-nft"];

/// The test bed's addresses and network namespaces.
pub struct Bed {
    bed: Testbed,
    /// Of its parts, by name.
    pub addresses: BTreeMap<String, String>,
}

impl Bed {
    /// Asks the test bed.
    pub fn new(lab: &Lab) -> Result<Self> {
        Ok(Self { bed: lab.bed.clone(), addresses: lab.bed.addresses()? })
    }

    /// The network namespace of a part.
    pub fn netns(&self, part: &str) -> PathBuf {
        self.bed.netns(part)
    }

    /// Both addresses of a part.
    pub fn address(&self, part: &str) -> Result<[IpAddr; 2]> {
        let one = |suffix: &str| -> Result<IpAddr> {
            let key = format!("{part}_ADDRESS{suffix}");
            let text = self.addresses.get(&key).with_context(|| format!("no {key}"))?;
            text.parse().with_context(|| format!("'{text}' is no address"))
        };
        Ok([one("")?, one("6")?])
    }

    /// The addresses that node2 has on its bridge.
    pub fn bridge(&self) -> Result<[IpAddr; 2]> {
        Ok(self.on_bridge("node2")?.map(|prefix| prefix.addr()))
    }

    /// The first addresses of the ranges that a node's Pods have theirs from, which no Pod gets.
    pub fn pod_networks(&self, node: &str) -> Result<[IpAddr; 2]> {
        Ok(self.on_bridge(node)?.map(|prefix| prefix.network()))
    }

    fn on_bridge(&self, node: &str) -> Result<[IpNet; 2]> {
        let show = ["ip", "-oneline", "address", "show", "dev", "cni0", "scope", "global"];
        let text = in_netns(&self.netns(node), &show)?;
        let prefixes = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        let parsed =
            prefixes.map(|text| text.parse().context("ip printed no prefix")).collect::<Result<Vec<IpNet>>>()?;
        let of_family = |v4: bool| parsed.iter().copied().find(|prefix| prefix.addr().is_ipv4() == v4);
        Ok([of_family(true).context("a bridge without IPv4")?, of_family(false).context("a bridge without IPv6")?])
    }

    /// The router sends what is for load balancers and externalIPs to the node that it is to enter by.
    pub fn routes(&self) -> Result<()> {
        let each = |addresses: [[&'static str; 2]; 3]| addresses.into_iter().zip(ENTERED);
        for (addresses, node) in each(LOAD_BALANCERS).chain(each(EXTERNAL_IPS)) {
            for (address, via) in addresses.iter().zip(self.address(node)?) {
                in_netns(&self.netns("fabric"), &["ip", "route", "replace", address, "via", &via.to_string()])?;
            }
        }
        Ok(())
    }

    /// The addresses of names lead to the listeners outside, which answer datagrams from an address of theirs.
    pub fn named(&self) -> Result<()> {
        let outside = self.address("EXT")?.map(|address| address.to_string());
        for addresses in NAMED_ADDRESSES {
            for ((address, to), program) in addresses.iter().zip(&outside).zip(NAT) {
                in_netns(&self.netns("fabric"), &["ip", "route", "replace", address, "via", to])?;
                let rule = ["-A", "PREROUTING", "-d", address, "-j", "DNAT", "--to-destination", to];
                in_netns(&self.netns("ext"), &[&[program, "-t", "nat"][..], &rule].concat())?;
            }
        }
        Ok(())
    }

    /// Each node's way to the other's Pod takes no more than so much.
    pub fn small_mtu(&self, far: [IpAddr; 2], small: [IpAddr; 2]) -> Result<()> {
        for (node, via, to) in [("node3", "NODE2", small), ("node2", "NODE3", far)] {
            for (address, via) in to.iter().zip(self.address(via)?) {
                let (address, via, mtu) = (address.to_string(), via.to_string(), SMALL_MTU.to_string());
                in_netns(&self.netns(node), &["ip", "route", "replace", &address, "via", &via, "mtu", &mtu])?;
            }
        }
        Ok(())
    }

    /// Takes every route and translation away that the above have made.
    pub fn restore(&self) -> Result<()> {
        let mtu = format!("mtu {SMALL_MTU}");
        for program in NAT {
            in_netns(&self.netns("ext"), &[program, "-t", "nat", "-F", "PREROUTING"])?;
        }
        for (part, made) in [("fabric", "203.0.113."), ("fabric", "2001:db8:113:"), ("node2", &mtu), ("node3", &mtu)] {
            for family in ["-4", "-6"] {
                let netns = self.netns(part);
                let routes = in_netns(&netns, &["ip", family, "route", "show"])?;
                for route in routes.lines().filter(|line| line.contains(made)) {
                    let address = route.split_whitespace().next().context("a route has an address")?;
                    in_netns(&netns, &["ip", family, "route", "delete", address])?;
                }
            }
        }
        Ok(())
    }
}

/// agnhost outside, on the ports of the servers.
pub fn listeners(lab: &Lab) -> Result<Listeners> {
    let program = lab.bed.bin()?.join("agnhost");
    let mut started = Listeners(Vec::new());
    for port in PORTS {
        let child = Command::new("nsenter")
            .arg(format!("--net={}", lab.bed.client_netns().display()))
            .arg(&program)
            .args(["netexec", &format!("--http-port={port}"), &format!("--udp-port={port}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        started.0.push(child.context("failed to start a listener outside")?);
    }
    Ok(started)
}

/// Programs that listen, and end with this.
pub struct Listeners(Vec<Child>);

impl Drop for Listeners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself, and then there is nothing to do.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// As a sidecar does it: what comes to the Pod's ports, or leaves for them, ends at its own proxy.
pub fn redirects(places: &BTreeMap<String, Place>) -> Result<()> {
    let ports = PORTS.map(|port| port.to_string()).join(",");
    for (name, chain) in [("redirect", "PREROUTING"), ("redirecting", "OUTPUT")] {
        for program in ["iptables-nft", "ip6tables-nft"] {
            for protocol in ["tcp", "udp"] {
                let to = PROXY_PORT.to_string();
                let what = ["-p", protocol, "-m", "multiport", "--dports", &ports, "-j", "REDIRECT", "--to-ports", &to];
                in_netns(&place(places, name)?.netns, &[&[program, "-t", "nat", "-A", chain][..], &what].concat())?;
            }
        }
    }
    Ok(())
}
