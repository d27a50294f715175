//! Whether anybody has written to the kernel: the number of nf_tables' generation in each network namespace, which every
//! commit raises, and the sets with their seeds, which are new with every set.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::nets::{Nets, run};
use crate::probe;

/// From linux/netfilter/nf_tables.h and nfnetlink.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETGEN: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
/// A `struct nlmsghdr` and a `struct nfgenmsg`; what follows is the attribute NFTA_GEN_ID: four bytes, then the number.
const HEADERS: usize = 20;

/// What the kernel holds.
pub struct Kernel {
    generations: Vec<u32>,
    /// Sets by namespace and name.
    sets: BTreeMap<(usize, String), Vec<String>>,
}

impl Kernel {
    /// Reads it, of the node itself too.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(nets: &Nets, node: PathBuf) -> Result<Self> {
        let mut kernel = Self { generations: Vec::new(), sets: BTreeMap::new() };
        for (number, path) in nets.pods().iter().map(|pod| pod.path()).chain([node]).enumerate() {
            kernel.generations.push(probe::inside(&path, generation)?);
            let netns = format!("--net={}", path.display());
            for line in run("nsenter", &[&netns, "ipset", "save"], "")?.lines() {
                let name = line.split(' ').nth(1).unwrap_or_default().to_owned();
                kernel.sets.entry((number, name)).or_default().push(line.to_owned());
            }
        }
        // Members have no order.
        kernel.sets.values_mut().for_each(|lines| lines.sort_unstable());
        Ok(kernel)
    }

    /// How many commits there were, and sets that are not as they were.
    pub fn since(&self, before: &Self) -> usize {
        let commits: u32 =
            self.generations.iter().zip(&before.generations).map(|(now, then)| now.saturating_sub(*then)).sum();
        let differ = |(key, lines): &(&(usize, String), &Vec<String>)| before.sets.get(*key) != Some(*lines);
        let gone = before.sets.keys().filter(|key| !self.sets.contains_key(*key)).count();
        usize::try_from(commits).unwrap_or(usize::MAX) + self.sets.iter().filter(differ).count() + gone
    }
}

/// The number of the generation of rules in the calling thread's network namespace.
fn generation() -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = Vec::new();
    message.extend(u32::try_from(HEADERS).unwrap_or_default().to_ne_bytes());
    message.extend((NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN).to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8 + 4]);
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let number = answer.get(HEADERS + 4..HEADERS + 8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    number.context("the kernel tells no generation").map_err(io::Error::other)
}
