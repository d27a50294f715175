//! Two network namespaces with a wire between them: a client, and a server whose end is policed, or not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, SockAddr, Socket, Type};

use super::nets::{ip, name, path, run};
use crate::probe;

/// Where the server listens: above every other port of a rule, since rules are in the order of ports.
pub const PORT: u16 = 61_000;
const CONNECT: Duration = Duration::from_secs(5);

/// The addresses of a pair: `10.<number>.0.1` is the client, `.2` the server.
pub fn address(number: u8, last: u8) -> IpAddr {
    Ipv4Addr::new(10, number, 0, last).into()
}

/// A client and a server, gone when dropped.
pub struct Pair {
    number: u8,
    names: [String; 2],
    /// Whoever is connected waits here, in the server's namespace.
    pub listener: TcpListener,
}

impl Pair {
    /// Makes one.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn new(number: u8) -> Result<Self> {
        let names = ["client", "server"].map(|end| name(&format!("{end}{number}")));
        for name in &names {
            ip(&["netns", "add", name])?;
        }
        let [client, server] = &names;
        ip(&["-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server])?;
        for (name, last) in names.iter().zip([1, 2]) {
            let own = address(number, last);
            run(
                "ip",
                &["-n", name, "-batch", "-"],
                &format!("link set lo up\nlink set eth0 up\naddr add {own}/24 dev eth0\n"),
            )?;
        }
        let listener = probe::inside(&path(server), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT)))?;
            socket.listen(128)?;
            Ok(TcpListener::from(socket))
        })?;
        Ok(Self { number, names, listener })
    }

    /// Where the server's namespace is mounted.
    pub fn server(&self) -> PathBuf {
        let [_, server] = &self.names;
        path(server)
    }

    /// Where the client's namespace is mounted.
    pub fn client(&self) -> PathBuf {
        let [client, _] = &self.names;
        path(client)
    }

    /// The server's address.
    pub fn target(&self) -> SocketAddr {
        SocketAddr::new(address(self.number, 2), PORT)
    }

    /// Runs a program in the server's namespace.
    ///
    /// # Errors
    /// When it fails.
    pub fn at_server(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let netns = format!("--net={}", self.server().display());
        let whole: Vec<&str> = [netns.as_str(), program].into_iter().chain(arguments.iter().copied()).collect();
        run("nsenter", &whole, input)
    }

    /// Waits until a connection passes.
    ///
    /// # Errors
    /// When none does for some seconds.
    pub fn await_open(&self) -> Result<()> {
        let target = self.target();
        probe::inside(&self.client(), move || std::net::TcpStream::connect_timeout(&target, CONNECT))?;
        Ok(self.listener.accept().map(drop)?)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// A client's connection that leaves nothing behind when it is closed.
///
/// # Errors
/// When the kernel has none.
pub fn client() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Closed by a reset: no port waits.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}
