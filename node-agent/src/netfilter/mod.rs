//! Questions that netfilter answers over netlink, without a program: what is in a few messages here is a child process
//! and a good part of a millisecond of its own otherwise.
//!
//! All of them are about the network namespace that the calling thread is in.

mod message;

use std::io::{Error, ErrorKind};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use message::{Header, request};
pub use message::{attribute, attributes, messages};

/// The subsystems of netfilter, from linux/netfilter/nfnetlink.h.
const CONNTRACK: u8 = 1;
/// See [`CONNTRACK`].
pub const IPSET: u8 = 6;
/// See [`CONNTRACK`].
const NF_TABLES: u8 = 10;

/// Chains of a kube-proxy that works with iptables, or with IPVS.
pub const KUBE_PROXY_CHAINS: [&str; 2] = ["KUBE-SERVICES", "KUBE-NODE-PORT"];

/// The largest list that is taken in, in bytes: far more than ours come to. Whoever may write sets in his own Pod can have as many
/// there as he likes.
const LARGEST_LIST: usize = 64 << 20;

/// From linux/netfilter/nf_tables.h.
const NFT_MSG_GETTABLE: u8 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFT_MSG_GETCHAIN: u8 = 4;
const NFT_MSG_GETGEN: u8 = 16;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_GEN_ID: u16 = 1;
/// From linux/netfilter/nfnetlink_conntrack.h.
const IPCTNL_MSG_CT_GET_STATS: u8 = 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

/// The number of the rules that nf_tables holds. Every commit raises it, whoever makes it, and nothing else changes a rule:
/// with the same number the rules are the same. It begins anew with every network namespace.
///
/// # Errors
/// When the kernel has no nf_tables, or does not say.
pub fn generation() -> Result<u32, Error> {
    one(NF_TABLES, NFT_MSG_GETGEN, NFTA_GEN_ID)
}

/// Whether nf_tables holds a chain, in whatever table of whatever family, whose name begins so.
///
/// # Errors
/// When the kernel has no nf_tables, or somebody writes rules just now.
pub fn has_chain(prefix: &str) -> Result<bool, Error> {
    let chains = dump(NF_TABLES, NFT_MSG_GETCHAIN, &[])?;
    let mut names = chains.iter().flat_map(|chain| attributes(chain)).filter(|(kind, _)| *kind == NFTA_CHAIN_NAME);
    Ok(names.any(|(_, name)| name.starts_with(prefix.as_bytes())))
}

/// Whether rules of a kube-proxy are in nf_tables: its own, or those of iptables or IPVS.
///
/// # Errors
/// When the kernel has no nf_tables, or somebody writes rules just now.
pub fn has_kube_proxy() -> Result<bool, Error> {
    if has_table("kube-proxy")? {
        return Ok(true);
    }
    for chain in KUBE_PROXY_CHAINS {
        if has_chain(chain)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether nf_tables holds a table, of whatever family.
fn has_table(wanted: &str) -> Result<bool, Error> {
    let tables = dump(NF_TABLES, NFT_MSG_GETTABLE, &[])?;
    let mut names = tables.iter().flat_map(|table| attributes(table)).filter(|(kind, _)| *kind == NFTA_TABLE_NAME);
    Ok(names.any(|(_, name)| name.strip_suffix(&[0]).unwrap_or(name) == wanted.as_bytes()))
}

/// How many flows conntrack follows. Counted are those of this network namespace alone, also those whose first packet is
/// still under way; the kernel keeps the number, so that nothing is walked for it.
///
/// # Errors
/// When the kernel has no conntrack, or does not say.
pub fn flows() -> Result<u32, Error> {
    one(CONNTRACK, IPCTNL_MSG_CT_GET_STATS, CTA_STATS_GLOBAL_ENTRIES)
}

/// The answer to a question that one number answers.
fn one(subsystem: u8, command: u8, attribute: u16) -> Result<u32, Error> {
    let socket = open()?;
    socket.send(&request(subsystem, command, NLM_F_REQUEST, &[]), 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let (header, body) = messages(&bytes).next().ok_or(ErrorKind::InvalidData)?;
    if header.kind == NLMSG_ERROR {
        return Err(refusal(body));
    }
    let answer = attributes(body).find(|(kind, _)| *kind == attribute).map(|(_, value)| value.try_into());
    Ok(u32::from_be_bytes(answer.and_then(Result::ok).ok_or(ErrorKind::InvalidData)?))
}

/// Everything that a command lists: of each entry, the attributes.
///
/// # Errors
/// When the kernel refuses, what it lists changed meanwhile, or is too large.
pub fn dump(subsystem: u8, command: u8, question: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let socket = open()?;
    socket.send(&request(subsystem, command, NLM_F_REQUEST | NLM_F_DUMP, question), 0)?;
    let (mut entries, mut taken) = (Vec::new(), 0);
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        taken += bytes.len();
        if taken > LARGEST_LIST {
            return Err(Error::other(format!("the list is longer than {} MiB", LARGEST_LIST >> 20)));
        }
        for (Header { kind, interrupted }, body) in messages(&bytes) {
            if interrupted {
                return Err(ErrorKind::Interrupted.into());
            }
            match kind {
                NLMSG_DONE => return code(body).map_or(Ok(entries), Err),
                NLMSG_ERROR => return Err(refusal(body)),
                _ => entries.push(body.to_vec()),
            }
        }
    }
}

fn open() -> Result<Socket, Error> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel answers before `send` returns, and makes the rest of a list while it is read.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// The error that a message begins with, if it is one.
fn code(body: &[u8]) -> Option<Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code < 0).then(|| Error::from_raw_os_error(code.saturating_neg()))
}

/// What an error message says; one without a code answers nothing either.
fn refusal(body: &[u8]) -> Error {
    code(body).unwrap_or_else(|| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Netns;

    #[test]
    fn whatever_is_written_raises_the_number_of_the_rules() {
        let Some(netns) = Netns::new("whatever_is_written_raises_the_number_of_the_rules") else { return };
        let number = || netns.within(|_| generation()).expect("the kernel has nf_tables");
        let mut before = number();
        assert_eq!(number(), before, "to read changes nothing");
        for (program, rule) in [
            ("iptables-nft", "-A OUTPUT -j ACCEPT"),
            ("iptables-nft", "-R OUTPUT 1 -j DROP"),
            ("ip6tables-nft", "-t mangle -N RF-IN"),
            ("iptables-nft", "-D OUTPUT 1"),
        ] {
            netns.exec(program, &rule.split(' ').collect::<Vec<_>>(), "");
            let now = number();
            assert!(now > before, "{program} {rule}: {now}, {before}");
            before = now;
        }
        netns.exec("iptables-nft-save", &[], "");
        assert_eq!(number(), before, "nor does it to print them");
    }

    #[test]
    fn a_chain_of_either_family_is_found_by_how_its_name_begins() {
        let Some(netns) = Netns::new("a_chain_of_either_family_is_found_by_how_its_name_begins") else { return };
        let has = || netns.within(|_| has_chain("RF-")).expect("the kernel has nf_tables");
        netns.exec("iptables-nft", &["-t", "mangle", "-N", "SURF-IN"], "");
        assert!(!has(), "others have chains too");
        netns.exec("ip6tables-nft", &["-t", "raw", "-N", "RF-FP-1"], "");
        assert!(has());
        netns.exec("ip6tables-nft", &["-t", "raw", "-X", "RF-FP-1"], "");
        assert!(!has());
    }

    #[test]
    fn flows_are_those_of_one_namespace() {
        let test = "flows_are_those_of_one_namespace";
        let (Some(busy), Some(idle)) = (Netns::new(test), Netns::new(test)) else { return };
        for netns in [&busy, &idle] {
            netns.exec("iptables-nft", &["-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW"], "");
            assert_eq!(netns.within(|_| flows()).expect("the kernel has conntrack"), 0);
        }
        busy.within(|_| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
            socket.send_to(b"x", "127.0.0.1:9").expect("sent");
        });
        assert!(busy.within(|_| flows()).expect("the kernel has conntrack") >= 1);
        assert_eq!(idle.within(|_| flows()).expect("the kernel has conntrack"), 0);
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        let Some(netns) = Netns::new("what_the_kernel_refuses_is_an_error") else { return };
        assert!(netns.within(|_| dump(NF_TABLES, 200, &[])).is_err());
        assert!(netns.within(|_| one(NF_TABLES, 200, NFTA_GEN_ID)).is_err());
    }
}
