//! Network namespaces: how one is found, known and entered.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::{Deserialize, Serialize};

/// Why a network namespace could not be worked in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Neither the path nor the process leads to it.
    #[error("open network namespace {location}: {source}")]
    Open {
        /// What was tried.
        location: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The kernel does not let us in.
    #[error("enter network namespace {location}: {source}")]
    Enter {
        /// What was opened.
        location: String,
        /// Why not.
        source: nix::Error,
    },
    /// The cookie cannot be read.
    #[error("read the cookie of a network namespace: {0}")]
    Cookie(nix::Error),
    /// No thread could be started, or it panicked.
    #[error("run a thread in a network namespace")]
    Thread,
}

/// What the kernel calls one network namespace, once and never again until the next boot. Inode numbers and process
/// ids come again at once; a cookie does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cookie(pub u64);

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The ways to a network namespace that the container runtime told us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// A bind mount, such as `/run/netns/cni-…`.
    pub path: Option<PathBuf>,
    /// A process inside.
    pub pid: Option<u32>,
}

impl Location {
    /// The location of a bind mount. `/var/run` is `/run` on every host, and not there in a container.
    pub fn at(path: &Path) -> Self {
        let path = match path.strip_prefix("/var/run") {
            Ok(rest) => Path::new("/run").join(rest),
            Err(_) => path.to_owned(),
        };
        Self { path: Some(path), pid: None }
    }

    /// Opens it: by path, which lives as long as the sandbox, else by process.
    fn open(&self) -> Result<File, NetnsError> {
        let by_path = self.path.as_deref().map(File::open);
        let by_pid = || self.pid.map(|pid| File::open(format!("/proc/{pid}/ns/net")));
        let file = match by_path {
            Some(Ok(file)) => Ok(file),
            Some(Err(error)) => by_pid().unwrap_or(Err(error)),
            None => by_pid().unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into())),
        };
        file.map_err(|source| NetnsError::Open { location: self.to_string(), source })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.pid) {
            (Some(path), _) => write!(f, "{}", path.display()),
            (None, Some(pid)) => write!(f, "of process {pid}"),
            (None, None) => f.write_str("without a path"),
        }
    }
}

/// Runs `work` in a network namespace, on a thread of its own that ends afterwards, so that no thread of a pool is
/// ever left in a foreign namespace. Children that `work` starts are in the namespace too.
///
/// # Errors
/// When the namespace cannot be opened or entered.
pub fn run_in<T: Send>(location: &Location, work: impl FnOnce(Cookie) -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let entered = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            let file = location.open()?;
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|source| NetnsError::Enter { location: location.to_string(), source })?;
            Ok(work(current_cookie()?))
        });
        entered.map_err(|_| NetnsError::Thread)?.join().map_err(|_| NetnsError::Thread)?
    })
}

/// The cookie of the network namespace that the calling thread is in.
///
/// # Errors
/// When the kernel has no cookies (before 5.14) or gives no socket.
pub fn current_cookie() -> Result<Cookie, NetnsError> {
    let socket =
        socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(NetnsError::Cookie)?;
    cookie_of_socket(socket.as_raw_fd()).map_err(NetnsError::Cookie)
}

/// Asks for SO_NETNS_COOKIE, which `nix` does not know.
#[allow(unsafe_code)]
fn cookie_of_socket(socket: std::os::fd::RawFd) -> Result<Cookie, nix::Error> {
    /// From asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie: u64 = 0;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(|_| nix::Error::EINVAL)?;
    // SAFETY: `cookie` and `length` live through the call, and `length` is the size of `cookie`, so that the kernel
    // writes within it; the descriptor is only read.
    let answer = unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, SO_NETNS_COOKIE, std::ptr::from_mut(&mut cookie).cast(), &mut length)
    };
    nix::errno::Errno::result(answer)?;
    Ok(Cookie(cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn var_run_is_run() {
        let location = Location::at(Path::new("/var/run/netns/cni-1"));
        assert_eq!(location.path.as_deref(), Some(Path::new("/run/netns/cni-1")));
    }

    #[test]
    fn a_missing_namespace_is_an_error() {
        let location = Location::at(Path::new("/run/netns/is-not-there"));
        assert!(matches!(run_in(&location, |cookie| cookie), Err(NetnsError::Open { .. })));
    }
}
