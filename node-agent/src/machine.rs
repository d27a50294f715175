//! What the node says about itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use nix::sys::socket::SockaddrStorage;

/// The machine-id, from the first of these files that is there.
pub fn machine_id(files: &[&Path]) -> Option<String> {
    files.iter().find_map(|file| id_in(file))
}

/// What the kernel calls the time since it was started.
pub fn boot_id() -> Option<String> {
    id_in(Path::new("/proc/sys/kernel/random/boot_id"))
}

fn id_in(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The resolvers that a resolv.conf names.
pub fn resolvers(file: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    named.filter_map(|rest| rest.trim().split('%').next()?.parse().ok()).collect()
}

/// The addresses by which the node is seen: those that interfaces of the calling thread's network namespace have, but for
/// loopback and link-local ones. Among them are those of bridges, from which probes come.
pub fn addresses() -> Vec<IpAddr> {
    every_address().into_iter().filter(|address| is_usable(*address)).collect()
}

/// Whether a kube-proxy translates Services by IPVS in the calling thread's network namespace.
pub fn translates_by_ipvs() -> bool {
    has_interface("kube-ipvs0")
}

/// Whether the calling thread's network namespace has an interface of this name.
pub fn has_interface(name: &str) -> bool {
    nix::ifaddrs::getifaddrs().is_ok_and(|mut interfaces| interfaces.any(|interface| interface.interface_name == name))
}

/// All addresses that interfaces of the calling thread's network namespace have.
pub fn every_address() -> BTreeSet<IpAddr> {
    match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces.filter_map(|interface| address_of(&interface.address?)).collect(),
        Err(error) => {
            tracing::warn!(%error, "failed to read the addresses of a network namespace");
            BTreeSet::new()
        }
    }
}

/// The address of an interface, if it is one of IP.
fn address_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|socket| IpAddr::V4(socket.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|socket| IpAddr::V6(socket.ip())))
}

fn is_usable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_with_a_machine_id_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let (missing, empty, good) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        std::fs::write(&empty, "\n").expect("written");
        std::fs::write(&good, "0123456789abcdef\n").expect("written");
        let id = machine_id(&[&missing, &empty, &good]);
        assert_eq!(id.as_deref(), Some("0123456789abcdef"));
    }

    #[test]
    fn resolvers_are_the_addresses_that_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("resolv.conf");
        std::fs::write(&file, "search x\nnameserver 192.0.2.53\n nameserver fe80::1%eth0\nnameserver x\n")
            .expect("written");
        let found: Vec<String> = resolvers(&file).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.53", "fe80::1"]);
        assert_eq!(resolvers(&folder.path().join("none")), [] as [IpAddr; 0]);
    }

    #[test]
    fn loopback_and_link_local_are_nobodys_address() {
        for (text, usable) in [
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("fe80::1", false),
            ("::1", false),
            ("10.244.0.1", true),
            ("fd00::1", true),
        ] {
            assert_eq!(is_usable(text.parse().expect("valid")), usable, "{text}");
        }
    }
}
