//! What is enforced in Pods, and what their node judges for them.

use std::process::Command;

use ringfence_tests::kernel;
use ringfence_tests::probe::Seen;
use ringfence_tests::programs::{Running, needed, run, until};

use super::lab::{Lab, OFFICE, PODS, POLICY};

#[test]
fn a_compiled_folder_is_enforced_without_kubernetes() {
    let Some([ringfence, cven]) = needed("a_compiled_folder_is_enforced_without_kubernetes", ["ringfence", "cven"])
    else {
        return;
    };
    let lab = Lab::new('o');
    assert_eq!(lab.seen("tools", "db", 8081), Seen::Open, "nothing is enforced yet");
    lab.apply(&ringfence, POLICY);

    let once = run(lab.cven(&cven).arg("--once"));
    assert_eq!(String::from_utf8_lossy(&once.stdout), "in force in 3 Pods\n");
    let expected = [
        ("web", "db", 8080, Seen::Open),
        ("web", "db", 8081, Seen::Dropped),
        ("tools", "db", 8080, Seen::Dropped),
        ("db", "web", 8080, Seen::Dropped),
        ("hub", "db", 8080, Seen::Dropped),
        ("hub", "tools", 8080, Seen::Dropped),
    ];
    for (from, to, port, seen) in expected {
        assert_eq!(lab.seen(from, to, port), seen, "{from} to {to} on {port}");
    }

    let following = Running::start(&mut lab.cven(&cven));
    lab.apply(&ringfence, &POLICY.replace("8080", "8081"));
    until("a changed rule to be in force", || lab.seen("web", "db", 8081) == Seen::Open);
    assert_eq!(lab.seen("web", "db", 8080), Seen::Dropped, "the rule names another port now");

    lab.write_pods(&PODS[..2]);
    until("a Pod that was taken out of the file to have no rules", || {
        kernel::ours(&lab.netns("tools")).expect("the kernel can be read").is_empty()
    });
    assert_eq!(lab.seen("hub", "tools", 8080), Seen::Open, "nothing is enforced at the Pod that was taken out");
    assert_eq!(lab.seen("web", "db", 8081), Seen::Open, "the rule holds for the others");
    assert_eq!(lab.seen("tools", "db", 8081), Seen::Dropped, "the others are enforced as before");
    assert_eq!(lab.seen("hub", "web", 8080), Seen::Dropped, "the others are enforced as before");

    drop(following);
    lab.apply(&ringfence, &POLICY.replace("managed: true\n  policyState: Full", "managed: false"));
    assert_eq!(lab.seen("hub", "web", 8080), Seen::Dropped, "nobody has looked yet");
    run(lab.cven(&cven).arg("--once"));
    for netns in ["web", "db"] {
        let ours = kernel::ours(&lab.netns(netns)).expect("the kernel can be read");
        assert_eq!(ours, Vec::<String>::new(), "its namespace is not managed any more, since no agent ran");
    }
    assert_eq!(lab.seen("hub", "web", 8080), Seen::Open);
}

/// The rules without what they have counted, with their handles: who writes one again gives it another.
fn handles(ruleset: &str) -> Vec<String> {
    let uncounted = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let counts = |at: usize| at > 0 && ["packets", "bytes"].contains(&words[at - 1]);
        words.iter().enumerate().filter(|(at, _)| !counts(*at)).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    };
    ruleset.lines().map(uncounted).collect()
}

/// The agent of a node that translates: the client counts, a new agent writes nothing, and what somebody takes away is put back.
#[test]
fn a_node_judges_what_it_translates_by_who_connects() {
    let Some([ringfence, cven]) = needed("a_node_judges_what_it_translates_by_who_connects", ["ringfence", "cven"])
    else {
        return;
    };
    let lab = Lab::new('g');
    lab.outside();
    lab.apply(&ringfence, &(POLICY.to_owned() + OFFICE));
    assert_eq!([lab.through("office"), lab.through("street")], [Seen::Open; 2], "nothing is enforced yet");

    let agent = || {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", lab.netns("hub").display())).arg(&cven).current_dir(&lab.folder);
        command.args(["--objects", "computed", "--pods", "pods.yaml", "--node-name", "n1", "--state-dir", "state"]);
        command.args(["--gate", "true"]).env("RUST_LOG", "warn");
        command
    };
    run(agent().arg("--once"));
    let verdicts = || [lab.through("office"), lab.through("street"), lab.seen("hub", "db", 8080)];
    // The node is no peer of any rule.
    assert_eq!(verdicts(), [Seen::Open, Seen::Dropped, Seen::Dropped]);

    let rules = |netns: &str| lab.within(netns, &["iptables-nft-save", "-t", "mangle"]);
    let written = || ["hub", "db"].map(|netns| handles(&lab.within(netns, &["nft", "-a", "list", "ruleset"])));
    let before = written();
    run(agent().arg("--once"));
    assert_eq!(written(), before, "a new agent finds everything as it is to be");
    assert_eq!(verdicts(), [Seen::Open, Seen::Dropped, Seen::Dropped]);

    let _following = Running::start(&mut agent());
    lab.within("hub", &["iptables-nft", "-t", "mangle", "-F"]);
    until("the gate to be put back", || rules("hub").contains("-A POSTROUTING -j RF-GATE\n"));
    assert_eq!(verdicts(), [Seen::Open, Seen::Dropped, Seen::Dropped]);

    lab.apply(&ringfence, POLICY);
    until("a rule that is gone to be gone at the gate", || lab.through("office") == Seen::Dropped);
    lab.write_pods(&[]);
    until("the gate to go with the last Pod", || kernel::gate(&lab.netns("hub")).expect("it can be read").is_empty());
    assert_eq!([lab.through("office"), lab.through("street")], [Seen::Open; 2]);
}
