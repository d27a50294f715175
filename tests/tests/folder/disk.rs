//! A disk that takes nothing, and a ledger that is damaged.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringfence_tests::probe::Seen;
use ringfence_tests::programs::{Running, needed, run, until};

use super::lab::{Lab, POLICY};

/// A small disk of its own in place of a folder.
struct Disk(PathBuf);

impl Disk {
    fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&folder));
        Self(folder)
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("of-others")).expect("it has a name");
        while file.write(&[1; 512]).is_ok_and(|written| written > 0) {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The agent may not be quite gone.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Overwrites how a file begins, and cuts off its end: nothing in it can be read any more.
fn damage(ledger: &Path) {
    let length = std::fs::metadata(ledger).expect("there is one").len();
    let mut file = OpenOptions::new().write(true).open(ledger).expect("it can be written");
    file.set_len(length / 2).expect("it is cut off");
    file.write_all(&[0; 64]).expect("it is overwritten");
}

/// Enforcement goes on and follows policy; a killed agent that finds only the damaged ledger changes no verdict either.
#[test]
fn a_disk_that_takes_nothing_changes_no_verdict() {
    let Some([ringfence, cven]) = needed("a_disk_that_takes_nothing_changes_no_verdict", ["ringfence", "cven"]) else {
        return;
    };
    let lab = Lab::new('d');
    let disk = Disk::new(lab.folder.join("state"));
    lab.apply(&ringfence, POLICY);
    assert_eq!(lab.seen("tools", "db", 8080), Seen::Open, "nothing is enforced yet");
    // The rule opens one of both ports, and whom no rule names reaches neither.
    let verdicts = || [8080, 8081].map(|port| lab.seen("web", "db", port));
    let becomes = |open: u16| {
        let wanted = [8080, 8081].map(|port| if port == open { Seen::Open } else { Seen::Dropped });
        until("the rule to be in force", || {
            assert_eq!(lab.seen("tools", "db", open), Seen::Dropped, "no rule names it");
            verdicts() == wanted
        });
    };
    let rule_for = |port: u16| {
        lab.apply(&ringfence, &POLICY.replace("8080", &port.to_string()));
    };
    let ledger = lab.folder.join("state/ledger.jsonl");

    let agent = Running::start(&mut lab.cven(&cven));
    until("the first rules", || lab.seen("tools", "db", 8080) == Seen::Dropped);
    becomes(8080);
    until("the ledger", || ledger.exists());
    disk.fill();
    rule_for(8081);
    becomes(8081);

    drop(agent);
    damage(&ledger);
    disk.fill();
    let log = lab.folder.join("agent.log");
    let _agent = Running::start(lab.cven(&cven).stderr(std::fs::File::create(&log).expect("it can be made")));
    // That it has begun is seen by what it does; until then and after that everything else holds.
    rule_for(8080);
    becomes(8080);
    until("the agent to say that the disk takes nothing", || {
        std::fs::read_to_string(&log).is_ok_and(|said| said.contains("failed to keep the ledger"))
    });
    rule_for(8081);
    becomes(8081);
}
