//! What of Ringfence is in the kernel of a network namespace.

use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// Runs a command in a network namespace, and gives what it prints.
///
/// # Errors
/// When it fails.
pub fn in_netns(netns: &Path, command: &[&str]) -> Result<String> {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(command)
        .output()
        .with_context(|| format!("failed to run {}", command.join(" ")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed in {}: {}", command.join(" "), netns.display(), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every line of iptables, ip6tables and ipset in the namespace that is ours.
///
/// # Errors
/// When the kernel cannot be read.
pub fn ours(netns: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for command in [&["iptables-nft-save"][..], &["ip6tables-nft-save"], &["ipset", "list", "-name"]] {
        let text = in_netns(netns, command)?;
        lines.extend(text.lines().filter(|line| line.contains("RF")).map(str::to_owned));
    }
    Ok(lines)
}

/// The settings of a network namespace, but for how many flows it has.
///
/// # Errors
/// When they cannot be read.
pub fn sysctls(netns: &Path) -> Result<Vec<String>> {
    let read = "find /proc/sys/net -type f ! -name nf_conntrack_count -exec grep -Hs '' {} + || true";
    let mut lines: Vec<String> = in_netns(netns, &["sh", "-c", read])?.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    Ok(lines)
}

/// Every line of the gate in the network namespace of a node.
///
/// # Errors
/// When the kernel cannot be read.
pub fn gate(node: &Path) -> Result<Vec<String>> {
    Ok(ours(node)?.into_iter().filter(|line| line.contains("RF-GATE") || line.contains("RFG")).collect())
}

/// Whether an address is a member of a set of ours in the namespace.
///
/// # Errors
/// When the kernel cannot be read.
pub fn knows(netns: &Path, address: IpAddr) -> Result<bool> {
    let text = in_netns(netns, &["ipset", "save"])?;
    let members = text.lines().filter_map(|line| line.strip_prefix("add RF")?.split(' ').nth(1));
    Ok(members.filter_map(|member| member.split(',').next()).any(|member| member == address.to_string()))
}

/// The address of a Pod's interface: what Kubernetes would report as its podIP.
///
/// # Errors
/// When the kernel cannot be read, or there is none.
pub fn address(netns: &Path) -> Result<Ipv4Addr> {
    first_address(netns, "-4", "global", "inet")
}

/// The address that a Pod's interface has for its link alone.
///
/// # Errors
/// See [`address`].
pub fn link_local(netns: &Path) -> Result<Ipv6Addr> {
    first_address(netns, "-6", "link", "inet6")
}

fn first_address<A>(netns: &Path, family: &str, scope: &str, word: &str) -> Result<A>
where
    A: FromStr<Err = AddrParseError>,
{
    let text = in_netns(netns, &["ip", family, "-oneline", "address", "show", "scope", scope])?;
    let mut words = text.split_whitespace().skip_while(|found| *found != word);
    let prefix = words.nth(1).with_context(|| format!("there is no address in {}", netns.display()))?;
    let address = prefix.split('/').next().unwrap_or_default();
    address.parse().with_context(|| format!("'{prefix}' is no address"))
}

/// The number of an interface.
///
/// # Errors
/// When there is none of that name.
pub fn index(netns: &Path, interface: &str) -> Result<u32> {
    let text = in_netns(netns, &["ip", "-oneline", "link", "show", "dev", interface])?;
    let number = text.split(':').next().unwrap_or_default();
    number.trim().parse().with_context(|| format!("'{text}' has no number"))
}
