//! For tests: a network namespace, and a disk, of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::netns::{self, Cookie, Location};

/// A network namespace, gone when dropped.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one. `None`, with a word on stderr that the harness does not swallow, where that is not possible.
    pub fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            // Not eprintln!, whose output is shown only when a test fails.
            let _ = writeln!(std::io::stderr(), "{test}: not run: needs root");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rfna{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]), "");
        let netns = Self { name };
        netns.exec("ip", &["link", "set", "lo", "up"], "");
        Some(netns)
    }

    /// What `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// How the agent finds it.
    pub fn location(&self) -> Location {
        Location::at(&self.path())
    }

    /// Its cookie.
    pub fn cookie(&self) -> Cookie {
        self.within(|cookie| cookie)
    }

    /// Runs a closure on a thread that is in it.
    pub fn within<T: Send>(&self, what: impl FnOnce(Cookie) -> T + Send) -> T {
        netns::run_in(&self.location(), what).expect("root may enter")
    }

    /// Runs a command in it and returns what it printed; panics if it fails.
    pub fn exec(&self, program: &str, arguments: &[&str], input: &str) -> String {
        run(Command::new("ip").args(["netns", "exec", &self.name, program]).args(arguments), input)
    }

    /// Its rules of IPv4 and sets, as people see them.
    pub fn holds(&self) -> String {
        self.saves("iptables-nft-save", &[]) + &self.exec("ipset", &["save"], "")
    }

    /// What a program saves, without the time at which it does.
    pub fn saves(&self, program: &str, arguments: &[&str]) -> String {
        let saved = self.exec(program, arguments, "");
        saved.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be run");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A disk of 64 KiB, gone when dropped.
pub struct Small(tempfile::TempDir);

impl Small {
    /// Mounts one; nothing where that is not possible.
    pub fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            let _ = writeln!(std::io::stderr(), "{test}: not run: needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(folder.path()).status();
        assert!(mounted.expect("it can be run").success());
        Some(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no page free.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.path().join("of-others")).expect("made");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    /// Takes away what fills it.
    pub fn free(&self) {
        std::fs::remove_file(self.0.path().join("of-others")).expect("removed");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
