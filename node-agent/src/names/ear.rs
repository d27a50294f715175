//! The socket at which the kernel hands over copies of answers.

use std::io::{Error, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NLMSG_ERROR, NetlinkMessage};
use netlink_packet_netfilter::nflog::{ConfigCmd, ConfigMode, ConfigNla, config_request};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use ringfence_dataplane::render::ANSWERS;
use tokio::io::unix::AsyncFd;

use crate::netfilter::{attributes, messages};

/// From linux/netfilter/nfnetlink_log.h.
const NFULA_PAYLOAD: u16 = 9;
/// Room for the largest packet, and what comes around it.
const DATAGRAM: usize = (1 << 16) + 4096;
/// So many answers wait for a busy agent, large ones too, before the kernel lets any go.
const WAITING: libc::c_int = 1 << 20;

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
#[error("listen to what resolvers answer: {0}")]
pub struct EarError(#[from] Error);

/// Hears the answers of the network namespace that it was opened in, from wherever it is used. It keeps the namespace alive, so
/// that it must go when the sandbox does.
#[derive(Debug)]
pub struct Ear {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Ear {
    /// One in the network namespace of the calling thread. There can be one only.
    ///
    /// # Errors
    /// When the kernel has no NFLOG, or somebody else listens.
    pub fn open() -> Result<Self, EarError> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Less is no reason not to listen.
        let _ = socket.set_rx_buf_sz(WAITING);
        for wish in [ConfigNla::from(ConfigCmd::Bind), ConfigMode::PACKET_MAX.into()] {
            ask(&socket, config_request(NetfilterProtoFamily::Unspec, ANSWERS, vec![wish]))?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// The same, to be awaited on.
    ///
    /// # Errors
    /// When there is no runtime, or it takes no more.
    #[allow(unsafe_code)]
    pub fn awaited(self) -> Result<AsyncFd<Self>, Error> {
        // SAFETY: the ear owns its socket, which nobody else closes or exchanges, so that the descriptor is the same one and
        // open for as long as the ear is there.
        unsafe { AsyncFd::register(self) }.map_err(Into::into)
    }

    /// The next packet, from the header of IP on; nothing where a message holds none.
    ///
    /// # Errors
    /// When there is none (`WouldBlock`), or some were lost.
    pub fn hear(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT)?;
        let mut parts = messages(&self.buffer).flat_map(|(_, body)| attributes(body));
        Ok(parts.find(|(kind, _)| *kind == NFULA_PAYLOAD).map(|(_, packet)| packet.to_vec()))
    }
}

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Sends a request and reads the answer, which the kernel has ready before `send` returns.
fn ask(socket: &Socket, request: NetlinkMessage<NetfilterMessage>) -> Result<(), Error> {
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let mut answer = Vec::with_capacity(1024);
        socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
        for (header, body) in messages(&answer) {
            if header.kind == NLMSG_ERROR {
                let code = body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
                return match code.ok_or(ErrorKind::InvalidData)? {
                    0 => Ok(()),
                    code => Err(Error::from_raw_os_error(code.saturating_neg())),
                };
            }
        }
    }
}
