//! Address sets of the kernel (ipset), written and read over netlink.
//!
//! A [`Sets`] writes to the network namespace in which it was opened, from whatever thread uses it: a change of members
//! needs neither a child process nor a thread that enters the namespace. It keeps the namespace alive, and what is in it,
//! so it must go when the sandbox does.
//!
//! The kernel carries out a message and queues its answer before `send` returns, so that nothing here waits.

mod message;
mod read;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Error;

use netlink_packet_core::NLMSG_ERROR;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use ringfence_dataplane::sets::{self, SetChange, SetDef, Step};

use message::Message;
pub use read::Found;

/// Room for an answer: a header, a code, and the header of what is answered.
const ANSWER: usize = 256;

/// Why sets are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The kernel has no such socket.
    #[error("open a socket for address sets: {0}")]
    Open(Error),
    /// The sets that are there could not be read.
    #[error("read address sets: {0}")]
    Read(Error),
    /// The kernel could not be told, or did not answer.
    #[error("{what} {set}: {source}")]
    Talk {
        /// What was to be done.
        what: &'static str,
        /// With which set.
        set: String,
        /// Why not.
        source: Error,
    },
    /// The kernel said no.
    #[error("{what} {set}: {refusal}")]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// With which set.
        set: String,
        /// What the kernel said.
        refusal: Refusal,
    },
}

/// What the kernel says no with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no set of that name.
    NotThere,
    /// A set of that name is there, and is not as ours would be.
    Another,
    /// Something names the set.
    InUse,
    /// The kernel has no sets of this type.
    NoSuchType,
    /// The set has as many members as it may have.
    Full,
    /// Anything else, by its number: `errno`, or of `enum ipset_errno` in linux/netfilter/ipset/ip_set.h.
    Other(i32),
}

impl Refusal {
    /// From the negative number that the kernel answers with.
    fn from_code(code: i32) -> Self {
        /// From linux/netfilter/ipset/ip_set.h and ip_set_hash.h.
        const FIND_TYPE: i32 = 4098;
        const BUSY: i32 = 4100;
        const TYPE_MISMATCH: i32 = 4102;
        const HASH_FULL: i32 = 4352;
        match code.saturating_neg() {
            libc::ENOENT => Self::NotThere,
            libc::EEXIST | TYPE_MISMATCH => Self::Another,
            FIND_TYPE => Self::NoSuchType,
            BUSY => Self::InUse,
            HASH_FULL => Self::Full,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// From here on a number is none of `errno`.
        const PRIVATE: i32 = 4096;
        match self {
            Self::NotThere => f.write_str("there is no set of this name"),
            Self::Another => f.write_str("there is another set of this name"),
            Self::InUse => f.write_str("it is in use"),
            Self::NoSuchType => f.write_str("the kernel has no sets of this type"),
            Self::Full => f.write_str("it is full"),
            Self::Other(number) if *number < PRIVATE => Error::from_raw_os_error(*number).fmt(f),
            Self::Other(number) => write!(f, "ipset error {number}"),
        }
    }
}

/// The sets of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Sets {
    socket: Socket,
    sequence: u32,
}

impl Sets {
    /// Opens those of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no such socket.
    pub fn open() -> Result<Self, SetError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // An error need not bring back what it is about.
            socket.set_cap_ack(true)?;
            Ok(Self { socket, sequence: 0 })
        };
        open().map_err(SetError::Open)
    }

    /// Creates sets and fills them. One that was left behind under the same name is emptied first: nobody may be in a set
    /// who was in it once.
    ///
    /// # Errors
    /// The first refusal; what came before it is in force.
    pub fn create(&mut self, sets: &[SetDef]) -> Result<(), SetError> {
        for set in sets {
            self.tell("create set", &set.name, message::create(set))?;
            self.tell("empty set", &set.name, message::flush(&set.name))?;
            for batch in message::additions(&set.name, &set.members()) {
                self.tell("fill set", &set.name, batch)?;
            }
        }
        Ok(())
    }

    /// Makes changes in the order of [`sets::steps`]. To add what is a member, or delete what is none, is no error.
    ///
    /// # Errors
    /// The first refusal; what came before it is in force.
    pub fn change(&mut self, changes: &[SetChange]) -> Result<(), SetError> {
        for step in sets::steps(changes) {
            match step {
                Step::Add { set, members } => {
                    for batch in message::additions(set, members) {
                        self.tell("add to set", set, batch)?;
                    }
                }
                Step::Delete { set, members } => {
                    for batch in message::deletions(set, members) {
                        self.tell("delete from set", set, batch)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Destroys a set, and says whether it is gone: what is in use stays.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub fn destroy(&mut self, name: &str) -> Result<bool, SetError> {
        match self.tell("destroy set", name, message::destroy(name)) {
            Ok(()) | Err(SetError::Refused { refusal: Refusal::NotThere, .. }) => Ok(true),
            Err(SetError::Refused { refusal: Refusal::InUse, .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    fn tell(&mut self, what: &'static str, set: &str, message: Message) -> Result<(), SetError> {
        let code = self.ask(message).map_err(|source| SetError::Talk { what, set: set.to_owned(), source })?;
        match code {
            0 => Ok(()),
            code => Err(SetError::Refused { what, set: set.to_owned(), refusal: Refusal::from_code(code) }),
        }
    }

    /// Sends a message; the code that it is answered with.
    fn ask(&mut self, message: Message) -> Result<i32, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&message.finish(self.sequence), 0)?;
        loop {
            let mut answer = Vec::with_capacity(ANSWER);
            self.socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
            if let Some(code) = code_of(&answer, self.sequence) {
                return Ok(code);
            }
        }
    }
}

/// The code of the answer to the message with this number; `None` if it answers another.
fn code_of(answer: &[u8], sequence: u32) -> Option<i32> {
    let word = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let ours = kind == NLMSG_ERROR && word(8)? == sequence;
    ours.then(|| word(16)).flatten().map(u32::cast_signed)
}
