//! The node's own traffic, and a node that is turned off.

use std::net::SocketAddr;
use std::process::Command;

use ringfence_tests::kernel;
use ringfence_tests::probe::{self, Seen};
use ringfence_tests::programs::{Running, needed, run, until};

use super::lab::{Lab, address};

/// Where the node itself listens: SSH, what a rule opens, and what none does.
const NODE_PORTS: [u16; 3] = [22, 9080, 9081];

const NODE_POLICY: &str = "\
apiVersion: ringfence.dev/v1alpha1
kind: Workload
metadata: {name: n1}
spec: {labels: {role: host}, policyState: Full}
---
apiVersion: ringfence.dev/v1alpha1
kind: IPList
metadata: {name: pods}
spec: {ranges: [10.99.0.0/24]}
---
apiVersion: ringfence.dev/v1alpha1
kind: RuleSet
metadata: {name: nodes}
spec:
  scopes: [{}]
  rules:
  - name: to-the-node
    consumers: [{ipList: pods}]
    providers: [{labels: {role: [host]}}]
    services: [{protocol: TCP, port: 9080}]
";

/// The bridge's network namespace acts as the node's: what it forwards is none of its business.
#[test]
fn a_nodes_own_policy_is_enforced_without_kubernetes() {
    let Some([ringfence, cven]) = needed("a_nodes_own_policy_is_enforced_without_kubernetes", ["ringfence", "cven"])
    else {
        return;
    };
    let lab = Lab::new('n');
    let node = |port| SocketAddr::new(address(1), port);
    NODE_PORTS.iter().for_each(|port| lab.listen("hub", node(*port)));
    lab.apply(&ringfence, NODE_POLICY);
    let seen = || NODE_PORTS.map(|port| probe::tcp(&lab.netns("web"), node(port)).expect("it can be tried"));
    let cven = || {
        let mut command = lab.cven(&cven);
        command.args(["--host-netns".as_ref(), lab.netns("hub").as_os_str()]);
        command
    };

    let once = run(cven().arg("--once"));
    assert_eq!(String::from_utf8_lossy(&once.stdout), "in force in 0 Pods\n");
    assert_eq!(seen(), [Seen::Open, Seen::Open, Seen::Dropped]);
    assert_eq!(lab.seen("web", "db", 8081), Seen::Open, "Pods of an unmanaged namespace");
    let before = kernel::ours(&lab.netns("hub")).expect("the kernel can be read");
    run(cven().arg("--once"));
    assert_eq!(kernel::ours(&lab.netns("hub")).expect("the kernel can be read"), before);

    let _following = Running::start(&mut cven());
    lab.apply(&ringfence, &NODE_POLICY.replace("9080", "9081"));
    until("a changed rule to be in force", || seen() == [Seen::Open, Seen::Dropped, Seen::Open]);
    lab.apply(&ringfence, &NODE_POLICY.replace("Full", "Idle"));
    until("nothing of ours to be left on the node", || {
        kernel::ours(&lab.netns("hub")).expect("the kernel can be read").is_empty()
    });
    assert_eq!(seen(), [Seen::Open; 3]);
}

/// A node whose iptables does not work is turned off all the same: that is what one turns it off for.
#[test]
fn a_node_is_turned_off_also_where_iptables_does_not_work() {
    let test = "a_node_is_turned_off_also_where_iptables_does_not_work";
    let Some([cven]) = needed(test, ["cven"]) else { return };
    let lab = Lab::new('x');
    std::fs::create_dir(lab.folder.join("state")).expect("a folder can be made");
    lab.write("state/cni-fallback.json", r#"{"refuse":["shop"]}"#);
    let mut off = Command::new("nsenter");
    off.arg(format!("--net={}", lab.netns("hub").display())).args(["env", "PATH=/nonexistent"]);
    off.arg(&cven).current_dir(&lab.folder).args([
        "off",
        "--state-dir",
        "state",
        "--netns-dir",
        "none",
        "--cri-socket",
        "none",
    ]);
    let output = off.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("find a usable iptables"),
        "it says what it could not do: {said}"
    );
    assert!(lab.folder.join("state/off").exists(), "no agent puts anything back");
    assert!(!lab.folder.join("state/cni-fallback.json").exists(), "the plugin refuses nobody");
}
