//! The programs of the workspace, run by tests that need no cluster. What goes wrong is a panic.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// A cluster of one node `n1` and one namespace `shop`, as kubectl prints it; items may follow.
pub const CLUSTER: &str = "\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: kube-system, uid: 11111111-1111-1111-1111-111111111111}}
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, uid: 22222222-2222-2222-2222-222222222222}}
- apiVersion: v1
  kind: Node
  metadata: {name: n1}
  status: {addresses: [{type: InternalIP, address: 192.0.2.1}], nodeInfo: {machineID: abc}}
";

/// A program of the workspace, which cargo leaves in the folder above that of the tests.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    test.ancestors().nth(2).expect("cargo puts tests into deps").join(name)
}

/// These programs of the workspace, for a test that runs them as root; nothing where it cannot, which is said.
pub fn needed<const N: usize>(test: &str, names: [&str; N]) -> Option<[PathBuf; N]> {
    let programs = names.map(program);
    let absent = programs.iter().find(|program| !program.is_file());
    let why = match absent {
        _ if !nix::unistd::geteuid().is_root() => "needs root".to_owned(),
        Some(program) => format!("there is no {}: run 'make build'", program.display()),
        None => return Some(programs),
    };
    // Not eprintln!, whose output is shown only when a test fails.
    let _ = writeln!(std::io::stderr(), "{test}: not run: {why}");
    None
}

/// Runs a command that is to succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A program that runs until this is dropped, and is killed then.
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("it runs"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Awaits a condition; what it is about is said when it does not come.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "gave up waiting for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
