//! The programs that write rules to the kernel and read them: iptables, as children in the caller's network namespace.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence_dataplane::{Family, Place};
use rustix::process::{Resource, Rlimit, prlimit};
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::netfilter::{self, KUBE_PROXY_CHAINS};

/// How long a program may take. The largest sets take less than a second.
const LIMIT: Duration = Duration::from_secs(20);

/// What a program may take of memory in a Pod's network namespace, in bytes, and what it may print there: far more
/// than the rules of any policy take. Whoever may write rules in his own Pod can have as many as he likes read, which is to fail for that
/// Pod and no other. What a node has is nobody's to fill, and may be much.
const MEMORY: u64 = 128 << 20;
/// See [`MEMORY`].
const OUTPUT: u64 = 16 << 20;

/// Chains that a kubelet makes in table mangle, in the back end that it uses: the second one before Kubernetes 1.24.
const KUBELET_HINTS: [&str; 2] = [":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "];

/// What a kernel without nf_tables answers who asks it for them.
const NO_NF_TABLES: [i32; 4] = [libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EINVAL, libc::ENOENT];

/// An interface of Cilium, which may translate Services by itself.
const CILIUM: &str = "cilium_host";

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started, not be talked to, or not come to its work.
    #[error("run {program}: {source}")]
    Start {
        /// Which.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It said no.
    #[error("{program}: {message}")]
    Failed {
        /// Which.
        program: String,
        /// What it said.
        message: String,
    },
    /// The thread that was to run it panicked.
    #[error("run a program on a thread")]
    Thread,
    /// There is no iptables to use.
    #[error("find a usable iptables: {0}")]
    NoBackend(String),
}

/// Which kernel interface iptables writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// nf_tables, through the programs whose names end in `-nft-…`.
    Nft,
    /// The old one, only where the kernel has no nf_tables.
    Legacy,
}

impl Backend {
    /// As it is reported.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// Name of a program of this back end, such as `ip6tables-nft-save`.
    fn program(self, family: Family, what: &str) -> String {
        let family = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{family}-{}-{what}", self.as_str())
    }

    /// The first back end that works, tried in the calling thread's network namespace. Reading alone is tried, so that
    /// nothing is left behind.
    ///
    /// # Errors
    /// When none works.
    pub fn probe() -> Result<Self, ToolError> {
        // The crate finds out whether there is an iptables at all, and one that can wait for its lock.
        let installed =
            iptables::new(false).map_err(|error| ToolError::NoBackend(format!("iptables --version: {error}")))?;
        if !installed.has_wait {
            return Err(ToolError::NoBackend("iptables is older than 1.4.20: it cannot wait for its lock".to_owned()));
        }
        // All tables that are there: to read one of the old back end by name makes it.
        let works = |backend: &Self| run(&backend.program(Family::V4, "save"), &[], None, Bound::Time).is_ok();
        let found = [Self::Nft, Self::Legacy].into_iter().find(works);
        found.ok_or_else(|| ToolError::NoBackend("neither iptables-nft-save nor iptables-legacy-save works".to_owned()))
    }

    /// The back end that the node itself uses, as iptables-wrappers finds it: the one that the kubelet has left its hint in,
    /// else the first one that works. To be asked in the node's network namespace.
    ///
    /// # Errors
    /// When none works.
    pub fn of_node() -> Result<Self, ToolError> {
        let hinted = |backend: &Self| {
            let text = backend.save_table(Family::V4, "mangle").unwrap_or_default();
            KUBELET_HINTS.iter().any(|hint| text.contains(hint))
        };
        match has_legacy_table("mangle").then_some(Self::Legacy).filter(hinted) {
            Some(legacy) if !hinted(&Self::Nft) => Ok(legacy),
            _ => Self::probe(),
        }
    }

    /// The back ends that may hold anything in the node's network namespace, in which it is to be asked. One whose programs do
    /// not work just now is among them: what it holds is not gone for that.
    pub fn in_use_on_node() -> Vec<Self> {
        let may_hold = |backend: &Self| match backend {
            Self::Nft => !netfilter::generation().is_err_and(|error| means_no_nf_tables(&error)),
            Self::Legacy => has_legacy_table("mangle"),
        };
        [Self::Nft, Self::Legacy].into_iter().filter(may_hold).collect()
    }

    /// Whether Services are translated by rules that we know, as a kube-proxy writes them, and by nothing else that we know. Another
    /// may put its own address in place of a client's before the gate has seen it. To be asked in the node's network
    /// namespace. Nothing where that cannot be found out just now.
    pub fn sees_kube_proxy() -> Option<bool> {
        if machine::has_interface(CILIUM) {
            return Some(false);
        }
        match netfilter::has_kube_proxy() {
            Ok(true) => return Some(true),
            Ok(false) => {}
            // The kernel has the old back end alone.
            Err(error) if means_no_nf_tables(&error) => {}
            // Somebody writes rules just now, or anything else.
            Err(_) => return None,
        }
        if !has_legacy_table("nat") {
            return Some(false);
        }
        let rules = Self::Legacy.save_table(Family::V4, "nat").ok()?;
        Some(KUBE_PROXY_CHAINS.iter().any(|chain| rules.contains(&format!(":{chain}"))))
    }

    /// Whether the plain `iptables` command, which people look with, sees our chain: if not, it uses the other back end.
    pub fn shows_to_people(chain: &str) -> bool {
        let seen = iptables::new(false).and_then(|mut command| {
            // Without names: looking those up would ask the network.
            command.set_numeric(true);
            command.chain_exists("mangle", chain)
        });
        seen.unwrap_or_default()
    }

    /// The version of the program that reads rules: each prints them in a form of its own.
    ///
    /// # Errors
    /// When the program fails.
    pub fn version(self) -> Result<String, ToolError> {
        Ok(run(&self.program(Family::V4, "save"), &["--version"], None, Bound::Time)?.trim().to_owned())
    }

    /// The number of the rules that are there: with the same one they are the same. Nothing where nobody counts, as with
    /// the old back end, or where the kernel does not say.
    pub fn generation(self) -> Option<u32> {
        match self {
            Self::Nft => netfilter::generation().ok(),
            Self::Legacy => None,
        }
    }

    /// Whether it is certain that no chain of ours is there, without asking a program.
    pub fn holds_nothing(self, place: Place) -> bool {
        self == Self::Nft && matches!(netfilter::has_chain(place.chain_prefix()), Ok(false))
    }

    /// What is in the tables of a family, as `iptables-save` prints it. Of a node it is table mangle alone: others may have
    /// tens of thousands of rules there, and some that iptables does not understand.
    ///
    /// # Errors
    /// When the program fails.
    pub fn save(self, place: Place, family: Family) -> Result<String, ToolError> {
        let tables: &[&str] = match place {
            Place::Pod => &[],
            Place::Host => &["-t", "mangle"],
        };
        run(&self.program(family, "save"), tables, None, place.into())
    }

    /// What is in one table, as `iptables-save` prints it. The node's own tables can be large.
    ///
    /// # Errors
    /// When the program fails.
    pub fn save_table(self, family: Family, table: &str) -> Result<String, ToolError> {
        run(&self.program(family, "save"), &["-t", table], None, Bound::Time)
    }

    /// Writes `iptables-restore` input; what is there stays, but for the chains that the input names. All or nothing
    /// per table.
    ///
    /// # Errors
    /// When the program refuses the input.
    pub fn restore(self, place: Place, family: Family, text: &str) -> Result<(), ToolError> {
        let wait: &[&str] = match self {
            Self::Nft => &["--noflush"],
            Self::Legacy => &["--noflush", "-w", "5"],
        };
        run(&self.program(family, "restore"), wait, Some(text), place.into()).map(drop)
    }
}

/// Whether a kernel answers so that has no nf_tables.
fn means_no_nf_tables(error: &std::io::Error) -> bool {
    NO_NF_TABLES.map(Some).contains(&error.raw_os_error())
}

/// Whether a table of the old back end is there: to read one that is not makes it.
fn has_legacy_table(name: &str) -> bool {
    let tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    tables.lines().any(|table| table == name)
}

/// What a program may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// So much time and no more.
    Time,
    /// Neither more memory than [`MEMORY`].
    OfPods,
}

impl From<Place> for Bound {
    fn from(place: Place) -> Self {
        match place {
            Place::Pod => Self::OfPods,
            Place::Host => Self::Time,
        }
    }
}

fn run(program: &str, arguments: &[&str], input: Option<&str>, bound: Bound) -> Result<String, ToolError> {
    run_within(LIMIT, program, arguments, input, bound)
}

/// Runs a program to its end, or kills it when that does not come in time: a thread that waits for ever is one less that
/// puts policy in force.
fn run_within(
    limit: Duration,
    program: &str,
    arguments: &[&str],
    input: Option<&str>,
    bound: Bound,
) -> Result<String, ToolError> {
    let fail = |source| ToolError::Start { program: program.to_owned(), source };
    let no = |message| ToolError::Failed { program: program.to_owned(), message };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let pid = Pid::from_raw(child.id().try_into().map_err(|_| no("has no process id".to_owned()))?);
    if bound == Bound::OfPods {
        limit_memory(pid, MEMORY);
    }
    let largest = (bound == Bound::OfPods).then_some(OUTPUT);
    let (ended, wait) = std::sync::mpsc::channel::<()>();
    let (written, output, killed) = std::thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let overdue = wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            overdue && kill(pid, Signal::SIGKILL).is_ok()
        });
        // These programs read all of their input before they write more than a line.
        let written = match (child.stdin.take(), input) {
            (Some(mut stdin), Some(text)) => stdin.write_all(text.as_bytes()),
            _ => Ok(()),
        };
        // What is over the limit is not taken in: to write it fails then. Of errors there are few lines.
        let printed = child.stdout.take().map(|stdout| read_up_to(largest, stdout)).unwrap_or_default();
        let output = child.wait_with_output().map(|output| Output { stdout: printed, ..output });
        drop(ended);
        (written, output, watchdog.join().unwrap_or_default())
    });
    if killed {
        return Err(fail(std::io::Error::other(format!("did not end within {} s", limit.as_secs_f32()))));
    }
    let output = output.map_err(fail)?;
    if largest.is_some_and(|most| output.stdout.len() as u64 > most) {
        return Err(fail(std::io::Error::other(format!("printed more than {} MiB", OUTPUT >> 20))));
    }
    if output.status.success() {
        written.map_err(fail)?;
        // Without a copy, which may be large.
        let text = String::from_utf8(output.stdout);
        return Ok(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // It was killed, or somebody else holds the lock: that says nothing of what it was to do.
    if output.status.code().is_none() || said.contains("xtables lock") {
        return Err(fail(std::io::Error::other(format!("{}: {}", output.status, said.trim()))));
    }
    Err(no(match said.trim() {
        "" => output.status.to_string(),
        said => said.lines().take(3).collect::<Vec<_>>().join("; "),
    }))
}

/// Bounds the memory of a child that has just begun; where that cannot be done it has ended already.
fn limit_memory(child: Pid, bytes: u64) {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    let _ = prlimit(rustix::process::Pid::from_raw(child.as_raw()), Resource::As, limit);
}

/// What there is to read: up to one byte more than so many, where that is bounded.
fn read_up_to(most: Option<u64>, from: impl Read) -> Vec<u8> {
    let mut read = Vec::new();
    // Why it ends early its status says.
    let _ = from.take(most.map_or(u64::MAX, |bytes| bytes + 1)).read_to_end(&mut read);
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_all_memory_or_prints_without_end_is_ended() {
        let run = |program| run(program, &["/dev/zero"], None, Bound::OfPods);
        let error = run("tail").expect_err("a line without end");
        assert!(error.to_string().contains("memory"), "{error}");
        let error = run("cat").expect_err("it never ends");
        assert!(error.to_string().ends_with("printed more than 16 MiB"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = run_within(Duration::from_millis(50), "sleep", &["600"], None, Bound::Time).expect_err("it hangs");
        assert!(error.to_string().contains("did not end within 0.05 s"), "{error}");
    }

    #[test]
    fn who_is_killed_or_finds_no_lock_refuses_nothing() {
        for script in ["kill -9 $$", "echo 'Another app is currently holding the xtables lock' >&2; exit 4"] {
            let error = run("sh", &["-c", script], None, Bound::Time).expect_err("it fails");
            assert!(matches!(error, ToolError::Start { .. }), "{error}");
        }
    }

    #[test]
    fn a_program_that_refuses_says_why() {
        assert_eq!(run("cat", &[], Some("as it was"), Bound::OfPods).expect("cat"), "as it was");
        let error = run("ls", &["/is/not/there"], None, Bound::Time).expect_err("there is none");
        assert!(error.to_string().starts_with("ls: "), "{error}");
    }
}
