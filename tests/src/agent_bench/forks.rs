//! Counts the processes that a process starts, by the kernel's process events (linux/cn_proc.h): none is missed, however
//! soon it ends, and nothing is put between the agent and its programs.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_CONNECTOR};

/// Index and value of process events, and the group that is told of them.
const CN_IDX_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const PROC_EVENT_FORK: u32 = 1;
/// Of a `struct nlmsghdr`, of a `struct cn_msg`, and of a `struct proc_event` up to its data.
const HEADER: usize = 16;
const EVENT: usize = HEADER + 20;
const DATA: usize = EVENT + 16;

/// Children by the process that started them, as far as they were told.
#[derive(Clone, Default)]
pub struct Forks {
    counts: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl Forks {
    /// Begins to count, for as long as this process lives.
    ///
    /// # Errors
    /// When the kernel has no process events, or does not tell them.
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_CONNECTOR)?;
        socket.bind(&SocketAddr::new(0, CN_IDX_PROC))?;
        socket.set_rx_buf_sz(4_u32 << 20)?;
        socket.send_to(&listen_message(), &SocketAddr::new(0, 0), 0)?;
        let forks = Self::default();
        let counts = forks.counts.clone();
        std::thread::spawn(move || {
            while let Ok((bytes, _)) = socket.recv_from_full() {
                if let (Some(parent), Ok(mut counts)) = (parent_of_child(&bytes), counts.lock()) {
                    *counts.entry(parent).or_default() += 1;
                }
            }
        });
        Ok(forks)
    }

    /// How many children a process has started so far.
    pub fn of(&self, parent: u32) -> usize {
        self.counts.lock().map(|counts| counts.get(&parent).copied().unwrap_or_default()).unwrap_or_default()
    }
}

fn listen_message() -> Vec<u8> {
    let mut message = Vec::new();
    let length = u32::try_from(EVENT + 4).unwrap_or_default();
    // NLMSG_DONE, as connector messages are.
    message.extend(length.to_ne_bytes());
    message.extend(3u16.to_ne_bytes());
    message.extend([0; 2 + 4]);
    message.extend(std::process::id().to_ne_bytes());
    for word in [CN_IDX_PROC, 1, 0, 0] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(4u16.to_ne_bytes());
    message.extend([0; 2]);
    message.extend(PROC_CN_MCAST_LISTEN.to_ne_bytes());
    message
}

/// The process that has started a child, if this event says so. A new thread has the parent of its process.
fn parent_of_child(bytes: &[u8]) -> Option<u32> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let [parent, child, process] = [word(DATA + 4)?, word(DATA + 8)?, word(DATA + 12)?];
    (word(EVENT)? == PROC_EVENT_FORK && child == process).then_some(parent)
}
