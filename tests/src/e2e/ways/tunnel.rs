//! A tunnel between two nodes of a cluster that routes without one.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;

use super::bed::Bed;
use crate::kernel::in_netns;

/// Its device on each of the nodes.
const DEVICE: &str = "rfways";
/// Its number, and the port that such tunnels have.
const VXLAN: [&str; 4] = ["id", "78", "dstport", "4789"];
/// What is left of the network's 1500 bytes.
const MTU: &str = "1450";

/// A VXLAN as flannel makes it: its addresses are the first of each node's Pod ranges. It ends with this.
pub struct Tunnel {
    ends: [End; 2],
}

struct End {
    netns: PathBuf,
    addresses: [IpAddr; 2],
}

impl Tunnel {
    /// From node3 to node2, and for nothing yet but to the addresses of the tunnel itself.
    pub fn create(bed: &Bed) -> Result<Self> {
        let end = |node| -> Result<End> { Ok(End { netns: bed.netns(node), addresses: bed.pod_networks(node)? }) };
        let tunnel = Self { ends: [end("node3")?, end("node2")?] };
        // One that is left of a test that was killed.
        tunnel.remove();
        let [here, there] = [bed.address("NODE3")?, bed.address("NODE2")?].map(|[first, _]| first.to_string());
        let [client, server] = &tunnel.ends;
        for (own, from, other, to) in [(client, &here, server, &there), (server, &there, client, &here)] {
            own.ip(&[&["link", "add", DEVICE, "type", "vxlan", "local", from, "remote", to][..], &VXLAN].concat())?;
            for address in own.addresses {
                own.ip(&["address", "add", &address.to_string(), "dev", DEVICE])?;
            }
            own.ip(&["link", "set", DEVICE, "mtu", MTU, "up"])?;
            for address in other.addresses {
                own.ip(&["route", "add", &address.to_string(), "dev", DEVICE])?;
            }
        }
        Ok(tunnel)
    }

    /// node3 reaches these addresses of node2 through it, and is seen by its own end; so the answers come back through it too.
    pub fn leads_to(&self, addresses: [IpAddr; 2]) -> Result<()> {
        let [client, server] = &self.ends;
        for (address, via) in addresses.iter().zip(server.addresses) {
            client.ip(&["route", "add", &address.to_string(), "via", &via.to_string(), "dev", DEVICE])?;
        }
        Ok(())
    }

    /// What the other end sees a client at node3 as.
    pub fn client(&self) -> [IpAddr; 2] {
        self.ends[0].addresses
    }

    /// Its addresses and routes go with it. Where it is not, there is nothing to do.
    fn remove(&self) {
        for end in &self.ends {
            let _ = end.ip(&["link", "delete", DEVICE]);
        }
    }
}

impl End {
    fn ip(&self, arguments: &[&str]) -> Result<()> {
        in_netns(&self.netns, &[&["ip"], arguments].concat()).map(drop)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.remove();
    }
}
